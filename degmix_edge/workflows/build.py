"""From any network to a bundle, in stages that can be stopped after and resumed from.

    export -> images -> passes -> calibrate -> budget -> quantize -> engine -> golden check -> write

`quantize` runs the same stages and stops before the engine. A bundle for several sizes of image is
built in the same way for each of them, with the recipe of the first.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from degmix_edge import backends, progress
from degmix_edge.backends import REQUESTS, EngineBackend
from degmix_edge.bundle.contents import Bundle, open_bundle
from degmix_edge.bundle.golden import differences
from degmix_edge.bundle.manifest import MANIFEST, Form, size_text
from degmix_edge.bundle.writing import Target, claim
from degmix_edge.errors import AccuracyError, BuildError, ConfigError
from degmix_edge.progress import Clock, Progress, listening
from degmix_edge.quant.ranges import Ranges
from degmix_edge.quant.ranges import read as read_ranges
from degmix_edge.quant.recipe import CALIBRATED, Recipe
from degmix_edge.quant.trained import trained_in
from degmix_edge.workflows import budget as budgets
from degmix_edge.workflows.calibration import (
    as_named,
    calibration_images,
    measure_ranges,
    some_images,
    spread,
)
from degmix_edge.workflows.engine import (
    EngineFiles,
    Part,
    Product,
    check_source,
    float_maps,
    golden_maps,
    make_engine,
    rebuild,
    write_parts,
)
from degmix_edge.workflows.fastest import Kind, Loss, candidates, fastest
from degmix_edge.workflows.networks import (
    Network,
    check_network,
    check_split,
    read_network,
    task_names,
)
from degmix_edge.workflows.options import TARGET, Options, Source, make_options
from degmix_edge.workflows.sources import NamedImage, check_images, is_rendered, made_up_image

if TYPE_CHECKING:
    import onnx

    from degmix_edge.network import NetworkSpec


CHECKED = 4
"""Most images on which a bundle is checked against the network of another program behind it."""


class Build:
    """One build. `run(until="quantize")` stops after a stage; another `run` goes on from there.

    Args:
        network: What `networks.read_network` takes.
        options: What to build.
        out: Where the result will lie. Files from which a killed build resumes lie beside it; None
            keeps none.
        calibration: Images in place of `options.calibration`: see `calibration_images`.
        examples: Images in place of `options.examples`.

    Attributes:
        clock: The stages so far: what each did, and how long it took.
        spec: What the deployed network promises.
        recipe: Each weighted node's precision.
        ranges: What calibration measured; None for a float build.
        budget: What the search found; None where no budget was given.
        product: The quantized model with all that belongs to it, after `quantize`.
    """

    STAGES = (
        *("export", "images", "passes", "calibrate", "budget", "quantize"),
        *("engine", "golden", "sizes", "write"),
    )

    def __init__(
        self,
        network: Network,
        options: Options,
        out: Path | None,
        *,
        calibration: Source = None,
        examples: Source = None,
    ) -> None:
        self.options, self.out = options, out
        self._further = options.sizes[1:]
        self._network = network
        own = calibration if calibration is not None else options.calibration
        self._calibration = str(own) if isinstance(own, str | Path) else own
        if self._further and not isinstance(self._calibration, str | None):
            self._calibration = list(self._calibration)  # each build looks at all images
        images_to_try = None if isinstance(examples, str | Path) else examples
        self._asked = budgets.request(dict(options), out, images_to_try)
        self.clock = Clock()
        self.spec: NetworkSpec
        self.recipe: Recipe
        self.ranges: Ranges | None = None
        self.budget: budgets.Budget | None = None
        self.product: Product
        self.bundle: Bundle
        self._target: Target | None = None
        self._leader: Build | None = None
        self._others: list[Build] = []
        self._parts: list[Part] = []
        self._forms: tuple[Form, ...] = ()
        self._done: list[str] = []
        self.describe()

    def describe(
        self,
        *,
        classes: Mapping[str, Sequence[str]] | None = None,
        golden_image: Any = None,
    ) -> None:
        """Say what a network of the user's does not say itself.

        Args:
            classes: Class names by task, of a torch module.
            golden_image: The image whose maps every machine must give.
        """
        self._classes, self._golden_source = classes, golden_image

    def claim(self, *, force: bool) -> None:
        """Claim the place of the bundle, so that two builds do not both write there.

        Raises:
            OutputError: It exists without `force`, is no bundle, or cannot be written.
        """
        self._target = claim(self.out or TARGET, force=force)

    def check(self) -> None:
        """Complain of what cannot work before any long work.

        Raises:
            ConfigError: An unknown task, observer or backend; INT8 without calibration.
            CheckpointError, GraphError, InputError: The network or the images are not there.
        """
        options = self.options
        task_names(options.tasks, self._network)
        check_network(self._network)
        if options.split:
            check_split(self._network, options.batch)
        if options.precision in (*CALIBRATED, "auto"):
            from degmix_calibration import observers

            observers.find(options.range_observer)
            if self._calibration is None and options.ranges is None:
                raise ConfigError(
                    f"--precision {options.precision} needs --calib DIR (a folder of 32 to 128 "
                    "typical images, or synthetic:64) or --ranges"
                )
        if isinstance(self._calibration, str):
            check_images(self._calibration)
        if self._further and options.ranges is not None:
            raise ConfigError(
                f"--ranges {options.ranges}: is of one size, and {1 + len(self._further)} sizes "
                "are asked for; give --calib, which measures each of them"
            )

    def run(self, until: str = "write", *, force: bool = False) -> Build:
        """Run the stages that are not done yet, up to and including `until`.

        Args:
            until: The last stage to run.
            force: Replace a bundle that is at `out`.

        Raises:
            DegmixError: A stage failed; what it had begun to write is not there.
        """
        if until not in self.STAGES:
            raise ConfigError(f"stage {until!r}: expected one of {', '.join(self.STAGES)}")
        if until == "write" and self._target is None:
            self.claim(force=force)
        for stage in self.STAGES[: self.STAGES.index(until) + 1]:
            if stage not in self._done:
                getattr(self, f"_{stage}")()
                self._done.append(stage)
        return self

    def _export(self) -> None:
        tasks = task_names(self.options.tasks, self._network)
        read = read_network(
            self._network,
            tasks=tasks,
            size=next(iter(self.options.sizes), None),
            batch=self.options.batch,
            split=self.options.split,
            classes=self._classes,
            describe=self.options.describe,
        )
        self._float, self.spec = read.model, read.spec.keep(tasks or read.spec.task_names)
        metadata = {prop.key: prop.value for prop in self._float.metadata_props}
        self._trained = trained_in(metadata, self.spec.source.name)
        self._original, self._fit = read.original, read.fit
        if self._asked:
            self._asked.check(self.spec)
        if read.detail:
            self.clock.finished("export", read.detail)

    def _images(self) -> None:
        needed = self.options.precision in (*CALIBRATED, "auto") and self.options.ranges is None
        source = self._calibration if needed else None
        self._found = calibration_images(
            source, self._fit, self.options.calibration_count, network=self.spec
        )
        self._checked = self._checked_images()
        count, golden = len(self._found), self._checked[0].name
        self.clock.finished("images", f"{count} for calibration, golden image {golden}")
        for size in self._further:
            self._others.append(self._build_of(size).run(until="images"))

    def _checked_images(self) -> list[NamedImage]:
        """The golden image, and others of the user's on which a foreign network is checked too."""
        given = [] if self._golden_source is None else [self._golden_source]
        golden = as_named(given, self.spec)
        count = CHECKED - len(golden) if self._original is not None else 1 - len(golden)
        if self._found:
            golden += spread(self._found, count)
        elif self._calibration is not None and count:
            golden += some_images(self._calibration, self._fit, count, network=self.spec)
        return golden or [made_up_image(self._fit, self.spec)]

    @property
    def _checked_in_words(self) -> str:
        """How many of the images on which a foreign network is checked are real ones."""
        source, count = self._calibration, len(self._checked)
        is_synthetic = source is None or (isinstance(source, str) and is_rendered(source))
        real = count if not is_synthetic else int(self._golden_source is not None)
        parts = [_counted(real, "real image"), _counted(count - real, "synthetic scene")]
        return " and ".join(part for part in parts if part)

    def _passes(self) -> None:
        from degmix_edge.graph.model import to_graph
        from degmix_edge.passes.forms import deploy_model
        from degmix_edge.quant.rules import choose

        options = self.options
        precision = options.precision_of("a single build")
        self._deployed, self.spec, detail = deploy_model(
            self._float,
            self.spec,
            precision=precision,
            raw_logits=options.raw_logits,
        )
        self.recipe = choose(
            to_graph(self._deployed),
            self.spec,
            precision,
            observer=options.range_observer if precision in CALIBRATED else None,
            keep_float=options.keep_float,
        )
        if self._trained is not None and precision == "int8":
            nodes = [place.node for place in self.recipe.placements]
            self.recipe = self._trained.placed(nodes, options.keep_float)
            detail += "; the recipe and the ranges of its training"
        self.clock.finished("passes", detail)
        for other in self._others:  # before the long stages, which would be lost
            _check_agreement(self, other.run(until="passes"))

    def _calibrate(self) -> None:
        from degmix_edge.graph.model import to_graph
        from degmix_edge.quant.sites import observed_tensors

        if self.options.precision not in CALIBRATED:
            return
        if self.options.ranges is not None:
            from degmix_calibration.collect import graph_hash

            self.ranges = read_ranges(self.options.ranges, graph_hash(self._deployed))
        else:
            observed = observed_tensors(to_graph(self._deployed), self.recipe)
            if not observed:
                reasons = sorted({place.reason for place in self.recipe.placements})
                raise BuildError(
                    f"{self.spec.model}: no layer can run in INT8 ({'; '.join(reasons)}); build it "
                    "with --precision fp16 or fp32"
                )
            self.ranges = measure_ranges(
                self._deployed,
                observed,
                self._found,
                self._fit,
                self.spec,
                observer=self.options.range_observer,
                state=Path(f"{self.out}.calibration.partial") if self.out else None,
            )
        if self._trained is not None and self.options.precision == "int8":
            self.ranges = self._trained.over(self.ranges)
        tensors, count = len(self.ranges.tensors), len(self.ranges.images)
        self.clock.finished(
            "calibrate", f"{tensors} tensors over {count} images, observer {self.ranges.observer}"
        )

    def _budget(self) -> None:
        if self._leader is not None:
            self.recipe = self._leader.recipe
        if self._asked is None:
            return
        recipe = self._with_bf16() if self._asked.backend == "openvino" else self.recipe
        self.budget = budgets.search_budget(
            self._deployed, self.spec, recipe, self.ranges, self._asked
        )
        self.recipe = self.budget.recipe
        counts = (f"{len(self.recipe.nodes(p))} nodes in {p}" for p in ("int8", "bf16"))
        self.clock.finished("budget", ", ".join(counts))

    def _with_bf16(self) -> Recipe:
        """The recipe in which what its rules keep from INT8 may be bfloat16."""
        from degmix_edge.graph.model import to_graph
        from degmix_edge.quant.rules import choose

        graph, keep = to_graph(self._deployed), self.options.keep_float
        half = choose(graph, self.spec, "bf16", keep_float=keep).nodes("bf16")
        placements = tuple(
            place.model_copy(update={"precision": "bf16"})
            if place.precision == "fp32" and place.node in half
            else place
            for place in self.recipe.placements
        )
        return self.recipe.model_copy(update={"placements": placements})

    def _quantize(self) -> None:
        from degmix_edge.passes.forms import quantize_model

        final = quantize_model(self._deployed, self.recipe, self.ranges, self.spec)
        model = final.SerializeToString()
        self.product = Product(model, self.spec, self.recipe, self.ranges, self._fit)
        self.clock.finished("quantize", _in_words(self.recipe, self._deployed, model))

    def _engine(self) -> None:
        options = self.options
        backend = _backend_of(options)
        self._feeds = [item.feed(self._fit, self.spec) for item in self._checked]
        self._files: EngineFiles = make_engine(
            self.product,
            backend,
            self._feeds[0],
            options=options.engine,
            clock=self.clock,
        )

    def _golden(self) -> None:
        maps = golden_maps(self.product, self._files, self._feeds, self.clock)
        if self._original is not None:
            check_source(
                self._original,
                self.product,
                self._feeds,
                maps,
                frames=self._checked_in_words,
                clock=self.clock,
            )
        self._parts.append(Part(self.product, self._files, maps[0], self._feeds[0]))

    def _build_of(self, size: tuple[int, int]) -> Build:
        """A build of the same network for another size, which takes the recipe of this one."""
        progress.note(f"size {size_text(size)}", "sizes")
        # The state of a killed calibration lies beside the target, in a file for each size.
        out = None if self.out is None else Path(f"{self.out}.{size_text(size)}")
        options = self.options.model_copy(update={"size": size, "budget": None})
        other = Build(self._network, options, out, calibration=self._calibration)
        other.describe(classes=self._classes, golden_image=self._golden_source)
        other._leader = self
        return other

    def fastest(self) -> Build:
        """Build every form that this machine can run, and return the build of the fastest.

        Where the options name a backend or a precision, only its forms take part. The result has
        run all stages but the last one. The network is exported and its images are read once. Of
        several precisions, one for which no recipe is inside the budget takes no part. No more does
        an engine that is not.

        Raises:
            ConfigError: The engines cannot run here.
            AccuracyError: No form is within the budget.
            DegmixError: A stage failed.
        """
        self.run(until="images")
        fixed = None if self.options.precision == "auto" else self.options.precision
        found = candidates(self.options.backend, fixed, self.options.engine)
        all_found = itertools.chain.from_iterable(found.values())
        if self._asked and any("bf16" in backend.precisions() for backend in all_found):
            # It has more to choose from.
            self._asked = replace(self._asked, backend="openvino")
        builds: dict[Kind, Build] = {}
        for precision, those in found.items():
            one = self._fork(precision=precision)
            try:
                one.run(until="quantize")
            except AccuracyError as error:
                if fixed is not None:
                    raise
                progress.note(f"{precision} takes no part: {error}", "budget")
                continue
            for backend in those:
                builds[backend.name, precision] = one._fork(backend=backend.name).run(until="sizes")
        frames = [item.frame for item in self._found or self._checked]
        parts = {kind: one._parts[0] for kind, one in builds.items()}
        kind, forms = fastest(parts, self._losses(builds), frames)
        chosen = builds[kind]
        chosen._forms = forms
        chosen.clock = Clock(chosen.clock.stages)  # the time of the others is not its own
        return chosen

    def _fork(self, **changes: Any) -> Build:
        """A build with other options that goes on from here; both share what is done."""
        other = copy.copy(self)
        other.options = self.options.model_copy(update=changes)
        if other.options.precision not in ("int8", "bf16", "auto"):
            other._asked = None  # it costs nothing, or next to nothing
        other.clock = Clock(list(self.clock.stages))
        other._done, other._parts = list(self._done), list(self._parts)
        other._others = [one._fork(**changes) for one in self._others]
        for one in other._others:
            one._leader = other
        return other

    def _losses(self, builds: Mapping[Kind, Build]) -> dict[Kind, Loss]:
        """What each form costs: of the budget where there is one, else on the golden image."""
        if self._asked is not None:
            return {
                kind: budgets.loss(one._parts[0].engine, one.product, one._deployed, self._asked)
                for kind, one in builds.items()
            }
        model = next(iter(builds.values()))
        expected = float_maps(model._deployed, model.spec, model._feeds[0])
        losses = {}
        for kind, one in builds.items():
            found = differences(one.spec, expected, one._parts[0].maps).by_task
            worst = max(found, key=lambda task: found[task])
            losses[kind] = Loss(f"{worst} {100 * found[worst]:.2f} %")
        return losses

    def _sizes(self) -> None:
        for other in self._others:
            size = size_text(other._fit.size)
            progress.note(f"size {size}, with the recipe of the first", "sizes")
            self._parts += other.run(until="golden")._parts
            self.clock.finished("sizes", size)

    def _write(self) -> None:
        target = self._target or claim(self.out or TARGET, force=False)
        self.bundle = write_parts(
            self._parts,
            target,
            clock=self.clock,
            share=self.options.share_weights,
            forms=self._forms,
        )


def build(
    network: Network,
    target: str | Path = TARGET,
    *,
    options: Options | None = None,
    calibration: Source = None,
    examples: Source = None,
    classes: Mapping[str, Sequence[str]] | None = None,
    golden_image: Any = None,
    force: bool = False,
    progress: Progress | None = None,
    **changes: Any,
) -> Bundle:
    """Build a bundle at `target`. Nothing is left there when any stage fails.

    >>> build("degmix_tiny", "robot.degmix", calibration="photos/", budget="semseg=-0.5pt")

    Args:
        network: A short name (`degmix_tiny`), a path of a checkpoint or of an `.onnx` file whose
            outputs are logits named by task, a `Checkpoint`, an `onnx.ModelProto`, or a
            `torch.nn.Module` that gives `{task: logits (N, C, H, W)}`, or whatever `spec` says. The
            path of a bundle builds its engine again for this machine.
        target: The bundle's folder.
        options: What to build; `changes` override its fields.
        calibration: A source string, or an iterable of images: paths, Pillow images or uint8 RGB
            arrays `(H, W, 3)`. An INT8 build needs it, or `ranges`.
        examples: The same for what a budget is measured on.
        classes: Class names by task, of a torch module.
        golden_image: The image whose maps every machine must give; None takes the first calibration
            image, or a synthetic scene.
        force: Replace a bundle that is at `target`.
        progress: Called with an `Event` as the build goes on. What it raises ends the build.
        **changes: Fields of `Options`, as in `precision="fp16"`. A torch module needs `size`, here
            or in its `spec`, and `size=[(224, 320), (448, 672)]` builds one bundle for both.

    Raises:
        ConfigError: A setting, task or backend that does not exist; `network` is nothing known.
        CheckpointError, GraphError: The network cannot be read, or is not what the passes take.
        InputError: There are no images, or one cannot be read.
        BuildError: An output is not finite, or the engine differs from the ONNX.
        AccuracyError: No recipe is inside the budget.
        OutputError: `target` exists without `force`, or cannot be written.
    """
    settings = make_options(options, calibration, examples, changes)
    with listening(progress):
        if _is_bundle(network):
            return _rebuilt(Path(network), Path(target), settings, force)
        pipeline = Build(
            network, settings, Path(target), calibration=calibration, examples=examples
        )
        pipeline.describe(classes=classes, golden_image=golden_image)
        _check_end(network, settings)
        pipeline.claim(force=force)
        pipeline.check()
        if settings.is_measured:
            pipeline = pipeline.fastest()
        return pipeline.run(force=force).bundle


def _is_bundle(network: Network) -> bool:
    return isinstance(network, str | Path) and (Path(network) / MANIFEST).exists()


def _rebuilt(path: Path, target: Path, settings: Options, force: bool) -> Bundle:
    own = {"backend", *REQUESTS}
    if others := sorted(settings.model_fields_set - own):
        raise ConfigError(
            f"{path}: is a bundle, whose engine is built again from its own model.onnx; leave out "
            f"{', '.join(others)}, or build from the network"
        )
    return rebuild(
        open_bundle(path),
        backend=settings.backend,
        options=settings.engine,
        target=target,
        force=force,
    )


def check_build(network: Network, target: Path, options: Options, *, force: bool = False) -> None:
    """Complain of what cannot work, and build nothing.

    Raises:
        DegmixError: As `build` before its long work.
    """
    if not _is_bundle(network):
        _check_end(network, options)
        claim(target, force=force)
        Build(network, options, target).check()


def _check_end(network: Network, options: Options) -> None:
    task_names(options.tasks, network)
    backend = _backend_of(options)
    backend.refuse_options(options.engine)
    if options.precision != "auto":
        backend.refuse_precision(options.precision)


def _backend_of(options: Options) -> type[EngineBackend]:
    """The backend that is asked for; where none is, bfloat16 needs the one that computes in it."""
    is_half = options.backend == "auto" and options.precision == "bf16"
    return backends.choose("openvino" if is_half else options.backend, to_build=True)


def _check_agreement(first: Build, other: Build) -> None:
    """Check that the recipe of the first size can be applied, by name, to the nodes of another.

    Raises:
        BuildError: One of the two graphs has a node that the other has not.
    """
    for has, lacks in ((first, other), (other, first)):
        names = {place.node for place in lacks.recipe.placements}
        for place in has.recipe.placements:
            if place.node not in names:
                raise BuildError(
                    f"{first.spec.model}: the graph for {size_text(has._fit.size)} has the "
                    f"{place.op} {place.node!r}, and that for {size_text(lacks._fit.size)} has "
                    "not, so one recipe cannot be for both; build a bundle for each size"
                )


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}" if count else ""


def _in_words(recipe: Recipe, before: onnx.ModelProto, after: bytes) -> str:
    size = f"{before.ByteSize() / 1e6:.1f} -> {len(after) / 1e6:.1f} MB"
    if recipe.precision == "fp32":
        return f"fp32, {size}"
    kept = len(recipe.nodes("fp32"))
    stored = len(recipe.nodes("int8_weights"))
    text = f"{len(recipe.nodes(recipe.precision))} nodes {recipe.precision}, {kept} fp32"
    return f"{text}, {stored} with int8 weights only, {size}" if stored else f"{text}, {size}"

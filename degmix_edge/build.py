"""From a float ONNX network to a bundle: passes, calibration, precision, engine, golden check.

The network comes in as ONNX and calibration as a function, so this knows neither PyTorch nor how
images are measured.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

import numpy as np
import onnx

from degmix_edge import __version__, backends, bundle, card, config
from degmix_edge.backends import PLAIN, EngineBackend, EngineOptions
from degmix_edge.bundle import GOLDEN, MODEL, Bundle, Engine, Manifest, engine_key
from degmix_edge.errors import BuildError
from degmix_edge.golden import LOWERED, differences, first_nonfinite, pack, unpack
from degmix_edge.network import METADATA_KEY, NetworkSpec, from_metadata
from degmix_edge.passes import pipeline
from degmix_edge.passes._base import apply, to_graph, to_model
from degmix_edge.passes._check import check as check_graph
from degmix_edge.preprocess import Fit
from degmix_edge.quant.ranges import Ranges
from degmix_edge.quant.recipe import Precision, Recipe, choose
from degmix_edge.quant.sites import observed_tensors
from degmix_edge.tensors import check

RANGES, RECIPE, CARD = "ranges.json", "recipe.yaml", "card.md"
Calibrate = Callable[[onnx.ModelProto, Sequence[str]], Ranges]
Refine = Callable[[onnx.ModelProto, NetworkSpec, Recipe, Ranges], Recipe]
"""From the float graph, its spec, the rules' recipe and ranges to a better recipe."""
PACKAGES = (
    *("numpy", "onnx", "onnx-graphsurgeon", "torch", "torchvision", "timm", "onnxruntime"),
    *("tensorrt", "tensorrt_rtx_cu13_bindings"),
)


@dataclass(frozen=True)
class Stage:
    """One step of a build: what it did, and what it cost."""

    name: str
    detail: str
    seconds: float


@dataclass(frozen=True)
class Options:
    """What to build.

    Attributes:
        precision: fp32, fp16 or int8.
        tasks: To keep; empty keeps all.
        backend: `auto`, or an engine backend's name.
        raw_logits: Keep the logits as outputs beside the maps.
        keep_float: Weighted nodes that stay fp32 besides those that the rules keep.
        mode: How images of another aspect ratio are fitted.
        engine: What is asked of the backend's engine.
    """

    precision: Precision = "fp32"
    tasks: tuple[str, ...] = ()
    backend: str = "auto"
    raw_logits: bool = False
    keep_float: tuple[str, ...] = ()
    mode: str = "letterbox"
    engine: EngineOptions = PLAIN


@dataclass
class Clock:
    """Times stages and hands each to `report` when it is done; `step` hears of a builder's."""

    report: Callable[[Stage], None]
    step: Callable[[str, int, int], None] | None = None
    stages: list[Stage] = field(default_factory=list)
    start: float = field(default_factory=time.perf_counter)

    def done(self, name: str, detail: str) -> None:
        """End stage `name`; the next one starts now."""
        now = time.perf_counter()
        self.stages.append(Stage(name, detail, now - self.start))
        self.start = now
        self.report(self.stages[-1])


def simplify(model: onnx.ModelProto, tasks: Sequence[str]) -> onnx.ModelProto:
    """The float network of `tasks` with fewer nodes: normalised image in, logits out."""
    check_graph(model)
    graph = to_graph(model)
    apply(graph, pipeline.simplify(tasks))
    return to_model(graph, props(model, tasks))


def props(model: onnx.ModelProto, tasks: Sequence[str]) -> dict[str, str]:
    """The metadata of `model`, with its spec cut to `tasks`."""
    found = {prop.key: prop.value for prop in model.metadata_props}
    spec = from_metadata(found, "this graph")
    return found if spec is None else found | {METADATA_KEY: spec.keep(tasks).model_dump_json()}


def deploy(
    model: onnx.ModelProto, spec: NetworkSpec, options: Options
) -> tuple[onnx.ModelProto, NetworkSpec, str]:
    """The float graph that takes bytes and gives maps, its spec, and what the passes did."""
    check_graph(model)
    spec = spec.keep(options.tasks or spec.task_names)
    graph = to_graph(model)
    before = len(graph.nodes)
    passes = pipeline.deploy(
        spec,
        spec.task_names,
        raw_logits=options.raw_logits,
        int8=options.precision == "int8",
    )
    outcomes = apply(graph, passes)
    done = ", ".join(f"{o.name} {o.rewrites}" for o in outcomes)
    detail = f"{before} -> {len(graph.nodes)} nodes ({done})"
    return to_model(graph, {METADATA_KEY: spec.model_dump_json()}), spec, detail


def quantize(
    model: onnx.ModelProto, recipe: Recipe, ranges: Ranges | None, spec: NetworkSpec
) -> onnx.ModelProto:
    """The deployed graph in the recipe's precision."""
    graph = to_graph(model)
    apply(graph, pipeline.quantize(recipe, ranges))
    return to_model(graph, {METADATA_KEY: spec.model_dump_json()})


def build(
    model: onnx.ModelProto,
    spec: NetworkSpec,
    target: Path,
    options: Options,
    *,
    golden_image: np.ndarray,
    calibrate: Calibrate | None = None,
    refine: Refine | None = None,
    observer: str | None = None,
    force: bool = False,
    clock: Clock | None = None,
) -> Bundle:
    """Build a bundle at `target`. Nothing is left there when any stage fails.

    Args:
        model: Float network: normalised `(1, 3, H, W)` in, logits named by task out.
        spec: Its promises.
        target: The bundle's folder.
        options: What to build.
        golden_image: uint8 `(H, W, 3)` at the network's size.
        calibrate: Measures ranges of tensors; needed for int8.
        refine: Changes an int8 recipe once ranges are there, as a search for a budget does.
        observer: How `calibrate` chooses; recorded in the recipe.
        force: Replace a bundle that is there.
        clock: Reports stages.

    Raises:
        ConfigError: An unknown task or backend.
        GraphError: The network is not what the passes take.
        BuildError: int8 without calibration; an output is not finite; the engine differs from the
            ONNX.
        OutputError: `target` cannot be written.
    """
    clock = clock or Clock(lambda stage: None)
    bundle.check_target(target, force=force)
    backend = backends.choose(options.backend, to_build=True)
    deployed, spec, detail = deploy(model, spec, options)
    clock.done("passes", detail)

    graph = to_graph(deployed)
    recipe = choose(
        graph, spec, options.precision, observer=observer, keep_float=options.keep_float
    )
    ranges = None
    if options.precision == "int8":
        if calibrate is None:
            raise BuildError("int8 needs calibration images: give --calib")
        ranges = calibrate(deployed, observed_tensors(graph, recipe))
        images, tensors = len(ranges.images), len(ranges.tensors)
        clock.done("calibrate", f"{tensors} tensors over {images} images, observer {observer}")
        if refine is not None:
            recipe = refine(deployed, spec, recipe, ranges)
            clock.done("budget", f"{len(recipe.nodes('int8'))} nodes in INT8")
    final = quantize(deployed, recipe, ranges, spec)
    product = final.SerializeToString()
    clock.done("quantize", _quantized(recipe, deployed, product))
    return _finish(
        Product(product, spec, recipe, ranges, options.mode),
        backend,
        target,
        golden_image,
        engine=options.engine,
        force=force,
        clock=clock,
    )


@dataclass(frozen=True)
class Product:
    """What a bundle is made of, whatever backend runs it."""

    model: bytes
    spec: NetworkSpec
    recipe: Recipe
    ranges: Ranges | None
    mode: str


def recipe_and_ranges(opened: Bundle) -> tuple[Recipe, Ranges | None]:
    """What an engine is built by, beside model.onnx."""
    ranges = None
    if RANGES in opened.manifest.files:
        ranges = Ranges.model_validate_json(opened.file(RANGES).read_text())
    return config.load(Recipe, opened.file(RECIPE)), ranges


def rebuild(opened: Bundle, backend: str, clock: Clock, engine: EngineOptions = PLAIN) -> Bundle:
    """Build the engine of a bundle again, for what runs here. Everything else stays.

    Raises:
        ConfigError, BackendError: As `backends.choose`.
        BuildError: The engine differs from the bundle's golden maps.
    """
    manifest = opened.manifest
    recipe, ranges = recipe_and_ranges(opened)
    model = opened.file(MODEL).read_bytes()
    product = Product(model, manifest.network, recipe, ranges, manifest.fit.mode)
    image, _ = unpack(opened.file(GOLDEN).read_bytes(), opened.path)
    chosen = backends.choose(backend, to_build=True)
    return _finish(product, chosen, opened.path, image, engine=engine, force=True, clock=clock)


def _finish(
    product: Product,
    backend: type[EngineBackend],
    target: Path,
    golden_image: np.ndarray,
    *,
    engine: EngineOptions,
    force: bool,
    clock: Clock,
) -> Bundle:
    spec, recipe = product.spec, product.recipe
    image = golden_image[None]
    first_nonfinite(product.model, image)
    made = backend.build(product.model, recipe, product.ranges, engine, clock.step)
    clock.done("engine", f"{backend.name} {backend.version()} on {backend.device()}")
    maps = _golden(product, backend, made[backend.engine_file], image, clock)

    recipe_text = config.dump(recipe).encode()
    key = engine_key(product.model, recipe_text, backend.name, backend.version(), backend.device())
    folder = f"engines/{backend.name}"
    files = {
        MODEL: product.model,
        RECIPE: recipe_text,
        GOLDEN: pack(golden_image, {name: maps[name] for name in spec.task_names}),
        **{f"{folder}/{name}": data for name, data in made.items()},
    }
    if product.ranges is not None:
        files[RANGES] = product.ranges.model_dump_json(indent=1).encode()
    manifest = Manifest(
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        network=spec,
        fit=Fit(height=spec.height, width=spec.width, mode=product.mode),  # type: ignore[arg-type]
        inputs=(spec.image_spec,),
        outputs=tuple(task.map_spec(spec.height, spec.width) for task in spec.tasks)
        + tuple(
            task.logits_spec(spec.height, spec.width)
            for task in spec.tasks
            if f"{task.name}_logits" in maps
        ),
        precision=recipe.precision,
        engines=(
            Engine(
                backend=backend.name,
                file=f"{folder}/{backend.engine_file}",
                key=key,
                version=backend.version(),
                device=backend.device(),
            ),
        ),
        versions=versions(),
    )
    files[CARD] = card.write(manifest, recipe).encode()
    written = bundle.write(target, manifest, files, force=force)
    clock.done("write", f"{target} {written.size_bytes / 1e6:.1f} MB")
    return written


def _golden(
    product: Product,
    backend: type[EngineBackend],
    engine: bytes,
    image: np.ndarray,
    clock: Clock,
) -> dict[str, np.ndarray]:
    """The engine's maps of the golden image, held to model.onnx's; those, where it cannot run."""
    spec = product.spec
    reason = backend.unavailable()
    if reason is not None:
        maps = _run(backends.choose("onnxruntime"), spec, product.model, image)
        clock.done("golden check", f"maps of model.onnx; the engine was not run here: {reason}")
        return maps
    maps = _run(backend, spec, engine, image)
    # A plan cannot be held to itself: ONNX Runtime says what model.onnx gives.
    judge = backend if backend.runs_model else backends.choose("onnxruntime")
    want = _run(judge, spec, product.model, image)
    worst = differences(spec, want, maps, LOWERED[product.recipe.precision])
    clock.done("golden check", "engine against model.onnx: " + worst.text)
    if not worst.passed:
        raise BuildError(f"the {backend.name} engine differs from model.onnx: {worst.text}")
    return maps


def _run(
    backend: type[EngineBackend], spec: NetworkSpec, engine: bytes, image: np.ndarray
) -> dict[str, np.ndarray]:
    with backend(spec, engine) as running:
        maps = running.infer(image)
    for task in spec.tasks:
        if task.name not in maps:
            raise BuildError(f"{backend.name}: the engine has no output {task.name!r}")
        check(maps[task.name], task.map_spec(spec.height, spec.width))
    return maps


def versions() -> dict[str, str]:
    """Versions of the packages that take part in a build, of those that are installed."""
    found = {"degmix-edge": __version__}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _quantized(recipe: Recipe, before: onnx.ModelProto, after: bytes) -> str:
    size = f"{before.ByteSize() / 1e6:.1f} -> {len(after) / 1e6:.1f} MB"
    if recipe.precision == "fp32":
        return f"fp32, {size}"
    kept = len(recipe.nodes("fp32"))
    stored = len(recipe.nodes("int8_weights"))
    text = f"{len(recipe.nodes(recipe.precision))} nodes {recipe.precision}, {kept} fp32"
    return f"{text}, {stored} with int8 weights only, {size}" if stored else f"{text}, {size}"

"""From a quantized ONNX model to a bundle: engine, golden check, files."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from degmix_edge import __version__, backends, config, progress
from degmix_edge.backends import PLAIN, EngineBackend, EngineOptions
from degmix_edge.backends.onnx_reference import Backend as OnnxReference
from degmix_edge.bundle.card import card_text
from degmix_edge.bundle.contents import Bundle, recipe_and_ranges
from degmix_edge.bundle.golden import LOWERED, differences, pack, unpack, worst_differences
from degmix_edge.bundle.manifest import (
    CARD,
    GOLDEN,
    MODEL,
    OF_ONE_SIZE,
    RANGES,
    RECIPE,
    SCHEMA,
    SCHEMA_OF_SIZES,
    WEIGHTS,
    Engine,
    Form,
    Manifest,
    SizeEntry,
    Split,
    engine_key,
    size_text,
    sized,
)
from degmix_edge.bundle.writing import Target, claim, write_bundle
from degmix_edge.errors import BuildError, BundleError, DegmixError
from degmix_edge.files import sha256
from degmix_edge.graph.nonfinite import first_nonfinite
from degmix_edge.graph.self_contained import check_self_contained
from degmix_edge.graph.shared_weights import share_weights
from degmix_edge.network import IMAGE, NetworkSpec
from degmix_edge.preprocess import Fit
from degmix_edge.progress import Clock
from degmix_edge.quant.ranges import Ranges
from degmix_edge.quant.recipe import Recipe
from degmix_edge.tensors import check

if TYPE_CHECKING:
    import onnx

PACKAGES = (
    *("numpy", "onnx", "onnx-graphsurgeon", "torch", "torchvision", "timm", "onnxruntime"),
    *("openvino", "tensorrt", "tensorrt_rtx_cu13_bindings"),
)


@dataclass(frozen=True)
class Product:
    """What a bundle is made of, whatever backend runs it.

    Attributes:
        model: ONNX bytes: uint8 image in, maps out, precision inside.
        spec: What the network promises.
        recipe: Each weighted node's precision.
        ranges: What calibration measured, of an INT8 model.
        fit: How an image becomes the input.
    """

    model: bytes
    spec: NetworkSpec
    recipe: Recipe
    ranges: Ranges | None
    fit: Fit


@dataclass(frozen=True)
class EngineFiles:
    """What a backend made of a product.

    Attributes:
        backend: The backend.
        files: Its files by name; `backend.engine_file` is the engine.
        split: How an engine runs any subset of the tasks.
    """

    backend: type[EngineBackend]
    files: dict[str, bytes]
    split: Split | None = None


@dataclass(frozen=True)
class Part:
    """All that a bundle has of one size.

    Attributes:
        product: The model and what belongs to it.
        engine: What a backend made of it.
        maps: What the engine gives on the golden image.
        golden: What a backend takes of the golden frame.
    """

    product: Product
    engine: EngineFiles
    maps: dict[str, np.ndarray]
    golden: Mapping[str, np.ndarray]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.product.fit.size


def make_engine(
    product: Product,
    backend: type[EngineBackend],
    golden: Mapping[str, np.ndarray],
    *,
    options: EngineOptions = PLAIN,
    clock: Clock,
) -> EngineFiles:
    """Build the engine of `product`, once its outputs are known to be finite.

    Raises:
        BuildError: An output is not finite on the golden image.
        BackendError: The backend refused the model or an option.
    """
    backend.refuse_precision(product.recipe.precision)
    first_nonfinite(product.model, golden)

    def step(phase: str, done: int, total: int) -> None:
        progress.emit(progress.Event(phase, done=done, total=total))

    options = replace(options, feeds=(golden,))
    files = backend.build(product.model, product.recipe, product.ranges, options, step)
    clock.finished("engine", f"{backend.name} {backend.version()} on {backend.device()}")
    return EngineFiles(backend, files, split_of(product) if options.split else None)


def split_of(product: Product) -> Split:
    """Return what the manifest says of an engine that runs any subset of the tasks of `product`.

    Raises:
        GraphError: The graph cannot be split.
    """
    import onnx

    from degmix_edge.graph.task_parts import task_shares

    return task_shares(onnx.load_from_string(product.model), product.spec.task_names)


def golden_maps(
    product: Product,
    engine: EngineFiles,
    feeds: Sequence[Mapping[str, np.ndarray]],
    clock: Clock,
) -> list[dict[str, np.ndarray]]:
    """Run the engine on several frames, and check it on the first one against model.onnx.

    Args:
        product: What the engine was made of.
        engine: The engine.
        feeds: What a backend takes of each frame; the first is the golden one.
        clock: Gets a stage with the differences.

    Returns:
        The maps of each frame. They are model.onnx's where the engine cannot run here.

    Raises:
        BuildError: The engine's maps differ, or one is missing.
    """
    spec, backend = product.spec, engine.backend
    reason = backend.unavailable()
    if reason is not None:
        maps = _run(backends.choose("onnxruntime"), spec, product.model, feeds)
        clock.finished("golden check", f"maps of model.onnx; the engine was not run here: {reason}")
        return maps
    maps = _run(backend, spec, engine.files[backend.engine_file], feeds)
    # A plan cannot be held to itself: ONNX Runtime says what model.onnx gives.
    judge = backend if backend.runs_model else backends.choose("onnxruntime")
    (expected,) = _run(judge, spec, product.model, feeds[:1])
    found = differences(spec, expected, maps[0], LOWERED[product.recipe.precision])
    clock.finished("golden check", "engine against model.onnx: " + found.text)
    if not found.passed:
        raise BuildError(f"the {backend.name} engine differs from model.onnx: {found.text}")
    if spec.batch > 1:
        _check_rows(backend, spec, engine.files[backend.engine_file], feeds[0])
    return maps


def _check_rows(
    backend: type[EngineBackend],
    spec: NetworkSpec,
    engine: bytes,
    golden: Mapping[str, np.ndarray],
) -> None:
    """Check that images of one call do not change each other's maps.

    Raises:
        BuildError: They do.
    """
    moving = {IMAGE, *(one.name for one in spec.inputs if one.kind in ("image", "map"))}
    rows = [
        {n: np.roll(a, 16 * row, axis=-2) if n in moving else a for n, a in golden.items()}
        for row in range(spec.batch)
    ]
    together = {name: np.concatenate([row[name] for row in rows]) for name in golden}
    with backend(spec, engine) as running:
        maps = running.infer(together)
        for index, row in enumerate(rows):
            alone = running.infer(row)
            got = {name: array[index : index + 1] for name, array in maps.items()}
            found = differences(spec, alone, got, LOWERED["fp32"])
            if not found.passed:
                raise BuildError(
                    f"image {index} of a batch of {spec.batch} has other maps than alone: "
                    f"{found.text}; the network mixes the images of a call, so build it with a "
                    "batch of 1"
                )


def check_source(
    source: onnx.ModelProto,
    product: Product,
    feeds: Sequence[Mapping[str, np.ndarray]],
    maps: Sequence[Mapping[str, np.ndarray]],
    *,
    frames: str,
    clock: Clock,
) -> None:
    """Check the maps of a bundle against the network of another program that it was built from.

    The network runs as it came, normalised and decoded in numpy. No pass, no recipe and no engine
    takes part, so what this build did to the network is found, whatever it was.

    Args:
        source: The network as its file has it: its own inputs and outputs, opset, layout and type.
        product: What was made of it.
        feeds: What a backend takes of each frame.
        maps: What the bundle gives on each frame.
        frames: In words, which frames these are.
        clock: Gets a stage with the differences.

    Raises:
        BuildError: The maps of a task differ by more than the precision explains.
    """
    with OnnxReference(product.spec, source.SerializeToString()) as own:
        expected = [own.infer(feed) for feed in feeds]
    precision = product.recipe.precision
    if precision == "fp32" and own.rounds:
        precision = "fp16"
    found = worst_differences(product.spec, expected, maps, LOWERED[precision])
    where = f"on {frames}: {found.text}"
    clock.finished("source check", f"bundle against its network as it came, {where}")
    if not found.passed:
        raise BuildError(
            f"the bundle differs from {product.spec.source.name} as it came, {where}; say how its "
            "input is normalised as its own code does it, or report this with the file"
        )


def float_maps(
    model: onnx.ModelProto, spec: NetworkSpec, feed: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """Return the maps of a deployed float graph, from which every form's are some way off."""
    (maps,) = _run(backends.choose("onnxruntime"), spec, model.SerializeToString(), [feed])
    return maps


def write_parts(
    parts: Sequence[Part],
    target: Target,
    *,
    clock: Clock,
    share: bool = False,
    forms: Sequence[Form] = (),
) -> Bundle:
    """Write the bundle at `target`, whole or not at all.

    Args:
        parts: One for each size, all with the recipe of the first. The weights of several go into
            one file, in which equal ones lie once.
        target: Where the bundle is written.
        clock: Gets a stage with the bundle's size.
        share: Give a single size such a file too: its graph and its engine have the same weights.
        forms: What was measured to choose this one.

    Raises:
        OutputError: `target` was written by another process meanwhile, or cannot be written.
    """
    recipe = parts[0].product.recipe
    files: dict[str, bytes] = {}
    for part in parts:
        files |= _files(part, config.dump(recipe).encode(), is_first=part is parts[0])
    if len(parts) > 1 or share:
        graphs = {name: data for name, data in files.items() if name.endswith(".onnx")}
        graphs, files[WEIGHTS] = share_weights(graphs, WEIGHTS)
        files |= graphs
    manifest = _manifest(parts, {name: sha256(data) for name, data in files.items()})
    manifest = manifest.model_copy(update={"forms": tuple(forms)})
    files[CARD] = card_text(manifest, recipe).encode()
    written = write_bundle(target, manifest, files)
    clock.finished("write", f"{target.path} {written.size_bytes / 1e6:.1f} MB")
    return written


def _files(part: Part, recipe: bytes, *, is_first: bool) -> dict[str, bytes]:
    """The files of one size, by their names in the bundle."""
    product, folder = part.product, _engine_folder(part, is_first)
    files = {
        MODEL: product.model,
        RECIPE: recipe,
        GOLDEN: pack(part.golden, {n: part.maps[n] for n in product.spec.task_names}),
        **{f"{folder}/{name}": data for name, data in part.engine.files.items()},
    }
    if product.ranges is not None:
        files[RANGES] = product.ranges.model_dump_json(indent=1).encode()
    if is_first:
        return files
    return {sized(n, part.size) if n in OF_ONE_SIZE else n: data for n, data in files.items()}


def _engine_folder(part: Part, is_first: bool) -> str:
    folder = f"engines/{part.engine.backend.name}"
    return folder if is_first else f"{folder}/{size_text(part.size)}"


def rebuild(
    opened: Bundle,
    *,
    backend: str = "auto",
    options: EngineOptions = PLAIN,
    target: Path | None = None,
    force: bool = False,
) -> Bundle:
    """Build the engines of a bundle again, for what runs here. Everything else stays.

    Args:
        opened: The bundle.
        backend: `auto`, or an engine backend's name.
        options: What is asked of the engine.
        target: Where the bundle with the new engine is written; None replaces `opened`.
        force: Replace a bundle that is at `target`.

    Raises:
        ConfigError, BackendError: As `backends.choose`.
        BuildError: The engine differs from model.onnx.
        BundleError: Its model.onnx is no graph that an engine can be built of.
        GraphError: A split engine is asked for, and its model.onnx cannot be split.
        OutputError: The target cannot be written.
    """
    in_place = target is None or target.absolute() == opened.path.absolute()
    place = opened.path if in_place or target is None else target
    claimed = claim(place, force=force or in_place)
    clock = Clock()
    sizes = [opened.at(size) for size in opened.sizes]
    products = [_product(one) for one in sizes]
    feeds = [unpack(o.read(GOLDEN), o.manifest.network, o.path)[0] for o in sizes]
    chosen = backends.choose(backend, to_build=True)
    if opened.manifest.split is not None:
        options = replace(options, split=True)
    chosen.refuse_options(options)
    parts = []
    try:
        for product, feed in zip(products, feeds, strict=True):
            engine = make_engine(product, chosen, feed, options=options, clock=clock)
            (maps,) = golden_maps(product, engine, [feed], clock)
            parts.append(Part(product, engine, maps, feed))
    except DegmixError:
        raise
    except Exception as error:  # onnx raises nearly anything on a graph that nobody exported
        raise BundleError(
            f"{opened.path}: no engine can be built of its {MODEL} ({type(error).__name__}: "
            f"{error}); build the bundle again from its network"
        ) from error
    return write_parts(parts, claimed, clock=clock, share=WEIGHTS in opened.manifest.files)


def _product(opened: Bundle) -> Product:
    """What one size of a bundle was built of."""
    recipe, ranges = recipe_and_ranges(opened)
    model, manifest = opened.onnx(), opened.manifest
    check_self_contained(model, f"{opened.path}/{MODEL}")
    return Product(model, manifest.network, recipe, ranges, manifest.fit)


def versions() -> dict[str, str]:
    """Versions of the packages that take part in a build, as far as they are installed."""
    found = {"degmix-edge": __version__}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _manifest(parts: Sequence[Part], digests: Mapping[str, str]) -> Manifest:
    first, *others = (_entry(part, digests, is_first=part is parts[0]) for part in parts)
    return Manifest(
        schema_version=SCHEMA_OF_SIZES if WEIGHTS in digests else SCHEMA,
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **{name: getattr(first, name) for name in SizeEntry.model_fields},
        precision=parts[0].product.recipe.precision,
        sizes=tuple(others),
        versions=versions(),
    )


def _entry(part: Part, digests: Mapping[str, str], *, is_first: bool) -> SizeEntry:
    spec, backend, size = part.product.spec, part.engine.backend, part.size
    own = MODEL if is_first else sized(MODEL, size)
    here = (backend.version(), backend.device())
    engine = Engine(
        backend=backend.name,
        file=f"{_engine_folder(part, is_first)}/{backend.engine_file}",
        key=engine_key({**digests, MODEL: digests[own]}, backend.name, *here),
        version=here[0],
        device=here[1],
    )
    return SizeEntry(
        network=spec,
        fit=part.product.fit,
        inputs=spec.input_specs,
        outputs=(
            *spec.map_specs,
            *(tensor for tensor in spec.logits_specs if tensor.name in part.maps),
        ),
        engines=(engine,),
        split=part.engine.split,
    )


def _run(
    backend: type[EngineBackend],
    spec: NetworkSpec,
    engine: bytes,
    feeds: Sequence[Mapping[str, np.ndarray]],
) -> list[dict[str, np.ndarray]]:
    with backend(spec, engine) as running:
        results = [running.infer(feed) for feed in feeds]
    for maps, tensor in itertools.product(results, spec.map_specs):
        if tensor.name not in maps:
            raise BuildError(f"{backend.name}: the engine has no output {tensor.name!r}")
        check(maps[tensor.name], tensor.model_copy(update={"shape": spec.row_shape(tensor)}))
    return results

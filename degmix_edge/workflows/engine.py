"""From a quantized ONNX model to a bundle: engine, golden check, files."""

from __future__ import annotations

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
from degmix_edge.bundle.golden import LOWERED, differences, pack, unpack
from degmix_edge.bundle.manifest import (
    CARD,
    GOLDEN,
    MODEL,
    RANGES,
    RECIPE,
    Engine,
    Manifest,
    engine_key,
)
from degmix_edge.bundle.writing import Target, claim, write_bundle
from degmix_edge.errors import BuildError, BundleError, DegmixError
from degmix_edge.files import sha256
from degmix_edge.graph.nonfinite import first_nonfinite
from degmix_edge.graph.self_contained import check_self_contained
from degmix_edge.network import NetworkSpec
from degmix_edge.preprocess import Fit
from degmix_edge.progress import Clock
from degmix_edge.quant.ranges import Ranges
from degmix_edge.quant.recipe import Recipe
from degmix_edge.tensors import check

if TYPE_CHECKING:
    import onnx

PACKAGES = (
    *("numpy", "onnx", "onnx-graphsurgeon", "torch", "torchvision", "timm", "onnxruntime"),
    *("tensorrt", "tensorrt_rtx_cu13_bindings"),
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
    """

    backend: type[EngineBackend]
    files: dict[str, bytes]


def make_engine(
    product: Product,
    backend: type[EngineBackend],
    golden_image: np.ndarray,
    *,
    options: EngineOptions = PLAIN,
    clock: Clock,
) -> EngineFiles:
    """Build the engine of `product`, once its outputs are known to be finite.

    Raises:
        BuildError: An output is not finite on the golden image.
        BackendError: The backend refused the model or an option.
    """
    first_nonfinite(product.model, golden_image[None])

    def step(phase: str, done: int, total: int) -> None:
        progress.emit(progress.Event(phase, done=done, total=total))

    options = replace(options, images=(golden_image[None],))
    files = backend.build(product.model, product.recipe, product.ranges, options, step)
    clock.finished("engine", f"{backend.name} {backend.version()} on {backend.device()}")
    return EngineFiles(backend, files)


def golden_maps(
    product: Product, engine: EngineFiles, golden_image: np.ndarray, clock: Clock
) -> dict[str, np.ndarray]:
    """Run the engine on the golden image and check it against model.onnx.

    If the engine cannot run here, return model.onnx's maps.

    Raises:
        BuildError: The engine's maps differ, or one is missing.
    """
    spec, backend, image = product.spec, engine.backend, golden_image[None]
    reason = backend.unavailable()
    if reason is not None:
        maps = _run(backends.choose("onnxruntime"), spec, product.model, image)
        clock.finished("golden check", f"maps of model.onnx; the engine was not run here: {reason}")
        return maps
    maps = _run(backend, spec, engine.files[backend.engine_file], image)
    # A plan cannot be held to itself: ONNX Runtime says what model.onnx gives.
    judge = backend if backend.runs_model else backends.choose("onnxruntime")
    expected = _run(judge, spec, product.model, image)
    found = differences(spec, expected, maps, LOWERED[product.recipe.precision])
    clock.finished("golden check", "engine against model.onnx: " + found.text)
    if not found.passed:
        raise BuildError(f"the {backend.name} engine differs from model.onnx: {found.text}")
    return maps


def check_source(
    source: onnx.ModelProto,
    product: Product,
    maps: dict[str, np.ndarray],
    golden_image: np.ndarray,
    *,
    clock: Clock,
) -> None:
    """Check the maps of a bundle against the network of another program that it was built from.

    The network runs as it came, normalised and decoded in numpy. No pass, no recipe and no engine
    takes part, so what this build did to the network is found, whatever it was.

    Args:
        source: The network as its file has it: its own inputs and outputs, opset, layout and type.
        product: What was made of it.
        maps: What the bundle gives on `golden_image`.
        golden_image: uint8 `(H, W, 3)` at the network's size.
        clock: Gets a stage with the differences.

    Raises:
        BuildError: The maps of a task differ by more than the precision explains.
    """
    with OnnxReference(product.spec, source.SerializeToString()) as own:
        expected = own.infer(golden_image[None])
    precision = product.recipe.precision
    if precision == "fp32" and own.rounds:
        precision = "fp16"
    found = differences(product.spec, expected, maps, LOWERED[precision])
    clock.finished("source check", "bundle against its network as it came: " + found.text)
    if not found.passed:
        raise BuildError(
            f"the bundle differs from {product.spec.source.name} as it came: {found.text}; say how "
            "its input is normalised as its own code does it, or report this with the file"
        )


def write_product(
    product: Product,
    engine: EngineFiles,
    maps: dict[str, np.ndarray],
    golden_image: np.ndarray,
    target: Target,
    *,
    clock: Clock,
) -> Bundle:
    """Write the bundle at `target`, whole or not at all.

    Raises:
        OutputError: `target` was written by another process meanwhile, or cannot be written.
    """
    backend, recipe_text = engine.backend, config.dump(product.recipe).encode()
    folder = f"engines/{backend.name}"
    files = {
        MODEL: product.model,
        RECIPE: recipe_text,
        GOLDEN: pack(golden_image, {name: maps[name] for name in product.spec.task_names}),
        **{f"{folder}/{name}": data for name, data in engine.files.items()},
    }
    if product.ranges is not None:
        files[RANGES] = product.ranges.model_dump_json(indent=1).encode()
    here = (backend.name, backend.version(), backend.device())
    entry = Engine(
        backend=backend.name,
        file=f"{folder}/{backend.engine_file}",
        key=engine_key(sha256(product.model), sha256(recipe_text), *here),
        version=here[1],
        device=here[2],
    )
    manifest = _manifest(product, entry, logits=[n for n in maps if n.endswith("_logits")])
    files[CARD] = card_text(manifest, product.recipe).encode()
    written = write_bundle(target, manifest, files)
    clock.finished("write", f"{target.path} {written.size_bytes / 1e6:.1f} MB")
    return written


def rebuild(
    opened: Bundle,
    *,
    backend: str = "auto",
    options: EngineOptions = PLAIN,
    target: Path | None = None,
    force: bool = False,
) -> Bundle:
    """Build the engine of a bundle again, for what runs here. Everything else stays.

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
        OutputError: The target cannot be written.
    """
    in_place = target is None or target.absolute() == opened.path.absolute()
    place = opened.path if in_place or target is None else target
    claimed = claim(place, force=force or in_place)
    clock = Clock()
    recipe, ranges = recipe_and_ranges(opened)
    manifest, model = opened.manifest, opened.read(MODEL)
    product = Product(model, manifest.network, recipe, ranges, manifest.fit)
    check_self_contained(model, f"{opened.path}/{MODEL}")
    image, _ = unpack(opened.read(GOLDEN), manifest.network, opened.path)
    chosen = backends.choose(backend, to_build=True)
    chosen.refuse_options(options)
    try:
        engine = make_engine(product, chosen, image, options=options, clock=clock)
        maps = golden_maps(product, engine, image, clock)
    except DegmixError:
        raise
    except Exception as error:  # onnx raises nearly anything on a graph that nobody exported
        raise BundleError(
            f"{opened.path}: no engine can be built of its {MODEL} ({type(error).__name__}: "
            f"{error}); build the bundle again from its network"
        ) from error
    return write_product(product, engine, maps, image, claimed, clock=clock)


def versions() -> dict[str, str]:
    """Versions of the packages that take part in a build, as far as they are installed."""
    found = {"degmix-edge": __version__}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def _manifest(product: Product, engine: Engine, logits: list[str]) -> Manifest:
    spec, size = product.spec, (product.spec.height, product.spec.width)
    maps = tuple(task.map_spec(*size) for task in spec.tasks)
    extra = tuple(task.logits_spec(*size) for task in spec.tasks if f"{task.name}_logits" in logits)
    return Manifest(
        created=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        network=spec,
        fit=product.fit,
        inputs=(spec.image_spec,),
        outputs=maps + extra,
        precision=product.recipe.precision,
        engines=(engine,),
        versions=versions(),
    )


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

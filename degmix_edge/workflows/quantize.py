"""The quantized ONNX model, its recipe and its ranges, without an engine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from degmix_edge import config
from degmix_edge.files import check_file, write_file
from degmix_edge.network import NetworkSpec
from degmix_edge.progress import Progress, listening
from degmix_edge.quant.ranges import Ranges
from degmix_edge.quant.recipe import Recipe
from degmix_edge.report.convergence import convergence
from degmix_edge.workflows.budget import Budget
from degmix_edge.workflows.build import Build
from degmix_edge.workflows.networks import Network
from degmix_edge.workflows.options import Options, Source, make_options


@dataclass(frozen=True)
class Quantized:
    """A model with its precision inside, and how it came to be.

    Attributes:
        model: ONNX bytes: uint8 image `(1, H, W, 3)` in, maps out.
        spec: What the network promises.
        recipe: Each weighted node's precision, and why.
        ranges: What calibration measured; None for a float model.
        budget: What the budget search found; None where there was no budget.
        files: What was written.
    """

    model: bytes
    spec: NetworkSpec
    recipe: Recipe
    ranges: Ranges | None
    budget: Budget | None
    files: tuple[Path, ...] = ()

    @property
    def nodes(self) -> dict[str, int]:
        """How many weighted nodes run in each precision."""
        return {p: len(self.recipe.nodes(p)) for p in ("fp32", "fp16", "int8", "fp8")}


def quantize(
    network: Network,
    out: str | Path | None = None,
    *,
    options: Options | None = None,
    calibration: Source = None,
    examples: Source = None,
    classes: Mapping[str, Sequence[str]] | None = None,
    force: bool = False,
    progress: Progress | None = None,
    **changes: Any,
) -> Quantized:
    """Quantize a network as `build` does, and stop before the engine.

    With `out`, the ONNX file is written there, and beside it `OUT.recipe.yaml`, `OUT.ranges.json`,
    which another run can use as `ranges`, and `OUT.ranges.svg`, which shows how the ranges settled.

    Args:
        network: As for `build`.
        out: The ONNX file to write; None writes nothing.
        options: What to build; `changes` override its fields.
        calibration: As for `build`.
        examples: As for `build`.
        classes: As for `build`.
        force: Replace files that exist.
        progress: Called with an `Event` as the work goes on.
        **changes: Fields of `Options`.

    Raises:
        DegmixError: As `build`; or several sizes are asked for, and a file has one.
    """
    path = None if out is None else Path(out)
    settings = make_options(options, calibration, examples, changes)
    settings.check_one_size("a quantized ONNX file")
    settings.precision_of("a quantized ONNX file")
    if path is not None:
        check_file(path, force=force)
    with listening(progress):
        pipeline = Build(network, settings, path, calibration=calibration, examples=examples)
        pipeline.describe(classes=classes)
        pipeline.check()
        pipeline.run(until="quantize")
    product = pipeline.product
    quantized = Quantized(
        product.model, product.spec, product.recipe, product.ranges, pipeline.budget
    )
    return quantized if path is None else _written(quantized, path, force)


def _written(quantized: Quantized, out: Path, force: bool) -> Quantized:
    files = {out: quantized.model, Path(f"{out}.recipe.yaml"): _recipe_bytes(quantized.recipe)}
    ranges = quantized.ranges
    if ranges is not None:
        files[Path(f"{out}.ranges.json")] = ranges.model_dump_json(indent=1).encode()
        if len(ranges.convergence) > 1:
            files[Path(f"{out}.ranges.svg")] = convergence(ranges).encode()
    for path, data in files.items():
        write_file(path, data, force=force or path != out)
    values = {name: getattr(quantized, name) for name in Quantized.__dataclass_fields__}
    return Quantized(**{**values, "files": tuple(files)})


def _recipe_bytes(recipe: Recipe) -> bytes:
    return config.dump(recipe).encode()

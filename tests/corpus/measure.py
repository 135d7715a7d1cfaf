"""Measure one case of the corpus: export, rewrite, compare, quantize, build."""

from __future__ import annotations

import json
import re
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from degmix_edge.errors import DegmixError, GraphError
from degmix_edge.graph.adopt import adopt
from degmix_edge.graph.check import check_graph
from degmix_edge.graph.cost import costs, total_macs
from degmix_edge.graph.model import read_model, to_graph, to_model
from degmix_edge.network import IMAGE
from degmix_edge.ort import cpu_session
from degmix_edge.passes import pipeline
from degmix_edge.passes._base import Pass, apply
from degmix_edge.passes.fold_constants import FoldConstants
from degmix_edge.passes.remove_identities import RemoveIdentities
from degmix_edge.passes.share_constants import ShareConstants

LIMIT = 1e-5
"""Largest difference of an exact rewrite, of each tensor's largest magnitude."""
IMAGES = 3
CALIBRATION = 8
FUSED_ATTENTION = 14
"""The first opset that TorchScript writes PyTorch's fused attention for."""


@dataclass
class Row:
    """What one case gave.

    Attributes:
        network, exporter, opset: The case.
        stage: What is being done, or was when the process ended.
        nodes_before, nodes_after: Nodes of the graph as it was and simplified.
        macs_before, macs_after: Multiply-adds; None where a shape is not known.
        noise: The difference that ONNX Runtime's own rewrites of the untouched file make.
        rewrites: By pass of `simplify`.
        difference: The simplified graph's, relative to each tensor's largest magnitude.
        forms: Rewrites and difference by pass of `other_forms`.
        adopted: The same difference of the graph as a build takes it.
        others: Nodes, difference, seconds and problem by optimizer.
        int8, tensorrt: `yes` with facts, or the reason why not.
        problems: What went wrong, each with its stage.
        seconds: For everything; 0 until the row is finished.
    """

    network: str
    exporter: str
    opset: int
    stage: str = "start"
    nodes_before: int = 0
    nodes_after: int = 0
    macs_before: int | None = None
    macs_after: int | None = None
    noise: float | None = None
    rewrites: dict[str, int] = field(default_factory=dict)
    difference: float | None = None
    forms: dict[str, dict[str, Any]] = field(default_factory=dict)
    adopted: float | None = None
    others: dict[str, dict[str, Any]] = field(default_factory=dict)
    int8: str = ""
    tensorrt: str = ""
    problems: list[str] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def worst(self) -> float | None:
        """The largest difference of any rewrite."""
        gaps = [
            self.difference,
            self.adopted,
            *(form["difference"] for form in self.forms.values()),
        ]
        known = [gap for gap in gaps if gap is not None]
        return max(known) if known else None


Outputs = list[dict[str, np.ndarray]]


def measure(row: Row, path: Path, *, quick: bool, compared: bool = True) -> Iterator[None]:
    """Fill `row` stage by stage; yields before each.

    Args:
        row: Says the case.
        path: The exported file, which is written where it does not exist.
        quick: Leave out INT8 and engines.
        compared: Run other optimizers on the file too.
    """
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    row.stage = "export"
    yield
    if not path.exists():
        with _problems(row):
            export(row, path)
    if not path.exists():
        return
    model = read_model(path)
    images = _images(model)
    row.stage = "reference"
    yield
    wanted = None
    with _problems(row):
        wanted = run(model, images)
        row.nodes_before = len(model.graph.node)
        row.macs_before = _macs(model)
        row.noise = difference(wanted[:1], run(model, images[:1], optimization="all"))
    if wanted is None:
        return
    row.stage = "simplify"
    yield
    simplified = None
    with _problems(row):
        simplified = _simplified(row, model, images, wanted)
    yield
    if simplified is not None:
        for form in pipeline.other_forms():
            row.stage = form.name
            with _problems(row):
                _form(row, form, simplified, images, wanted)
            yield
    if compared:
        row.stage = "other optimizers"
        yield
        row.others = {name: _other(f, model, images, wanted) for name, f in OPTIMIZERS.items()}
    row.stage = "adopt"
    yield
    taken = None
    with _problems(row):
        taken = adopt(model, path.name)
        row.adopted = difference(wanted, run(taken, images))
        _judge(row, row.adopted)
    if not quick and taken is not None:
        row.stage = "INT8 and TensorRT-RTX"
        yield
        _build(row, taken, path)
    row.stage = "end"
    yield


def export(row: Row, path: Path) -> None:
    """Write the network's ONNX file."""
    import torch
    from networks import NETWORKS

    network = NETWORKS[row.network]
    if row.opset < FUSED_ATTENTION:
        from timm.layers import set_fused_attn

        set_fused_attn(False)
    module = network.build()
    image = torch.randn(1, 3, network.size, network.size)
    settings: dict[str, Any] = {"dynamo": row.exporter == "dynamo", "opset_version": row.opset}
    if row.exporter == "unfolded":
        settings |= {"do_constant_folding": False, "keep_initializers_as_inputs": True}
        settings |= {"training": torch.onnx.TrainingMode.PRESERVE}
    if row.exporter == "dynamo":
        settings |= {"external_data": False}
    partial = path.with_suffix(".part")
    with torch.no_grad():
        torch.onnx.export(module, (image,), str(partial), input_names=["image"], **settings)
    partial.rename(path)


def _images(model: onnx.ModelProto) -> list[dict[str, np.ndarray]]:
    stored = {tensor.name for tensor in model.graph.initializer}
    value = next(v for v in model.graph.input if v.name not in stored)
    shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    random = np.random.default_rng(0)
    return [{value.name: random.normal(size=shape).astype(np.float32)} for _ in range(IMAGES)]


def run(model: onnx.ModelProto, images: list[dict[str, np.ndarray]], **settings: Any) -> Outputs:
    """The model's outputs for each image, by default without ONNX Runtime's own rewrites."""
    options = {"optimization": "none", "num_threads": 1} | settings
    session = cpu_session(model.SerializeToString(), log_severity=4, **options)
    names = [output.name for output in session.get_outputs()]
    return [dict(zip(names, session.run(None, image), strict=True)) for image in images]


def difference(wanted: Outputs, got: Outputs) -> float:
    """The largest difference of any tensor, relative to its largest magnitude; inf if unlike."""
    return max(
        _gap(tensor, other.get(name))
        for image, other in zip(wanted, got, strict=True)
        for name, tensor in image.items()
    )


def _gap(wanted: np.ndarray, got: np.ndarray | None) -> float:
    if got is None or got.shape != wanted.shape or got.dtype != wanted.dtype:
        return float("inf")
    if not wanted.size:
        return 0.0
    a, b = wanted.astype(np.float64), got.astype(np.float64)
    if not np.array_equal(np.isfinite(a), np.isfinite(b)):
        return float("inf")
    gaps = np.nan_to_num(np.abs(a - b), nan=0.0, posinf=0.0)
    return float(gaps.max() / (np.nan_to_num(np.abs(a), posinf=0.0).max() or 1))


def _simplified(
    row: Row, model: onnx.ModelProto, images: list[dict[str, np.ndarray]], wanted: Outputs
) -> onnx.ModelProto:
    check_graph(model)
    graph = to_graph(model)
    passes = pipeline.simplify(list(wanted[0]))
    outcomes = apply(graph, passes)
    row.rewrites = {outcome.name: outcome.rewrites for outcome in outcomes}
    simplified = to_model(graph, {})
    row.nodes_after = len(simplified.graph.node)
    row.macs_after = _macs(simplified)
    row.difference = difference(wanted, run(simplified, images))
    _judge(row, row.difference)
    again = to_graph(simplified)
    twice = {o.name: o.rewrites for o in apply(again, pipeline.simplify(list(wanted[0])))}
    if any(twice.values()):
        row.problems.append(f"simplify: a second run rewrites {twice}")
    return simplified


def _form(
    row: Row,
    form: Pass,
    simplified: onnx.ModelProto,
    images: list[dict[str, np.ndarray]],
    wanted: Outputs,
) -> None:
    graph = to_graph(simplified)
    rewrites = apply(graph, [form])[0].rewrites
    row.forms[form.name] = {"rewrites": rewrites, "difference": None}
    if rewrites:
        gap = difference(wanted, run(to_model(graph, {}), images))
        row.forms[form.name]["difference"] = gap
        _judge(row, gap)


def _judge(row: Row, gap: float) -> None:
    if gap > LIMIT:
        row.problems.append(
            f"{row.stage}: difference {gap:.1e}; ONNX Runtime's own {row.noise:.1e}"
        )


def _macs(model: onnx.ModelProto) -> int | None:
    try:
        return total_macs(costs(model))
    except GraphError:
        return None


def _ours(model: onnx.ModelProto) -> onnx.ModelProto:
    graph = to_graph(model)
    apply(graph, [FoldConstants(), RemoveIdentities(), ShareConstants()])
    return to_model(graph, {})


def _onnxslim(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnxslim

    return onnxslim.slim(model)


def _onnxscript(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnxscript.optimizer

    return onnxscript.optimizer.optimize(model)


OPTIMIZERS = {"ours": _ours, "onnxslim": _onnxslim, "onnxscript": _onnxscript}


def _other(
    optimizer: Callable[[onnx.ModelProto], onnx.ModelProto],
    model: onnx.ModelProto,
    images: list[dict[str, np.ndarray]],
    wanted: Outputs,
) -> dict[str, Any]:
    own = onnx.ModelProto()
    own.CopyFrom(model)
    start = time.monotonic()
    found: dict[str, Any] = {"nodes": 0, "difference": None, "problem": ""}
    try:
        smaller = optimizer(own)
        found["nodes"] = len(smaller.graph.node)
        found["difference"] = difference(wanted, run(smaller, images))
    except Exception as error:  # each optimizer has errors of its own
        found["problem"] = _in_words(error)
    return found | {"seconds": round(time.monotonic() - start, 2)}


def _build(row: Row, model: onnx.ModelProto, path: Path) -> None:
    """Quantize the file, and build an engine of that or, where it has no INT8, of the float graph.

    Args:
        row: Gets what came out.
        model: The file as it is adopted.
        path: The file.
    """
    from degmix_edge import backends
    from degmix_edge.nvidia.trt import build as trt_build
    from degmix_edge.nvidia.trt import load as trt_load
    from degmix_edge.nvidia.worker import build_in_child
    from degmix_edge.passes.forms import simplify_model
    from degmix_edge.passes.lower_deform_to_gridsample import LowerDeformToGridsample

    quantized = None
    try:
        quantized = quantize_and_run(model, path)
        counts = quantized.nodes
        row.int8 = f"yes, {counts['int8']} of {sum(counts.values())} nodes"
    except Exception as error:
        row.int8 = _in_words(error)
        if not isinstance(error, DegmixError):
            row.problems.append(f"INT8: {row.int8}")
    if why := trt_load.unavailable("tensorrt-rtx"):
        row.tensorrt = why
        return
    try:
        if quantized is not None:
            backend = backends.find("tensorrt-rtx")
            files = backend.build(quantized.model, quantized.recipe, quantized.ranges)
            plan, kind = files[backend.engine_file], "INT8"
        else:
            names = [output.name for output in model.graph.output]
            graph = to_graph(simplify_model(model, names))
            apply(graph, [LowerDeformToGridsample()])
            floats = to_model(graph, {}).SerializeToString()
            plan = build_in_child("tensorrt-rtx", floats, trt_build.BuilderOptions()).plan
            kind = "float"
        row.tensorrt = f"yes, {kind}, {len(plan) / 1e6:.1f} MB"
    except Exception as error:
        row.tensorrt = _in_words(error)
        if not isinstance(error, DegmixError):
            row.problems.append(f"TensorRT-RTX: {row.tensorrt}")


def tasks_of(model: onnx.ModelProto) -> dict[str, dict[str, str]]:
    """A task for each output, by its name in the spec: a map `(1, C, h, w)`, or a raw tensor."""
    (image,) = model.graph.input
    height, width = _sides(image)[2:]
    found = {}
    for index, output in enumerate(model.graph.output):
        sides, kind = _sides(output), "raw"
        if len(sides) == 4 and sides[0] == 1 and sides[2] * width == sides[3] * height:
            kind = "semseg" if sides[1] > 1 else "edge"
        found[f"output_{index}"] = {"output": output.name, "kind": kind}
    return found


def _sides(value: onnx.ValueInfoProto) -> list[int]:
    return [dim.dim_value for dim in value.type.tensor_type.shape.dim]


def quantize_and_run(model: onnx.ModelProto, path: Path) -> Any:
    """Quantize the file through the product, and run the result on one image."""
    from degmix_edge import backends
    from degmix_edge.workflows.quantize import quantize

    height, width = _sides(model.graph.input[0])[2:]
    random = np.random.default_rng(0)
    photos = random.integers(0, 256, (CALIBRATION, height, width, 3), dtype=np.uint8)
    image = {"mean": [0.5, 0.5, 0.5], "std": [0.25, 0.25, 0.25], "color": "rgb"}
    spec = path.with_suffix(".spec.yaml")
    spec.write_text(json.dumps({"version": 1, "input": image, "tasks": tasks_of(model)}))
    settings = {"precision": "int8", "calibration": list(photos), "observer": "min_max"}
    quantized = quantize(path, spec=spec, **settings)
    backend = backends.find("onnxruntime")
    files = backend.build(quantized.model, quantized.recipe, quantized.ranges)
    with backend(quantized.spec, files[backend.engine_file]) as engine:
        maps = engine.infer({IMAGE: photos[:1]})
    if not all(np.isfinite(m).all() for m in maps.values()):
        raise ValueError("an output of the INT8 model is not finite")
    return quantized


@contextmanager
def _problems(row: Row) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        row.problems.append(f"{row.stage}: {_in_words(error)}")
        traceback.print_exc()


def _in_words(error: Exception) -> str:
    plain = re.sub(r"\x1b\[[0-9;]*m", "", str(error))  # PyTorch's exporter writes in colours
    lines = [line for line in plain.splitlines() if line.strip()] or ["?"]
    return f"{type(error).__name__}: {lines[0][:200]}"

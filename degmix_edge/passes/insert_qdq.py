"""Place Q/DQ pairs: INT8 and FP8 live in the graph, for TensorRT and ONNX Runtime alike.

Per-tensor symmetric activations, per-channel symmetric weights stored in the narrow type with only
a DQ. No pair between a convolution and its activation, none on an output.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from degmix_edge.errors import GraphError
from degmix_edge.graph.model import append, constant
from degmix_edge.passes._base import Pass
from degmix_edge.quant.qparams import (
    FP8_LARGEST,
    LEVELS,
    fp8_type,
    per_channel_scale,
    quantize,
    quantize_fp8,
    scale_of,
)
from degmix_edge.quant.ranges import Ranges
from degmix_edge.quant.recipe import Recipe
from degmix_edge.quant.rules import is_quantizable
from degmix_edge.quant.sites import activation_sites, shared_amax, weight_site


@dataclass(frozen=True)
class Format:
    """A narrow type.

    Attributes:
        name: What tensors of weights in it are called.
        dtype: The type.
        largest: Its largest value.
        quantize: Puts values on a scale into it.
    """

    name: str
    dtype: np.dtype
    largest: int
    quantize: Callable[[np.ndarray, np.ndarray, int | None], np.ndarray]


INT8 = Format("int8", np.dtype(np.int8), LEVELS, quantize)


def format_of(recipe: Recipe) -> Format:
    """Return the narrow type of a recipe."""
    if recipe.precision == "fp8":
        return Format("fp8", fp8_type(), FP8_LARGEST, quantize_fp8)
    return INT8


class InsertQdq(Pass):
    """Both inputs of every INT8 or FP8 node pass a DQ; a tensor's consumers share its pair."""

    def __init__(self, recipe: Recipe, ranges: Ranges) -> None:
        self.recipe, self.ranges = recipe, ranges

    def run(self, graph: gs.Graph) -> int:
        sites = activation_sites(graph, self.recipe)
        names = {node.inputs[index].name for node, index in sites}
        amax = shared_amax(graph, {name: self._amax(name) for name in names})
        form = format_of(self.recipe)
        pairs: dict[str, gs.Variable] = {}
        for node, index in sites:
            tensor = node.inputs[index]
            if tensor.name not in pairs:
                pairs[tensor.name] = _pair(graph, tensor, amax[tensor.name], form)
            node.inputs[index] = pairs[tensor.name]
            if is_quantizable(node):
                _dequantize_weight(graph, node, form)
        return len(sites) + self._weights_only(graph)

    def _amax(self, name: str) -> float:
        measured = self.ranges.tensors.get(name)
        if measured is None:
            raise GraphError(f"no range for tensor {name!r}; calibrate this graph again")
        return measured.amax

    def _weights_only(self, graph: gs.Graph) -> int:
        chosen = self.recipe.nodes("int8_weights")
        rewrites = 0
        for node in [n for n in graph.nodes if n.name in chosen]:
            rewrites += _dequantize_weight(graph, node, INT8)
        return rewrites


def _pair(graph: gs.Graph, tensor: gs.Variable, amax: float, form: Format) -> gs.Variable:
    scale = constant(f"{tensor.name}/scale", scale_of(amax, form.largest))
    zero = constant(f"{tensor.name}/zero", 0, form.dtype)
    q = append(graph, "QuantizeLinear", [tensor, scale, zero], f"{tensor.name}/q", form.dtype)
    return append(graph, "DequantizeLinear", [q, scale, zero], f"{tensor.name}/dq", np.float32)


def _dequantize_weight(graph: gs.Graph, node: gs.Node, form: Format) -> int:
    """Store the weights of a node in `form` behind a DQ; return how many of them there were."""
    site = weight_site(node)
    if site is None:
        return 0
    index, axis = site
    weight = node.inputs[index]
    scale = per_channel_scale(weight.values, axis, form.largest)
    name = f"{node.name}.weight"
    values = form.quantize(weight.values, scale, axis)
    stored = constant(f"{name}/{form.name}", values, form.dtype)
    zeros = constant(f"{name}/zero", np.zeros(len(scale)), form.dtype)
    inputs = [stored, constant(f"{name}/scale", scale), zeros]
    node.inputs[index] = append(
        graph, "DequantizeLinear", inputs, f"{name}/dq", np.float32, axis=axis
    )
    return 1

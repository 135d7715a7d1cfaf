"""Place Q/DQ pairs: INT8 lives in the graph, for TensorRT and ONNX Runtime alike.

Per-tensor symmetric activations, per-channel symmetric weights stored as INT8 with only a DQ. No
pair between a convolution and its activation, none on an output.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from degmix_edge.errors import GraphError
from degmix_edge.graph.model import append, constant
from degmix_edge.passes._base import Pass
from degmix_edge.quant.qparams import per_channel_scale, quantize, scale_of
from degmix_edge.quant.ranges import Ranges
from degmix_edge.quant.recipe import Recipe
from degmix_edge.quant.rules import is_quantizable, stored_operand
from degmix_edge.quant.sites import activation_sites, shared_amax


class InsertQdq(Pass):
    """Both inputs of every INT8 node of `recipe` pass a DQ; a tensor's consumers share its pair."""

    def __init__(self, recipe: Recipe, ranges: Ranges) -> None:
        self.recipe, self.ranges = recipe, ranges

    def run(self, graph: gs.Graph) -> int:
        sites = activation_sites(graph, self.recipe)
        names = {node.inputs[index].name for node, index in sites}
        amax = shared_amax(graph, {name: self._amax(name) for name in names})
        pairs: dict[str, gs.Variable] = {}
        for node, index in sites:
            tensor = node.inputs[index]
            if tensor.name not in pairs:
                pairs[tensor.name] = _pair(graph, tensor, amax[tensor.name])
            node.inputs[index] = pairs[tensor.name]
            if is_quantizable(node):
                node.inputs[1] = _dequantized(graph, node, 1, _output_axis(node))
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
            index = stored_operand(node)
            if index is not None:
                # One scale an output row where the constant is on the left, else an output channel.
                axis = node.inputs[index].values.ndim - 2 if index == 0 else _output_axis(node)
                node.inputs[index] = _dequantized(graph, node, index, axis)
                rewrites += 1
        return rewrites


def _pair(graph: gs.Graph, tensor: gs.Variable, amax: float) -> gs.Variable:
    scale = constant(f"{tensor.name}/scale", scale_of(amax))
    zero = constant(f"{tensor.name}/zero", 0, np.int8)
    q = append(graph, "QuantizeLinear", [tensor, scale, zero], f"{tensor.name}/q", np.int8)
    return append(graph, "DequantizeLinear", [q, scale, zero], f"{tensor.name}/dq", np.float32)


def _output_axis(node: gs.Node) -> int:
    """Which axis of the weights, `inputs[1]`, counts output channels."""
    last = node.op == "MatMul" or (node.op == "Gemm" and not node.attrs.get("transB", 0))
    return node.inputs[1].values.ndim - 1 if last else 0


def _dequantized(graph: gs.Graph, node: gs.Node, index: int, axis: int) -> gs.Variable:
    """Constant input `index` as INT8 behind a DQ, one scale for every index along `axis`."""
    weight = node.inputs[index]
    scale = per_channel_scale(weight.values, axis)
    name = f"{node.name}.weight"
    stored = constant(f"{name}/int8", quantize(weight.values, scale, axis), np.int8)
    zeros = constant(f"{name}/zero", np.zeros(len(scale)), np.int8)
    scales = constant(f"{name}/scale", scale)
    inputs = [stored, scales, zeros]
    return append(graph, "DequantizeLinear", inputs, f"{name}/dq", np.float32, axis=axis)

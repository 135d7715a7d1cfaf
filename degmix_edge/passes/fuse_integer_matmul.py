"""Fuse a quantized linear layer into ONNX Runtime's integer product, bias included.

ONNX Runtime makes an integer kernel of `DQ, DQ -> MatMul` by itself, but not of the same with a
bias: it first fuses the addition into a float Gemm. So the kernel is named here:
`com.microsoft::MatMulIntegerToFloat`, which takes the bias and gives floats.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from degmix_edge.graph.model import import_domain
from degmix_edge.passes._base import Pass

DOMAIN = "com.microsoft"


class FuseIntegerMatmul(Pass):
    """`Q -> DQ -> MatMul or Gemm (-> Add of a bias)`, weights behind a DQ, becomes one node."""

    def run(self, graph: gs.Graph) -> int:
        rewrites = sum(_fuse(graph, n) for n in list(graph.nodes) if n.op in ("MatMul", "Gemm"))
        if rewrites:
            import_domain(graph, DOMAIN)
        return rewrites


def _fuse(graph: gs.Graph, node: gs.Node) -> bool:
    left, right = (_dequantize(tensor) for tensor in node.inputs[:2])
    if left is None or right is None or not _is_plain_pair(left, right):
        return False
    if node.op == "Gemm" and {**_PLAIN, **node.attrs} not in (_PLAIN, {**_PLAIN, "transB": 1}):
        return False
    weight, scale = right.inputs[0], right.inputs[1]
    columns = 0 if node.attrs.get("transB") else 1
    if scale.values.ndim and right.attrs.get("axis", 1) % 2 != columns:
        return False
    if node.attrs.get("transB"):
        weight = gs.Constant(f"{node.name}/weight_columns", np.ascontiguousarray(weight.values.T))
    out, bias = _bias(node, weight.shape[-1])
    if node.op == "Gemm" and len(node.inputs) > 2 and bias is None:
        return False
    # Symmetric weights: a scalar zero point holds for every column.
    zero = gs.Constant(f"{node.name}/weight_zero", np.zeros((), np.int8))
    inputs = [left.inputs[0], weight, left.inputs[1], scale, left.inputs[2], zero]
    inputs += [] if bias is None else [bias]
    last = out.inputs[0]
    node.outputs.clear()
    last.outputs.clear()
    fused = gs.Node("MatMulIntegerToFloat", node.name, {}, inputs, [out], domain=DOMAIN)
    graph.nodes.append(fused)
    return True


def _is_plain_pair(left: gs.Node, right: gs.Node) -> bool:
    """Whether one grid holds the map, and symmetric ones hold a matrix of INT8 weights."""
    weight, zero = right.inputs[0], right.inputs[2] if len(right.inputs) > 2 else None
    return (
        isinstance(weight, gs.Constant)
        and isinstance(right.inputs[1], gs.Constant)
        and weight.dtype == np.int8
        and len(weight.shape) == 2
        and right.inputs[1].values.ndim < 2
        and (zero is None or (isinstance(zero, gs.Constant) and not np.any(zero.values)))
        and len(left.inputs) > 2
        and all(isinstance(t, gs.Constant) and t.values.size == 1 for t in left.inputs[1:3])
    )


_PLAIN = {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0}


def _dequantize(tensor: gs.Variable | gs.Constant) -> gs.Node | None:
    maker = tensor.inputs[0] if tensor.inputs else None
    return maker if maker is not None and maker.op == "DequantizeLinear" else None


def _bias(node: gs.Node, columns: int) -> tuple[gs.Variable, gs.Constant | None]:
    """The tensor that holds product and bias, and the bias, where there is one of a row's shape."""
    out = node.outputs[0]
    if node.op == "Gemm":
        candidates, total = node.inputs[2:], out
    elif len(out.outputs) == 1 and out.outputs[0].op == "Add":
        candidates, total = out.outputs[0].inputs, out.outputs[0].outputs[0]
    else:
        candidates, total = [], out
    for tensor in candidates:
        if isinstance(tensor, gs.Constant) and list(tensor.shape) == [columns]:
            return total, tensor
    return out, None

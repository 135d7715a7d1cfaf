"""Rewrite TensorRT's Q/DQ form into the one whose integer kernels ONNX Runtime's CPU backend has.

TensorRT fuses an activation or an addition behind a convolution into its INT8 kernel and wants no
pair in between; ONNX Runtime runs a convolution in INT8 only if its output is quantized too. So:

- a tensor that is never negative (behind Relu) becomes uint8 with the same scale: the same grid,
  clipped at 255 steps instead of 127, and ONNX Runtime folds the Relu into it;
- every other activation becomes uint8 with zero point 128: the same numbers, the fast kernel;
- the output of a convolution that nothing quantizes gets a pair of its own, with the range that
  calibration measured there;
- a deformable convolution has no integer kernel, so its samples are of float values again.

Only the output pairs round anything anew.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from degmix_edge.graph.model import append, constant, replace_uses
from degmix_edge.passes._base import Pass
from degmix_edge.quant.qparams import scale_of
from degmix_edge.quant.ranges import Ranges

MIDDLE = 128


class LowerQdqForCpu(Pass):
    """Rewrites Q/DQ pairs for the integer kernels of ONNX Runtime's CPU backend."""

    def __init__(self, ranges: Ranges) -> None:
        self.ranges = ranges

    def run(self, graph: gs.Graph) -> int:
        rewrites = sum(_float_samples(n) for n in graph.nodes if n.op == "DeformConv")
        for conv in [n for n in graph.nodes if n.op == "Conv" and _dequantized(n.inputs[1])]:
            rewrites += self._quantize_output(graph, conv)
        for node in list(graph.nodes):
            if node.op == "QuantizeLinear" and _is_symmetric_pair(node):
                _to_uint8(node)
                rewrites += 1
        return rewrites

    def _quantize_output(self, graph: gs.Graph, conv: gs.Node) -> int:
        out = conv.outputs[0]
        readers = out.outputs
        if len(readers) == 1 and readers[0].op == "Relu":
            out = readers[0].outputs[0]
            readers = out.outputs
        pairs = [reader for reader in readers if reader.op == "QuantizeLinear"]
        if pairs:
            if len(readers) > 1 and _is_symmetric_pair(pairs[0]):
                # The others read the dequantized value, or there is no INT8 kernel.
                replace_uses(out, pairs[0].outputs[0].outputs[0].outputs[0], keep=[pairs[0]])
                return 1
            return 0
        measured = self.ranges.tensors.get(out.name)
        if measured is None or out in graph.outputs:
            return 0
        scale = constant(f"{out.name}/scale", scale_of(measured.amax))
        zero = constant(f"{out.name}/zero", 0, np.int8)
        q = append(graph, "QuantizeLinear", [out, scale, zero], f"{out.name}/q", np.int8)
        dq = append(graph, "DequantizeLinear", [q, scale, zero], f"{out.name}/dq", np.float32)
        replace_uses(out, dq, keep=[q.inputs[0]])
        return 1


def _is_symmetric_pair(quantize: gs.Node) -> bool:
    """Whether a tensor becomes INT8 around zero, and what reads it are DQs on that grid alone."""
    nodes = (quantize, *quantize.outputs[0].outputs)
    return quantize.outputs[0].dtype == np.int8 and all(
        node.op == ("QuantizeLinear" if node is quantize else "DequantizeLinear")
        and len(node.inputs) == 3
        and isinstance(node.inputs[2], gs.Constant)
        and node.inputs[2].values.shape == ()
        and not node.inputs[2].values
        for node in nodes
    )


def _dequantized(tensor: gs.Variable | gs.Constant) -> bool:
    return bool(tensor.inputs) and tensor.inputs[0].op == "DequantizeLinear"


def _float_samples(node: gs.Node) -> bool:
    if not _dequantized(node.inputs[0]):
        return False
    stored = node.inputs[0].inputs[0].inputs[0]
    if not stored.inputs or stored.inputs[0].op != "QuantizeLinear":
        return False
    quantize = stored.inputs[0]
    node.inputs[0] = quantize.inputs[0]
    return True


def _to_uint8(quantize: gs.Node) -> None:
    source = quantize.inputs[0]
    positive = bool(source.inputs) and source.inputs[0].op == "Relu"
    zero = constant(f"{source.name}/zero_uint8", 0 if positive else MIDDLE, np.uint8)
    quantized = quantize.outputs[0]
    quantized.dtype = np.dtype(np.uint8)
    for node in (quantize, *quantized.outputs):
        node.inputs[2] = zero

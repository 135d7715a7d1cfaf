"""Run what a recipe allows in FP16: weights are stored as FP16, and casts stand where types change.

FP16 spreads from the chosen products through what only moves or adds values, so that maps between
products stay FP16 too. Norms, softmax, reductions over many terms, sampling coordinates, the image
and the decodes stay FP32.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from degmix_edge.errors import GraphError
from degmix_edge.graph.model import append
from degmix_edge.passes._base import Pass
from degmix_edge.quant.recipe import Recipe
from degmix_edge.quant.rules import is_weighted, offset_branch, routing_branch

FLOAT, FLOAT16 = 1, 10
DQ = "DequantizeLinear"
SPREADS = {
    *("Add", "Sub", "Mul", "Relu", "LeakyRelu", "Clip", "Gelu", "Erf", "Sigmoid", "Tanh"),
    *("HardSigmoid", "HardSwish", "BatchNormalization", "MaxPool", "AveragePool", "Resize"),
    *("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Concat", "Split", "Slice"),
    *("Pad", "Expand", "Gather", "DepthToSpace", "SpaceToDepth", "QuantizeLinear"),
    *("DequantizeLinear", "DegmixDeformSample", "DegmixDeformSampleAt"),
}
HALF_INPUTS = {
    **dict.fromkeys(("Resize", "BatchNormalization", "DegmixDeformSample", "Pad"), (0,)),
    "DegmixDeformSampleAt": (0, 1),
    "DegmixDeformConv2d": (0, 1, 3),
}
"""Inputs that become FP16, for operators whose other inputs (scales, offsets, sizes) do not."""
AS_THEY_ARE = {"DegmixDeformSampleAt": (1,)}
"""Inputs that operators take in FP16 too where they run in another type themselves."""
ALWAYS = {"DegmixDeformOffsets"}
"""Operators that have kernels for FP16 alone."""
LONGEST_SUM = 1024
"""Longest sum of a product of two variables in FP16: attention's are 32 to 64 terms long, while a
Gram matrix sums over every pixel."""


class InsertFp16(Pass):
    """FP16 nodes of `recipe`, and INT8 ones, read and write FP16, as do the nodes between them."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def run(self, graph: gs.Graph) -> int:
        half = self._half_nodes(graph)
        if not half:
            return 0
        casts = _Casts(graph)
        for node in half.values():
            for output in node.outputs:
                if output.dtype == np.float32:
                    output.dtype = np.dtype(np.float16)
                    casts.turned.add(id(output))
        for node in half.values():
            for index, tensor in enumerate(node.inputs):
                if index not in HALF_INPUTS.get(node.op, (index,)):
                    continue
                if isinstance(tensor, gs.Constant):
                    node.inputs[index] = casts.constant(node, tensor)
                elif tensor.dtype == np.float32:
                    node.inputs[index] = casts.get(tensor, np.float16)
        for node in list(graph.nodes):
            if id(node) not in half and node.op != "Cast":
                kept = AS_THEY_ARE.get(node.op, ())
                node.inputs = [
                    tensor if index in kept else casts.float32(tensor)
                    for index, tensor in enumerate(node.inputs)
                ]
        graph.outputs = [casts.output(tensor) for tensor in graph.outputs]
        return len(half)

    def _half_nodes(self, graph: gs.Graph) -> dict[int, gs.Node]:
        """Nodes that become FP16, by identity."""
        decoded = {f"{tensor.name}/" for tensor in graph.outputs}
        fixed = {id(node) for node in (*offset_branch(graph), *routing_branch(graph))}
        fixed |= {id(n) for n in graph.nodes if _prefix(n.name) in {"image/", *decoded}}
        lower = {"fp16", "int8", "fp8"}
        chosen = {p.node for p in self.recipe.placements if p.precision in lower}
        half = {
            id(n): n
            for n in graph.nodes
            if (n.op in ALWAYS or (n.name in chosen and _is_product(n)))
            and n.outputs[0].dtype == np.float32
        }
        if not half:
            return {}
        graph.toposort()
        for node in graph.nodes:
            if id(node) in fixed or id(node) in half or not _constants_fit(node):
                continue
            if node.op in SPREADS or _is_half_product(node):
                makers = [m for t in _values(node) for m in t.inputs]
                if any(id(maker) in half for maker in makers):
                    half[id(node)] = node
        _pull_back(graph, half, fixed)
        return half


class _Casts:
    """One cast a tensor and type."""

    def __init__(self, graph: gs.Graph) -> None:
        self.graph = graph
        self.made: dict[tuple[str, str], gs.Variable] = {}
        self.turned: set[int] = set()  # tensors that were FP32 before

    def get(self, tensor: gs.Variable, dtype: type[np.floating]) -> gs.Variable:
        half = dtype is np.float16
        maker = tensor.inputs[0] if tensor.inputs else None
        if maker is not None and maker.op == "Cast" and maker.inputs[0].dtype == dtype:
            return maker.inputs[0]  # an earlier run's cast to the other type
        name = f"{tensor.name}/{'fp16' if half else 'fp32'}"
        key = (tensor.name, name)
        if key not in self.made:
            to = FLOAT16 if half else FLOAT
            self.made[key] = append(self.graph, "Cast", [tensor], name, dtype, to=to)
            self.made[key].shape = tensor.shape
        return self.made[key]

    def float32(self, tensor: gs.Variable | gs.Constant) -> gs.Variable | gs.Constant:
        if id(tensor) in self.turned:
            return self.get(tensor, np.float32)
        return tensor

    def output(self, tensor: gs.Variable) -> gs.Variable:
        """A graph's output keeps its name and type."""
        if id(tensor) not in self.turned:
            return tensor
        out = self.get(tensor, np.float32)  # FP32 readers may have one already
        name, tensor.name = tensor.name, f"{tensor.name}/half"
        out.name = name
        return out

    @staticmethod
    def constant(node: gs.Node, tensor: gs.Constant) -> gs.Constant:
        if tensor.dtype != np.float32:
            return tensor
        finite = tensor.values[np.isfinite(tensor.values)]
        largest = float(np.abs(finite).max(initial=0))
        if largest > float(np.finfo(np.float16).max):
            raise GraphError(
                f"{node.name}: a weight of {largest:.3g} does not fit FP16; keep it float with "
                f"--keep-float {node.name}"
            )
        return gs.Constant(f"{tensor.name}/fp16/{node.name}", tensor.values.astype(np.float16))


def _constants_fit(node: gs.Node) -> bool:
    """Whether FP16 can hold a node's constants; a mask of attention may be the lowest FP32."""
    indices = HALF_INPUTS.get(node.op, range(len(node.inputs)))
    constants = (node.inputs[i] for i in indices if isinstance(node.inputs[i], gs.Constant))
    values = [tensor.values for tensor in constants if tensor.dtype == np.float32]
    limit = np.finfo(np.float16).max
    return all(np.all((np.abs(array) <= limit) | np.isinf(array)) for array in values)


def _prefix(name: str) -> str:
    return name.partition("/")[0] + "/"


def _is_product(node: gs.Node) -> bool:
    """Whether a node multiplies by constant weights, which may stand behind a DQ.

    A deformable convolution does not count: it stays FP32.
    """
    if is_weighted(node) or len(node.inputs) < 2 or node.op == "DeformConv":
        return is_weighted(node)
    if node.op == "DegmixDeformConv2d" and isinstance(node.inputs[1], gs.Constant):
        return True
    makers = node.inputs[1].inputs
    return bool(makers) and makers[0].op == "DequantizeLinear"


def _values(node: gs.Node) -> list[gs.Variable]:
    inputs = [t for i, t in enumerate(node.inputs) if i in HALF_INPUTS.get(node.op, (i,))]
    return [t for t in inputs if isinstance(t, gs.Variable) and t.dtype == np.float32]


def _is_half_product(node: gs.Node) -> bool:
    """Whether a node multiplies two variables and may do so in FP16.

    Such a node is attention, or a convolution whose kernel depends on the image.
    """
    if node.op == "Conv":
        return isinstance(node.inputs[1], gs.Variable) and node.inputs[1].inputs[0].op != DQ
    return bool(node.op == "MatMul" and _sum_length(node) <= LONGEST_SUM)


def _sum_length(node: gs.Node) -> int:
    """Terms of each sum of a product of two variables."""
    length = node.inputs[0].shape[-1] if node.inputs[0].shape else None
    return length if isinstance(length, int) else LONGEST_SUM + 1


def _pull_back(graph: gs.Graph, half: dict[int, gs.Node], fixed: set[int]) -> None:
    """What feeds FP16 nodes alone and only moves or dequantizes values is FP16 too."""
    moves = ("Reshape", "Transpose", "QuantizeLinear", "DequantizeLinear")
    for node in reversed(graph.nodes):
        readers = [reader for out in node.outputs for reader in out.outputs]
        inside = bool(readers) and all(id(reader) in half for reader in readers)
        if node.op in moves and inside and id(node) not in fixed:
            half[id(node)] = node

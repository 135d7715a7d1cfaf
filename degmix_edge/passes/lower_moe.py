"""Lower a mixture of experts for a backend that can have shapes of the data: ONNX Runtime's CPU.

An exported mixture computes every expert for every token and masks those that a token did not
choose: `TopK -> ScatterElements -> mask` between two large products. That is static, as TensorRT
needs it, and costs `experts / top_k` times the products. Here every expert gets its own tokens:

    rows_e = NonZero(gates[:, e]);  out[rows_e] += gates[rows_e, e] * expert_e(x[rows_e])

the same numbers, with Q/DQ pairs kept where they are. The number of experts is that of the graph's
matrices, so none is lost that no token of an example chose.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_graphsurgeon as gs

from degmix_edge.graph.model import append, constant
from degmix_edge.passes._base import Pass

WORTH = 4_000_000
"""Multiply-adds that gathering must save an expert; fewer do not pay for its dozen nodes."""


class LowerMoe(Pass):
    """Replaces each masked mixture by one that gathers the tokens of every expert.

    Args:
        worth: Multiply-adds to save an expert; 0 lowers every mixture.
    """

    def __init__(self, worth: int = WORTH) -> None:
        self.worth = worth

    def run(self, graph: gs.Graph) -> int:
        found = [m for m in mixtures(graph) if m.saved_macs / m.experts >= self.worth]
        for mixture in found:
            _Gather(graph, mixture).replace()
        return len(found)


@dataclass(frozen=True)
class MoeMixture:
    """A mixture in its masked form.

    Attributes:
        gates: `(T, N, L, E)`, zero where an expert was not chosen.
        first: The product of tokens `(R, N, L, d)` and all experts' first layers.
        bias: Adds their biases.
        second: The product of the masked hidden units and all experts' second layers.
        kept: Experts a token.
    """

    gates: gs.Variable
    first: gs.Node
    bias: gs.Node
    activation: gs.Node
    second: gs.Node
    kept: int

    @property
    def experts(self) -> int:
        """How many there are."""
        return int(self.gates.shape[-1])

    @property
    def saved_macs(self) -> int:
        """By computing chosen experts alone."""
        rows = prod(self.gates.shape[:-1])
        shared = prod(self.first.inputs[0].shape[:-1])
        first = prod(_stored(self.first.inputs[1]).shape)
        second = prod(_stored(self.second.inputs[1]).shape)
        share = self.kept / self.experts
        return int(shared * first - share * rows * first + (1 - share) * rows * second)


def mixtures(graph: gs.Graph) -> list[MoeMixture]:
    """All mixtures of `graph` that are in the masked form."""
    scatters = [node for node in graph.nodes if node.op == "ScatterElements"]
    found = (_read(node) for node in scatters if _maker(node.inputs[1], "TopK"))
    return [mixture for mixture in found if mixture is not None]


def _read(scatter: gs.Node) -> MoeMixture | None:
    gates = scatter.outputs[0]
    masks = [reader for reader in gates.outputs if reader.op == "Unsqueeze"]
    if len(masks) != 1 or gates.shape is None:
        return None
    mask = masks[0].outputs[0]
    mul = _reader(mask, "Mul")
    if mul is None:
        return None
    hidden = next((t for t in mul.inputs if t is not mask), None)
    activation = _maker(_maker(hidden, "Reshape"), "Gelu")
    bias = _maker(activation, "Add")
    first = next((m for t in bias.inputs if (m := _maker(t, "MatMul"))), None) if bias else None
    flat = _reader(mul.outputs[0], "Reshape")
    tensor = flat.outputs[0] if flat else None
    quantize = _reader(tensor, "QuantizeLinear") if tensor is not None else None
    if quantize is not None:
        dequantize = _reader(quantize.outputs[0], "DequantizeLinear")
        tensor = dequantize.outputs[0] if dequantize else None
    second = _reader(tensor, "MatMul") if tensor is not None else None
    kept = scatter.inputs[1].shape
    if not (activation and bias and first and flat and second and kept and hidden):
        return None
    mixture = MoeMixture(gates, first, bias, activation, second, int(kept[-1]))
    return mixture if _is_masked(mixture, mask, hidden, flat.outputs[0]) else None


def _is_masked(
    mixture: MoeMixture, mask: gs.Variable, hidden: gs.Variable, flat: gs.Variable
) -> bool:
    """Whether experts lie side by side in both matrices, and each is masked by its own gate."""
    first, bias, second = mixture.first, mixture.bias, mixture.second
    matrices = [_stored(node.inputs[1]) for node in (first, second)]
    biases = [tensor for tensor in bias.inputs if isinstance(tensor, gs.Constant)]
    tensors = (mixture.gates, mask, hidden, flat, first.inputs[0], *second.outputs)
    if len(biases) != 1 or not all(isinstance(m, gs.Constant) for m in matrices):
        return False
    if not all(t.shape and all(isinstance(side, int) for side in t.shape) for t in tensors):
        return False
    gates, masks, units, rows, tokens, _ = (list(tensor.shape) for tensor in tensors)
    width = units[-1]
    own = tokens[:-1]
    while own and own[0] == 1:  # tasks share their tokens
        own = own[1:]
    return (
        masks == [*gates, 1]
        and units == [*tokens[:-1], gates[-1], width]
        and rows == [*gates[:-1], gates[-1] * width]
        and own == gates[len(gates) - 1 - len(own) : -1]
        and biases[0].values.shape == (gates[-1] * width,)
        and list(matrices[0].shape) == [tokens[-1], gates[-1] * width]
        and list(matrices[1].shape[:1]) == [gates[-1] * width]
        and len(matrices[1].shape) == 2
    )


class _Gather:
    """Writes the gathered form of one mixture."""

    def __init__(self, graph: gs.Graph, mixture: MoeMixture) -> None:
        self.graph, self.mixture = graph, mixture
        self.name = f"{mixture.second.name}/gather"
        self.count = 0

    def replace(self) -> None:
        mixture = self.mixture
        rows, experts = prod(mixture.gates.shape[:-1]), mixture.experts
        tokens = prod(mixture.first.inputs[0].shape[:-1])
        out_shape = list(mixture.second.outputs[0].shape)
        columns = self._op("Reshape", [mixture.gates, self._ints([rows, experts])], np.float32)
        columns = self._op("Transpose", [columns], np.float32, perm=[1, 0])
        source, dequantize = self._source(tokens)
        out: gs.Tensor = constant(f"{self.name}/zeros", np.zeros((rows, out_shape[-1])))
        for expert in range(experts):
            column = self._op("Gather", [columns, self._int(expert)], np.float32, axis=0)
            chosen = self._op("NonZero", [column], np.int64)  # 1 n
            where = self._op("Reshape", [chosen, self._ints([-1])], np.int64)
            gates = self._op("Gather", [column, where], np.float32, axis=0)
            gates = self._op("Reshape", [gates, self._ints([-1, 1])], np.float32)
            if tokens != rows:  # tasks share their tokens
                where = self._op("Mod", [where, self._int(tokens)], np.int64)
            x = self._op("Gather", [source, where], source.dtype, axis=0)
            made = self._expert(expert, self._like(dequantize, x), gates)
            place = self._op("Reshape", [chosen, self._ints([-1, 1])], np.int64)
            out = self._op("ScatterND", [out, place, made], np.float32, reduction="add")
        final = self._op("Reshape", [out, self._ints(out_shape)], np.float32)
        old = mixture.second.outputs[0]
        maker = final.inputs[0]
        mixture.second.outputs.clear()
        maker.outputs = [old]

    def _source(self, tokens: int) -> tuple[gs.Tensor, gs.Node | None]:
        """The tokens as rows, quantized where they are, and the node that dequantizes them."""
        tensor = self.mixture.first.inputs[0]
        dequantize = _maker(tensor, "DequantizeLinear")
        source = tensor if dequantize is None else dequantize.inputs[0]
        width = tensor.shape[-1]
        return self._op("Reshape", [source, self._ints([tokens, width])], source.dtype), dequantize

    def _expert(self, index: int, x: gs.Tensor, gates: gs.Tensor) -> gs.Tensor:
        mixture = self.mixture
        hidden = self._op("MatMul", [x, self._part(mixture.first.inputs[1], index, 1)], np.float32)
        bias = next(t for t in mixture.bias.inputs if isinstance(t, gs.Constant))
        part = np.split(bias.values.reshape(-1), mixture.experts)[index]
        hidden = self._op("Add", [hidden, self._constant(part)], np.float32)
        hidden = self._op("Gelu", [hidden], np.float32, **dict(mixture.activation.attrs))
        hidden = self._op("Mul", [hidden, gates], np.float32)
        dequantize = _maker(mixture.second.inputs[0], "DequantizeLinear")
        if dequantize is not None:
            quantize = dequantize.inputs[0].inputs[0]
            inputs = [hidden, *quantize.inputs[1:]]
            dtype = quantize.outputs[0].dtype
            hidden = self._op("QuantizeLinear", inputs, dtype, **dict(quantize.attrs))
            hidden = self._like(dequantize, hidden)
        weight = self._part(mixture.second.inputs[1], index, 0)
        return self._op("MatMul", [hidden, weight], np.float32)

    def _part(self, weight: gs.Tensor, index: int, axis: int) -> gs.Tensor:
        """An expert's part of a matrix along `axis`, behind a DQ where the matrix is."""
        if isinstance(weight, gs.Constant):
            return self._split(weight, index, axis)
        dequantize = weight.inputs[0]
        stored, *grid = dequantize.inputs
        if dequantize.attrs.get("axis", 1) % 2 == axis:
            grid = [self._split(t, index, 0) if len(t.shape) else t for t in grid]
        inputs = [self._split(stored, index, axis), *grid]
        return self._op("DequantizeLinear", inputs, np.float32, **dict(dequantize.attrs))

    def _split(self, tensor: gs.Constant, index: int, axis: int) -> gs.Constant:
        part = np.split(tensor.values, self.mixture.experts, axis=axis)[index]
        return self._constant(np.ascontiguousarray(part), part.dtype)

    def _like(self, dequantize: gs.Node | None, tensor: gs.Tensor) -> gs.Tensor:
        if dequantize is None:
            return tensor
        inputs = [tensor, *dequantize.inputs[1:]]
        return self._op("DequantizeLinear", inputs, np.float32, **dict(dequantize.attrs))

    def _constant(self, values: np.ndarray, dtype: object = np.float32) -> gs.Constant:
        self.count += 1
        return constant(f"{self.name}/constant.{self.count}", values, dtype)

    def _ints(self, values: list[int]) -> gs.Constant:
        return self._constant(np.array(values), np.int64)

    def _int(self, value: int) -> gs.Constant:
        return self._constant(np.array(value), np.int64)

    def _op(self, op: str, inputs: list[gs.Tensor], dtype: object, **attrs: object) -> gs.Variable:
        self.count += 1
        return append(self.graph, op, inputs, f"{self.name}/{op}.{self.count}", dtype, **attrs)


def _maker(of: gs.Tensor | gs.Node | None, op: str) -> gs.Node | None:
    """What makes a tensor, or a node's first input, if it is an `op`."""
    tensor = of.inputs[0] if isinstance(of, gs.Node) else of
    makers = tensor.inputs if tensor is not None else []
    return makers[0] if makers and makers[0].op == op else None


def _reader(tensor: gs.Tensor, op: str) -> gs.Node | None:
    """The only reader of a tensor, if it is an `op`."""
    readers = tensor.outputs
    return readers[0] if len(readers) == 1 and readers[0].op == op else None


def _stored(weight: gs.Tensor) -> gs.Tensor:
    """The constant itself, or the one behind a DQ."""
    return weight.inputs[0].inputs[0] if weight.inputs else weight

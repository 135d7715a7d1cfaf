"""Fold a mixture of convolutions whose shares depend on the image into one run-time kernel.

`sum_i g_i(image) * Conv_i(x)` is linear in x, so it is one convolution with the kernel
`sum_i g_i K_i`. Experts of low rank, `Conv1x1(g * Conv3x3(x))`, are the kernel `B diag(g) A`: one
matrix product of small matrices. Exact, and for one image a run, since the kernel is the image's.

Such a kernel is no constant: it has no INT8 form, so INT8 recipes keep the mixture as it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np
import onnx_graphsurgeon as gs

from degmix_edge.graph.model import append, constant
from degmix_edge.passes._base import Pass
from degmix_edge.passes.fold_batchnorm import is_static_norm, norm_line


class FoldConvMixture(Pass):
    """Where the run-time kernel costs fewer multiply-adds than the mixture."""

    def run(self, graph: gs.Graph) -> int:
        graph.toposort()
        rewrites, folded = 0, set[int]()
        for node in reversed(list(graph.nodes)):  # the largest mixtures first
            if len(node.outputs) != 1 or id(node) in folded:
                continue
            found = _Mixture(graph, node.outputs[0])
            if found.is_worth_it():
                folded |= found.inside
                found.replace(rewrites)
                rewrites += 1
        return rewrites


@dataclass
class _Affine:
    """`scale * (kernel @ x) + bias`, as graph tensors: `(O, C kH kW)`, `(O, 1)`, `(O, 1)`."""

    kernel: gs.Tensor
    rows: int
    scale: gs.Tensor | None = None
    bias: gs.Tensor | None = None


class _Mixture:
    """What a tensor is, read backwards to the convolutions of one map.

    Args:
        graph: Nodes of the kernel are appended to it, when `replace` is called.
        out: The tensor.
    """

    def __init__(self, graph: gs.Graph, out: gs.Variable) -> None:
        self.graph, self.out = graph, out
        self.inside: set[int] = set()
        self.bases: list[gs.Node] = []
        self.num_gates = 0
        self.pointwise_macs = 0
        self.constants = 0
        self.prefix = ""
        self.dtype = out.dtype
        self.understood = self._reads(out, top=True)

    def is_worth_it(self) -> bool:
        """Whether it is a mixture of one map, for one image, and a run-time kernel is cheaper."""
        if not self.understood or not self.bases or not self.num_gates:
            return False
        first = self.bases[0]
        same = all(
            b.inputs[0] is first.inputs[0]
            and list(b.inputs[1].shape[1:]) == list(first.inputs[1].shape[1:])
            and _settings(b) == _settings(first)
            for b in self.bases
        )
        if not same or self.out.shape is None or self.out.shape[0] != 1:
            return False
        _, outputs, *sides = self.out.shape
        taps = prod(first.inputs[1].shape[1:])
        before = self.pointwise_macs + sum(prod(b.outputs[0].shape) * taps for b in self.bases)
        synthesis = self.pointwise_macs // prod(sides) * taps
        return bool(prod(sides) * outputs * taps + synthesis < before)

    def replace(self, number: int) -> None:
        """Let one convolution make the tensor."""
        first = self.bases[0]
        name = f"{self.out.inputs[0].name}/mixture"
        self.prefix = f"{name}{number}"
        affine = self._materialised(self._affine(self.out))
        _, *taps = first.inputs[1].shape
        shape = [affine.rows, *taps]
        kernel = self._op(
            "Reshape",
            [affine.kernel, constant(f"{self.prefix}/kernel_shape", shape, np.int64)],
            shape,
        )
        attrs = dict(first.attrs)
        made = self._op("Conv", [first.inputs[0], kernel], list(self.out.shape), **attrs)
        maker = self.out.inputs[0]
        if affine.bias is None:
            final = made.inputs[0]
        else:
            bias = self._column(affine.bias, [1, affine.rows, 1, 1])
            final = self._op("Add", [made, bias], list(self.out.shape)).inputs[0]
        maker.outputs.clear()
        final.outputs = [self.out]

    def _reads(self, tensor: gs.Tensor, *, top: bool = False) -> bool:
        """Whether `tensor` is an affine function of convolutions; notes what it is made of."""
        if not isinstance(tensor, gs.Variable) or not tensor.inputs:
            return False
        if not top and (len(tensor.outputs) != 1 or tensor in self.graph.outputs):
            return False
        node = tensor.inputs[0]
        shape = tensor.shape
        if shape is None or len(shape) != 4 or not all(isinstance(s, int) for s in shape):
            return False
        if self.dtype is None or tensor.dtype != self.dtype or len(node.outputs) != 1:
            return False
        self.inside.add(id(node))
        if node.op == "Conv" and isinstance(node.inputs[1], gs.Constant):
            if _is_pointwise(node):
                # Behind a mixture it is part of it; else it is where the map comes from.
                num_gates, bases = self.num_gates, len(self.bases)
                if self._reads(node.inputs[0]):
                    self.pointwise_macs += prod(shape) * node.inputs[1].shape[1]
                    return True
                self.num_gates = num_gates
                del self.bases[bases:]
                return False
            if node.attrs.get("group", 1) != 1 or not _is_constant(node.inputs[2:]):
                return False
            self.bases.append(node)
            return True
        if node.op == "BatchNormalization":
            return is_static_norm(node) and self._reads(node.inputs[0])
        if node.op not in ("Add", "Mul"):
            return False
        gates = [t for t in node.inputs if _is_gate(t)]
        maps = [t for t in node.inputs if not _is_gate(t)]
        if len(gates) > 1 or (node.op == "Mul" and not gates):
            return False
        # A map of one channel that meets many channels would have one row of many.
        if any(t.shape is None or list(t.shape) != list(shape) for t in maps):
            return False
        if node.op == "Mul":
            self.num_gates += isinstance(gates[0], gs.Variable)
        return all(map(self._reads, maps))

    def _affine(self, tensor: gs.Variable) -> _Affine:
        node = tensor.inputs[0]
        if node.op == "Conv" and not _is_pointwise(node):
            weight = node.inputs[1].values
            rows = weight.shape[0]
            kernel = self._constant(weight.reshape(rows, -1))
            bias = self._constant(node.inputs[2].values[:, None]) if len(node.inputs) > 2 else None
            return _Affine(kernel, rows, None, bias)
        if node.op == "Conv":
            return self._behind_pointwise(node)
        if node.op == "BatchNormalization":
            factor, shift = norm_line(node)
            found = self._scaled(self._affine(node.inputs[0]), self._constant(factor[:, None]))
            return self._biased(found, self._constant(shift[:, None]))
        gates = [t for t in node.inputs if _is_gate(t)]
        rest = [self._affine(t) for t in node.inputs if not _is_gate(t)]
        if node.op == "Mul":
            return self._scaled(rest[0], self._gate(gates[0], rest[0].rows))
        if gates:
            return self._biased(rest[0], self._gate(gates[0], rest[0].rows))
        left, right = (self._materialised(part) for part in rest)
        shape = list(left.kernel.shape)
        kernel = self._op("Add", [left.kernel, right.kernel], shape)
        total = self._biased(_Affine(kernel, left.rows, None, left.bias), right.bias)
        return total

    def _behind_pointwise(self, node: gs.Node) -> _Affine:
        inner = self._affine(node.inputs[0])
        rows, columns = node.inputs[1].shape[:2]
        matrix: gs.Tensor = self._constant(node.inputs[1].values.reshape(rows, columns))
        bias = self._constant(node.inputs[2].values[:, None]) if len(node.inputs) > 2 else None
        if inner.bias is not None:
            moved = self._op("MatMul", [matrix, inner.bias], [rows, 1])
            bias = moved if bias is None else self._op("Add", [moved, bias], [rows, 1])
        if inner.scale is not None:  # into the smaller matrix
            scale = self._column(inner.scale, [1, -1])
            matrix = self._op("Mul", [matrix, scale], [rows, columns])
        shape = [rows, inner.kernel.shape[1]]
        return _Affine(self._op("MatMul", [matrix, inner.kernel], shape), rows, None, bias)

    def _scaled(self, found: _Affine, scale: gs.Tensor) -> _Affine:
        def times(old: gs.Tensor | None) -> gs.Tensor | None:
            return None if old is None else self._op("Mul", [old, scale], [found.rows, 1])

        both = scale if found.scale is None else times(found.scale)
        return _Affine(found.kernel, found.rows, both, times(found.bias))

    def _biased(self, found: _Affine, bias: gs.Tensor | None) -> _Affine:
        if bias is not None and found.bias is not None:
            bias = self._op("Add", [found.bias, bias], [found.rows, 1])
        return _Affine(found.kernel, found.rows, found.scale, bias or found.bias)

    def _materialised(self, found: _Affine) -> _Affine:
        """With the scale in the kernel."""
        if found.scale is None:
            return found
        kernel = self._op("Mul", [found.kernel, found.scale], list(found.kernel.shape))
        return _Affine(kernel, found.rows, None, found.bias)

    def _gate(self, gate: gs.Tensor, rows: int) -> gs.Tensor:
        """The gate of each row, as a column."""
        column = self._column(gate, [-1, 1])
        if column.shape[0] == rows:
            return column
        return self._op("Mul", [column, self._constant(np.ones((rows, 1)))], [rows, 1])

    def _column(self, tensor: gs.Tensor, shape: list[int]) -> gs.Tensor:
        if isinstance(tensor, gs.Constant):
            return self._constant(tensor.values.reshape(shape))
        count = prod(tensor.shape)
        made = [count if side == -1 else side for side in shape]
        sides = constant(f"{self.prefix}/{len(self.graph.nodes)}/shape", made, np.int64)
        return self._op("Reshape", [tensor, sides], made)

    def _constant(self, values: np.ndarray) -> gs.Constant:
        self.constants += 1
        return constant(
            f"{self.prefix}/constant{self.constants}", np.ascontiguousarray(values), self.dtype
        )

    def _op(
        self, op: str, inputs: list[gs.Tensor], shape: list[int], **attrs: object
    ) -> gs.Variable:
        name = f"{self.prefix}/{op}.{len(self.graph.nodes)}"
        made = append(self.graph, op, inputs, name, self.dtype, **attrs)
        made.shape = shape
        return made


def _settings(conv: gs.Node) -> tuple[object, ...]:
    plain = {"strides": [1, 1], "pads": [0] * 4, "dilations": [1, 1], "auto_pad": "NOTSET"}
    return tuple(tuple(conv.attrs.get(key, value)) for key, value in plain.items())


def _is_pointwise(conv: gs.Node) -> bool:
    plain = (
        _settings(conv)[:3] == ((1, 1), (0, 0, 0, 0), (1, 1)) and conv.attrs.get("group", 1) == 1
    )
    return plain and list(conv.inputs[1].shape[2:]) == [1, 1] and _is_constant(conv.inputs[2:])


def _is_constant(tensors: list[gs.Tensor]) -> bool:
    return all(isinstance(tensor, gs.Constant) for tensor in tensors)


def _is_gate(tensor: gs.Tensor) -> bool:
    """A number, or one a channel, of the whole image."""
    shape = tensor.shape
    if shape is None:
        return False
    return len(shape) == 4 and shape[0] == 1 and list(shape[2:]) == [1, 1]

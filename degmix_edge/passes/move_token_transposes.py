"""Transpose maps to tokens, and tokens to maps, while they have four axes.

Transformers read a map `(N, C, H, W)` as tokens `(N, H W, C)`. Exporters join two axes first and
transpose the three that are left, which moves all numbers in memory. A runtime whose convolutions
keep channels last has a map in the order `(N, H, W, C)` already. There the transpose of four axes
costs nothing, and joining two of them costs nothing anywhere.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from degmix_edge.graph.model import append, constant
from degmix_edge.passes._base import Pass

SWAP, TO_LAST, TO_FIRST = [0, 2, 1], [0, 2, 3, 1], [0, 3, 1, 2]


class MoveTokenTransposes(Pass):
    """`Reshape -> Transpose` of a map, and `Transpose -> Reshape` to one, change their places."""

    def run(self, graph: gs.Graph) -> int:
        swaps = [n for n in graph.nodes if n.op == "Transpose" and n.attrs.get("perm") == SWAP]
        return sum(_to_tokens(graph, node) or _to_map(graph, node) for node in swaps)


def _to_tokens(graph: gs.Graph, swap: gs.Node) -> bool:
    flat = swap.inputs[0]
    join = flat.inputs[0] if flat.inputs else None
    if join is None or join.op != "Reshape" or not _joins(join.inputs[0].shape, flat.shape):
        return False
    image = join.inputs[0]
    n, c, height, width = image.shape
    last = append(graph, "Transpose", [image], f"{swap.name}/last", image.dtype, perm=TO_LAST)
    last.shape = [n, height, width, c]
    sizes = constant(f"{swap.name}/sizes", [n, height * width, c], np.int64)
    swap.op, swap.attrs, swap.inputs = "Reshape", {}, [last, sizes]
    return True


def _to_map(graph: gs.Graph, swap: gs.Node) -> bool:
    (tokens,), (flat,) = swap.inputs, swap.outputs
    part = flat.outputs[0] if len(flat.outputs) == 1 and flat not in graph.outputs else None
    if part is None or part.op != "Reshape" or not _joins(part.outputs[0].shape, flat.shape):
        return False
    n, c, height, width = part.outputs[0].shape
    sizes = constant(f"{swap.name}/sizes", [n, height, width, c], np.int64)
    last = append(graph, "Reshape", [tokens, sizes], f"{swap.name}/last", tokens.dtype)
    last.shape = [n, height, width, c]
    part.op, part.attrs, part.inputs = "Transpose", {"perm": TO_FIRST}, [last]
    return True


def _joins(image: list[int | str] | None, flat: list[int | str] | None) -> bool:
    """Whether `(N, C, H, W)` becomes `(N, C, H W)`, with known sides."""
    if image is None or flat is None or len(image) != 4:
        return False
    n, c, height, width = image
    if not isinstance(height, int) or not isinstance(width, int):
        return False
    return list(flat) == [n, c, height * width]

"""Rewrite the last resizes of a network, those of its heads, as two products with constants.

A bilinear resize is linear, and rows and columns part: `Y = D X R` for each plane `X (h, w)`, with
`D (H, h)` and `R (w, W)`, which have two numbers for each place of the result. CPU backends run
these products at the speed of their matrix kernels, and a resize of a few planes much slower.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from degmix_edge.graph.model import append, constant
from degmix_edge.passes._base import Pass

PRODUCTS = ("Conv", "ConvTranspose", "DeformConv", "MatMul", "Gemm", "Einsum")
"""A resize with one of these behind it is none of a head."""
CENTRES = ("half_pixel", "pytorch_half_pixel")
MOST = 96
"""Multiply-adds for each number of the result; with more of them, the resize is the faster one."""


class ResizeToMatmul(Pass):
    """Bilinear `Resize` nodes with no product behind them become `MatMul, MatMul`."""

    def run(self, graph: gs.Graph) -> int:
        inner = _before_products(graph)
        chosen = [n for n in graph.nodes if id(n) not in inner and _is_bilinear(n) and _is_cheap(n)]
        for node in chosen:
            _replace(graph, node)
        return len(chosen)


def _before_products(graph: gs.Graph) -> set[int]:
    """The nodes, by identity, whose results reach a product or a branch."""
    graph.toposort()
    inner: set[int] = set()
    for node in reversed(graph.nodes):
        readers = [reader for out in node.outputs for reader in out.outputs]
        if any(_is_product(reader) or id(reader) in inner for reader in readers):
            inner.add(id(node))
    return inner


def _is_product(node: gs.Node) -> bool:
    return node.op in PRODUCTS or any(isinstance(v, gs.Graph) for v in node.attrs.values())


def _is_bilinear(node: gs.Node) -> bool:
    if node.op != "Resize" or node.attrs.get("mode") != "linear" or node.attrs.get("antialias"):
        return False
    shapes = (node.inputs[0].shape, node.outputs[0].shape)
    if any(s is None or len(s) != 4 or not all(isinstance(n, int) for n in s) for s in shapes):
        return False
    before, after = shapes
    is_plain = node.inputs[0].dtype == np.float32 and not node.attrs.get("exclude_outside")
    centres = node.attrs.get("coordinate_transformation_mode", "half_pixel") in CENTRES
    # A side of one pixel is another case of `pytorch_half_pixel`.
    grows = all(new >= old and new > 1 for old, new in zip(before[2:], after[2:], strict=True))
    return (
        is_plain and centres and grows and list(before[:2]) == list(after[:2]) and _has_ratio(node)
    )


def _has_ratio(node: gs.Node) -> bool:
    """Whether the steps between samples are what the two sizes say, and the sides all are there."""
    if "axes" in node.attrs or node.attrs.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        return False
    scales = node.inputs[2] if len(node.inputs) > 2 else None
    if scales is None or scales.is_empty():
        return True
    ratio = np.divide(node.outputs[0].shape, node.inputs[0].shape)
    return isinstance(scales, gs.Constant) and np.array_equal(scales.values, ratio)


def _is_cheap(node: gs.Node) -> bool:
    (_, _, h, w), (_, _, height, _) = node.inputs[0].shape, node.outputs[0].shape
    return bool(h * w / height + h <= MOST)


def _replace(graph: gs.Graph, node: gs.Node) -> None:
    values, out, name = node.inputs[0], node.outputs[0], node.name
    (_, _, h, w), (_, _, height, width) = values.shape, out.shape
    right = constant(f"{name}/right", bilinear(w, width).T)
    down = constant(f"{name}/down", bilinear(h, height))
    node.outputs.clear()
    wide = append(graph, "MatMul", [values, right], f"{name}/columns", np.float32)
    graph.nodes.append(gs.Node("MatMul", f"{name}/rows", {}, [down, wide], [out]))


def bilinear(size: int, wanted: int) -> np.ndarray:
    """Return the matrix `(wanted, size)` of a bilinear resize at half-pixel centres."""
    place = ((np.arange(wanted) + 0.5) * size / wanted - 0.5).clip(0, size - 1)
    before = np.minimum(place.astype(np.intp), max(size - 2, 0))
    matrix = np.zeros((wanted, size))
    share = place - before
    matrix[np.arange(wanted), before] = 1 - share
    matrix[np.arange(wanted), np.minimum(before + 1, size - 1)] += share
    return matrix

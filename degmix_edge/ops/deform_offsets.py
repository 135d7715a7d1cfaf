"""The offsets of DeMT's deformable sampling: a 3x3 convolution of 18 maps with two groups.

`DegmixDeformOffsets` is that convolution without its positions. Networks add each pixel's own
position to the maps first; what the convolution makes of those is, inside the map, an affine
function of y for the first half of the channels and of x for the second, with other coefficients
along each border. `position_table` computes it, and `DegmixDeformSampleAt` adds it in FP32.
Nine maps a group are few for a library's convolution, and offsets are half of all bytes that the
sampling reads, so this convolution should cost no more than writing them. The kernel takes the
weights in the order in which its lanes read them.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx

OP = "DegmixDeformOffsets"
MAPS, PADDED_MAPS, TAPS, DEPTH = 9, 10, 9, 96
CHANNELS = 16
"""What the channels must be a multiple of."""


def pack(weight: np.ndarray) -> np.ndarray:
    """The convolution's weight `(2 C, 9, 3, 3)` as the kernel takes it, `(2 C, 96)`.

    Rows are depths of 9 taps times 10 maps, of which the last is zero, and 6 zeros, in the order of
    tensor-core fragments of 16 rows and 16 depths: lane `4 r + q` reads eight neighbours, which are
    rows `r` and `r + 8` at depths `2 q` and the next, then both rows 8 depths further.
    """
    rows = weight.shape[0]
    by_tap = np.zeros((rows, TAPS, PADDED_MAPS), weight.dtype)
    by_tap[:, :, :MAPS] = weight.reshape(rows, MAPS, TAPS).transpose(0, 2, 1)
    padded = np.zeros((rows, DEPTH), weight.dtype)
    padded[:, : TAPS * PADDED_MAPS] = by_tap.reshape(rows, -1)
    split = padded.reshape(rows // 16, 2, 8, DEPTH // 16, 2, 4, 2)
    return np.ascontiguousarray(split.transpose(0, 3, 2, 5, 4, 1, 6)).reshape(rows, DEPTH)


def unpack(packed: np.ndarray) -> np.ndarray:
    """The weight `(2 C, 9, 3, 3)` of what `pack` gave."""
    rows = packed.shape[0]
    split = packed.reshape(rows // 16, DEPTH // 16, 8, 4, 2, 2, 2)
    matrix = split.transpose(0, 5, 2, 1, 4, 3, 6).reshape(rows, DEPTH)
    by_tap = matrix[:, : TAPS * PADDED_MAPS].reshape(rows, TAPS, PADDED_MAPS)[:, :, :MAPS]
    return by_tap.transpose(0, 2, 1).reshape(rows, MAPS, 3, 3)


def position_table(
    weight: np.ndarray, bias: np.ndarray | None, constant: np.ndarray
) -> np.ndarray | None:
    """What the expansion makes of constant maps, as an affine function of the position.

    Args:
        weight: Weight of the expansion, `(2 C, 9, 3, 3)`.
        bias: Bias of the expansion, `(2 C,)`.
        constant: Maps `(18, H, W)` that are added to the data's before it.

    Returns:
        `(9, C, 4)` float64: by border class (rows first, inner, last times columns), slope and
        intercept of dy, then of dx, along y in the first half of the channels and x in the second.
        None where the constant is no such function, or the map is smaller than 3x3.
    """
    _, height, width = constant.shape
    if min(height, width) < 3:
        return None
    lines = _lines(constant[:MAPS].swapaxes(1, 2)), _lines(constant[MAPS:])
    inside = slice(1, 3), slice(0, 3), slice(0, 2)  # taps of a first, an inner and a last row
    table = np.zeros((3, 3, weight.shape[0], 2))
    halves = np.split(weight.astype(np.float64), 2), np.split(table, 2, axis=2), lines
    for axis, (kernel, part, line) in enumerate(zip(*halves, strict=True)):
        if line is None:
            return None
        slopes, intercepts = (np.einsum("coij,o->cij", kernel, values) for values in line)
        ahead = np.arange(-1, 2)
        intercepts += slopes * (ahead[:, None] if axis == 0 else ahead)
        for row, column in itertools.product(range(3), range(3)):
            taps = (slice(None), inside[row], inside[column])
            part[row, column, :, 0] = slopes[taps].sum((1, 2))
            part[row, column, :, 1] = intercepts[taps].sum((1, 2))
    if bias is not None:
        table[..., 1] += bias
    return table.reshape(9, -1, 4)


def _lines(maps: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """Slope and intercept of each map along its last axis; None where it is no such function."""
    values = maps[:, 0].astype(np.float64)
    at = np.arange(values.shape[1])
    intercepts = values[:, 0]
    slopes = (values[:, -1] - intercepts) / at[-1]
    fitted = slopes[:, None] * at + intercepts[:, None]
    tolerance = 1e-6 * max(1.0, float(np.abs(values).max()))
    close = np.allclose(maps, fitted[:, None], rtol=0, atol=tolerance)
    return (slopes, intercepts) if close else None


def reference(maps: np.ndarray, packed: np.ndarray) -> np.ndarray:
    """Offsets `(N, 2 C, H, W)` of maps `(N, 18, H, W)`, float64: by loops over taps.

    `packed` is `pack`'s; a channel's dy comes before its dx, in pixels.
    """
    weight = unpack(packed).astype(np.float64)
    rows = len(weight)
    n, _, height, width = maps.shape
    padded = np.pad(maps.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    out = np.zeros((n, rows, height, width))
    for i, j in itertools.product(range(3), range(3)):
        seen = padded[:, :, i : i + height, j : j + width]
        for part in (0, 1):
            group = slice(part * rows // 2, (part + 1) * rows // 2)
            own = seen[:, part * MAPS : (part + 1) * MAPS]
            out[:, group] += np.einsum("nmhw,cm->nchw", own, weight[group, :, i, j])
    return out


def functions() -> list[onnx.FunctionProto]:
    """The operator in standard ONNX."""
    from onnx.parser import parse_function

    return [parse_function(_BODY)]


_BODY = """<domain: "degmix", opset_import: ["" : 20]>
DegmixDeformOffsets <channels, plugin_version, plugin_namespace> (maps, packed) => (offset)
{
    # Weights from fragment order to (2 C, 9, 3, 3).
    split = Constant <value_ints = [-1, 6, 8, 4, 2, 2, 2]> ()
    fragments = Reshape (packed, split)
    ordered = Transpose <perm = [0, 5, 2, 1, 4, 3, 6]> (fragments)
    depth = Constant <value_ints = [-1, 96]> ()
    matrix = Reshape (ordered, depth)
    zero = Constant <value_ints = [0]> ()
    one = Constant <value_ints = [1]> ()
    two = Constant <value_ints = [2]> ()
    nine = Constant <value_ints = [9]> ()
    ninety = Constant <value_ints = [90]> ()
    used = Slice (matrix, zero, ninety, one)
    taps = Constant <value_ints = [-1, 9, 10]> ()
    by_tap = Reshape (used, taps)
    by_map = Slice (by_tap, zero, nine, two)
    turned = Transpose <perm = [0, 2, 1]> (by_map)
    kernel = Constant <value_ints = [-1, 9, 3, 3]> ()
    weight_raw = Reshape (turned, kernel)
    weight = CastLike (weight_raw, maps)
    offset = Conv <group = 2, pads = [1, 1, 1, 1]> (maps, weight)
}"""

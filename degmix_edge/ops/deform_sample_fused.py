"""DeMT's spatial-aware half of a mixer block: offsets are expanded where they are used.

`DegmixDeformSampleFused` samples; `DegmixDeformMix` goes on with the 1x1 product, bias, GELU, the
affine of the batch norm and the residual. Offsets are a 3x3 convolution with two groups of 9 maps
each, plus what the same convolution makes of a pixel's own position: inside the map an affine
function of y for the first half of the channels and of x for the second, with other coefficients
along each border. The kernels take the weights in the order in which their lanes read them.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

from degmix_edge.ops.deform_sample import position_offsets

if TYPE_CHECKING:
    import onnx

OP = "DegmixDeformSampleFused"
MIX_OP = "DegmixDeformMix"
MAPS, PADDED_MAPS, TAPS, DEPTH = 9, 10, 9, 96
CHANNELS, MIX_CHANNELS = 8, 64
"""What the channels must be a multiple of, without and with the product."""


def pack(matrix: np.ndarray) -> np.ndarray:
    """`(rows, depth)`, multiples of 8 and 16, in the order of tensor-core fragments, same shape.

    Lane `4 r + q` of fragment `f` at step `s` reads four neighbours: row `8 f + r`, columns
    `16 s + 2 q` and the next, then both 8 columns further.
    """
    rows, depth = matrix.shape
    split = matrix.reshape(rows // 8, 8, depth // 16, 2, 4, 2)
    return np.ascontiguousarray(split.transpose(0, 2, 1, 4, 3, 5)).reshape(rows, depth)


def pack_expansion(weight: np.ndarray) -> np.ndarray:
    """The expansion's weight `(2 C, 9, 3, 3)` as the kernel takes it, `(2 C, 96)`."""
    rows = weight.shape[0]
    padded = np.zeros((rows, DEPTH), weight.dtype)
    by_tap = np.zeros((rows, TAPS, PADDED_MAPS), weight.dtype)
    by_tap[:, :, :MAPS] = weight.reshape(rows, MAPS, TAPS).transpose(0, 2, 1)
    padded[:, : TAPS * PADDED_MAPS] = by_tap.reshape(rows, -1)
    return pack(padded)


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


def expand(maps: np.ndarray, expansion: np.ndarray, position: np.ndarray) -> np.ndarray:
    """Offsets `(N, 2 C, H, W)` of maps `(N, 18, H, W)`, float64: by loops over taps."""
    rows = expansion.shape[0]
    split = expansion.reshape(rows // 8, DEPTH // 16, 8, 4, 2, 2).astype(np.float64)
    matrix = split.transpose(0, 2, 1, 4, 3, 5).reshape(rows, DEPTH)
    n, _, height, width = maps.shape
    padded = np.pad(maps.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    out = np.zeros((n, rows, height, width))
    for tap in range(TAPS):
        i, j = divmod(tap, 3)
        seen = padded[:, :, i : i + height, j : j + width]
        for part in (0, 1):
            channels = slice(part * rows // 2, (part + 1) * rows // 2)
            weights = matrix[channels, tap * PADDED_MAPS : tap * PADDED_MAPS + MAPS]
            out[:, channels] += np.einsum(
                "nmhw,cm->nchw", seen[:, part * MAPS : (part + 1) * MAPS], weights
            )
    out += position_offsets(position, height, width)
    return out


def reference(
    value: np.ndarray, maps: np.ndarray, expansion: np.ndarray, position: np.ndarray
) -> np.ndarray:
    """Value `(N, C, H, W)` at the offsets that `maps` `(N, 18, H, W)` expand to, float64.

    `expansion` is `pack_expansion`'s, `position` is `position_table`'s.
    """
    from degmix_edge.ops.deform_sample import reference as sample

    return sample(value, expand(maps, expansion, position))


def functions() -> list[onnx.FunctionProto]:
    """Both operators in standard ONNX, and the plugin's `DegmixDeformSample`."""
    from onnx.parser import parse_function

    return [parse_function(_SAMPLE), parse_function(_MIX)]


_HEAD = """<domain: "degmix", opset_import: ["" : 20, "degmix" : 1]>
"""
_SAMPLE = (
    _HEAD
    + """DegmixDeformSampleFused <channels, plugin_version, plugin_namespace>
(value, maps, expansion, position) => (out)
{
    # Weights from fragment order to (2 C, 9, 3, 3).
    split = Constant <value_ints = [-1, 6, 8, 4, 2, 2]> ()
    fragments = Reshape (expansion, split)
    ordered = Transpose <perm = [0, 2, 1, 4, 3, 5]> (fragments)
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
    expanded_raw = Conv <group = 2, pads = [1, 1, 1, 1]> (maps, weight)
    out = degmix.DegmixDeformSampleAt <channels : int = @channels, plugin_version = "1",
        plugin_namespace = "degmix"> (value, expanded_raw, position)
}"""
)
_MIX = (
    _HEAD
    + """DegmixDeformMix <channels, activation, residual, plugin_version, plugin_namespace>
(value, maps, expansion, position, product, bias, scale, shift) => (out)
{
    sampled = degmix.DegmixDeformSampleFused <channels : int = @channels, plugin_version = "1",
        plugin_namespace = "degmix"> (value, maps, expansion, position)
    sampled_f = Cast <to = 1> (sampled)
    shape = Shape (value)
    one = Constant <value_ints = [1]> ()
    two = Constant <value_ints = [2]> ()
    zero = Constant <value_ints = [0]> ()
    four = Constant <value_ints = [4]> ()
    sixteen = Constant <value_ints = [16]> ()
    eight = Constant <value_ints = [8]> ()
    c = Slice (shape, one, two, zero)
    steps = Div (c, sixteen)
    fragments = Div (c, eight)
    split = Concat <axis = 0> (fragments, steps, eight, four, two, two)
    lanes = Reshape (product, split)
    ordered = Transpose <perm = [0, 2, 1, 4, 3, 5]> (lanes)
    kernel = Concat <axis = 0> (c, c, one, one)
    weight_raw = Reshape (ordered, kernel)
    weight = Cast <to = 1> (weight_raw)
    mixed = Conv (sampled_f, weight, bias)
    bent = Gelu (mixed)
    spatial = Constant <value_ints = [1, 2]> ()
    scale_3 = Unsqueeze (scale, spatial)
    shift_3 = Unsqueeze (shift, spatial)
    stretched = Mul (bent, scale_3)
    moved = Add (stretched, shift_3)
    value_f = Cast <to = 1> (value)
    sum = Add (moved, value_f)
    out = CastLike (sum, value)
}"""
)

"""Sample each channel at its own pixel offsets. Dai et al. 2017, eq. 3 and 4."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx

OP = "DegmixDeformSample"
AT_OP = "DegmixDeformSampleAt"
"""The same with a third input: what a pixel's own position adds to its offsets."""


def reference(value: np.ndarray, offset: np.ndarray) -> np.ndarray:
    """Value `(N, C, H, W)` at offsets `(N, 2 C, h, w)` to `(N, C, h, w)`, float64.

    Bilinear, zeros outside; channel `2 c` of the offsets is dy and `2 c + 1` is dx, in pixels. A
    NaN samples outside.
    """
    n, c, height, width = value.shape
    _, _, out_h, out_w = offset.shape
    out = np.zeros((n, c, out_h, out_w))
    for index in np.ndindex(n, c, out_h, out_w):
        image, channel, row, column = index
        y = row + float(offset[image, 2 * channel, row, column])
        x = column + float(offset[image, 2 * channel + 1, row, column])
        if not (-1 < y < height and -1 < x < width):
            continue
        y0, x0 = int(np.floor(y)), int(np.floor(x))
        for corner_y, share_y in ((y0, 1 - (y - y0)), (y0 + 1, y - y0)):
            for corner_x, share_x in ((x0, 1 - (x - x0)), (x0 + 1, x - x0)):
                if 0 <= corner_y < height and 0 <= corner_x < width:
                    corner = float(value[image, channel, corner_y, corner_x])
                    out[index] += share_y * share_x * corner
    return out


def position_offsets(position: np.ndarray, height: int, width: int) -> np.ndarray:
    """Offsets `(2 C, H, W)` in pixels of a table `(9, C, 4)` of positions, float64.

    By border class, which is rows first, inner, last times columns: slope and intercept of dy, then
    of dx, along y in the first half of the channels and along x in the second.
    """
    channels = position.shape[1]
    out = np.zeros((2 * channels, height, width))
    for y, x in np.ndindex(height, width):
        row = 0 if y == 0 else 2 if y == height - 1 else 1
        column = 0 if x == 0 else 2 if x == width - 1 else 1
        line = position[3 * row + column].astype(np.float64)
        along = np.where(2 * np.arange(channels) < channels, y, x)
        out[0::2, y, x] = line[:, 0] * along + line[:, 1]
        out[1::2, y, x] = line[:, 2] * along + line[:, 3]
    return out


def functions() -> list[onnx.FunctionProto]:
    """The operator for floats, and for INT8 values with rounding to their own grid.

    A depthwise deformable convolution in float32 whose weights are ones.
    """
    from onnx.parser import parse_function

    from degmix_edge.ops import DOMAIN, INT8_DOMAIN

    return [
        parse_function(_BODY % (DOMAIN, "whole = Identity (sampled)")),
        parse_function(_BODY % (INT8_DOMAIN, "whole = Round (sampled)")),
        parse_function(_AT_BODY.format(domain=DOMAIN)),
        parse_function(_AT_BODY.format(domain=INT8_DOMAIN)),
    ]


_BODY = """<domain: "%s", opset_import: ["" : 20]>
DegmixDeformSample <channels, plugin_version, plugin_namespace> (value, offset) => (out)
{
    floats = Cast <to = 1> (value)
    pixels = Cast <to = 1> (offset)
    count = Shape <start = 1, end = 2> (value)
    rest = Constant <value_ints = [1, 1, 1]> ()
    shape = Concat <axis = 0> (count, rest)
    ones = ConstantOfShape <value = float[1] {1.0}> (shape)
    sampled = DeformConv <group : int = @channels, offset_group : int = @channels>
        (floats, ones, pixels)
    %s
    out = CastLike (whole, value)
}"""
_AT_BODY = """<domain: "{domain}", opset_import: ["" : 20, "{domain}" : 1]>
DegmixDeformSampleAt <channels, plugin_version, plugin_namespace> (value, offset, position) => (out)
{{
    offset_f = Cast <to = 1> (offset)
    zero = Constant <value_ints = [0]> ()
    one = Constant <value_ints = [1]> ()
    two = Constant <value_ints = [2]> ()
    # The position's part: the border class of each pixel picks a line of the table.
    shape = Shape (value)
    channels_1 = Slice (shape, one, two, zero)
    three = Constant <value_ints = [3]> ()
    four = Constant <value_ints = [4]> ()
    height_1 = Slice (shape, two, three, zero)
    width_1 = Slice (shape, three, four, zero)
    begin = Constant <value_int = 0> ()
    step = Constant <value_int = 1> ()
    height = Squeeze (height_1)
    width = Squeeze (width_1)
    channels_0 = Squeeze (channels_1)
    ys = Range (begin, height, step)
    xs = Range (begin, width, step)
    cs = Range (begin, channels_0, step)
    last_y = Sub (height, step)
    last_x = Sub (width, step)
    y_from_0 = Cast <to = 7> (ys)
    top = Greater (ys, begin)
    top_class = Cast <to = 7> (top)
    bottom = Equal (ys, last_y)
    bottom_class = Cast <to = 7> (bottom)
    y_class = Add (top_class, bottom_class)
    left = Greater (xs, begin)
    left_class = Cast <to = 7> (left)
    right = Equal (xs, last_x)
    right_class = Cast <to = 7> (right)
    x_class = Add (left_class, right_class)
    y_line = Mul (y_class, three)
    y_column = Unsqueeze (y_line, one)
    border = Add (y_column, x_class)
    lines = Gather <axis = 0> (position, border)
    lines_f = Cast <to = 1> (lines)
    slope_dy, shift_dy, slope_dx, shift_dx = Split <axis = 3, num_outputs = 4> (lines_f)
    half = Div (channels_0, two)
    is_first = Less (cs, half)
    cs_axes = Constant <value_ints = [0, 1, 3]> ()
    first = Unsqueeze (is_first, cs_axes)
    ys_f = Cast <to = 1> (y_from_0)
    xs_f = Cast <to = 1> (xs)
    ys_axes = Constant <value_ints = [1, 2, 3]> ()
    xs_axes = Constant <value_ints = [0, 2, 3]> ()
    ys_4 = Unsqueeze (ys_f, ys_axes)
    xs_4 = Unsqueeze (xs_f, xs_axes)
    along = Where (first, ys_4, xs_4)
    dy_slope = Mul (slope_dy, along)
    dy = Add (dy_slope, shift_dy)
    dx_slope = Mul (slope_dx, along)
    dx = Add (dx_slope, shift_dx)
    pairs = Concat <axis = 3> (dy, dx)
    planes = Transpose <perm = [2, 3, 0, 1]> (pairs)
    minus = Constant <value_ints = [-1]> ()
    flat = Concat <axis = 0> (minus, height_1, width_1)
    fixed = Reshape (planes, flat)
    offset_pixels = Add (offset_f, fixed)
    out = {domain}.DegmixDeformSample <channels : int = @channels, plugin_version = "1",
        plugin_namespace = "degmix"> (value, offset_pixels)
}}"""

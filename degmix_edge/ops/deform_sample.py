"""Sample each channel at its own pixel offsets. Dai et al. 2017, eq. 3 and 4."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import onnx

OP = "DegmixDeformSample"


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


def functions() -> list[onnx.FunctionProto]:
    """The operator for floats, and for INT8 values with rounding to their own grid.

    A depthwise deformable convolution in float32 whose weights are ones.
    """
    from onnx.parser import parse_function

    from degmix_edge.ops import DOMAIN, INT8_DOMAIN

    return [
        parse_function(_BODY % (DOMAIN, "whole = Identity (sampled)")),
        parse_function(_BODY % (INT8_DOMAIN, "whole = Round (sampled)")),
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

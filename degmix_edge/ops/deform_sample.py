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
    """The operator for floats, and for INT8 values with rounding to their own grid."""
    from onnx.helper import make_node

    from degmix_edge.ops import DOMAIN, INT8_DOMAIN

    rounded = [make_node("Round", ["sampled"], ["whole"])]
    rounded.append(make_node("CastLike", ["whole", "value"], ["out"]))
    return [
        _function(DOMAIN, [], "value", "out", []),
        _function(
            INT8_DOMAIN,
            [make_node("Cast", ["value"], ["floats"], to=1)],
            "floats",
            "sampled",
            rounded,
        ),
    ]


def _function(
    domain: str, before: list[onnx.NodeProto], value: str, out: str, after: list[onnx.NodeProto]
) -> onnx.FunctionProto:
    """A depthwise deformable convolution whose weights are ones; `channels` is an attribute."""
    from onnx import AttributeProto
    from onnx.helper import make_function, make_node, make_opsetid, make_tensor

    deform = make_node("DeformConv", [value, "ones", "offset"], [out])
    for name in ("group", "offset_group"):
        attribute = AttributeProto(name=name, ref_attr_name="channels", type=AttributeProto.INT)
        deform.attribute.append(attribute)
    one = make_tensor("one", 1, [1], [1.0])
    nodes = [
        *before,
        make_node("Shape", ["value"], ["count"], start=1, end=2),
        make_node("Constant", [], ["rest"], value_ints=[1, 1, 1]),
        make_node("Concat", ["count", "rest"], ["shape"], axis=0),
        make_node("ConstantOfShape", ["shape"], ["ones"], value=one),
        deform,
        *after,
    ]
    attributes = ["channels", "plugin_version", "plugin_namespace"]
    opsets = [make_opsetid("", 20)]
    return make_function(domain, OP, ["value", "offset"], ["out"], nodes, opsets, attributes)

"""Deformable convolution, modulated or not. Dai et al. 2017, eq. 2; Zhu et al. 2019, eq. 1."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import onnx

OP = "DegmixDeformConv2d"
ATTRIBUTES = ("kernel_shape", "strides", "pads", "dilations", "group", "offset_group")


def reference(
    value: np.ndarray,
    weight: np.ndarray,
    offset: np.ndarray,
    bias: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    **attrs: Any,
) -> np.ndarray:
    """Value `(N, C, H, W)`, weight `(O, C / group, kH, kW)` to `(N, O, h, w)`, float64.

    Offsets are `(N, 2 G kH kW, h, w)` in pixels, dy before dx; the mask is `(N, G kH kW, h, w)`;
    `attrs` are those of ONNX's DeformConv. Each tap is `deform_sample.reference` of its channels.
    """
    from degmix_edge.ops.deform_sample import reference as sample

    n, c = value.shape[:2]
    outputs, per_group, k_h, k_w = weight.shape
    stride, pads = attrs.get("strides", [1, 1]), attrs.get("pads", [0] * 4)
    dilation = attrs.get("dilations", [1, 1])
    groups, offset_groups = attrs.get("group", 1), attrs.get("offset_group", 1)
    out_h, out_w = offset.shape[2:]
    rows, columns = np.arange(out_h)[:, None], np.arange(out_w)
    taps = k_h * k_w
    out = np.zeros((n, outputs, out_h, out_w))
    for tap in range(taps):
        i, j = divmod(tap, k_w)
        # Where the tap lies without an offset, as an offset from the output's own pixel.
        dy = rows * stride[0] - pads[0] + i * dilation[0] - rows
        dx = columns * stride[1] - pads[1] + j * dilation[1] - columns
        moved = np.empty((n, 2 * c, out_h, out_w))
        share = np.ones((n, c, out_h, out_w))
        for channel in range(c):
            at = (channel // (c // offset_groups)) * taps + tap
            moved[:, 2 * channel] = offset[:, 2 * at] + dy
            moved[:, 2 * channel + 1] = offset[:, 2 * at + 1] + dx
            if mask is not None:
                share[:, channel] = mask[:, at]
        samples = share * sample(value, moved)
        for o in range(outputs):
            first = (o // (outputs // groups)) * per_group
            part = samples[:, first : first + per_group]
            out[:, o] += np.einsum("nchw,c->nhw", part, weight[o, :, i, j].astype(np.float64))
    return out if bias is None else out + bias.reshape(1, -1, 1, 1)


def functions() -> list[onnx.FunctionProto]:
    """The standard operator, under the plugin's name, with weights `(O, kH, kW, C / group)`.

    With channels last, a step of the plugin's product is a run of memory. Offsets and mask are
    float32 whatever the values are. The INT8 form takes int8 values of `value_scale` and int8
    weights with a scale for each output; it gives the bias's type. A third form stores int8 of
    `output_scale` behind an `activation` that is `none` or `relu`.
    """
    from onnx.parser import parse_function

    from degmix_edge.ops import DOMAIN, INT8_DOMAIN, INT8_OUT_DOMAIN

    names = ", ".join(ATTRIBUTES)
    bodies = (_BODY, _INT8_BODY + _AS_THE_BIAS, _INT8_BODY + _INT8_OUT)
    domains = (DOMAIN, INT8_DOMAIN, INT8_OUT_DOMAIN)
    more = ("", "", "activation, output_scale, ")
    return [
        parse_function(body.format(domain=domain, names=names, more=extra, pairs=_PAIRS))
        for body, domain, extra in zip(bodies, domains, more, strict=True)
    ]


_PAIRS = ", ".join(
    f"{name} : {'int' if 'group' in name else 'ints'} = @{name}" for name in ATTRIBUTES
)
_BODY = """<domain: "{domain}", opset_import: ["" : 20]>
DegmixDeformConv2d <{names}, mask, plugin_version, plugin_namespace>
(value, weight, offset, bias, modulation) => (out)
{{
    standard = Transpose <perm = [0, 3, 1, 2]> (weight)
    floats = Cast <to = 1> (value)
    weights = Cast <to = 1> (standard)
    biases = Cast <to = 1> (bias)
    sum = DeformConv <{pairs}> (floats, weights, offset, biases, modulation)
    out = CastLike (sum, value)
}}"""
_INT8_BODY = """<domain: "{domain}", opset_import: ["" : 20]>
DegmixDeformConv2d <{names}, mask, value_scale, {more}plugin_version, plugin_namespace>
(value, weight, offset, bias, weight_scale, modulation) => (out)
{{
    standard = Transpose <perm = [0, 3, 1, 2]> (weight)
    scale = Constant <value_float : float = @value_scale> ()
    steps = Cast <to = 1> (value)
    floats = Mul (steps, scale)
    weight_steps = Cast <to = 1> (standard)
    axes = Constant <value_ints = [1, 2, 3]> ()
    scales = Unsqueeze (weight_scale, axes)
    weights = Mul (weight_steps, scales)
    biases = Cast <to = 1> (bias)
    sum = DeformConv <{pairs}> (floats, weights, offset, biases, modulation)
    """
_AS_THE_BIAS = """
    out = CastLike (sum, bias)
}}"""
_INT8_OUT = """
    name = Constant <value_string : string = @activation> ()
    relu = Constant <value_string = "relu"> ()
    is_relu = Equal (name, relu)
    positive = Relu (sum)
    active = Where (is_relu, positive, sum)
    out_scale = Constant <value_float : float = @output_scale> ()
    out_steps = Div (active, out_scale)
    whole = Round (out_steps)
    largest = Constant <value_float = 127.0> ()
    smallest = Neg (largest)
    inside = Clip (whole, smallest, largest)
    out = Cast <to = 3> (inside)
}}"""

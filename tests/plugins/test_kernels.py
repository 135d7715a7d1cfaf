"""The CUDA kernels' own sources, run on the processor, against slow references.

The emulation is strict: see plugins/emulation/emulation.h. Cases run with threads in order and in
reverse, and must give the same bits: a missing barrier would not. `plugins/bench/device.sh check`
runs the same tests on a card, see on_card.py.
"""

import json
import re
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from launches import convolution, convolutions, native, sample
from launches import offsets as convolved
from onnx.backend.test.case.node import deformconv
from torchvision.ops import deform_conv2d as by_torchvision

from degmix_edge.ops import deform_conv2d, deform_offsets, deform_sample

pytestmark = pytest.mark.slow

MEASURED = Path(__file__).parents[2] / "plugins" / "bench" / "h100.json"
FEW = {"max_examples": 25, "deadline": None, "derandomize": True}
WILD = [np.nan, np.inf, -np.inf, 1e30, -1e30, 3e9, -1.0, -0.9999999, 0.5]


def twice(kernels, launch):
    """A launch with threads in order and in reverse: equal bits. A card has an order of its own."""
    set_order = getattr(kernels.library, "degmix_emulation_set_order", lambda order: None)
    found = []
    for order in (0, 1):
        set_order(order)
        out = launch()
        found.append(out if isinstance(out, list) else [out])
    set_order(0)
    for a, b in zip(*found, strict=True):
        assert a.tobytes() == b.tobytes(), "the order of threads changes the result"
    return found[0] if isinstance(out, list) else found[0][0]


def offsets(rng, shape, spread, dtype=np.float32):
    """Normal ones, with some at and far beyond every border, infinite and none."""
    out = (spread * rng.standard_normal(shape)).astype(np.float64)
    if out.size >= 2 * len(WILD):
        places = rng.choice(out.size, len(WILD), replace=False)
        out.flat[places] = WILD
    with np.errstate(over="ignore"):
        return out.astype(dtype)


def relative(got, want):
    return np.linalg.norm(got.astype(np.float64) - want) / max(np.linalg.norm(want), 1e-12)


sizes = st.integers(1, 20)


@settings(**FEW)
@given(
    seed=st.integers(0, 9999),
    n=st.sampled_from([1, 2, 33]),
    c=st.integers(1, 4),
    shape=st.tuples(sizes, sizes),
    out=st.one_of(st.none(), st.tuples(sizes, sizes)),
    kind=st.sampled_from([np.float32, np.float16, np.int8]),
    offset_kind=st.sampled_from([np.float32, np.float16]),
    variant=st.sampled_from([native.SHARED, native.DIRECT, native.COMPACT]),
)
def test_sampling_is_its_reference(kernels, seed, n, c, shape, out, kind, offset_kind, variant):
    rng = np.random.default_rng(seed)
    c = 1 if n == 33 else c
    whole = 40 if kind is np.int8 else 1
    value = (whole * rng.standard_normal((n, c, *shape))).clip(-127, 127).astype(kind)
    offset = offsets(rng, (n, 2 * c, *(out or shape)), max(shape), offset_kind)
    (got,) = twice(kernels, lambda: sample(kernels, [(value, offset)], variant))
    want = deform_sample.reference(value.astype(np.float64), offset)
    assert np.isfinite(got.astype(np.float64)).all()
    # A float32 coordinate of 20 px is off by 1e-6 of a pixel, between values up to 5 apart.
    allowed = {np.float32: 2e-5, np.float16: 3e-3, np.int8: 0.51}[kind]
    assert np.abs(got - want).max() <= allowed


@pytest.mark.parametrize("kind", [np.float32, np.float16, np.int8])
@pytest.mark.parametrize(
    "shape", [(3, 16), (5, 48), (1, 32), (40, 8), (2, 144), (2, 600), (2, 1040)]
)
def test_rows_of_whole_vectors_and_wide_rows(kernels, kind, shape):
    """Planes are filled by vectors where rows are whole ones; a block has at most 512 columns."""
    rng = np.random.default_rng(shape[1])
    whole = 40 if kind is np.int8 else 1
    value = (whole * rng.standard_normal((1, 2, *shape))).clip(-127, 127).astype(kind)
    offset = offsets(rng, (1, 4, *shape), 4, np.float16)
    for variant in (native.SHARED, native.DIRECT, native.COMPACT):
        (got,) = twice(kernels, lambda v=variant: sample(kernels, [(value, offset)], v))
        want = deform_sample.reference(value.astype(np.float64), offset)
        # A coordinate of 1000 px is rounded to 6e-5 of a pixel.
        allowed = {np.float32: 1e-3, np.float16: 5e-3, np.int8: 0.51}[kind]
        assert np.abs(got - want).max() <= allowed


def test_several_maps_go_in_one_launch(kernels):
    rng = np.random.default_rng(0)
    pairs = [
        (rng.standard_normal((2, 3, 5, 6)).astype(np.float16), offsets(rng, (2, 6, 5, 6), 3))
        for _ in range(8)
    ]
    for got, (value, offset) in zip(
        twice(kernels, lambda: sample(kernels, pairs)), pairs, strict=True
    ):
        assert relative(got, deform_sample.reference(value, offset)) < 5e-4


@settings(**FEW)
@given(
    seed=st.integers(0, 9999),
    batch=st.sampled_from([1, 2]),
    group=st.sampled_from([1, 2]),
    groups=st.sampled_from([1, 2, 4]),
    per_group=st.sampled_from([2, 8, 24]),
    outputs=st.sampled_from([2, 6, 70]),
    kernel=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    stride=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    pads=st.tuples(*[st.integers(0, 2)] * 4),
    modulated=st.booleans(),
    kind=st.sampled_from([np.float32, np.float16]),
    last=st.booleans(),
)
def test_convolution_is_its_reference(
    kernels, seed, batch, group, groups, per_group, outputs, kernel, stride, dilation, pads,
    modulated, kind, last,
):  # fmt: skip
    rng = np.random.default_rng(seed)
    c, size = per_group * max(group, groups), (7, 9)
    out = [
        (size[i] + pads[i] + pads[i + 2] - dilation[i] * (kernel[i] - 1) - 1) // stride[i] + 1
        for i in (0, 1)
    ]
    value = rng.standard_normal((batch, c, *size)).astype(kind)
    weight = rng.standard_normal((outputs, c // group, *kernel)).astype(kind)
    taps = kernel[0] * kernel[1]
    offset = offsets(rng, (batch, 2 * groups * taps, *out), 2)
    bias = rng.standard_normal(outputs).astype(kind)
    mask = rng.random((batch, groups * taps, *out)).astype(np.float32) if modulated else None
    attrs = {"group": group, "offset_group": groups, "strides": stride, "pads": pads}
    attrs["dilations"] = dilation
    got = twice(
        kernels,
        lambda: convolution(kernels, value, weight, offset, bias, mask, last=last, **attrs),
    )
    want = deform_conv2d.reference(value, weight, offset, bias, mask, **attrs)
    assert relative(got, want) < (2e-6 if kind is np.float32 else 6e-4)


def test_convolution_is_torchvisions(kernels):
    rng = np.random.default_rng(1)
    value = rng.standard_normal((2, 16, 11, 13)).astype(np.float32)
    weight = rng.standard_normal((24, 16, 3, 3)).astype(np.float32)
    offset = 3 * rng.standard_normal((2, 2 * 4 * 9, 6, 13)).astype(np.float32)
    mask = rng.random((2, 4 * 9, 6, 13)).astype(np.float32)
    want = by_torchvision(
        *map(torch.tensor, (value, offset, weight)),
        stride=(2, 1),
        padding=(1, 2),
        dilation=(1, 2),
        mask=torch.tensor(mask),
    ).numpy()
    attrs = {"strides": [2, 1], "pads": [1, 2, 1, 2], "dilations": [1, 2], "offset_group": 4}
    for last in (False, True):
        got = convolution(kernels, value, weight, offset, mask=mask, last=last, **attrs)
        assert relative(got, want.astype(np.float64)) < 1e-6


def deform_conv_cases():
    """What onnx's generator of node tests would write, taken as it is made."""
    found = []
    patch = pytest.MonkeyPatch()
    patch.setattr(deformconv, "expect", lambda node, **case: found.append((node, case)))
    for name in dir(deformconv.DeformConv):
        if name.startswith("export"):
            getattr(deformconv.DeformConv, name)()
    patch.undo()
    assert len(found) >= 4
    return found


@pytest.mark.parametrize(
    ("node", "case"),
    deform_conv_cases(),
    ids=lambda v: v.get("name", "") if isinstance(v, dict) else "",
)
def test_onnx_own_node_tests(kernels, node, case):
    arrays = [*inputs_of(node, case["inputs"]), None, None][:5]
    attrs = {a.name: list(a.ints) or a.i for a in node.attribute if a.name != "kernel_shape"}
    for last in (False, True):
        got = convolution(kernels, *arrays, last=last, **attrs)
        np.testing.assert_allclose(got, case["outputs"][0], rtol=1e-6, atol=1e-6)


def inputs_of(node, inputs):
    """Arrays by input, None where the node leaves one out."""
    left = iter(inputs)
    return [next(left) if name else None for name in node.input]


@pytest.mark.parametrize("tile", [(0, 64), (64, 128), (128, 128), (0, 256)])
@pytest.mark.parametrize("kind", [np.float32, np.float16, np.int8])
def test_every_tile_gives_the_same(kernels, tile, kind):
    rng = np.random.default_rng(2)
    unit = 30 if kind is np.int8 else 1
    value = (unit * rng.standard_normal((1, 64, 10, 9))).clip(-127, 127).astype(kind)
    weight = (unit * rng.standard_normal((200, 64, 3, 3))).clip(-127, 127).astype(kind)
    offset = offsets(rng, (1, 18, 10, 9), 2)
    scales = (0.02, rng.random(200) / 50, 1.0) if kind is np.int8 else None
    found = {
        (last, size): convolution(
            kernels, value, weight, offset, last=last, tile=size, scales=scales, pads=[1] * 4
        )
        for last in (False, True)
        for size in ((0, 64), tile)
    }
    want = deform_conv2d.reference(value, weight, offset, pads=[1] * 4)
    want = want * 0.02 * scales[1][:, None, None] if scales else want
    for got in found.values():
        assert relative(got, want) < {np.float32: 1e-6, np.float16: 5e-4, np.int8: 2e-2}[kind]
    assert found[True, (0, 64)].tobytes() == found[True, tile].tobytes()


@pytest.mark.parametrize("tile_n", [64, 128, 256])
@pytest.mark.parametrize("splits", [1, 4])
@pytest.mark.parametrize(
    ("c", "group", "groups", "kernel"),
    [(160, 1, 1, (3, 3)), (64, 1, 1, (4, 4)), (48, 2, 3, (2, 2)), (128, 1, 8, (1, 1))],
)
def test_groups_of_warps_give_the_same(kernels, tile_n, splits, c, group, groups, kernel):
    """The variant for compute capability 9.0: stages, barriers, operands of groups of warps."""
    rng = np.random.default_rng(tile_n + splits)
    value = rng.standard_normal((1, c, 9, 18)).astype(np.float16)
    weight = rng.standard_normal((144, c // group, *kernel)).astype(np.float16)
    out = (9 - kernel[0] + 1, 18 - kernel[1] + 1)
    offset = offsets(rng, (1, 2 * groups * kernel[0] * kernel[1], *out), 2)
    attrs = {"offset_group": groups, "group": group}
    options = {"splits": splits, "last": True, "variant": native.GROUPS, "tile": (0, tile_n)}
    got = twice(kernels, lambda: convolution(kernels, value, weight, offset, **options, **attrs))
    want = deform_conv2d.reference(value, weight, offset, **attrs)
    assert relative(got, want) < 5e-4


@pytest.mark.parametrize("splits", [2, 3, 8])
@pytest.mark.parametrize("kind", [np.float32, np.float16, np.int8])
@pytest.mark.parametrize(
    ("c", "groups", "kernel"),
    [(160, 1, (1, 2)), (64, 1, (4, 4)), (48, 3, (3, 3)), (128, 8, (1, 1))],
)
def test_blocks_of_a_cluster_share_the_steps_of_a_tile(kernels, splits, kind, c, groups, kernel):
    """Steps that splits do not divide, several tables of corners, and blocks without a step."""
    rng = np.random.default_rng(splits)
    unit = 30 if kind is np.int8 else 1
    value = (unit * rng.standard_normal((1, c, 9, 18))).clip(-127, 127).astype(kind)
    weight = (unit * rng.standard_normal((24, c, *kernel))).clip(-127, 127).astype(kind)
    out = (9 - kernel[0] + 1, 18 - kernel[1] + 1)
    offset = offsets(rng, (1, 2 * groups * kernel[0] * kernel[1], *out), 2)
    scales = (0.02, rng.random(24) / 50, 1.0) if kind is np.int8 else None
    options = {"scales": scales, "last": True, "offset_group": groups}
    got = twice(
        kernels, lambda: convolution(kernels, value, weight, offset, splits=splits, **options)
    )
    want = deform_conv2d.reference(value, weight, offset, offset_group=groups)
    want = want * 0.02 * scales[1][:, None, None] if scales else want
    assert relative(got, want) < {np.float32: 1e-6, np.float16: 5e-4, np.int8: 2e-2}[kind]
    if kind is np.int8:  # sums of integers have no order
        whole = convolution(kernels, value, weight, offset, splits=1, **options)
        assert relative(got, whole) < 1e-6


@cache
def several(kind):
    """Inputs of three convolutions of one shape, and what each gives."""
    rng = np.random.default_rng(10)
    is_int8 = kind is np.int8
    items, wants = [], []
    for _ in range(3):
        value, weight = (
            ((30 if is_int8 else 1) * rng.standard_normal(shape)).clip(-127, 127).astype(kind)
            for shape in ((2, 32, 5, 9), (24, 32, 3, 3))
        )
        offset, bias = offsets(rng, (2, 36, 5, 9), 2), rng.standard_normal(24).astype(np.float16)
        mask = rng.random((2, 18, 5, 9)).astype(np.float32)
        scale = rng.random(24).astype(np.float32) / 50 if is_int8 else None
        items.append((value, weight, offset, bias, mask, scale))
        attrs = {"pads": [1] * 4, "offset_group": 2}
        want = deform_conv2d.reference(value, weight, offset, None, mask, **attrs)
        want = want * 0.02 * scale[:, None, None] if is_int8 else want
        wants.append(want + bias.astype(np.float64)[:, None, None])
    return items, wants


@pytest.mark.parametrize("kind", [np.float32, np.float16, np.int8])
@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize(("last", "variant"), [(False, 0), (True, native.WARPS), (True, 2)])
def test_several_convolutions_go_in_one_launch(kernels, kind, splits, last, variant):
    """Each has its own weights, bias, mask and scales, and the same bits as alone."""
    items, wants = several(kind)
    options = {"last": last, "variant": variant, "splits": splits, "tile": (0, 128)}
    options |= {"pads": [1] * 4, "offset_group": 2}
    options |= {"value_scale": 0.02} if kind is np.int8 else {}
    got = twice(kernels, lambda: convolutions(kernels, items, **options))
    for item, out, want in zip(items, got, wants, strict=True):
        assert relative(out, want) < {np.float32: 1e-6, np.float16: 6e-4, np.int8: 2e-2}[kind]
        assert out.tobytes() == convolutions(kernels, [item], **options)[0].tobytes()


def test_one_item_that_is_not_aligned_or_lacks_a_pointer(kernels):
    """All items take the way that the worst one needs; a pointer that is missing is refused."""
    rng = np.random.default_rng(9)
    weight = rng.standard_normal((8, 8, 1, 1)).astype(np.float32)
    value = rng.standard_normal((1, 4, 4, 8)).astype(np.float32)  # channels last
    offset = np.zeros((1, 2, 4, 4), np.float32)
    storage = np.zeros(value.size + 4, np.float32)
    first = -(storage.ctypes.data // 4) % 4  # on 16 bytes
    shifted = storage[first + 1 : first + 1 + value.size]
    shifted[:] = value.reshape(-1)
    outs = [np.full((1, 4, 4, 8), 77, np.float32) for _ in range(2)]
    params = native.DeformConv2dParams(
        items=2, n=1, c=8, height=4, width=4, out_channels=8, out_height=4, out_width=4,
        kernel_height=1, kernel_width=1, stride_height=1, stride_width=1, dilation_height=1,
        dilation_width=1, groups=1, offset_groups=1, value_layout=1, output_layout=1,
        value_pitch=8, output_pitch=8,
    )  # fmt: skip
    by_output = np.ascontiguousarray(weight[:, :, 0, 0])
    for i, values in enumerate((np.ascontiguousarray(value), shifted)):
        params.value[i], params.output[i] = values.ctypes.data, outs[i].ctypes.data
        params.weight[i], params.offset[i] = by_output.ctypes.data, offset.ctypes.data
    assert kernels.plan("deform_conv2d", params, native.H200).is_vector == 0
    if hasattr(kernels.library, "degmix_emulation_set_order"):  # these arrays are the processor's
        kernels.launch("deform_conv2d", params)
        want = np.einsum("nhwc,oc->nhwo", value, weight[:, :, 0, 0])
        for out in outs:
            np.testing.assert_allclose(out, want, rtol=1e-5, atol=1e-5)
    params.weight[1] = None
    with pytest.raises(ValueError, match="a pointer is null"):
        kernels.launch("deform_conv2d", params)
    params.weight[1], params.mask[1] = params.weight[0], params.offset[0]
    with pytest.raises(ValueError, match="mask: expected one of every item, or none"):
        kernels.launch("deform_conv2d", params)


def test_int8_is_exact_on_its_own_grid(kernels):
    """Samples rounded once, integer sums, one scale an output channel; and a quantized output."""
    rng = np.random.default_rng(3)
    value = rng.integers(-127, 128, (1, 32, 6, 7)).astype(np.int8)
    weight = rng.integers(-127, 128, (16, 32, 1, 1)).astype(np.int8)
    offset = 2 * rng.standard_normal((1, 2, 6, 7)).astype(np.float32)
    samples = deform_sample.reference(value, np.repeat(offset, 32, axis=0).reshape(1, 64, 6, 7))
    whole = np.rint(samples)
    sums = np.einsum("nchw,oc->nohw", whole, weight[:, :, 0, 0].astype(np.float64))
    scales = (0.05, rng.random(16) / 100 + 0.001, 4.0)
    real = sums * 0.05 * scales[1].astype(np.float32)[:, None, None]
    near = np.abs(np.abs(samples - np.floor(samples)) - 0.5) < 1e-4  # a tie in float32
    clear = ~near.any(axis=1, keepdims=True)
    got = convolution(kernels, value, weight, offset, last=True, scales=scales)
    assert (np.abs(got - real) <= 1e-5 * np.abs(real) + 1e-4)[
        np.broadcast_to(clear, got.shape)
    ].all()
    eight = convolution(kernels, value, weight, offset, last=True, scales=scales, out_type=np.int8)
    assert np.abs(eight - np.clip(real / 4.0, -127, 127)).max() <= 0.5 + 1e-3 + near.any() * 100
    # Engines have all scales in those of the outputs, so that tasks with other ones share a launch.
    item = (value, weight, offset, None, None, np.float32(0.05) * np.float32(scales[1]) / 4)
    options = {"value_scale": 1.0, "output_scale": 1.0, "out_type": np.int8, "last": True}
    for folded in convolutions(kernels, [item, item], **options):
        assert np.abs(folded.astype(int) - eight).max() <= 1
        assert (folded != eight).mean() < 1e-3


def test_sigmoid_and_activations(kernels):
    rng = np.random.default_rng(4)
    value = rng.standard_normal((1, 8, 6, 6)).astype(np.float32)
    weight = rng.standard_normal((8, 8, 3, 3)).astype(np.float32)
    offset, mask = offsets(rng, (1, 18, 6, 6), 1), rng.standard_normal((1, 9, 6, 6)).astype("f4")
    want = deform_conv2d.reference(
        value, weight, offset, None, 1 / (1 + np.exp(-mask.astype(np.float64))), pads=[1] * 4
    )
    options = {"pads": [1] * 4, "sigmoid": True, "mask": mask}
    bent = {
        "none": want,
        "relu": np.maximum(want, 0),
        "gelu": torch.nn.functional.gelu(torch.tensor(want)).numpy(),
    }
    for activation, expected in bent.items():
        got = convolution(kernels, value, weight, offset, activation=activation, **options)
        assert relative(got, expected) < 1e-5
    # Without a mask there is nothing to apply a sigmoid to.
    whole = [convolution(kernels, value, weight, offset, sigmoid=s) for s in (False, True)]
    assert whole[0].tobytes() == whole[1].tobytes()


def test_half_is_as_good_as_its_inputs_allow(kernels):
    """Against float64, at most twice the error of the same arithmetic in plain half torch."""
    rng = np.random.default_rng(5)
    value = rng.standard_normal((1, 64, 16, 20)).astype(np.float16)
    weight = (rng.standard_normal((64, 64, 3, 3)) / 24).astype(np.float16)
    offset = (8 * rng.standard_normal((1, 18, 16, 20))).astype(np.float32)
    want = deform_conv2d.reference(value, weight, offset, pads=[1] * 4)
    columns = torch.tensor(deform_columns(value, offset)).half()
    plain = (torch.tensor(weight).reshape(64, -1).half() @ columns).reshape(1, 64, 16, 20)
    got = convolution(kernels, value, weight, offset, last=True, pads=[1] * 4)
    assert relative(got, want) <= 2 * relative(plain.numpy(), want)
    assert relative(got, want) <= 5e-4


def deform_columns(value, offset):
    """Sampled columns `(C 9, H W)` of a 3x3 convolution with pads of one, float64."""
    n, c, height, width = value.shape
    taps = []
    for tap in range(9):
        shift = np.array([tap // 3 - 1, tap % 3 - 1]).reshape(1, 2, 1, 1)
        moved = np.tile(offset[:, 2 * tap : 2 * tap + 2] + shift, (1, c, 1, 1))
        taps.append(deform_sample.reference(value, moved)[0].reshape(c, -1))
    return np.stack(taps, axis=1).reshape(c * 9, -1)


@pytest.mark.parametrize("variant", [native.SHARED, native.DIRECT, native.COMPACT])
@pytest.mark.parametrize("value_type", [np.float32, np.float16, np.int8])
def test_positions_are_added_in_float32(kernels, variant, value_type):
    """Positions of a thousand pixels, where FP16, the type of the offsets, has steps of a half."""
    rng = np.random.default_rng(4)
    n, c, height, width = 2, 4, 7, 9
    value = rng.standard_normal((n, c, height, width))
    value = (40 * value if value_type is np.int8 else value).astype(value_type)
    offset = rng.standard_normal((n, 2 * c, height, width)).astype(np.float16)
    position = rng.standard_normal((9, c, 4)).astype(np.float32)
    offset[:, 0] += 1000  # taken back by the table, to a fraction of a pixel
    position[:, 0, 1] -= 1000
    (got,) = sample(kernels, [(value, offset, position)], variant)
    moved = offset + deform_sample.position_offsets(position, height, width)
    expected = deform_sample.reference(value, moved)
    tolerance = {np.float32: 1e-3, np.float16: 3e-3, np.int8: 0.52}[value_type]
    assert np.abs(got - expected).max() <= tolerance


def test_launches_of_two_sizes_do_not_take_shared_memory_from_each_other(kernels):
    """The limit belongs to the function: set by one lane, it counts for another lane's launch."""
    rng = np.random.default_rng(3)
    for height in (150, 130, 150):
        value = rng.standard_normal((1, 1, height, 100)).astype(np.float32)
        sample(kernels, [(value, np.zeros((1, 2, height, 100), np.float32))], native.SHARED)
    if hasattr(kernels.library, "degmix_emulation_limit_changes"):
        assert kernels.library.degmix_emulation_limit_changes() == 0


@pytest.mark.parametrize(
    "shape",
    [
        (1, 16, 4, 3),
        (2, 64, 9, 19),
        (1, 48, 8, 32),
        (1, 272, 11, 40),
        (1, 16, 3, 36),
        (1, 16, 1, 1),
    ],
)
def test_offsets_are_their_reference(kernels, shape):
    rng = np.random.default_rng(6)
    n, c, height, width = shape
    items = []
    for _ in range(2):
        weight = (0.1 * rng.standard_normal((2 * c, 9, 3, 3))).astype(np.float16)
        packed = deform_offsets.pack(weight)
        np.testing.assert_array_equal(deform_offsets.unpack(packed), weight)
        items.append((rng.standard_normal((n, 18, height, width)).astype(np.float16), packed))
    got = twice(kernels, lambda: convolved(kernels, items))
    for one, (maps, packed) in zip(got, items, strict=True):
        assert relative(one, deform_offsets.reference(maps, packed)) < 3e-4


def test_offsets_of_positions_make_the_samples_of_the_whole_convolution(kernels):
    """What engines run, in two launches, against a float64 convolution that sums positions too."""
    rng = np.random.default_rng(6)
    c, height, width = 32, 12, 24
    weight = (0.1 * rng.standard_normal((2 * c, 9, 3, 3))).astype(np.float16)
    positions = np.zeros((18, height, width))
    positions[:9] = (
        np.arange(1, height + 1)[None, :, None] + np.repeat([-1, 0, 1], 3)[:, None, None]
    )
    positions[9:] = np.arange(1, width + 1)[None, None] + np.tile([-1, 0, 1], 3)[:, None, None]
    bias = rng.standard_normal(2 * c)
    table = deform_offsets.position_table(weight, bias, positions).astype(np.float32)
    value = rng.standard_normal((1, c, height, width)).astype(np.float16)
    maps = (0.3 * rng.standard_normal((1, 18, height, width))).astype(np.float16)
    (offset,) = convolved(kernels, [(maps, deform_offsets.pack(weight))])
    (got,) = sample(kernels, [(value, offset, table)])
    whole = torch.nn.functional.conv2d(
        torch.tensor(maps.astype(np.float64) + positions),
        torch.tensor(weight.astype(np.float64)),
        torch.tensor(bias),
        padding=1,
        groups=2,
    ).numpy()
    assert relative(got, deform_sample.reference(value, whole)) < 5e-4


@pytest.mark.parametrize("kind", [np.float16, np.int8])
@pytest.mark.parametrize("shape", [(7, 16), (9, 33), (6, 50), (40, 6), (3, 600), (1, 1), (3, 2)])
@pytest.mark.parametrize("offset_kind", [np.float32, np.float16])
def test_both_layouts_of_shared_memory_give_the_same_bits(kernels, kind, shape, offset_kind):
    """They hold the same values, so that only where they lie may differ; with a table as well."""
    rng = np.random.default_rng(shape[1])
    value = (40 * rng.standard_normal((2, 3, *shape))).clip(-127, 127).astype(kind)
    offset = offsets(rng, (2, 6, 9, 10), 4, offset_kind)
    position = rng.standard_normal((9, 3, 4)).astype(np.float32)
    for item in ((value, offset), (value, offset, position)):
        words, compact = (
            twice(kernels, lambda v=variant, i=item: sample(kernels, [i, i], v))
            for variant in (native.SHARED, native.COMPACT)
        )
        for one, other in zip(words, compact, strict=True):
            assert one.tobytes() == other.tobytes()


def test_a_large_map_is_sampled_from_shared_memory_where_halves_fit(kernels):
    """Twice the plane that fits as words, where the compact layout is asked for."""
    rng = np.random.default_rng(12)
    value = rng.standard_normal((1, 1, 224, 288)).astype(np.float16)
    offset = offsets(rng, (1, 2, 224, 288), 30)
    params = native.DeformSampleParams(
        items=1, n=1, c=1, height=224, width=288, out_height=224, out_width=288,
        value_type=native.HALF, variant=native.COMPACT,
    )  # fmt: skip
    plan = kernels.plan("deform_sample", params, native.H200)
    assert (plan.variant, plan.shared_bytes) == (native.COMPACT, (227 * 296 + 8) * 2)
    (got,) = sample(kernels, [(value, offset)], native.COMPACT)
    assert relative(got, deform_sample.reference(value.astype(np.float64), offset)) < 5e-4


def test_what_is_empty(kernels):
    rng = np.random.default_rng(7)
    for n, c, size, out in [(0, 2, (4, 4), (4, 4)), (1, 0, (4, 4), (4, 4)), (1, 2, (4, 4), (0, 4))]:
        (got,) = sample(
            kernels, [(np.zeros((n, c, *size), "f4"), np.zeros((n, 2 * c, *out), "f4"))]
        )
        assert got.shape == (n, c, *out)
    (got,) = sample(kernels, [(np.zeros((1, 2, 0, 3), "f4"), offsets(rng, (1, 4, 4, 4), 2))])
    assert not got.any()
    weight = rng.standard_normal((8, 8, 1, 1)).astype("f4")
    got = convolution(kernels, np.zeros((0, 8, 4, 4), "f4"), weight, np.zeros((0, 2, 4, 4), "f4"))
    assert got.shape == (0, 8, 4, 4)
    empty = np.zeros((1, 8, 0, 0), "f4")
    got = convolution(kernels, empty, weight, np.zeros((1, 2, 3, 3), "f4"), np.ones(8, "f4"))
    assert (got == 1).all()  # nothing to sample: the bias


@pytest.fixture(params=[1, 2], ids=["turing", "hopper with code for turing"])
def older(kernels, request):
    """The emulated kernels on another card; a real card is what it is."""
    set_device = getattr(kernels.library, "degmix_emulation_set_device", None)
    if set_device is None:
        pytest.skip("a real card has the code that its library was built with")
    set_device(request.param)
    yield kernels
    set_device(0)


def test_turing_samples(older):
    """Of 64 KB, and without a copy that arrives late."""
    test_sampling_is_its_reference(older)
    test_a_large_map_is_sampled_from_shared_memory_where_halves_fit(older)
    test_offsets_are_their_reference(older, (1, 272, 11, 40))
    test_offsets_of_positions_make_the_samples_of_the_whole_convolution(older)


@pytest.mark.parametrize("kind", [np.float32, np.float16, np.int8])
def test_turing_multiplies(older, kind):
    """Products of half the depth, and of half the rows for int8; tables of corners in 64 KB."""
    for tile in ((64, 128), (128, 128), (0, 256)):
        test_every_tile_gives_the_same(older, tile, kind)
    test_several_convolutions_go_in_one_launch(older, kind, 1, last=True, variant=native.WARPS)


def test_turing_convolves(older):
    test_convolution_is_its_reference(older)
    test_convolution_is_torchvisions(older)
    test_int8_is_exact_on_its_own_grid(older)
    test_half_is_as_good_as_its_inputs_allow(older)


@pytest.mark.parametrize("kind", [np.float32, np.float16, np.int8])
def test_code_without_clusters_does_whole_tiles(older, kind):
    """PTX for an older card, on a card with clusters: splits are asked for and not launched."""
    test_blocks_of_a_cluster_share_the_steps_of_a_tile(older, 3, kind, 160, 1, (1, 2))
    test_groups_of_warps_give_the_same(older, 128, 4, 160, 1, 1, (3, 3))


def test_corners_alone(kernels):
    """Indices lie inside for any coordinate at all, and weights are those of the reference."""
    rng = np.random.default_rng(8)
    y = np.concatenate([rng.uniform(-3, 8, 500), WILD]).astype(np.float32)
    x = np.concatenate([rng.uniform(-3, 9, 500), WILD[::-1]]).astype(np.float32)
    index, weight = np.empty((len(y), 4), np.int32), np.empty((len(y), 4), np.float32)
    pointers = [a.ctypes.data_as(native.c_void_p) for a in (y, x, index, weight)]
    kernels.library.degmix_corners(
        pointers[0], pointers[1], native.c_int64(len(y)), 5, 6, pointers[2], pointers[3]
    )
    assert index.min() >= 0
    assert index.max() < 30
    assert weight.min() >= 0
    assert weight.sum(axis=1).max() <= 1 + 1e-6
    plane = rng.standard_normal(30)
    value = np.zeros((1, 1, 5, 6))
    value[0, 0] = plane.reshape(5, 6)
    for i in range(len(y)):
        offset = np.array([y[i], x[i]], np.float64).reshape(1, 2, 1, 1)
        want = deform_sample.reference(value, offset)[0, 0, 0, 0]
        assert plane[index[i]] @ weight[i] == pytest.approx(want, abs=1e-5)


def measured_tiles():
    """Shapes whose every tile and split was timed on an H100, and the times."""
    rows = json.loads(MEASURED.read_text())["rows"]
    for row in rows:
        name = re.fullmatch(
            r"dcnv2 3x3 (\d+)x(\d+)x(\d+)x(\d+), G (\d+), stride (\d+)(?:, (\d+) tasks)?",
            row["case"],
        )
        times = {
            tuple(map(int, found.groups())): time
            for contestant, time in row["cold_us"].items()
            if (found := re.search(r"(\d+) x (\d+), (\d+) splits, variant (\d)", contestant))
        }
        if name and times:
            yield pytest.param(*map(int, name.groups("1")), times, id=row["case"])


@pytest.mark.parametrize(
    ("n", "c", "height", "width", "offset_groups", "stride", "items", "times"), measured_tiles()
)
def test_the_heuristic_takes_one_of_the_fastest_tiles(
    kernels, n, c, height, width, offset_groups, stride, items, times
):
    """An H200 has an H100's multiprocessors."""
    params = native.DeformConv2dParams(
        items=items, n=n, c=c, height=height, width=width, out_channels=c,
        out_height=(height - 1) // stride + 1, out_width=(width - 1) // stride + 1,
        kernel_height=3, kernel_width=3, groups=1, offset_groups=offset_groups,
        value_type=native.HALF, value_layout=native.CHANNELS_LAST, value_pitch=c,
    )  # fmt: skip
    plan = kernels.plan("deform_conv2d", params, native.H200)
    taken = times[plan.tile_m, plan.tile_n, plan.splits, plan.variant]
    assert taken <= 1.05 * min(times.values())


LAYOUTS = [  # card, type, height, width, the layout; blocks of words, and of compact planes
    ("H200", native.HALF, 112, 144, native.COMPACT, 3, 6),
    ("ORIN", native.HALF, 112, 144, native.COMPACT, 2, 4),
    ("RTX4090", native.HALF, 112, 144, native.COMPACT, 1, 2),
    ("RTX4090", native.INT8, 112, 144, native.COMPACT, 1, 5),
    # Four blocks of words are enough.
    ("H200", native.HALF, 96, 128, native.SHARED, 4, 8),
    ("H200", native.HALF, 28, 36, native.SHARED, 38, 58),
    ("RTX4090", native.HALF, 28, 36, native.SHARED, 17, 25),
    ("H200", native.HALF, 200, 200, native.COMPACT, 1, 2),
    # A compact plane that is alone is slower than the caches, and not faster than words.
    ("H200", native.HALF, 224, 288, native.DIRECT, 0, 1),
    ("RTX4090", native.HALF, 200, 200, native.DIRECT, 0, 1),
    ("T4", native.HALF, 112, 144, native.DIRECT, 0, 1),
    ("T4", native.INT8, 112, 144, native.COMPACT, 0, 3),
    ("RTX4090", native.HALF, 150, 160, native.SHARED, 1, 1),
    ("RTX4090", native.HALF, 256, 256, native.DIRECT, 0, 0),
    # Floats have no other layout, and of narrow planes compact rows are the longer ones.
    ("RTX4090", native.FLOAT, 112, 144, native.SHARED, 1, 1),
    ("H200", native.HALF, 8000, 1, native.SHARED, 1, 0),
    ("H200", native.HALF, 3000, 1, native.SHARED, 3, 2),
]


@pytest.mark.parametrize(("card", "kind", "height", "width", "layout", "words", "compact"), LAYOUTS)
def test_the_layout_is_that_of_more_blocks(
    kernels, card, kind, height, width, layout, words, compact
):
    limits = getattr(native, card)
    params = native.DeformSampleParams(
        items=1, n=1, c=256, height=height, width=width, out_height=height, out_width=width,
        value_type=kind,
    )  # fmt: skip
    assert kernels.plan("deform_sample", params, limits).variant == layout
    # The blocks of the table are those of the planned sizes, with what a card keeps of each.
    kept = limits.shared_bytes_per_multiprocessor - limits.shared_bytes_per_block
    for asked, blocks in ((native.SHARED, words), (native.COMPACT, compact)):
        params.variant = asked
        plan = kernels.plan("deform_sample", params, limits)
        if blocks == 0:
            assert plan.variant == native.DIRECT
        else:
            size = plan.shared_bytes + kept
            assert limits.shared_bytes_per_multiprocessor // size == blocks


def test_heuristics(kernels):
    """Pure functions: any card can be asked about anywhere."""

    def plane(kind, height, width, out=None):
        params = native.DeformSampleParams(
            items=1, n=1, c=256, height=height, width=width, value_type=kind
        )
        params.out_height, params.out_width = out or (height, width)
        return params

    ask = lambda params, card: kernels.plan("deform_sample", params, card)  # noqa: E731
    demt = ask(plane(native.HALF, 112, 144), native.H200)
    # Two pixels a thread, five rows of threads; an H200's multiprocessor holds six blocks.
    assert (demt.variant, demt.blocks, demt.threads) == (native.COMPACT, 256, 5 * 72)
    assert demt.shared_bytes == (115 * 152 + 8) * 2
    assert 6 * (demt.shared_bytes + 1024) <= native.H200.shared_bytes_per_multiprocessor
    assert ask(plane(native.HALF, 28, 36), native.ORIN).threads == 7 * 18
    assert ask(plane(native.HALF, 28, 35), native.ORIN).threads == 7 * 35
    assert ask(plane(native.HALF, 112, 1000), native.H200).threads == 250
    assert ask(plane(native.HALF, 256, 256), native.RTX4090).variant == native.DIRECT
    assert ask(plane(native.HALF, 112, 144, (3, 3)), native.H200).variant == native.DIRECT
    forced = plane(native.FLOAT, 300, 300)
    forced.variant = native.SHARED
    assert ask(forced, native.H200).variant == native.DIRECT  # does not fit

    for kind, variant in ((native.FLOAT, native.SHARED), (native.HALF, native.COMPACT)):
        forced = plane(kind, 20, 20)
        forced.variant = native.COMPACT
        assert ask(forced, native.ORIN).variant == variant
    forced = plane(native.HALF, 400, 400)
    forced.variant = native.COMPACT
    assert ask(forced, native.H200).variant == native.DIRECT  # does not fit

    def conv(c, out, side, kind=native.HALF, n=1, items=1):
        return native.DeformConv2dParams(
            items=items, n=n, c=c, height=side, width=side,
            out_channels=out, out_height=side, out_width=side, kernel_height=3, kernel_width=3,
            groups=1, offset_groups=1, value_type=kind,
            value_layout=native.CHANNELS_LAST, value_pitch=c,
        )  # fmt: skip

    tile = lambda *a, card=native.H200, **k: kernels.plan("deform_conv2d", conv(*a, **k), card)  # noqa: E731
    sizes = lambda plan: (plan.tile_m, plan.tile_n, plan.splits)  # noqa: E731
    assert sizes(tile(256, 256, 112)) == (128, 256, 1)
    # Blocks share the steps of tiles that are few, where there are clusters.
    assert sizes(tile(256, 256, 64)) == (128, 128, 2)
    assert sizes(tile(128, 128, 64)) == (64, 128, 2)
    assert sizes(tile(256, 256, 64, card=native.ORIN)) == (128, 256, 1)
    assert sizes(tile(256, 256, 64, card=native.RTX4090)) == (64, 128, 1)
    assert 64 <= tile(512, 512, 16).blocks <= native.H200.multiprocessors
    assert tile(512, 512, 16).splits >= 4
    # Items fill the card as images of a batch do.
    assert tile(256, 256, 28, items=4).splits < tile(256, 256, 28).splits
    for card in (native.H200, native.ORIN):
        by_items, by_images = (
            tile(256, 256, 28, items=4, card=card),
            tile(256, 256, 28, n=4, card=card),
        )
        assert (*sizes(by_items), by_items.blocks) == (*sizes(by_images), by_images.blocks)
    assert sizes(tile(64, 64, 128)) == (128, 64, 1)
    assert sizes(tile(256, 256, 112, kind=native.FLOAT))[1] == 128
    for kind in (native.HALF, native.FLOAT, native.INT8):
        expected = native.GROUPS if kind == native.HALF else native.WARPS
        assert tile(256, 256, 64, kind=kind).variant == expected
        assert tile(256, 256, 64, kind=kind, card=native.ORIN).variant == native.WARPS
    forced = conv(256, 256, 64)
    forced.tile_n = 128
    assert kernels.plan("deform_conv2d", forced, native.H200).splits == 1
    forced.splits = 2
    assert kernels.plan("deform_conv2d", forced, native.H200).splits == 2
    assert kernels.plan("deform_conv2d", forced, native.ORIN).splits == 1
    assert kernels.plan("deform_conv2d", forced, native.H200).variant == native.WARPS
    forced.variant = native.GROUPS
    for card in (native.H200, native.ORIN):
        plan = kernels.plan("deform_conv2d", forced, card)
        assert plan.variant == (native.GROUPS if card is native.H200 else native.WARPS)
        assert plan.shared_bytes <= card.shared_bytes_per_block
    for card in (native.H200, native.ORIN, native.RTX4090):
        assert tile(256, 256, 64, card=card).shared_bytes <= card.shared_bytes_per_block
    assert tile(256, 256, 112).is_vector == 1
    assert tile(12, 24, 112).is_vector == 0
    operands, corners = 128 * (128 + 256), 9 * 128 * 24  # of a stage, and of a table
    assert tile(256, 256, 112, card=native.ORIN).shared_bytes == 2 * operands + corners
    assert (
        3 * operands + corners < tile(256, 256, 112).shared_bytes <= 3 * operands + corners + 1100
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"items": 0}, "items: expected 1 to 8"),
        ({"items": 9}, "items: expected 1 to 8"),
        ({"height": -1}, "a size is negative"),
        ({"value_type": 7}, "valueType: expected float, half or int8"),
        ({"offset_type": native.INT8}, "offsetType: expected float or half"),
        ({"height": 70000, "width": 70000}, "more than 2^31 - 1 pixels"),
        ({"c": 2**30, "n": 4}, "planes"),
        ({}, "a pointer is null"),
    ],
)
def test_sampling_refuses(kernels, change, reason):
    right = {"items": 1, "n": 1, "c": 2, "height": 3, "width": 3, "out_height": 3, "out_width": 3}
    params = native.DeformSampleParams(**right | change)
    with pytest.raises(ValueError, match="deform_sample: ") as refused:
        kernels.launch("deform_sample", params)
    assert reason in str(refused.value)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"items": 9}, "items: expected 1 to 8"),
        ({"c": 24}, "c: expected a multiple of 16"),
        ({"width": -1}, "a size is negative"),
        ({"n": 2**20, "height": 2**16, "width": 2**10}, "more than 2^31 - 1 blocks"),
        ({}, "a pointer is null"),
    ],
)
def test_offsets_refuse(kernels, change, reason):
    params = native.DeformOffsetsParams(
        **{"items": 1, "n": 1, "c": 16, "height": 3, "width": 3} | change
    )
    with pytest.raises(ValueError, match="deform_offsets: ") as refused:
        kernels.launch("deform_offsets", params)
    assert reason in str(refused.value)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"items": 0}, "items: expected 1 to 8"),
        ({"items": 9}, "items: expected 1 to 8"),
        ({"groups": 3}, "groups: expected a divisor"),
        ({"offset_groups": 5}, "offsetGroups: expected a divisor"),
        ({"kernel_height": 0}, "kernel, stride and dilation"),
        ({"value_type": native.INT8}, "int8 values: expected a scale"),
        ({"output_type": native.HALF}, "outputType: expected the values' type"),
        ({"value_layout": 1, "value_pitch": 4}, "valuePitch"),
        ({"tile_n": 96}, "tileN"),
        ({"tile_n": 256, "tile_m": 64}, "tileM"),
        ({"splits": 9}, "splits"),
        ({"variant": 3}, "variant"),
        ({}, "a pointer is null"),
    ],
)
def test_convolution_refuses(kernels, change, reason):
    right = {"items": 1, "n": 1, "c": 8, "height": 4, "width": 4}
    right |= {"out_channels": 8, "out_height": 4}
    right |= {"out_width": 4, "kernel_height": 1, "kernel_width": 1, "stride_height": 1}
    right |= {"stride_width": 1, "dilation_height": 1, "dilation_width": 1}
    right |= {"groups": 1, "offset_groups": 1}
    params = native.DeformConv2dParams(**right | change)
    with pytest.raises(ValueError, match="deform_conv2d: ") as refused:
        kernels.launch("deform_conv2d", params)
    assert reason in str(refused.value)


@pytest.mark.parametrize("kind", [native.FLOAT, native.HALF, native.INT8])
@pytest.mark.parametrize("tile", [(0, 0), (64, 128), (128, 128), (128, 64), (0, 256)])
def test_tiles_that_do_not_fit_turing_are_not_planned(kernels, kind, tile):
    """Each tile is asked for, with one offset group and with more than a table of corners has."""
    for groups in (1, 8):
        params = native.DeformConv2dParams(
            items=1, n=1, c=256, height=64, width=64, out_channels=256, out_height=64,
            out_width=64, kernel_height=3, kernel_width=3, groups=1, offset_groups=groups,
            value_type=kind, value_layout=native.CHANNELS_LAST, value_pitch=256,
            tile_m=tile[0], tile_n=tile[1], splits=2 if tile[0] else 0,
        )  # fmt: skip
        plan = kernels.plan("deform_conv2d", params, native.T4)
        assert (plan.tile_m, plan.tile_n, plan.splits, plan.variant) == (64, 128, 1, native.WARPS)
        assert plan.is_vector == 1
        assert plan.shared_bytes <= native.T4.shared_bytes_per_block
        without = native.DeviceLimits(40, 48 * 1024, 48 * 1024, 75)
        assert kernels.plan("deform_conv2d", params, without).is_vector == 0
    halves = native.DeformSampleParams(items=1, n=1, c=1, height=112, width=144, value_type=kind)
    halves.out_height, halves.out_width = 112, 144
    plan = kernels.plan("deform_sample", halves, native.T4)
    # Of compact halves one block fits, of int8 three.
    assert plan.variant == (native.COMPACT if kind == native.INT8 else native.DIRECT)

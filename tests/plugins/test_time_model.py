"""The time model: its arithmetic, its cards, its fit, and the tables in plugins/README.md."""

import dataclasses
import math
import re
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from native_build import ROOT
from onnx import TensorProto, helper

sys.path[:0] = [str(ROOT / "plugins" / "tools"), str(ROOT / "plugins" / "kernels")]
import bounds  # noqa: E402
import sass  # noqa: E402
import time_model  # noqa: E402
from cards import CARDS  # noqa: E402
from work import CASES, Work  # noqa: E402

from degmix_edge.graph import roofline  # noqa: E402
from degmix_edge.graph.cost import costs  # noqa: E402

MAIN = sass.Loop(
    start=0,
    end=16,
    instructions=100,
    parts={"global": 6, "shared": 8, "special": 4, "stores": 2},
    macs=0,
    divisions=0,
    widths={"LDG.32": 4, "LDS.32": 8, "STG.32": 2},
)
FILL = sass.Loop(
    start=32,
    end=48,
    instructions=20,
    parts={"global": 1, "shared": 2},
    macs=0,
    divisions=0,
    widths={"LDG.128": 1, "STS.128": 2},
)
SAMPLE = sass.Kernel(
    "deformSampleKernel<fp16, fp16, shared, 2>", "sm_90", 520, 64, 0, 0, (MAIN, FILL)
)
PRODUCT = sass.Kernel(
    "deformConv2dKernel<fp16, 128, true>",
    "sm_90",
    1100,
    128,
    0,
    0,
    (dataclasses.replace(MAIN, parts={"tensor": 16}, macs=32768, widths={"LDSM.128": 6}),),
)
CARD = dataclasses.replace(
    CARDS[-1],
    multiprocessors=10,
    clock_ghz=1.0,
    memory_rate=0.5,
    special_rate=0.25,
    tensor_rate=512,
    copy_share=0.5,
)


def sampling(blocks: int = 20) -> Work:
    """4 values a turn and lane: a thousand turns; 256 values a turn of a copy: 500 turns."""
    return Work(
        SAMPLE.name,
        values=128_000,
        macs=0,
        copied=128_000,
        moved=13_300_000,
        blocks=blocks,
        threads=64,
        shared_bytes=1000,
    )


def test_bounds_of_a_sampling_by_hand():
    found = bounds.predict(SAMPLE, sampling(), CARD)
    # 100 and 20 in the loops, 400 once a warp: 150 000 instructions, four a clock, a tenth of them.
    expected = {
        "issue": (100 * 1000 + 20 * 500 + 400 * 40) / 4 / 10 / 1e3,
        "memory units": (14 * 1000 + 3 * 500) / 0.5 / 10 / 1e3,
        "special units": 4 * 1000 / 0.25 / 10 / 1e3,
        "tensor cores": 0,
        "bytes": 13_300_000 / (2660 * 0.5) / 1e3,
    }
    assert found.bounds == pytest.approx(expected)
    assert found.limit == "bytes"
    assert found.warps == 4  # two blocks of two warps are all that a multiprocessor gets
    fitted = bounds.Fit(3.0, 0.5, error=0.0, error_held_out=0.0, rows=1)
    assert found.microseconds(fitted) == pytest.approx(2 + 3 + expected["bytes"] / 0.5)


def test_bounds_of_a_product_by_hand():
    work = Work(PRODUCT.name, 0, 32768 * 900, 0, 1, blocks=11, threads=256, shared_bytes=60_000)
    found = bounds.predict(PRODUCT, work, CARD)
    # Eleven blocks on ten multiprocessors: one has two of eleven.
    share = 2 / 11 / 1e3
    assert found.bounds["tensor cores"] == pytest.approx(32768 * 900 / 512 * share)
    assert found.bounds["issue"] == pytest.approx((100 * 900 + 1000 * 88) / 4 * share)
    # Six instructions that each read four matrices of 128 bytes.
    assert found.bounds["memory units"] == pytest.approx(6 * 512 * 900 / 128 * share)
    assert found.warps == 16  # registers: 65536 / (128 * 256) blocks


def test_a_launch_configuration_of_another_kernel_is_refused():
    work = Work(PRODUCT.name, 0, 32768, 0, 1, blocks=1, threads=768, shared_bytes=0)
    with pytest.raises(ValueError, match="768 threads of 128 registers.*another kernel"):
        bounds.predict(PRODUCT, work, CARD)


@given(
    blocks=st.integers(1, 5000),
    fewer=st.integers(1, 300),
    more=st.integers(0, 300),
    faster=st.floats(1, 4),
)
def test_a_larger_or_faster_card_is_never_slower(blocks, fewer, more, faster):
    small = dataclasses.replace(CARD, multiprocessors=fewer)
    slow = bounds.predict(SAMPLE, sampling(blocks), small).bounds
    for change in (
        {"multiprocessors": fewer + more},
        {"clock_ghz": CARD.clock_ghz * faster},
        {"memory_rate": CARD.memory_rate * faster, "special_rate": CARD.special_rate * faster},
    ):
        fast = bounds.predict(SAMPLE, sampling(blocks), dataclasses.replace(small, **change)).bounds
        assert all(fast[name] <= slow[name] * (1 + 1e-12) for name in slow), change


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.title)
def test_every_card_has_every_constant(card):
    device = roofline.find(card.device)
    for field in dataclasses.fields(card):
        value = getattr(card, field.name)
        assert value if isinstance(value, str) else value > 0, field.name
    # mma.sync cannot be faster than all tensor cores, and a copy not than the data sheet.
    peak = 2e-3 * card.tensor_rate * card.multiprocessors * card.clock_ghz
    assert peak <= 1.01 * device.tflops["fp16"]
    assert card.copy_share <= 1
    assert bounds.device_of(card).bandwidth_gbs == device.bandwidth_gbs * card.copy_share
    assert card.architecture in (87, 89, 90, 110)


@pytest.mark.parametrize(("extra", "efficiency"), [(5.0, 0.5), (0.0, 0.9), (3.0, 1.0)])
def test_a_fit_finds_what_made_the_times(extra, efficiency):
    sizes = (1.0, 7.0, 30.0, 90.0)
    rows = [bounds.Row("x", size, 2.0, 2 + extra + size / efficiency) for size in sizes]
    found = bounds.fit(rows)
    assert (found.extra_us, found.efficiency) == pytest.approx((extra, efficiency), abs=1e-9)
    assert max(found.error, found.error_held_out) < 1e-9
    assert found.rows == 4


@given(st.lists(st.tuples(st.floats(0.1, 1e3), st.floats(3, 1e4)), min_size=1, max_size=8))
def test_a_fit_is_physical(pairs):
    rows = [bounds.Row("x", bound, 2.0, time) for bound, time in pairs]
    found = bounds.fit(rows)
    assert found.extra_us >= 0
    assert 0 < found.efficiency <= 1
    errors = [abs((2 + found.extra_us + b / found.efficiency) / t - 1) for b, t in pairs]
    assert found.error == pytest.approx(max(errors), abs=1e-9)


def test_a_network_is_the_sum_of_its_kernels():
    shape = [1, 64, 56, 72]
    weight = np.zeros((64, 64, 3, 3), np.float32)
    tensor = helper.make_tensor("w", TensorProto.FLOAT, weight.shape, weight.tobytes(), raw=True)
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["y"], ["r"]),
        helper.make_node("Softmax", ["r"], ["z"], axis=1),
    ]
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("x", "z")]
    inside = [helper.make_tensor_value_info(n, TensorProto.FLOAT, shape) for n in ("y", "r")]
    graph = helper.make_graph(nodes, "g", ends[:1], ends[1:], [tensor], value_info=inside)
    device = bounds.device_of(CARDS[0])
    found = bounds.network_ms(costs(helper.make_model(graph)), device, "fp16", 0.5)
    size = math.prod(shape)
    bandwidth = 204.8e9 * 0.79
    convolution = max(2 * 9 * 64 * size / 42.5e12, 2 * (2 * size + weight.size) / bandwidth)
    softmax = 2 * 2 * size / bandwidth
    assert found == pytest.approx(1e3 * 2 * (convolution + softmax) + 2 * 4e-3)


def tables() -> list[list[list[str]]]:
    """The cells of each table of the time model in the README, without marks."""
    text = (ROOT / "plugins" / "README.md").read_text()
    inside = text.split(time_model.BEGIN)[1].split(time_model.END)[0]
    parts = re.split(r"\n\s*\n", inside.strip())
    lines = [[row.strip("| ").split(" | ") for row in part.splitlines()] for part in parts]
    return [[[cell.strip("*`| ") for cell in row] for row in rows] for rows in lines]


def test_the_readme_has_the_fit_of_its_own_bounds():
    """The stated efficiencies and errors follow from the tables and the committed measurements."""
    kernels, _, fits, _ = tables()
    times = time_model.measured([time_model.MEASURED])
    rows: dict[str, list[bounds.Row]] = {}
    start = roofline.find("h100").launch_us
    for case, cells in zip(CASES, kernels[2:], strict=True):
        time = times.get((case.name, case.contestant))
        assert cells[8] == ("-" if time is None else f"{time:.1f}"), case
        if time is not None:
            bound = max(map(float, cells[1:6]))
            rows.setdefault(case.operator, []).append(bounds.Row(case.operator, bound, start, time))
    stated = {cells[0]: cells[1:] for cells in fits[2:]}
    assert set(rows) == {name for name in stated if stated[name][2] != "0"} - {bounds.DENSE}
    rows[bounds.DENSE] = bounds.dense_rows(times)
    for operator, own in rows.items():
        found, cells = bounds.fit(own), stated[operator]
        assert found.efficiency == pytest.approx(float(cells[0]), abs=0.011)
        assert found.extra_us == pytest.approx(float(cells[1]), abs=0.11)
        assert found.rows == int(cells[2])
        errors = [float(cell.rstrip("%")) / 100 for cell in cells[3:]]
        assert [found.error, found.error_held_out] == pytest.approx(errors, abs=0.011)


def test_an_error_held_out_is_that_of_a_row_that_no_fit_saw():
    rows = [bounds.Row("x", size, 2.0, 2 + 2 * size) for size in (10.0, 20.0, 40.0)]
    rows.append(bounds.Row("x", 100.0, 2.0, 102.0))  # the others predict 202
    assert bounds.fit(rows).error_held_out == pytest.approx(202 / 102 - 1)


def test_the_readme_marks_predictions_and_names_every_card():
    kernels, others, _, networks = tables()
    assert kernels[0][7:9] == ["predicted", "measured"]
    for table in (others, networks):
        assert table[0][0].startswith("predicted")
        assert table[0][-4:] == [card.title for card in CARDS]
    assert len(networks) == 2 + 3 * 2

"""The bench at a camera's rate: its definitions, its counts, its record, and what it says."""

import dataclasses
import itertools
import json
import sys
import threading
import time

import numpy as np
import pytest
from PIL import Image

from degmix_edge.capture import CapturedFrame
from degmix_edge.errors import BackendError, ConfigError, InputError, OutputError
from degmix_edge.progress import listening
from degmix_edge.runtime.maps import Maps
from degmix_edge.runtime.results import NEWER_FRAME, NOT_DUE, StreamResult
from degmix_edge.runtime.schedule import read_rates
from degmix_edge.workflows.bench import bench
from degmix_edge.workflows.bench_figures import (
    PARTS,
    ROW,
    Arrivals,
    Figure,
    achieved_hz,
    figures,
    gaps,
    jitter_ms,
    percentiles,
)
from degmix_edge.workflows.bench_record import (
    compare_runs,
    read_record,
    recorded_run,
    write_record,
)
from degmix_edge.workflows.bench_report import change_lines, change_table, figure_table, lines
from degmix_edge.workflows.bench_stream import LOST, bench_stream
from degmix_edge.workflows.board import Board
from degmix_edge.workflows.paced import PacedSource
from degmix_edge.workflows.telemetry import Range

RATE = 25.0
MS = 10**6


@pytest.fixture(autouse=True)
def _nothing_is_left():
    yield
    assert not [t.name for t in threading.enumerate() if t.name.startswith("degmix-")]


@pytest.fixture(scope="module")
def small(bundles):
    return bundles["fp32"].path


@pytest.fixture(scope="module")
def run(small, pictures):
    return bench_stream(small, rate=RATE, seconds=2.0, images=pictures, idle_s=0.05, threads=1)


def arrivals(arrived_ms):
    """Results with an age of 13 ms, a latency of 12 ms and a call of 10 ms."""
    rows = [(i, (t - 12) * MS, t * MS, 13, 0, 1, 8, 1, 2) for i, t in enumerate(arrived_ms)]
    return np.array(rows, ROW)


def moments(*arrived_ms):
    return np.array(arrived_ms) * MS


# Definitions


def test_jitter_is_the_change_of_the_interval():
    """By hand, as ros2_benchmark defines it: intervals 30, 40, 10 change by 10 and by 30."""
    found = jitter_ms(moments(0, 30, 70, 80))
    assert found == {"mean": 20, "max": 30, "min": 10, "std": 10}
    assert jitter_ms(moments(0, 1)) == {}
    assert jitter_ms(moments(*range(0, 300, 33)))["max"] == 0


def test_a_rate_counts_intervals_and_gaps_are_two_periods():
    times = moments(0, 40, 80, 200, 240)
    assert achieved_hz(times) == pytest.approx(4 / 0.24)
    assert gaps(times, 40) == (1, 120)
    assert gaps(times, 60) == (0, 120)  # twice the period is not longer than that
    assert gaps(moments(0), 40) == (0, None)
    assert achieved_hz(moments(0)) is None


def test_percentiles():
    assert percentiles(range(1, 102)) == {"p50": 51, "p95": 96, "p99": 100, "max": 101}
    assert percentiles([]) == {}


def test_figures_carry_their_noise():
    steady = figures(arrivals(range(0, 4000, 40)))
    assert steady["achieved_hz"].value == pytest.approx(25)
    assert steady["age_p95_ms"].value == 13
    assert steady["latency_p50_ms"].value == pytest.approx(12)
    assert steady["call_p99_ms"].value == pytest.approx(10)
    assert len(steady["age_p50_ms"].blocks) == 5
    assert steady["age_p50_ms"].error == 0
    assert figures(arrivals(range(0, 400, 40)))["age_p50_ms"].error is None


def test_arrivals_outgrow_what_was_expected(pictures):
    table = Arrivals(1)
    for index in range(5):
        frame = CapturedFrame(pictures[0], received_ns=7, index=index)
        stages = dict.fromkeys(PARTS, 0.5)
        table.add(
            StreamResult("camera", frame, Maps({}), (), {}, stages, 8, 9.0 if index else None)
        )
    assert list(table.rows["index"]) == list(range(5))
    assert np.isnan(table.rows["age_ms"][0])
    assert list(table.rows["age_ms"][1:]) == [9.0] * 4
    assert set(table.rows["received_ns"]) == {7}
    assert (np.diff(table.rows["arrived_ns"]) >= 0).all()


# The source


def test_a_paced_source_keeps_its_grid_and_says_what_it_lost():
    source, stop = PacedSource(["a", "b", "c"], 100.0), threading.Event()
    source.open()
    first = source.read(stop)
    assert (first.image, first.lost, first.index) == ("a", 0, 0)
    time.sleep(0.055)  # five moments and a half
    late = source.read(stop)
    following = [source.read(stop) for _ in range(3)]
    frames = [first, late, *following]
    assert [frame.index for frame in frames] == list(range(5))
    assert late.lost >= 4
    moments = [round((f.captured_ns - first.captured_ns) * 100 / 1e9) for f in frames]
    assert moments[1] == late.lost + 1  # what is lost and what is given is the whole grid
    assert late.image == "abc"[moments[1] % 3]
    assert all(f.received_ns >= f.captured_ns for f in frames)
    gap = frames[-1].captured_ns - first.captured_ns
    assert gap == pytest.approx(moments[-1] * 1e7, abs=10)
    stop.set()
    assert source.read(stop) is None or moments[-1] > 4


def test_a_paced_source_ends_and_refuses_nonsense():
    source, stop = PacedSource(["a"], 1000.0, count=3), threading.Event()
    source.open()
    time.sleep(0.01)
    frames = list(iter(lambda: source.read(stop), None))
    assert sum(1 + frame.lost for frame in frames) == 3
    with pytest.raises(InputError, match="no images"):
        PacedSource([], 30)
    for rate in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ConfigError, match=f"got {rate}, expected a number"):
            PacedSource(["a"], rate)


# A run


def test_every_frame_is_accounted_for(run):
    assert run.offered == run.delivered + sum(run.missed.values()) + run.in_stream
    assert run.offered_hz == pytest.approx(RATE, rel=0.1)
    assert run.achieved_hz <= 1.1 * run.offered_hz
    assert run.deadline_ms == 1000 / RATE
    assert run.missed[NOT_DUE] == 0
    assert run.deadline_misses == run.late + sum(run.missed.values())
    (hz,) = set(run.task_hz.values())
    assert hz == pytest.approx(run.achieved_hz, rel=0.15)


def test_times_add_up(run):
    assert set(run.age_ms) == {"p50", "p95", "p99", "max"}
    for times in (run.age_ms, run.latency_ms, run.call_ms, *run.stages_ms.values()):
        assert 0 <= times["p50"] <= times["p95"] <= times["p99"] <= times["max"]
    # The capture is before the receipt, and the call is a part of what comes after it.
    assert run.age_ms["p50"] >= run.latency_ms["p50"] >= run.call_ms["p50"]
    assert run.latency_ms["min"] <= run.latency_ms["mean"] <= run.latency_ms["max"]
    assert run.jitter_ms["min"] <= run.jitter_ms["mean"] <= run.jitter_ms["max"]
    assert run.longest_gap_ms > 0
    assert len(run.after_idle.calls_ms) == 3
    assert run.after_idle.usual_ms == run.call_ms["p50"]
    assert run.usage.seconds == pytest.approx(run.seconds, rel=0.2)
    assert run.usage.rss_mb.max > 50


def test_people_read_what_matters(run):
    found = list(lines(run))
    assert found[0] == run.verdict
    assert found[1].startswith(f"frames: {run.offered} offered = {run.delivered} delivered + ")
    words = found[1].replace("(", " ").split()
    signs = {"=": 0, "+": 1, "-": -1}
    total = sum(
        signs[a] * int(b) for a, b in itertools.pairwise(words) if a in "+-" and b.isdigit()
    )
    assert run.delivered + total == run.offered
    assert not run.ended
    assert any("first call after 0.05 s without work" in line for line in found)
    assert any("% of one core" in line for line in found)
    assert any("its slope needs a run of 60 s" in line for line in found)
    assert not any("power mode" in line for line in found)  # no Jetson, no watts
    title, columns, rows = figure_table(run)
    assert title.endswith(f"25 Hz, {run.seconds:.0f} s")
    assert {len(row) for row in rows} == {len(columns)}
    assert [row[0].strip() for row in rows][:3] == ["age", "latency", "call"]


def test_a_network_that_is_too_slow_says_so(small, pictures):
    found = bench_stream(small, rate=5000, seconds=1.0, images=pictures, threads=1)
    assert found.is_too_slow
    assert found.verdict.startswith("too slow for ")
    assert f"a call takes {found.call_ms['p50']:.1f} ms" in found.verdict
    assert found.missed[NEWER_FRAME] + found.missed[LOST] > found.delivered
    assert found.offered == found.delivered + sum(found.missed.values()) + found.in_stream


def test_calls_that_are_slower_than_the_rate_say_so(small, pictures):
    heard = []
    with listening(heard.append):
        bench(small, images=pictures, calls=3, rate=2000, threads=1)
        bench(small, images=pictures, calls=3, threads=1)
    (warning,) = [event.detail for event in heard if event.kind == "warning"]
    assert "at 2000 images a second one comes every 0.5 ms" in warning


def test_tasks_at_their_rates(small, pictures):
    rates = read_rates("depth=every, semseg=5")
    assert rates == {"depth": None, "semseg": 5.0}
    found = bench_stream(small, rate=RATE, seconds=1.6, rates=rates, images=pictures, threads=1)
    assert found.task_hz["edge"] == 0
    assert found.task_hz["semseg"] < 0.5 * found.task_hz["depth"]
    assert any(line.startswith("tasks: ") for line in lines(found))


@pytest.mark.parametrize("text", ["depth", "depth=fast", "=3,depth", "depth=1;semseg=2"])
def test_rates_that_cannot_be_read(text):
    with pytest.raises(ConfigError, match="expected TASK=HZ"):
        read_rates(text)


class Blind(PacedSource):
    """A camera that does not know when its frames were captured."""

    def read(self, stop):
        frame = super().read(stop)
        return frame and dataclasses.replace(frame, captured_ns=None)


def test_an_unknown_capture_is_an_unknown_age(small, pictures):
    found = bench_stream(small, Blind(pictures, RATE), seconds=0.8, threads=1)
    assert found.age_ms is None
    assert "age_p50_ms" not in found.figures
    assert figure_table(found)[2][0] == ["age", *["unknown"] * 4]
    assert found.late <= found.delivered  # by the time since the receipt


def test_a_recording_that_ends_ends_the_run(small, pictures):
    start = time.monotonic()
    found = bench_stream(small, PacedSource(pictures, RATE, count=45), seconds=60, threads=1)
    assert time.monotonic() - start < 30
    assert 0 < found.seconds < 10
    assert found.ended
    assert f"the source ended after {found.seconds:.1f} s" in list(lines(found))
    with pytest.raises(InputError, match="ended during the warm-up"):
        bench_stream(small, PacedSource(pictures, RATE, count=3), threads=1)


def test_a_source_that_gives_too_little(small, pictures, monkeypatch):
    monkeypatch.setattr("degmix_edge.workflows.bench_stream.WARM_RESULTS", 1)
    monkeypatch.setattr("degmix_edge.workflows.bench_stream.WARM_S", 0.01)
    with pytest.raises(BackendError, match=r"results in .* expected at least 2"):
        bench_stream(small, PacedSource(pictures, 1.0), seconds=0.2, threads=1)


@pytest.mark.parametrize("name", ["seconds", "deadline_ms", "idle_s", "rate"])
def test_numbers_out_of_range(small, name):
    for value in (0, -1, float("nan")):
        with pytest.raises(ConfigError, match=f"{name} .*expected a number above 0"):
            bench_stream(small, **{name: value})


def test_without_scikit_image_the_golden_image_is_offered(small, monkeypatch):
    monkeypatch.setitem(sys.modules, "skimage", None)
    monkeypatch.setitem(sys.modules, "skimage.data", None)
    found = bench_stream(small, seconds=0.5, rate=50, threads=1)
    assert found.source == "1 images at 50 Hz"


# Records


def test_a_record_has_the_keys_of_ros2_benchmark(run, tmp_path):
    path = tmp_path / "run.json"
    write_record(run, path)
    written = json.loads(path.read_text())
    (rate,) = [key for key in written if key.endswith("fps")]
    assert float(rate.removesuffix("fps")) == pytest.approx(RATE, rel=0.1)
    metrics = {key.partition(".")[2]: value for key, value in written[rate].items()}
    performance = "RECEIVED_DURATION MEAN_PLAYBACK_FRAME_RATE MEAN_FRAME_RATE NUM_MISSED_FRAMES"
    performance += " NUM_FRAMES_SENT FIRST_SENT_RECEIVED_LATENCY LAST_SENT_RECEIVED_LATENCY"
    performance += " FIRST_INPUT_LATENCY LAST_INPUT_LATENCY MAX_LATENCY MIN_LATENCY MEAN_LATENCY"
    performance += " MAX_JITTER MIN_JITTER MEAN_JITTER STD_DEV_JITTER"
    assert set(performance.split()) <= metrics.keys()
    assert metrics["NUM_FRAMES_SENT"] == run.offered
    assert metrics["MEAN_JITTER"] == run.jitter_ms["mean"]
    # Their rate is the number of frames over the time from the first to the last.
    expected = 1000 * run.delivered / metrics["RECEIVED_DURATION"]
    assert metrics["MEAN_FRAME_RATE"] == pytest.approx(expected)
    assert metrics["MEAN_OVERALL_CPU_UTILIZATION"] == run.usage.host_cpu_percent.mean
    assert "MEAN_DEVICE_UTILIZATION" not in metrics  # no GPU says how busy it is
    assert written["metadata"]["BenchmarkMetadata.TEST_DATETIME"] == run.machine["date"]
    assert {key.partition(".")[0] for key in written["metadata"]} == {"BenchmarkMetadata"}
    ours = read_record(path)
    assert ours["missed"] == dict(run.missed)
    assert ours["age_ms"] == run.age_ms
    with pytest.raises(OutputError, match="exists; give --force"):
        write_record(run, path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"degmix": {}}', '{"degmix": 3}'])
def test_a_file_that_is_no_record(tmp_path, text):
    path = tmp_path / "no.json"
    path.write_text(text)
    with pytest.raises(InputError, match="is no record"):
        read_record(path)
    with pytest.raises(InputError, match="cannot be read"):
        read_record(tmp_path / "none.json")
    path.write_text('{"degmix": {"version": 99, "figures": {}}}')
    with pytest.raises(InputError, match="version 99"):
        read_record(path)


@pytest.fixture
def recorded_ours(run, tmp_path):
    write_record(run, tmp_path / "run.json")
    return read_record(tmp_path / "run.json")


def test_a_run_is_noise_beside_itself(run, recorded_ours):
    found = compare_runs(recorded_ours, run)
    assert found.machines == found.settings == ()
    assert {change.verdict for change in found.changes} == {"noise"}
    assert {change.ratio for change in found.changes} <= {1.0, None}
    names = [change.name for change in found.changes]
    assert names[0] == "achieved_hz"
    assert {"age_p95_ms", "jitter_mean_ms", "missed_percent", "rss_max_mb"} <= set(names)
    assert len(change_table(found)[2]) == len(names)
    assert list(change_lines(found)) == []


def test_a_difference_is_judged_by_the_noise_of_both_runs(run, recorded_ours):
    def verdict(name, before, after):
        old = {**recorded_ours, "figures": {name: dataclasses.asdict(before)}}
        new = dataclasses.replace(run, figures={name: after})
        (change,) = [c for c in compare_runs(old, new).changes if c.name == name]
        return change.verdict

    quiet, noisy = (9.9, 10.0, 10.1, 10.0, 10.0), (5.0, 15.0, 8.0, 12.0, 10.0)
    slower = tuple(2 + value for value in quiet)
    assert verdict("age_p95_ms", Figure(10, quiet), Figure(12, slower)) == "worse"
    assert verdict("age_p95_ms", Figure(12, slower), Figure(10, quiet)) == "better"
    assert verdict("achieved_hz", Figure(10, quiet), Figure(12, slower)) == "better"
    assert verdict("age_p95_ms", Figure(10, noisy), Figure(12, slower)) == "noise"
    # Without parts, five percent decide.
    assert verdict("age_p95_ms", Figure(10), Figure(10.4)) == "noise"
    assert verdict("age_p95_ms", Figure(10), Figure(10.6)) == "worse"


def test_runs_of_two_machines_are_never_judged(run, recorded_ours):
    other = {**recorded_ours, "machine": {**run.machine, "cpu": "another"}}
    found = compare_runs(other, run)
    assert {change.verdict for change in found.changes} == {"other machine"}
    assert found.machines == (f"cpu: another, now {run.machine['cpu']}",)
    assert "the ratios say nothing" in next(change_lines(found))
    slow = dataclasses.replace(run, board=Board(power_mode="MODE_15W"))
    (line,) = compare_runs(recorded_ours, slow).machines
    assert line == "power_mode: not known, now MODE_15W"


def test_other_settings_are_named(run, recorded_ours):
    other = dataclasses.replace(run, offered_hz=60.0, precision="int8")
    found = compare_runs(recorded_ours, other)
    assert found.settings[0] == "precision: fp32, now int8"
    assert found.settings[1].endswith("now 60.0")
    assert "other machine" not in {change.verdict for change in found.changes}


def test_watts_of_a_jetson_are_shown(run):
    watts = Range(7.5, 7.0, 8.0, 0.2)
    used = dataclasses.replace(
        run.usage,
        rails_w={"VDD_IN": watts},
        total_w=watts,
        temperatures_c={"cpu": Range(50, 48, 52, 1)},
        clocks_mhz={"gpu": Range(900, 600, 1300, 99)},
        over_current_events=3,
        seconds=600.0,
        rss_slope_mb_per_hour=0.25,
        rss_slope_error=0.1,
    )
    board = Board("Orin Nano", "36.4.3", "6.2", "15W")
    text = "\n".join(lines(dataclasses.replace(run, usage=used, board=board)))
    assert "power mode: 15W; 7.5 W, at most 8.0 W" in text
    assert "rails: VDD_IN 7.5 W" in text
    assert "temperatures: cpu 52.0 C" in text
    assert "clocks moved" in text
    assert "3 events of too low a voltage" in text
    assert "slope +0.25 +- 0.10 MB/h" in text


def test_a_run_records_itself_and_compares(small, pictures, tmp_path):
    path = tmp_path / "a.json"
    settings = {"rate": RATE, "seconds": 0.6, "images": pictures, "threads": 1}
    first, nothing = recorded_run(small, record=path, rates="depth=25", **settings)
    assert nothing is None
    assert first.rates == {"depth": 25.0}
    with pytest.raises(OutputError, match="exists"):
        recorded_run(small, record=path, **settings)
    second, comparison = recorded_run(small, record=path, compare=path, force=True, **settings)
    assert "rates: {'depth': 25.0}, now not known" in comparison.settings
    assert read_record(path)["delivered"] == second.delivered


KEYS = set(
    "bundle backend precision source rates seconds ended offered offered_hz delivered".split()
)
KEYS |= set("achieved_hz in_stream missed deadline_ms late age_ms latency_ms call_ms".split())
KEYS |= set("stages_ms jitter_ms gaps longest_gap_ms task_hz after_idle usage board".split())
KEYS |= {"machine", "figures"}
"""What programs read from a run, in `--json` and under `degmix` of a record: keys stay."""


@pytest.mark.slow
def test_the_command_line(cli, small, pictures, tmp_path):
    photos, path = tmp_path / "photos", tmp_path / "run.json"
    photos.mkdir()
    Image.fromarray(pictures[0]).save(photos / "a.png")
    base = ("bench", small, "--data", photos, "--rate", "30", "--seconds", "0.6", "--threads", "1")
    code, out, err = cli(*base, "--record", path, "--json")
    assert code == 0, err
    values = json.loads(out)
    assert values["comparison"] is None
    assert set(values["stream"]) == KEYS
    assert values["stream"]["delivered"] == json.loads(path.read_text())["degmix"]["delivered"]
    code, _, err = cli(*base, "--compare", path, "--idle", "0.01")
    assert code == 0, err
    assert "against the record" in err
    code, _, err = cli(*base, "--calls", "3")
    assert code == 2
    code, _, err = cli("bench", small, "--seconds", "1", "--source", "nothing://x")
    assert code == 15
    code, _, err = cli(*base, "--rates", "depht=3")
    assert code == 3
    assert "Did you mean 'depth'" in err

"""Streams into files and views: every way to end leaves complete files and true counts."""

import os
import signal
import threading
import time
import warnings

import av
import numpy as np
import pytest
from rosbags.highlevel import AnyReader

from degmix_edge.capture import CapturedFrame, Source
from degmix_edge.errors import ConfigError, OutputError, SourceError
from degmix_edge.sinks import Sink, SinkOptions, View
from degmix_edge.workflows.record import parse_rates, record_stream

START_NS, STEP_NS = 1_700_000_000_000_000_000, 33_333_333


@pytest.fixture(scope="module")
def bundle(bundles):
    return bundles["fp32"].path


@pytest.fixture(autouse=True)
def _nothing_is_left():
    handlers = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    yield
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert not [t.name for t in threading.enumerate() if t.name.startswith("degmix-")]


def stamped(pictures, count):
    return [
        CapturedFrame(pictures[i % len(pictures)], 0, stamp_ns=START_NS + i * STEP_NS, index=i)
        for i in range(count)
    ]


class Camera(Source):
    """A live camera at 100 Hz, which may break after some frames."""

    name = "test camera"

    def __init__(self, pictures, breaks_at=None):
        self.pictures, self.breaks_at, self.index = pictures, breaks_at, 0
        self.called = threading.Event()

    def open(self):
        pass

    def read(self, stop):
        if self.index == self.breaks_at:
            raise SourceError("test camera: was unplugged")
        if stop.wait(0.01):
            return None
        self.called.set()
        now, index = time.monotonic_ns(), self.index
        self.index += 1
        picture = self.pictures[index % len(self.pictures)]
        return CapturedFrame(picture, now, now, START_NS + index * 10**7, "test", index)

    def close(self):
        pass


class File(Camera):
    """The same, not live."""

    is_live = False


class BrokenView(View):
    """A view that fails with its first result."""

    def __init__(self):
        super().__init__("broken view", SinkOptions())
        self._start()

    def _show(self, result):
        raise ValueError("the viewer is gone")

    def _end(self):
        pass


class Full(Sink):
    """A sink whose disk is full after some results."""

    name = "full"

    def __init__(self, after=3):
        self.after, self.closed = after, False

    def write(self, result):
        self.count += 1
        if self.count > self.after:
            raise OutputError("full: cannot be written (No space left on device)")

    def close(self):
        self.closed = True


def messages(path):
    """How many messages a recording has, by topic."""
    with AnyReader([path]) as reader:
        return {connection.topic: connection.msgcount for connection in reader.connections}


def num_frames(path):
    with av.open(str(path)) as container:
        return sum(1 for _ in container.decode(video=0))


def adds_up(recording):
    for camera in recording.stats.cameras.values():
        assert camera.captured == camera.delivered + sum(camera.dropped.values())
        assert camera.in_stream == 0


def test_every_frame_of_a_file_is_in_every_output(bundle, pictures, tmp_path):
    outputs = [tmp_path / name for name in ("maps.mcap", "overlay.mp4", "files", "maps.rrd")]
    rates = {"depth": None, "semseg": 10}
    found = record_stream(bundle, stamped(pictures, 9), outputs, rates=rates, threads=1)
    assert (found.results, found.ended_by, found.exit_code) == (9, "source", 0)
    assert found.written == outputs
    assert found.tasks == ("semseg", "depth")
    assert found.rates_hz["depth"] == pytest.approx(3 * found.rates_hz["semseg"])
    adds_up(found)
    counts = messages(outputs[0])
    assert counts["/camera/depth/image"] == 9
    assert counts["/camera/segmentation/mask"] == 3
    assert num_frames(outputs[1]) == 9
    names = sorted(one.name for one in outputs[2].iterdir())
    assert len(names) == 9 * 2 + 3  # an archive and depth each time, and semseg
    assert names[0] == f"000000_{START_NS}.depth.png"
    assert np.load(outputs[2] / f"000001_{START_NS + STEP_NS}.npz").files == ["depth"]
    (title, columns, rows), *_ = found.text()
    assert title.startswith("list: 9 results in ")
    assert ["camera: frames", "9"] in rows
    assert ["age ms: p50, p95, p99", "unknown"] in rows
    assert all(len(row) == len(columns) for row in rows)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_stream_with_complete_files(bundle, pictures, tmp_path, number):
    camera, sent = Camera(pictures), []

    def interrupt():
        camera.called.wait(60)
        time.sleep(0.5)
        sent.append(time.monotonic())
        os.kill(os.getpid(), number)

    threading.Thread(target=interrupt, daemon=True).start()
    outputs = [tmp_path / "maps.mcap", tmp_path / "overlay.mp4"]
    found = record_stream(bundle, camera, outputs, threads=1)
    assert time.monotonic() - sent[0] < 3
    assert (found.ended_by, found.exit_code) == (number.name, 128 + number)
    adds_up(found)
    assert found.stats.age_ms["p50"] > 0
    assert messages(outputs[0])["/camera/depth/image"] == found.results > 1
    assert num_frames(outputs[1]) == found.results
    assert sorted(one.name for one in tmp_path.iterdir()) == ["maps.mcap", "overlay.mp4"]


def test_a_second_signal_interrupts_what_hangs(bundle, pictures):
    class Hangs(Full):
        def write(self, result):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(20)

    sink, start = Hangs(), time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        record_stream(bundle, stamped(pictures, 3), [sink], threads=1)
    assert time.monotonic() - start < 15
    assert sink.closed


def test_a_duration_ends_a_camera(bundle, pictures, tmp_path):
    start = time.monotonic()
    found = record_stream(
        bundle, Camera(pictures), [tmp_path / "a.mcap"], duration_s=0.6, threads=1
    )
    assert found.ended_by == "duration"
    assert time.monotonic() - start > 0.6
    assert found.seconds < 0.6
    assert messages(tmp_path / "a.mcap")["/camera/depth/image"] == found.results
    for seconds in (0, -1, float("nan")):
        with pytest.raises(ConfigError, match="expected seconds above 0"):
            record_stream(bundle, Camera(pictures), duration_s=seconds)


def test_what_was_recorded_before_the_source_broke_is_kept(bundle, pictures, tmp_path):
    with pytest.raises(SourceError, match="was unplugged"):
        record_stream(bundle, File(pictures, breaks_at=20), [tmp_path / "a.mcap"], threads=1)
    counts = messages(tmp_path / "a.mcap")
    assert 0 < counts["/camera/depth/image"] <= 20


def test_a_sink_that_breaks_ends_the_run_and_keeps_the_others(bundle, pictures, tmp_path):
    full = Full()
    with pytest.raises(OutputError, match="No space left"):
        record_stream(bundle, stamped(pictures, 9), [tmp_path / "a.mcap", full], threads=1)
    assert full.closed
    assert messages(tmp_path / "a.mcap")["/camera/depth/image"] == 4


def test_a_view_that_breaks_never_stops_the_recording(bundle, pictures, tmp_path):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        outputs = [tmp_path / "a.mcap", BrokenView()]
        found = record_stream(bundle, stamped(pictures, 9), outputs, threads=1)
    assert found.results == 9
    assert messages(tmp_path / "a.mcap")["/camera/depth/image"] == 9
    texts = [str(one.message) for one in caught if "view" in str(one.message)]
    assert len(texts) == 1
    assert "broken view has ended" in texts[0]


@pytest.mark.filterwarnings("ignore:degmix-edge. the view")
def test_where_nothing_but_a_view_was_asked_for_its_end_is_an_error(bundle, pictures):
    with pytest.raises(OutputError, match="the viewer is gone"):
        record_stream(bundle, Camera(pictures), [BrokenView()], duration_s=20, threads=1)


def test_chosen_tasks_are_the_ones_that_run(bundle, pictures, tmp_path):
    options = SinkOptions(tasks=("edge",))
    outputs = [tmp_path / "a.mcap"]
    found = record_stream(bundle, stamped(pictures, 2), outputs, options=options, threads=1)
    assert found.tasks == ("edge",)
    assert messages(tmp_path / "a.mcap") == {"/camera/edge/image": 2}
    with pytest.raises(ConfigError, match="no task 'lanes'"):
        record_stream(bundle, stamped(pictures, 2), rates={"lanes": 10})


def test_nothing_is_computed_before_the_outputs_are_checked(bundle, pictures, tmp_path):
    (tmp_path / "a.mcap").write_text("precious")
    camera = Camera(pictures)
    for output in ("a.mcap", "none/a.mcap", "a.bag"):
        with pytest.raises((OutputError, ConfigError)):
            record_stream(bundle, camera, [tmp_path / output], threads=1)
    assert not camera.called.is_set()
    assert (tmp_path / "a.mcap").read_text() == "precious"
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "old.npz").write_text("precious")
    with pytest.raises(OutputError, match=r"old\.npz: exists; give --force"):
        record_stream(bundle, camera, [tmp_path / "files"], threads=1)


def test_a_stream_without_frames_writes_nothing_and_says_so(bundle, tmp_path):
    events = []
    found = record_stream(bundle, [], [tmp_path / "a.mcap"], progress=events.append, threads=1)
    assert (found.results, found.written, found.rates_hz) == (0, [], {})
    assert list(tmp_path.iterdir()) == []
    assert [e.detail for e in events if e.kind == "warning"] == [
        "no result was computed, so nothing was written"
    ]


def test_it_runs_in_any_thread(bundle, pictures, tmp_path):
    """Where no signal can be caught."""
    found = []
    outputs = [tmp_path / "a.mcap"]
    thread = threading.Thread(
        target=lambda: found.append(record_stream(bundle, stamped(pictures, 2), outputs, threads=1))
    )
    thread.start()
    thread.join(60)
    assert found[0].results == 2


def test_rates_as_texts():
    assert parse_rates(["depth=30", "semseg=every", "edge=0.5"]) == {
        **{"depth": 30.0, "semseg": None, "edge": 0.5},
    }
    assert parse_rates([]) is None
    for text in ("depth", "depth=", "depth=fast", "30"):
        with pytest.raises(ConfigError, match=f"rate '{text}': expected a task"):
            parse_rates([text])


@pytest.mark.parametrize("rate", [-1.0, float("nan"), float("inf")])
def test_a_rate_out_of_range_is_refused(bundle, pictures, tmp_path, rate):
    with pytest.raises(ConfigError, match="depth"):
        record_stream(bundle, stamped(pictures, 2), [tmp_path / "a.mcap"], rates={"depth": rate})
    assert list(tmp_path.iterdir()) == []


def test_memory_does_not_grow_with_the_recording(bundle, pictures, tmp_path):
    """Results are written, not gathered."""
    import psutil

    sizes = []

    class Watch(Full):
        def write(self, result):
            if result.frame.index in (60, 359):
                sizes.append(psutil.Process().memory_info().rss)

    outputs = [tmp_path / "a.mcap", Watch()]
    options = SinkOptions(image=True)
    record_stream(bundle, stamped(pictures, 360), outputs, options=options, threads=1)
    assert sizes[1] - sizes[0] < 15e6  # 300 results have 54 MB

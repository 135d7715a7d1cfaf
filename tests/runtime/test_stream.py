"""Streams: the newest frame wins, every frame is accounted for, and nothing outlives `with`."""

import threading
import time
import warnings

import numpy as np
import pytest

import degmix_edge
from degmix_edge.capture import CapturedFrame, Source
from degmix_edge.errors import BackendError, ConfigError, InputError, SourceError
from degmix_edge.runtime import lane
from degmix_edge.runtime.results import (
    NEWER_FRAME,
    NEWER_RESULT,
    NOT_DUE,
    REFUSED,
    STOPPED,
    TOO_OLD,
)


class Camera(Source):
    """A live camera of so many frames, which may break, go blind or change its size."""

    def __init__(self, pictures, *, fps=200.0, count=None, breaks_at=(), opens=True, stamp=None):
        self.name, self.pictures, self.fps, self.count = "test camera", pictures, fps, count
        self.breaks_at, self.opens, self.stamp = set(breaks_at), opens, stamp
        self.index = self.num_opened = self.num_closed = 0

    def open(self):
        self.num_opened += 1
        self.base = self.index  # as a camera's own count, which begins again
        if not self.opens:
            raise SourceError("test camera: is busy; close the program that uses it")
        self.due = time.monotonic()

    def read(self, stop):
        if self.count is not None and self.index >= self.count:
            return None
        if self.index in self.breaks_at:
            self.breaks_at.remove(self.index)
            raise SourceError("test camera: was unplugged")
        self.due = max(self.due + 1 / self.fps, time.monotonic())
        if stop.wait(max(0.0, self.due - time.monotonic())):
            return None
        now, index = time.monotonic_ns(), self.index
        self.index += 1
        stamp = index if self.stamp is None else self.stamp(index)
        picture = self.pictures[index % len(self.pictures)]
        self.skipped += 2  # as if two more frames had been ready
        return CapturedFrame(
            picture, now, now, stamp, "test", index - self.base, frame_id="optical"
        )

    def close(self):
        self.num_closed += 1


@pytest.fixture(scope="module")
def session(bundles):
    with degmix_edge.load(bundles["fp32"].path, threads=1) as session:
        yield session


@pytest.fixture(autouse=True)
def _nothing_is_left():
    yield
    left = [t.name for t in threading.enumerate() if t.name.startswith("degmix-")]
    assert not left


def adds_up(stats):
    for name, camera in stats.cameras.items():
        lost = sum(camera.dropped.values())
        assert camera.captured == camera.delivered + lost + camera.in_stream, name


def test_every_image_of_an_iterable_is_computed_in_order(session, pictures):
    with degmix_edge.stream(session, pictures) as stream:
        results = list(stream)
    assert [result.frame.index for result in results] == list(range(len(pictures)))
    for result, picture in zip(results, pictures, strict=True):
        assert result.fresh == session.spec.task_names
        assert result.age_ms is None  # nobody knows when an array was captured
        assert set(result.frames_old.values()) == {0}
        np.testing.assert_array_equal(result.maps["depth"], session(picture)["depth"])
    stats = stream.stats
    adds_up(stats)
    assert stats.cameras["camera"].delivered == len(pictures)
    assert stats.age_ms == {}


def test_a_stream_opens_and_closes_its_bundle(bundles, pictures):
    with degmix_edge.stream(bundles["int8"].path, pictures, threads=1) as stream:
        assert len(list(stream)) == len(pictures)
    with pytest.raises(BackendError, match="not active"):
        stream.session(pictures[0])


def test_a_slow_consumer_gets_the_newest_frame_and_drops_are_counted(session, pictures):
    camera = Camera(pictures)
    with degmix_edge.stream(session, camera) as stream:
        ages, stages = [], []
        for result in stream:
            ages.append(result.age_ms)
            stages.append(result.stages)
            time.sleep(0.1)  # many frames and several results
            if len(ages) == 8:
                break
    stats = stream.stats
    adds_up(stats)
    counts = stats.cameras["camera"]
    assert counts.delivered == 8
    assert counts.in_stream == 0
    assert counts.dropped[NEWER_RESULT] > 8
    assert counts.dropped[STOPPED] <= 3
    assert counts.captured > 50
    assert counts.skipped == 2 * counts.captured
    assert {"queue_ms", "pre_ms", "net_ms", "post_ms", "take_ms"} == stages[0].keys()
    # The result lay there at most as long as the next one took to come.
    assert np.median(ages) < 60
    assert stats.age_ms["p50"] <= stats.age_ms["max"]


def test_stamps_and_the_frame_id_are_those_of_the_frame(session, pictures):
    camera = Camera(pictures, count=5, stamp=lambda index: 10**18 + index)
    with degmix_edge.stream(session, camera) as stream:
        for result in stream:
            assert result.stamp_ns == 10**18 + result.frame.index
            assert result.frame.frame_id == "optical"


def test_tasks_run_at_their_rates_and_held_maps_say_their_age(session, pictures):
    frames = [
        CapturedFrame(pictures[i % len(pictures)], 0, stamp_ns=i * 10**9 // 30, index=i)
        for i in range(31)
    ]
    rates = {"depth": 30.0, "semseg": 10.0, "normals": 5.0}
    with degmix_edge.stream(session, frames, rates=rates) as stream:
        results = list(stream)
    assert [set(result.maps) for result in results] == [rates.keys()] * 31
    for task, rate in rates.items():
        ran = [result.frame.index for result in results if task in result.fresh]
        assert len(ran) == pytest.approx(31 * rate / 30, abs=1.5)
        for result in results:
            newest = max(index for index in ran if index <= result.frame.index)
            assert result.frames_old[task] == result.frame.index - newest
            held = next(r for r in results if r.frame.index == newest).maps[task]
            np.testing.assert_array_equal(result.maps[task], held)
    assert stream.stats.cameras["camera"].runs["edge"] == 0


def test_rates_change_within_one_frame(session, pictures):
    with degmix_edge.stream(session, rates={"depth": None}) as stream:
        seen = []
        for index in range(12):
            if index == 4:
                stream.set_rate("semseg", None)
            if index == 8:
                stream.set_rate("semseg", 0)
            stream.put(pictures[0], stamp_ns=index)
            seen.append(stream.read(10).fresh)
    assert seen == [("depth",)] * 4 + [("semseg", "depth")] * 4 + [("depth",)] * 4
    assert stream.rates["semseg"] == 0


def test_frames_between_the_runs_are_dropped_and_counted(session, pictures):
    with degmix_edge.stream(session, rates={"depth": 1.0}) as stream:
        stream.put(pictures[0])
        assert stream.read(10).frame.index == 0
        deadline = time.monotonic() + 10
        while stream.stats.cameras["camera"].dropped[NOT_DUE] < 3:
            stream.put(pictures[0])
            assert time.monotonic() < deadline
    adds_up(stream.stats)


def test_cameras_take_turns(session, pictures):
    cameras = {"left": Camera(pictures, fps=900), "right": Camera(pictures, fps=1800)}
    with degmix_edge.stream(session, cameras) as stream:
        names = [stream.read(10).camera for _ in range(40)]
    adds_up(stream.stats)
    assert 15 <= names.count("left") <= 25


def test_frames_that_are_too_old_are_not_computed(session, pictures):
    with degmix_edge.stream(session, max_age_ms=1000) as stream:
        stream.put(pictures[0], 1, captured_ns=time.monotonic_ns() - 2 * 10**9)
        stream.put(pictures[0], 2)  # nobody knows how old this one is
        assert stream.read(10).stamp_ns == 2
        stream.put(pictures[0], 3, captured_ns=time.monotonic_ns())
        deadline = time.monotonic() + 10
        while stream.stats.cameras["camera"].runs["depth"] < 2:
            assert time.monotonic() < deadline
        time.sleep(1.1)
        assert stream.read(10).age_ms > 1000
    stats = stream.stats.cameras["camera"]
    adds_up(stream.stats)
    assert (stats.late, stats.delivered) == (1, 2)
    assert stats.dropped[TOO_OLD] + stats.dropped[NEWER_FRAME] == 1


@pytest.fixture(scope="module")
def batch_session(batch_bundle):
    """A session that computes three images at once."""
    with degmix_edge.load(batch_bundle, threads=1) as session:
        yield session


def test_frames_of_several_cameras_are_computed_together(batch_session, pictures):
    with degmix_edge.stream(batch_session, {"a": None, "b": None, "c": None}) as stream:
        expected = {}
        for name, picture in zip("abc", pictures, strict=False):
            image = CapturedFrame(picture, 0)
            expected[name] = image
        stream.set_rate("edge", 0, camera="b")
        with stream._changed:  # all of them lie there before the network is free
            for name, frame in expected.items():
                stream.put(frame.image, camera=name)
        results = {r.camera: r for r in (stream.read(10) for _ in "abc")}
    for name, frame in expected.items():
        alone = batch_session(frame.image)
        for task, array in results[name].maps.items():
            np.testing.assert_array_equal(array, alone[task], err_msg=f"{name} {task}")
    assert len({result.computed_ns for result in results.values()}) == 1
    assert "edge" in results["a"].fresh
    assert "edge" not in results["b"].maps


def test_one_frame_of_several_that_is_refused_does_not_take_the_others_along(
    batch_session, pictures
):
    bad = np.zeros((4, 4, 7), np.uint8)
    with degmix_edge.stream(batch_session, {"good": None, "bad": None}) as stream:
        with stream._changed:
            stream.put(bad, camera="bad")
            stream.put(pictures[0], camera="good")
        assert stream.read(10).camera == "good"
        assert stream.stats.cameras["bad"].dropped[REFUSED] == 1


def test_a_camera_that_breaks_is_opened_again(session, pictures, monkeypatch):
    monkeypatch.setattr(lane, "FIRST_WAIT_S", 0.01)
    camera = Camera(pictures, count=20, breaks_at=(3, 9))
    with degmix_edge.stream(session, camera) as stream:
        assert [r.frame.index for r in stream][-1] == 19
    stats = stream.stats.cameras["camera"]
    assert stats.reconnects == 2
    assert stats.last_error == "test camera: was unplugged"
    assert camera.num_opened == 3
    assert camera.num_closed >= 3


def test_without_reconnecting_the_error_reaches_the_consumer(session, pictures):
    camera = Camera(pictures, breaks_at=(3,))
    with (
        pytest.raises(SourceError, match="was unplugged"),
        degmix_edge.stream(session, camera, reconnect=False) as stream,
    ):
        list(stream)


def test_a_camera_that_does_not_open_is_refused_at_once(session, pictures):
    good, busy = Camera(pictures), Camera(pictures, opens=False)
    with pytest.raises(SourceError, match="is busy"):
        degmix_edge.stream(session, {"good": good, "busy": busy})
    assert good.num_closed >= 1


def test_waiting_for_a_camera_to_come_back_does_not_delay_the_end(session, pictures):
    camera = Camera(pictures, breaks_at=(1,))
    with degmix_edge.stream(session, camera) as stream:
        stream.read(10)
        camera.opens = False
        time.sleep(0.7)
        start = time.monotonic()
    assert time.monotonic() - start < 2


def test_a_stream_closes_while_its_consumer_raises(session, pictures):
    def consume():
        with degmix_edge.stream(session, Camera(pictures)) as opened:
            opened.read(10)
            streams.append(opened)
            raise RuntimeError

    streams, start = [], time.monotonic()
    with pytest.raises(RuntimeError):
        consume()
    stream = streams[0]
    assert time.monotonic() - start < 4
    stream.close()
    with pytest.raises(BackendError, match="closed"):
        stream.read()
    adds_up(stream.stats)


def test_stamps_that_jump_back_are_delivered_and_counted(session, pictures):
    frames = [CapturedFrame(pictures[0], 0, stamp_ns=s) for s in (10**9, 2 * 10**9, 5, 10**9)]
    with degmix_edge.stream(session, frames, rates={"depth": 1.0}) as stream:
        assert [result.stamp_ns for result in stream] == [10**9, 2 * 10**9, 5, 10**9]
    assert stream.stats.cameras["camera"].stamps_back == 1


def test_a_frame_that_the_network_refuses_is_counted_and_the_next_one_runs(session, pictures):
    frames = [pictures[0], np.zeros((4, 4, 7), np.uint8), pictures[1]]
    with degmix_edge.stream(session, frames) as stream:
        assert [result.frame.index for result in stream] == [0, 2]
    stats = stream.stats.cameras["camera"]
    assert stats.dropped[REFUSED] == 1
    assert "(4, 4, 7)" in stats.last_error


def test_frames_that_are_all_refused_end_the_stream(session):
    with (
        pytest.raises(InputError, match="30 frames in a row were refused"),
        degmix_edge.stream(session, [np.zeros((4, 4, 7), np.uint8)] * 40) as stream,
    ):
        list(stream)


def test_a_size_that_changes_in_flight_is_followed(session):
    frames = [np.zeros((h, w, 3), np.uint8) for h, w in ((48, 64), (96, 64), (30, 90))]
    with degmix_edge.stream(session, frames) as stream:
        sizes = [r.maps["depth"].at_image_size().shape for r in stream]
    assert sizes == [(48, 64), (96, 64), (30, 90)]


def test_frames_of_several_formats_share_a_session(session, pictures):
    rgb = pictures[0]
    bgr = CapturedFrame(rgb[..., ::-1], 0, format="bgr")
    with degmix_edge.stream(session, [rgb, bgr]) as stream:
        first, second = list(stream)
    np.testing.assert_array_equal(first.maps["depth"], second.maps["depth"])


def test_put_from_many_threads_loses_no_count(session, pictures):
    with degmix_edge.stream(session) as stream:

        def give():
            for _ in range(50):
                stream.put(pictures[0])
                time.sleep(0.001)

        threads = [threading.Thread(target=give) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        stream.end()
        results = list(stream)
        with pytest.raises(BackendError, match="takes no frames"):
            stream.put(pictures[0])
    stats = stream.stats
    adds_up(stats)
    assert stats.cameras["camera"].captured == 200
    assert results[-1].frame.index == 199  # the newest frame is never the one that is dropped
    assert stats.cameras["camera"].dropped[NEWER_FRAME] > 0


def test_a_read_that_gets_nothing_says_so(session):
    with (
        degmix_edge.stream(session) as stream,
        pytest.raises(TimeoutError, match="no result within 0.05 s"),
    ):
        stream.read(0.05)


def test_a_budget_that_leaves_no_room_names_the_task(session, pictures):
    with (
        degmix_edge.stream(
            session, rates={"depth": 30, "semseg": 30, "edge": 30, "normals": 30}, budget_ms=0.001
        ) as stream,
        warnings.catch_warnings(record=True) as caught,
    ):
        warnings.simplefilter("always")
        for index in range(12):
            stream.put(pictures[0], captured_ns=10**9 + index * 50_000_000)
            stream.read(10)
        over = stream.stats.over_budget
    assert over == 12
    assert stream.budget_ms == 0.001
    assert not caught  # a network in one part costs the same with all tasks, so all of them run


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rates": {"dept": 1.0}}, "no task 'dept'.*Did you mean 'depth'"),
        ({"rates": {"depth": float("nan")}}, "rates: depth got nan"),
        ({"rates": {"depth": -1}}, "rates: depth got -1"),
        ({"rates": {"depth": 0}}, "nothing would run"),
        ({"budget_ms": 0}, "budget_ms: got 0"),
        ({"max_age_ms": -1}, "max_age_ms: got -1"),
        ({"source": {}}, "no sources"),
        ({"threads": 2}, "threads cannot change a session that is open"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(session, arguments, message):
    with pytest.raises(ConfigError, match=message):
        degmix_edge.stream(session, **arguments)


def test_put_needs_a_camera_that_takes_frames(session, pictures):
    with degmix_edge.stream(session, pictures) as stream:
        with pytest.raises(ConfigError, match="every camera has a source"):
            stream.put(pictures[0])
        with pytest.raises(ConfigError, match="no camera 'rear'. Have: camera"):
            stream.put(pictures[0], camera="rear")
        list(stream)

"""Live views: the newest result wins, a view that fails stops nobody, and what viewers get."""

import asyncio
import socket
import struct
import threading
import time
import warnings

import aiohttp
import numpy as np
import pytest
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from recorded import START_NS, as_sent, frames, results
from rerun.chunk import RrdReader

import degmix_edge
from degmix_edge.errors import ConfigError, OutputError
from degmix_edge.sinks import SinkOptions, View, open_sink
from degmix_edge.sinks._view import STOP_S


@pytest.fixture(scope="module")
def session(bundles):
    with degmix_edge.load(bundles["fp32"].path, threads=1) as session:
        yield session


@pytest.fixture(autouse=True)
def _nothing_is_left():
    yield
    names = [t.name for t in threading.enumerate()]
    assert not [n for n in names if n.startswith(("degmix-rerun", "degmix-foxglove"))]


class Shown(View):
    """A view that notes what it shows, slowly, and may fail or hang."""

    def __init__(self, rate_hz=1000.0, *, seconds=0.0, fails_at=None, hangs=False):
        super().__init__("test view", SinkOptions(rate_hz=rate_hz))
        self.seconds, self.fails_at, self.hang = seconds, fails_at, hangs
        self.indices, self.num_ended, self.free = [], 0, threading.Event()
        self._start()

    def _show(self, result):
        if len(self.indices) == self.fails_at:
            raise ValueError("the viewer is gone")
        self.indices.append(result.frame.index)
        time.sleep(self.seconds)
        if self.hang:
            self.free.wait(20)

    def _end(self):
        self.num_ended += 1


@pytest.fixture(scope="module")
def found(session, pictures):
    return results(session, frames(pictures, 30))


def until(condition, seconds=10.0):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_the_newest_result_wins_and_nobody_waits(found):
    view = Shown(seconds=0.05)
    start = time.monotonic()
    for result in found:
        view.write(result)
        time.sleep(0.005)
    assert time.monotonic() - start < 1.0  # 30 results would take 1.5 s to show
    until(lambda: view.indices[-1:] == [29])
    view.close()
    view.close()
    assert view.indices == sorted(view.indices)
    assert 3 <= len(view.indices) < 20
    assert view.num_ended == 1


def test_a_view_shows_at_most_its_rate(found):
    with Shown(rate_hz=20.0) as view:
        start = time.monotonic()
        while time.monotonic() - start < 0.5:
            view.write(found[0])
            time.sleep(0.001)
    assert 2 <= len(view.indices) <= 11


def test_a_view_that_hangs_ends_in_time(found):
    view = Shown(hangs=True)
    view.write(found[0])
    until(lambda: view.indices)
    start = time.monotonic()
    view.close()
    assert time.monotonic() - start < STOP_S + 0.5
    view.free.set()


def test_a_view_that_fails_warns_once_and_stops_nobody(found):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with Shown(fails_at=2) as view:
            for result in found[:10]:
                view.write(result)
                time.sleep(0.01)
    texts = [str(one.message) for one in caught]
    assert texts == [
        "degmix-edge: the view test view has ended, and everything else goes on: "
        "ValueError: the viewer is gone"
    ]
    assert len(view.indices) == 2
    assert isinstance(view.error, ValueError)


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused(session, rate):
    for name in ("rerun:19876", "foxglove:0"):
        with pytest.raises(ConfigError, match=r"rate .*, expected a number above 0"):
            open_sink(name, session.spec, SinkOptions(rate_hz=rate))


def test_ports_that_are_taken_or_none(session):
    with socket.create_server(("", 0)) as server:
        port = server.getsockname()[1]
        for name in (f"rerun:{port}", f"foxglove:0.0.0.0:{port}"):
            with pytest.raises(OutputError, match=r"cannot be served .*in use.*give another"):
                open_sink(name, session.spec)
    for name in ("rerun:x", "rerun:70000", "foxglove:x", "foxglove:1.2.3.4:x"):
        with pytest.raises(ConfigError, match=f"{name}: expected {name.partition(':')[0]}, or"):
            open_sink(name, session.spec)


def test_missing_packages_are_named(session, monkeypatch):
    for name in ("rerun", "foxglove"):
        monkeypatch.setitem(__import__("sys").modules, name, None)
        with pytest.raises(ConfigError, match=rf"needs {name}.*'degmix-edge\[view\]'"):
            open_sink(name, session.spec)


# Foxglove: a client of its WebSocket protocol, which decodes by the schemas that it is sent.


async def listen(port, found, view, topics):
    """Subscribe to `topics` while results are written; the channels, and a message of each.

    A result is written once all messages of the one before are read: the server drops the oldest
    messages of a client that lags, and those may be of the same topic each time.
    """
    channels, messages = {}, {}
    async with (
        aiohttp.ClientSession() as http,
        http.ws_connect(f"http://127.0.0.1:{port}", protocols=["foxglove.sdk.v1"]) as socket,
    ):
        for result in 50 * found:
            view.write(result)
            async for message in waiting(socket):
                if message.type == aiohttp.WSMsgType.TEXT:
                    for one in message.json().get("channels", ()):
                        channels[one["topic"]] = one
                        if one["topic"] in topics:
                            wanted = {"id": one["id"], "channelId": one["id"]}
                            await socket.send_json({"op": "subscribe", "subscriptions": [wanted]})
                elif message.data[:1] == b"\x01":  # message data
                    channel, logged_ns = struct.unpack_from("<IQ", message.data, 1)
                    topic = next(t for t, one in channels.items() if one["id"] == channel)
                    messages[topic] = (logged_ns, decode(channels[topic], message.data[13:]))
            if messages.keys() == topics:
                return channels, messages
    raise AssertionError(f"of {topics} came {messages.keys()}, of channels {channels.keys()}")


async def waiting(socket):
    """Yield messages until none has come for 0.1 s."""
    while not socket.closed:
        try:
            yield await socket.receive(timeout=0.1)
        except asyncio.TimeoutError:
            return


def decode(channel, content):
    import base64

    files = descriptor_pb2.FileDescriptorSet.FromString(base64.b64decode(channel["schema"]))
    pool = descriptor_pool.DescriptorPool()
    for file in files.file:
        pool.Add(file)
    kind = pool.FindMessageTypeByName(channel["schemaName"])
    return message_factory.GetMessageClass(kind).FromString(content)


def test_foxglove_gets_numbers_and_pictures(session, found):
    with open_sink("foxglove:0", session.spec, SinkOptions(rate_hz=200)) as view:
        assert f"ws://127.0.0.1:{view.port}" in view.hint
        topics = {
            "/camera/image_raw",
            "/camera/depth/image",
            "/camera/depth/colour",
            "/camera/segmentation/image",
            "/camera/segmentation/colour",
            "/camera/normals/colour",
            "/camera/edge/image",
        }
        channels, messages = asyncio.run(listen(view.port, found, view, topics))
        assert view.error is None
    assert "/camera/normals/image" not in channels  # the panel has no such encoding
    encodings = {topic: message.encoding for topic, (_, message) in messages.items()}
    assert encodings == {
        "/camera/image_raw": "rgb8",
        "/camera/depth/image": "32FC1",
        "/camera/depth/colour": "rgb8",
        "/camera/segmentation/image": "mono8",
        "/camera/segmentation/colour": "rgb8",
        "/camera/normals/colour": "rgb8",
        "/camera/edge/image": "mono8",
    }
    by_stamp = {result.stamp_ns: result for result in found}
    for topic, (logged_ns, message) in messages.items():
        assert message.timestamp.seconds * 10**9 + message.timestamp.nanos == logged_ns
        assert (message.frame_id, message.height, message.width) == ("optical", 64, 96)
        result = by_stamp[logged_ns]
        expected = {
            "/camera/image_raw": result.frame.image,
            "/camera/depth/image": as_sent(result.maps["depth"]),
            "/camera/depth/colour": None,  # its limit is that of the frames before, too
            "/camera/segmentation/image": result.maps["semseg"],
            "/camera/segmentation/colour": result.maps["semseg"].colour(),
            "/camera/normals/colour": result.maps["normals"].colour(),
            "/camera/edge/image": as_sent(result.maps["edge"]),
        }[topic]
        if expected is not None:
            assert message.data == np.asarray(expected).tobytes(), topic
        assert message.step * 64 == len(message.data)


# Rerun: its own reader of recordings.


def test_a_recording_of_rerun_has_every_map(session, pictures, tmp_path):
    path = tmp_path / "a.rrd"
    rates = {"depth": None, "semseg": 10, "normals": None, "edge": None}
    found = results(session, frames(pictures, 9), rates=rates)
    with open_sink(str(path), session.spec, SinkOptions(tasks=tuple(rates))) as sink:
        for result in found:
            sink.write(result)
        assert not path.exists()
    assert [one.name for one in tmp_path.iterdir()] == ["a.rrd"]
    chunks = list(RrdReader(path).stream())
    values = column(chunks, "/camera/depth", "DepthImage:buffer")
    assert values.keys() == {result.stamp_ns for result in found}
    for result in found:
        depth = np.frombuffer(values[result.stamp_ns], np.float32)
        np.testing.assert_array_equal(depth, np.asarray(result.maps["depth"]).ravel())
    labels = column(chunks, "/camera/segmentation", "SegmentationImage:buffer")
    ran = [result for result in found if "semseg" in result.fresh]
    assert len(ran) == 3
    assert labels.keys() == {result.stamp_ns for result in ran}
    for result in ran:
        assert labels[result.stamp_ns] == np.asarray(result.maps["semseg"]).tobytes()
    pictures_of = column(chunks, "/camera/normals", "Image:buffer")
    assert pictures_of[START_NS] == found[0].maps["normals"].colour().tobytes()
    static = next(c for c in chunks if c.is_static and c.entity_path == "/camera/segmentation")
    context = static.to_record_batch().column("AnnotationContext:context")[0].as_py()[0]
    task = session.spec.task("semseg")
    names = [entry["class_description"]["info"]["label"] for entry in context]
    assert names == list(task.classes)
    colours = [entry["class_description"]["info"]["color"] >> 8 for entry in context]
    assert colours == [(r << 16) + (g << 8) + b for r, g, b in task.palette]


def column(chunks, entity, name):
    """Bytes of what was logged to an entity, by stamp."""
    batches = [c.to_record_batch() for c in chunks if c.entity_path == entity and not c.is_static]
    return {
        stamp: bytes(value[0])
        for batch in batches
        for stamp, value in zip(
            batch.column("stamp").cast("int64").to_pylist(),
            batch.column(name).to_pylist(),
            strict=True,
        )
    }


def test_a_viewer_can_connect_to_rerun(session, found):
    with open_sink("rerun:19877", session.spec) as view:
        view.write(found[0])
        until(lambda: view.shown)
        with socket.create_connection(("127.0.0.1", 19877), timeout=5):
            pass
        assert "rerun rerun+http://127.0.0.1:19877/proxy" in view.hint
    assert view.error is None
    until(lambda: not is_open(19877))


def is_open(port):
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0

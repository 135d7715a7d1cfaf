"""The ROS 2 node between a camera and a reader, each a process of its own with the real rclpy."""

import io
import itertools
import os
import signal
import subprocess
import sys
import time

import numpy as np
import PIL.Image
import pytest
from rig import (
    ACTIVATE,
    CLEANUP,
    CONFIGURE,
    DEACTIVATE,
    NodeProcess,
    PeerProcess,
    array_of,
    as_text,
    environment,
    interpreter,
    vision_messages,
    wait_for,
)

import degmix_edge

pytestmark = pytest.mark.slow(file_seconds=60)
IMAGE, INFO = "sensor_msgs/msg/Image", "sensor_msgs/msg/CameraInfo"
CLOUD = "sensor_msgs/msg/PointCloud2"
DIAGNOSTICS = {"/diagnostics": "diagnostic_msgs/msg/DiagnosticArray"}
MAPS = {"/segmentation/mask": IMAGE, "/depth/image": IMAGE, "/normals/image": IMAGE}
REMAP = ("-r", "image:=/camera/image_raw")
FRAME = "camera_optical"
WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:])
DOMAINS = itertools.count(5 + 25 * (WORKER % 4))
"""Each test has its own. The ports of domains above 101 may belong to other programs."""
K = [70.0, 0, 60, 0, 72, 33, 0, 0, 1]
CALIBRATION = {"height": 80, "width": 120, "k": K, "r": np.eye(3).ravel().tolist(), "d": [0.0] * 5}
CALIBRATION["p"] = [70.0, 0, 60, 0, 0, 72, 33, 0, 0, 0, 1, 0]


@pytest.fixture(scope="module")
def bundle(bundles):
    return bundles["int8"].path


@pytest.fixture(scope="module")
def picture(pictures):
    """A photograph of 80 x 120 pixels, which the network's 64 x 96 shows whole."""
    photo = PIL.Image.fromarray(pictures[0]).resize((120, 80))
    return np.asarray(photo)


@pytest.fixture
def domain():
    interpreter()
    return next(DOMAINS)


@pytest.fixture
def start(domain, tmp_path):
    """Start processes, which end with the test."""
    started = []

    def run(kind, *arguments, messages=None):
        if kind is PeerProcess:
            process = PeerProcess(*arguments, domain, messages)
        else:
            log = tmp_path / f"{len(started)}.log"
            process = NodeProcess(arguments[0], domain, log, *arguments[1:], messages=messages)
        started.append(process)
        return process

    yield run
    for process in started:
        process.close()


def film(camera, picture, **changes):
    """Let a camera film a picture."""
    height, width = picture.shape[:2]
    fields = {"topic": "/camera/image_raw", "fps": 30, "image": as_text(picture)}
    fields |= {"size": [height, width], "step": 3 * width, "frame_id": FRAME, "info": CALIBRATION}
    camera.camera(**{**fields, **changes})


def test_maps_have_the_stamps_of_their_images_and_nobody_works_for_nobody(start, bundle, picture):
    node = start(NodeProcess, bundle, *REMAP)
    camera, reader = start(PeerProcess, "camera"), start(PeerProcess, "reader")
    film(camera, picture)
    reader.listen(topics=DIAGNOSTICS)
    node.says("images from /camera/image_raw")
    wait_for(lambda: reader.diagnostics["message"] == "running")
    assert camera.readers() == 0, "the node takes no images before somebody wants maps"

    # One reader of depth, and nobody else: only depth runs.
    topics = {"/depth/image": IMAGE, "/depth/points": CLOUD, "/depth/camera_info": INFO}
    reader.listen(topics=topics)
    wait_for(lambda: all(len(reader.got(topic=topic)) >= 10 for topic in topics))
    assert "vision_msgs is not installed, so label_info" in node.log
    assert "subscribed to /camera/image_raw (reliable, depth 1)" in node.log
    lines = wait_for(
        lambda: (v := reader.diagnostics["values"]).get("depth a second", "0") > "1" and v
    )
    assert lines["tasks with subscribers"] == "depth"
    assert (lines["semseg a second"], lines["normals a second"]) == ("0.0", "0.0")

    reader.listen(topics={topic: IMAGE for topic in MAPS if topic not in topics})
    wait_for(lambda: all(len(reader.got(topic=topic)) >= 10 for topic in MAPS))
    reader.unlisten()
    sent = {tuple(stamp) for stamp in camera.sent()}
    for topic in {*MAPS, *topics}:
        received = [tuple(one[:2]) for one in reader.got(topic=topic)]
        assert set(received) <= sent, topic
        assert received == sorted(set(received)), f"{topic}: twice, or out of order"
        assert {one[2] for one in reader.got(topic=topic)} == {FRAME}
    check_maps(reader, bundle, picture)
    check_cloud(reader)
    # The last reader has gone, and so has the node's interest in the camera.
    wait_for(lambda: camera.readers() == 0)


def check_maps(reader, bundle, picture):
    """What arrived is what a session computes of the same image."""
    with degmix_edge.load(bundle, threads=1) as session:
        expected = session(picture)
    encodings = {"semseg": "mono8", "depth": "32FC1", "normals": "32FC3"}
    for topic, task in zip(MAPS, encodings, strict=True):
        message = reader.last(topic=topic)
        assert message["encoding"] == encodings[task]
        got, own = array_of(message), np.asarray(expected[task])
        if task == "depth":
            own = np.where(own > 0, own, np.nan)
        assert got.shape == own.shape
        # Another build of the same library may round differently.
        tolerance = 0 if task == "semseg" else 1e-2
        assert np.isclose(got, own, atol=tolerance, equal_nan=True).mean() > 0.99, task


def check_cloud(reader):
    """The points lie on the pixels of the mask, by the calibration that was published."""
    cloud, info = reader.last(topic="/depth/points"), reader.last(topic="/depth/camera_info")
    mask = reader.last(topic="/segmentation/mask")
    assert (cloud["height"], cloud["width"]) == (mask["height"], mask["width"])
    assert (info["height"], info["width"]) == (mask["height"], mask["width"])
    scale = mask["width"] / 120
    np.testing.assert_allclose(
        np.array(info["k"])[[0, 2, 4, 5]], np.array([70, 60, 72, 33]) * scale
    )
    points = array_of(cloud).astype(np.float64)
    v, u = np.nonzero(np.isfinite(points[..., 2]))
    assert len(v) > 1000
    onto = points[v, u] @ np.array(info["p"]).reshape(3, 4)[:, :3].T
    np.testing.assert_allclose(onto[:, :2] / onto[:, 2:], np.c_[u, v], atol=1e-3)


def test_rates_are_live_and_checked(start, bundle, picture):
    node = start(NodeProcess, bundle, *REMAP, "-p", "tasks.semseg.rate_hz:=10")
    camera, reader = start(PeerProcess, "camera"), start(PeerProcess, "reader")
    film(camera, picture, reliability="best_effort")
    reader.listen(topics={**DIAGNOSTICS, **MAPS})
    node.says("(best_effort, depth 1)")

    def rate(task, seconds=2.0):
        topic = {"depth": "/depth/image", "semseg": "/segmentation/mask"}[task]
        before = len(reader.got(topic=topic))
        time.sleep(seconds)
        return (len(reader.got(topic=topic)) - before) / seconds

    wait_for(lambda: reader.got(topic="/segmentation/mask"))
    assert 7 <= rate("semseg") <= 11.5
    assert reader.set(tasks__depth__rate_hz=5)[0]["successful"]  # a whole number is a number
    assert 3 <= rate("depth") <= 6.5
    assert reader.set(tasks__depth__rate_hz=0.0)[0]["successful"]
    time.sleep(0.3)
    assert rate("depth", 1.0) == 0
    for value in (-1.0, 1001.0, "nan", "fast"):
        answer = reader.set(tasks__depth__rate_hz=value)[0]
        assert not answer["successful"], value
        assert "0" in answer["reason"]
    assert not reader.set(tasks__depth__stride=0)[0]["successful"]
    assert not reader.set(budget_ms=-3.0)[0]["successful"]
    assert not reader.set(native=True)[0]["successful"], "it is read when the node is configured"
    assert reader.set(tasks__semseg__stride=2)[0]["successful"]
    wait_for(lambda: reader.last(topic="/segmentation/mask")["width"] == 48)
    # A rate that no camera here reaches is every image, and the log says so.
    assert reader.set(tasks__depth__rate_hz=200.0)[0]["successful"]
    node.says("tasks.depth.rate_hz is 200, and the camera gives")
    # No call is as fast as this, and the diagnostics count them.
    assert int(reader.diagnostics["values"]["calls over budget"]) == 0
    assert reader.set(budget_ms=0.001)[0]["successful"]
    wait_for(lambda: int(reader.diagnostics["values"]["calls over budget"]) > 0)


def test_the_lifecycle_and_what_goes_wrong(start, bundle, picture):
    node = start(NodeProcess, bundle, *REMAP, "-p", "autostart:=false")
    camera, reader = start(PeerProcess, "camera"), start(PeerProcess, "reader")
    zero = {**CALIBRATION, "k": [0.0] * 9, "p": [0.0] * 12}
    film(camera, picture, topic="/other/image", info=zero)
    assert reader.state == "unconfigured"
    reader.listen(topics={**DIAGNOSTICS, **MAPS, "/depth/points": CLOUD})
    assert not reader.set(image_transport="pigeon")[0]["reason"]
    assert not reader.change(CONFIGURE), "there is no such transport"
    node.says("pigeon")
    assert reader.state == "unconfigured"
    assert reader.set(image_transport="raw")[0]["successful"]
    assert reader.change(CONFIGURE)
    assert reader.state == "inactive"
    wait_for(lambda: reader.diagnostics["message"] == "inactive")
    assert reader.change(ACTIVATE)
    assert reader.state == "active"

    # The topic is wrong: the node waits and names the one that there is.
    log = node.says("nobody publishes /camera/image_raw; the node waits for it")
    assert "/other/image" in log
    assert reader.diagnostics["level"] == 1
    camera.end_camera()
    film(camera, picture, encoding="bayer_rggb16", info=zero)
    node.says("an image of 'bayer_rggb16' cannot be read")
    assert not reader.got(topic="/depth/image")
    camera.end_camera()
    film(camera, picture, info=zero)
    wait_for(lambda: reader.got(topic="/depth/image"))
    node.says("the camera is not calibrated (K is zero)")
    assert not reader.got(topic="/depth/points")

    twin = start(NodeProcess, bundle, *REMAP, "-p", "autostart:=false")
    node.says("another node is called /degmix_edge too")
    twin.close()
    time.sleep(0.5)
    assert reader.change(DEACTIVATE)
    count = len(reader.got(topic="/depth/image"))
    assert camera.readers() == 0
    assert reader.change(ACTIVATE)
    wait_for(lambda: len(reader.got(topic="/depth/image")) > count)
    assert reader.change(DEACTIVATE)
    assert reader.change(CLEANUP)
    assert reader.state == "unconfigured"
    assert "/depth/camera_info" not in reader.topics()
    assert reader.change(CONFIGURE)
    assert reader.change(ACTIVATE)
    wait_for(lambda: len(reader.got(topic="/depth/image")) > count)
    code, seconds = node.stop(signal.SIGINT)
    assert (code, seconds < 2) == (0, True), f"{seconds:.1f} s, {node.log}"


def test_a_late_subscriber_gets_the_class_names(start, bundle, picture, tmp_path):
    """The camera sends nothing, and nobody read when the names were published."""
    messages = vision_messages(tmp_path)
    node = start(NodeProcess, bundle, *REMAP, messages=messages)
    node.says("images from /camera/image_raw")
    assert "vision_msgs" not in node.log
    time.sleep(1)
    reader = start(PeerProcess, "reader", messages=messages)
    topic = "/segmentation/label_info"
    reader.listen(topics={topic: "vision_msgs/msg/LabelInfo"}, latched=True)
    labels = wait_for(lambda: reader.last(topic=topic))["class_map"]
    with degmix_edge.load(bundle, threads=1) as session:
        names = session.spec.task("semseg").classes
    assert [one["class_name"] for one in labels] == list(names)
    assert [one["class_id"] for one in labels] == list(range(len(names)))


def test_compressed_images_and_maps_of_the_cameras_size(start, bundle, picture):
    parameters = ("-p", "image_transport:=compressed", "-p", "native:=true")
    node = start(NodeProcess, bundle, *REMAP, *parameters)
    camera, reader = start(PeerProcess, "camera"), start(PeerProcess, "reader")
    buffer = io.BytesIO()
    PIL.Image.fromarray(picture).save(buffer, "PNG")
    film(
        camera,
        picture,
        topic="/camera/image_raw/compressed",
        image=as_text(buffer.getvalue()),
        compressed="png",
    )
    topics = {**MAPS, "/segmentation/view": IMAGE, "/depth/points": CLOUD}
    reader.listen(topics=topics)
    wait_for(lambda: all(reader.got(topic=topic) for topic in topics))
    with degmix_edge.load(bundle, threads=1) as session:
        expected = session(picture)
    mask = array_of(reader.last(topic="/segmentation/mask"))
    assert mask.shape == picture.shape[:2]
    assert (mask == expected["semseg"].at_image_size()).mean() > 0.99
    view = reader.last(topic="/segmentation/view")
    assert (view["encoding"], view["width"], view["step"]) == ("rgb8", 120, 360)
    cloud = reader.last(topic="/depth/points")
    assert (cloud["height"], cloud["width"]) == mask.shape
    code, seconds = node.stop(signal.SIGTERM)
    assert (code, seconds < 2) == (0, True), f"{seconds:.1f} s, {node.log}"


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (("-p", "tasks.dept.rate_hz:=5"), 3, "Did you mean 'depth'"),
        (("-p", "tasks.depth.rate_hz:=-5.0"), 3, "tasks.depth.rate_hz"),
        (("-r", "not a remapping"), 10, "the arguments are refused"),
    ],
)
def test_what_cannot_start_says_why(start, bundle, arguments, code, text):
    node = start(NodeProcess, bundle, *arguments)
    assert node.process.wait(30) == code, node.log
    assert text in node.log
    assert "Traceback" not in node.log


def test_without_ros_the_message_says_what_to_source(bundle):
    """`-S` leaves out all packages, so that none of them is rclpy; ours are put back by path."""
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_ROS, str(bundle)],
        env=environment(99),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 10, done.stderr
    for word in ("rclpy", "humble", "jazzy", "lyrical", "source /opt/ros/"):
        assert word in done.stderr


WITHOUT_ROS = """
import sys
class Nothing:
    def find_spec(self, name, path=None, target=None):
        if name == "rclpy":
            raise ModuleNotFoundError("No module named 'rclpy'", name=name)
sys.meta_path.insert(0, Nothing())
from degmix_edge.cli import main
main(["ros", sys.argv[1]])
"""

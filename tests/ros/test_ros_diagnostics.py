"""What the node reports: levels, rates, and which task starves."""

import time

from degmix_edge.ros.diagnostics import OK, WARN, Rates, status_of
from degmix_edge.runtime.results import NEWER_FRAME, CameraStats, StreamStats


def stats(captured=0, runs=None, starved=None):
    camera = CameraStats(captured=captured, delivered=captured, runs=runs or {"depth": captured})
    camera.dropped[NEWER_FRAME] = 3
    return StreamStats({"camera": camera}, {"p50": 21.25}, 4, starved or {})


def lines(status):
    return {one.key: one.value for one in status.values}


def test_counts_ages_and_drops_are_reported():
    status = status_of("degmix_edge", "robot.degmix", stats(30), Rates(), {"images from": "/image"})
    assert (status.level, status.message) == (OK, "running")
    assert (status.name, status.hardware_id) == ("degmix_edge", "robot.degmix")
    found = lines(status)
    assert found["images"] == "30"
    assert found["dropped: newer frame"] == "3"
    assert found["age p50 ms"] == "21.2"
    assert found["calls over budget"] == "4"
    assert found["images a second"] == "unknown"
    assert found["images from"] == "/image"


def test_a_task_that_starves_is_a_warning_that_names_it():
    starving = stats(30, starved={"camera": {"normals": 2.5}})
    status = status_of("degmix_edge", "robot.degmix", starving, Rates(), {})
    assert status.level == WARN
    assert "normals" in status.message
    assert lines(status)["normals waits for s"] == "2.5"


def test_a_warning_of_the_node_is_the_message():
    facts = {"warning": "nobody publishes /image"}
    status = status_of("degmix_edge", "robot.degmix", stats(), Rates(), facts)
    assert (status.level, status.message) == (WARN, "nobody publishes /image")


def test_rates_are_counted_between_two_reports():
    rates = Rates()
    rates.update(stats(10, {"depth": 10, "semseg": 4}).cameras["camera"])
    assert rates.camera_hz is None
    assert rates.above_camera({"depth": 60.0}) == {}
    start = time.monotonic()
    time.sleep(0.2)
    rates.update(stats(16, {"depth": 16, "semseg": 6}).cameras["camera"])
    most = 6 / 0.2
    least = 6 / (time.monotonic() - start + 0.1)
    assert least <= rates.camera_hz <= most
    assert abs(rates.task_hz["semseg"] / rates.camera_hz - 1 / 3) < 1e-9
    asked = {"depth": rates.camera_hz * 1.05, "semseg": rates.camera_hz * 2, "edge": None}
    assert list(rates.above_camera(asked)) == ["semseg"]

"""One server of two replicas: answers, refusals, load, a replica that is killed, and the end.

Its bundle computes three images at once.
"""

import concurrent.futures
import io
import itertools
import json
import re
import signal
import threading
import time
import zipfile
from collections import Counter

import numpy as np
import PIL.Image
import pytest
from server import running

pytest.importorskip("ray.serve")

from degmix_edge import __version__  # noqa: E402
from degmix_edge.capture.synthetic import SyntheticSource  # noqa: E402
from degmix_edge.runtime import load  # noqa: E402
from degmix_edge.runtime.saving import read_map  # noqa: E402
from degmix_edge.workflows.bench_url import bench_url  # noqa: E402

pytestmark = pytest.mark.slow(file_seconds=40)
SIZE = (120, 160)
QUEUE = 4
TASKS = ("semseg", "depth", "normals")


@pytest.fixture(scope="module")
def server(batch_bundle, tmp_path_factory):
    errors = tmp_path_factory.mktemp("serve") / "errors.txt"
    options = ("--replicas", "2", "--threads", "1", "--queue", str(QUEUE), "--batch-wait", "100")
    with errors.open("w") as file, running(batch_bundle.path, *options, errors=file) as server:
        yield server


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    source = SyntheticSource(SIZE, 30.0, is_live=False)
    source.open()
    return source.read(threading.Event()).image


@pytest.fixture(scope="module")
def encoded(picture) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(picture).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def expected(batch_bundle, picture):
    with load(batch_bundle, threads=1) as session:
        return session(picture)


def stamped(reply) -> bool:
    return reply.headers["degmix-version"] == __version__ and bool(reply.headers["degmix-bundle"])


def test_exact_arrays_are_those_of_a_session(server, batch_bundle, encoded, expected):
    reply = server.ask("/maps?format=npz", encoded)
    assert reply.status == 200
    assert stamped(reply)
    arrays = np.load(io.BytesIO(reply.body))
    assert list(arrays) == list(expected)
    for name, one in expected.items():
        np.testing.assert_array_equal(arrays[name], np.asarray(one))
    assert server.about["bundle"] == reply.headers["degmix-bundle"] == batch_bundle.digest


def test_pictures_hold_the_numbers_of_the_tasks_that_are_asked_for(server, encoded, expected):
    reply = server.ask(f"/maps?tasks={','.join(TASKS)}&native=1", encoded)
    assert reply.status == 200
    assert "net;dur=" in reply.headers["server-timing"]
    with zipfile.ZipFile(io.BytesIO(reply.body)) as archive:
        assert archive.namelist() == [f"{name}.png" for name in TASKS]
        for name in TASKS:
            spec, native = expected[name].spec, expected[name].at_image_size()
            found = read_map(archive.read(f"{name}.png"), spec)
            assert found.shape[:2] == SIZE
            np.testing.assert_allclose(found, native, atol={"depth": 5.1e-4}.get(name, 4.1e-3))


def test_large_images_and_answers_pass(server):
    """Five megabytes in, and exact maps of each pixel out."""
    noise = np.random.default_rng(0).integers(0, 256, (1300, 1300, 3), np.uint8)
    buffer = io.BytesIO()
    PIL.Image.fromarray(noise).save(buffer, "BMP")
    reply = server.ask("/maps?tasks=normals&format=npz&native=1", buffer.getvalue())
    assert reply.status == 200, reply.body
    assert np.load(io.BytesIO(reply.body))["normals"].shape == (1300, 1300, 3)


@pytest.mark.parametrize(
    ("path", "body", "status", "text"),
    [
        ("/maps", b"", 400, "the body is empty"),
        ("/maps", b"no image", 400, "image: "),
        ("/maps?tasks=depht", b"x", 400, "no task 'depht'. Have: .* Did you mean 'depth'?"),
        ("/maps?task=depth", b"x", 400, "no setting 'task'. .* Did you mean 'tasks'?"),
        ("/maps?deadline_ms=-1", b"x", 400, "deadline_ms: .*greater than 0"),
        ("/maps?deadline_ms=nan", b"x", 400, "deadline_ms: .*finite"),
        ("/maps?format=tiff", b"x", 400, "format: .*'png' or 'npz'"),
        ("/maps", None, 405, "no GET /maps. Have: POST /maps"),
        ("/nonesuch", None, 404, "no GET /nonesuch"),
    ],
)
def test_what_is_wrong_is_refused_with_the_reason(server, path, body, status, text):
    reply = server.ask(path, body)
    assert reply.status == status
    assert stamped(reply)
    assert re.search(text, reply.json["error"]["message"]), reply.json


def test_health_and_what_is_served(server):
    alive, ready, about = (server.ask(path) for path in ("/healthz", "/readyz", "/"))
    assert (alive.status, ready.status, about.status) == (200, 200, 200)
    assert all(map(stamped, (alive, ready, about)))
    assert ready.json["replicas"] == 2
    assert about.json["tasks"]["depth"]["unit"] == "m"


def test_a_full_queue_refuses_and_every_request_has_an_outcome(server, encoded):
    replicas = server.replicas()
    assert len(replicas) == 2
    with concurrent.futures.ThreadPoolExecutor(40) as pool:
        for replica in replicas:  # nothing is computed until the queue is full
            replica.suspend()
        try:
            futures = [pool.submit(server.ask, "/maps?tasks=depth", encoded) for _ in range(40)]
            first = itertools.islice(concurrent.futures.as_completed(futures, 30), 10)
            early = [future.result() for future in first]
        finally:
            for replica in replicas:
                replica.resume()
        replies = [future.result() for future in futures]
    assert {reply.status for reply in early} == {503}
    assert all(map(stamped, early))
    assert f"{QUEUE} images are waiting already" in early[0].json["error"]["message"]
    causes = Counter(r.json["error"]["cause"] if r.status != 200 else "none" for r in replies)
    assert set(causes) == {"none", "queue"}, causes
    assert causes["none"] >= QUEUE


def test_a_deadline_that_has_passed_is_refused_and_costs_no_call(server, encoded):
    late = [server.ask("/maps?deadline_ms=0.001", encoded) for _ in range(5)]
    assert {reply.status for reply in late} == {504}
    assert late[0].json["error"]["cause"] == "deadline"
    assert server.ask("/maps?tasks=depth", encoded).status == 200
    counts = (5, server.answered)
    until = time.monotonic() + 40  # Ray passes metrics on every ten seconds
    while time.monotonic() < until:
        found = (
            server.metric("ray_degmix_answers_total", 'cause="deadline"'),
            server.metric("ray_degmix_images_total"),
        )
        if found == counts:
            break
        time.sleep(1)
    assert found == counts
    calls = server.metric("ray_degmix_calls_total")
    assert calls == server.metric("ray_degmix_net_ms_count") < server.answered  # some shared one


def test_a_replica_that_is_killed_under_load_loses_its_own_images_alone(server):
    victim = server.replicas()[0]
    threading.Timer(1.5, victim.kill).start()
    result = bench_url(server.url, rate=10, seconds=5, images="synthetic:2", tasks="depth")
    assert not victim.is_running()
    assert result.offered == 50
    lost = sum(result.failed.values())
    assert result.answered + sum(result.refused.values()) + lost == 50
    assert set(result.failed) <= {"replica"}
    assert lost <= 6  # a replica has two batches at most
    assert result.answered >= 40
    server.wait_for_replicas(2)
    assert server.ask("/healthz").status == 200


def test_the_verb_that_loads_a_server(server, cli):
    options = ("--rate", "10", "--seconds", "1", "--data", "synthetic:1", "--json")
    code, out, err = cli("bench", "--url", server.url, *options)
    assert code == 0, err
    assert "10 offered = 10 answered + 0 refused + 0 failed" in err
    found = json.loads(out)["server"]
    assert found["answered"] == 10
    assert found["bundle"] == server.about["bundle"]
    assert 0 < found["latency_ms"]["p50"] <= found["latency_ms"]["p99"]


def test_a_second_server_at_the_same_port_is_refused_before_it_starts(server, batch_bundle, cli):
    port = server.url.rsplit(":", 1)[1]
    code, _, err = cli("serve", batch_bundle.path, "--port", port)
    assert code == 3
    assert f"port: cannot listen at 127.0.0.1:{port}" in err


def test_a_termination_signal_ends_it_in_time_and_leaves_no_process(server):
    code, left, seconds = server.end(signal.SIGTERM)
    assert code == 128 + signal.SIGTERM
    assert left == []
    assert seconds < 20
    assert len(server.children) >= 5

"""Requests, answers and refusals before a server starts; the load generator. No Ray runs here."""

import asyncio
import http.server
import io
import socket
import sys
import threading
import zipfile

import numpy as np
import pytest
from server import BUNDLE

import degmix_edge
from degmix_edge.bundle.contents import open_bundle
from degmix_edge.errors import BackendError, BundleError, ConfigError, InputError
from degmix_edge.runtime import load
from degmix_edge.workflows.bench_url import bench_url, encoded_images
from degmix_edge.workflows.serve import ServeOptions, serve
from degmix_edge.workflows.serve.exchange import Request, pack, read_request, refusal


@pytest.fixture(scope="module")
def network():
    return open_bundle(BUNDLE).manifest.network


@pytest.fixture(scope="module")
def maps():
    with load(BUNDLE, threads=1) as session:
        return session(np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8))


def start(**changes):
    with serve(changes.pop("bundle", BUNDLE), **{"port": 0, **changes}):
        raise AssertionError("a server has started")


def test_a_query_becomes_a_request(network):
    request = read_request({"tasks": "depth, semseg", "native": "1"}, network, 250.0)
    assert request == Request(tasks=("depth", "semseg"), native=True, deadline_ms=250.0)
    assert read_request({"deadline_ms": "80"}, network, 250.0).deadline_ms == 80


@pytest.mark.parametrize(
    ("query", "text"),
    [
        ({"tasks": "semseg,depht"}, "no task 'depht'. .* Did you mean 'depth'?"),
        ({"deadline": "80"}, "no setting 'deadline'. .* Did you mean 'deadline_ms'?"),
        ({"deadline_ms": "0"}, "deadline_ms: input should be greater than 0"),
        ({"deadline_ms": "inf"}, "deadline_ms: .* finite"),
        ({"native": "perhaps"}, "native: .* valid boolean"),
        ({"format": "png8"}, "format: input should be 'png' or 'npz'"),
    ],
)
def test_what_a_query_gets_wrong_is_named(network, query, text):
    with pytest.raises(ConfigError, match=text):
        read_request(query, network, 250.0)


def test_equal_maps_give_equal_bytes_in_the_order_of_the_request(maps):
    request = Request(tasks=("depth", "semseg"), deadline_ms=1)
    body = pack(maps, request)
    assert body == pack(maps, request)
    with zipfile.ZipFile(io.BytesIO(body)) as archive:
        assert archive.namelist() == ["depth.png", "semseg.png"]
    exact = np.load(io.BytesIO(pack(maps, Request(format="npz", native=True, deadline_ms=1))))
    assert list(exact) == list(maps)
    assert exact["depth"].shape == (60, 80)


def test_a_refusal_has_its_status_and_its_reason():
    answer = refusal("queue", "4 images are waiting already")
    assert answer.status == 503
    assert answer.headers == {"content-type": "application/json"}
    assert b'"cause": "queue"' in answer.body


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"replicas": 0}, "replicas: .*greater than or equal to 1"),
        ({"replicas": 100_000}, "replicas: .*less than or equal to 1024"),
        ({"replicas": 3, "max_replicas": 2}, "max_replicas: got 2, expected at least replicas"),
        ({"threads": 0}, "threads: .*greater than or equal to 1"),
        ({"port": 65536}, "port: .*less than or equal to 65535"),
        ({"queue": 0}, "queue: .*greater than or equal to 1"),
        ({"deadline_ms": float("nan")}, "deadline_ms: .*finite"),
        ({"replica": 2}, "no setting 'replica'. .* Did you mean 'replicas'?"),
        ({"size": (64, 96)}, "size"),
        ({"backend": "onnxruntim"}, "Did you mean 'onnxruntime'?"),
        ({"host": "203.0.113.9"}, "port: cannot listen at 203.0.113.9:0"),
    ],
)
def test_nonsense_is_refused_before_a_server_starts(changes, text):
    with pytest.raises(ConfigError, match=text):
        start(**changes)


def test_a_port_that_is_taken_is_refused_before_a_server_starts():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        for name in ("port", "metrics_port"):
            with pytest.raises(ConfigError, match=rf"^{name}: cannot listen at .*:{port} \(Addr"):
                start(**{name: port})


def test_a_bundle_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(BundleError, match="nothing"):
        start(bundle=tmp_path / "nothing.degmix")


def test_without_ray_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray.serve", None)
    with pytest.raises(ConfigError, match=r"pip install 'degmix-edge\[serve\]'"):
        start()


def test_options_and_changes_go_together():
    options = ServeOptions(replicas=2, threads=3)
    with pytest.raises(ConfigError, match="max_replicas: got 1, expected at least replicas, .* 2"):
        start(options=options, max_replicas=1)


def test_a_session_whose_backend_failed_is_not_healthy():
    pytest.importorskip("ray.serve")
    from degmix_edge.workflows.serve.options import Served
    from degmix_edge.workflows.serve.sessions import Sessions

    opened = open_bundle(BUNDLE)
    known = {"bundle": str(opened.path), "version": degmix_edge.__version__, "threads": 1}
    known |= {"network": opened.manifest.network, "backend": "onnxruntime"}
    known |= {"options": ServeOptions()}
    with pytest.raises(BundleError, match=r"was replaced .* expected 000000000000"):
        Sessions(Served(digest="0" * 64, **known))
    with pytest.raises(BackendError, match=r"the server was started by 0\.0"):
        Sessions(Served(digest=opened.digest, **{**known, "version": "0.0"}))
    sessions = Sessions(Served(digest=opened.digest, **known))
    request = Request(tasks=("depth",), deadline_ms=1000)
    (image,) = encoded_images("synthetic:1", (32, 48))
    answers = sessions.compute([(b"no image", request)])
    assert [answer.cause for answer in answers] == ["image"]
    assert [answer.cause for answer in sessions.compute([(image, request)])] == [""]
    sessions.check_health()
    sessions.session.close()
    assert [answer.cause for answer in sessions.compute([(image, request)])] == ["backend"]
    with pytest.raises(BackendError):
        sessions.check_health()


# The load generator


@pytest.mark.parametrize(
    ("url", "changes", "text"),
    [
        ("127.0.0.1:8000", {}, "expected a server such as http://"),
        ("http://127.0.0.1:8000/maps", {}, "expected a server such as http://"),
        ("http://127.0.0.1:1", {}, "nothing answers there"),
        ("http://127.0.0.1:1", {"rate": 0.0}, "rate: got 0.0, expected a number above 0"),
        ("http://127.0.0.1:1", {"rate": float("nan")}, "rate: got nan"),
        ("http://127.0.0.1:1", {"seconds": float("inf")}, "seconds: got inf"),
        ("http://127.0.0.1:1", {"rate": 1e6, "seconds": 60}, "expected 1 to 1,000,000"),
    ],
)
def test_what_cannot_be_loaded_is_refused(url, changes, text):
    with pytest.raises(ConfigError, match=text):
        bench_url(url, **changes)


def test_another_server_is_not_loaded():
    with http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        with pytest.raises(ConfigError, match="this is no server of degmix-edge"):
            bench_url(f"http://127.0.0.1:{other.server_port}", rate=1, seconds=1)
        other.shutdown()


def test_slow_answers_do_not_hold_the_schedule_back():
    """Every answer takes half a second: a client that waits for them would send two a second."""
    web = pytest.importorskip("aiohttp.web")
    moments: list[float] = []
    stamp = {"degmix-version": "1", "degmix-bundle": "2"}

    async def about(request):
        return web.json_response({"height": 32, "width": 48}, headers=stamp)

    async def slow(request):
        moments.append(asyncio.get_running_loop().time())
        status = 503 if len(moments) > 15 else 200
        await asyncio.sleep(0.5)
        body = {"error": {"cause": "queue", "message": ""}}
        return web.json_response(body, status=status, headers={"server-timing": "net;dur=2.5"})

    app = web.Application()
    app.add_routes([web.get("/", about), web.post("/maps", slow)])
    ready, loop = threading.Event(), asyncio.new_event_loop()
    ports: list[int] = []

    def run() -> None:
        asyncio.set_event_loop(loop)
        runner = web.AppRunner(app)
        loop.run_until_complete(runner.setup())
        loop.run_until_complete(web.TCPSite(runner, "127.0.0.1", 0).start())
        ports.append(runner.addresses[0][1])
        ready.set()
        loop.run_forever()
        loop.run_until_complete(runner.cleanup())

    thread = threading.Thread(target=run)
    thread.start()
    ready.wait(10)
    try:
        found = bench_url(
            f"http://127.0.0.1:{ports[0]}", rate=50, seconds=0.4, images="synthetic:1"
        )
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
    assert len(moments) == found.offered == 20
    assert moments[-1] - moments[0] < 0.5
    assert found.answered == 15
    assert found.refused == {"queue": 5}
    assert found.failed == {}
    assert found.latency_ms["p50"] >= 500
    assert found.net_ms["p50"] == 2.5


def test_files_are_sent_as_they_are(tmp_path):
    (tmp_path / "a.png").write_bytes(b"one")
    (tmp_path / "b.jpg").write_bytes(b"two")
    assert encoded_images(str(tmp_path), (8, 8)) == [b"one", b"two"]
    assert encoded_images(str(tmp_path / "b.jpg"), (8, 8)) == [b"two"]
    with pytest.raises(InputError, match="no such folder|nothing"):
        encoded_images(str(tmp_path / "nothing"), (8, 8))

"""Streams of a network: real RTSP, HTTP and UDP, and links that are down, hang or break."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import psutil
import pytest
from recordings import colours_of, nothing_left, number_of, numbered, rgb_of, write_video

pytest.importorskip("av")
from network_camera import (  # noqa: E402
    SIZE,
    Camera,
    FileServer,
    HttpCamera,
    RtspCamera,
    Server,
    free_port,
    wait_until,
)

from degmix_edge.capture import SourceOptions, _child, open_source  # noqa: E402
from degmix_edge.errors import ConfigError, SourceError  # noqa: E402

pytestmark = pytest.mark.slow(file_seconds=35)


def read(source):
    return source.read(threading.Event())


def test_rtsp_gives_the_newest_frame_and_comes_back():
    with nothing_left(), RtspCamera() as server:
        source = open_source(f"rtsp://root:secret@127.0.0.1:{server.port}/live")
        assert source.is_live
        for _ in range(2):  # it reconnects
            source.open()
            frames = [read(source) for _ in range(5)]
            numbers = [number_of(frame.image) for frame in frames]
            assert numbers == sorted(set(numbers))
            assert {frame.image.shape for frame in frames} == {(*SIZE, 3)}
            assert [frame.index for frame in frames] == list(range(5))
            assert {(f.captured_ns, f.stamp_source) for f in frames} == {(None, "receive")}
            assert abs(frames[-1].stamp_ns - time.time_ns()) < 60e9
            colours = colours_of(frames[-1].image) - colours_of(numbered(0, SIZE))
            assert np.abs(colours).max() < 12
            # Nobody reads for a while: what comes then is new, and the others are counted.
            skipped, at = source.skipped, server.camera.number
            wait_until(lambda at=at: server.camera.number > at + 15)
            newest = server.camera.number
            frame = read(source)
            assert source.skipped > skipped
            assert number_of(frame.image) > newest - 10
            source.close()
            source.close()
        assert server.num_served == 2
        assert server.requests == ["OPTIONS", "DESCRIBE", "SETUP", "PLAY"] * 2


@pytest.mark.parametrize("format", ["bgr", "nv12"])
def test_http_gives_frames_of_a_size_and_format(format: str):
    options = SourceOptions(size=(48, 120), format=format)
    with nothing_left(), HttpCamera() as server:
        source = open_source(f"http://127.0.0.1:{server.port}/video.mjpg", options)
        source.open()
        frames = [read(source) for _ in range(5)]
        source.close()
    numbers = [number_of(rgb_of(frame)) for frame in frames]
    assert numbers == sorted(set(numbers))
    assert {rgb_of(frame).shape for frame in frames} == {(48, 120, 3)}
    assert {frame.format for frame in frames} == {format}


def test_a_recording_on_a_server_ends_with_its_last_frame(tmp_path):
    write_video(tmp_path / "a.mkv", 20)
    with nothing_left(), FileServer((tmp_path / "a.mkv").read_bytes()) as server:
        source = open_source(f"http://127.0.0.1:{server.port}/a.mkv")
        source.open()
        numbers = []
        while (frame := read(source)) is not None:
            numbers.append(number_of(frame.image))
        assert read(source) is None
        source.close()
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == 19


def test_a_camera_that_hangs_up_is_an_error():
    with nothing_left(), HttpCamera(num_frames=20) as server:
        source = open_source(f"http://127.0.0.1:{server.port}/video.mjpg")
        source.open()
        assert read(source) is not None
        with pytest.raises(SourceError, match="http://127.*(broke off|Input/output)"):  # noqa: PT012
            while True:
                assert read(source) is not None
        source.close()
    with RtspCamera() as server:
        source = open_source(f"rtsp://127.0.0.1:{server.port}/live")
        source.open()
        assert read(source) is not None
    with pytest.raises(SourceError, match="the stream broke off"):  # noqa: PT012
        while True:
            assert read(source) is not None
    source.close()


def test_udp_comes_when_the_sender_does():
    port = free_port(socket.SOCK_DGRAM)
    with nothing_left():
        source = open_source(f"udp://127.0.0.1:{port}")
        source.open()
        with Camera(f"udp://127.0.0.1:{port}?pkt_size=1316", "mpegts") as camera:
            frames = [read(source) for _ in range(3)]
            numbers = [number_of(frame.image) for frame in frames]
            assert numbers == sorted(set(numbers))
            assert camera.number >= numbers[-1]
        source.close()


def test_a_stream_that_stalls_is_an_error_and_may_be_opened_again(monkeypatch):
    monkeypatch.setattr(_child, "STALL_S", 0.7)
    with nothing_left(), RtspCamera() as server:
        source = open_source(f"rtsp://127.0.0.1:{server.port}/live")
        source.open()
        read(source)
        server.camera.is_paused.set()
        with pytest.raises(SourceError, match=r"rtsp://127.*: no frame for 0.7 s"):  # noqa: PT012
            while True:
                read(source)
        source.close()
        server.camera.is_paused.clear()
        source.open()
        assert read(source) is not None
        source.close()


@pytest.mark.parametrize("scheme", ["rtsp", "http", "tcp"])
def test_a_server_that_accepts_and_hangs_holds_up_nobody(monkeypatch, scheme: str):
    with nothing_left(), Server() as server:
        source, stop = open_source(f"{scheme}://127.0.0.1:{server.port}/live"), threading.Event()
        source.open()
        wait_until(lambda: server.num_served)
        threading.Timer(0.1, stop.set).start()
        begin = time.monotonic()
        assert source.read(stop) is None
        assert time.monotonic() - begin < 1
        begin = time.monotonic()
        source.close()
        assert time.monotonic() - begin < 2
        monkeypatch.setattr(_child, "FIRST_S", 0.3)
        source.open()
        with pytest.raises(SourceError, match="no frame for 0.3 s"):
            read(source)
        source.close()


def test_addresses_where_nobody_is_are_said_without_the_login():
    port = free_port()
    for url, message in (
        (f"rtsp://root:secret@127.0.0.1:{port}/live", "Connection refused"),
        (f"http://root:p@secret@127.0.0.1:{port}/video", "Connection refused"),
    ):
        source = open_source(url)
        with nothing_left():
            with pytest.raises(SourceError, match=f"//127.*{message}") as caught:  # noqa: PT012
                source.open()
                read(source)  # on a machine that takes a second to start Python
            source.close()
        assert "secret" not in str(caught.value) + source.name
        with pytest.raises(SourceError, match="is closed"):
            read(source)


def test_a_server_without_video_is_said():
    class Text(HttpCamera):
        def serve(self, connection: socket.socket) -> None:
            connection.recv(4096)
            connection.sendall(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n")

    with nothing_left(), Text() as server:
        source = open_source(f"http://127.0.0.1:{server.port}/none")
        with pytest.raises(SourceError, match="404"):  # noqa: PT012
            source.open()
            read(source)
        source.close()


def test_passwords_are_in_no_list_of_processes():
    with Server() as server:
        source = open_source(f"rtsp://root:secret@127.0.0.1:{server.port}/live")
        source.open()
        wait_until(lambda: server.num_served)
        lines = [child.cmdline() for child in psutil.Process().children()]
        source.close()
    assert any("degmix_edge.capture._decoder" in line for line in lines)
    assert not any("secret" in word for line in lines for word in line)


def test_a_child_that_is_killed_is_an_error():
    with nothing_left(), HttpCamera() as server:
        source = open_source(f"http://127.0.0.1:{server.port}/video.mjpg")
        source.open()
        read(source)
        for child in psutil.Process().children():
            child.kill()
        with pytest.raises(SourceError, match="ended with code -9"):  # noqa: PT012
            while True:
                assert read(source) is not None
        source.close()


KILLED = """
import sys, threading
from degmix_edge.capture import open_source
source = open_source(sys.argv[1])
source.open()
source.read(threading.Event())
print(source._child.pid, flush=True)
threading.Event().wait()
"""


@pytest.mark.parametrize("name", ["network", "gstreamer"])
def test_a_child_dies_with_a_process_that_is_killed(name: str):
    if name == "gstreamer" and shutil.which("gst-launch-1.0") is None:
        pytest.skip("needs gst-launch-1.0")
    with HttpCamera() as server:
        url = f"http://127.0.0.1:{server.port}/video.mjpg"
        text = url if name == "network" else "gst:videotestsrc is-live=true"
        command = [sys.executable, "-c", KILLED, text]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            child = psutil.Process(int(process.stdout.readline()))
            assert child.is_running()
            process.kill()
        wait_until(lambda: not child.is_running() or child.status() == psutil.STATUS_ZOMBIE)


def test_options_that_do_not_fit_are_refused(monkeypatch):
    for more, message in (
        ({"loop": True}, "http://h/x: loop True: this kind of source takes size, format"),
        ({"format": "jpeg"}, "format 'jpeg', expected one of rgb"),
    ):
        with pytest.raises(ConfigError, match=message):
            open_source("http://root:secret@h/x", SourceOptions(**more))
    monkeypatch.setitem(sys.modules, "av", None)
    with nothing_left(), pytest.raises(ConfigError, match=r"'degmix-edge\[video\]'"):
        open_source("http://127.0.0.1/x").open()

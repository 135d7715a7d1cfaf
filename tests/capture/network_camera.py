"""Cameras of a network, small and real: RTSP with RTP inside TCP, HTTP, UDP, and one that hangs."""

from __future__ import annotations

import contextlib
import io
import socket
import threading
import time
from collections.abc import Iterator

import av
import PIL.Image
from recordings import numbered

SIZE = (96, 192)
RATE = 30
SDP = (
    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=camera\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\n"
    "m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\na=fmtp:96 packetization-mode=1\r\n"
    "a=control:video\r\n"
)


class Camera:
    """Encodes numbered pictures at 30 Hz and sends them to a URL that FFmpeg writes to.

    Attributes:
        is_paused: Sends nothing while it is set, as a link that is down.
        number: The newest picture's number.
    """

    def __init__(self, url: str, format: str) -> None:
        self.is_paused = threading.Event()
        self.number = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(url, format))

    def __enter__(self) -> Camera:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self, url: str, format: str) -> None:
        with av.open(url, "w", format=format) as container:
            stream = container.add_stream("libx264", rate=RATE)
            stream.height, stream.width = SIZE
            stream.pix_fmt = "yuv420p"
            stream.gop_size = 10
            stream.options = {"preset": "ultrafast", "tune": "zerolatency"}
            while not self._stop.wait(1 / RATE):
                self.number += 1
                picture = numbered(self.number % 4096, SIZE)
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                packets = stream.encode(frame)
                if not self.is_paused.is_set():
                    with contextlib.suppress(av.error.FFmpegError):  # nobody listens yet
                        container.mux(packets)


def free_port(kind: int = socket.SOCK_STREAM) -> int:
    with socket.socket(socket.AF_INET, kind) as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Server:
    """A server on TCP that calls `serve` for each connection, in a thread of its own."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.stop = threading.Event()
        self.num_served = 0
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Server:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _start(self, function, *arguments) -> None:
        self._threads.append(threading.Thread(target=function, args=arguments))
        self._threads[-1].start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while not self.stop.is_set():
                connection, _ = self._listener.accept()
                self.num_served += 1
                self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(0.2)
        with connection, contextlib.suppress(ConnectionError, EOFError):
            self.serve(connection)

    def serve(self, connection: socket.socket) -> None:
        """Accept and never answer."""
        self.stop.wait()


class HttpCamera(Server):
    """Motion JPEG over HTTP, which has sent `num_frames` pictures when it hangs up."""

    def __init__(self, num_frames: int = 10**9) -> None:
        super().__init__()
        self.num_frames = num_frames

    def serve(self, connection: socket.socket) -> None:
        while b"\r\n\r\n" not in connection.recv(4096):
            pass
        kind = "multipart/x-mixed-replace; boundary=frame"
        connection.sendall(f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n\r\n".encode())
        for number in range(self.num_frames):
            file = io.BytesIO()
            PIL.Image.fromarray(numbered(number, SIZE)).save(file, "JPEG")
            data = file.getvalue()
            head = f"--frame\r\nContent-Type: image/jpeg\r\nContent-Length: {len(data)}\r\n\r\n"
            connection.sendall(head.encode() + data + b"\r\n")
            if self.stop.wait(1 / RATE):
                break


class FileServer(Server):
    """A server of one file."""

    def __init__(self, content: bytes) -> None:
        super().__init__()
        self.content = content

    def serve(self, connection: socket.socket) -> None:
        while b"\r\n\r\n" not in connection.recv(4096):
            pass
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(self.content)}\r\n\r\n"
        connection.sendall(head.encode() + self.content)


class RtspCamera(Server):
    """H.264 by RTSP, with the packets inside the connection; the login is root, secret.

    Attributes:
        camera: What it shows.
    """

    def __enter__(self) -> RtspCamera:
        self._packets = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._packets.bind(("127.0.0.1", 0))
        self._packets.settimeout(0.2)
        port = self._packets.getsockname()[1]
        self.camera = Camera(f"rtp://127.0.0.1:{port}", "rtp").__enter__()
        self.requests: list[str] = []
        super().__enter__()
        return self

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self.camera.__exit__()
        self._packets.close()

    def serve(self, connection: socket.socket) -> None:
        for request in self._read_requests(connection):
            method, *_ = request.split()
            self.requests.append(method)
            number = next(
                line.split(":")[1].strip()
                for line in request.splitlines()
                if line.lower().startswith("cseq")
            )
            more, body = "", ""
            if method == "OPTIONS":
                more = "Public: OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
            elif method == "DESCRIBE":
                body = SDP
                more = f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n"
            elif method == "SETUP":
                assert "RTP/AVP/TCP" in request, request
                more = "Session: 1\r\nTransport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n"
            elif method == "PLAY":
                more = "Session: 1\r\n"
            answer = f"RTSP/1.0 200 OK\r\nCSeq: {number}\r\n{more}\r\n{body}"
            connection.sendall(answer.encode())
            if method == "PLAY":
                self._play(connection)
                return

    def _read_requests(self, connection: socket.socket) -> Iterator[str]:
        pending = b""
        while not self.stop.is_set():
            try:
                pending += connection.recv(4096) or _closed()
            except TimeoutError:
                continue
            while b"\r\n\r\n" in pending:
                request, _, pending = pending.partition(b"\r\n\r\n")
                yield request.decode()

    def _play(self, connection: socket.socket) -> None:
        connection.settimeout(5)
        while not self.stop.is_set():
            try:
                packet = self._packets.recv(65536)
            except TimeoutError:
                continue
            # The camera's reports, which are no video, have types 200 to 204.
            channel = 1 if 200 <= packet[1] <= 204 else 0
            connection.sendall(b"$" + bytes([channel]) + len(packet).to_bytes(2, "big") + packet)


def _closed() -> bytes:
    raise EOFError


def wait_until(condition, seconds: float = 20) -> None:
    """Wait for what must happen, with a limit that only a hang reaches."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)

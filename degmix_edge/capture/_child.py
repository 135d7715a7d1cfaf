"""Frames that another process decodes: they come through a pipe, and the newest one is kept.

FFmpeg and GStreamer can wait for a network, a name server or a driver for as long as these please,
and nothing inside a process can end such a wait. A process can always be ended.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from abc import abstractmethod
from collections import deque
from io import BufferedReader
from typing import IO

from degmix_edge.capture._base import CapturedFrame, Source
from degmix_edge.errors import SourceError

FIRST_S, STALL_S = 10.0, 5.0
"""How long the first frame may take, and any later one, before the source counts as stalled."""
OPEN_S = 1.0
"""How long opening waits for a first frame. Nothing can stop it, so it is short."""
_SLICE_S = 0.1
_GRACE_S = 0.5
_PIPE_BYTES = 1 << 20
_DIE_WITH_PARENT = (
    "import ctypes,os,sys;ctypes.CDLL(None).prctl(1,9);os.execvp(sys.argv[1],sys.argv[1:])"
)
"""PR_SET_PDEATHSIG: the child is killed with the thread that started it, even if that is killed."""


class ChildSource(Source):
    """A live source whose frames a child process writes into a pipe.

    A thread takes every frame as it comes, so that the child never waits and nothing is queued. A
    frame that the next one replaces before it is read counts in `skipped`. The child ends with the
    thread that opened the source.

    Args:
        name: What messages call the source.

    Attributes:
        skipped: Frames that were replaced by newer ones.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.skipped = 0
        self._child: subprocess.Popen[bytes] | None = None
        self._threads: list[threading.Thread] = []
        self._changed = threading.Condition()
        self._begin()

    def _begin(self) -> None:
        self._newest: CapturedFrame | None = None
        self._is_over = False
        self._error: str | None = None
        self._index = 0
        self._lines: deque[str] = deque(maxlen=8)
        self._deadline = time.monotonic() + FIRST_S

    @abstractmethod
    def _command(self, pipe: int) -> tuple[list[str], bytes]:
        """Return the command of the child that writes to `pipe`, and what it reads from stdin."""

    @abstractmethod
    def _receive(self, pipe: BufferedReader) -> CapturedFrame | None:
        """Read the next frame; None where the child has closed the pipe. The thread calls it."""

    def _hear(self, line: str) -> None:
        """Take one line that the child has printed."""
        self._lines.append(line)

    def _why(self, code: int) -> str:
        """What a message says about a child that failed."""
        return self._lines[-1] if self._lines else f"its process ended with code {code}"

    def open(self) -> None:
        """Start the child and give it a second for a first frame, or for an error.

        A child that takes longer is waited for by `read`.

        Raises:
            SourceError: The program is not installed, or has failed within that second.
        """
        self.close()
        self._begin()
        reading, writing = os.pipe()
        pipe = os.fdopen(reading, "rb")
        with contextlib.suppress(OSError):  # above the user's limit; it only costs more calls
            fcntl.fcntl(reading, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
        try:
            command, text = self._command(writing)
            self._child = subprocess.Popen(
                [sys.executable, "-ISc", _DIE_WITH_PARENT, *command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=(writing,),
                # Ctrl-C in a terminal is for us: we end the child.
                start_new_session=True,
            )
        except BaseException:
            pipe.close()
            raise
        finally:
            os.close(writing)
        assert self._child.stdin is not None
        with contextlib.suppress(BrokenPipeError), self._child.stdin as stdin:
            stdin.write(text)
        self._threads = [
            threading.Thread(target=self._pump, args=(pipe,), name=f"{self.name} frames"),
            threading.Thread(target=self._listen, args=(self._child.stdout,), name="messages"),
        ]
        for thread in self._threads:
            thread.daemon = True
            thread.start()
        with self._changed:
            self._changed.wait_for(lambda: self._newest or self._is_over, OPEN_S)
        if self._is_over and self._newest is None:
            try:
                self._check_end()
            except SourceError:
                self.close()
                raise

    def read(self, stop: threading.Event) -> CapturedFrame | None:
        """Wait for a frame that is newer than the last one.

        Raises:
            SourceError: The child failed, or gave no frame for too long.
        """
        if self._child is None:
            raise SourceError(f"{self.name}: is closed")
        with self._changed:
            while not stop.is_set():
                if self._newest is not None:
                    frame, self._newest = self._newest, None
                    index, self._index = self._index, self._index + 1
                    return dataclasses.replace(frame, index=index)
                if self._is_over:
                    self._check_end()
                    return None
                if time.monotonic() > self._deadline:
                    seconds = STALL_S if self._index else FIRST_S
                    raise SourceError(f"{self.name}: no frame for {seconds:g} s")
                self._changed.wait(_SLICE_S)
        return None

    def _check_end(self) -> None:
        """Raise an error unless the child has ended by itself."""
        assert self._child is not None
        try:
            code = self._child.wait(_GRACE_S)
        except subprocess.TimeoutExpired:
            code = 0  # it has said its last and does not go; close() ends it
        if self._threads:
            self._threads[1].join(_GRACE_S)
        if self._error is not None or code != 0:
            raise SourceError(f"{self.name}: {self._error or self._why(code)}")

    def close(self) -> None:
        """End the child and the threads. It is asked first, so that it lets go of its camera."""
        child, self._child = self._child, None
        if child is None:
            return
        if child.returncode is None:
            os.killpg(child.pid, signal.SIGINT)
            deadline = time.monotonic() + _GRACE_S
            # Not reaped yet, its number belongs to no other process.
            while not _has_ended(child.pid) and time.monotonic() < deadline:
                time.sleep(0.01)
            os.killpg(child.pid, signal.SIGKILL)
            child.wait()
        for thread in self._threads:
            thread.join(_GRACE_S)
        self._threads = []
        self._newest = None

    def _pump(self, pipe: BufferedReader) -> None:
        with pipe:
            try:
                while (frame := self._receive(pipe)) is not None:
                    with self._changed:
                        self._put(frame)
            except SourceError as error:
                self._error = str(error)
            with self._changed:
                self._is_over = True
                self._changed.notify_all()

    def _put(self, frame: CapturedFrame) -> None:
        if self._newest is not None:
            self.skipped += 1
            frame = dataclasses.replace(frame, lost=frame.lost + self._newest.lost)
        self._newest = frame
        self._deadline = time.monotonic() + STALL_S
        self._changed.notify_all()

    def _listen(self, output: IO[bytes]) -> None:
        with output:
            for line in output:
                if text := line.decode(errors="replace").strip():
                    self._hear(text)


def _has_ended(pid: int) -> bool:
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT | os.WNOHANG) is not None

"""`degmix-edge serve` as a process, for tests and campaigns."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).parents[2]
BUNDLE = ROOT / "degmix_edge" / "ready" / "degmix_tiny.degmix"
END_S = 25.0
"""A server must have ended so long after a signal."""


@dataclass(frozen=True)
class Reply:
    """What a server answered."""

    status: int
    body: bytes
    headers: Mapping[str, str]

    @property
    def json(self) -> Any:
        """The body as values."""
        return json.loads(self.body)


@dataclass
class Running:
    """A server that runs as a child of this process.

    Attributes:
        process: The command.
        about: What it printed.
        answered: How many requests of `ask` got maps.
        children: Its processes, when `replicas` looked last.
    """

    process: subprocess.Popen
    about: dict[str, Any]
    answered: int = 0
    children: list[psutil.Process] = field(default_factory=list)

    @property
    def url(self) -> str:
        """Where it listens."""
        return self.about["url"]

    def ask(self, path: str, body: bytes | None = None) -> Reply:
        """Send a request; a body makes it a POST."""
        request = urllib.request.Request(self.url + path, data=body)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                self.answered += body is not None
                return Reply(answer.status, answer.read(), answer.headers)
        except urllib.error.HTTPError as error:
            return Reply(error.code, error.read(), error.headers)

    def metric(self, name: str, tag: str = "") -> float:
        """The sum of a metric of Prometheus over all processes."""
        with urllib.request.urlopen(self.about["metrics_url"], timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        rows = [line for line in lines if line.startswith(name + "{") and tag in line]
        return sum(float(line.rsplit(" ", 1)[1]) for line in rows)

    def replicas(self) -> list[psutil.Process]:
        """The processes with a session."""
        self.children = psutil.Process(self.process.pid).children(recursive=True)
        return [one for one in self.children if "ServeReplica:degmix:Sessions" in _title(one)]

    def wait_for_replicas(self, count: int, seconds: float = 60.0) -> float:
        """Wait until so many run, and return the seconds that it took."""
        start = time.monotonic()
        while time.monotonic() - start < seconds:
            reply = self.ask("/readyz")
            # Ray Serve may not know yet that one has died.
            if reply.json.get("replicas") == count == len(self.replicas()):
                return time.monotonic() - start
            time.sleep(0.2)
        raise TimeoutError(f"no {count} replicas after {seconds:g} s")

    def end(self, number: int) -> tuple[int, list[psutil.Process], float]:
        """Send a signal; return the exit code, the processes that are left, and the seconds."""
        self.replicas()
        start = time.monotonic()
        self.process.send_signal(number)
        code = self.process.wait(END_S)
        _, left = psutil.wait_procs(self.children, timeout=5)
        return code, left, time.monotonic() - start


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline()[:1])
    except psutil.Error:
        return ""


@contextmanager
def running(bundle: str | Path, *options: str, errors: Any = None) -> Iterator[Running]:
    """Start a server at a free port, and end it with its processes.

    Args:
        bundle: The bundle.
        options: More options of `degmix-edge serve`.
        errors: A file for what it prints to people; None shows it.
    """
    command = [sys.executable, "-m", "degmix_edge", "serve", str(bundle), "--port", "0", "--json"]
    process = subprocess.Popen(
        [*command, *options], stdout=subprocess.PIPE, stderr=errors, text=True
    )
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.rstrip() == "}":
            break
    server = Running(process, json.loads("".join(lines) or "{}"))
    try:
        yield server
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(END_S)

"""Starts the node and its peers as processes, under an interpreter that has rclpy."""

import base64
import importlib.util
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
NODE = "/degmix_edge"
WAIT_S = 20.0
"""Nothing on a busy machine takes longer."""
CONFIGURE, CLEANUP, ACTIVATE, DEACTIVATE = 1, 2, 3, 4
"""Transitions in lifecycle_msgs/Transition."""


def interpreter() -> str:
    """The interpreter with rclpy; the test is skipped where there is none."""
    named = os.environ.get("DEGMIX_TEST_RCLPY")
    if named:
        return named
    if importlib.util.find_spec("rclpy") is None:
        pytest.skip("no rclpy: DEGMIX_TEST_RCLPY names no interpreter that has it")
    return sys.executable


def environment(domain: int, messages: Path | None = None) -> dict[str, str]:
    """Of all processes of one test: a domain of their own, on this machine alone.

    Args:
        domain: The number of the domain.
        messages: A folder that vision_messages.py has filled; None is none.
    """
    paths = [str(ROOT), *([str(messages)] if messages else [])]
    own = {
        "PYTHONPATH": os.pathsep.join(paths),
        "ROS_DOMAIN_ID": str(domain),
        "OMP_NUM_THREADS": "1",
    }
    own |= {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST", "ROS_LOCALHOST_ONLY": "1"}
    profile = str(ROOT / "degmix_edge" / "ros" / "fastdds_shm.xml")
    # Fast DDS of Kilted and of Jazzy: each reads one of them.
    own |= {"FASTDDS_DEFAULT_PROFILES_FILE": profile, "FASTRTPS_DEFAULT_PROFILES_FILE": profile}
    if messages is not None:
        own["LD_LIBRARY_PATH"] = str(messages / "lib")
    return {**os.environ, **own}


def vision_messages(folder: Path) -> Path:
    """Fill a folder with the package vision_msgs; the test is skipped where no compiler is."""
    if shutil.which("g++") is None:
        pytest.skip("vision_msgs is made by a C++ compiler, and g++ is not here")
    program = str(Path(__file__).with_name("vision_messages.py"))
    command = [interpreter(), program, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return folder


def wait_for(what: Callable[[], Any], seconds: float = WAIT_S) -> Any:
    """Wait until `what()` is true, and return it."""
    deadline = time.monotonic() + seconds
    while not (value := what()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.05)
    return value


class PeerProcess:
    """A process of peer.py: `peer.camera(...)` sends the command `camera`."""

    def __init__(self, name: str, domain: int, messages: Path | None = None) -> None:
        self._process = subprocess.Popen(
            [interpreter(), str(Path(__file__).with_name("peer.py")), name],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment(domain, messages),
        )

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return lambda **fields: self._send({"do": name, **fields})

    def _send(self, command: dict[str, Any]) -> Any:
        self._process.stdin.write(json.dumps(command) + "\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline())
        assert "error" not in answer, answer
        return answer["answer"]

    def set(self, **values: Any) -> list[dict[str, Any]]:
        """Set parameters of the node; `__` in a name is a dot."""
        named = {name.replace("__", "."): value for name, value in values.items()}
        service = f"{NODE}/set_parameters"
        return self.call(service=service, kind="rcl_interfaces/srv/SetParameters", set=named)[
            "results"
        ]

    def change(self, transition: int) -> bool:
        """Ask for a transition of the node's lifecycle."""
        kind = "lifecycle_msgs/srv/ChangeState"
        answer = self.call(service=f"{NODE}/change_state", kind=kind, transition=transition)
        return answer["success"]

    @property
    def state(self) -> str:
        """The state of the node's lifecycle."""
        kind = "lifecycle_msgs/srv/GetState"
        return self.call(service=f"{NODE}/get_state", kind=kind)["current_state"]["label"]

    @property
    def diagnostics(self) -> dict[str, Any]:
        """The newest status on /diagnostics; its lines are under `values`, by name."""
        status = wait_for(lambda: self.last(topic="/diagnostics"))["status"][0]
        status["values"] = {one["key"]: one["value"] for one in status["values"]}
        return status

    def close(self) -> None:
        """End the process."""
        self._process.stdin.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


class NodeProcess:
    """A process of `degmix-edge ros`."""

    def __init__(
        self,
        bundle: Path,
        domain: int,
        log: Path,
        *arguments: str,
        messages: Path | None = None,
    ) -> None:
        self._log = log
        with log.open("w") as file:
            self.process = subprocess.Popen(
                [interpreter(), "-m", "degmix_edge", "ros", str(bundle), "--ros-args", *arguments],
                stdout=file,
                stderr=file,
                env=environment(domain, messages),
                cwd=log.parent,
            )

    @property
    def log(self) -> str:
        """What the node has written so far."""
        return self._log.read_text()

    def says(self, text: str) -> str:
        """Wait until the log holds a text."""
        wait_for(lambda: text in self.log or self.process.poll() is not None)
        assert text in self.log, self.log
        return self.log

    def stop(self, number: int) -> tuple[int, float]:
        """Send a signal; return the exit code and how many seconds the process took to end."""
        start = time.monotonic()
        self.process.send_signal(number)
        code = self.process.wait(10)
        return code, time.monotonic() - start

    def close(self) -> None:
        """End the process, whatever state it is in."""
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def as_text(image: np.ndarray | bytes) -> str:
    """The bytes of an image as base64."""
    return base64.b64encode(bytes(image) if isinstance(image, bytes) else image.tobytes()).decode()


def array_of(message: dict[str, Any]) -> np.ndarray:
    """The pixels of an Image, or the points of a PointCloud2."""
    data = base64.b64decode(message["data"])
    shape = message["height"], message["width"]
    if "encoding" not in message:
        return np.frombuffer(data, np.float32).reshape(*shape, 3)
    kind = np.uint8 if message["encoding"] in ("mono8", "rgb8") else np.float32
    return np.frombuffer(data, kind).reshape(*shape, -1).squeeze()

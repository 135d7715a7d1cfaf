"""Starts the node, spins it, and stops it within two seconds of a signal."""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import warnings
from collections.abc import Sequence
from types import FrameType
from typing import Any

from degmix_edge.errors import BackendError
from degmix_edge.ros._rclpy import need_rclpy
from degmix_edge.ros.heap import keep_freed_memory
from degmix_edge.ros.node import MapsNode

STOP_S = 1.9
"""Seconds after a signal at which the process ends, whatever still runs in it."""
SPIN_S = 0.1
"""Seconds that the executor waits before it looks whether it shall stop."""
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopOnSignal:
    """Notes SIGINT and SIGTERM, and ends the process where it has not ended by itself in time.

    A thread hears of a signal at once, also while the main thread is inside a library that does
    not return, such as one that builds an engine. Only the main thread may use it.
    """

    def __init__(self) -> None:
        self.is_set = False
        self._finished = threading.Event()
        self._reader, self._writer = socket.socketpair()
        self._before: list[Any] = []
        self._wakeup = -1

    def __enter__(self) -> StopOnSignal:
        """Begin to listen."""
        self._writer.setblocking(False)
        self._before = [signal.signal(number, _nothing) for number in SIGNALS]
        self._wakeup = signal.set_wakeup_fd(self._writer.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._listen, name="degmix-signals", daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop listening; what signals did before, they do again."""
        self._finished.set()
        signal.set_wakeup_fd(self._wakeup)
        for number, handler in zip(SIGNALS, self._before, strict=True):
            signal.signal(number, handler)
        self._writer.close()

    def _listen(self) -> None:
        with self._reader:
            while number := self._reader.recv(1):
                if number[0] in SIGNALS:
                    self.is_set = True
                    break
            else:
                return
            if not self._finished.wait(STOP_S):
                os._exit(128 + number[0])


def _nothing(number: int, frame: FrameType | None) -> None:
    """Take a signal: `StopOnSignal` has heard of it already."""


def spin(bundle: str, arguments: Sequence[str] = ()) -> None:
    """Run the node until SIGINT or SIGTERM.

    With the parameter `autostart`, which is true by default, it is configured and activated at
    once. Without, it waits for a lifecycle manager.

    Args:
        bundle: The bundle; empty leaves it to the parameter `bundle`.
        arguments: ROS arguments, such as `--ros-args -r image:=/camera/image_raw`.

    Raises:
        BackendError: ROS is not here, does not take the arguments, or the backend failed.
        ConfigError, BundleError: A parameter is out of range, or the bundle cannot be opened.
    """
    rclpy = need_rclpy()
    keep_freed_memory()
    from rclpy.signals import SignalHandlerOptions

    with StopOnSignal() as stop, warnings.catch_warnings():
        try:
            rclpy.init(args=list(arguments), signal_handler_options=SignalHandlerOptions.NO)
        except Exception as error:  # rclpy's own, which it keeps in a private module
            raise BackendError(f"ros: the arguments are refused ({error})") from None
        try:
            _run(MapsNode(bundle), stop)
        finally:
            rclpy.shutdown()


def _run(node: MapsNode, stop: StopOnSignal) -> None:
    from rclpy.executors import SingleThreadedExecutor

    _log_to(node.ros)
    executor = SingleThreadedExecutor()
    executor.add_node(node.ros)
    node.ros.declare_parameter("autostart", True)
    try:
        if node.ros.get_parameter("autostart").value:
            node.ros.trigger_configure()
            if node.error is None and not stop.is_set:
                node.ros.trigger_activate()
            if node.error is not None:
                raise node.error
        while not stop.is_set and not node.has_failed:
            executor.spin_once(timeout_sec=SPIN_S)
        if node.has_failed and node.error is not None:
            raise node.error
    finally:
        node.clean_up()
        executor.shutdown(timeout_sec=0)
        node.ros.destroy_node()


class _RosLog(logging.Handler):
    """Hands messages of our own modules to the node's log."""

    def __init__(self, logger: Any) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        """Hand one message over."""
        # rclpy allows one severity for each place in the code.
        if record.levelno >= logging.ERROR:
            self._logger.error(record.getMessage())
        elif record.levelno >= logging.WARNING:
            self._logger.warning(record.getMessage())


def _log_to(ros: Any) -> None:
    logger = ros.get_logger()
    own = logging.getLogger("degmix_edge")
    own.addHandler(_RosLog(logger))
    own.propagate = False
    warnings.showwarning = lambda message, *rest, **more: logger.warning(str(message))

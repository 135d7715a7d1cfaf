"""Foxglove: a live view over its WebSocket protocol. Its app opens our MCAP files by itself."""

from __future__ import annotations

from typing import Any

import numpy as np

from degmix_edge.capture import CapturedFrame
from degmix_edge.errors import ConfigError, OutputError
from degmix_edge.network import NetworkSpec
from degmix_edge.runtime.maps import TaskMap
from degmix_edge.runtime.messages import ImageContent, group, map_content, seconds_and_rest
from degmix_edge.runtime.results import StreamResult
from degmix_edge.sinks._base import Sink, SinkOptions, need
from degmix_edge.sinks._picture import Painter, Unseen, pixels_of
from degmix_edge.sinks._view import View
from degmix_edge.tasks import look

EXPECTED = "foxglove, or foxglove:PORT, or foxglove:HOST:PORT"
NAME = "foxglove"
HOST, PORT = "127.0.0.1", 8765
BACKLOG = 32
"""Messages that wait for a slow client: about two results, before the oldest are dropped."""
NUMBERS = ("classes", "grey", "ramp", "range")
"""Maps whose numbers Foxglove's Image panel takes: those with one number for each pixel."""


def recognises(text: str) -> bool:
    """Return whether a text names the view."""
    return text == NAME or text.startswith(f"{NAME}:")


def open_sink(text: str, network: NetworkSpec, options: SinkOptions) -> Sink:
    """Return the view.

    Raises:
        ConfigError: What follows the name is no host and port, or the SDK is not installed.
        OutputError: The port is taken.
    """
    need(NAME, "view", text)
    host, _, port = text.removeprefix(NAME).removeprefix(":").rpartition(":")
    if port and not (port.isascii() and port.isdigit() and int(port) < 65536):
        raise ConfigError(f"{text}: expected {EXPECTED}")
    return FoxgloveView(host or HOST, int(port or PORT), network, options)


class FoxgloveView(View):
    """Serves the newest results to Foxglove's app.

    A task with one number for each pixel has them on `/<camera>/<group>/image`: class indices,
    probabilities, or depth in metres. Every task but single probabilities has its colours on
    `/<camera>/<group>/colour`. Nothing is converted for a topic that nobody has subscribed to.

    Args:
        host: The address to listen on; `0.0.0.0` is every network of this machine.
        port: The TCP port; 0 takes any that is free.
        network: What computes the maps.
        options: Which tasks, and how many results a second.

    Attributes:
        port: The port that the server has.

    Raises:
        OutputError: The port is taken.
    """

    def __init__(self, host: str, port: int, network: NetworkSpec, options: SinkOptions) -> None:
        import foxglove

        super().__init__(NAME, options)
        self._network = network
        self._tasks = options.chosen(network)
        self._painter, self._unseen = Painter(), Unseen()
        self._channels: dict[str, Any] = {}
        self._context = foxglove.Context()
        try:
            self._server = foxglove.start_server(
                name="degmix-edge",
                host=host,
                port=port,
                context=self._context,
                message_backlog_size=BACKLOG,
            )
        except Exception as error:
            raise OutputError(
                f"{NAME}: {host}:{port} cannot be served ({error}); give another port, as in "
                f"{NAME}:{port + 1}"
            ) from error
        self.port = self._server.port
        self.hint = f"{NAME}: open a connection to ws://{host}:{self.port} in the app"
        self._start()

    def _show(self, result: StreamResult) -> None:
        frame, camera = result.frame, f"/{result.camera}"
        image = self._channel(f"{camera}/image_raw")
        if image.has_sinks():
            self._send(image, frame, _picture(pixels_of(frame, self._network)))
        new = self._unseen.tasks(result)
        for task in self._tasks:
            if task.name in new:
                self._show_map(f"{camera}/{group(task)}", result, result.maps[task.name])

    def _show_map(self, beside: str, result: StreamResult, task_map: TaskMap) -> None:
        if look(task_map.spec) in NUMBERS:
            numbers = self._channel(f"{beside}/image")
            if numbers.has_sinks():
                self._send(numbers, result.frame, map_content(task_map))
        if look(task_map.spec) != "grey":
            colours = self._channel(f"{beside}/colour")
            if colours.has_sinks():
                picture = self._painter.colour(result.camera, task_map)
                self._send(colours, result.frame, _picture(picture))

    def _send(self, channel: Any, frame: CapturedFrame, content: ImageContent) -> None:
        from foxglove import messages

        stamp = messages.Timestamp(*seconds_and_rest(frame.stamp_ns))
        message = messages.RawImage(
            timestamp=stamp,
            frame_id=frame.frame_id,
            width=content.width,
            height=content.height,
            encoding=content.encoding,
            step=content.step,
            data=content.data.tobytes(),
        )
        channel.log(message, log_time=frame.stamp_ns)

    def _channel(self, topic: str) -> Any:
        from foxglove.channels import RawImageChannel

        if topic not in self._channels:
            self._channels[topic] = RawImageChannel(topic, context=self._context)
        return self._channels[topic]

    def _end(self) -> None:
        self._server.stop()


def _picture(pixels: np.ndarray) -> ImageContent:
    height, width = pixels.shape[:2]
    return ImageContent("rgb8", height, width, np.ascontiguousarray(pixels))

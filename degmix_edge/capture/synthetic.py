"""A moving scene that is rendered as it is needed: a camera that anyone has.

The camera slides along a textured wall 3 m away, before which three textured balls move. Every
frame is a function of its index alone, so that two runs see the same pixels.
"""

from __future__ import annotations

import math
import re
import threading
import time

import numpy as np

from degmix_edge.capture._base import CapturedFrame, Source, SourceOptions
from degmix_edge.capture._checks import only
from degmix_edge.errors import SourceError
from degmix_edge.limits import check_limit

EXPECTED = "`synthetic` or `synthetic:WIDTHxHEIGHT@RATE` for a moving scene"
SIZE, RATE_HZ = (480, 640), 30.0
WALL_M = 3.0
"""From the camera to the wall."""
SPEED_M_S = 1.0
"""The highest speed of the camera along the wall: a walking robot's."""
_SPAN = 0.5
"""How far the camera slides to each side, in widths and heights of the frame."""
_TEXT = re.compile(r"synthetic(?::(?:(\d+)x(\d+))?(?:@([\d.]+))?)?")


def recognises(text: str) -> bool:
    """Return whether a text names a synthetic scene."""
    return text == "synthetic" or text.startswith("synthetic:")


def open_source(text: str, options: SourceOptions) -> Source:
    """Return the scene; sizes and rates in the options win over those in the text."""
    only(options, text, "size", "rate_hz", "replay")
    match = _TEXT.fullmatch(text)
    if match is None or match[0].endswith(":"):
        raise SourceError(f"source {text!r}: expected {EXPECTED}, such as synthetic:640x480@30")
    width, height, rate = match.groups()
    size = options.size or ((int(height), int(width)) if width else SIZE)
    try:
        rate_hz = options.rate_hz or float(rate or RATE_HZ)
    except ValueError:
        rate_hz = math.nan
    if min(size) < 2 or not 0 < rate_hz < math.inf:
        raise SourceError(f"source {text!r}: expected sides from 2 pixels and a rate above 0")
    check_limit("image_pixels", size[0] * size[1], text, SourceError)
    return SyntheticSource(size, rate_hz, is_live=options.replay == "timed")


class SyntheticSource(Source):
    """A source that renders each frame when it is due, or as fast as frames are taken.

    Where a frame is due before the last one was taken, that one is never rendered and counts in
    `skipped`, as a camera's frame that nobody takes.

    Args:
        size: Height and width in pixels.
        rate_hz: Frames a second of the scene's own time.
        is_live: Whether frames come at that rate.

    Attributes:
        skipped: Frames that were due and not taken.
    """

    def __init__(self, size: tuple[int, int], rate_hz: float, *, is_live: bool = True) -> None:
        self.size, self.rate_hz, self.is_live = size, rate_hz, is_live
        self.name = f"synthetic:{size[1]}x{size[0]}@{rate_hz:g}"
        self.skipped = 0
        self._moment = self._count = self._start_ns = 0
        self._wall: np.ndarray | None = None
        self._balls: list[np.ndarray] = []

    def open(self) -> None:
        """Draw the wall and the balls, which takes some milliseconds."""
        rng = np.random.default_rng(0)
        height, width = self.size
        self._wall = _wall(rng, (2 * height, 2 * width))
        self._balls = [_ball(rng, max(4, height // part)) for part in (3, 5, 8)]
        self._moment = self._count = 0
        self._start_ns = time.monotonic_ns()

    def read(self, stop: threading.Event) -> CapturedFrame | None:
        """Return the frame that is due next."""
        index, self._count = self._count, self._count + 1
        stamp = int(self._moment / self.rate_hz * 1e9)
        due, source = None, "schedule"
        if self.is_live:
            behind = int((time.monotonic_ns() - self._start_ns) / 1e9 * self.rate_hz)
            self.skipped += max(0, behind - self._moment)
            self._moment = max(self._moment, behind)
            due = self._start_ns + int(self._moment / self.rate_hz * 1e9)
            if stop.wait(max(0, due - time.monotonic_ns()) / 1e9):
                return None
            stamp = due + time.time_ns() - time.monotonic_ns()
        elif stop.is_set():
            return None
        image = self.render(self._moment)
        self._moment += 1
        return CapturedFrame(
            image,
            time.monotonic_ns(),
            due,
            stamp,
            source,
            index=index,
            frame_id="synthetic",
            intrinsics=self.intrinsics,
        )

    @property
    def intrinsics(self) -> np.ndarray:
        """The camera matrix: as many pixels of focal length as the frame is wide."""
        height, width = self.size
        return np.array([[width, 0, (width - 1) / 2], [0, width, (height - 1) / 2], [0, 0, 1.0]])

    def place(self, moment: int) -> tuple[int, int]:
        """Return the top and left of the camera's window on the wall, in pixels, at a frame.

        The camera moves along an ellipse, at most `SPEED_M_S` fast: a point of the wall moves by
        the difference of two places between two frames.
        """
        height, width = self.size
        radius = _SPAN * width
        turn = SPEED_M_S * width / WALL_M / radius * moment / self.rate_hz
        top, left = math.sin(turn) * _SPAN * height, math.cos(turn) * radius
        return round(height / 2 + top), round(width / 2 + left)

    def render(self, moment: int) -> np.ndarray:
        """Return the picture of a frame, RGB `(H, W, 3)`, uint8."""
        if self._wall is None:
            raise SourceError(f"{self.name}: is closed")
        height, width = self.size
        top, left = self.place(moment)
        image = self._wall[top : top + height, left : left + width].copy()
        seconds = moment / self.rate_hz
        for number, ball in enumerate(self._balls):
            side = ball.shape[0]
            # They cross the frame in three to five seconds and come in again on the other side.
            run = (seconds / (3 + number) + number / 3) % 1
            x = round(run * (width + side)) - side
            y = round((0.5 + 0.4 * math.sin(seconds + 2 * number)) * max(0, height - side))
            _lay(image, ball, y, x)
        return image

    def close(self) -> None:
        """Forget the pictures."""
        self._wall, self._balls = None, []


def _wall(rng: np.random.Generator, size: tuple[int, int]) -> np.ndarray:
    """Noise of several scales, from blotches to single pixels: there is detail everywhere."""
    total = np.zeros((*size, 3), np.float32)
    for cell, weight in ((64, 90), (16, 60), (4, 30), (1, 12)):
        grid = rng.random((size[0] // cell + 1, size[1] // cell + 1, 3), np.float32) * weight
        total += grid.repeat(cell, axis=0).repeat(cell, axis=1)[: size[0], : size[1]]
    return (total + 30).astype(np.uint8)


def _ball(rng: np.random.Generator, side: int) -> np.ndarray:
    """A shaded, striped disc, RGBA `(side, side, 4)`."""
    y, x = np.mgrid[-1 : 1 : side * 1j, -1 : 1 : side * 1j]
    depth = 1 - x * x - y * y
    light = np.sqrt(np.maximum(depth, 0)) * (0.75 + 0.25 * np.sin(12 * (x + y)))
    colour = rng.integers(96, 256, 3)
    picture = np.empty((side, side, 4), np.uint8)
    picture[..., :3] = light[..., None] * colour
    picture[..., 3] = (depth > 0) * np.uint8(255)
    return picture


def _lay(image: np.ndarray, ball: np.ndarray, y: int, x: int) -> None:
    """Draw the part of a ball that lies in the image."""
    height, width = image.shape[:2]
    part = ball[max(0, -y) : max(0, height - y), max(0, -x) : max(0, width - x)]
    place = image[max(0, y) : max(0, y) + part.shape[0], max(0, x) : max(0, x) + part.shape[1]]
    np.copyto(place, part[..., :3], where=part[..., 3:] > 0)

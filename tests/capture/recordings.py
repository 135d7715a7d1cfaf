"""Pictures that carry a number, recordings of them, and what a source may leave behind."""

from __future__ import annotations

import contextlib
import gc
import os
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil

from degmix_edge.camera import to_rgb
from degmix_edge.capture import CapturedFrame, Source

HEIGHT, WIDTH, BITS = 48, 96, 12


def numbered(number: int, size: tuple[int, int] = (HEIGHT, WIDTH)) -> np.ndarray:
    """A picture whose upper half shows a number as light and dark blocks, and colours below."""
    height, width = size
    image = np.zeros((height, width, 3), np.uint8)
    for bit in range(BITS):
        block = slice(bit * width // BITS, (bit + 1) * width // BITS)
        image[: height // 2, block] = 235 if number >> bit & 1 else 20
    image[height // 2 :, : width // 2] = (200, 40, 60)
    image[height // 2 :, width // 2 :] = (30, 90, 210)
    return image


def number_of(image: np.ndarray) -> int:
    """The number that `numbered` drew, also of a scaled picture or after lossy compression."""
    height, width = image.shape[:2]
    centres = [(2 * bit + 1) * width // (2 * BITS) for bit in range(BITS)]
    return sum(int(image[height // 4, x].mean() > 128) << bit for bit, x in enumerate(centres))


def colours_of(image: np.ndarray) -> np.ndarray:
    """The two colours of the lower half, RGB `(2, 3)`."""
    height, width = image.shape[:2]
    return image[height * 3 // 4, [width // 4, width * 3 // 4]].astype(int)


def write_video(path: Path | str, count: int = 20, rate: int = 30, **more) -> None:
    """Write a video of numbered pictures; `degrees` says how far a player is to turn it."""
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream(more.pop("codec", "libx264"), rate=rate)
        stream.width, stream.height = WIDTH, HEIGHT
        stream.pix_fmt = more.pop("pix_fmt", "yuv420p")
        if "degrees" in more:
            stream.set_display_rotation(more["degrees"])
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(numbered(number), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def read_all(source: Source, most: int = 1000) -> list[CapturedFrame]:
    """Every frame that an open source gives until its end."""
    stop, frames = threading.Event(), []
    while len(frames) < most and (frame := source.read(stop)) is not None:
        frames.append(frame)
    return frames


def rgb_of(frame: CapturedFrame) -> np.ndarray:
    return to_rgb(frame.image, frame.format)


def _held() -> Counter[str]:
    gc.collect()
    files = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            files.append(os.readlink(f"/proc/self/fd/{name}"))
    threads = [f"thread {thread.name} {thread.ident}" for thread in threading.enumerate()]
    children = psutil.Process().children(recursive=True)
    processes = [f"process {child.pid}" for child in children]
    return Counter([name for name in files if not name.startswith("/proc/")] + threads + processes)


@contextlib.contextmanager
def nothing_left() -> Iterator[None]:
    """Check that the block leaves no file, thread or process of this process behind.

    What an earlier test of this process had, such as a Ray cluster, may end meanwhile.
    """
    before = _held()
    yield
    left = _held() - before
    assert not left, left

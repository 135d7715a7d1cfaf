"""Folders of images, and images that a pattern names, one after the other."""

from __future__ import annotations

import glob
import re
import threading
import time
import warnings
from pathlib import Path

import numpy as np

from degmix_edge.capture._base import CapturedFrame, Source, SourceOptions
from degmix_edge.capture._checks import is_path, only
from degmix_edge.capture._replay import ReplayClock
from degmix_edge.errors import DegmixWarning, InputError, SourceError
from degmix_edge.preprocess import ENDINGS, list_images, read_image

EXPECTED = "a folder of images, or a pattern such as 'shots/*.png'"
_MAGIC = re.compile(r"[*?\[]")
_NANOSECONDS = re.compile(r"\d{16,19}")
"""A name that is a time since 1970 in nanoseconds, as EuRoC and many loggers write it."""


def recognises(text: str) -> bool:
    """Return whether a text is a folder, an image or a pattern of images."""
    is_file = text.lower().endswith(ENDINGS) or _MAGIC.search(text) is not None
    return bool(text) and is_path(text) and (is_file or Path(text).is_dir())


def open_source(text: str, options: SourceOptions) -> Source:
    """Return the images in order of their names."""
    only(options, text, "rate_hz", "replay", "loop")
    return ImagesSource(text, options)


class ImagesSource(Source):
    """A source that reads files in order of their names, as RGB.

    With a rate the images come at that rate, as from a camera. Without one, or with a fast replay,
    each comes when it is taken. Where all names are times in nanoseconds they are the stamps.

    Args:
        text: A folder, which is read with its subfolders, or a pattern.
        options: `rate_hz`, `replay` and `loop`.
    """

    def __init__(self, text: str, options: SourceOptions) -> None:
        self.name, self.options = text, options
        self.is_live = options.rate_hz is not None and options.replay == "timed"
        self._paths: list[Path] = []
        self._stamps: list[int] | None = None
        self._clock = ReplayClock()
        self._index = self._number = 0

    def open(self) -> None:
        """Find the images.

        Raises:
            SourceError: There are none.
        """
        path = Path(self.name)
        try:
            if path.is_dir():
                self._paths = list_images(path)
            else:
                files = [path] if path.is_file() else map(Path, sorted(glob.glob(self.name)))
                self._paths = [one for one in files if one.suffix.lower() in ENDINGS]
        except InputError as error:
            raise SourceError(str(error)) from error
        if not self._paths:
            raise SourceError(f"{self.name}: no images; expected {EXPECTED}")
        is_named = all(_NANOSECONDS.fullmatch(one.stem) for one in self._paths)
        self._stamps = [int(one.stem) for one in self._paths] if is_named else None
        self._clock, self._index, self._number = ReplayClock(), 0, 0

    def read(self, stop: threading.Event) -> CapturedFrame | None:
        """Return the next image.

        Raises:
            SourceError: The file cannot be read as a picture. Of images that come at a rate it is
                lost, and the next one comes.
        """
        lost = 0
        while not stop.is_set():
            number = self._number % max(1, len(self._paths)) if self.options.loop else self._number
            if number >= len(self._paths):
                return None
            moment, self._number = self._number, self._number + 1
            try:
                image = read_image(self._paths[number])
            except InputError as error:
                if not self.is_live:
                    raise SourceError(str(error)) from error
                warnings.warn(f"{error}; it is lost", DegmixWarning, stacklevel=2)
                lost += 1
                continue
            due = None
            if self.is_live:
                rate = self.options.rate_hz or 1
                due = self._clock.wait(int(moment / rate * 1e9), stop)
                if due is None:
                    return None
            return self._frame(image, due, number, lost)
        return None

    def _frame(self, image: np.ndarray, due: int | None, number: int, lost: int) -> CapturedFrame:
        stamp = self._stamps[number] if self._stamps else None
        where = "unknown" if stamp is None else "file name"
        index, self._index = self._index, self._index + 1
        now = time.monotonic_ns()
        return CapturedFrame(image, now, due, stamp, where, index=index, lost=lost)

    def close(self) -> None:
        """Forget the files."""
        self._paths = []

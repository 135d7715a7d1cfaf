"""Folders of images, and images that a pattern names, one after the other."""

from __future__ import annotations

import glob
import re
import threading
import time
from pathlib import Path

from degmix_edge.capture._base import CapturedFrame, Source, SourceOptions
from degmix_edge.capture._checks import only
from degmix_edge.capture._replay import ReplayClock
from degmix_edge.errors import InputError, SourceError
from degmix_edge.preprocess import ENDINGS, list_images, read_image

EXPECTED = "a folder of images, or a pattern such as 'shots/*.png'"
_MAGIC = re.compile(r"[*?\[]")
_NANOSECONDS = re.compile(r"\d{16,19}")
"""A name that is a time since 1970 in nanoseconds, as EuRoC and many loggers write it."""


def recognises(text: str) -> bool:
    """Return whether a text is a folder, an image or a pattern of images."""
    is_image = text.lower().endswith(ENDINGS) and "://" not in text
    return is_image or Path(text).is_dir() or (bool(_MAGIC.search(text)) and "://" not in text)


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
        self._index = 0

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
        self._clock, self._index = ReplayClock(), 0

    def read(self, stop: threading.Event) -> CapturedFrame | None:
        """Return the next image.

        Raises:
            SourceError: The file cannot be read as a picture.
        """
        index = self._index
        number = index % max(1, len(self._paths)) if self.options.loop else index
        if number >= len(self._paths) or stop.is_set():
            return None
        self._index += 1
        stamp = self._stamps[number] if self._stamps else None
        due = None
        try:
            image = read_image(self._paths[number])
        except InputError as error:
            raise SourceError(str(error)) from error
        if self.is_live:
            due = self._clock.wait(int(index / (self.options.rate_hz or 1) * 1e9), stop)
            if due is None:
                return None
        where = "unknown" if stamp is None else "file name"
        return CapturedFrame(image, time.monotonic_ns(), due, stamp, where, index=index)

    def close(self) -> None:
        """Forget the files."""
        self._paths = []

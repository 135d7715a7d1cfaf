"""What all sinks that write one file have in common."""

from __future__ import annotations

import contextlib
import shutil
from abc import abstractmethod
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from degmix_edge.errors import OutputError
from degmix_edge.files import check_file, whole_file
from degmix_edge.runtime.results import StreamResult
from degmix_edge.sinks._base import Sink, SinkOptions

LEAST_FREE_BYTES = 32_000_000
"""Space that a recording leaves on its disk, which is more than the end of a file needs."""


class FileSink(Sink):
    """A sink whose file appears under its name when it is closed, and has all results until then.

    Nothing is written before the first result. When the disk is nearly full, the file is finished
    before the error is raised. If writing fails, what was there before is kept, and nothing else is
    left.

    Args:
        path: The file.
        options: Whether an existing file is replaced.

    Raises:
        OutputError: The file exists, or cannot be written.
    """

    def __init__(self, path: Path, options: SinkOptions) -> None:
        check_file(path, force=options.force)
        self.path: Path = path
        self.name = str(path)
        self._opened = contextlib.ExitStack()
        self._is_closed = False

    @abstractmethod
    def _begin(self, part: Path, opened: contextlib.ExitStack) -> None:
        """Open the file `part`; what `opened` has is closed, in whatever way this ends."""

    @abstractmethod
    def _add(self, result: StreamResult) -> None:
        """Write one result."""

    @abstractmethod
    def _finish(self) -> None:
        """Write what belongs at the end of the file."""

    def write(self, result: StreamResult) -> None:
        """Write a result; the first one opens the file."""
        if self._is_closed:
            raise OutputError(f"{self.path}: is closed, so it takes no more results")
        self._check_space()
        with self._or_nothing():
            if not self.count:
                part = self._opened.enter_context(whole_file(self.path))
                self._begin(part, self._opened)
                self._opened.push(self._finish_whole)
            self._add(result)
            self.count += 1

    def close(self) -> None:
        """Finish the file and give it its name. Without results there is no file."""
        self._is_closed = True
        self._opened.close()

    def _check_space(self) -> None:
        free = shutil.disk_usage(self.path.absolute().parent).free
        if free < LEAST_FREE_BYTES:
            self.close()
            raise OutputError(
                f"{self.path}: the disk has {free / 1e6:.1f} MB left, and a recording leaves "
                f"{LEAST_FREE_BYTES / 1e6:.0f} MB; it ends with {self.count} results: free some "
                "space"
            )

    def _finish_whole(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self._finish()

    @contextlib.contextmanager
    def _or_nothing(self) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._is_closed = True
            # This closes and removes the file, and makes an OutputError of an OSError.
            self._opened.__exit__(type(error), error, error.__traceback__)
            raise

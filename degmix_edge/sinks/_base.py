"""The interface of whatever takes a stream's results."""

from __future__ import annotations

from abc import ABC, abstractmethod
from types import TracebackType

from degmix_edge.runtime.results import StreamResult


class Sink(ABC):
    """Takes results one after the other. Close it with `with` or `close()`."""

    @abstractmethod
    def write(self, result: StreamResult) -> None:
        """Take a result. A live view may leave results out; a file has all of them.

        Raises:
            OutputError: The file cannot be written.
        """

    @abstractmethod
    def close(self) -> None:
        """Finish the file, or end the view. A second call does nothing."""

    def __enter__(self) -> Sink:
        """Return the sink itself, which is open since it was made."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the sink."""
        self.close()

"""Results in words: the command line prints them, and `print(result)` shows the same."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import NamedTuple


class TextTable(NamedTuple):
    """A table for people.

    Attributes:
        title: Stands above it.
        columns: Their names.
        rows: Cells of every row, one for each column.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def __str__(self) -> str:
        lines = [self.columns, *self.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        ends = ["  ".join(map(_padded, enumerate(line), widths)).rstrip() for line in lines]
        return "\n".join([self.title, *ends])


class Doubt(str):
    """A line about what looks wrong, which people should notice."""

    __slots__ = ()


def _padded(cell: tuple[int, str], width: int) -> str:
    index, text = cell
    return text.rjust(width) if index else text.ljust(width)


class Readable(ABC):
    """A result that says in words what it is."""

    @abstractmethod
    def text(self) -> Iterable[str | TextTable]:
        """Return lines and tables in the order in which people read them."""

    def __str__(self) -> str:
        return "\n".join(map(str, self.text()))

"""Check a labelled data set: every file is read, counted and judged."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from degmix_edge.errors import InputError
from degmix_edge.progress import Progress, counting, listening, working
from degmix_edge.report.text import Doubt, Readable, TextTable

if TYPE_CHECKING:
    from degmix_training.data._check import Report

COLUMNS = ("split", "what", "expected", "found", "missing", "bad", "values", "invalid")


@dataclass(frozen=True)
class CheckedData(Readable):
    """What is wrong with a data set.

    Attributes:
        root: Its folder, or an archive.
        layout: Which of the layouts of its data set a folder has; empty where there is one only.
        report: The counts, and the findings in words; None for an archive.
        files: How many files a whole archive has.
    """

    root: Path
    layout: str = ""
    report: Report | None = None
    files: int = 0

    def text(self) -> Iterator[str | TextTable]:
        """Yield the counts, the notes and what is wrong."""
        if self.report is None:
            yield f"{self.root}: whole, {self.files} files"
            return
        title = f"{self.root}: {self.report.title}"
        title += f", layout {self.layout}" if self.layout else ""
        yield TextTable(title, COLUMNS, [row.cells() for row in self.report.rows])
        yield from map(Doubt, self.report.notes)
        yield from self.report.findings or ["nothing is wrong"]

    def values(self) -> dict[str, Any]:
        """The check as plain values."""
        if self.report is None:
            return {"archive": self.root, "files": self.files}
        return {"root": self.root, "layout": self.layout, "report": self.report}

    def check(self) -> None:
        """Fail where something is wrong.

        Raises:
            InputError: Says how many findings there are.
        """
        if self.report is not None and self.report.findings:
            count = len(self.report.findings)
            raise InputError(f"{self.root}: {count} findings, see above")


def check_data(root: str | Path, *, progress: Progress | None = None) -> CheckedData:
    """Read every file of a data set, whose layout says which one it is, or of an archive.

    Args:
        root: A folder, or an archive (.tar, .tar.gz, .zip), which is read and not unpacked.
        progress: Called with an `Event` for each file.

    Raises:
        InputError: No data set that is known has this layout, or the archive is damaged.
    """
    from degmix_training.data import _check

    root = Path(root)
    with listening(progress):
        if root.is_file():
            with working(f"read {root.name}"):
                return CheckedData(root, files=_check.check_archive(root))
        source = _check.detect(root)
        total = sum(len(source.ids(split)) for split in source.splits())
        with counting("check", total) as advance:
            report = _check.check(source, advance)
    return CheckedData(root, getattr(source, "layout", ""), report)

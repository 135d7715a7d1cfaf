"""Two writers of one bundle, and readers while it is replaced."""

from __future__ import annotations

import multiprocessing
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from degmix_edge.bundle.contents import open_bundle
from degmix_edge.bundle.writing import claim, write_bundle
from degmix_edge.errors import OutputError

CARD = "card.md"


@dataclass
class Races:
    """What became of all rounds.

    Attributes:
        rounds: Pairs of writers.
        winners: Rounds by the number of writers that said they were done.
        torn: Rounds after which the bundle was not the winner's.
        opens: How often readers opened the bundle meanwhile.
        false_errors: What readers got wrong.
    """

    rounds: int = 0
    winners: Counter[int] = field(default_factory=Counter)
    torn: int = 0
    opens: int = 0
    false_errors: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether each round had one winner, whose bundle is there, and no reader was disturbed."""
        return set(self.winners) == {1} and not self.torn and not self.false_errors


def race(target: Path, rounds: int, readers: int = 2) -> Races:
    """Let two writers race for `target`, a bundle, while `readers` open it."""
    context = multiprocessing.get_context("fork")
    opened = open_bundle(target)
    files = {name: opened.read(name) for name in opened.manifest.files}
    start, results = context.Barrier(3), context.SimpleQueue()
    arguments = (target, opened.manifest, files, rounds, start, results)
    writers = [context.Process(target=_write, args=(name, *arguments)) for name in ("a", "b")]
    stop, counts = context.Event(), context.SimpleQueue()
    watchers = [context.Process(target=_read, args=(target, stop, counts)) for _ in range(readers)]
    for process in (*writers, *watchers):
        process.start()
    found = Races()
    for _ in range(rounds):
        start.wait()  # both claim
        start.wait()  # both write
        said = dict(results.get() for _ in writers)
        done = [name for name, won in said.items() if won]
        found.rounds += 1
        found.winners[len(done)] += 1
        card = open_bundle(target).read(CARD).decode()
        found.torn += card not in done
    stop.set()
    for _ in watchers:
        opens, errors = counts.get()
        found.opens += opens
        found.false_errors += errors
    for process in (*writers, *watchers):
        process.join()
    return found


def _write(
    name: str, target: Path, manifest: Any, files: Any, rounds: int, start: Any, results: Any
) -> None:
    files = {**files, CARD: name.encode()}
    for _ in range(rounds):
        start.wait()
        claimed = claim(target, force=True)
        start.wait()
        try:
            write_bundle(claimed, manifest, files)
            results.put((name, True))
        except OutputError:
            results.put((name, False))


def _read(target: Path, stop: Any, counts: Any) -> None:
    opens, errors = 0, []
    while not stop.is_set():
        try:
            open_bundle(target)
        except Exception as error:
            errors.append(f"{type(error).__name__}: {error}")
        opens += 1
        time.sleep(0.0005)
    counts.put((opens, errors))

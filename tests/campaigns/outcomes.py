"""Run many bad cases in a process of their own, and say what became of each.

A case is a function of a seed. It must end within ten seconds and a gigabyte, and either return
what it accepted or raise one of our errors. A child process runs the cases; the parent kills it
when a case takes too long, and goes on with the next one in a new child.
"""

from __future__ import annotations

import multiprocessing
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from degmix_edge.errors import DegmixError

HANG_SECONDS = 10
MEMORY_BYTES = 1 << 30
Case = Callable[[int], str]
"""Takes a seed. Returns `same` if nothing was changed, else what it accepted; may raise."""
GOOD = ("refused", "harmless", "same")


@dataclass
class Outcomes:
    """What became of the cases of one campaign.

    Attributes:
        name: The campaign.
        counts: How many cases were `refused` by an error of ours, were `harmless` or the `same`, or
            ended as `accepted`, `foreign`, `hang` or `memory`, which are failures.
        failures: The seed of each failure, and what happened.
    """

    name: str
    counts: Counter[str] = field(default_factory=Counter)
    failures: list[tuple[int, str]] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return not self.failures

    def row(self) -> str:
        """One line of the table."""
        bad = ("accepted", "foreign", "hang", "memory")
        cells = [self.counts.total(), *(self.counts[kind] for kind in (*GOOD, *bad))]
        return f"{self.name:<22}" + "".join(f"{cell:>10}" for cell in cells)


HEADER = f"{'campaign':<22}" + "".join(
    f"{name:>10}" for name in ("cases", *GOOD, "accepted", "foreign", "hangs", "memory")
)


def run_cases(
    name: str, case: Case, seeds: range, said: Callable[[int], None] = lambda done: None
) -> Outcomes:
    """Run `case` for every seed, and collect what became of each."""
    found = Outcomes(name)
    left = iter(seeds)
    for seed, kind, detail in _results(case, left):
        found.counts[kind] += 1
        if kind not in GOOD:
            found.failures.append((seed, f"{kind}: {detail}"))
        said(found.counts.total())
    return found


def _results(case: Case, seeds: Iterator[int]) -> Iterator[tuple[int, str, str]]:
    context = multiprocessing.get_context("fork")
    child = None
    for seed in seeds:
        if child is None:
            ours, theirs = context.Pipe()
            child = context.Process(target=_serve, args=(case, theirs), daemon=True)
            child.start()
            theirs.close()  # else the death of the child would not end the pipe
        ours.send(seed)
        try:
            answered = ours.poll(HANG_SECONDS)
            result = ours.recv() if answered else ("hang", f"over {HANG_SECONDS} s")
        except EOFError:
            child.join()
            result = ("foreign", f"the process died with {child.exitcode}")
        yield seed, *result
        if result[0] in ("hang", "memory") or not child.is_alive():
            child.kill()
            child.join()
            child = None
    if child is not None:
        child.kill()
        child.join()


def _serve(case: Case, pipe: Connection) -> None:
    _forget_peak()
    usual = _peak_bytes()
    while True:
        seed = pipe.recv()
        _forget_peak()
        try:
            kind, detail = _one(case, seed)
        except BaseException as error:  # KeyboardInterrupt and SystemExit are foreign too
            kind, detail = "foreign", f"{type(error).__name__}: {error}"
        grown = _peak_bytes() - usual
        if grown > MEMORY_BYTES:
            kind, detail = "memory", f"{grown / 1e9:.1f} GB more than before"
        pipe.send((kind, detail))


def _one(case: Case, seed: int) -> tuple[str, str]:
    try:
        accepted = case(seed)
    except DegmixError as error:
        return "refused", str(error)
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        first = (str(error) or "?").splitlines()[0][:120]
        where = f"{Path(place.filename).name}:{place.lineno}"
        return "foreign", f"{type(error).__name__} at {where}: {first}"
    return (accepted, "") if accepted in GOOD else ("accepted", accepted)


def _peak_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def _forget_peak() -> None:
    """Let the kernel measure the largest memory anew."""
    Path("/proc/self/clear_refs").write_text("5")

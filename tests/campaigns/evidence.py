"""DeGMix and DeMTG against single-task networks of one backbone, with seeds and shifted scenes.

    python tests/campaigns/evidence.py --out runs/evidence
    python tests/campaigns/evidence.py --out runs/evidence --workers 2 --seeds 3

It runs the zoo `evidence` and prints the tables for the documentation as Markdown: mean and
standard deviation over seeds of each task and of delta_m, on the validation split (FP32 and INT8),
on held-out scenes and on shifted ones, with calibration errors. The command is resumable.
`--only-times` trains a few steps of each network, and says how long the steps of a seed would take.
"""

from __future__ import annotations

import argparse
import time
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from degmix_edge.progress import Event
from degmix_edge.report.page import Table
from degmix_edge.workflows.zoo import ZooResult, zoo
from degmix_edge.workflows.zoo.plan import load_zoo
from degmix_edge.workflows.zoo.tables import accuracy_table, cost_table, elsewhere_tables

SHORT = 20
"""Steps of each network where only times are wanted."""


class Times:
    """A listener that prints lines for people, and measures the steps of each training.

    Attributes:
        seconds: Between steps, by training.
        steps: How many steps were measured, by training.
    """

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self.steps: Counter[str] = Counter()
        self._last = ("", 0.0)

    def __call__(self, event: Event) -> None:
        """Hear an event."""
        if event.kind in ("note", "warning"):
            print(event.detail, flush=True)
        if event.kind != "step" or " loss " not in event.detail:
            self._last = ("", 0.0)
            return
        name, now = event.detail.split()[0], time.perf_counter()
        if name == self._last[0]:
            self.seconds[name] += now - self._last[1]
            self.steps[name] += 1
        self._last = (name, now)

    def of_a_step(self) -> dict[str, float]:
        """Return the seconds that a step takes, by training, without validations."""
        return {name: self.seconds[name] / count for name, count in self.steps.items()}


def markdown(table: Table) -> str:
    """A table as Markdown, with its note."""
    rows = [table.columns, ["---"] * len(table.columns), *table.rows]
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([f"\n### {table.title}\n", table.note, "", *lines])


def tables(result: ZooResult) -> Iterable[Table]:
    """The tables of the documentation."""
    yield cost_table(result)
    yield accuracy_table(result)
    yield from elsewhere_tables(result)


def print_times(given: argparse.Namespace) -> None:
    """Train each network for a few steps, and print how long a seed would take."""
    asked = load_zoo(given.zoo, (), given.changes, None, "1")
    changes = [f"train.steps={SHORT}", f"train.val_every={SHORT}", "also=[]"]
    changes += [f"entries.{name}.steps={SHORT}" for name in asked.entries]
    changes += ["train.data.train=64", "train.data.val=16"]
    times, out = Times(), given.out / "times"
    zoo(given.zoo, out, overrides=[*given.changes, *changes], seeds="1", progress=times)
    total, trainings = 0.0, asked.trainings()
    for (
        name,
        seconds,
    ) in times.of_a_step().items():  # finished ones have none
        minutes = trainings[name].steps * seconds / 60
        total += minutes
        print(f"{name}: {minutes:.1f} min for {trainings[name].steps} steps")
    print(f"a seed: {total:.0f} min, and the validations of each network")


def main() -> None:
    """Run the zoo and print its tables; see the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", help="how many, or which: 0,1,2; default: those of the zoo")
    parser.add_argument("--out", type=Path, default=Path("runs/evidence"))
    parser.add_argument("--zoo", default="evidence", help="a zoo, or a YAML file of one")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=VALUE", dest="changes")
    parser.add_argument("--workers", type=int, default=1, help="trainings at a time, on Ray")
    parser.add_argument("--only-times", action="store_true")
    given = parser.parse_args()
    if given.only_times:
        print_times(given)
        return
    began = time.perf_counter()
    result = zoo(
        given.zoo,
        given.out,
        overrides=given.changes,
        seeds=given.seeds,
        workers=given.workers,
        progress=Times(),
    )
    minutes = (time.perf_counter() - began) / 60
    for table in tables(result):
        print(markdown(table))
    print(f"\n{result.verdict}\n\nreport: {result.page}")
    print(f"this call: {minutes:.1f} min for what earlier calls had not finished")


if __name__ == "__main__":
    main()

"""DeGMix and DeMTG against single-task networks of one backbone, with seeds and shifted scenes.

    python tests/campaigns/evidence.py --steps 2000 --seeds 3 --out runs/evidence
    python tests/campaigns/evidence.py --steps 2000 --seeds 3 --out runs/evidence --workers 2

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

    def of_a_seed(self, steps: int) -> dict[str, float]:
        """Return the seconds that `steps` steps take, by training, without validations."""
        return {name: steps * self.seconds[name] / count for name, count in self.steps.items()}


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


def main() -> None:
    """Run the zoo and print its tables; see the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seeds", default="3", help="how many, or which: 0,1,2")
    parser.add_argument("--out", type=Path, default=Path("runs/evidence"))
    parser.add_argument("--zoo", default="evidence", help="a zoo, or a YAML file of one")
    parser.add_argument("--set", action="append", default=[], metavar="A.B=VALUE", dest="changes")
    parser.add_argument("--workers", type=int, default=1, help="trainings at a time, on Ray")
    parser.add_argument("--only-times", action="store_true")
    given = parser.parse_args()
    steps, seeds, out, every = given.steps, given.seeds, given.out, max(1, given.steps // 10)
    if given.only_times:
        steps, seeds, out, every = SHORT, "1", given.out / "times", SHORT
    changes = [f"train.steps={steps}", f"train.val_every={every}", *given.changes]
    if given.only_times:
        changes += ["train.data.train=64", "train.data.val=16", "also=[]"]
    times, began = Times(), time.perf_counter()
    result = zoo(
        given.zoo, out, overrides=changes, seeds=seeds, workers=given.workers, progress=times
    )
    minutes = (time.perf_counter() - began) / 60
    if given.only_times:
        whole = times.of_a_seed(given.steps)
        for name, seconds in whole.items():
            print(f"{name}: {seconds / 60:.1f} min for {given.steps} steps")
        print(f"a seed: {sum(whole.values()) / 60:.0f} min, and ten validations of each network")
        return
    for table in tables(result):
        print(markdown(table))
    print(f"\n{result.verdict}\n\nreport: {result.page}")
    print(f"this call: {minutes:.1f} min for what earlier calls had not finished")


if __name__ == "__main__":
    main()

"""Passes on other people's graphs: `make corpus`, or `python tests/corpus/corpus.py [NAME ...]`.

Every network is exported, rewritten by the product's exact passes, and run by ONNX Runtime before
and after. Then it is quantized, and built for TensorRT-RTX. Each case runs in a process of its own
with a limit of time and memory, so that the crash of one is a row of the table and not the end.
Finished rows are kept in `build/corpus`, and a run that was stopped resumes.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import itertools
import json
import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from measure import LIMIT, Row, measure
from networks import NETWORKS

FOLDER = Path(__file__).parents[2] / "build" / "corpus"
CONTEXT = multiprocessing.get_context("fork")
SECONDS = 420
MEMORY_BYTES = 14 << 30
OPSETS = {"torchscript": (11, 13, 16, 17), "unfolded": (12, 14, 15, 17), "dynamo": (18, 19, 20, 21)}
"""The opsets that take turns, by exporter; `unfolded` is TorchScript's graph as it was traced."""
EVERY_UNFOLDED = 4
"""One network in four is exported unfolded too."""


@dataclass(frozen=True)
class Case:
    """One network from one exporter.

    Attributes:
        network: Key of `networks.NETWORKS`.
        exporter: Key of `OPSETS`.
        opset: What the file is written for.
    """

    network: str
    exporter: str
    opset: int

    @property
    def stem(self) -> str:
        """What the files of this case are called."""
        return f"{self.network}.{self.exporter}.{self.opset}"


def cases(names: Sequence[str] = ()) -> list[Case]:
    """Every network from both exporters, each at one opset of those that take turns."""
    made = []
    for index, name in enumerate(NETWORKS):
        if names and name not in names:
            continue
        for exporter, opsets in OPSETS.items():
            if exporter != "unfolded" or index % EVERY_UNFOLDED == 0:
                turn = index // EVERY_UNFOLDED if exporter == "unfolded" else index
                fitting = [opset for opset in opsets if opset >= NETWORKS[name].oldest_opset]
                made.append(Case(name, exporter, fitting[turn % len(fitting)]))
    return made


def run_case(case: Case, folder: Path, *, quick: bool) -> Row:
    """The row of one case, measured in a child process that has the parent's imports."""
    out = folder / "rows" / f"{case.stem}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.unlink(missing_ok=True)
    start = time.monotonic()
    child = CONTEXT.Process(target=_in_child, args=(case, folder, quick))
    child.start()
    child.join(SECONDS)
    end = "" if child.exitcode == 0 else f"the process ended with {child.exitcode}"
    if child.exitcode is None:
        os.killpg(child.pid, signal.SIGKILL)
        child.join()
        end = f"over {SECONDS} s"
    row = Row(**json.loads(out.read_text())) if out.exists() else Row(**asdict(case))
    if end:
        log = out.with_suffix(".log").read_text(errors="replace")
        last = (log.strip().splitlines() or [""])[-1][:200]
        row.problems.append(f"{row.stage}: {end}; {last}")
    row.seconds = round(time.monotonic() - start, 1)
    out.write_text(json.dumps(asdict(row), indent=1))
    return row


def _in_child(case: Case, folder: Path, quick: bool) -> None:
    """Measure one case in this process, and write its row after every stage."""
    os.setsid()  # so that a builder's process ends with this one
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    out = folder / "rows" / f"{case.stem}.json"
    sys.stdout = sys.stderr = out.with_suffix(".log").open("w", buffering=1)
    for stream in (1, 2):  # libraries write there past Python
        os.dup2(sys.stdout.fileno(), stream)
    onnx_file = folder / "onnx" / f"{case.stem}.onnx"
    onnx_file.parent.mkdir(parents=True, exist_ok=True)
    row = Row(**asdict(case))
    for _ in itertools.chain(measure(row, onnx_file, quick=quick), [None]):
        out.write_text(json.dumps(asdict(row), indent=1))


def _import() -> None:
    """Import once what every child needs."""
    for name in ("onnxscript", "onnxslim", "timm", "torch.onnx", "transformers"):
        if importlib.util.find_spec(name) is not None:
            importlib.import_module(name)


TITLES = ("architecture", "exporter", "opset", "rewrites", "nodes", "MMAC", "difference")
TITLES += ("INT8", "TensorRT-RTX")


def cells(row: Row) -> tuple[str, ...]:
    """The row as the table shows it."""
    passes = {**row.rewrites, **{name: form["rewrites"] for name, form in row.forms.items()}}
    changed = ", ".join(f"{name} {count}" for name, count in passes.items() if count)
    macs = ["?" if m is None else f"{m / 1e6:.1f}" for m in (row.macs_before, row.macs_after)]
    gap = "" if row.worst is None else f"{row.worst:.0e}"
    if row.worst is not None and row.worst > LIMIT:
        gap = f"**{gap}**"
    nodes = f"{row.nodes_before} -> {row.nodes_after}" if row.nodes_after else "-"
    if row.problems and not row.nodes_after:
        changed = "**" + "; ".join(row.problems) + "**"
    return (
        *(row.network, row.exporter, str(row.opset), changed or "none", nodes),
        *(" -> ".join(macs) if row.nodes_after else "-", gap, row.int8, row.tensorrt),
    )


def table(rows: Iterable[Row]) -> str:
    """The rows as Markdown."""
    lines = [TITLES, tuple("---" for _ in TITLES), *map(cells, rows)]
    return "\n".join("| " + " | ".join(c.replace("|", "/") for c in line) + " |" for line in lines)


def summary(rows: Sequence[Row]) -> str:
    """How many cases were right, and every one that was not."""
    exact = [row for row in rows if row.nodes_after and not row.problems]
    lines = [
        f"{len(rows)} graphs of {len({row.network for row in rows})} architectures; "
        f"{len(exact)} rewritten with every difference at most {LIMIT:g}; "
        f"INT8 built for {sum(row.int8.startswith('yes') for row in rows)}, "
        f"TensorRT-RTX for {sum(row.tensorrt.startswith('yes') for row in rows)}."
    ]
    causes = {
        "export": "Refused by the exporter",
        "reference": "Exported as a file that ONNX Runtime refuses",
    }
    for stage, cause in causes.items():
        count = sum(any(p.startswith(f"{stage}:") for p in row.problems) for row in rows)
        lines[0] += f" {cause}: {count}."
    lines += [
        f"- {row.network}, {row.exporter}, opset {row.opset}: {problem}"
        for row in rows
        for problem in row.problems
    ]
    return "\n".join(lines)


def others(rows: Sequence[Row]) -> str:
    """What other optimizers make of the same files, over the files that all of them were run on."""
    compared = [row for row in rows if row.others]
    lines = [
        "| optimizer | files | right | nodes before | nodes after | seconds | wrong or refused |"
    ]
    lines += ["| --- " * 7 + "|"]
    for name in compared[0].others if compared else ():
        found = [row.others[name] for row in compared]
        right = [x["difference"] is not None and x["difference"] <= LIMIT for x in found]
        wrong = [
            f"{row.network} ({row.exporter}, {row.opset}): {x['problem'] or x['difference']}"
            for row, x, good in zip(compared, found, right, strict=True)
            if not good
        ]
        before = sum(row.nodes_before for row, good in zip(compared, right, strict=True) if good)
        after = sum(x["nodes"] for x, good in zip(found, right, strict=True) if good)
        seconds = sum(x["seconds"] for x in found)
        values = (name, len(found), sum(right), before, after, f"{seconds:.0f}", "; ".join(wrong))
        lines.append("| " + " | ".join(map(str, values)) + " |")
    return "\n".join(lines)


def main() -> int:
    """Run the cases that are asked for and have no row yet, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", help="networks; none is all")
    parser.add_argument("--fresh", action="store_true", help="measure finished rows again")
    parser.add_argument("--failed", action="store_true", help="measure rows with problems again")
    parser.add_argument("--quick", action="store_true", help="passes alone: no INT8, no engines")
    parser.add_argument("--folder", type=Path, default=FOLDER)
    asked = parser.parse_args()
    _import()
    rows = []
    chosen = cases(asked.names)
    for index, case in enumerate(chosen):
        kept = asked.folder / "rows" / f"{case.stem}.json"
        row = Row(**json.loads(kept.read_text())) if kept.exists() else None
        if row is None or not row.seconds or asked.fresh or (asked.failed and row.problems):
            row = run_case(case, asked.folder, quick=asked.quick)
            print(f"[{index + 1}/{len(chosen)}] {' | '.join(cells(row))}", flush=True)
            for problem in row.problems:
                print(f"    {problem}", flush=True)
        rows.append(row)
    text = f"{summary(rows)}\n\n{table(rows)}\n\n{others(rows)}\n"
    (asked.folder / "corpus.md").write_text(text)
    values = json.dumps([asdict(row) for row in rows], indent=1)
    (asked.folder / "corpus.json").write_text(values)
    print(f"\n{text}\n{asked.folder}/corpus.md")
    return int(any(row.problems for row in rows))


if __name__ == "__main__":
    sys.exit(main())

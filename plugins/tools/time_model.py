"""A model of time: what kernels and whole networks take on a card, predicted from counts.

    python plugins/tools/time_model.py LIBRARY... [--measured results.json] [--readme]
    python plugins/tools/time_model.py --network model.onnx...

`sass.py` counts what a turn of a loop does, in libraries that are built for the architectures of
the cards, and `bounds.py` makes bounds of it. No kernel is as fast as its bound, which is therefore
divided by an efficiency, and filling and draining a card takes a constant time: both are fitted for
each operator to what `bench/gpu.py` measured on an H100. A network takes the sum of its layers at
the efficiency of cuDNN's 3x3 convolutions. All times are
predictions, except those in columns of measurements.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

PLUGINS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(PLUGINS / "kernels"), str(PLUGINS / "tools"), str(PLUGINS.parent)]

import degmix_kernels as native  # noqa: E402
import sass  # noqa: E402
from bounds import (  # noqa: E402
    DENSE,
    Fit,
    Prediction,
    Row,
    Times,
    dense_rows,
    device_of,
    fit,
    network_ms,
    predict,
)
from cards import CARDS  # noqa: E402
from work import CASES, Case  # noqa: E402

from degmix_edge.graph.cost import costs, total_macs  # noqa: E402
from degmix_edge.graph.model import read_model  # noqa: E402
from degmix_edge.graph.settle import settle  # noqa: E402

MEASURED = PLUGINS / "bench" / "h100.json"
MEASURED_CARD = "H100"
README = PLUGINS / "README.md"
BEGIN, END = "<!-- time model -->\n", "<!-- end of time model -->\n"
Predictions = dict[tuple[str, int], Prediction]
"""By the title of a card and the place of a case."""


def measured(paths: Iterable[Path]) -> Times:
    """Return the medians of cold microseconds by case and contestant, from the bench's files."""
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for path in paths:
        for row in json.loads(path.read_text())["rows"]:
            for contestant, cold in row["cold_us"].items():
                times[row["case"], contestant].append(cold)
    return {key: statistics.median(values) for key, values in times.items()}


def fits(rows: Sequence[Row]) -> dict[str, Fit]:
    """Fit each operator; one without a measurement gets the lowest efficiency of the others."""
    measured_ones = {row.operator for row in rows}
    found = {name: fit([r for r in rows if r.operator == name]) for name in measured_ones}
    lowest = min(found.values(), key=lambda one: one.efficiency)
    guess = dataclasses.replace(lowest, rows=0)
    return {case.operator: found.get(case.operator, guess) for case in CASES}


def predictions(libraries: Sequence[Path]) -> Predictions:
    """Bound every case on every card whose architecture is among the libraries."""
    kernels = [kernel for path in libraries for kernel in sass.kernels(path)]
    counted = {(kernel.architecture.rstrip("a"), kernel.name): kernel for kernel in kernels}
    architectures = {architecture for architecture, _ in counted}
    launchers = native.Kernels(libraries[0])
    found = {}
    for card in CARDS:
        architecture = f"sm_{card.architecture}"
        for place, case in enumerate(CASES if architecture in architectures else ()):
            work = case.work(launchers, card)
            if (architecture, work.kernel) not in counted:
                raise SystemExit(
                    f"no {work.kernel} for {architecture} in the libraries, which the "
                    f"launcher takes for {case.name}: build both from the same sources"
                )
            found[card.title, place] = predict(counted[architecture, work.kernel], work, card)
    return found


def rows_of(found: Predictions, times: Times, title: str) -> list[Row]:
    """Return the cases that were measured on a card, as rows for a calibration."""
    rows = []
    for place, case in enumerate(CASES):
        time = times.get((case.name, case.contestant))
        one = found.get((title, place))
        if time is not None and one is not None:
            rows.append(Row(case.operator, one.bounds[one.limit], one.start_us, time))
    return rows


def kernel_table(found: Predictions, fitted: dict[str, Fit], times: Times) -> str:
    """Return the bounds on an H100 beside what was measured there, as markdown."""
    names = ["issue", "memory units", "special units", "tensor cores", "bytes"]
    head = ["case", *names, "warps", "**predicted**", "measured", "error"]
    lines = [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for place, case in enumerate(CASES):
        one = found[MEASURED_CARD, place]
        cells = [f"**{x:.1f}**" if n == one.limit else f"{x:.1f}" for n, x in one.bounds.items()]
        predicted = one.microseconds(fitted[case.operator])
        time = times.get((case.name, case.contestant))
        last = ["-", "-"] if time is None else [f"{time:.1f}", f"{predicted / time - 1:+.0%}"]
        cells = [label(case), *cells, str(one.warps), f"{predicted:.1f}", *last]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def card_table(found: Predictions, fitted: dict[str, Fit]) -> str:
    """Return the predicted microseconds of each case on each card, as markdown."""
    titles = [card.title for card in CARDS if (card.title, 0) in found]
    lines = [f"| predicted, us | {' | '.join(titles)} |", "|---" * (1 + len(titles)) + "|"]
    for place, case in enumerate(CASES):
        ours = [found[title, place] for title in titles]
        cells = [f"{x.microseconds(fitted[case.operator]):.0f}, {x.limit}" for x in ours]
        lines.append(f"| {label(case)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def label(case: Case) -> str:
    """Return the words for a case in a table."""
    return f"`{case.contestant}`, {case.name}"


def fit_table(fitted: dict[str, Fit]) -> str:
    """Return the calibration of each operator, as markdown."""
    head = "| fit | efficiency | filling and draining, us | rows | largest error | held out |"
    lines = [head, "|---" * 6 + "|"]
    for operator, one in fitted.items():
        errors = [f"{one.error:.0%}", f"{one.error_held_out:.0%}"] if one.rows else ["-", "-"]
        cells = [operator, f"{one.efficiency:.2f}", f"{one.extra_us:.1f}", str(one.rows), *errors]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def network_table(paths: Iterable[Path], efficiency: float) -> str:
    """Return the predicted milliseconds of networks on each card, as markdown."""
    titles = [card.title for card in CARDS]
    lines = [f"| predicted, ms | GMAC | precision | {' | '.join(titles)} |"]
    lines.append("|---" * (3 + len(titles)) + "|")
    for path in paths:
        model = read_model(path)
        if problem := settle(model):
            raise SystemExit(f"{path}: {problem}")
        layers = costs(model)
        for precision in ("fp16", "int8"):
            times = [network_ms(layers, device_of(c), precision, efficiency) for c in CARDS]
            cells = [path.stem, f"{total_macs(layers) / 1e9:.1f}", precision]
            lines.append(f"| {' | '.join([*cells, *(f'{ms:.1f}' for ms in times)])} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Print the tables of kernels or of networks; `--readme` rewrites those of the README."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library", type=Path, nargs="*", help="Kernels for one architecture.")
    parser.add_argument(
        "--measured", type=Path, nargs="+", default=[MEASURED], help="Of the bench."
    )
    parser.add_argument("--network", type=Path, nargs="+", default=[], help="Float ONNX files.")
    parser.add_argument("--readme", action="store_true", help="Rewrite plugins/README.md.")
    options = parser.parse_args()
    if not options.library and not options.network:
        parser.error("give a library of kernels, or --network with an ONNX file")
    times = measured(options.measured)
    dense = fit(dense_rows(times))
    parts = []
    if options.library:
        found = predictions(options.library)
        if (MEASURED_CARD, 0) not in found:
            raise SystemExit("no kernels for sm_90 in the libraries: the fit needs the card's own")
        fitted = fits(rows_of(found, times, MEASURED_CARD))
        parts += [kernel_table(found, fitted, times), card_table(found, fitted)]
        parts.append(fit_table({**fitted, DENSE: dense}))
    if options.network:
        parts.append(network_table(options.network, dense.efficiency))
    text = "\n".join(parts)
    print(text)
    if options.readme:
        head, rest = README.read_text().split(BEGIN)
        README.write_text(head + BEGIN + text + END + rest.split(END)[1])


if __name__ == "__main__":
    main()

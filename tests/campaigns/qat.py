"""What INT8 costs each task by each way to it, on held-out synthetic scenes.

    python tests/campaigns/qat.py degmix_tiny runs/qat --steps 200 --scenes 100
    python tests/campaigns/qat.py degmix_lite0 runs/qat --data synthetic_varied --budget 1% \\
        --keep-float NODE --steps 100 --set data.train=800 --set data.val=48

It builds the INT8 bundle of a checkpoint, fine-tunes the checkpoint for that bundle's recipe, and
builds the result. With `--keep-float` and with `--budget` it builds the checkpoint in those ways
too. The bundles' engines run on the CPU. What is in the folder already is not done again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from degmix_edge import metrics
from degmix_edge.bundle.contents import Bundle, open_bundle
from degmix_edge.workflows.build import build
from degmix_edge.workflows.compare import compare
from degmix_edge.workflows.comparison_counts import TaskResult
from degmix_edge.workflows.qat import train_quantized

CALIBRATED, TRIED = 64, 48
"""Training scenes for the ranges, and validation scenes for the budget."""
NOTICEABLE = 0.5
"""Percent that a task has to lose before it counts."""


def _bundle(network: str, path: Path, data: str, **options: Any) -> Bundle:
    if not path.exists():
        calibration = f"{data}:{CALIBRATED}"
        build(network, path, precision="int8", calibration=calibration, **options)
    return open_bundle(path)


def run(given: argparse.Namespace) -> None:
    """Build, train, build, and print the table."""
    checkpoint, out, data = given.checkpoint, given.out, given.data
    out.mkdir(parents=True, exist_ok=True)
    bundles = {"PTQ": _bundle(checkpoint, out / "ptq.degmix", data)}
    if given.keep_float:
        keep = tuple(given.keep_float)
        bundles["kept float"] = _bundle(checkpoint, out / "kept.degmix", data, keep_float=keep)
    if given.budget:
        tried = {"budget": given.budget, "examples": f"{data}:{TRIED}"}
        bundles[f"budget {given.budget}"] = _bundle(
            checkpoint, out / "budget.degmix", data, **tried
        )
    best = out / "run" / "best.safetensors"
    if not best.exists():
        overrides = [f"steps={given.steps}", f"val_every={max(1, given.steps // 4)}"]
        recipe = out / "ptq.degmix" / "recipe.yaml"
        train_quantized(recipe, checkpoint, out / "run", overrides=[*overrides, *given.changes])
    bundles["QAT"] = _bundle(str(best), out / "qat.degmix", data)
    networks = dict.fromkeys(bundles, checkpoint) | {"QAT": str(best)}
    scenes = f"{data}:{given.scenes}"
    compared = {
        name: compare(bundle, networks[name], data=scenes).tasks for name, bundle in bundles.items()
    }
    print(f"\n{checkpoint}, {scenes}, {given.steps} steps\n")
    lost = " | ".join(f"{name} loses" for name in bundles)
    print(f"| task | metric | float | float of QAT | {lost} | QAT recovers |")
    print("|---" * (5 + len(bundles)) + "|")
    for task in compared["PTQ"]:
        print(_row({name: found[task] for name, found in compared.items()}))


def _row(found: dict[str, TaskResult]) -> str:
    """One task: the float network, and what each bundle loses against it."""
    ptq, qat = found["PTQ"], found["QAT"]
    better = 1 if metrics.find(ptq.metric).higher_is_better else -1
    start = float(ptq.reference or 0)
    loses = {
        name: 100 * better * (start - float(f.value or 0)) / start for name, f in found.items()
    }
    noticed = loses["PTQ"] > NOTICEABLE
    share = f"{100 * (1 - loses['QAT'] / loses['PTQ']):.0f} %" if noticed else "-"
    cells = [ptq.task, f"{ptq.metric} [{ptq.unit}]", f"{start:.4g}", f"{qat.reference:.4g}"]
    return f"| {' | '.join([*cells, *(f'{loss:+.2f} %' for loss in loses.values()), share])} |"


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint")
    parser.add_argument("out", type=Path)
    parser.add_argument("--data", default="synthetic")
    parser.add_argument("--budget")
    parser.add_argument("--keep-float", action="append", default=[])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--set", dest="changes", action="append", default=[])
    run(parser.parse_args())


if __name__ == "__main__":
    main()

"""What quantization costs each task, after training and trained for, on held-out synthetic scenes.

    python tests/campaigns/qat.py degmix_tiny runs/qat --steps 200 --scenes 100

It builds the INT8 bundle of a checkpoint, fine-tunes the checkpoint for that bundle's recipe, and
builds the result. Both bundles run on the CPU, and model.onnx runs as other builders compute it.
What is in the folder already is not done again.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from degmix_edge import metrics
from degmix_edge.bundle.contents import Bundle, open_bundle
from degmix_edge.workflows.build import build
from degmix_edge.workflows.compare import compare_engines
from degmix_edge.workflows.comparison_counts import TaskResult
from degmix_edge.workflows.qat import train_quantized

CALIBRATION = "synthetic:64"
BACKENDS = ("onnxruntime", "onnx_reference")
NOTICEABLE = 0.5
"""Percent that a task has to lose before it counts."""


def _bundle(network: str, path: Path) -> Bundle:
    if not path.exists():
        build(network, path, precision="int8", calibration=CALIBRATION)
    return open_bundle(path)


def run(checkpoint: str, out: Path, steps: int, scenes: int, changes: list[str]) -> None:
    """Build, train, build, and print one table for each backend."""
    out.mkdir(parents=True, exist_ok=True)
    ptq = _bundle(checkpoint, out / "ptq.degmix")
    best = out / "run" / "best.safetensors"
    if not best.exists():
        overrides = [f"steps={steps}", f"val_every={max(1, steps // 4)}", *changes]
        recipe = out / "ptq.degmix" / "recipe.yaml"
        train_quantized(recipe, checkpoint, out / "run", overrides=overrides)
    qat = _bundle(str(best), out / "qat.degmix")
    data = f"synthetic:{scenes}"
    before = compare_engines(ptq, checkpoint, data=data, backends=BACKENDS)
    after = compare_engines(qat, str(best), data=data, backends=BACKENDS)
    for backend in BACKENDS:
        print(f"\n{checkpoint} on {backend}, {scenes} scenes, {steps} steps\n")
        print("| task | metric | float | PTQ | QAT | PTQ loses | QAT loses | recovered |")
        print("|---|---|---|---|---|---|---|---|")
        for task, found in before[backend].tasks.items():
            better = 1 if metrics.find(found.metric).higher_is_better else -1
            print(_row(found, after[backend].tasks[task], better))


def _row(ptq: TaskResult, qat: TaskResult, better: int) -> str:
    start, before, after = (float(x or 0) for x in (ptq.reference, ptq.value, qat.value))
    loses = [100 * better * (start - value) / start for value in (before, after)]
    share = f"{100 * (1 - loses[1] / loses[0]):.0f} %" if loses[0] > NOTICEABLE else "-"
    cells = [ptq.task, f"{ptq.metric} [{ptq.unit}]"]
    cells += [f"{number:.4g}" for number in (start, before, after)]
    cells += [f"{loss:+.2f} %" for loss in loses]
    return f"| {' | '.join([*cells, share])} |"


def main() -> None:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("checkpoint")
    parser.add_argument("out", type=Path)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--scenes", type=int, default=100)
    parser.add_argument("--set", dest="changes", action="append", default=[])
    given = parser.parse_args()
    run(given.checkpoint, given.out, given.steps, given.scenes, given.changes)


if __name__ == "__main__":
    main()

"""INT8 within an accuracy budget per task, with progress that a program reads."""

import degmix_edge
from degmix_edge.errors import AccuracyError
from degmix_edge.progress import Event


def show(event: Event) -> None:
    """Print what is finished, and every tenth of what can be counted."""
    if event.kind == "finished" and event.detail:
        print(f"{event.name}: {event.detail} ({event.seconds:.1f} s)")


try:
    found = degmix_edge.quantize(
        "degmix_tiny",
        "budget.onnx",
        tasks=("semseg", "depth"),
        calibration="synthetic:8",
        budget="semseg=-2pt,depth=+3%",
        examples="synthetic:2",
        device="orin-nano",
        force=True,
        progress=show,
    )
except AccuracyError as error:
    raise SystemExit(f"no recipe fits: {error}") from None

result = found.budget.values()
print(
    f"{result['int8_macs_percent']:.0f} % of the multiply-adds in INT8; {result['worst']} decides"
)
for task, row in result["tasks"].items():
    print(f"{task}: budget {row['budget']}, {row['used']:.0%} of it used")

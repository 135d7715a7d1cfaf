"""`export onnx --report`: what every exact fold and every graph pass gives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx

from degmix_edge.graph.cost import by_part, costs
from degmix_edge.graph.model import to_graph, to_model
from degmix_edge.ort import cpu_session
from degmix_edge.passes import pipeline
from degmix_edge.passes._base import Pass, apply
from degmix_edge.passes.forms import metadata_for
from degmix_edge.passes.lower_moe import mixtures
from degmix_edge.progress import counting
from degmix_edge.report.text import Readable, TextTable

if TYPE_CHECKING:
    from degmix_training.checkpoint import Checkpoint

BACKBONE = "backbone"
COLUMNS = (
    *("step", "where", "GMAC", "saves", "GMAC head", "nodes", "MB", "rewrites"),
    "difference",
)
Logits = dict[str, np.ndarray]


@dataclass(frozen=True)
class Step:
    """The graph after one step.

    Attributes:
        kind: `export`, `fold` (in the model, before export), `pass` (in the graph), or `form`: not
            in the graph that is written, but what a precision or a backend makes of it.
        rewrites: How often a pass changed the graph.
        head_macs: Multiply-adds of everything behind the backbone.
        difference: Largest difference of a logit from the plain export's, as a fraction of that
            task's largest logit; the worst task's.
    """

    name: str
    kind: str
    macs: int
    head_macs: int
    nodes: int
    size_bytes: int
    rewrites: int
    difference: float


@dataclass(frozen=True)
class ExportReport(Readable):
    """What the exact folds and passes give, against the plain export.

    Attributes:
        steps: The graph after each step; the last one is the graph that is written.
        forms: What a precision or a backend would make of it.
        macs_of: Multiply-adds of the written graph, by part of the network.
    """

    steps: tuple[Step, ...]
    forms: tuple[Step, ...]
    macs_of: dict[str, int]

    def values(self) -> dict[str, Any]:
        """The report as plain values."""
        first, last = self.steps[0], self.steps[-1]
        return {
            "macs_plain": first.macs,
            "macs": last.macs,
            "saved_percent": 100 * (1 - last.macs / first.macs),
            "head_macs_plain": first.head_macs,
            "head_macs": last.head_macs,
            "head_percent_kept": 100 * last.head_macs / max(first.head_macs, 1),
            "max_relative_difference": max(s.difference for s in (*self.steps, *self.forms)),
            "forms": self.forms,
            "macs_of": self.macs_of,
            "steps": self.steps,
        }

    def text(self) -> Iterator[str | TextTable]:
        """Yield every step and the gain."""
        yield TextTable("from the plain export", COLUMNS, self.rows())
        yield self.summary()
        yield "difference: of logits, relative to each task's largest; the worst task's"

    def rows(self) -> list[tuple[str, ...]]:
        """A row of `COLUMNS` for each step and form."""
        first = self.steps[0]
        rows: list[tuple[str, ...]] = []
        before = first.macs
        for step in (*self.steps, *self.forms):
            share = 100 * (before - step.macs) / first.macs
            rows.append(
                (
                    step.name,
                    step.kind,
                    f"{step.macs / 1e9:.3f}",
                    f"{-share:+.1f} %" if step.macs != before else "",
                    f"{step.head_macs / 1e9:.3f}" if step.head_macs else "",
                    str(step.nodes),
                    f"{step.size_bytes / 1e6:.1f}",
                    str(step.rewrites) if step.kind in ("pass", "form") else "",
                    f"{step.difference:.1e}",
                )
            )
            before = step.macs if step in self.steps else self.steps[-1].macs
        return rows

    def summary(self) -> str:
        """The gain in one line."""
        first, last = self.steps[0], self.steps[-1]
        change = 100 * (1 - last.macs / first.macs)
        return (
            f"{first.macs / 1e9:.2f} -> {last.macs / 1e9:.2f} GMAC, "
            f"{abs(change):.1f} % {'fewer' if change >= 0 else 'more'}; "
            f"head {first.head_macs / 1e9:.2f} -> {last.head_macs / 1e9:.2f}, "
            f"{100 * last.head_macs / max(first.head_macs, 1):.1f} % kept"
        )


def report_steps(loaded: Checkpoint, keep: Sequence[str]) -> tuple[onnx.ModelProto, ExportReport]:
    """Export plainly and fold by fold, then run the passes one by one; the last graph, and steps.

    Every graph is run on one random image by ONNX Runtime and compared with the plain export.

    Args:
        loaded: The network.
        keep: Tasks to keep.
    """
    from degmix_training.export import export_checkpoint

    folds: tuple[str, ...] = tuple(loaded.network.folds)
    passes, forms = pipeline.simplify(keep), pipeline.other_forms()
    shape = (1, 3, loaded.card.height, loaded.card.width)
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    steps: list[Step] = []
    with counting("export and run", 1 + len(folds) + len(passes) + len(forms)) as advance:
        model = export_checkpoint(loaded, ())
        plain = _run(model, image)
        steps.append(_step("plain export", "export", model, plain, plain))
        advance(1)
        for count in range(1, len(folds) + 1):
            model = export_checkpoint(loaded, folds[:count])
            steps.append(_step(folds[count - 1], "fold", model, _run(model, image), plain))
            advance(1)
        for step in passes:
            model, rewrites = _applied(step, model, keep)
            logits = _run(model, image)
            steps.append(_step(step.name, "pass", model, logits, plain, rewrites=rewrites))
            advance(1)
        found = []
        for step in forms:
            # Gathered experts have shapes of the data: their work is known before.
            gathered = step.name == "lower_moe"
            saved = sum(m.saved_macs for m in mixtures(to_graph(model))) if gathered else 0
            other, rewrites = _applied(step, model, keep)
            if rewrites:
                known = steps[-1].macs - saved if saved else None
                logits = _run(other, image)
                found.append(
                    _step(
                        step.name, "form", other, logits, plain, rewrites=rewrites, known_macs=known
                    )
                )
            advance(1)
    return model, ExportReport(tuple(steps), tuple(found), by_part(costs(model)))


def _applied(
    step: Pass, model: onnx.ModelProto, keep: Sequence[str]
) -> tuple[onnx.ModelProto, int]:
    graph = to_graph(model)
    rewrites = apply(graph, [step])[0].rewrites
    return to_model(graph, metadata_for(model, keep)), rewrites


def _run(model: onnx.ModelProto, image: np.ndarray) -> Logits:
    # As exported: ONNX Runtime's own rewrites would hide what ours change.
    session = cpu_session(model.SerializeToString(), optimization="basic")
    names = [value.name for value in session.get_outputs()]
    inputs = {session.get_inputs()[0].name: image}
    return dict(zip(names, session.run(None, inputs), strict=True))


def _step(
    name: str,
    kind: str,
    model: onnx.ModelProto,
    logits: Logits,
    plain: Logits,
    *,
    rewrites: int = 0,
    known_macs: int | None = None,
) -> Step:
    parts = by_part(costs(model)) if known_macs is None else {}
    macs = sum(parts.values()) if known_macs is None else known_macs
    gaps = [
        float(np.abs(value - plain[task]).max() / (np.abs(plain[task]).max() or 1))
        for task, value in logits.items()
    ]
    return Step(
        name,
        kind,
        macs,
        macs - parts.get(BACKBONE, 0) if parts else 0,
        len(model.graph.node),
        model.ByteSize(),
        rewrites,
        max(gaps),
    )

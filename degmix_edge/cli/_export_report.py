"""`export onnx --report`: what every exact fold and every graph pass gives."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from degmix_edge.cli._output import Output

if TYPE_CHECKING:
    import onnx
    from degmix_training.checkpoint import Checkpoint

BACKBONE = "backbone"
Logits = dict[str, np.ndarray]


@dataclass(frozen=True)
class Step:
    """The graph after one step.

    Attributes:
        kind: `export`, `fold` (in the model, before export), `pass` (in the graph), or `form`: not
            in the graph that is written, but what a precision or a backend makes of it.
        rewrites: Of a pass.
        head_macs: Of everything behind the backbone.
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


def report(
    output: Output, loaded: Checkpoint, keep: Sequence[str]
) -> tuple[onnx.ModelProto, dict[str, Any]]:
    """Export plainly and fold by fold, then run the passes one by one; the last graph, and values.

    Every graph is run on one random image by ONNX Runtime and compared with the plain export.
    """
    from degmix_training.export import export

    from degmix_edge.build import props
    from degmix_edge.graph_cost import by_part, costs
    from degmix_edge.passes import pipeline
    from degmix_edge.passes._base import apply, to_graph, to_model
    from degmix_edge.passes.fold_conv_mixture import FoldConvMixture
    from degmix_edge.passes.lower_moe import LowerMoe, mixtures
    from degmix_edge.passes.merge_convs import MergeConvs

    folds: tuple[str, ...] = tuple(loaded.network.folds)
    shape = (1, 3, loaded.card.height, loaded.card.width)
    image = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    steps: list[Step] = []
    passes = pipeline.simplify(keep)
    with output.progress("export and run", 1 + len(folds) + len(passes) + 3) as advance:
        model = export(loaded, ())
        plain = _run(model, image)
        steps.append(_step("plain export", "export", model, plain, plain))
        advance(1)
        for count in range(1, len(folds) + 1):
            model = export(loaded, folds[:count])
            logits = _run(model, image)
            steps.append(_step(folds[count - 1], "fold", model, logits, plain))
            advance(1)
        for step in passes:
            graph = to_graph(model)
            rewrites = apply(graph, [step])[0].rewrites
            model = to_model(graph, props(model, keep))
            logits = _run(model, image)
            steps.append(_step(step.name, "pass", model, logits, plain, rewrites))
            advance(1)
        written = len(steps)
        for step in (FoldConvMixture(), MergeConvs(), LowerMoe(0)):
            graph = to_graph(model)
            # Gathered experts have shapes of the data: their work is known before.
            saved = sum(m.saved_macs for m in mixtures(graph)) if step.name == "lower_moe" else 0
            rewrites = apply(graph, [step])[0].rewrites
            if rewrites:
                other = to_model(graph, props(model, keep))
                logits = _run(other, image)
                known = steps[written - 1].macs - saved if saved else None
                steps.append(_step(step.name, "form", other, logits, plain, rewrites, known))
            advance(1)
    _show(output, steps, written)
    first, last = steps[0], steps[written - 1]
    return model, {
        "macs_plain": first.macs,
        "macs": last.macs,
        "saved_percent": 100 * (1 - last.macs / first.macs),
        "head_macs_plain": first.head_macs,
        "head_macs": last.head_macs,
        "head_percent_kept": 100 * last.head_macs / max(first.head_macs, 1),
        "max_relative_difference": max(step.difference for step in steps),
        "forms": steps[written:],
        "macs_of": by_part(costs(model)),
        "steps": steps[:written],
    }


def _run(model: onnx.ModelProto, image: np.ndarray) -> Logits:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    # As exported: ONNX Runtime's own rewrites would hide what ours change.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    names = [value.name for value in session.get_outputs()]
    inputs = {session.get_inputs()[0].name: image}
    return dict(zip(names, session.run(None, inputs), strict=True))


def _step(
    name: str,
    kind: str,
    model: onnx.ModelProto,
    logits: Logits,
    plain: Logits,
    rewrites: int = 0,
    known_macs: int | None = None,
) -> Step:
    from degmix_edge.graph_cost import by_part, costs

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


def _show(output: Output, steps: Sequence[Step], written: int) -> None:
    first = steps[0]
    rows = []
    before = first.macs
    for index, step in enumerate(steps):
        share = 100 * (before - step.macs) / first.macs
        rows.append(
            [
                step.name,
                step.kind,
                f"{step.macs / 1e9:.3f}",
                f"{-share:+.1f} %" if step.macs != before else "",
                f"{step.head_macs / 1e9:.3f}" if step.head_macs else "",
                str(step.nodes),
                f"{step.size_bytes / 1e6:.1f}",
                str(step.rewrites) if step.kind in ("pass", "form") else "",
                f"{step.difference:.1e}",
            ]
        )
        before = step.macs if index < written else steps[written - 1].macs
    columns = ["step", "where", "GMAC", "saves", "GMAC head", "nodes", "MB", "rewrites"]
    output.table("from the plain export", [*columns, "difference"], rows)
    last = steps[written - 1]
    change = 100 * (1 - last.macs / first.macs)
    output.say(
        f"{first.macs / 1e9:.2f} -> {last.macs / 1e9:.2f} GMAC, "
        f"{abs(change):.1f} % {'fewer' if change >= 0 else 'more'}; "
        f"head {first.head_macs / 1e9:.2f} -> {last.head_macs / 1e9:.2f}, "
        f"{100 * last.head_macs / max(first.head_macs, 1):.1f} % kept"
    )
    output.say("difference: of logits, relative to each task's largest; the worst task's")

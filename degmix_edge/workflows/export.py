"""A network as float ONNX: exact folds of the model, then exact graph passes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from degmix_edge import progress
from degmix_edge.files import check_file, write_file
from degmix_edge.progress import Progress, listening, working
from degmix_edge.report.text import Readable, TextTable
from degmix_edge.workflows.export_report import ExportReport, report_steps
from degmix_edge.workflows.models import random_checkpoint
from degmix_edge.workflows.networks import Network, read_checkpoint, read_network, task_names

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Exported(Readable):
    """A float ONNX model: normalised image in, logits named by task out.

    Attributes:
        model: The model.
        report: What every fold and pass gave, where it was asked for.
        path: The file that was written, if any.
    """

    model: onnx.ModelProto
    report: ExportReport | None
    path: Path | None

    @property
    def outputs(self) -> list[str]:
        """Names of the outputs, one a task."""
        return [value.name for value in self.model.graph.output]

    def text(self) -> Iterator[str | TextTable]:
        """Yield the report, if there is one, and what was written."""
        if self.report:
            yield from self.report.text()
        nodes, size = len(self.model.graph.node), self.model.ByteSize() / 1e6
        yield f"{self.path or 'the model'}: {nodes} nodes, {size:.1f} MB"
        yield f"outputs: {', '.join(self.outputs)}"

    def values(self) -> dict[str, Any]:
        """What was exported as plain values."""
        values = {"out": self.path, "nodes": len(self.model.graph.node), "outputs": self.outputs}
        return values | (self.report.values() if self.report else {})


def export(
    network: Network,
    out: str | Path | None = None,
    *,
    tasks: str | Sequence[str] = (),
    size: tuple[int, int] | None = None,
    classes: Mapping[str, Sequence[str]] | None = None,
    report: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> Exported:
    """Export a network as float ONNX with fewer nodes and the same function.

    Args:
        network: What `build` takes. A report needs a checkpoint.
        out: The file to write; None writes nothing.
        tasks: Tasks to keep; none keeps all.
        size: Height and width of a torch module's input.
        classes: Class names by task, of a torch module.
        report: Measure multiply-adds, nodes, bytes and exactness after every step.
        force: Replace a file that is at `out`.
        progress: Called with an `Event` as the export goes on.

    Raises:
        ConfigError: The network has no such task.
        CheckpointError, GraphError: It cannot be read or exported.
        OutputError: `out` exists without `force`, or cannot be written.
    """
    from degmix_edge.passes.forms import simplify_model

    path = None if out is None else Path(out)
    if path is not None:
        check_file(path, force=force)
    asked = task_names(tasks, network)
    steps = None
    with listening(progress):
        _advise(network)
        if report:
            checkpoint = read_checkpoint(network)
            kept = [task for task in checkpoint.tasks if not asked or task in asked]
            _check_tasks(checkpoint, asked)
            model, steps = report_steps(checkpoint, kept)
        else:
            with working("export"):
                read = read_network(network, tasks=asked, size=size, classes=classes)
                kept_spec = read.spec.keep(asked or read.spec.task_names)
                model = simplify_model(read.model, kept_spec.task_names)
    if path is not None:
        write_file(path, model.SerializeToString(), force=force)
    return Exported(model, steps, path)


def export_random(
    model: str,
    out: str | Path,
    *,
    size: tuple[int, int],
    tasks: Sequence[str] = (),
    keep: Sequence[str] = (),
    backbone: str | None = None,
    data: str | None = None,
    overrides: Sequence[str] = (),
    seed: int = 0,
    report: bool = False,
    force: bool = False,
) -> Exported:
    """Export a model with random weights: its size and speed need no training.

    Args:
        model: Entry of `degmix_training.models`.
        out: The file to write.
        size: Height and width of the input in pixels.
        tasks: Its tasks; none is all of the data set's.
        keep: Those of its tasks to export; none is all.
        backbone: Its backbone by timm name.
        data: The data set whose classes it has.
        overrides: Other model settings, as `a=value`.
        seed: Seed of the weights.
        report: As for `export`.
        force: As for `export`.

    Raises:
        DegmixError: As `export`; no such model, or settings that do not fit it.
    """
    check_file(Path(out), force=force)
    checkpoint = random_checkpoint(
        model, size, tasks=tasks, backbone=backbone, data=data, overrides=overrides, seed=seed
    )
    progress.warn(f"--model {model}: random weights, seed {seed}", "export")
    return export(checkpoint, out, tasks=keep, report=report, force=force)


def _advise(network: Any) -> None:
    """Say where a window transformer computes on padding."""
    if not isinstance(network, str | Path) or not str(network).endswith(".onnx"):
        from degmix_training.checkpoint import Checkpoint
        from degmix_training.export import wasteful_size

        if isinstance(network, str | Path | Checkpoint):
            advice = wasteful_size(read_checkpoint(network))
            if advice:
                progress.warn(advice, "export")


def _check_tasks(checkpoint: Any, asked: Sequence[str]) -> None:
    from degmix_training.export import network_spec

    network_spec(checkpoint, asked)

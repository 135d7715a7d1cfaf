"""Drop experts that a network's tasks hardly choose, and measure what that costs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from degmix_edge import progress
from degmix_edge.files import check_file
from degmix_edge.preprocess import Fit, fit_image, normalise
from degmix_edge.progress import Progress, counting, listening
from degmix_edge.report.text import Readable, TextTable
from degmix_edge.workflows.networks import read_checkpoint
from degmix_edge.workflows.sources import check_images, images
from degmix_edge.workflows.sources import samples as labelled_samples

if TYPE_CHECKING:
    from degmix_training.checkpoint import Checkpoint

BELOW = 0.02


@dataclass(frozen=True)
class Pruned(Readable):
    """A checkpoint with fewer experts.

    Attributes:
        path: The file that was written.
        left: Experts left, by mixture.
        shares: By mixture, each expert's share of each task's gates, `(tasks, experts)`.
        scores: Each task's metric `before` and `after`, where labelled images were given.
        metrics: Names of the metrics by task.
        data: The labelled images; None where none were given.
    """

    path: Path
    left: tuple[int, ...]
    shares: dict[str, Any]
    scores: dict[str, dict[str, float]]
    metrics: dict[str, str]
    data: str | None = None

    @property
    def experts(self) -> int:
        """How many experts there were before pruning."""
        return int(sum(share.shape[1] for share in self.shares.values()))

    def text(self) -> Iterator[str | TextTable]:
        """Yield each expert's largest share, and the metrics before and after."""
        rows = [
            [f"block {name}", *(f"{100 * float(x):.1f}" for x in share.amax(0)), str(count)]
            for (name, share), count in zip(self.shares.items(), self.left, strict=True)
        ]
        numbers = map(str, range(len(rows[0]) - 2))
        yield TextTable("experts", ["largest share of a task [%]", *numbers, "left"], rows)
        if self.scores:
            before, after = self.scores["before"], self.scores["after"]
            cells = [[t, self.metrics[t], f"{before[t]:.3f}", f"{after[t]:.3f}"] for t in before]
            yield TextTable(f"on {self.data}", ["task", "metric", "before", "after"], cells)
        yield f"{self.path}: {sum(self.left)} of {self.experts} experts left"

    def values(self) -> dict[str, Any]:
        """What was dropped as plain values."""
        return {
            "checkpoint": self.path,
            "experts_left": self.left,
            "experts": self.experts,
            "shares": {name: share.tolist() for name, share in self.shares.items()},
            "scores": self.scores,
        }


def prune_experts(
    checkpoint: str | Path | Checkpoint,
    out: str | Path,
    *,
    calibration: str,
    below: float = BELOW,
    score: str | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Pruned:
    """Drop experts of an M3ViT checkpoint that its tasks hardly choose on typical images.

    Lossy: give labelled images as `score` to see what it costs.

    Args:
        checkpoint: A short name, a path, or a loaded checkpoint.
        out: The `.safetensors` file to write.
        calibration: Typical images: a folder, `nyud:DIR`, `synthetic:64`.
        below: Experts with a smaller fraction of every task's gates are dropped.
        score: Labelled images, `nyud:DIR` or `synthetic:64`.
        force: Replace a file that is at `out`.
        progress: Called with an `Event` as images are run.

    Raises:
        ConfigError: The checkpoint is no mixture of experts.
        InputError: There are no images.
        OutputError: `out` exists without `force`, or cannot be written.
    """
    import torch
    from degmix_training import checkpoint as checkpoints
    from degmix_training.experts import prune, shares

    check_file(Path(out), force=force)
    check_images(calibration)
    loaded = read_checkpoint(checkpoint)
    fit = Fit(height=loaded.card.height, width=loaded.card.width)
    with listening(progress):
        found = images(calibration, fit, split="train")
        with counting("measure", len(found)) as advance:
            settings = loaded.card.config
            pixels = (
                normalise(fit_image(x.image, fit)[0][None], settings.mean, settings.std)
                for x in found
            )
            measured = shares(loaded, (torch.from_numpy(image) for image in pixels), advance)
        pruned = prune(loaded, measured, below)
        scores = _scores(loaded, pruned, score)
    checkpoints.save(Path(out), pruned.network.state_dict(), pruned.card)
    names = {task: spec.metric for task, spec in loaded.tasks.items()}
    left = pruned.network.config.kept_experts
    return Pruned(Path(out), left, measured, scores, names, score)


def _scores(before: Checkpoint, after: Checkpoint, data: str | None) -> dict[str, dict[str, float]]:
    if data is None:
        progress.warn("what this costs was not measured; give --score synthetic:64")
        return {}
    from degmix_training.evaluate import network_predictor, score

    size = (before.card.height, before.card.width)
    _, samples = labelled_samples(data, size, before.tasks)
    values: dict[str, dict[str, float]] = {}
    for name, checkpoint in (("before", before), ("after", after)):
        predict = network_predictor(checkpoint.network, checkpoint.tasks, checkpoint.card.config)
        with counting(f"score {name}", len(samples)) as advance:
            values[name] = score(predict, samples, checkpoint.tasks, advance=advance)
    return values

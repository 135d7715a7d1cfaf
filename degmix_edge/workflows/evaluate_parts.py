"""Score a checkpoint in parts, each in any process, with the result of one process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from degmix_edge.workflows.networks import read_checkpoint
from degmix_edge.workflows.sliced import Tallies, facts_of
from degmix_edge.workflows.sources import samples as labelled_samples
from degmix_edge.workflows.spread import count_in_parts

if TYPE_CHECKING:
    from degmix_training.checkpoint import Checkpoint
    from degmix_training.evaluate import Predict

    from degmix_edge.tasks import TaskSpec

BATCH = 8
"""Images of one call of the network. Parts begin at its multiples, so that every call of a part is
one of the whole, to the last bit."""


@dataclass(frozen=True)
class Part:
    """What a process needs to score some images: the arguments of `evaluate`.

    `boundaries` are those of `degmix_training.evaluate.scorers`, which say how edges are scored.
    """

    checkpoint: str
    data: str
    split: str | None
    count: int | None
    label_map: str | Path | None
    boundaries: dict[str, Any]


def predictor_of(loaded: Checkpoint, specs: Mapping[str, TaskSpec]) -> Predict:
    """Return what predicts the maps of samples and how certain they are, on a GPU if there is one.

    A checkpoint that was trained for INT8 predicts with its rounding.
    """
    import torch
    from degmix_training.evaluate import network_predictor
    from degmix_training.qat import fake_quantized

    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = fake_quantized(loaded) if loaded.card.trained else loaded.network
    config = loaded.card.config
    return network_predictor(network.to(device), specs, config, device, certain=True)


def score_part(part: Part, tasks: Sequence[str], start: int, stop: int, threads: int) -> Tallies:
    """Return the counts of the images from `start` to before `stop`, in a process of their own.

    Args:
        part: What to score.
        tasks: The tasks, in order.
        start: Position of the first image, a multiple of `BATCH`.
        stop: Position behind the last one.
        threads: How many PyTorch may use; 0 leaves it as it is.

    Raises:
        DegmixError: What `evaluate` raises.
    """
    import torch
    from degmix_training.evaluate import CERTAINTY, calibrators, scorers

    if threads:
        torch.set_num_threads(threads)
    loaded = read_checkpoint(part.checkpoint)
    size = (loaded.card.height, loaded.card.width)
    source, samples = labelled_samples(
        part.data, size, loaded.tasks, part.split, part.count, label_map=part.label_map
    )
    specs = {task: loaded.tasks[task] for task in tasks}
    predict = predictor_of(loaded, specs)
    tallies = Tallies(scorers(source, specs, **part.boundaries), calibrators(specs))
    for first in range(start, stop, BATCH):
        batch = [samples[index] for index in range(first, min(first + BATCH, stop))]
        for sample, maps in zip(batch, predict(batch), strict=True):
            labels = {task: sample.labels[task] for task in specs if task in sample.labels}
            certainty = {task: maps[f"{task}{CERTAINTY}"] for task in tallies.calibration}
            facts = facts_of(sample.name, sample.image, labels, specs)
            tallies.add(facts, maps, labels, certainty)
    return tallies


def score_parts(
    part: Part, total: int, tasks: Sequence[str], workers: int, address: str | None
) -> Tallies:
    """Return the counts of all images, from as many processes as there are.

    Args:
        part: What to score.
        total: How many images there are.
        tasks: The tasks, in order.
        workers: Processes.
        address: A Ray cluster, as `label` takes it; None uses no Ray.

    Raises:
        ConfigError: `workers` is below 1, or nothing answers at the address.
        DegmixError: What `evaluate` raises.
    """
    return count_in_parts(
        score_part,
        (part, tasks),
        total,
        stage=f"eval {Path(part.checkpoint).name}",
        batch=BATCH,
        workers=workers,
        address=address,
    )

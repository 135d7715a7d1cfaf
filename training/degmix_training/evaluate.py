"""Scores of a network, and of the best constant prediction, on labelled samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from degmix_edge import metrics
from degmix_edge.preprocess import normalise
from degmix_edge.tasks import TaskSpec, decode
from degmix_training.data import Sample

Maps = Mapping[str, np.ndarray]


def network_predictor(
    network: nn.Module, specs: Mapping[str, TaskSpec], device: str = "cpu"
) -> Callable[[Sequence[Sample]], dict[str, np.ndarray]]:
    """A function from samples to decoded maps `{task: (N, ...)}`."""

    @torch.inference_mode()
    def predict(samples: Sequence[Sample]) -> dict[str, np.ndarray]:
        batch = torch.from_numpy(normalise(np.stack([s.image for s in samples]))).to(device)
        logits: dict[str, Tensor] = network(batch)
        return {
            task: decode(logits[task].float().cpu().numpy(), specs[task].decode) for task in specs
        }

    return predict


def score(
    predict: Callable[[Sequence[Sample]], Maps],
    samples: Sequence[Sample],
    specs: Mapping[str, TaskSpec],
    *,
    batch_size: int = 8,
    advance: Callable[[int], None] = lambda n: None,
) -> dict[str, float]:
    """Each task's own metric over all samples with its label; `advance(n)` reports progress."""
    scores = {task: metrics.find(spec.metric)(spec.num_channels) for task, spec in specs.items()}
    for start in range(0, len(samples), batch_size):
        batch = [samples[i] for i in range(start, min(start + batch_size, len(samples)))]
        maps = predict(batch)
        for task, metric in scores.items():
            for row, sample in enumerate(batch):
                if task in sample.labels:
                    metric.update(maps[task][row], sample.labels[task])
        advance(len(batch))
    return {task: metric.compute() for task, metric in scores.items()}


def constant_scores(
    train: Sequence[Sample], samples: Sequence[Sample], specs: Mapping[str, TaskSpec]
) -> dict[str, float]:
    """The same metrics for the best map that never looks at the image.

    Classes: the commonest of the training labels. Depth and normals: the training labels' mean (for
    normals, its direction). Saliency and boundaries: everything, which is the best constant for an
    F-measure.
    """
    constants = {task: _constant(task, spec, train) for task, spec in specs.items()}

    def predict(batch: Sequence[Sample]) -> dict[str, np.ndarray]:
        maps = {}
        for task, spec in specs.items():
            height, width = batch[0].image.shape[:2]
            want = spec.map_spec(height, width, len(batch))
            maps[task] = np.broadcast_to(constants[task], want.shape).astype(want.dtype)
        return maps

    return score(predict, samples, specs)


def _constant(task: str, spec: TaskSpec, train: Sequence[Sample]) -> np.ndarray:
    labels = [train[i].labels[task] for i in range(min(len(train), 200))]
    if spec.decode == "argmax":
        counts = sum(np.bincount(label.ravel(), minlength=256)[:255] for label in labels)
        return np.argmax(counts)
    if spec.decode == "clamp":
        return np.mean([label[label > 0].mean() for label in labels])
    if spec.decode == "unit_vector":
        mean = np.mean([label.reshape(-1, 3).mean(0) for label in labels], axis=0)
        return mean / np.linalg.norm(mean)
    return np.float32(1)

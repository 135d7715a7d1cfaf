"""Scores of a network, and of the best constant prediction, on labelled samples."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from degmix_edge import metrics
from degmix_edge.preprocess import Fit, Placement, fit_image, normalise
from degmix_edge.tasks import TaskSpec, decode
from degmix_training.config import TrainConfig
from degmix_training.data import DataSet, Sample, at_size

Maps = Mapping[str, np.ndarray]
CERTAINTY = "_certainty"
"""The end of the name of what the metric `ece` takes of a task, beside the task's map."""


Predict = Callable[[Sequence[Sample]], list[Maps]]
"""Samples to decoded maps, each at its sample's own size."""


def network_predictor(
    network: nn.Module,
    specs: Mapping[str, TaskSpec],
    config: TrainConfig,
    device: str | torch.device = "cpu",
    *,
    certain: bool = False,
) -> Predict:
    """A network that was trained by `config` as a predictor; `data.at_size` is what it sees.

    Args:
        network: Gives logits `(N, C, H, W)` by task.
        specs: The tasks.
        config: The settings of its training.
        device: Where the network is.
        certain: Give `TASK_certainty` too for each task of `calibrators`, as the metric `ece`
            takes it.
    """
    fit = Fit(height=config.height, width=config.width)

    @torch.inference_mode()
    def predict(samples: Sequence[Sample]) -> list[Maps]:
        fitted = [_fitted(sample.image, fit) for sample in samples]
        images = np.stack([image for image, _ in fitted])
        batch = torch.from_numpy(normalise(images, config.mean, config.std))
        logits: dict[str, Tensor] = network(batch.to(device))
        maps = {
            task: decode(logits[task].float().cpu().numpy(), spec) for task, spec in specs.items()
        }
        nearest = {task: spec.has_labels for task, spec in specs.items()}
        for task in calibrators(specs) if certain else ():
            name = f"{task}{CERTAINTY}"
            maps[name], nearest[name] = maps[task], nearest[task]
            if specs[task].has_labels:
                highest = logits[task].float().softmax(1).amax(1).cpu().numpy()
                maps[name] = np.stack([maps[task].astype(np.float32), highest], axis=-1)
        return [
            {
                name: placement.to_image_size(batch_of[row], labels=nearest[name])
                if placement
                else batch_of[row]
                for name, batch_of in maps.items()
            }
            for row, (_, placement) in enumerate(fitted)
        ]

    return predict


def _fitted(image: np.ndarray, fit: Fit) -> tuple[np.ndarray, Placement | None]:
    """The image at the network's size; no placement where it has that size."""
    height, width = image.shape[:2]
    if (height, width) == fit.size:
        return image, None
    placed = at_size(Sample("", image, {}), fit).image
    if placed is image:
        return fit_image(image, fit)
    top, left = (fit.height - height) // 2, (fit.width - width) // 2
    return placed, Placement(top, left, height, width, height, width)


def scorers(
    source: DataSet,
    specs: Mapping[str, TaskSpec],
    *,
    ods: bool = False,
    smooth: bool = False,
    cache: Path | None = None,
) -> dict[str, metrics.Metric]:
    """A metric for each task of `specs`, by the conventions that `source` is published with.

    Args:
        source: The data set: how mIoU counts absent classes, and how far off a boundary may be.
        specs: The tasks.
        ods: Score boundaries by odsF, as the papers do; slow.
        smooth: Smooth boundaries before odsF suppresses them, as pyEdgeEval does it.
        cache: A folder that makes odsF resumable.
    """
    found: dict[str, metrics.Metric] = {}
    for task, spec in specs.items():
        if spec.metric == "edge_f" and ods:
            options = {"tolerance": source.edge_tolerance, "smooth": smooth, "cache": cache}
            found[task] = metrics.find("ods_f")(**options)
        elif spec.metric == "miou":
            found[task] = metrics.find("miou")(spec.num_channels, absent=source.absent_classes)
        else:
            found[task] = metrics.find(spec.metric)(spec.num_channels)
    return found


def calibrators(specs: Mapping[str, TaskSpec]) -> dict[str, metrics.Metric]:
    """The metric `ece` for each task that gives classes or the probability of one."""
    return {
        task: metrics.find("ece")(spec.num_channels)
        for task, spec in specs.items()
        if spec.decode in ("argmax", "foreground")
        or (spec.decode == "sigmoid" and spec.num_channels == 1)
    }


def score(
    predict: Predict,
    samples: Sequence[Sample],
    specs: Mapping[str, TaskSpec],
    *,
    scorers: Mapping[str, metrics.Metric] | None = None,
    calibration: Mapping[str, metrics.Metric] | None = None,
    batch_size: int = 8,
    advance: Callable[[int], None] = lambda n: None,
) -> dict[str, float]:
    """Each task's metric over all samples with its label.

    Args:
        predict: Gives maps; with `calibration`, a predictor that is `certain`.
        samples: Images with labels.
        specs: The tasks.
        scorers: Metrics by task, in place of the tasks' own.
        calibration: Metrics by task that count how calibrated the network is.
        batch_size: Images of one call.
        advance: Reports progress; gets the number of images that are newly done.
    """
    if scorers is None:
        scorers = {t: metrics.find(spec.metric)(spec.num_channels) for t, spec in specs.items()}
    for start in range(0, len(samples), batch_size):
        batch = [samples[i] for i in range(start, min(start + batch_size, len(samples)))]
        for sample, maps in zip(batch, predict(batch), strict=True):
            for task, metric in scorers.items():
                if task in sample.labels:
                    metric.update(maps[task], sample.labels[task])
            for task, metric in (calibration or {}).items():
                if task in sample.labels:
                    metric.update(maps[f"{task}{CERTAINTY}"], sample.labels[task])
        advance(len(batch))
    return {task: metric.compute() for task, metric in scorers.items()}


def constant_scores(
    train: Sequence[Sample], samples: Sequence[Sample], specs: Mapping[str, TaskSpec]
) -> dict[str, float]:
    """The same metrics for the best map that never looks at the image.

    Classes: the commonest of the training labels. Depth and normals: the training labels' mean (for
    normals, its direction). Saliency and boundaries: everything, which is the best constant for an
    F-measure.
    """
    constants = {task: _constant(task, spec, train) for task, spec in specs.items()}

    def predict(batch: Sequence[Sample]) -> list[Maps]:
        return [
            {
                task: _filled(constants[task], spec, sample.image.shape[:2])
                for task, spec in specs.items()
            }
            for sample in batch
        ]

    return score(predict, samples, specs)


def _filled(constant: np.ndarray, spec: TaskSpec, size: tuple[int, ...]) -> np.ndarray:
    want = spec.map_spec(*size)
    return np.broadcast_to(constant, want.shape[1:]).astype(want.dtype)


def _constant(task: str, spec: TaskSpec, train: Sequence[Sample]) -> np.ndarray:
    labels = [train[i].labels[task] for i in range(min(len(train), 200))]
    if spec.decode == "argmax":
        counts = sum(np.bincount(label.ravel(), minlength=256)[:255] for label in labels)
        return np.argmax(counts)
    if spec.decode == "clamp":
        means = [label[label > 0].mean() for label in labels if (label > 0).any()]
        return np.mean(means) if means else np.float32(1)
    if spec.decode == "unit_vector":
        mean = np.mean([label.reshape(-1, 3).mean(0) for label in labels], axis=0)
        return mean / max(np.linalg.norm(mean), 1e-6)
    return np.float32(1)

"""Checkpoints on held-out scenes, on shifted ones, on a real depth map and on photographs.

    python tests/campaigns/transfer.py degmix_tiny runs/lite0/best.safetensors --out transfer

Every checkpoint is scored on the same plain, varied and shifted scenes, of splits that no training
has seen. Networks of more classes than the ten of the plain scenes are scored on those ten: their
other channels are cut off, and pixels of other classes do not count. The motorcycle of scikit-image
has a measured depth; since no network knows its camera, the prediction is also scored after one
factor, the ratio of the medians. OUT gets `scores.json` and a picture with all six maps of each
photograph for each checkpoint, side by side.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import PIL.Image
import skimage.data
import torch
from degmix_training.checkpoint import Checkpoint, load, locate
from degmix_training.data import Sample, open_data
from degmix_training.data.synthetic import CLASSES
from degmix_training.evaluate import network_predictor, score
from torch import Tensor, nn

from degmix_edge import tasks
from degmix_edge.preprocess import Fit
from degmix_edge.tasks import colour
from degmix_edge.workflows.sources import photographs

SETS = {"plain": "synthetic", "varied": "synthetic_varied", "shifted": "synthetic_shifted"}
COMMON = len(CLASSES["semseg"])
FOCAL_PX, BASELINE_M, OFFSET_PX = 994.978, 0.193001, 31.086
"""Calibration of the motorcycle's pair, from scikit-image's documentation."""


class OnCommonClasses(nn.Module):
    """A network whose semseg has the ten classes of the plain scenes alone."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Return logits by task."""
        logits: dict[str, Tensor] = self.network(image)
        return {**logits, "semseg": logits["semseg"][:, :COMMON]}


def common(samples: Sequence[Sample]) -> list[Sample]:
    """Samples in which pixels of other classes do not count."""
    changed = []
    for index in range(len(samples)):
        sample = samples[index]
        semseg = np.where(sample.labels["semseg"] < COMMON, sample.labels["semseg"], 255)
        labels = {**sample.labels, "semseg": semseg.astype(np.uint8)}
        changed.append(Sample(sample.name, sample.image, labels))
    return changed


def scores(checkpoint: Checkpoint, count: int) -> dict[str, dict[str, float]]:
    """The metric of each task, by set."""
    specs = {name: tasks.find(name).spec(CLASSES[name]) for name in CLASSES}
    network = OnCommonClasses(checkpoint.network)
    predict = network_predictor(network, specs, checkpoint.card.config)
    size, found = (checkpoint.card.height, checkpoint.card.width), {}
    for title, name in SETS.items():
        samples = open_data(name, None, size).open_split("test", tuple(CLASSES), count)
        found[title] = score(predict, common(samples), specs)
    return found


def motorcycle(checkpoint: Checkpoint) -> dict[str, float]:
    """RMSE and mean relative error of depth on the stereo pair, as it is and after one factor."""
    left, _, disparity = skimage.data.stereo_motorcycle()
    depth = np.nan_to_num(FOCAL_PX * BASELINE_M / (disparity + OFFSET_PX)).astype(np.float32)
    config = checkpoint.card.config
    predict = network_predictor(checkpoint.network, {"depth": checkpoint.tasks["depth"]}, config)
    found = predict([Sample("motorcycle", left, {})])[0]["depth"]
    valid = (depth > 0) & np.isfinite(found)
    ours, truth = found[valid], depth[valid]
    factor = float(np.median(truth) / np.median(ours))

    def errors(values: np.ndarray) -> tuple[float, float]:
        off = values - truth
        return float(np.sqrt(np.mean(off**2))), float(np.mean(np.abs(off) / truth))

    (rmse, relative), (scaled_rmse, scaled) = errors(ours), errors(factor * ours)
    return {
        "rmse_m": rmse,
        "relative": relative,
        "factor": factor,
        "scaled_rmse_m": scaled_rmse,
        "scaled_relative": scaled,
    }


def picture(checkpoint: Checkpoint, images: Mapping[str, np.ndarray]) -> np.ndarray:
    """A row for each image: the image and the map of each task."""
    card = checkpoint.card
    fit = Fit(height=card.height, width=card.width)
    predict = network_predictor(checkpoint.network, checkpoint.tasks, card.config)
    rows = []
    for name, image in images.items():
        small = np.asarray(PIL.Image.fromarray(image).resize((fit.width, fit.height)))
        maps = predict([Sample(name, small, {})])[0]
        drawn = [colour(maps[task], spec) for task, spec in checkpoint.tasks.items()]
        rows.append(np.concatenate([small, *drawn], axis=1))
    return np.concatenate(rows)


def main() -> None:
    """Score and draw; see the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoints", nargs="+")
    parser.add_argument("--count", type=int, default=90, help="scenes of each set")
    parser.add_argument("--out", type=Path, default=Path("transfer"))
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    images = {item.name: item.image for item in photographs()}
    results = {}
    for name in options.checkpoints:
        checkpoint = load(locate(name))
        results[name] = {**scores(checkpoint, options.count), "motorcycle": motorcycle(checkpoint)}
        for title, values in results[name].items():
            words = ", ".join(f"{key} {value:.4g}" for key, value in values.items())
            print(f"{name}, {title}: {words}", flush=True)
        drawn = PIL.Image.fromarray(picture(checkpoint, images))
        drawn.save(options.out / f"{Path(name).stem}.png")
    (options.out / "scores.json").write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()

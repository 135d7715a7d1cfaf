"""Our numpy metrics, which a robot can run without torch, give what torchmetrics gives."""

import numpy as np
import pytest
import torch
from torchmetrics import MeanSquaredError
from torchmetrics.classification import (
    BinaryPrecisionRecallCurve,
    MulticlassCalibrationError,
    MulticlassJaccardIndex,
)

from degmix_edge import metrics
from degmix_edge.metrics import max_f


@pytest.mark.parametrize("seed", range(3))
def test_miou(seed):
    rng = np.random.default_rng(seed)
    ours = metrics.find("miou")(5)
    theirs = MulticlassJaccardIndex(5, ignore_index=255)
    for _ in range(4):
        target = rng.choice([0, 1, 2, 3, 4, 255], size=(9, 11)).astype(np.uint8)
        prediction = rng.integers(0, 5, size=(9, 11)).astype(np.uint8)
        ours.update(prediction, target)
        theirs.update(
            torch.from_numpy(prediction)[None].long(), torch.from_numpy(target)[None].long()
        )
    assert ours.compute() == pytest.approx(100 * theirs.compute().item(), rel=1e-5)


def test_rmse():
    rng = np.random.default_rng(0)
    ours, theirs = metrics.find("rmse")(), MeanSquaredError(squared=False)
    for _ in range(3):
        target = rng.uniform(1, 9, size=(7, 8)).astype(np.float32)
        prediction = (target + rng.normal(size=target.shape)).astype(np.float32)
        ours.update(prediction, target)
        theirs.update(torch.from_numpy(prediction), torch.from_numpy(target))
    assert ours.compute() == pytest.approx(theirs.compute().item(), rel=1e-5)


def test_max_f():
    rng = np.random.default_rng(0)
    thresholds = torch.from_numpy(max_f.THRESHOLDS)
    ours, theirs = metrics.find("max_f")(), BinaryPrecisionRecallCurve(thresholds)
    for _ in range(3):
        target = rng.integers(0, 2, size=(20, 20)).astype(np.uint8)
        prediction = np.clip(rng.normal(0.4 + 0.2 * target, 0.3), 0, 1).astype(np.float32)
        ours.update(prediction, target)
        theirs.update(torch.from_numpy(prediction), torch.from_numpy(target).long())
    precision, recall, _ = theirs.compute()
    f = 1.3 * precision * recall / (0.3 * precision + recall)
    assert ours.compute() == pytest.approx(100 * f[:-1].max().item(), rel=1e-5)


@pytest.mark.parametrize("classes", [2, 6])
def test_ece(classes):
    rng = np.random.default_rng(0)
    ours, binary = metrics.find("ece")(classes), metrics.find("ece")(2)
    theirs = MulticlassCalibrationError(classes, n_bins=15, norm="l1", ignore_index=255)
    for _ in range(3):
        logits = 2 * rng.normal(size=(classes, 9, 11))
        shares = (np.exp(logits) / np.exp(logits).sum(0)).astype(np.float32)
        target = rng.choice([*range(classes), 255], size=(9, 11)).astype(np.uint8)
        ours.update(np.stack([shares.argmax(0), shares.max(0)], axis=-1), target)
        binary.update(shares[1], target)
        theirs.update(torch.from_numpy(shares)[None], torch.from_numpy(target)[None].long())
    assert ours.compute() == pytest.approx(100 * theirs.compute().item(), rel=1e-5)
    if classes == 2:
        assert binary.compute() == pytest.approx(ours.compute(), rel=1e-5)

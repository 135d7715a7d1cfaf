"""The scores of a run, and the checkpoints that carry them."""

from __future__ import annotations

import math
import platform
import subprocess
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import lightning
import torch
import torchvision
from torch import nn

from degmix_edge import __version__, metrics
from degmix_edge.errors import DegmixError, TrainingError
from degmix_training import checkpoint
from degmix_training.batches import Batches
from degmix_training.delta_m import delta_m
from degmix_training.evaluate import constant_scores, network_predictor, score
from degmix_training.fake_quant import QUANTIZER, Quantizer, detached_state
from degmix_training.module import Fit


class Judge:
    """Scores the network and the best constant predictions on the validation split.

    Args:
        module: The training module, which has the network's settings and device.
        batches: The data, with both splits.
        out: The run's folder, which error messages name.
    """

    def __init__(self, module: Fit, batches: Batches, out: Path) -> None:
        self.module, self.batches, self.out = module, batches, out

    @cached_property
    def constants(self) -> dict[str, float]:
        """The score of the best constant prediction, by task."""
        return constant_scores(self.batches.train, self.batches.val, self.module.specs)

    def scores(self, network: nn.Module) -> dict[str, float]:
        """Return the score of `network`, by task.

        Raises:
            TrainingError: Predictions are not finite.
        """
        specs, module = self.module.specs, self.module
        predict = network_predictor(network, specs, module.config, module.device)
        values = score(predict, self.batches.val, specs)
        bad = [t for t, v in values.items() if math.isnan(v) and not math.isnan(self.constants[t])]
        if bad:
            raise TrainingError(
                f"{', '.join(bad)}: predictions are no numbers any more; the last good weights "
                f"stay in {self.out}. Lower optim.lr or set optim.clip_norm, and --resume"
            )
        return values

    def gain(self, values: Mapping[str, float]) -> float:
        """Return the mean gain over the best constant predictions in percent.

        Tasks without labels do not count; without any task the gain is minus infinity.
        """
        usable = {t: v for t, v in values.items() if self.constants.get(t) and not math.isnan(v)}
        if not usable:
            return float("-inf")
        baselines = {task: (self.constants[task], "best constant") for task in usable}
        kinds = {task: self.module.specs[task].metric for task in usable}
        try:
            return delta_m(usable, baselines, kinds).delta_m
        except DegmixError:
            return float("-inf")

    def write(self, path: Path, network: nn.Module, values: dict[str, float], step: int) -> None:
        """Write a checkpoint of `network`, whose scores at `step` are `values`."""
        card = _card(self.module, values, self.constants, step)
        quantizer = getattr(network, QUANTIZER, None)
        if isinstance(quantizer, Quantizer):
            card = card.model_copy(update={"amax": quantizer.amax()})
        checkpoint.save(path, detached_state(network), card)


def _card(
    module: Fit, values: dict[str, float], constants: dict[str, float], step: int
) -> checkpoint.Card:
    settings, specs = module.config, module.specs
    return checkpoint.Card(
        model=settings.model,
        tasks=tuple(specs.values()),
        height=settings.height,
        width=settings.width,
        config=settings,
        scores={
            task: checkpoint.Score(
                metric=spec.metric,
                unit=metrics.find(spec.metric).unit,
                value=values[task],
                constant=constants[task],
            )
            for task, spec in specs.items()
        },
        step=step,
        seed=settings.seed,
        commit=_commit(),
        versions={
            "degmix-edge": __version__,
            "torch": torch.__version__,
            "torchvision": torchvision.__version__,
            "lightning": lightning.__version__,
            "python": platform.python_version(),
        },
    )


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True)
    except OSError:
        return "unknown"
    return done.stdout.strip() or "unknown"

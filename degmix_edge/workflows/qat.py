"""Quantization-aware training: fine-tune a checkpoint on the grid of its INT8 engine."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from degmix_edge import config
from degmix_edge.errors import ConfigError
from degmix_edge.graph.model import to_graph
from degmix_edge.preprocess import Fit
from degmix_edge.progress import Progress, listening, note
from degmix_edge.quant.recipe import Recipe
from degmix_edge.quant.sites import observed_tensors
from degmix_edge.workflows.calibration import as_named, measure_ranges
from degmix_edge.workflows.networks import read_checkpoint
from degmix_edge.workflows.training import TrainResult, data_changes, run

if TYPE_CHECKING:
    import numpy as np
    from degmix_training.checkpoint import Checkpoint
    from degmix_training.config import TrainConfig
    from degmix_training.processes import Machine
    from degmix_training.qat import Deployed, Start

STEPS = 10
"""The float training took this many times as many steps."""
OPTIM = {
    **{"name": "adamw", "lr": 1e-4, "head_lr_mult": 1.0, "weight_decay": 0.0, "power": 0.9},
    **{"warmup": 0, "clip_norm": 5.0, "ema": None},
}
"""Fine-tuning begins near the optimum, so its steps are small."""
BATCHES = 4
"""Training batches from which the first ranges are measured."""


def train_quantized(
    recipe: str | Path,
    start: str | Path | Checkpoint,
    out: str | Path,
    *,
    overrides: Sequence[str] = (),
    data: str | None = None,
    resume: bool = False,
    force: bool = False,
    machine: Machine | None = None,
    progress: Progress | None = None,
) -> TrainResult:
    """Fine-tune the checkpoint `start` under fake quantization, into the folder `out`.

    The settings are those that `start` was trained with, except that the training has a tenth of
    the steps with AdamW and a learning rate of 1e-4. A build of the result takes the recipe and the
    ranges of the training.

    Layers that a budget search kept in float, because quantization after training could not hold
    them inside the budget, are trained for INT8 too.

    Args:
        recipe: A `recipe.yaml` for INT8: of a bundle, or beside the file of `quantize`.
        start: A float checkpoint: a short name, a path, or a loaded one.
        out: The run's folder.
        overrides: Changes of settings, as in `optim.lr=1e-5` or `qat.ranges=ema`.
        data: A data set and its folder, as in `nyud:NYUDv2`; None is that of `start`.
        resume: Continue the run that is saved in `out`; give the same recipe and start.
        force: Write into an `out` that holds another run.
        machine: What it runs on; None is one process on the best accelerator.
        progress: Gets events; see `fit`.

    Raises:
        ConfigError: The recipe is of another network or not for INT8, `start` was trained for INT8
            already, or a setting does not fit.
        CheckpointError: `start` cannot be read.
        GraphError: A node of the recipe cannot be trained.
        InputError, OutputError, TrainingError: As `train`.
        KeyboardInterrupt: It was interrupted; the last saved state can be resumed.
    """
    from degmix_training.qat import Deployed, fit_recipe

    with listening(progress):
        checkpoint = read_checkpoint(start)
        if checkpoint.card.trained is not None:
            raise ConfigError(
                f"{checkpoint.path}: was trained for INT8 already; give the float checkpoint that "
                "this training started from, or --resume its run"
            )
        asked = config.load(Recipe, Path(recipe))
        deployed = Deployed.of(checkpoint)
        fitted = fit_recipe(asked, deployed.model, str(recipe))
        settings = _settings(checkpoint, deployed, fitted, overrides=overrides, data=data)
        nodes = len(fitted.nodes("int8")) + len(fitted.nodes("int8_weights"))
        more = nodes - len(asked.nodes("int8")) - len(asked.nodes("int8_weights"))
        note(f"{nodes} nodes in INT8, {more} of them kept in float by a budget so far", "train")
        begun = _begin(deployed, fitted, settings)
        return run(settings, Path(out), resume=resume, force=force, start=begun, machine=machine)


def _settings(
    checkpoint: Checkpoint,
    deployed: Deployed,
    recipe: Recipe,
    *,
    overrides: Sequence[str],
    data: str | None,
) -> TrainConfig:
    """Return the settings of the checkpoint with those of fine-tuning, and the user's changes."""
    from degmix_training.config import Qat, TrainConfig

    before = checkpoint.card.config
    steps = max(1, before.steps // STEPS)
    qat = Qat(start=checkpoint.sha256, folds=deployed.folds, recipe=recipe)
    values: dict[str, Any] = before.model_dump(mode="json") | {
        "steps": steps,
        "val_every": min(before.val_every, steps),
        "optim": OPTIM,
        "pretrained": "none",
        "qat": qat.model_dump(mode="json"),
    }
    changes = [*overrides, *(data_changes(data, overrides) if data else [])]
    return config.parse(TrainConfig, config.override(values, changes), "training for INT8")


def _begin(deployed: Deployed, recipe: Recipe, settings: TrainConfig) -> Start:
    """Measure the first ranges on training images, and start from them."""
    from degmix_training.batches import Batches
    from degmix_training.qat import begin

    images: list[np.ndarray] = [
        image.numpy() for batch, _, _ in Batches(settings).first(BATCHES) for image in batch
    ]
    spec = deployed.spec
    ranges = measure_ranges(
        deployed.model,
        observed_tensors(to_graph(deployed.model), recipe),
        as_named([(f"training image {i}", image) for i, image in enumerate(images)], spec),
        Fit(height=spec.height, width=spec.width),
        spec,
        observer=recipe.observer or "mse",
    )
    amax = {name: measured.amax for name, measured in ranges.tensors.items()}
    return begin(deployed, recipe, amax, images[0])

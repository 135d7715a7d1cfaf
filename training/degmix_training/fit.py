"""Training: one LightningModule, one run, one checkpoint."""

from __future__ import annotations

import json
import logging
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
import torchvision
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, RichProgressBar
from lightning.pytorch.loggers import CSVLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader

from degmix_edge import __version__, metrics
from degmix_edge.errors import ConfigError
from degmix_edge.preprocess import MEAN, STD
from degmix_training import checkpoint, data, models
from degmix_training.config import TrainConfig, network_config
from degmix_training.data import Sample
from degmix_training.data._augment import Augmented
from degmix_training.evaluate import constant_scores, network_predictor, score
from degmix_training.losses import LOSSES

Batch = tuple[Tensor, dict[str, Tensor]]


class Fit(lightning.LightningModule):
    """One network under its losses, with the poly schedule and warm-up."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        self.config = config
        self.specs = config.task_specs()
        network = models.find(config.model).Model
        self.network: nn.Module = network(
            network_config(config.model, config.network), self.specs, pretrained=config.pretrained
        ).to(memory_format=torch.channels_last)  # 0.92 against 1.47 s a step on two CPU cores
        # Raw uint8 batches come in; a buffer moves to the device with the module.
        self.register_buffer("mean", torch.tensor(MEAN).view(1, 3, 1, 1) * 255, persistent=False)
        self.register_buffer("std", torch.tensor(STD).view(1, 3, 1, 1) * 255, persistent=False)

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """Weighted sum of the tasks' losses."""
        image, labels = batch
        logits = self.network((image.permute(0, 3, 1, 2).float() - self.mean) / self.std)
        total = torch.zeros((), device=image.device)
        for task in self.specs:
            options = {"edge_weight": self.config.edge_weight} if task == "edge" else {}
            loss = LOSSES[task](logits[task], labels[task], **options)
            total = total + self.config.loss_weights[task] * loss
            self.log(f"loss/{task}", loss)
        self.log("loss", total, prog_bar=True)
        return total

    def configure_optimizers(self) -> dict[str, Any]:
        """The config's optimiser and its poly schedule, stepped every step."""
        optim = self.config.optim
        parameters = self.network.parameters()
        options = {"lr": optim.lr, "weight_decay": optim.weight_decay}
        optimizer = (
            torch.optim.SGD(parameters, momentum=0.9, **options)
            if optim.name == "sgd"
            else torch.optim.AdamW(parameters, **options)
        )

        def factor(step: int) -> float:
            rise = min(1.0, (step + 1) / (optim.warmup + 1))
            return rise * max(0.0, 1 - step / self.config.steps) ** optim.power

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


class Validate(Callback):
    """Scores the network every `val_every` steps and keeps the history in `scores.json`."""

    def __init__(self, samples: Sequence[Sample], out: Path, every: int) -> None:
        self.samples, self.path, self.every = samples, out / "scores.json", every
        self.history: list[dict[str, Any]] = []

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        """At every `every`-th step."""
        step = trainer.global_step
        if step % self.every or (self.history and self.history[-1]["step"] == step):
            return
        scores = evaluate_now(module, self.samples)
        self.history.append({"step": step, **scores})
        self.path.write_text(json.dumps(self.history, indent=1))
        for task, value in scores.items():
            module.log(f"val/{task}", value, prog_bar=True)


def evaluate_now(module: Fit, samples: Sequence[Sample]) -> dict[str, float]:
    """Scores with the network in eval mode, which it leaves as it found it."""
    was_training = module.network.training
    module.network.eval()
    predict = network_predictor(module.network, module.specs, str(module.device))
    scores = score(predict, samples, module.specs)
    module.network.train(was_training)
    return scores


def fit(config: TrainConfig, out: Path, *, resume: bool = False) -> Path:
    """Train as `config` says; write checkpoint, losses (CSV), scores and state to `out`.

    Returns:
        Path of the checkpoint `<preset or model>.safetensors`.

    Raises:
        ConfigError: A task or loss weight is missing, or there is nothing to resume.
        KeyboardInterrupt: It was interrupted; the last validated state can be resumed.
    """
    specs = config.task_specs()
    _check_weights(config, specs)
    lightning.seed_everything(config.seed, workers=True, verbose=False)
    size = (config.height, config.width)
    train = data.open_split(config.data.name, "train", config.data.train, *size)
    val = data.open_split(config.data.name, "val", config.data.val, *size)
    out.mkdir(parents=True, exist_ok=True)
    state = out / "last.ckpt"
    if resume and not state.exists():
        raise ConfigError(f"{out}: nothing to resume, there is no {state.name}; drop --resume")

    module = Fit(config)
    saver = ModelCheckpoint(
        out, "last", every_n_train_steps=config.val_every, save_weights_only=False
    )
    loader: DataLoader[Any] = DataLoader(
        Augmented(train, tuple(specs), config.seed),
        batch_size=config.batch_size,
        shuffle=True,
        drop_last=True,
        num_workers=0,
        collate_fn=collate,
    )
    bar = RichProgressBar(console_kwargs={"stderr": True})  # stdout is for --json
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    trainer = lightning.Trainer(
        max_steps=config.steps,
        accelerator="auto",
        devices=1,
        logger=CSVLogger(out, name="", version="log"),
        callbacks=[Validate(val, out, config.val_every), saver, bar],
        gradient_clip_val=config.optim.clip_norm,
        log_every_n_steps=min(10, config.val_every),
        enable_model_summary=False,
    )
    try:
        trainer.fit(module, loader, ckpt_path=state if resume else None, weights_only=True)
    except SystemExit:  # Lightning's answer to Ctrl-C
        raise KeyboardInterrupt from None
    path = out / f"{config.model}.safetensors"
    checkpoint.save(
        path, module.network.state_dict(), _card(module, train, val, trainer.global_step)
    )
    return path


def collate(batch: list[Sample]) -> Batch:
    """Samples to `(images (N, H, W, 3) uint8, {task: labels})`."""
    images = torch.from_numpy(np.stack([sample.image for sample in batch]))
    labels = {
        task: torch.from_numpy(np.stack([sample.labels[task] for sample in batch]))
        for task in batch[0].labels
    }
    return images, labels


def _check_weights(config: TrainConfig, specs: dict[str, Any]) -> None:
    missing = [task for task in specs if task not in config.loss_weights]
    if missing:
        raise ConfigError(f"loss_weights: none for {', '.join(missing)}; set loss_weights.TASK=1.0")


def _card(
    module: Fit, train: Sequence[Sample], val: Sequence[Sample], step: int
) -> checkpoint.Card:
    config, specs = module.config, module.specs
    values, constants = evaluate_now(module, val), constant_scores(train, val, specs)
    return checkpoint.Card(
        model=config.model,
        tasks=tuple(specs.values()),
        height=config.height,
        width=config.width,
        config=config,
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
        seed=config.seed,
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

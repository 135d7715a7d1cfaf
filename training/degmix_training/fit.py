"""Training: one LightningModule, one run, its checkpoints."""

from __future__ import annotations

import functools
import logging
import math
import platform
import re
import subprocess
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning
import torch
import torchvision
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from torch import Tensor, nn

from degmix_edge import __version__, config, metrics
from degmix_edge.errors import CheckpointError, ConfigError, DegmixError, TrainingError
from degmix_training import checkpoint, models, sync_batchnorm
from degmix_training._files import whole_file
from degmix_training.batches import Batch, Batches
from degmix_training.callbacks import LAST, STATE, Ema, Keep, Steps
from degmix_training.config import TrainConfig, network_config
from degmix_training.delta_m import delta_m
from degmix_training.evaluate import constant_scores, network_predictor, score
from degmix_training.losses import DEPTH_LOSSES, LOSSES
from degmix_training.pretrained import load_backbone
from degmix_training.processes import is_first_process, watch_patiently

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
BEGIN_BATCHES = 4
"""For what a network decides before training."""
MAY_CHANGE = ("steps", "val_every", "pretrained")
"""Settings that a resumed run may have different."""
LOST = r"Connection (closed|reset)|Socket|gloo|NCCL|ProcessGroup|Broken pipe|barrier"
"""What torch says when another process of the job is gone."""


@dataclass(frozen=True)
class Machine:
    """What a run is done with; it does not decide what the run gives, but for rounding.

    Attributes:
        accelerator: Lightning's name: `auto`, `cpu`, `gpu`.
        devices: Processes on this machine.
        nodes: Machines; each runs the same command, started by torchrun or SLURM.
        workers: Processes a training process that load samples.
        compile: Compile the network with `torch.compile`.
    """

    accelerator: str = "auto"
    devices: int = 1
    nodes: int = 1
    workers: int = 0
    compile: bool = False


class Fit(lightning.LightningModule):
    """One network under its losses, with the poly schedule and warm-up."""

    def __init__(self, config: TrainConfig) -> None:
        super().__init__()
        self.config = config
        self.specs = config.task_specs()
        settings = network_config(config.model, config.network, (config.height, config.width))
        make = models.find(config.model).Model
        network: nn.Module = make(settings, self.specs, pretrained=config.pretrained == "timm")
        if config.pretrained not in ("timm", "none"):
            load_backbone(network.backbone, Path(config.pretrained))
        if config.freeze_backbone:
            network.backbone.requires_grad_(False)
        # 0.92 against 1.47 s a step on two CPU cores.
        self.network = network.to(memory_format=torch.channels_last)
        # Raw uint8 batches come in; a buffer moves to the device with the module.
        for name, values in (("mean", config.mean), ("std", config.std)):
            levels = torch.tensor(values).view(1, 3, 1, 1) * 255
            self.register_buffer(name, levels, persistent=False)

    def on_fit_start(self) -> None:
        """What a network decides before training, it decides on the first batches."""
        batches = functools.cache(lambda: self.trainer.datamodule.first(BEGIN_BATCHES))

        def loss(index: int) -> Tensor:
            image, labels, _ = batches()[index]
            there = {task: label.to(self.device) for task, label in labels.items()}
            return self._total(self._losses(image.to(self.device), there))

        self.network.begin([functools.partial(loss, i) for i in range(BEGIN_BATCHES)])

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """Weighted sum of the tasks' losses.

        Raises:
            TrainingError: A loss is not finite.
        """
        image, labels, names = batch
        if self.config.freeze_backbone:
            self.network.backbone.eval()
        self.network.advance(self.global_step / self.config.steps)
        losses = self._losses(image, labels)
        if not torch.isfinite(torch.stack(list(losses.values()))).all():
            bad = [task for task, loss in losses.items() if not torch.isfinite(loss)]
            raise TrainingError(
                f"step {self.global_step}: the loss of {', '.join(bad)} is "
                f"{losses[bad[0]].item()} on the batch {', '.join(names)}. The last good weights "
                f"stay in the run's folder; lower optim.lr, set optim.clip_norm or check those "
                f"labels, then --resume"
            )
        total = self._total(losses)
        shared = self.trainer.world_size > 1
        for task, loss in losses.items():
            self.log(f"loss/{task}", loss, sync_dist=shared)
        self.log("loss", total, sync_dist=shared)
        return total

    def _losses(self, image: Tensor, labels: dict[str, Tensor]) -> dict[str, Tensor]:
        """By the network's outputs; see `Network` for what it gives in training."""
        outputs = self.network((image.permute(0, 3, 1, 2).float() - self.mean) / self.std)
        losses = {}
        with torch.autocast(image.device.type, enabled=False):
            for name, output in outputs.items():
                task = name.partition("@")[0]
                if not task:
                    losses[name] = output.float()
                    continue
                options = {"edge_weight": self.config.edge_weight} if task == "edge" else {}
                loss = DEPTH_LOSSES[self.config.depth_loss] if task == "depth" else LOSSES[task]
                losses[name] = loss(output.float(), labels[task], **options)
        return losses

    def _total(self, losses: dict[str, Tensor]) -> Tensor:
        weights = {**self.config.loss_weights, "": 1.0}
        return torch.stack([weights[n.partition("@")[0]] * x for n, x in losses.items()]).sum()

    def configure_optimizers(self) -> dict[str, Any]:
        """The config's optimiser and its poly schedule, stepped every step."""
        optim = self.config.optim
        backbone = [p for p in self.network.backbone.parameters() if p.requires_grad]
        inside = {id(p) for p in self.network.backbone.parameters()}
        rest = [p for p in self.network.parameters() if id(p) not in inside]
        groups = [{"params": backbone}] if backbone else []
        groups += [{"params": rest, "lr": optim.lr * optim.head_lr_mult}]
        options = {"lr": optim.lr, "weight_decay": optim.weight_decay}
        if optim.name == "sgd":
            options["momentum"] = 0.9
        kinds = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}
        optimizer: torch.optim.Optimizer = kinds[optim.name](groups, **options)

        def factor(step: int) -> float:
            rise = min(1.0, (step + 1) / (optim.warmup + 1))
            return rise * max(0.0, 1 - step / self.config.steps) ** optim.power

        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }


def fit(
    settings: TrainConfig, out: Path, *, resume: bool = False, machine: Machine | None = None
) -> Path:
    """Train as `settings` say.

    `out` gets `config.yaml`, `best.safetensors` and `last.safetensors` (best: the largest mean gain
    over the best constant prediction), `last.ckpt` to resume from, `scores.json`, and the losses as
    CSV and for TensorBoard in `log/`.

    Returns:
        Path of `last.safetensors`.

    Raises:
        ConfigError: A setting does not fit, or there is nothing to resume.
        TrainingError: A loss is no number, or another process of the job is gone.
        OutputError: The disk is full.
        KeyboardInterrupt: It was interrupted; the last state can be resumed.
    """
    machine = machine or Machine()
    specs = settings.task_specs()
    learned = (*specs, *settings.auxiliary())
    missing = [task for task in learned if task not in settings.loss_weights]
    if missing:
        raise ConfigError(f"loss_weights: none for {', '.join(missing)}; set loss_weights.TASK=1.0")
    state = out / STATE
    if resume:
        _check_resumable(settings, out)
    lightning.seed_everything(settings.seed, workers=True, verbose=False)
    module = Fit(settings)
    batches = Batches(settings, machine.workers)
    out.mkdir(parents=True, exist_ok=True)
    if is_first_process():
        with whole_file(out / "config.yaml") as part:
            part.write_text(config.dump(settings))
    if machine.compile:
        module.network.compile()
    trainer = _trainer(settings, out, machine, module, batches)
    try:
        trainer.fit(module, batches, ckpt_path=state if resume else None, weights_only=True)
    except SystemExit as stop:  # Lightning's answer to signals
        if trainer.interrupted:
            raise KeyboardInterrupt from None
        raise _lost(out, trainer, stop) from None
    except (RuntimeError, ConnectionError) as error:
        if trainer.world_size > 1 and re.search(LOST, str(error)):
            raise _lost(out, trainer, error) from None
        raise
    return out / LAST


def _lost(out: Path, trainer: Any, error: BaseException) -> TrainingError:
    state = out / STATE
    last = "go on with --resume" if state.exists() else "nothing was saved yet: start anew"
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return TrainingError(
        f"process {trainer.global_rank} of {trainer.world_size}: lost another process of the job "
        f"at step {trainer.global_step} ({first}). See that process's last words; {last}"
    )


def _check_resumable(settings: TrainConfig, out: Path) -> None:
    if not (out / STATE).exists():
        raise ConfigError(f"{out}: nothing to resume, there is no {STATE}; drop --resume")
    try:
        torch.load(out / STATE, map_location="meta", weights_only=True)
    except Exception as error:  # torch raises nearly anything on a damaged file
        raise CheckpointError(
            f"{out / STATE}: damaged ({str(error).splitlines()[0]}); a run cannot be resumed from "
            f"{LAST} beside it: start anew"
        ) from None
    if not (out / "config.yaml").exists():
        return
    before = config.load(TrainConfig, out / "config.yaml").model_dump(mode="json")
    now = settings.model_dump(mode="json")
    changed = [
        f"{key} was {before[key]!r} and is now {now[key]!r}"
        for key in now
        if key not in MAY_CHANGE and before[key] != now[key]
    ]
    if changed:
        raise ConfigError(
            f"{out}: cannot resume with other settings: {'; '.join(changed)}. Only "
            f"{', '.join(MAY_CHANGE)} may change; give the old settings, or another --out"
        )


def _trainer(
    settings: TrainConfig, out: Path, machine: Machine, module: Fit, batches: Batches
) -> lightning.Trainer:
    steps = Steps(settings.steps)
    ema = Ema(settings.optim.ema) if settings.optim.ema else None
    specs = module.specs
    constants: dict[str, float] = {}

    def scores(network: nn.Module) -> dict[str, float]:
        if not constants:
            constants.update(constant_scores(batches.train, batches.val, specs))
        predict = network_predictor(network, specs, settings, module.device)
        found = score(predict, batches.val, specs)
        bad = [t for t, v in found.items() if math.isnan(v) and not math.isnan(constants[t])]
        if bad:
            raise TrainingError(
                f"{', '.join(bad)}: predictions are no numbers any more; the last good weights "
                f"stay in {out}. Lower optim.lr or set optim.clip_norm, and --resume"
            )
        return found

    def write(path: Path, network: nn.Module, values: dict[str, float], step: int) -> None:
        card = _card(module, values, constants, step)
        checkpoint.save(path, network.state_dict(), card)

    keep = Keep(
        out,
        settings.val_every,
        score=scores,
        gain=lambda values: gain_over(values, constants, specs),
        write=write,
        say=steps.scored,
        ema=ema,
    )
    processes = machine.devices * machine.nodes
    on_cpu = machine.accelerator == "cpu" or not torch.cuda.is_available()
    if processes > 1:
        watch_patiently()
        module.network = sync_batchnorm.convert(module.network, on_cpu=on_cpu)
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    logging.getLogger("lightning.fabric").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")
    return lightning.Trainer(
        max_steps=settings.steps,
        max_epochs=-1,
        accelerator=machine.accelerator,
        devices=machine.devices,
        num_nodes=machine.nodes,
        strategy="ddp" if processes > 1 else "auto",
        precision=PRECISIONS[settings.precision],
        logger=[CSVLogger(out, name="", version="log"), TensorBoardLogger(out, "", "log")],
        callbacks=[steps, *([ema] if ema else []), keep],
        gradient_clip_val=settings.optim.clip_norm,
        log_every_n_steps=min(10, settings.val_every),
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def gain_over(
    values: dict[str, float], constants: dict[str, float], specs: dict[str, Any]
) -> float:
    """Mean gain over the best constant predictions, in percent; tasks without labels count none."""
    usable = {t: v for t, v in values.items() if constants.get(t) and not math.isnan(v)}
    if not usable:
        return float("-inf")
    baselines = {task: (constants[task], "best constant") for task in usable}
    try:
        return delta_m(usable, baselines, {t: specs[t].metric for t in usable}).delta_m
    except DegmixError:
        return float("-inf")


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

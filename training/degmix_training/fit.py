"""Training: one run in a folder, scored and saved as it goes, which can be resumed."""

from __future__ import annotations

import logging
import re
import time
import warnings
from pathlib import Path
from typing import Any

import lightning
import torch
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger

from degmix_edge import config
from degmix_edge.errors import CheckpointError, ConfigError, OutputError, TrainingError
from degmix_edge.files import make_folder, whole_file
from degmix_edge.progress import Event, Progress, emit, warn
from degmix_training import losses, sync_batchnorm
from degmix_training.backbone import check_backbone
from degmix_training.batches import Batches
from degmix_training.callbacks import LAST, STAGE, STATE, Ema, Keep, Report
from degmix_training.checkpoint import read_card
from degmix_training.config import TrainConfig, network_config
from degmix_training.judge import Judge
from degmix_training.module import Fit
from degmix_training.page import RunPage
from degmix_training.pretrained import check_pretrained
from degmix_training.processes import Machine, first_listening, is_first_process
from degmix_training.qat import Start
from degmix_training.watchdog import watch_patiently

PRECISIONS = {"fp32": "32-true", "bf16": "bf16-mixed", "fp16": "16-mixed"}
MAY_CHANGE = ("steps", "val_every", "pretrained")
"""Settings that a resumed run may have different."""
LONGEST = 200
"""Characters of a setting in a message."""
LOST = r"Connection (closed|reset)|Socket|gloo|NCCL|ProcessGroup|Broken pipe|barrier"
"""What torch says when another process of the job is gone."""


def fit(
    settings: TrainConfig,
    out: Path,
    *,
    resume: bool = False,
    start: Start | None = None,
    machine: Machine | None = None,
    progress: Progress | None = None,
) -> Path:
    """Train as `settings` say.

    `out` gets `config.yaml`, `best.safetensors` and `last.safetensors` (best: the largest mean gain
    over the best constant prediction), `last.ckpt` to resume from, `scores.json`, a page with
    curves and predictions as `report.html`, and losses as CSV and for TensorBoard in `log/`.

    Args:
        settings: Everything that decides the result.
        out: The run's folder.
        resume: Continue from the state that is saved in `out`.
        start: The network that `settings.qat` trains; see `qat.begin`.
        machine: What it runs on; None is one process on the best accelerator.
        progress: Is called on the first process, at each step with a `train` event that has the
            loss, and at each validation with a note of the scores. What it raises ends the run,
            which can be resumed.

    Returns:
        Path of `last.safetensors`.

    Raises:
        ConfigError: A setting does not fit, or there is nothing to resume.
        TrainingError: A loss is not finite, or another process of the job is gone.
        OutputError: The disk is full, or `out` is a file.
        KeyboardInterrupt: It was interrupted; the last saved state can be resumed.
    """
    machine = machine or Machine()
    _check(settings, start, machine)
    if resume:
        _check_resumable(settings, out)
    with first_listening(progress):
        _warn_of_warmup(settings)
        began = time.perf_counter()
        lightning.seed_everything(settings.seed, workers=True, verbose=False)
        batches = Batches(settings, machine.workers)
        module = Fit(settings, start, epoch_steps=len(batches.train) // settings.batch_size)
        make_folder(out)
        if is_first_process():
            with whole_file(out / "config.yaml") as part:
                part.write_text(config.dump(settings))
        if machine.compile:
            module.network.compile()
        trainer = _trainer(settings, out, machine, module, batches)
        module.quantize()
        _run(trainer, module, batches, out / STATE, resume=resume)
        seconds = time.perf_counter() - began
        step, steps = trainer.global_step, settings.steps
        emit(Event(STAGE, "finished", done=step, total=steps, seconds=seconds))
    return out / LAST


def _warn_of_warmup(settings: TrainConfig) -> None:
    if settings.optim.warmup > settings.steps:
        warn(
            f"optim.warmup is {settings.optim.warmup} of {settings.steps} steps, so the "
            "learning rate never reaches optim.lr; lower optim.warmup"
        )


def _check(settings: TrainConfig, start: Start | None, machine: Machine) -> None:
    """Complain of settings that do not fit, before any work."""
    _check_losses(settings)
    _check_consistency(settings)
    _check_batch(settings, machine.devices * machine.nodes)
    _check_start(settings, start, machine)
    if start is None:
        _check_network(settings)


def _check_network(settings: TrainConfig) -> None:
    """Complain of names that nothing has before scenes are rendered, which may take minutes."""
    size = (settings.height, settings.width)
    network = network_config(settings.model, settings.network, size)
    if isinstance(backbone := getattr(network, "backbone", None), str):
        check_backbone(backbone)
    if settings.pretrained not in ("timm", "none"):
        check_pretrained(settings.pretrained)


def _check_losses(settings: TrainConfig) -> None:
    learned = (*settings.task_specs(), *settings.auxiliary())
    missing = [task for task in learned if task not in settings.loss_weights]
    if missing:
        raise ConfigError(f"loss_weights: none for {', '.join(missing)}; set loss_weights.TASK=1.0")
    own = settings.loss_weights.keys() - losses.WEIGHTS.keys()
    if unused := sorted(own - set(learned)):
        raise ConfigError(
            f"loss_weights: {unused[0]!r} is no task of this run: {', '.join(learned)}"
        )


def _check_consistency(settings: TrainConfig) -> None:
    needs = {"normals": ("normals", "depth"), "edges": ("edge", "semseg")}
    for name, tasks in needs.items():
        missing = [task for task in tasks if task not in settings.tasks]
        if getattr(settings.consistency, name) and missing:
            raise ConfigError(
                f"consistency.{name}: compares {' with '.join(tasks)}, and this run has no "
                f"{missing[0]}; set it to 0, or train that task too"
            )


def _check_batch(settings: TrainConfig, processes: int) -> None:
    if settings.batch_size % processes:
        raise ConfigError(
            f"batch_size {settings.batch_size}: expected a multiple of the {processes} processes "
            f"that share it"
        )


def _check_start(settings: TrainConfig, start: Start | None, machine: Machine) -> None:
    if (settings.qat is None) != (start is None):
        raise ConfigError(
            "qat: its settings and the checkpoint that it starts from belong together; give both "
            "with train --qat RECIPE --from CHECKPOINT"
        )
    if start is not None and machine.compile:
        raise ConfigError(
            "--compile: torch.compile cannot follow fake quantization; leave it out with --qat"
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
    # A card of the first format has the former defaults, which config.yaml does not have.
    saved = read_card(out / LAST).config if (out / LAST).exists() else None
    before = (saved or config.load(TrainConfig, out / "config.yaml")).model_dump(mode="json")
    now = settings.model_dump(mode="json")
    changed = [
        f"{key} was {_short(before.get(key))} and is now {_short(now[key])}"
        for key in now
        if key not in MAY_CHANGE and before.get(key) != now[key]
    ]
    if changed:
        raise ConfigError(
            f"{out}: cannot resume with other settings: {'; '.join(changed)}. Only "
            f"{', '.join(MAY_CHANGE)} may change; give the old settings, or another --out"
        )


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def _run(
    trainer: lightning.Trainer, module: Fit, batches: Batches, state: Path, *, resume: bool
) -> None:
    """Train to the last step, with this project's errors in place of the libraries'."""
    try:
        trainer.fit(module, batches, ckpt_path=state if resume else None, weights_only=True)
    except SystemExit as stop:  # Lightning's answer to signals
        if trainer.interrupted:
            raise KeyboardInterrupt from None
        raise _lost(state, trainer, stop) from None
    except OutputError as error:
        advice = "go on with --resume" if state.exists() else "nothing can be resumed: start anew"
        raise OutputError(f"{error}; then {advice}") from None
    except (RuntimeError, ConnectionError) as error:
        if trainer.world_size > 1 and re.search(LOST, str(error)):
            raise _lost(state, trainer, error) from None
        raise


def _lost(state: Path, trainer: Any, error: BaseException) -> TrainingError:
    last = "go on with --resume" if state.exists() else "nothing was saved yet: start anew"
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return TrainingError(
        f"process {trainer.global_rank} of {trainer.world_size}: lost another process of the job "
        f"at step {trainer.global_step} ({first}). See that process's last words; {last}"
    )


def _trainer(
    settings: TrainConfig, out: Path, machine: Machine, module: Fit, batches: Batches
) -> lightning.Trainer:
    report = Report(settings.steps)
    ema = Ema(settings.optim.ema) if settings.optim.ema else None
    judge = Judge(module, batches, out)
    keep = Keep(
        out,
        settings.val_every,
        score=judge.scores,
        gain=judge.gain,
        write=judge.write,
        say=report.scored,
        show=RunPage(judge).write,
        ema=ema,
    )
    processes = machine.devices * machine.nodes
    on_cpu = machine.accelerator == "cpu" or not torch.cuda.is_available()
    if processes > 1:
        watch_patiently()
        module.network = sync_batchnorm.convert(module.network, on_cpu=on_cpu)
    _silence_lightning()
    return lightning.Trainer(
        max_steps=settings.steps,
        max_epochs=-1,
        accelerator=machine.accelerator,
        devices=machine.devices,
        num_nodes=machine.nodes,
        strategy="ddp" if processes > 1 else "auto",
        precision=PRECISIONS[settings.precision],
        # Every row is written at once, so that a killed run has lost none.
        logger=[
            CSVLogger(out, name="", version="log", flush_logs_every_n_steps=1),
            TensorBoardLogger(out, "", "log"),
        ],
        callbacks=[report, *([ema] if ema else []), keep],
        gradient_clip_val=settings.optim.clip_norm,
        log_every_n_steps=min(10, settings.val_every),
        use_distributed_sampler=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )


def _silence_lightning() -> None:
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", module="lightning")

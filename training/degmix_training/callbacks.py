"""Callbacks of the trainer: what they report, average, score and save around the steps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from degmix_edge.errors import TrainingError
from degmix_edge.files import whole_file
from degmix_edge.progress import Event, emit, note

STATE = "last.ckpt"
"""The file that a run resumes from: weights, optimiser and schedule."""
STAGE = "train"
"""The name of the events."""
BEST, LAST, SCORES = "best.safetensors", "last.safetensors", "scores.json"


class Report(Callback):
    """Reports every step and every validation as events, from the first process.

    Args:
        steps: How many steps the run has.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_start(self, trainer: Any, module: Any) -> None:
        """Report where the run starts, which is not at 0 when it is resumed."""
        if trainer.is_global_zero:
            emit(Event(STAGE, done=trainer.global_step, total=self.steps))

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *_: Any) -> None:
        """Report the step and its loss."""
        if trainer.is_global_zero:
            loss = f"loss {float(outputs['loss']):.3f}"
            emit(Event(STAGE, done=trainer.global_step, total=self.steps, detail=loss))

    def scored(self, step: int, scores: dict[str, float]) -> None:
        """Report the scores of a step."""
        text = "  ".join(f"{task} {value:.3f}" for task, value in scores.items())
        note(f"step {step}/{self.steps}  {text}", STAGE)


class Ema(Callback):
    """An exponential moving average of the network's weights and buffers."""

    def __init__(self, decay: float) -> None:
        self.decay = decay
        self.average: AveragedModel | None = None

    def on_fit_start(self, trainer: Any, module: Any) -> None:
        """Start from the network as it is."""
        if self.average is None:
            average = get_ema_multi_avg_fn(self.decay)
            self.average = AveragedModel(module.network, multi_avg_fn=average, use_buffers=True)

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        """Move the average towards the network."""
        assert self.average is not None
        self.average.update_parameters(module.network)

    def on_save_checkpoint(self, trainer: Any, module: Any, checkpoint: dict[str, Any]) -> None:
        """Save the average beside the weights."""
        assert self.average is not None
        checkpoint["ema"] = self.average.state_dict()

    def on_load_checkpoint(self, trainer: Any, module: Any, checkpoint: dict[str, Any]) -> None:
        """Resume with the average that was saved."""
        self.on_fit_start(trainer, module)
        assert self.average is not None
        self.average.load_state_dict(checkpoint["ema"])


class Keep(Callback):
    """Scores the network every `every` steps, and saves the last, the best and the run's state.

    The first process does it. Weights that are not finite never replace good ones.

    Args:
        out: The run's folder.
        every: Steps between scores.
        score: Gives the network's scores by task.
        gain: Turns scores into one number; higher is better.
        write: Writes a checkpoint of a network and its scores to a path.
        say: Is called with the step and its scores.
        show: Is called with the network, the history and the loggers after each score.
        ema: Its average is scored and saved in place of the network.
    """

    def __init__(
        self,
        out: Path,
        every: int,
        *,
        score: Callable[[nn.Module], dict[str, float]],
        gain: Callable[[dict[str, float]], float],
        write: Callable[[Path, nn.Module, dict[str, float], int], None],
        say: Callable[[int, dict[str, float]], None],
        show: Callable[[nn.Module, list[dict[str, Any]], list[Any]], None],
        ema: Ema | None,
    ) -> None:
        self.out, self.every, self.ema = out, every, ema
        self.score, self.gain, self.write, self.say, self.show = score, gain, write, say, show
        self.history: list[dict[str, Any]] = []
        self.saved = -1

    def state_dict(self) -> dict[str, Any]:
        """The history, which a resumed run needs."""
        return {"history": self.history}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.history = state["history"]
        self.saved = self.history[-1]["step"] if self.history else -1

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        """Score and save at every `every`-th step."""
        if trainer.global_step % self.every == 0:
            self._keep(trainer, module)

    def on_train_end(self, trainer: Any, module: Any) -> None:
        """Score and save after the last step."""
        self._keep(trainer, module)

    def _keep(self, trainer: Any, module: Any) -> None:
        step = trainer.global_step
        if step == self.saved:  # gradient accumulation ends several batches at one step
            return
        self.saved = step
        network = self.ema.average.module if self.ema and self.ema.average else module.network
        if trainer.is_global_zero:
            self._score(trainer, network, step)
        # Every process takes part in this save; the first one writes the file.
        with whole_file(self.out / STATE, mine=trainer.is_global_zero) as part:
            trainer.save_checkpoint(part)
        trainer.strategy.barrier()

    def _score(self, trainer: Any, network: nn.Module, step: int) -> None:
        bad = [name for name, value in network.state_dict().items() if not _finite(value)]
        if bad:
            raise TrainingError(
                f"step {step}: {len(bad)} weights are not finite (first: {bad[0]}); the last good "
                f"ones stay in {self.out / LAST}. Lower optim.lr or set optim.clip_norm, and "
                f"--resume"
            )
        was_training = network.training
        network.eval()
        scores = self.score(network)
        self.say(step, scores)
        gain = self.gain(scores)
        best = max((row["gain"] for row in self.history), default=float("-inf"))
        self.history.append({"step": step, "gain": gain, **scores})
        self.write(self.out / LAST, network, scores, step)
        if gain > best or not (self.out / BEST).exists():
            self.write(self.out / BEST, network, scores, step)
        with whole_file(self.out / SCORES) as part:
            part.write_text(json.dumps(self.history, indent=1))
        for logger in trainer.loggers:
            logger.log_metrics({f"val/{task}": v for task, v in scores.items()}, step=step)
        self.show(network, self.history, trainer.loggers)
        network.train(was_training)


def _finite(value: Tensor) -> bool:
    return bool(torch.isfinite(value).all()) if value.is_floating_point() else True

"""What happens around the steps: progress, averages, scores, checkpoints."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import Callback
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from degmix_edge.errors import TrainingError
from degmix_training._files import whole_file

STATE = "last.ckpt"
"""Weights, optimiser and schedule, to resume from."""
BEST, LAST, SCORES = "best.safetensors", "last.safetensors", "scores.json"


class Steps(Callback):
    """A bar with losses and remaining time; without a terminal, a line at each validation."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.console = Console(stderr=True, emoji=False)
        self.bar: Progress | None = None

    def on_train_start(self, trainer: Any, module: Any) -> None:
        """Start the bar on the first process."""
        if not (trainer.is_global_zero and self.console.is_terminal):
            return
        columns = (TextColumn("train"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
        self.bar = Progress(*columns, TextColumn("{task.description}"), console=self.console)
        self.bar.start()
        self.task = self.bar.add_task("", total=self.steps, completed=trainer.global_step)

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, *_: Any) -> None:
        """Move the bar."""
        if self.bar:
            text = f"loss {float(outputs['loss']):.3f}"
            self.bar.update(self.task, completed=trainer.global_step, description=text)

    def scored(self, step: int, scores: dict[str, float]) -> None:
        """Say the scores of a step."""
        text = "  ".join(f"{task} {value:.3f}" for task, value in scores.items())
        print(f"step {step}/{self.steps}  {text}", file=sys.stderr, flush=True)

    def teardown(self, trainer: Any, module: Any, stage: str) -> None:
        """Stop the bar, whatever ended the run."""
        if self.bar:
            self.bar.stop()
            self.bar = None


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
        """Move towards the network."""
        assert self.average is not None
        self.average.update_parameters(module.network)

    def on_save_checkpoint(self, trainer: Any, module: Any, checkpoint: dict[str, Any]) -> None:
        """Keep the average beside the weights."""
        assert self.average is not None
        checkpoint["ema"] = self.average.state_dict()

    def on_load_checkpoint(self, trainer: Any, module: Any, checkpoint: dict[str, Any]) -> None:
        """Go on with the average."""
        self.on_fit_start(trainer, module)
        assert self.average is not None
        self.average.load_state_dict(checkpoint["ema"])


class Keep(Callback):
    """Every `every` steps: score the network, keep the last and the best, and what resumes the run.

    The first process does it. Weights that are not finite are never written over good ones.

    Args:
        out: Folder.
        every: Steps between scores.
        score: The network's scores by task.
        gain: How much better scores are than none, one number; higher is better.
        write: Write a checkpoint of a network and its scores to a path.
        say: Called with the step and its scores.
        ema: Score and keep its average in place of the network.
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
        ema: Ema | None,
    ) -> None:
        self.out, self.every, self.ema = out, every, ema
        self.score, self.gain, self.write, self.say = score, gain, write, say
        self.history: list[dict[str, Any]] = []
        self.saved = -1

    def state_dict(self) -> dict[str, Any]:
        """The history, for a run that is resumed."""
        return {"history": self.history}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See `state_dict`."""
        self.history = state["history"]
        self.saved = self.history[-1]["step"] if self.history else -1

    def on_train_batch_end(self, trainer: Any, module: Any, *_: Any) -> None:
        """At every `every`-th step."""
        if trainer.global_step % self.every == 0:
            self._keep(trainer, module)

    def on_train_end(self, trainer: Any, module: Any) -> None:
        """After the last step."""
        self._keep(trainer, module)

    def _keep(self, trainer: Any, module: Any) -> None:
        step = trainer.global_step
        if step == self.saved:  # gradient accumulation ends several batches at one step
            return
        self.saved = step
        network = self.ema.average.module if self.ema and self.ema.average else module.network
        if trainer.is_global_zero:
            self._score(trainer, network, step)
        # Every process takes part in this one; the file is the first one's.
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
        network.train(was_training)
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


def _finite(value: Tensor) -> bool:
    return bool(torch.isfinite(value).all()) if value.is_floating_point() else True

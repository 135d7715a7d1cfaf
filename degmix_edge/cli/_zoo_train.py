"""The trainings of a zoo: each in a process of its own, started by the verb that people have."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from degmix_edge import config
from degmix_edge.cli._files import make_folder, write_file
from degmix_edge.cli._output import Output
from degmix_edge.errors import TrainingError

if TYPE_CHECKING:
    from degmix_training.config import TrainConfig


def train(output: Output, out: Path, runs: dict[str, TrainConfig], machine: dict[str, Any]) -> None:
    """Train each of `runs` into `OUT/NAME/run`, from where it stopped; finished ones stay.

    Raises:
        TrainingError: One ended otherwise than with its last step.
        KeyboardInterrupt: It was interrupted; what was saved stays.
    """
    todo = {n: s for n, s in runs.items() if not _is_trained(out / n / "run", s)}
    if not todo:
        return
    done = {n: _step(out / n / "run") for n in todo}
    turns = {name: turn for turn, name in enumerate(runs)}
    total = sum(s.steps for s in todo.values()) - sum(done.values())
    start = time.perf_counter()
    with output.progress(f"train {len(todo)} networks", total) as advance:
        made = 0
        for index, (name, settings) in enumerate(todo.items()):
            began = time.perf_counter()
            places = _environment(turns[name])
            made += _train_one(output, out / name, settings, machine, places, advance)
            spent = time.perf_counter() - start
            left = (total - made) * spent / max(made, 1)
            output.say(
                f"{name}: trained in {time.perf_counter() - began:.0f} s; "
                f"{len(todo) - index - 1} networks left, about {left / 60:.1f} min"
            )


def _environment(turn: int) -> dict[str, str]:
    """Of the processes of training `turn`: under torchrun, a place of their own to meet.

    Its agent remembers where the processes of the last training met.
    """
    places = dict(os.environ)
    if "TORCHELASTIC_RUN_ID" in places:
        places["TORCHELASTIC_USE_AGENT_STORE"] = "False"
        places["MASTER_PORT"] = str(int(places["MASTER_PORT"]) + 1 + turn)
    return places


def _train_one(
    output: Output,
    folder: Path,
    settings: TrainConfig,
    machine: dict[str, Any],
    environment: dict[str, str],
    advance: Any,
) -> int:
    """Returns the steps made.

    Raises:
        TrainingError: The training ended otherwise than with its last step.
        KeyboardInterrupt: It was interrupted.
    """
    make_folder(folder)
    run = folder / "run"
    write_file(folder / "train.yaml", config.dump(settings).encode(), force=True)
    command = [sys.executable, "-m", "degmix_edge", "train", str(folder / "train.yaml")]
    command += ["--out", str(run), "--resume" if (run / "last.ckpt").exists() else "--force"]
    for key, value in machine.items():
        command += [f"--{key}", str(value)]
    first = step = _step(run)
    lines: list[str] = []
    process = subprocess.Popen(
        command,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    try:
        assert process.stderr is not None
        for line in process.stderr:
            lines = [*lines[-20:], line.rstrip()]
            if line.startswith("step "):
                now = int(line.split()[1].partition("/")[0])
                advance(now - step)
                step = now
                output.say(f"  {folder.name}: {line.strip()}")
        code = process.wait()
    except BaseException:
        process.terminate()
        process.wait()
        raise
    if code == 130:
        raise KeyboardInterrupt
    if code:
        words = next((x for x in reversed(lines) if "error" in x.lower()), " ".join(lines[-3:]))
        raise TrainingError(
            f"{folder.name}: training ended with code {code} at step {step}: {words}. The others "
            f"keep what they have; the same command goes on"
        )
    return int(settings.steps - first)


def _step(run: Path) -> int:
    """Of the last saved state."""
    from degmix_training.checkpoint import read_card

    path = run / "last.safetensors"
    return int(read_card(path).step) if path.exists() else 0


def _is_trained(run: Path, settings: TrainConfig) -> bool:
    return _step(run) >= settings.steps and (run / "best.safetensors").exists()

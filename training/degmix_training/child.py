"""Train in a process of its own: one that aborts or is killed ends that process only.

`python -m degmix_training.child CONFIG OUT OPTIONS` is that process. OPTIONS is a JSON object:
`resume`, and `machine` with the fields of a `Machine`. Each line that it prints on stdout is a
JSON object: `event`, or the `error` that ended it. It is a module because Lightning starts the
other processes of a training on several devices by running the same command again.
"""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from degmix_edge import errors
from degmix_edge.errors import INTERRUPTED, DegmixError, TrainingError
from degmix_edge.progress import Event, Progress, emit
from degmix_training.processes import Machine

LAST_LINES = 5


def fit_in_child(
    config: Path,
    out: Path,
    *,
    resume: bool = False,
    machine: Machine | None = None,
    environment: Mapping[str, str] | None = None,
    progress: Progress = emit,
) -> None:
    """Train as the settings in the file `config` say, as `fit.fit` does, in a child process.

    Args:
        config: The YAML file of a `TrainConfig`.
        out: The run's folder.
        resume: Continue from the state that is saved in `out`.
        machine: What it runs on; None is one process on the best accelerator.
        environment: The child's environment variables; None is those of this process.
        progress: Is called in this process with the child's events. What it raises stops the child.

    Raises:
        DegmixError: The error that ended the child, of its own class.
        TrainingError: The child died; the message has its last lines.
        KeyboardInterrupt: The child was interrupted.
    """
    options = {"resume": resume, "machine": asdict(machine) if machine else {}}
    command = [sys.executable, "-m", "degmix_training.child"]
    command += [str(config), str(out), json.dumps(options)]
    with tempfile.TemporaryFile("w+", errors="replace") as words:
        child = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=words,
            text=True,
            errors="replace",
        )
        error = _follow(child, progress)
        if child.returncode == INTERRUPTED:
            raise KeyboardInterrupt
        if error is not None:
            raise getattr(errors, error["type"])(error["message"])
        if child.returncode:
            words.seek(0)
            raise TrainingError(_died(child.returncode, words.read()))


def _follow(child: subprocess.Popen[str], progress: Progress) -> dict[str, str] | None:
    """Pass on the child's events until it ends; the first error is what ended it."""
    assert child.stdout is not None
    error = None
    try:
        with child.stdout:  # closed before the child is stopped, which could wait for a reader
            for line in child.stdout:
                values = _parsed(line)
                if "event" in values:
                    rows = tuple(tuple(row) for row in values["event"]["rows"])
                    progress(Event(**{**values["event"], "rows": rows}))
                elif "error" in values:  # other processes then report that they lost this one
                    error = error or values["error"]
        child.wait()
    except BaseException:
        _stop(child)
        raise
    return error


def _stop(child: subprocess.Popen[str]) -> None:
    """Let the child end its step and what it writes; a second Ctrl-C kills it."""
    child.terminate()
    try:
        child.wait()
    except BaseException:
        child.kill()
        child.wait()
        raise


def _parsed(line: str) -> dict[str, Any]:
    """The line's object; empty where a library printed something else."""
    try:
        values = json.loads(line)
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}


def _died(code: int, words: str) -> str:
    last = " | ".join(words.strip().splitlines()[-LAST_LINES:]) or "none"
    if code == -signal.SIGKILL:
        return (
            f"the training process was killed, which is what the system does when memory runs out. "
            f"Its last lines: {last}"
        )
    how = f"signal {-code}" if code < 0 else f"code {code}"
    return f"the training process ended with {how}. Its last lines: {last}"


def _tell(lines: IO[str], **values: Any) -> None:
    lines.write(json.dumps(values) + "\n")
    lines.flush()


def _main(config_path: Path, out: Path, options: dict[str, Any]) -> int:
    lines, sys.stdout = sys.stdout, sys.stderr  # what libraries print is no event
    try:
        from degmix_edge import config
        from degmix_training.config import TrainConfig
        from degmix_training.fit import fit

        fit(
            config.load(TrainConfig, config_path),
            out,
            resume=options["resume"],
            machine=Machine(**options["machine"]),
            progress=lambda event: _tell(lines, event=asdict(event)),
        )
    except DegmixError as error:
        _tell(lines, error={"type": type(error).__name__, "message": str(error)})
        return error.exit_code
    except KeyboardInterrupt:
        return INTERRUPTED
    return 0


if __name__ == "__main__":
    sys.exit(_main(Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])))

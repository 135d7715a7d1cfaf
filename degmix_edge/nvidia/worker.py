"""Build a plan in a process of its own: a builder that aborts or is killed ends that process only.

`python -m degmix_edge.nvidia.worker FLAVOUR FOLDER` is that process: it reads `model.onnx` and
`options.json` in FOLDER, and writes `engine.plan` and `layers.json`, or `error.json`; each line of
its output is a step of the builder.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from degmix_edge import errors
from degmix_edge.errors import BuildError, DegmixError
from degmix_edge.nvidia.trt import build as trt_build
from degmix_edge.nvidia.trt import load as trt_load

LOG_LINES = 5
STEP = "step "


def build_in_child(
    flavour: trt_load.Flavour,
    model: bytes,
    options: trt_build.BuilderOptions,
    progress: Callable[[str, int, int], None] | None = None,
) -> trt_build.Built:
    """Call `trt_build.build_plan` in a child process; `progress` is called in this one.

    Raises:
        BackendError, GraphError, BuildError: Those of `trt_build.build_plan`; a child that died
            raises BuildError with its last lines.
    """
    with tempfile.TemporaryDirectory(prefix="degmix-build-") as name:
        folder = Path(name)
        (folder / "model.onnx").write_bytes(model)
        (folder / "options.json").write_text(json.dumps(asdict(options)))
        command = _command(flavour, name)
        environment = dict(os.environ)
        if flavour == "tensorrt-rtx":
            (folder / "lib").mkdir()
            trt_load.link_rtx(folder / "lib")
            paths = [str(folder / "lib"), *filter(None, [os.environ.get("LD_LIBRARY_PATH")])]
            environment["LD_LIBRARY_PATH"] = os.pathsep.join(paths)
        child = _follow(command, environment, folder / "stderr", progress)
        if (folder / "error.json").exists():
            values = json.loads((folder / "error.json").read_text())
            raise getattr(errors, values["type"])(_with_reasons(values["message"], child.stderr))
        if child.returncode != 0:
            raise BuildError(_died(flavour, child))
        values = json.loads((folder / "layers.json").read_text())
        layers = tuple(
            trt_build.Layer(
                x["name"], x["kind"], tuple(x["types"]), tuple(tuple(s) for s in x["shapes"])
            )
            for x in values["layers"]
        )
        return trt_build.Built((folder / "engine.plan").read_bytes(), layers, values["version"])


def _with_reasons(message: str, stderr: str) -> str:
    """With what our plugin says of its refusals where it has no logger that it may call."""
    lines = dict.fromkeys(stderr.splitlines())
    reasons = [x for x in lines if x.startswith(trt_load.PLUGIN) and x not in message]
    return ". ".join([message, *reasons])


def _follow(
    command: list[str],
    environment: dict[str, str],
    errors_file: Path,
    progress: Callable[[str, int, int], None] | None,
) -> subprocess.CompletedProcess[str]:
    """Run the child, and hand on its steps; what it says besides is kept."""
    said = []
    with errors_file.open("w") as stderr:
        child = subprocess.Popen(
            command,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            errors="replace",
        )
        assert child.stdout is not None
        try:
            for line in child.stdout:
                if not line.startswith(STEP):
                    said.append(line)
                elif progress is not None:
                    progress(*json.loads(line[len(STEP) :]))
            child.wait()
        except BaseException:
            child.kill()
            child.wait()
            raise
    text = errors_file.read_text(errors="replace")
    return subprocess.CompletedProcess(command, child.returncode, "".join(said), text)


def _command(flavour: str, folder: str) -> list[str]:
    return [sys.executable, "-m", "degmix_edge.nvidia.worker", flavour, folder]


def _died(flavour: str, child: subprocess.CompletedProcess[str]) -> str:
    last = " | ".join((child.stderr or child.stdout).strip().splitlines()[-LOG_LINES:])
    if child.returncode == -signal.SIGKILL:
        return (
            f"{flavour}: the builder was killed, which is what the system does when memory runs "
            f"out. Close other programs, add swap, or lower the optimization level. {last}"
        )
    how = f"signal {-child.returncode}" if child.returncode < 0 else f"code {child.returncode}"
    return f"{flavour}: the builder's process ended with {how}. Its last lines: {last or 'none'}"


def _say(phase: str, done: int, steps: int) -> None:
    print(f"{STEP}{json.dumps([phase, done, steps])}", flush=True)


def _main(flavour: Any, folder: Path) -> None:
    values = json.loads((folder / "options.json").read_text())
    values["compute_capabilities"] = tuple(values["compute_capabilities"])
    model = (folder / "model.onnx").read_bytes()
    try:
        built = trt_build.build_plan(flavour, model, trt_build.BuilderOptions(**values), _say)
    except DegmixError as error:
        text = json.dumps({"type": type(error).__name__, "message": str(error)})
        (folder / "error.json").write_text(text)
        return
    (folder / "engine.plan").write_bytes(built.plan)
    table = {"version": built.version, "layers": trt_build.layer_table(built.layers)}
    (folder / "layers.json").write_text(json.dumps(table))


if __name__ == "__main__":
    _main(sys.argv[1], Path(sys.argv[2]))

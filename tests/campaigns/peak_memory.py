"""How much memory an engine takes at its peak: in a process of its own, which runs nothing else.

    python tests/campaigns/peak_memory.py onnxruntime spec.json engine.onnx feed.npz 1

A process keeps what earlier engines freed, so that of several in one process only the first could
be measured. The child imports no PyTorch and no onnx, like a robot.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from degmix_edge import backends
from degmix_edge.network import NetworkSpec

CALLS = 2
"""A second call may need more than the first, because it keeps what the first one allocated."""


def peak_mib(
    spec: NetworkSpec, backend: str, engine: bytes, feed: Mapping[str, np.ndarray], threads: int
) -> float:
    """Return the largest resident memory in MiB of a process that runs an engine.

    Args:
        spec: The network.
        backend: The backend's name.
        engine: What it built.
        feed: One call's inputs by name.
        threads: CPU threads.
    """
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "spec.json").write_text(spec.model_dump_json())
        (folder / "engine").write_bytes(engine)
        np.savez(folder / "feed.npz", **feed)
        files = [str(folder / file) for file in ("spec.json", "engine", "feed.npz")]
        command = [sys.executable, __file__, backend, *files, str(threads)]
        path = os.pathsep.join(filter(None, sys.path))
        environment = {**os.environ, "PYTHONPATH": path}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise ChildProcessError(f"{backend}: {done.stderr.strip()[-500:]}")
    return float(json.loads(done.stdout)["peak_mib"])


def main(backend: str, spec: str, engine: str, feed: str, threads: str) -> None:
    """Run an engine, and print the peak of this process."""
    network = NetworkSpec.model_validate_json(Path(spec).read_bytes())
    with np.load(feed) as arrays:
        inputs = dict(arrays)
    chosen = backends.find(backend)
    with chosen(network, Path(engine).read_bytes(), threads=int(threads)) as running:
        for _ in range(CALLS):
            running.infer(inputs)
    (line,) = [s for s in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in s]
    print(json.dumps({"peak_mib": int(line.split()[1]) / 1024}))


if __name__ == "__main__":
    main(*sys.argv[1:])

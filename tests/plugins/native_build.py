"""Building plugins/ with cmake."""

import shutil
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
INTERFACE = Path(__file__).parent / "tensorrt_interface"


def configure(folder: Path, *options: str) -> str:
    """Configure plugins/ as a project of its own; what cmake said."""
    command = ["cmake", "-S", str(ROOT / "plugins"), "-B", str(folder), *options]
    if shutil.which("ninja"):
        command += ["-G", "Ninja"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout

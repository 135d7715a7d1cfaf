"""Registers and spills of every kernel, as nvcc reports them, into plugins/README.md.

python plugins/tools/resources.py [87 90a ...]
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

from sass import plain

PLUGINS = Path(__file__).resolve().parents[1]
README = PLUGINS / "README.md"
BEGIN, END = "<!-- resources -->\n", "<!-- end of resources -->\n"
KERNEL = re.compile(
    r"Compiling entry function '(\w+)' for 'sm_(\w+)'.*?(\d+) bytes stack frame, (\d+) bytes spill "
    r"stores, (\d+) bytes spill loads.*?Used (\d+) registers",
    re.DOTALL,
)


def compiled(source: Path, architectures: list[str]) -> str:
    """What ptxas says of a file."""
    targets = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in architectures]
    with tempfile.TemporaryDirectory() as folder:
        command = ["nvcc", "-std=c++17", "-O3", f"-I{PLUGINS}", "-Xptxas=-v", *targets, "-c"]
        command += [str(source), "-o", f"{folder}/x.o"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stderr


def table(architectures: list[str]) -> str:
    """A markdown table: a row a kernel, registers by architecture."""
    rows: dict[str, dict[str, str]] = {}
    for source in sorted(PLUGINS.glob("*/*.cu")):
        if source.stem != source.parent.name:
            continue  # of a benchmark
        for symbol, arch, stack, stores, loads, used in KERNEL.findall(
            compiled(source, architectures)
        ):
            spills = int(stores) + int(loads)
            cell = used + (f", {stack} B stack" if stack != "0" else "")
            rows.setdefault(plain(symbol), {})[arch] = cell + (
                f", {spills} B SPILLED" if spills else ""
            )
    lines = ["| kernel | " + " | ".join(f"sm_{a}" for a in architectures) + " |"]
    lines.append("|---" * (len(architectures) + 1) + "|")
    for name in sorted(rows):
        cells = [rows[name].get(a, "-") for a in architectures]
        lines.append(f"| `{name}` | " + " | ".join(cells) + " |")
    version = subprocess.run(["nvcc", "--version"], capture_output=True, text=True).stdout
    release = re.search(r"V([\d.]+)", version)
    spilled = "SPILLED" in "".join(lines)
    said = "some kernels spill" if spilled else "no kernel spills"
    return (
        f"Registers a thread, nvcc {release[1] if release else '?'}; {said}.\n\n"
        + "\n".join(lines)
        + "\n"
    )


def main() -> None:
    """Rewrite the table."""
    made = table(sys.argv[1:] or ["75", "80", "87", "90a", "100", "110", "120"])
    text = README.read_text()
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    README.write_text(head + BEGIN + made + END + tail)
    print(made)


if __name__ == "__main__":
    main()

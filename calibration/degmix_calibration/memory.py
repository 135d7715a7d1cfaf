"""How much memory a calibration may take on this machine."""

from __future__ import annotations

from pathlib import Path

LEAST = 512 << 20
"""Bytes that a calibration takes even where less than four times as many are free, or where nobody
says what is free."""
SHARE = 4
"""Values take at most this part of the free memory: ONNX Runtime holds others beside them."""


def values_bytes(root: Path = Path("/")) -> int:
    """Return how many bytes of values one run may return.

    Args:
        root: Root of the file system whose `/proc` and `/sys` say what is free.
    """
    free = [n for n in (_of_machine(root), _of_container(root)) if n is not None]
    return max(LEAST, min(free, default=0) // SHARE)


def _of_machine(root: Path) -> int | None:
    for line in _lines(root / "proc/meminfo"):
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return int(value.split()[0]) << 10
    return None


def _of_container(root: Path) -> int | None:
    """What a container's own limit leaves; None where it has none."""
    group = root / "sys/fs/cgroup"
    numbers = [_lines(group / name) for name in ("memory.max", "memory.current")]
    if not all(lines and lines[0].isdigit() for lines in numbers):
        return None
    most, now = (int(lines[0]) for lines in numbers)
    return max(0, most - now)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []

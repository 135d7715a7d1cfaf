"""What a machine is, read from its files: board, L4T, JetPack, power mode and clocks.

No program is started and nothing is written. Every function takes the root of the file tree, and
what no file says is None.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

JETPACKS = {"36.3": "6.0", "36.4.0": "6.1", "36.4.3": "6.2", "38.2": "7.0", "39.2": "7.2"}
"""Releases of JetPack by the L4T that they brought."""
GENERATIONS = {"35": "5.x", "36": "6.x", "38": "7.x", "39": "7.x"}
"""The generation of JetPack by the major version of L4T, for releases between these."""
ROOT = Path("/")


@dataclass(frozen=True)
class Clock:
    """A clock in MHz: the range in which it may move, and where it is.

    Attributes:
        is_locked: Whether the range is a single value, as `jetson_clocks` makes it.
    """

    now_mhz: float
    min_mhz: float | None = None
    max_mhz: float | None = None
    governor: str | None = None

    @property
    def is_locked(self) -> bool:
        """Whether the clock cannot move."""
        return self.min_mhz is not None and self.min_mhz == self.max_mhz


@dataclass(frozen=True)
class Board:
    """A machine. None, or an empty mapping, is not known.

    Attributes:
        model: The board's own name, such as `NVIDIA Jetson AGX Orin Developer Kit`.
        l4t: The version of Jetson Linux, such as `36.4.3`.
        jetpack: The version of JetPack, such as `6.2`.
        power_mode: The mode of nvpmodel, such as `MAXN`.
        clocks: By name: `gpu`, `emc`, and one for each group of cores.
    """

    model: str | None = None
    l4t: str | None = None
    jetpack: str | None = None
    power_mode: str | None = None
    clocks: dict[str, Clock] = field(default_factory=dict)

    @property
    def is_jetson(self) -> bool:
        """Whether Jetson Linux runs here."""
        return self.l4t is not None


def read_board(root: Path = ROOT) -> Board:
    """Return what the files below `root` say of the machine."""
    model = file_text(root / "proc/device-tree/model") or file_text(
        root / "sys/class/dmi/id/product_name"
    )
    l4t = read_l4t(root)
    return Board(model, l4t, read_jetpack(root, l4t), read_power_mode(root), read_clocks(root))


def read_l4t(root: Path = ROOT) -> str | None:
    """Return the version of Jetson Linux, such as `36.4.3`."""
    text = file_text(root / "etc/nv_tegra_release") or ""
    found = re.match(r"# R(\d+) \(release\), REVISION: ([\d.]+)", text)
    return f"{found[1]}.{found[2]}" if found else None


def read_jetpack(root: Path, l4t: str | None) -> str | None:
    """Return the version of JetPack: that of its package, else the one that brought this L4T."""
    packages = file_text(root / "var/lib/dpkg/status") or ""
    found = re.search(r"^Package: nvidia-jetpack\n(?:\S.*\n)*?Version: (\S+)", packages, re.M)
    if found:
        return found[1].partition("+")[0]
    if l4t is None:
        return None
    for release in (l4t, l4t.rpartition(".")[0]):
        if release in JETPACKS:
            return JETPACKS[release]
    return GENERATIONS.get(l4t.partition(".")[0])


def read_power_mode(root: Path = ROOT) -> str | None:
    """Return the mode that nvpmodel set, by the name in its own table."""
    number = re.search(r"pmode:(\d+)", file_text(root / "var/lib/nvpmodel/status") or "")
    if number is None:
        return None
    table = file_text(root / "etc/nvpmodel.conf") or ""
    names: dict[str, str] = dict(re.findall(r"<\s*POWER_MODEL\s+ID=(\d+)\s+NAME=(\S+)\s*>", table))
    mode = str(int(number[1]))
    return names.get(mode, f"mode {mode}")


def read_clocks(root: Path = ROOT) -> dict[str, Clock]:
    """Return the clocks of the GPU, the memory and the processor's groups of cores."""
    clocks = {}
    for folder in sorted((root / "sys/class/devfreq").glob("*")):
        name = _clock_name(folder.name)
        if name and (clock := _clock(folder, "cur_freq", "{}_freq", 1e6)):
            clocks[name] = clock
    for folder in sorted((root / "sys/devices/system/cpu/cpufreq").glob("policy*")):
        if clock := _clock(folder, "scaling_cur_freq", "scaling_{}_freq", 1e3):
            clocks[f"cpu{folder.name.removeprefix('policy')}"] = clock
    return clocks


def _clock_name(folder: str) -> str | None:
    """Orin has `17000000.gpu`, Thor `gpu-gpc-0`, `gpu-nvd-0` and `bwmgr` for the memory."""
    if folder == "bwmgr":
        return "emc"
    if folder.startswith("gpu"):
        return folder
    return "gpu" if folder.endswith((".gpu", ".ga10b", ".gv11b")) else None


def _clock(folder: Path, now: str, limit: str, per_mhz: float) -> Clock | None:
    values = [
        file_number(folder / name) for name in (now, limit.format("min"), limit.format("max"))
    ]
    current, low, high = (None if value is None else value / per_mhz for value in values)
    if current is None:
        return None
    governor = "scaling_governor" if "scaling" in now else "governor"
    return Clock(current, low, high, file_text(folder / governor))


def file_text(path: Path) -> str | None:
    """Return the text of a file without the bytes around it; None where it cannot be read."""
    try:
        # A device tree ends its strings with a NUL, and sysfs with a new line.
        return path.read_bytes().decode(errors="replace").strip("\0\n ") or None
    except OSError:
        return None


def memory_bytes(root: Path) -> dict[str, int]:
    """Return the machine's memory by the names of `/proc/meminfo`, such as `MemAvailable`.

    Args:
        root: Root of the file system; without its `/proc`, nothing is known.
    """
    text = file_text(root / "proc/meminfo") or ""
    found = re.findall(r"^(\w+):\s+(\d+) kB", text, re.M)
    return {name: 1024 * int(size) for name, size in found}


def file_number(path: Path) -> int | None:
    """Return the whole number in a file; None where there is none."""
    text = file_text(path)
    try:
        return None if text is None else int(text)
    except ValueError:
        return None

"""What the machine itself has: board, power mode, memory, cameras, ROS, keys, the cache.

Functions that read files take the root of the file tree, and those that ask the environment take
its variables, so that any machine can be examined.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Literal

from degmix_edge.bundle import signing
from degmix_edge.config import cache_folder
from degmix_edge.errors import ConfigError, OutputError
from degmix_edge.files import check_folder
from degmix_edge.workflows.board import ROOT, Board, file_text, memory_bytes, read_board

Status = Literal["ok", "note", "missing"]
ROS_2 = ("humble", "iron", "jazzy", "kilted", "lyrical", "rolling")
LOW_MEMORY_BYTES = 1_000_000_000
SMALL_BOARD_BYTES = 9_000_000_000
"""A board with less memory than this needs swap to build engines."""
SWAP = (
    "sudo fallocate -l 8G /swapfile && sudo chmod 600 /swapfile && sudo mkswap /swapfile && "
    "sudo swapon /swapfile"
)
VIDEO_GROUP = 'sudo usermod -aG video "$USER", and log in again'


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: The thing.
        status: `ok`, `note` for what may be as it should be, or `missing`.
        found: What is there, in words.
        advice: One line to type, or to do; empty where there is nothing to do.
    """

    name: str
    status: Status
    found: str
    advice: str = ""


def system_checks(root: Path = ROOT) -> list[Check]:
    """Look at the machine: on a Jetson also at its power mode, its clocks and its swap."""
    board = read_board(root)
    checks = [board_check(board), memory_check(root)]
    if board.is_jetson:
        checks += [power_check(board, root), swap_check(root)]
    return [
        *checks,
        clocks_check(board),
        camera_check(root),
        ros_check(root),
        cache_check(),
        signing_check(),
    ]


def board_check(board: Board) -> Check:
    """Name the board and what NVIDIA's software calls itself."""
    if not board.is_jetson:
        return Check("board", "ok", f"{board.model or 'not known'}; no Jetson")
    jetpack = board.jetpack or "not known"
    found = f"{board.model or 'not known'}, L4T {board.l4t}, JetPack {jetpack}"
    if jetpack.startswith(("5.", "4.")):
        return Check("board", "note", found, "JetPack 6.2 or 7.2 is supported: flash it anew")
    return Check("board", "ok", found)


def power_check(board: Board, root: Path = ROOT) -> Check:
    """Say which power mode nvpmodel set, and how to set the one without limits."""
    if board.power_mode is None:
        return Check("power mode", "note", "not known", "sudo nvpmodel -q")
    if board.power_mode.startswith("MAXN"):
        return Check("power mode", "ok", board.power_mode)
    table = file_text(root / "etc/nvpmodel.conf") or ""
    found = re.search(r"ID=(\d+)\s+NAME=MAXN\S*", table)
    advice = f"sudo nvpmodel -m {found[1]}, where the robot's power allows it" if found else ""
    return Check("power mode", "note", board.power_mode, advice)


def clocks_check(board: Board) -> Check:
    """Say whether clocks move: latencies of two runs then differ for that reason alone."""
    if not board.clocks:
        return Check("clocks", "ok", "not known")
    words = []
    for name, clock in board.clocks.items():
        limits = (clock.min_mhz, clock.max_mhz)
        low, high = ("?" if limit is None else f"{limit:.0f}" for limit in limits)
        span = "locked" if clock.is_locked else f"{low} to {high}"
        words.append(f"{name} {clock.now_mhz:.0f} MHz ({span})")
    found = ", ".join(words)
    if all(clock.is_locked or clock.min_mhz is None for clock in board.clocks.values()):
        return Check("clocks", "ok", found)
    if board.is_jetson:
        return Check("clocks", "note", found, "sudo jetson_clocks, for steady latencies")
    slow = [n for n, clock in board.clocks.items() if clock.governor == "powersave"]
    advice = "sudo cpupower frequency-set -g performance, for steady latencies" if slow else ""
    return Check("clocks", "note", found, advice)


def memory_check(root: Path = ROOT) -> Check:
    """Say how much memory there is and how much of it is free."""
    sizes = memory_bytes(root)
    if not {"MemTotal", "MemAvailable"} <= sizes.keys():
        return Check("memory", "ok", "not known")
    total, free = sizes["MemTotal"], sizes["MemAvailable"]
    found = f"{total / 1e9:.1f} GB, {free / 1e9:.1f} GB free"
    if free < LOW_MEMORY_BYTES:
        advice = (
            "end other programs; on a robot without a screen: sudo systemctl isolate multi-user"
        )
        return Check("memory", "missing", found, advice)
    return Check("memory", "ok", found)


def swap_check(root: Path = ROOT) -> Check:
    """Say how much swap there is: TensorRT needs it on small boards to build engines."""
    sizes = memory_bytes(root)
    swap, total = sizes.get("SwapTotal"), sizes.get("MemTotal")
    if swap is None:
        return Check("swap", "ok", "not known")
    found = f"{swap / 1e9:.1f} GB"
    if swap == 0 and total is not None and total < SMALL_BOARD_BYTES:
        return Check("swap", "note", "none, which is little for building engines", SWAP)
    return Check("swap", "ok", found)


def camera_check(root: Path = ROOT) -> Check:
    """List the cameras with their formats, and those that this user may not open."""
    names = dict(_cameras(root))
    modes = _modes() if root == ROOT else {}
    words = [
        f"{path} ({name})" + (f": {modes[path]}" if modes.get(path) else "")
        for path, name in names.items()
    ]
    if not names:
        return Check("cameras", "note", "none", "needed for /dev/video sources only")
    shut = [path for path in names if not os.access(root / path.lstrip("/"), os.R_OK | os.W_OK)]
    if shut:
        words.append(f"may not be opened: {', '.join(shut)}")
        return Check("cameras", "missing", "; ".join(words), VIDEO_GROUP)
    return Check("cameras", "ok", "; ".join(words))


def _cameras(root: Path) -> Iterator[tuple[str, str]]:
    """Device and name of every camera; a driver's further devices give no pictures."""
    for folder in sorted((root / "sys/class/video4linux").glob("video*"), key=_number):
        if (file_text(folder / "index") or "0") == "0":
            yield f"/dev/{folder.name}", file_text(folder / "name") or "not known"


def _number(folder: Path) -> tuple[int, str]:
    return len(folder.name), folder.name


def _modes() -> dict[str, str]:
    """What each camera offers, where this package can ask it."""
    if find_spec("degmix_edge.capture.v4l2") is None:
        return {}
    from importlib import import_module

    cameras = import_module("degmix_edge.capture.v4l2").list_cameras()
    return {camera.path: "; ".join(map(str, camera.modes)) for camera in cameras}


def ros_check(
    root: Path = ROOT, environment: Mapping[str, str] = os.environ, has_rclpy: bool | None = None
) -> Check:
    """Say which ROS 2 is installed, whether it is sourced, and whether Python finds it."""
    folders = [folder.name for folder in sorted((root / "opt/ros").glob("*"))]
    installed = [name for name in folders if name in ROS_2]
    distribution = environment.get("ROS_DISTRO")
    importable = find_spec("rclpy") is not None if has_rclpy is None else has_rclpy
    if distribution and importable:
        return Check("ros", "ok", f"ROS 2 {distribution}, rclpy can be imported")
    if distribution:
        advice = "make the virtual environment with --system-site-packages, by the Python of ROS"
        return Check("ros", "missing", f"ROS 2 {distribution}, rclpy cannot be imported", advice)
    if importable:
        return Check("ros", "ok", "rclpy can be imported; ROS_DISTRO is not set")
    if installed:
        advice = f"source /opt/ros/{installed[-1]}/setup.bash"
        return Check("ros", "note", f"ROS 2 {', '.join(installed)}, not sourced", advice)
    return Check("ros", "note", "no ROS 2", "needed for `degmix-edge ros` only")


def cache_check() -> Check:
    """Say where rebuilt engines are kept, how large that is, and whether it can be written."""
    folder = cache_folder()
    files = [path for path in folder.rglob("*") if path.is_file()] if folder.is_dir() else []
    size = sum(path.stat().st_size for path in files)
    place = folder
    while not place.exists() and place != place.parent:
        place = place.parent
    found = f"{folder}: {len(files)} files, {size / 1e6:.1f} MB"
    try:
        check_folder(place)
    except OutputError:
        advice = (
            "set DEGMIX_CACHE to a folder that can be written, else engines are built each time"
        )
        return Check("cache", "missing", f"{found}, cannot be written", advice)
    return Check("cache", "ok", f"{found}, {shutil.disk_usage(place).free / 1e9:.0f} GB free")


def signing_check() -> Check:
    """Say which bundles are taken: all of them, or those that known keys signed."""
    try:
        policy = signing.policy()
    except ConfigError as error:
        return Check("signatures", "missing", "not usable", str(error))
    if policy.trust == "any":
        advice = f"export {signing.TRUST}=signed {signing.KEYS}=fleet.pub.pem, to refuse strangers'"
        return Check("signatures", "note", "bundles need none", advice)
    if find_spec("cryptography") is None:
        advice = "pip install 'degmix-edge[sign]'"
        return Check("signatures", "missing", "asked for, and cannot be checked", advice)
    if not policy.keys:
        advice = f"export {signing.KEYS}=fleet.pub.pem"
        return Check("signatures", "missing", "asked for, and there is no key", advice)
    from degmix_edge.bundle.keys import read_trusted

    try:
        pairs = [read_trusted(path) for path in policy.keys]
    except ConfigError as error:
        return Check("signatures", "missing", "asked for, and a key cannot be read", str(error))
    keys, authorities = (sum(len(pair[i]) for pair in pairs) for i in (0, 1))
    return Check("signatures", "ok", f"asked for: {keys} keys, {authorities} authorities")

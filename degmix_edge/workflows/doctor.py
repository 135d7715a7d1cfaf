"""What this machine has, what is missing, and the command that mends it."""

from __future__ import annotations

import platform
import shutil
import sys
import tempfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from degmix_edge import __version__, backends
from degmix_edge.backends import _cpu_ops, _trt_plugin
from degmix_edge.errors import ConfigError, DegmixError
from degmix_edge.nvidia import cuda
from degmix_edge.nvidia.trt import load as trt_load
from degmix_edge.workflows.bench import cpu_name

ROLES = {
    "cpu": ("onnxruntime",),
    "export": ("torch", "torchvision", "timm", "onnx", "onnxscript", "onnx-graphsurgeon"),
    "compare": ("polygraphy",),
    "train": ("lightning", "tensorboard", "scipy", "safetensors"),
    "demo": ("scikit-image",),
    "tensorrt": ("tensorrt", "pycuda or cuda-bindings", "onnx", "onnx-graphsurgeon"),
    "tensorrt-rtx": ("tensorrt_rtx_cu13_bindings", "onnxruntime-ep-nv-tensorrt-rtx-cu13"),
}
"""Packages by extra; of packages that stand in for each other the first one is used."""
OPTIONAL = ("tensorrt", "tensorrt-rtx")
VNNI = ("avx512_vnni", "avx_vnni", "asimddp", "i8mm")
LOW_DISK_BYTES = 1_000_000_000


@dataclass(frozen=True)
class Check:
    """One thing that was looked at."""

    name: str
    status: Literal["ok", "note", "missing"]
    found: str
    advice: str = ""


def examine() -> list[Check]:
    """Look at Python, packages, backends, processor, GPU and disk."""
    return [
        _python(),
        *map(_role, ROLES),
        *map(_backend, backends.AUTO),
        _cpu(),
        _cpu_operators(),
        _gpu(),
        _plugin(),
        _disk(),
    ]


def _python() -> Check:
    found = f"Python {platform.python_version()}, degmix-edge {__version__}"
    if sys.version_info < (3, 11):
        return Check(
            "python",
            "note",
            found,
            "onnxruntime with DeformConv needs Python >= 3.11; use TensorRT",
        )
    return Check("python", "ok", found)


def _role(extra: str) -> Check:
    have, missing = [], []
    for package in ROLES[extra]:
        installed = [one for one in package.split(" or ") if _is_installed(one)]
        if installed:
            have.append(f"{installed[0]} {metadata.version(installed[0])}")
        else:
            missing.append(package)
    found = ", ".join(have + [f"no {package}" for package in missing])
    if not missing:
        return Check(extra, "ok", found)
    if extra in OPTIONAL:
        return Check(extra, "note", found, "needed for GPU engines only")
    return Check(extra, "missing", found, f"pip install 'degmix-edge[{extra}]'")


def _is_installed(package: str) -> bool:
    try:
        metadata.version(package)
    except metadata.PackageNotFoundError:
        return False
    return True


def _backend(name: str) -> Check:
    reason = backends.find(name).unavailable()
    if reason is None:
        return Check(f"backend {name}", "ok", "runs here")
    status: Literal["note", "missing"] = "note" if name in OPTIONAL else "missing"
    return Check(f"backend {name}", status, "cannot run here", reason)


def _cpu() -> Check:
    try:
        words = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return Check("cpu", "note", cpu_name(), "instruction set not known")
    dot = [flag for flag in VNNI if flag in words]
    if dot:
        return Check("cpu", "ok", f"{cpu_name()}, 8-bit dot products ({dot[0]})")
    return Check(
        "cpu",
        "note",
        f"{cpu_name()}, no 8-bit dot products",
        "INT8 sums may saturate at 16 bits and gain little; compare before you trust them",
    )


def _cpu_operators() -> Check:
    try:
        path = _cpu_ops.library()
        found = "" if path is None else f"{path.name}, {_cpu_ops.instruction_set(path)}"
    except ConfigError as error:
        return Check("cpu operators", "missing", "not usable", str(error))
    if path is None:
        advice = (
            "DeMT-like deformable convolutions run 1.5 to 2.3 x as fast with them: make cpu-ops"
        )
        return Check("cpu operators", "note", "not built", advice)
    return Check("cpu operators", "ok", found)


def _gpu() -> Check:
    # A Jetson has the last of these alone.
    nodes = any(Path(p).exists() for p in ("/dev/nvidia0", "/dev/nvhost-gpu"))
    if shutil.which("nvidia-smi") is None and not nodes:
        return Check("gpu", "note", "no NVIDIA GPU", "the onnxruntime backend runs on the CPU")
    reason = cuda.unavailable()
    if reason is not None:
        return Check("gpu", "missing", "NVIDIA GPU present, not usable from Python", reason)
    card = cuda.Device()
    free = card.free_bytes()
    card.close()
    text = f"{card.info}, driver {card.info.driver}, {card.driver.name}, {free / 1e9:.1f} GB free"
    return Check("gpu", "ok", text)


def _plugin() -> Check:
    """Our TensorRT plugin: whether it is there, fits, and which operators it has."""
    if trt_load.unavailable("tensorrt") is not None:
        return Check("tensorrt plugin", "note", "no TensorRT, so none is needed")
    try:
        tensorrt = backends.find("tensorrt")
        path = _trt_plugin.library(tensorrt.major())  # type: ignore[attr-defined]
        if path is None:
            advice = (
                "deformable convolutions are slower and less exact without: "
                f"{trt_load.BUILD_PLUGIN}"
            )
            return Check("tensorrt plugin", "note", "not built", advice)
        names = trt_load.register("tensorrt", path)
    except DegmixError as error:
        return Check("tensorrt plugin", "missing", "not usable", str(error))
    return Check("tensorrt plugin", "ok", f"{path.name}: {', '.join(names)}")


def _disk() -> Check:
    free = shutil.disk_usage(tempfile.gettempdir()).free
    found = f"{free / 1e9:.0f} GB free in {tempfile.gettempdir()}"
    if free < LOW_DISK_BYTES:
        return Check("disk", "missing", found, "builds need about 1 GB; set TMPDIR elsewhere")
    return Check("disk", "ok", found)

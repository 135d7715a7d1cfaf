"""What this machine has, what is missing, and the command that mends it."""

from __future__ import annotations

import platform
import shutil
import sys
import tempfile
from base64 import b64decode
from importlib import metadata
from pathlib import Path
from typing import Literal

import numpy as np

from degmix_edge import __version__, backends, ort, pixel_library
from degmix_edge.backends import _cpu_ops, _kernels, _trt_plugin
from degmix_edge.errors import BackendError, ConfigError, DegmixError, InputError
from degmix_edge.nvidia import cuda
from degmix_edge.nvidia.frames import FitImageParams, FitKernel
from degmix_edge.nvidia.trt import load as trt_load
from degmix_edge.registry import unknown
from degmix_edge.workflows.bench import cpu_name
from degmix_edge.workflows.board import ROOT
from degmix_edge.workflows.doctor_system import Check, system_checks

Role = Literal["robot", "build", "train"]
ROLES = {
    "cpu": ("onnxruntime",),
    "openvino": ("openvino",),
    "build": ("onnx", "onnx-graphsurgeon"),
    "export": ("torch", "torchvision", "timm", "onnx", "onnxscript", "onnx-graphsurgeon"),
    "compare": ("polygraphy", "jinja2"),
    "train": ("lightning", "tensorboard", "scipy", "safetensors"),
    "demo": ("scikit-image",),
    "sign": ("cryptography",),
    "video": ("av",),
    "bags": ("mcap", "rosbags"),
    "view": ("rerun-sdk", "foxglove-sdk"),
    "tensorrt": ("tensorrt", "pycuda or cuda-bindings", "onnx", "onnx-graphsurgeon"),
    "tensorrt-rtx": ("tensorrt_rtx_cu13_bindings", "onnxruntime-ep-nv-tensorrt-rtx-cu13"),
}
"""Packages by extra; of packages that stand in for each other the first one is used."""
NEEDED: dict[Role, tuple[str, ...]] = {
    "robot": ("cpu",),
    "build": ("cpu", "build", "export", "compare"),
    "train": ("cpu", "build", "export", "compare", "train", "demo"),
}
"""Extras that each role cannot do without."""
OPTIONAL = {
    "sign": "needed to check signatures",
    "video": "needed for videos and network cameras",
    "bags": "needed for recordings of ROS",
    "view": "needed for live views",
    "openvino": "another backend for CPUs, often the faster one",
    "tensorrt": "needed for GPU engines only",
    "tensorrt-rtx": "needed for GPU engines only",
}
"""What extras are good for that no role cannot do without."""
SELF_TEST = b64decode(
    "CAoSADqXAQowCgV2YWx1ZQoGb2Zmc2V0EgNvdXQiEkRlZ21peERlZm9ybVNhbXBsZToGZGVnbWl4EgFnWh8KBXZhbHVl"
    "EhYKFAgBEhAKAggBCgIIAQoCCAIKAggCWiAKBm9mZnNldBIWChQIARIQCgIIAQoCCAIKAggBCgIIAWIdCgNvdXQSFgoU"
    "CAESEAoCCAEKAggBCgIIAQoCCAFCBAoAEBRCCgoGZGVnbWl4EAE="
)
"""An ONNX file with one DegmixDeformSample of a 2x2 image at one place: a robot has no package onnx
to make one."""
COMPILE = (
    "install a wheel for this machine; or CMake and a C++ compiler, and then the package from its "
    "source again, or `make cpu-ops` in a checkout"
)
"""How the native part comes to a machine."""
VNNI = ("avx512_vnni", "avx_vnni", "asimddp", "i8mm")
LOW_DISK_BYTES = 1_000_000_000


def examine(role: str | None = None, *, root: Path = ROOT) -> list[Check]:
    """Look at Python, packages, libraries, processor, GPU, board, cameras, ROS and disk.

    Args:
        role: What the machine is for, which decides what is missing: `robot`, `build` or `train`.
            None guesses it by what is installed.
        root: The root of the file tree that board, cameras and ROS are read from.

    Raises:
        ConfigError: There is no such role.
    """
    if role is not None and role not in NEEDED:
        raise ConfigError(unknown("role", role, NEEDED))
    chosen = role or guess_role()
    how = "by --role" if role else "by what is installed; --role chooses another"
    return [
        _python(),
        Check("role", "ok", f"{chosen}, {how}"),
        *(_role(extra, chosen) for extra in ROLES),
        *map(_backend, backends.AUTO),
        _cpu(),
        _cpu_operators(),
        _cpu_pictures(),
        _gpu(),
        _plugin(),
        _kernel_library(),
        *system_checks(root),
        _disk(),
    ]


def guess_role() -> Role:
    """Return what a machine is for by the packages that it has."""
    if _is_installed("lightning"):
        return "train"
    return "build" if _is_installed("torch") or _is_installed("onnxscript") else "robot"


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


def _role(extra: str, role: str = "train") -> Check:
    """Packages of an extra; they are missing only where the role needs them."""
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
    advice = f"pip install 'degmix-edge[{extra}]'"
    if extra in OPTIONAL:
        return Check(extra, "note", found, f"{OPTIONAL[extra]}: {advice}")
    if extra not in NEEDED[role]:  # type: ignore[index]
        return Check(extra, "note", f"{found}; the role {role} does without")
    return Check(extra, "missing", found, advice)


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
        advice = f"DeMT-like deformable convolutions run 1.5 to 2.3 x as fast with them: {COMPILE}"
        return Check("cpu operators", "note", "not built", advice)
    if (problem := _self_test(path)) is not None:
        advice = f"make cpu-ops, or set {_cpu_ops.VARIABLE}=none"
        return Check("cpu operators", "missing", f"{found}: {problem}", advice)
    return Check("cpu operators", "ok", f"{found}, self-test passed")


def _cpu_pictures() -> Check:
    """Our library for pictures: whether it is there, loads, and resizes a picture of one colour."""
    name = "cpu pictures"
    try:
        resized = pixel_library.resize(np.full((3, 4, 3), 7, np.uint8), 2, 2)
    except ConfigError as error:
        return Check(name, "missing", "not usable", str(error))
    if resized is None:
        advice = f"frames are converted and resized several times faster with it: {COMPILE}"
        return Check(name, "note", "not built; numpy and Pillow do its work", advice)
    if (resized != 7).any():
        advice = f"make cpu-ops, or set {pixel_library.VARIABLE}=none"
        return Check(name, "missing", f"{pixel_library.FILE}: self-test gave other bytes", advice)
    return Check(name, "ok", f"{pixel_library.FILE}, self-test passed")


def _self_test(operators: Path) -> str | None:
    """Sample an image of four pixels in its middle; None where the value is right."""
    value = np.array([[[[1, 2], [3, 4]]]], np.float32)
    offset = np.full((1, 2, 1, 1), 0.5, np.float32)
    try:
        session = ort.cpu_session(SELF_TEST, num_threads=1, operators=operators, log_severity=4)
        with ort.errors():
            (out,) = session.run(None, {"value": value, "offset": offset})
    except ModuleNotFoundError:
        return None  # without onnxruntime nothing uses them, which another line says
    except BackendError as error:
        return f"self-test failed: {error}"
    return None if out.item() == 2.5 else f"self-test gave {out.item()}, expected 2.5"


def _gpu() -> Check:
    if not _has_card():
        return Check("gpu", "note", "no NVIDIA GPU", "the onnxruntime backend runs on the CPU")
    reason = cuda.unavailable()
    if reason is not None:
        return Check("gpu", "missing", "NVIDIA GPU present, not usable from Python", reason)
    card = cuda.Device()
    free = card.free_bytes()
    card.close()
    text = f"{card.info}, driver {card.info.driver}, {card.driver.name}, {free / 1e9:.1f} GB free"
    return Check("gpu", "ok", text)


def _has_card() -> bool:
    # A Jetson has the last of these alone.
    nodes = any(Path(p).exists() for p in ("/dev/nvidia0", "/dev/nvhost-gpu"))
    return shutil.which("nvidia-smi") is not None or nodes


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


def _kernel_library() -> Check:
    """Our CUDA kernels: whether they are there, load, and check the sizes of a launch."""
    name = "cuda kernels"
    try:
        path = _kernels.library()
        kernel = None if path is None else FitKernel(path)
    except DegmixError as error:
        return Check(name, "missing", "not usable", str(error))
    if kernel is None:
        if not _has_card():
            return Check(name, "note", "no NVIDIA GPU, so none are needed")
        return Check(name, "note", "not built", "make plugin, so that the card resizes frames")
    try:
        kernel.check(FitImageParams())  # of no pixels, which the library has to refuse
    except InputError:
        return Check(name, "ok", f"{kernel.path.name}, self-test passed")
    return Check(name, "missing", f"{kernel.path.name}: takes a launch of no pixels", "make plugin")


def _disk() -> Check:
    free = shutil.disk_usage(tempfile.gettempdir()).free
    found = f"{free / 1e9:.0f} GB free in {tempfile.gettempdir()}"
    if free < LOW_DISK_BYTES:
        return Check("disk", "missing", found, "builds need about 1 GB; set TMPDIR elsewhere")
    return Check("disk", "ok", found)

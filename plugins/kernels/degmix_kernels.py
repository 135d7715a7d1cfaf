"""The kernels' C interface through ctypes: for tests and benchmarks, on CUDA or emulated.

Needs numpy, and the package for the kernel that sessions launch. Pointers are integers:
`tensor.data_ptr()` of torch, or `array.ctypes.data` of numpy for the emulated library.
"""

from __future__ import annotations

import ctypes
from ctypes import POINTER, byref, c_char_p, c_float, c_int32, c_int64, c_void_p
from pathlib import Path
from typing import Any

from degmix_edge.nvidia.frames import FitImageParams

FLOAT, HALF, INT8 = 0, 1, 2
PLANAR, CHANNELS_LAST = 0, 1
ACTIVATIONS = {"none": 0, "relu": 1, "gelu": 2}
AUTO, SHARED, DIRECT, COMPACT = 0, 1, 2, 3
WARPS, GROUPS = 1, 2
FORMATS = {"rgb": 0, "bgr": 1, "nv12": 2, "yuyv": 3}
ITEMS = 8

Pointers = c_void_p * ITEMS


def _fields(kind: Any, names: str) -> list[tuple[str, Any]]:
    return [(name, kind) for name in names.split()]


class DeviceLimits(ctypes.Structure):
    """The struct `DeviceLimits` of common/types.h: what a card offers a kernel."""

    _fields_ = _fields(
        c_int32,
        "multiprocessors shared_bytes_per_block shared_bytes_per_multiprocessor compute_capability",
    )


H200 = DeviceLimits(132, 232448, 233472, 90)
ORIN = DeviceLimits(16, 166912, 167936, 87)
RTX4090 = DeviceLimits(128, 101376, 102400, 89)
T4 = DeviceLimits(40, 65536, 65536, 75)


class DeformSampleParams(ctypes.Structure):
    """The struct of that name in deform_sample/deform_sample.h: one launch's tensors and sizes."""

    _fields_ = [
        *_fields(Pointers, "value offset position output"),
        *_fields(c_int32, "items n c height width out_height out_width"),
        *_fields(c_int32, "value_type offset_type variant"),
    ]


class DeformSampleLaunch(ctypes.Structure):
    """The struct of that name in deform_sample/deform_sample.h: a launch configuration."""

    _fields_ = [
        ("variant", c_int32),
        ("blocks", c_int64),
        ("threads", c_int32),
        ("shared_bytes", c_int64),
    ]


class DeformConv2dParams(ctypes.Structure):
    """The struct of that name in deform_conv2d/deform_conv2d.h: one launch's tensors and sizes."""

    _fields_ = [
        *_fields(Pointers, "value weight offset mask bias weight_scale output"),
        *_fields(c_int32, "items n c height width out_channels out_height out_width"),
        *_fields(c_int32, "kernel_height kernel_width stride_height stride_width"),
        *_fields(c_int32, "pad_top pad_left dilation_height dilation_width groups offset_groups"),
        *_fields(c_int32, "value_type offset_type bias_type output_type"),
        *_fields(c_int32, "value_layout output_layout value_pitch output_pitch"),
        *_fields(c_int32, "activation sigmoid_mask"),
        *_fields(c_float, "value_scale output_scale"),
        *_fields(c_int32, "tile_n tile_m splits variant"),
    ]


class DeformConv2dLaunch(ctypes.Structure):
    """The struct of that name in deform_conv2d/deform_conv2d.h: a launch configuration."""

    _fields_ = [
        ("tile_n", c_int32),
        ("is_vector", c_int32),
        ("blocks", c_int64),
        ("threads", c_int32),
        ("shared_bytes", c_int64),
        ("tile_m", c_int32),
        ("splits", c_int32),
        ("variant", c_int32),
    ]


class DeformOffsetsParams(ctypes.Structure):
    """The struct of that name in deform_offsets/deform_offsets.h."""

    _fields_ = [
        *_fields(Pointers, "maps weight offset"),
        *_fields(c_int32, "items n c height width"),
    ]


class Kernels:
    """The library at `path`."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.library = ctypes.CDLL(str(path))
        for name, params, plan in (
            ("deform_sample", DeformSampleParams, DeformSampleLaunch),
            ("deform_conv2d", DeformConv2dParams, DeformConv2dLaunch),
            ("deform_offsets", DeformOffsetsParams, None),
            ("fit_image", FitImageParams, None),
        ):
            launch = getattr(self.library, f"degmix_{name}")
            launch.argtypes, launch.restype = [POINTER(params), c_void_p], c_int32
            check = getattr(self.library, f"degmix_{name}_check")
            check.argtypes, check.restype = [POINTER(params)], c_char_p
            if plan is not None:
                ask = getattr(self.library, f"degmix_{name}_plan")
                ask.argtypes, ask.restype = (
                    [POINTER(params), POINTER(DeviceLimits), POINTER(plan)],
                    None,
                )
        self.library.degmix_error_string.restype = c_char_p

    def launch(self, name: str, params: ctypes.Structure, stream: int = 0) -> None:
        """Launch operator `name` on a stream.

        Raises:
            ValueError: The operator refuses the parameters; has its reason.
            RuntimeError: CUDA refused the launch.
        """
        reason = self.check(name, params)
        if reason is not None:
            raise ValueError(f"{name}: {reason}")
        status = getattr(self.library, f"degmix_{name}")(byref(params), stream)
        if status != 0:
            text = self.library.degmix_error_string(status).decode()
            raise RuntimeError(f"{name}: CUDA error {status}, {text}")

    def check(self, name: str, params: ctypes.Structure) -> str | None:
        """What the operator finds wrong with the parameters, or None."""
        reason = getattr(self.library, f"degmix_{name}_check")(byref(params))
        return None if reason is None else reason.decode()

    def plan(self, name: str, params: ctypes.Structure, limits: DeviceLimits) -> Any:
        """The launch that the heuristic chooses for a card."""
        plan = {"deform_sample": DeformSampleLaunch, "deform_conv2d": DeformConv2dLaunch}[name]()
        getattr(self.library, f"degmix_{name}_plan")(byref(params), byref(limits), byref(plan))
        return plan

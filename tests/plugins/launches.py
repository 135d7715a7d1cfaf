"""Kernels over numpy arrays, through the C interface.

On the processor, arrays end at a page without access. On a card they are torch's, and end where
compute-sanitizer knows that they end if PYTORCH_NO_CUDA_MEMORY_CACHING is 1.
"""

import ctypes
import mmap
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "plugins" / "kernels"))

import degmix_kernels as native  # noqa: E402

TYPES = {np.dtype(np.float32): 0, np.dtype(np.float16): 1, np.dtype(np.int8): 2}
_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.mmap.restype = ctypes.c_void_p
_LIBC.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
_LIBC.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
_LIBC.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
ANONYMOUS, NO_ACCESS = 0x20, 0


class OnCard:
    """A copy of an array in a card's memory, of whole 16 bytes."""

    def __init__(self, array: np.ndarray) -> None:
        import torch

        array = np.ascontiguousarray(array)
        self.shape, self.dtype = array.shape, array.dtype
        self.bytes = np.zeros(-(-array.nbytes // 16) * 16, np.uint8)
        self.bytes[: array.nbytes] = array.reshape(-1).view(np.uint8)
        self.tensor = torch.from_numpy(self.bytes).cuda()
        self.address = self.tensor.data_ptr()

    def array(self) -> np.ndarray:
        raw = self.tensor.cpu().numpy().tobytes()
        count = int(np.prod(self.shape))
        return np.frombuffer(raw, self.dtype, count).reshape(self.shape).copy()


class Guarded:
    """A copy of an array that ends, on 16 bytes, at a page that faults."""

    def __init__(self, array: np.ndarray) -> None:
        array = np.ascontiguousarray(array)  # lives until it is copied
        page = mmap.PAGESIZE
        self.bytes = -(-array.nbytes // 16) * 16
        inside = -(-max(self.bytes, 1) // page) * page
        self.length = inside + page
        flags = mmap.MAP_PRIVATE | ANONYMOUS
        access = mmap.PROT_READ | mmap.PROT_WRITE
        self.base = _LIBC.mmap(None, self.length, access, flags, -1, 0)
        assert _LIBC.mprotect(self.base + inside, page, NO_ACCESS) == 0
        self.address = self.base + inside - self.bytes
        self.shape, self.dtype = array.shape, array.dtype
        ctypes.memmove(self.address, array.ctypes.data, array.nbytes)

    def array(self) -> np.ndarray:
        count = int(np.prod(self.shape))
        raw = ctypes.string_at(self.address, count * self.dtype.itemsize)
        return np.frombuffer(raw, self.dtype).reshape(self.shape).copy()

    def __del__(self) -> None:
        _LIBC.munmap(self.base, self.length)


def memory(kernels: native.Kernels) -> type[Guarded] | type[OnCard]:
    """Where the arrays of a library's launches lie."""
    return Guarded if hasattr(kernels.library, "degmix_emulation_set_order") else OnCard


def channels_last(array: np.ndarray, pitch: int) -> np.ndarray:
    n, c, height, width = array.shape
    out = np.zeros((n, height, width, pitch), array.dtype)
    out[..., :c] = array.transpose(0, 2, 3, 1)
    return out


def sample(
    kernels: native.Kernels, inputs: list[Any], variant: int = native.AUTO
) -> list[np.ndarray]:
    """`deform_sample` of (value, offset[, position]) of one shape, in one launch."""
    value, offset = inputs[0][:2]
    n, c, height, width = value.shape
    out_shape = (n, c, *offset.shape[2:])
    params = native.DeformSampleParams(
        items=len(inputs),
        n=n,
        c=c,
        height=height,
        width=width,
        out_height=offset.shape[2],
        out_width=offset.shape[3],
        value_type=TYPES[value.dtype],
        offset_type=TYPES[offset.dtype],
        variant=variant,
    )
    kept, copy = [], memory(kernels)
    for i, arrays in enumerate(inputs):
        guards = [copy(array) for array in (np.full(out_shape, 77, value.dtype), *arrays)]
        kept.append(guards)
        names = ("output", "value", "offset", "position")
        for name, guard in zip(names, guards, strict=False):
            getattr(params, name)[i] = guard.address
    kernels.launch("deform_sample", params)
    return [guards[0].array() for guards in kept]


def convolution(
    kernels: native.Kernels,
    value: np.ndarray,
    weight: np.ndarray,
    offset: np.ndarray,
    bias: np.ndarray | None = None,
    mask: np.ndarray | None = None,
    *,
    scales: tuple[float, np.ndarray, float] | None = None,
    **options: Any,
) -> np.ndarray:
    """`deform_conv2d` of one item; `scales` are of values, of weights by output, of the output."""
    item = (value, weight, offset, bias, mask, None if scales is None else scales[1])
    whole = {} if scales is None else {"value_scale": scales[0], "output_scale": scales[2]}
    return convolutions(kernels, [item], **whole, **options)[0]


def convolutions(
    kernels: native.Kernels,
    items: list[tuple[np.ndarray | None, ...]],
    *,
    last: bool = False,
    tile: tuple[int, int] = (0, 0),
    splits: int = 0,
    variant: int = 0,
    sigmoid: bool = False,
    activation: str = "none",
    value_scale: float = 0.0,
    output_scale: float = 0.0,
    out_type: Any = None,
    **attrs: Any,
) -> list[np.ndarray]:
    """`deform_conv2d` of (value, weight, offset, bias, mask, weight scales) of one shape.

    All items go in one launch. Weights are `(O, C / group, kH, kW)`, `attrs` are ONNX's
    attributes, and `tile` is (M, N).
    """
    value, weight, offset, bias = items[0][:4]
    n, c, height, width = value.shape
    outputs, _, k_h, k_w = weight.shape
    out_h, out_w = offset.shape[2:]
    vector = 16 // value.dtype.itemsize
    pitch, out_pitch = -(-c // vector) * vector, -(-outputs // 8) * 8
    stride, pads = attrs.get("strides", [1, 1]), attrs.get("pads", [0] * 4)
    dilation = attrs.get("dilations", [1, 1])
    out_dtype = np.dtype(out_type or (np.float32 if value_scale else value.dtype))
    shape = (n, out_h, out_w, out_pitch) if last else (n, outputs, out_h, out_w)
    params = native.DeformConv2dParams(
        items=len(items),
        n=n,
        c=c,
        height=height,
        width=width,
        out_channels=outputs,
        out_height=out_h,
        out_width=out_w,
        kernel_height=k_h,
        kernel_width=k_w,
        stride_height=stride[0],
        stride_width=stride[1],
        pad_top=pads[0],
        pad_left=pads[1],
        dilation_height=dilation[0],
        dilation_width=dilation[1],
        groups=attrs.get("group", 1),
        offset_groups=attrs.get("offset_group", 1),
        value_type=TYPES[value.dtype],
        offset_type=TYPES[offset.dtype],
        bias_type=0 if bias is None else TYPES[bias.dtype],
        output_type=TYPES[out_dtype],
        value_layout=int(last),
        output_layout=int(last),
        value_pitch=pitch,
        output_pitch=out_pitch,
        activation=native.ACTIVATIONS[activation],
        sigmoid_mask=int(sigmoid),
        value_scale=value_scale,
        output_scale=output_scale,
        tile_m=tile[0],
        tile_n=tile[1],
        splits=splits,
        variant=variant,
    )
    kept, copy = [], memory(kernels)
    for i, item in enumerate(items):
        values, weights, offset_, bias_, mask, weight_scale = (*item, None)[:6]
        arrays = {
            "value": channels_last(values, pitch) if last else values,
            "weight": weights.transpose(0, 2, 3, 1),
            "offset": offset_,
            "mask": mask,
            "bias": bias_,
            "weight_scale": None if weight_scale is None else weight_scale.astype(np.float32),
            "output": np.full(shape, 77, out_dtype),
        }
        guards = {name: copy(array) for name, array in arrays.items() if array is not None}
        kept.append(guards)
        for name, guard in guards.items():
            getattr(params, name)[i] = guard.address
    kernels.launch("deform_conv2d", params)
    results = []
    for guards in kept:
        out = guards["output"].array()
        assert not last or not out[..., outputs:].any(), "channels that fill a vector must be zero"
        results.append(out[..., :outputs].transpose(0, 3, 1, 2) if last else out)
    return results


def offsets(
    kernels: native.Kernels, items: list[tuple[np.ndarray, np.ndarray]]
) -> list[np.ndarray]:
    """`deform_offsets` of (maps, packed weights) of one shape, in one launch."""
    n, _, height, width = items[0][0].shape
    rows = len(items[0][1])
    params = native.DeformOffsetsParams(
        items=len(items), n=n, c=rows // 2, height=height, width=width
    )
    kept, copy = [], memory(kernels)
    for i, arrays in enumerate(items):
        guards = [copy(array) for array in (*arrays, np.full((n, rows, height, width), 77, "f2"))]
        kept.append(guards)
        for name, guard in zip(("maps", "weight", "offset"), guards, strict=True):
            getattr(params, name)[i] = guard.address
    kernels.launch("deform_offsets", params)
    return [guards[2].array() for guards in kept]

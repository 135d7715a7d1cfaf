"""Frames of cameras: from a camera's bytes to the network's input, against PyTorch on the card."""

from __future__ import annotations

from collections.abc import Callable

import degmix_kernels as native
import torch
import torch.nn.functional as F  # noqa: N812
from fitted import PAD, Size, by_pillow, frame_shape, placed_size
from harness import Bench, Tensors

from degmix_edge.camera import FrameFormat


def camera_frame(bench: Bench, kind: FrameFormat, size: Size, out: Size) -> None:
    """A frame of `size` in the middle of an image of size `out`, as large as it fits."""
    placed = placed_size(size, out)

    def make() -> list[Tensors]:
        return [frame_inputs(bench, kind, size, out)]

    (one,) = make()
    launch(bench, one, kind, placed)
    by_torch(one, kind, placed)
    want = torch.tensor(by_pillow(one["frame"].cpu().numpy(), kind, out)).double()
    row = bench.row(
        f"frame {size[1]}x{size[0]} to {out[1]}x{out[0]}",
        kind,
        [(one["image"].double(), bench.put(want, torch.float64), one["by_torch"].double())],
    )
    row.bytes = one["frame"].nbytes + one["image"].nbytes

    def upload(sets: list[Tensors]) -> None:
        """The frame over the bus, from page-locked memory."""
        for one in sets:
            one["frame"].copy_(one["on_host"], non_blocking=True)

    contestants: dict[str, Callable[[list[Tensors]], object]] = {
        "fit_image": lambda sets: launch(bench, sets[0], kind, placed),
        "torch, interpolate with antialias": lambda sets: by_torch(sets[0], kind, placed),
        "copy of the same bytes": lambda sets: sets[0]["into"].copy_(sets[0]["from"]),
        "upload of the frame": upload,
    }
    bench.time(row, make, contestants)


def frame_inputs(bench: Bench, kind: FrameFormat, size: Size, out: Size) -> Tensors:
    """A frame of noise, the image that a kernel writes, and what a copy moves."""
    one = {
        "frame": torch.randint(0, 256, frame_shape(kind, size), dtype=torch.uint8),
        "image": torch.full((*out, 3), 77, dtype=torch.uint8),
        "by_torch": torch.tensor(PAD, dtype=torch.uint8).expand(*out, 3).contiguous(),
    }
    moved = (one["frame"].nbytes + one["image"].nbytes) // 2
    one["from"] = torch.zeros(moved, dtype=torch.uint8)
    one["into"] = torch.empty_like(one["from"])
    one["on_host"] = one["frame"].cpu()
    if bench.is_cuda:
        one["on_host"] = one["on_host"].pin_memory()
    return one


def launch(bench: Bench, one: Tensors, kind: FrameFormat, placed: Size) -> None:
    """Launch fit_image on one frame."""
    frame, image = one["frame"], one["image"]
    height, width = len(frame) * 2 // 3 if kind == "nv12" else len(frame), frame.shape[1]
    out_height, out_width = image.shape[:2]
    params = native.FitImageParams(
        source=frame.data_ptr(),
        chroma=frame[height:].data_ptr() if kind == "nv12" else None,
        output=image.data_ptr(),
        format=native.FORMATS[kind],
        height=height,
        width=width,
        pitch=frame.stride(0),
        chroma_pitch=frame.stride(0),
        window_height=height,
        window_width=width,
        out_height=out_height,
        out_width=out_width,
        top=(out_height - placed[0]) // 2,
        left=(out_width - placed[1]) // 2,
        placed_height=placed[0],
        placed_width=placed[1],
        layout=native.CHANNELS_LAST,
        pad=(native.c_int32 * 3)(*PAD),
    )
    bench.kernels.launch("fit_image", params, bench.stream())


def by_torch(one: Tensors, kind: FrameFormat, placed: Size) -> None:
    """The same by PyTorch, in float32."""
    planes = planes_of(one["frame"], kind)
    small = F.interpolate(planes, placed, mode="bilinear", antialias=True, align_corners=False)
    image = one["by_torch"]
    top, left = ((whole - part) // 2 for whole, part in zip(image.shape, placed, strict=False))
    inside = image[top : top + placed[0], left : left + placed[1]]
    inside.copy_((small[0].permute(1, 2, 0) + 0.5).clamp(0, 255))


def planes_of(frame: torch.Tensor, kind: FrameFormat) -> torch.Tensor:
    """RGB `(1, 3, H, W)`, float32, of a frame."""
    if kind in ("rgb", "bgr"):
        planes = frame.permute(2, 0, 1)[None].float()
        return planes if kind == "rgb" else planes.flip(1)
    if kind == "nv12":
        height = len(frame) * 2 // 3
        luma, chroma = frame[:height].float(), frame[height:].float()
        chroma = chroma.repeat_interleave(2, dim=0)
    else:
        luma, chroma = frame[..., 0].float(), frame[..., 1].float()
    u, v = (chroma[:, i::2].repeat_interleave(2, dim=1) - 128 for i in (0, 1))
    bright = 1.164 * (luma - 16).clamp(min=0)
    colours = (bright + 1.596 * v, bright - 0.813 * v - 0.391 * u, bright + 2.018 * u)
    return torch.stack(colours).clamp(0, 255)[None]

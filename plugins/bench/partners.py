"""Another library on the same card, as `lanes.py` needs one: torch, or a stand-in for a dry run.

Both work on CUDA's default stream and have arrays on the card.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from degmix_edge.nvidia import cuda
from degmix_edge.nvidia.arrays import DLPACK_CPU, DLPACK_CUDA, DeviceArray

SIDE = 512
"""Rows and columns of the matrices that are multiplied."""
SLEEP_CYCLES = 200_000_000
"""About a tenth of a second of a card's clock."""


def matrices() -> tuple[np.ndarray, np.ndarray]:
    """Two matrices of small whole numbers, whose product is exact in float32 in any order."""
    rng = np.random.default_rng(7)
    left, right = (rng.integers(-3, 4, (SIDE, SIDE)).astype(np.float32) for _ in range(2))
    return left, right


class Torch:
    """PyTorch."""

    def __init__(self) -> None:
        import torch

        self.torch = torch
        self.name = f"torch {torch.__version__}"
        left, right = matrices()
        self.left, self.right = torch.from_numpy(left).cuda(), torch.from_numpy(right).cuda()
        self.product = torch.from_numpy(left @ right).cuda()
        self.side = torch.cuda.Stream()

    def work(self) -> None:
        """Multiply two matrices on the default stream and check the product."""
        assert self.torch.equal(self.left @ self.right, self.product), "torch's product is wrong"

    def synchronize(self) -> None:
        """Wait for the whole device."""
        self.torch.cuda.synchronize()

    def put(self, array: np.ndarray, offset: int = 0) -> Any:
        """An array on the card that begins so many elements into its memory."""
        source = self.torch.from_numpy(array).cuda()
        memory = self.torch.zeros(source.numel() + offset, dtype=source.dtype, device="cuda")
        view = memory[offset:].view(source.shape)
        view.copy_(source)
        self.torch.cuda.synchronize()
        return view

    @contextmanager
    def late(self, array: np.ndarray) -> Iterator[Any]:
        """An array of zeros that the current stream fills after a sleep."""
        source = self.put(array)
        target = self.torch.zeros_like(source)
        self.torch.cuda.synchronize()
        with self.torch.cuda.stream(self.side):
            self.torch.cuda._sleep(SLEEP_CYCLES)
            target.copy_(source)
            yield target

    def is_writing(self) -> bool:
        """Whether the writer of the late array still runs."""
        return not self.side.query()

    def host(self, view: Any) -> np.ndarray:
        """Take an array of ours without a copy; its values on the host."""
        return np.asarray(self.torch.from_dlpack(view).cpu().numpy())

    def close(self) -> None:
        """Give nothing back: torch keeps its memory for itself."""


class StandIn:
    """Arrays in the memory of a stand-in for the driver, which is the processor's memory."""

    name = "a stand-in for torch"

    def __init__(self) -> None:
        self.left, self.right = matrices()
        self.product = self.left @ self.right
        self.device = cuda.Device()
        self.buffers: list[cuda.Buffer] = []

    def work(self) -> None:
        """Multiply two matrices and check the product."""
        assert np.array_equal(self.left @ self.right, self.product)

    def synchronize(self) -> None:
        """Wait for nothing."""

    def put(self, array: np.ndarray, offset: int = 0) -> Any:
        """An array that begins so many elements into its memory."""
        buffer = cuda.Buffer(self.device, (array.size + offset,), array.dtype)
        self.buffers.append(buffer)
        buffer.host[offset:] = array.reshape(-1)
        with self.device.current() as driver:
            stream = driver.stream()
            buffer.upload(stream)
            stream.synchronize()
            stream.close()
        pointer = buffer.pointer + offset * array.dtype.itemsize
        return DeviceArray(pointer, array.shape, array.dtype, (DLPACK_CUDA, 0), buffer)

    @contextmanager
    def late(self, array: np.ndarray) -> Iterator[Any]:
        """An array that is there already: nothing runs beside the caller."""
        yield self.put(array)

    def is_writing(self) -> bool:
        """Claim that the writer runs."""
        return True

    def host(self, view: Any) -> np.ndarray:
        """The values of an array of ours."""
        where = (DLPACK_CPU, 0)
        return np.from_dlpack(DeviceArray(view.pointer, view.shape, view.dtype, where, view))

    def close(self) -> None:
        """Give the arrays back."""
        for buffer in self.buffers:
            buffer.close()
        self.device.close()


Partner = Torch | StandIn

"""Our sampling kernel behind the interface of an engine, so that lanes run without TensorRT."""

from __future__ import annotations

import ctypes
import math
import threading
from collections.abc import Callable
from pathlib import Path

import degmix_kernels as native
import numpy as np

from degmix_edge.errors import BackendError
from degmix_edge.nvidia import cuda
from degmix_edge.nvidia.frames import FitImageParams, FitKernel
from degmix_edge.nvidia.trt.engine import Binding

SHAPE = (1, 16, 28, 36)
"""Of the image and of what is sampled, FP16."""
LAUNCHES = 4
"""Launches of one call, so that calls of two lanes overlap."""
Launch = Callable[[native.DeformSampleParams, int], None]
"""Enqueues the kernel on a stream, by its handle."""


def launcher(library: Path) -> Launch:
    """The kernel of a library that is compiled for the card."""
    kernels = native.Kernels(library)
    return lambda params, stream: kernels.launch("deform_sample", params, stream)


def emulated_launcher(library: Path, libcuda: ctypes.CDLL) -> Launch:
    """The emulated kernel as a function that the stand-in driver's stream calls in its turn."""
    kernels = native.Kernels(library)
    kind = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    lock, alive = threading.Lock(), []  # the emulation runs one grid at a time

    def launch(params: native.DeformSampleParams, stream: int) -> None:
        def call(_: object) -> None:
            with lock:
                kernels.launch("deform_sample", params)

        alive.append(kind(call))
        status = libcuda.cuLaunchHostFunc(ctypes.c_void_p(stream), alive[-1], None)
        if status != 0:
            raise RuntimeError(f"cuLaunchHostFunc: CUDA error {status}")

    return launch


class EmulatedFit(FitKernel):
    """The emulated kernel that fits frames, called by the stand-in driver's stream in its turn."""

    def __init__(self, library: Path, libcuda: ctypes.CDLL) -> None:
        super().__init__(library)
        self.libcuda, self.alive = libcuda, []

    def enqueue(self, params: FitImageParams, stream: int) -> None:
        """Fit a frame when the stream comes to it."""
        enqueue = super().enqueue
        call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda _: enqueue(params, 0))
        self.alive.append(call)
        self.libcuda.cuLaunchHostFunc(ctypes.c_void_p(stream), call, None)


class CopyEngine:
    """Copies input `image`, uint8 `(1, H, W, 3)`, to output `seen`; a context must be current."""

    def __init__(self, size: tuple[int, int]) -> None:
        shape = (1, *size, 3)
        self.bindings = (
            Binding("image", True, "UINT8", shape),
            Binding("seen", False, "UINT8", shape),
        )

    def context(self) -> CopyContext:
        """A new execution context."""
        return CopyContext(math.prod(self.bindings[0].shape))

    def close(self) -> None:
        """Nothing was made."""


class CopyContext:
    """Addresses of the tensors of one lane."""

    def __init__(self, size: int) -> None:
        self.size, self.addresses = size, {}
        self.library = ctypes.CDLL("libcuda.so.1")

    def set_address(self, name: str, pointer: int) -> None:
        """Where a tensor lies."""
        self.addresses[name] = pointer

    def enqueue(self, stream: int) -> None:
        """Copy on a stream, asynchronously.

        Raises:
            BackendError: The driver refuses.
        """
        to, source = (ctypes.c_void_p(self.addresses[name]) for name in ("seen", "image"))
        size, handle = ctypes.c_size_t(self.size), ctypes.c_void_p(stream)
        status = self.library.cuMemcpyDtoDAsync_v2(to, source, size, handle)
        if status != 0:
            raise BackendError(f"cuMemcpyDtoDAsync: CUDA error {status}")

    def close(self) -> None:
        """Forget the addresses."""
        self.addresses.clear()


class Engine:
    """Samples input `image` at fixed offsets to output `sampled`; a context must be current.

    Args:
        launch: Enqueues the kernel.
        offset: The offsets in pixels, float32 `(N, 2 C, H, W)`.
        forbidden: What a call also does that no capture allows: `said` waits for its own stream and
            reports the error, `silent` hides it.
        ballast_bytes: Size of another output, which nothing writes.
    """

    def __init__(
        self, launch: Launch, offset: np.ndarray, *, forbidden: str = "", ballast_bytes: int = 0
    ) -> None:
        self.launch, self.forbidden = launch, forbidden
        self.bindings = (
            Binding("image", True, "HALF", SHAPE),
            Binding("sampled", False, "HALF", SHAPE),
        )
        if ballast_bytes:
            self.bindings += (Binding("ballast", False, "INT8", (ballast_bytes,)),)
        driver = cuda.load_driver()
        host = driver.host_memory(offset.shape, offset.dtype, False)
        host.array[...] = offset
        self.offset = driver.memory(offset.nbytes)
        stream = driver.stream()
        stream.upload(self.offset.pointer, host.array)
        stream.synchronize()
        stream.close()
        host.close()

    def context(self) -> Context:
        """A new execution context."""
        return Context(self)

    def close(self) -> None:
        """Free the offsets."""
        self.offset.close()


class Context:
    """Addresses of the tensors of one lane."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.addresses = engine, {"offset": engine.offset.pointer}

    def set_address(self, name: str, pointer: int) -> None:
        """Where a tensor lies; TensorRT asks for 256 bytes of alignment."""
        if pointer % 256:
            raise BackendError(f"{name}: {pointer:#x} is not aligned to 256 bytes")
        self.addresses[name] = pointer

    def enqueue(self, stream: int) -> None:
        """Run on a stream, asynchronously.

        Raises:
            BackendError: The kernel was not launched, or the stream must not be waited for.
        """
        try:
            for _ in range(LAUNCHES):
                self.engine.launch(self.params(), stream)
            if self.engine.forbidden:
                self.wait(stream)
        except RuntimeError as error:
            raise BackendError(f"the engine does not run: {error}") from None

    def wait(self, stream: int) -> None:
        """Wait for the stream, which an engine must not do while it is captured."""
        driver = cuda.load_driver()
        try:
            driver.synchronize(stream)
        except driver.error as error:
            if self.engine.forbidden == "said":
                raise BackendError(f"the engine does not run: {error}") from None

    def params(self) -> native.DeformSampleParams:
        """One launch."""
        n, c, height, width = SHAPE
        return native.DeformSampleParams(
            value=native.Pointers(self.addresses["image"]),
            offset=native.Pointers(self.addresses["offset"]),
            output=native.Pointers(self.addresses["sampled"]),
            items=1,
            n=n,
            c=c,
            height=height,
            width=width,
            out_height=height,
            out_width=width,
            value_type=native.HALF,
            offset_type=native.FLOAT,
            variant=native.AUTO,
        )

    def close(self) -> None:
        """Forget the addresses."""
        self.addresses.clear()

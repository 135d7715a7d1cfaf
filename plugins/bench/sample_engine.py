"""Our sampling kernel behind the interface of an engine, so that lanes run without TensorRT."""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable
from pathlib import Path

import degmix_kernels as native
import numpy as np

from degmix_edge.errors import BackendError
from degmix_edge.nvidia import cuda
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

"""CUDA devices, buffers and graphs, over PyCUDA where it is installed, else cuda-bindings.

The device's primary context is retained, which torch, CuPy and TensorRT use too, because a private
context could not share pointers with them. Any thread may call in: the context is made current for
the call, and the one before it is current again afterwards.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from degmix_edge.errors import CudaError
from degmix_edge.nvidia.driver import Context, Driver, Memory, Stream

BINDINGS = {
    "pycuda": "degmix_edge.nvidia.pycuda_driver",
    "cuda.bindings": "degmix_edge.nvidia.bindings_driver",
}
"""Packages that bind the driver, the first choice first, and the file that adapts each."""
NO_BINDING = (
    "neither pycuda nor cuda-bindings is installed: pip install 'degmix-edge[tensorrt]' compiles "
    "PyCUDA and needs the CUDA toolkit with nvcc on the PATH (on a Jetson /usr/local/cuda/bin); "
    "'degmix-edge[tensorrt-wheels]' has cuda-bindings, which needs no compiler"
)
NO_DEVICE = "no CUDA device: is the driver loaded (nvidia-smi), and CUDA_VISIBLE_DEVICES not empty?"


def unavailable() -> str | None:
    """Why CUDA cannot be used here and what to do, or None."""
    try:
        return None if load_driver().count() else NO_DEVICE
    except CudaError as error:
        return str(error)


@functools.cache
def load_driver() -> Driver:
    """The driver, initialised, through the first binding that is installed.

    Raises:
        CudaError: There is no binding, or the driver is missing, too old, or does not start.
    """
    package = next((name for name in BINDINGS if _is_installed(name)), None)
    if package is None:
        raise CudaError(NO_BINDING)
    binding: type[Driver] = import_module(BINDINGS[package]).Driver
    try:
        driver = binding()
    except ImportError as error:
        raise CudaError(
            f"{package} does not load ({error}): libcuda.so.1 comes with NVIDIA's driver, on a "
            f"Jetson with L4T, and must be as new as the CUDA toolkit; in a container run it with "
            f"--gpus all or --runtime nvidia"
        ) from None
    except Exception as error:  # the base of PyCUDA's errors cannot be named without PyCUDA
        reason = NO_DEVICE if "no CUDA-capable device" in str(error) else error
        raise CudaError(f"the CUDA driver does not start: {reason}") from None
    have, need = driver.version() // 1000, driver.toolkit // 1000
    if have < need:
        raise CudaError(
            f"the driver supports CUDA {have}, {driver.name} is made for CUDA {need}: update the "
            f"driver, or install a {package.replace('.', '-')} that is made for CUDA {have}"
        )
    return driver


def _is_installed(package: str) -> bool:
    parts = package.split(".")
    return all(find_spec(".".join(parts[: end + 1])) is not None for end in range(len(parts)))


@contextmanager
def _errors(what: str, driver: Driver) -> Iterator[None]:
    """The binding's errors as ours."""
    try:
        yield
    except driver.error as error:
        advice = "; close other programs or use fewer lanes" if "memory" in str(error) else ""
        raise CudaError(f"{what}: {error}{advice}") from None


class Device:
    """A card whose primary context is held until `close`.

    Raises:
        CudaError: No binding, no driver, or no such device.
    """

    def __init__(self, index: int = 0) -> None:
        reason = unavailable()
        if reason is not None:
            raise CudaError(reason)
        self.driver = load_driver()
        count = self.driver.count()
        if not 0 <= index < count:
            raise CudaError(f"device {index}: there are {count}, numbered from 0")
        with _errors(f"device {index}", self.driver):
            self.info = self.driver.info(index)
            self._context: Context | None = self.driver.retain(index)

    @contextmanager
    def current(self) -> Iterator[Driver]:
        """Make the context this thread's, and hand out the driver."""
        if self._context is None:
            raise CudaError(f"{self.info}: used after it was closed")
        context = self._context
        with _errors(str(self.info), self.driver):
            context.push()
            try:
                yield self.driver
            finally:
                context.pop()

    def free_bytes(self) -> int:
        """Number of bytes of device memory that are free now."""
        with self.current() as driver:
            return driver.free_bytes()

    def close(self) -> None:
        """Release the primary context, from any thread. A second time does nothing."""
        if self._context is not None:
            context, self._context = self._context, None
            with _errors(str(self.info), self.driver):
                context.release()


class Buffer:
    """One tensor: a page-locked host array, and its memory on the device.

    On an integrated card the two are one, mapped, and copies are no copies. The buffer's owner
    closes it, on a stream that is done.

    Attributes:
        host: The array.
        pointer: The device's address of it.
    """

    def __init__(self, device: Device, shape: tuple[int, ...], dtype: Any) -> None:
        self.device, self.is_mapped = device, device.info.integrated
        self._memory: list[Memory] = []
        with device.current() as driver, _errors(f"a buffer of {dtype} {shape}", driver):
            host = driver.host_memory(shape, dtype, self.is_mapped)
            self._memory.append(host)
            self.host, self.pointer = host.array, host.pointer
            if not self.is_mapped:
                try:
                    self._memory.append(driver.memory(self.host.nbytes))
                except BaseException:
                    host.close()
                    raise
                self.pointer = self._memory[-1].pointer

    def upload(self, stream: Stream) -> None:
        """Host to device, asynchronously; the context is current."""
        if not self.is_mapped:
            stream.upload(self.pointer, self.host)

    def download(self, stream: Stream) -> None:
        """Device to host, asynchronously; the context is current."""
        if not self.is_mapped:
            stream.download(self.host, self.pointer)

    def copy_from(self, pointer: int, stream: Stream) -> None:
        """Device to device, asynchronously, from memory of this size; the context is current."""
        with _errors(f"an image at {pointer:#x}", self.device.driver):
            stream.copy(self.pointer, pointer, self.host.nbytes)

    def close(self) -> None:
        """Free the host array and the device memory. A second time does nothing."""
        with self.device.current():
            while self._memory:
                self._memory.pop().close()
            self.pointer = 0


class Graph:
    """What was enqueued on a stream while it was recorded, to be enqueued again at once."""

    def __init__(self, driver: Driver, executable: int) -> None:
        self._driver, self._executable = driver, executable

    @classmethod
    def record(cls, driver: Driver, stream: Stream, enqueue: Callable[[], None]) -> Graph:
        """Record what `enqueue` puts on `stream`; nothing runs, and a context is current.

        Raises:
            CudaError: The driver refused; the stream is as it was. What `enqueue` raises passes.
        """
        with _errors("recording a CUDA graph", driver):
            driver.begin_capture(stream.handle)
            try:
                enqueue()
            except BaseException:
                # The reason is what was raised; the capture that it broke has no graph, or a part.
                with contextlib.suppress(driver.error):
                    driver.destroy_graph(driver.end_capture(stream.handle))
                raise
            graph = driver.end_capture(stream.handle)
            try:
                return cls(driver, driver.instantiate(graph))
            finally:
                driver.destroy_graph(graph)

    def launch(self, stream: Stream) -> None:
        """Run the recorded work on `stream`; the context is current."""
        self._driver.launch(self._executable, stream.handle)

    def close(self) -> None:
        """Destroy it. A second time does nothing."""
        if self._executable:
            executable, self._executable = self._executable, 0
            self._driver.destroy_executable(executable)


def device_of(pointer: int) -> int:
    """Index of the device that memory at `pointer` belongs to; a context is current.

    Raises:
        CudaError: It is no memory that a device can read: freed, or the host's.
    """
    driver = load_driver()
    try:
        return driver.device_of(pointer)
    except driver.error as error:
        raise CudaError(
            f"an image at {pointer:#x}, which is no device memory ({error}): was it freed?"
        ) from None


def is_page_locked(array: np.ndarray) -> bool:
    """Whether a contiguous array is in page-locked memory; a context is current."""
    driver, first = load_driver(), array.ctypes.data
    ends = (first, first + max(array.nbytes, 1) - 1)
    return all(driver.is_page_locked(end) for end in ends)


def wait(stream: int) -> None:
    """Wait for the stream of another library, by its handle; a context is current."""
    load_driver().synchronize(stream)

"""What is asked of a Python binding of CUDA's driver; PyCUDA and cuda-bindings have a file each.

Sizes are bytes, addresses and handles are integers. Except for `Driver.count`, `Driver.info` and
`Driver.retain`, a context is current in every call.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, ClassVar

MEMORY_OF_HOST = 1
"""The driver's number of the kind of page-locked memory."""


@dataclass(frozen=True)
class DeviceInfo:
    """A card.

    Attributes:
        compute_capability: 10 major + minor: 87 is Orin.
        integrated: It shares its memory with the processor, as Jetsons do.
        driver: CUDA version of the driver, 1000 major + 10 minor.
    """

    index: int
    name: str
    compute_capability: int
    memory_bytes: int
    integrated: bool
    driver: int

    def __str__(self) -> str:
        """Return the name and the compute capability, as in `NVIDIA H200 (sm_90)`."""
        return f"{self.name} (sm_{self.compute_capability})"


class Context(ABC):
    """The primary context of a device, which torch, CuPy and TensorRT use too."""

    @abstractmethod
    def push(self) -> None:
        """Make it the calling thread's current context."""

    @abstractmethod
    def pop(self) -> None:
        """Make the context current again that was so before `push`."""

    @abstractmethod
    def release(self) -> None:
        """Give it back once, from any thread; the thread's current context stays."""


class Memory(ABC):
    """Memory that a device reads and writes.

    Attributes:
        pointer: The device's address.
    """

    pointer: int

    @abstractmethod
    def close(self) -> None:
        """Free it, on a stream that is done."""


class HostMemory(Memory):
    """Page-locked memory of the host.

    Attributes:
        array: The memory as a numpy array.
        pointer: The device's address of it where it is mapped, else 0.
    """

    array: Any


class Event(ABC):
    """A moment on a stream."""

    @abstractmethod
    def record(self, stream: Any) -> None:
        """Take the moment when the work before it on `stream` is done."""

    @abstractmethod
    def milliseconds_since(self, start: Any) -> float:
        """Milliseconds between two events of a stream that is done."""

    @abstractmethod
    def close(self) -> None:
        """Destroy it. A second time does nothing."""


class Stream(ABC):
    """A queue of work that does not wait for CUDA's default stream, which other libraries use.

    A capture on any other stream is invalid as soon as another thread touches the default stream.
    """

    handle: int

    @abstractmethod
    def upload(self, pointer: int, array: Any) -> None:
        """Copy a page-locked array to the device, asynchronously."""

    @abstractmethod
    def download(self, array: Any, pointer: int) -> None:
        """Copy from the device to a page-locked array, asynchronously."""

    @abstractmethod
    def copy(self, target: int, source: int, size: int) -> None:
        """Copy from device to device, asynchronously."""

    @abstractmethod
    def synchronize(self) -> None:
        """Wait until all its work is done."""

    @abstractmethod
    def close(self) -> None:
        """Destroy it. A second time does nothing."""


class Driver(ABC):
    """CUDA's driver, initialised.

    Attributes:
        name: The binding and its version, such as `cuda-bindings 13.5.0`.
        toolkit: CUDA version that the binding was made for, 1000 major + 10 minor.
        error: Base of what its calls raise; the text has the function and CUDA's reason.

    Raises:
        ImportError: The binding or `libcuda.so.1` does not load.
        error: The driver does not start.
    """

    name: str
    toolkit: int
    error: ClassVar[type[Exception]]

    @abstractmethod
    def version(self) -> int:
        """CUDA version of the driver, 1000 major + 10 minor."""

    @abstractmethod
    def count(self) -> int:
        """Number of devices."""

    @abstractmethod
    def info(self, index: int) -> DeviceInfo:
        """What a device is."""

    @abstractmethod
    def retain(self, index: int) -> Context:
        """Hold the primary context of a device."""

    @abstractmethod
    def free_bytes(self) -> int:
        """Number of bytes of device memory that are free now."""

    @abstractmethod
    def memory(self, size: int) -> Memory:
        """Memory on the device, aligned to 256 bytes."""

    @abstractmethod
    def host_memory(self, shape: tuple[int, ...], dtype: Any, is_mapped: bool) -> HostMemory:
        """A page-locked array, which the device reads and writes itself if it `is_mapped`."""

    @abstractmethod
    def stream(self) -> Stream:
        """A new stream."""

    @abstractmethod
    def event(self) -> Event:
        """A new event that takes the time."""

    @abstractmethod
    def is_page_locked(self, pointer: int) -> bool:
        """Whether the host's memory at `pointer` is page-locked, whoever has allocated it."""

    @abstractmethod
    def begin_capture(self, stream: int) -> None:
        """Record what this thread enqueues on a stream from now on; nothing of it runs."""

    @abstractmethod
    def end_capture(self, stream: int) -> int:
        """The recorded graph. A capture that was invalidated raises and leaves none."""

    @abstractmethod
    def destroy_graph(self, graph: int) -> None:
        """Destroy a recorded graph."""

    @abstractmethod
    def instantiate(self, graph: int) -> int:
        """An executable of a recorded graph."""

    @abstractmethod
    def launch(self, executable: int, stream: int) -> None:
        """Enqueue an executable on a stream."""

    @abstractmethod
    def destroy_executable(self, executable: int) -> None:
        """Destroy an executable."""

    @abstractmethod
    def synchronize(self, stream: int) -> None:
        """Wait for another library's stream."""

    @abstractmethod
    def device_of(self, pointer: int) -> int:
        """Index of the device that memory at `pointer` belongs to; raises for any other memory."""

import ctypes
import threading
import time
import weakref
from collections import Counter

import numpy as np


class Error(Exception):
    pass


class LogicError(Error):
    pass


LogicError.__module__ = Error.__module__ = "pycuda._driver"
STREAMS: dict[int, "Stream"] = {}
MADE = {"integrated": False, "launches": 0}
"""How the card is, and what was done on it."""
COUNTS = Counter()
"""What was made and not given back, by kind: what is left at the end is a leak."""
MEMORY: dict[int, int] = {}
"""Sizes of device memory by address."""
ORDINALS: dict[int, int] = {}
"""Devices of memory that is not on the first one."""
PRIMARY = 0xC0FFEE
"""Handle of the primary context."""
NON_BLOCKING = 1


class _Stacks(threading.local):
    """Contexts that are current in a thread: PyCUDA keeps a stack beside the driver's own."""

    def __init__(self):
        self.driver, self.pycuda = [], []


STACKS = _Stacks()


def init():
    pass


def get_driver_version():
    return 13000


def _needs_context():
    if not STACKS.driver:
        raise LogicError("invalid device context")


def destroyed(kind):
    """An object of the driver's goes: only while the context is current, and for good."""
    if STACKS.driver and COUNTS["contexts"]:
        COUNTS[kind] -= 1


class device_attribute:  # noqa: N801
    INTEGRATED = 18


class host_alloc_flags:  # noqa: N801
    DEVICEMAP = 2


class Context:
    """A primary context, with what PyCUDA 2025.1 makes of threads and stacks."""

    def __init__(self):
        self.thread, self.valid = threading.get_ident(), True

    def push(self):
        if STACKS.pycuda:
            STACKS.driver.pop()
        STACKS.driver.append(PRIMARY)
        STACKS.pycuda.append(self)

    @staticmethod
    def pop():
        if not STACKS.pycuda:
            raise LogicError("context::pop failed: invalid device context")
        STACKS.driver.pop()
        STACKS.pycuda.pop()
        if STACKS.pycuda:
            STACKS.driver.append(PRIMARY)

    def detach(self):
        """Releases if it is current or of this thread; never pops the driver's stack."""
        if not self.valid:
            raise LogicError("context::detach failed: cannot detach from invalid context")
        active = bool(STACKS.pycuda) and STACKS.pycuda[-1] is self
        if active:
            COUNTS["contexts"] -= 1
        elif self.thread == threading.get_ident():
            STACKS.driver.append(PRIMARY)
            COUNTS["contexts"] -= 1
        self.valid = False
        if active:
            while STACKS.pycuda and not STACKS.pycuda[-1].valid:
                STACKS.pycuda.pop()
            if STACKS.pycuda:
                STACKS.driver.append(PRIMARY)


class Device:
    def __init__(self, index):
        self.index = index

    @staticmethod
    def count():
        return 1

    def name(self):
        return "Stand-in"

    def compute_capability(self):
        return (8, 7)

    def total_memory(self):
        return 1 << 30

    def get_attribute(self, which):
        return int(MADE["integrated"]) if which == device_attribute.INTEGRATED else 0

    def retain_primary_context(self):
        COUNTS["contexts"] += 1
        return Context()


class _Memory:
    """On 256 bytes, as the driver's."""

    def __init__(self, size):
        _needs_context()
        self.size = size
        self.data = (ctypes.c_ubyte * (size + 256))()
        MEMORY[int(self)] = size
        COUNTS["memory"] += 1

    def __int__(self):
        return -(-ctypes.addressof(self.data) // 256) * 256

    def free(self):
        _needs_context()
        ctypes.memset(int(self), 0xEE, self.size)
        del MEMORY[int(self)]
        COUNTS["memory"] -= 1


class _HostAllocation(_Memory):
    def __init__(self, shape, dtype):
        dtype = np.dtype(dtype)
        super().__init__(max(int(np.prod(shape)) * dtype.itemsize, 1))
        self.__array_interface__ = {
            "shape": tuple(shape),
            "typestr": dtype.str,
            "data": (int(self), False),
            "version": 3,
        }

    def get_device_pointer(self):
        return int(self)


def pagelocked_empty(shape, dtype, order="C", mem_flags=0):
    return np.asarray(_HostAllocation(shape, dtype))


def mem_alloc(size):
    if size > 1 << 29:
        raise LogicError("cuMemAlloc failed: out of memory")
    return _Memory(size)


def mem_get_info():
    _needs_context()
    return (1 << 29, 1 << 30)


class Stream:
    def __init__(self, flags=0):
        _needs_context()
        # On a blocking stream a capture fails as soon as torch works in another thread.
        assert flags == NON_BLOCKING
        COUNTS["streams"] += 1
        self.handle = id(self)
        self.queue, self.recording = [], None
        STREAMS[self.handle] = weakref.proxy(self)

    def __del__(self):
        STREAMS.pop(self.handle, None)
        destroyed("streams")

    def add(self, work):
        (self.queue if self.recording is None else self.recording).append(work)

    def synchronize(self):
        _needs_context()
        assert self.recording is None, "a stream that is being captured must not be waited for"
        while self.queue:
            self.queue.pop(0)()


class Event:
    def __init__(self):
        _needs_context()
        COUNTS["events"] += 1

    def __del__(self):
        destroyed("events")

    def record(self, stream):
        stream.add(lambda: setattr(self, "at", time.perf_counter()))

    def time_since(self, other):
        return 1e3 * (self.at - other.at)


def memcpy_htod_async(pointer, host, stream):
    stream.add(lambda: ctypes.memmove(int(pointer), host.ctypes.data, host.nbytes))


def memcpy_dtod_async(target, source, size, stream):
    stream.add(lambda: ctypes.memmove(int(target), int(source), size))


def memcpy_dtoh_async(host, pointer, stream):
    stream.add(lambda: ctypes.memmove(host.ctypes.data, int(pointer), host.nbytes))


class Library:
    """libcuda's graph functions over the streams above."""

    def __init__(self):
        self.graphs = {}

    def cuCtxGetCurrent(self, context):
        context._obj.value = STACKS.driver[-1] if STACKS.driver else None
        return 0

    def cuCtxPushCurrent_v2(self, context):
        STACKS.driver.append(context.value)
        return 0

    def cuCtxPopCurrent_v2(self, context):
        context._obj.value = STACKS.driver.pop()
        return 0

    def cuPointerGetAttribute(self, value, attribute, pointer):
        assert attribute == 9
        if not any(p <= pointer.value < p + size for p, size in MEMORY.items()):
            return 1
        value._obj.value = ORDINALS.get(pointer.value, 0)
        return 0

    def cuStreamBeginCapture_v2(self, handle, mode):
        STREAMS[handle.value].recording = []
        return 0

    def cuStreamEndCapture(self, handle, graph):
        stream = STREAMS[handle.value]
        work, stream.recording = stream.recording, None
        if BROKEN in work:
            graph._obj.value = None
            return 901  # the capture was invalidated
        key = len(self.graphs) + 1
        self.graphs[key] = work
        graph._obj.value = key
        COUNTS["recorded graphs"] += 1
        return 0

    def cuGraphInstantiateWithFlags(self, executable, graph, flags):
        if INSTANTIATE:
            return INSTANTIATE[0]
        executable._obj.value = graph.value
        COUNTS["graphs"] += 1
        return 0

    def cuGraphDestroy(self, graph):
        if not graph.value:
            return 1
        COUNTS["recorded graphs"] -= 1
        return 0

    def cuGraphLaunch(self, executable, handle):
        MADE["launches"] += 1
        for work in self.graphs[executable.value]:
            STREAMS[handle.value].add(work)
        return 0

    def cuStreamSynchronize(self, handle):
        MADE["waited"] = handle.value
        return 0

    def cuGraphExecDestroy(self, executable):
        COUNTS["graphs"] -= 1
        return 0


BROKEN = "broken"
"""Work that no graph can hold."""
INSTANTIATE: list[int] = []
"""What instantiating a graph ends with, if anything."""

import ctypes
import threading
import time

import numpy as np


class Error(Exception):
    pass


class LogicError(Error):
    pass


LogicError.__module__ = Error.__module__ = "pycuda._driver"
_stack = threading.local()
STREAMS: dict[int, "Stream"] = {}
MADE = {"integrated": False, "contexts": 0, "alive": 0, "launches": 0, "graphs": 0}


def init():
    pass


def get_driver_version():
    return 13000


def _needs_context():
    if not getattr(_stack, "depth", 0):
        raise LogicError("invalid device context")


class device_attribute:  # noqa: N801
    INTEGRATED = 18


class host_alloc_flags:  # noqa: N801
    DEVICEMAP = 2


class Context:
    def push(self):
        _stack.depth = getattr(_stack, "depth", 0) + 1

    @staticmethod
    def pop():
        _stack.depth -= 1

    def detach(self):
        MADE["contexts"] -= 1


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
        MADE["contexts"] += 1
        return Context()


class _Memory:
    def __init__(self, size):
        _needs_context()
        self.data = (ctypes.c_ubyte * size)()
        MADE["alive"] += 1

    def __int__(self):
        return ctypes.addressof(self.data)

    def free(self):
        _needs_context()
        ctypes.memset(self.data, 0xEE, len(self.data))
        MADE["alive"] -= 1


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
    def __init__(self):
        _needs_context()
        self.handle = id(self)
        self.queue, self.recording = [], None
        STREAMS[self.handle] = self

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

    def record(self, stream):
        stream.add(lambda: setattr(self, "at", time.perf_counter()))

    def time_since(self, other):
        return 1e3 * (self.at - other.at)


def memcpy_htod_async(pointer, host, stream):
    stream.add(lambda: ctypes.memmove(int(pointer), host.ctypes.data, host.nbytes))


def memcpy_dtoh_async(host, pointer, stream):
    stream.add(lambda: ctypes.memmove(host.ctypes.data, int(pointer), host.nbytes))


class Library:
    """libcuda's graph functions over the streams above."""

    def __init__(self):
        self.graphs = {}

    def cuStreamBeginCapture_v2(self, handle, mode):
        STREAMS[handle.value].recording = []
        return 0

    def cuStreamEndCapture(self, handle, graph):
        stream = STREAMS[handle.value]
        key = len(self.graphs) + 1
        self.graphs[key], stream.recording = stream.recording, None
        graph._obj.value = key
        return 0

    def cuGraphInstantiateWithFlags(self, executable, graph, flags):
        executable._obj.value = graph.value
        MADE["graphs"] += 1
        return 0

    def cuGraphDestroy(self, graph):
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
        MADE["graphs"] -= 1
        return 0

"""A stand-in for PyCUDA, which has no wheels: its classes over the stand-in for CUDA's driver.

It has what PyCUDA 2026.1 makes of threads and of its own stack of contexts.
"""

import contextlib
import ctypes
import threading

import numpy as np

_LIBRARY = ctypes.CDLL("libcuda.so.1")
NON_BLOCKING = 1


class Error(Exception):
    pass


class LogicError(Error):
    pass


class MemoryError(Error):  # noqa: A001
    pass


for _kind in (Error, LogicError, MemoryError):
    _kind.__module__ = "pycuda._driver"


class _Stack(threading.local):
    """Contexts that a thread has pushed; the driver has a stack of its own."""

    def __init__(self):
        self.contexts = []


STACK = _Stack()


def _call(name, *arguments):
    status = getattr(_LIBRARY, name)(*arguments)
    if status:
        text = ctypes.c_char_p()
        _LIBRARY.cuGetErrorString(status, ctypes.byref(text))
        kind = MemoryError if status == 2 else LogicError
        raise kind(f"{name.removesuffix('_v2')} failed: {text.value.decode()}")


def _value(name, kind, *arguments):
    result = kind()
    _call(name, ctypes.byref(result), *arguments)
    return result.value


def init():
    _call("cuInit", 0)


def get_version():
    return (13, 0, 0)


def get_driver_version():
    return _value("cuDriverGetVersion", ctypes.c_int)


def mem_get_info():
    total = ctypes.c_size_t()
    return (_value("cuMemGetInfo_v2", ctypes.c_size_t, ctypes.byref(total)), total.value)


class device_attribute:  # noqa: N801
    INTEGRATED = 18


class host_alloc_flags:  # noqa: N801
    DEVICEMAP = 2


class Context:
    """A primary context."""

    def __init__(self, handle):
        self.handle, self.thread, self.valid = handle, threading.get_ident(), True

    def push(self):
        if STACK.contexts:
            _call("cuCtxPopCurrent_v2", None)
        _call("cuCtxPushCurrent_v2", self.handle)
        STACK.contexts.append(self)

    @staticmethod
    def pop():
        if not STACK.contexts:
            raise LogicError("context::pop failed: invalid device context")
        _call("cuCtxPopCurrent_v2", None)
        STACK.contexts.pop()
        if STACK.contexts:
            _call("cuCtxPushCurrent_v2", STACK.contexts[-1].handle)

    def detach(self):
        """Releases if it is current or of this thread; never pops the driver's stack."""
        if not self.valid:
            raise LogicError("context::detach failed: cannot detach from invalid context")
        is_active = bool(STACK.contexts) and STACK.contexts[-1] is self
        if is_active:
            _call("cuDevicePrimaryCtxRelease_v2", 0)
        elif self.thread == threading.get_ident():
            _call("cuCtxPushCurrent_v2", self.handle)
            _call("cuDevicePrimaryCtxRelease_v2", 0)
        self.valid = False
        if is_active:
            while STACK.contexts and not STACK.contexts[-1].valid:
                STACK.contexts.pop()
            if STACK.contexts:
                _call("cuCtxPushCurrent_v2", STACK.contexts[-1].handle)


class Device:
    def __init__(self, index):
        self.index = index

    @staticmethod
    def count():
        return _value("cuDeviceGetCount", ctypes.c_int)

    def name(self):
        text = ctypes.create_string_buffer(64)
        _call("cuDeviceGetName", text, 64, self.index)
        return text.value.decode()

    def compute_capability(self):
        return (self.get_attribute(75), self.get_attribute(76))

    def total_memory(self):
        return _value("cuDeviceTotalMem_v2", ctypes.c_size_t, self.index)

    def get_attribute(self, which):
        return _value("cuDeviceGetAttribute", ctypes.c_int, which, self.index)

    def retain_primary_context(self):
        context = _value("cuDevicePrimaryCtxRetain", ctypes.c_void_p, self.index)
        return Context(ctypes.c_void_p(context))


class _Dependent:
    """An object that is of the context which is current: destroyed with its last reference.

    That succeeds only while the context is current, or in the thread that made the context.
    """

    destroy: str

    def __init__(self):
        if not STACK.contexts:
            raise LogicError("explicit_context_dependent failed: no currently active context?")
        self.context, self.value = STACK.contexts[-1], None

    def free(self):
        value, self.value = self.value, None
        if value is None:
            return
        is_current = bool(STACK.contexts) and STACK.contexts[-1] is self.context
        is_thread = self.context.thread == threading.get_ident()
        if not self.context.valid or not (is_current or is_thread):
            return  # a leak, of which PyCUDA warns
        with contextlib.ExitStack() as stack:
            if not is_current:
                self.context.push()
                stack.callback(self.context.pop)
            _call(self.destroy, ctypes.c_void_p(value))

    __del__ = free


class DeviceAllocation(_Dependent):
    destroy = "cuMemFree_v2"

    def __init__(self, size):
        super().__init__()
        self.value = _value("cuMemAlloc_v2", ctypes.c_void_p, ctypes.c_size_t(size))

    def __int__(self):
        return self.value


class PagelockedHostAllocation(_Dependent):
    destroy = "cuMemFreeHost"

    def __init__(self, shape, dtype, flags):
        super().__init__()
        size = max(int(np.prod(shape)) * dtype.itemsize, 1)
        self.value = _value("cuMemHostAlloc", ctypes.c_void_p, ctypes.c_size_t(size), flags)
        self.__array_interface__ = {
            "shape": tuple(shape),
            "typestr": dtype.str,
            "data": (self.value, False),
            "version": 3,
        }

    def get_device_pointer(self):
        return _value("cuMemHostGetDevicePointer_v2", ctypes.c_void_p, _pointer(self.value), 0)


def _pointer(value):
    return ctypes.c_void_p(int(value))


def pagelocked_empty(shape, dtype, order="C", mem_flags=0):
    return np.asarray(PagelockedHostAllocation(shape, np.dtype(dtype), mem_flags))


def mem_alloc(bytes):  # noqa: A002
    return DeviceAllocation(bytes)


class Stream(_Dependent):
    destroy = "cuStreamDestroy_v2"

    def __init__(self, flags=0):
        super().__init__()
        self.value = _value("cuStreamCreate", ctypes.c_void_p, flags)

    @property
    def handle(self):
        return self.value

    def synchronize(self):
        _call("cuStreamSynchronize", _pointer(self.value))


class Event(_Dependent):
    destroy = "cuEventDestroy_v2"

    def __init__(self, flags=0):
        super().__init__()
        self.value = _value("cuEventCreate", ctypes.c_void_p, flags)

    def record(self, stream=None):
        _call("cuEventRecord", _pointer(self.value), _pointer(stream.handle))
        return self

    def time_since(self, event):
        both = (_pointer(event.value), _pointer(self.value))
        return _value("cuEventElapsedTime", ctypes.c_float, *both)


def _copy(name, dest, src, size, stream):
    _call(name, _pointer(dest), _pointer(src), ctypes.c_size_t(size), _pointer(stream.handle))


def memcpy_htod_async(dest, src, stream=None):
    _copy("cuMemcpyHtoDAsync_v2", dest, src.ctypes.data, src.nbytes, stream)


def memcpy_dtoh_async(dest, src, stream=None):
    _copy("cuMemcpyDtoHAsync_v2", dest.ctypes.data, src, dest.nbytes, stream)


def memcpy_dtod_async(dest, src, size, stream=None):
    _copy("cuMemcpyDtoDAsync_v2", dest, src, size, stream)

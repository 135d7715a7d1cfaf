"""Memory that is freed and soon needed again stays with the process."""

from __future__ import annotations

import ctypes
import os

MMAP_THRESHOLD, TRIM_THRESHOLD = -3, -1
"""Numbers of glibc's `mallopt`, of malloc.h."""
LARGEST, KEPT = 32 << 20, 128 << 20
"""Bytes: blocks up to the first size come from a heap, which keeps up to the second free."""
VARIABLES = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> bool:
    """Tell the C library not to give freed memory back to the kernel after each message.

    A message of a few megabytes exists several times on its way: as a map, as rclpy's message and
    as that of the middleware. glibc returns such memory as soon as it is free, and the kernel hands
    it out again page by page. On a camera's every image this costs more than all copies together.

    It applies to the whole process, so a program asks for it and a library does not. The setting
    is left alone where the user's environment has one.

    Returns:
        Whether it was set: not with another C library than glibc.
    """
    if any(name in os.environ for name in VARIABLES):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # musl, macOS, Windows
        return False
    return bool(mallopt(MMAP_THRESHOLD, LARGEST)) and bool(mallopt(TRIM_THRESHOLD, KEPT))

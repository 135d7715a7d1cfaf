"""Backends, one file each: the ways to run a network. `_base.py` says what one is."""

from __future__ import annotations

import os
from collections.abc import Sequence

from degmix_edge import registry
from degmix_edge.backends._base import (
    PLAIN,
    REQUESTS,
    Backend,
    EngineBackend,
    EngineOptions,
    TaskCall,
)
from degmix_edge.errors import BackendError, ConfigError

__all__ = [
    "PLAIN",
    "REQUESTS",
    "Backend",
    "EngineBackend",
    "EngineOptions",
    "TaskCall",
    "choose",
    "find",
    "names",
    "processors",
]

AUTO = ("tensorrt", "onnxruntime", "openvino")
"""What `auto` tries, in this order."""
CPU = ("onnxruntime", "openvino")
"""Backends of which a measurement says which one is the fastest."""


def processors() -> int:
    """How many processors this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def names() -> list[str]:
    """Names of all backends."""
    return registry.names(__name__)


def find(name: str) -> type[Backend]:
    """The class of backend `name`; `tensorrt-rtx` and `tensorrt_rtx` are one.

    Raises:
        ConfigError: There is no such backend; the message has the nearest name.
    """
    # Names of other packages' backends may have a hyphen; those of files cannot.
    known = name if name in names() else name.replace("-", "_")
    backend: type[Backend] = registry.find(__name__, known).Backend
    return backend


def runnable(name: str) -> list[type[EngineBackend]]:
    """The engine backends that `name` stands for and that can be measured here.

    For `auto` these are all of a CPU, or TensorRT alone where there is a GPU.

    Raises:
        ConfigError, BackendError: As `choose`.
    """
    best = choose(name)
    if name != "auto" or best.name not in CPU:
        return [best]
    return [choose(other) for other in CPU if find(other).unavailable() is None]


def choose(name: str, *, to_build: bool = False, built: Sequence[str] = ()) -> type[EngineBackend]:
    """The engine backend called `name`, or for `auto` the best one that runs here.

    Args:
        name: `tensorrt-rtx` and `tensorrt_rtx` are one.
        to_build: It need not run here, only build.
        built: Backends whose engines are there; on a CPU, `auto` tries them first.

    Raises:
        ConfigError: There is no such backend, or it builds no engines.
        BackendError: It, or all that `auto` tries, cannot run here; says what to install.
    """
    reasons = []
    first = [known for known in CPU if known in built]
    order = dict.fromkeys((AUTO[0], *first, *AUTO))
    for candidate in order if name == "auto" else (name,):
        backend = find(candidate)
        if not issubclass(backend, EngineBackend):
            raise ConfigError(f"backend {candidate!r} builds no engines; use {' or '.join(AUTO)}")
        reason = backend.cannot_build() if to_build else backend.unavailable()
        if reason is None:
            return backend
        reasons.append(f"{candidate}: {reason}")
    what = "build" if to_build else "run"
    raise BackendError(f"no backend can {what} here. " + "; ".join(reasons))

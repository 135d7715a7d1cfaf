"""Find and import TensorRT or TensorRT-RTX, and where the two differ.

This package makes only calls that TensorRT 10.3 to 11 and TensorRT-RTX all have, or ones behind
`hasattr`; a test reads its files and checks every name and keyword against each version's own
bindings.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from degmix_edge.errors import BackendError
from degmix_edge.ops import DOMAIN

Flavour = Literal["tensorrt", "tensorrt-rtx"]
RTX_LIBRARIES = "onnxruntime_ep_nv_tensorrt_rtx"
"""The wheel that holds TensorRT-RTX's own libraries."""
KEPT_LINES = 20
PLUGIN = "degmix: "
"""What lines of our plugin begin with."""
BUILD_PLUGIN = "`make plugin` builds it (see plugins/README.md)"


@dataclass
class Log:
    """The builder's last lines."""

    lines: list[str] = field(default_factory=list)

    def add(self, severity: str, text: str) -> None:
        """Keep a line."""
        self.lines = [*self.lines, f"{severity}: {text.strip()}"][-KEPT_LINES:]

    @property
    def errors(self) -> str:
        """Lines of errors, or the last one; those of our plugin, which give the reason, first."""
        found = [line for line in self.lines if line.startswith(("ERROR", "INTERNAL"))]
        rest = [line for line in found if PLUGIN not in line][-3:]
        return "; ".join([*self.reasons, *rest] or self.lines[-1:])

    @property
    def reasons(self) -> list[str]:
        """What our plugin said of what it refused."""
        return list(dict.fromkeys(line for line in self.lines if PLUGIN in line))


def unavailable(flavour: Flavour) -> str | None:
    """Why `flavour` cannot be imported and what to do, or None."""
    package = "tensorrt" if flavour == "tensorrt" else "tensorrt_rtx_bindings"
    if find_spec(package) is None:
        if flavour == "tensorrt":
            return (
                "tensorrt is not installed: on a Jetson it comes with JetPack (make the virtual "
                "environment with --system-site-packages), elsewhere pip install tensorrt"
            )
        return "TensorRT-RTX is not installed: pip install 'degmix-edge[tensorrt-rtx]'"
    if flavour == "tensorrt-rtx" and find_spec(RTX_LIBRARIES) is None:
        return "TensorRT-RTX's libraries are missing: pip install 'degmix-edge[tensorrt-rtx]'"
    return None


def import_tensorrt(flavour: Flavour) -> Any:
    """The module of `flavour`.

    Raises:
        BackendError: It is not installed, or its libraries do not load.
    """
    reason = unavailable(flavour)
    if reason is not None:
        raise BackendError(reason)
    try:
        if flavour == "tensorrt":
            return import_module("tensorrt")
        # The bindings look for libraries by soname: found, because they are loaded already.
        folder = _rtx_folder()
        for stem in ("libtensorrt_rtx.so.*", "libtensorrt_onnxparser_rtx.so.*"):
            ctypes.CDLL(str(next(folder.glob(stem))), mode=ctypes.RTLD_GLOBAL)
        return import_module("tensorrt_rtx_bindings")
    except (ImportError, OSError, StopIteration) as error:
        raise BackendError(f"{flavour} does not load: {error}") from error


def link_rtx(folder: Path) -> None:
    """Links in `folder` by which TensorRT-RTX's parser finds its own library, when we have plugins.

    It opens `libtensorrt_rtx.so`, and the wheel has that under its full version only. The folder
    must be on LD_LIBRARY_PATH from the start of the process that parses.

    Raises:
        BackendError: The wheel's folder has no such library, or several.
    """
    found = sorted(_rtx_folder().glob("libtensorrt_rtx.so.*"))
    if len(found) != 1:
        have = ", ".join(path.name for path in found) or "none"
        raise BackendError(
            f"{_rtx_folder()}: expected one libtensorrt_rtx.so.*, found {have}; "
            "pip install --force-reinstall 'degmix-edge[tensorrt-rtx]'"
        )
    (library,) = found
    for name in ("libtensorrt_rtx.so", "libtensorrt_rtx.so.1"):
        (folder / name).symlink_to(library)


def _rtx_folder() -> Path:
    spec = find_spec(RTX_LIBRARIES)
    return Path(next(iter(spec.submodule_search_locations or ()))) if spec else Path()


def register(flavour: Flavour, library: Path) -> list[str]:
    """Load our plugin library into the registry, once a process; names of its creators.

    Raises:
        BackendError: It is not there, of another major version, or the registry does not take it.
    """
    trt = import_tensorrt(flavour)
    major = int(str(trt.__version__).partition(".")[0])
    if not library.is_file():
        raise BackendError(f"{library}: no such plugin library; {BUILD_PLUGIN}")
    registry = trt.get_plugin_registry()
    if registry is None:
        raise BackendError(f"{flavour} {trt.__version__} has no plugin registry")
    # Asking for a creator that is not there yet would be logged as an error, before any real one.
    if not _ours(registry):
        try:
            built_for = int(ctypes.CDLL(str(library)).degmix_tensorrt_major())
        except (OSError, AttributeError) as error:
            raise BackendError(
                f"{library}: no plugin library of ours for this machine: {error}"
            ) from None
        if flavour == "tensorrt" and built_for != major:
            raise BackendError(
                f"{library}: built for TensorRT {built_for}, running TensorRT {trt.__version__}; "
                f"{BUILD_PLUGIN}"
            )
        if registry.load_library(str(library)) is None:
            raise BackendError(f"{library}: TensorRT's registry does not take it; {BUILD_PLUGIN}")
    return _ours(registry)


def _ours(registry: Any) -> list[str]:
    """Names of our creators that the registry has."""
    return sorted(
        creator.name for creator in registry.all_creators if creator.plugin_namespace == DOMAIN
    )


def member_name(member: Any) -> str:
    """The bare name of a member of one of TensorRT's enumerations, such as `WARNING`."""
    return str(member).rpartition(".")[-1]


_LOGGERS: dict[str, tuple[Any, list[Log]]] = {}
"""By module: the libraries keep the first logger for good, so there is one, and it is forwarded."""


def logger_for(trt: Any, log: Log) -> Any:
    """The one logger of TensorRT module `trt`, which from now on forwards to `log`."""
    key = str(trt.__name__)
    if key not in _LOGGERS:
        current: list[Log] = []

        class Logger(trt.ILogger):  # type: ignore[misc]
            """Hands warnings and errors to the log of the build that runs."""

            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                if severity <= trt.ILogger.Severity.WARNING and current:
                    current[-1].add(member_name(severity), message)

        _LOGGERS[key] = (Logger(), current)
    logger, current = _LOGGERS[key]
    current[:] = [log]
    return logger

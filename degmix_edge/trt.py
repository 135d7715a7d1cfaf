"""TensorRT and TensorRT-RTX: the one file that imports them, and where they differ.

Only calls that TensorRT 10.3 to 11 and TensorRT-RTX all have, or ones behind `hasattr`; a test
reads this file and checks every name and keyword against each version's own bindings. Networks are
strongly typed: precision is in the graph, and no builder flag changes it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from degmix_edge.errors import BackendError, BuildError, GraphError

Flavour = Literal["tensorrt", "tensorrt-rtx"]
RTX_LIBRARIES = "onnxruntime_ep_nv_tensorrt_rtx"
"""The wheel that holds TensorRT-RTX's own libraries."""
KEPT_LINES = 20


@dataclass(frozen=True)
class Layer:
    """One layer of a parsed network: its node's name, its kind, and its outputs' types."""

    name: str
    kind: str
    types: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Built:
    """A plan and what it was made of."""

    plan: bytes
    layers: tuple[Layer, ...]
    version: str


@dataclass(frozen=True)
class BuilderOptions:
    """How to build.

    Attributes:
        workspace_bytes: Most scratch memory of a layer; None leaves it to the builder.
        optimization_level: 0 to 5; None is the builder's own.
        compute_capabilities: Targets of TensorRT-RTX, as `SM89`; empty is its default, all cards.
    """

    workspace_bytes: int | None = None
    optimization_level: int | None = None
    compute_capabilities: tuple[str, ...] = ()


@dataclass
class Log:
    """The builder's last lines."""

    lines: list[str] = field(default_factory=list)

    def add(self, severity: str, text: str) -> None:
        """Keep a line."""
        self.lines = [*self.lines, f"{severity}: {text.strip()}"][-KEPT_LINES:]

    @property
    def errors(self) -> str:
        """Lines of errors, or the last one."""
        found = [line for line in self.lines if line.startswith(("ERROR", "INTERNAL"))]
        return "; ".join(found[-3:] or self.lines[-1:])


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


def load(flavour: Flavour) -> Any:
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
        spec = find_spec(RTX_LIBRARIES)
        folder = Path(next(iter(spec.submodule_search_locations or ()))) if spec else Path()
        for stem in ("libtensorrt_rtx.so.*", "libtensorrt_onnxparser_rtx.so.*"):
            ctypes.CDLL(str(next(folder.glob(stem))), mode=ctypes.RTLD_GLOBAL)
        return import_module("tensorrt_rtx_bindings")
    except (ImportError, OSError, StopIteration) as error:
        raise BackendError(f"{flavour} does not load: {error}") from error


def build(flavour: Flavour, model: bytes, options: BuilderOptions) -> Built:
    """Parse ONNX bytes into a strongly typed network and build its plan.

    Raises:
        BackendError: The library is missing or gives no builder.
        GraphError: The parser refused the graph; has its own text and the node.
        BuildError: The builder gave no plan; has its own text.
    """
    trt = load(flavour)
    log = Log()
    logger = _logger(trt, log)
    try:
        builder = trt.Builder(logger)
    except TypeError as error:
        raise BackendError(
            f"{flavour} {trt.__version__} gives no builder ({error}); its libraries or the driver "
            f"do not fit the bindings. {log.errors}"
        ) from None
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flags=flags)
    parser = trt.OnnxParser(network=network, logger=logger)
    if not parser.parse(model=model):
        raise GraphError(_parser_errors(flavour, trt, parser))
    config = _config(trt, builder, options)
    plan = builder.build_serialized_network(network=network, config=config)
    if plan is None:
        raise BuildError(f"{flavour} {trt.__version__} built no engine: {log.errors}")
    return Built(bytes(plan), _layers(network), str(trt.__version__))


def _config(trt: Any, builder: Any, options: BuilderOptions) -> Any:
    config = builder.create_builder_config()
    if options.workspace_bytes is not None:
        pool = trt.MemoryPoolType.WORKSPACE
        config.set_memory_pool_limit(pool=pool, pool_size=options.workspace_bytes)
    if options.optimization_level is not None:
        config.builder_optimization_level = options.optimization_level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if options.compute_capabilities:
        if (
            hasattr(trt, "ComputeCapability")
            and hasattr(config, "num_compute_capabilities")
            and hasattr(config, "set_compute_capability")
        ):
            config.num_compute_capabilities = len(options.compute_capabilities)
            for index, name in enumerate(options.compute_capabilities):
                capability = getattr(trt.ComputeCapability, name, None)
                if capability is None:
                    have = [n for n in trt.ComputeCapability.__members__ if n.startswith("SM")]
                    raise BackendError(f"no compute capability {name!r}. Have: {', '.join(have)}")
                config.set_compute_capability(capability, index)
        else:
            raise BackendError(
                f"{trt.__version__}: builds for the GPU that it runs on; compute capabilities "
                f"{', '.join(options.compute_capabilities)} can be chosen with TensorRT-RTX only"
            )
    return config


def _parser_errors(flavour: Flavour, trt: Any, parser: Any) -> str:
    """Every error of the parser: what it says, and at which node."""
    found = []
    for index in range(parser.num_errors):
        error = parser.get_error(index)
        node = error.node_name() or "?"
        found.append(f"node {node!r} ({error.node_operator() or '?'}): {_one_line(error.desc())}")
    return (
        f"{flavour} {trt.__version__} refuses the graph. {'; '.join(found)}. Keep that node out of "
        f"the precision that it was put in with --keep-float, or export it as another operator"
    )


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _layers(network: Any) -> tuple[Layer, ...]:
    table = []
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        outputs = [layer.get_output(i) for i in range(layer.num_outputs)]
        table.append(
            Layer(
                layer.name,
                _plain(layer.type),
                tuple(_plain(tensor.dtype) for tensor in outputs),
                tuple(tuple(tensor.shape) for tensor in outputs),
            )
        )
    return tuple(table)


def _plain(member: Any) -> str:
    return str(member).rpartition(".")[-1]


_LOGGERS: dict[str, tuple[Any, list[Log]]] = {}
"""By module: the libraries keep the first logger for good, so there is one, and it is forwarded."""


def _logger(trt: Any, log: Log) -> Any:
    key = str(trt.__name__)
    if key not in _LOGGERS:
        current: list[Log] = []

        class Logger(trt.ILogger):  # type: ignore[misc]
            """Hands warnings and errors to the log of the build that runs."""

            def __init__(self) -> None:
                trt.ILogger.__init__(self)

            def log(self, severity: Any, message: str) -> None:
                if severity <= trt.ILogger.Severity.WARNING and current:
                    current[-1].add(_plain(severity), message)

        _LOGGERS[key] = (Logger(), current)
    logger, current = _LOGGERS[key]
    current[:] = [log]
    return logger


def table(layers: Sequence[Layer]) -> list[dict[str, object]]:
    """Layers as plain values, for JSON."""
    return [{"name": x.name, "kind": x.kind, "types": x.types, "shapes": x.shapes} for x in layers]

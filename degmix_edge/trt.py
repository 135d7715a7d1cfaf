"""TensorRT and TensorRT-RTX: the one file that imports them, and where they differ.

Only calls that TensorRT 10.3 to 11 and TensorRT-RTX all have, or ones behind `hasattr`; a test
reads this file and checks every name and keyword against each version's own bindings. Networks are
strongly typed: precision is in the graph, and no builder flag changes it.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from degmix_edge.errors import BackendError, BuildError, GraphError, ShapeError

Flavour = Literal["tensorrt", "tensorrt-rtx"]
RTX_LIBRARIES = "onnxruntime_ep_nv_tensorrt_rtx"
"""The wheel that holds TensorRT-RTX's own libraries."""
KEPT_LINES = 20
ALLOW_CODE = "DEGMIX_ALLOW_ENGINE_CODE"
"""Set to 1 to load version-compatible plans: they hold libraries."""
FIRST_CREATOR = "DegmixDeformSample"
BUILD_PLUGIN = "`make plugin` builds it (see plugins/README.md)"


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
        profile: Smallest, usual and largest shape of inputs that have sizes of -1, by name.
        plugin: Our plugin library, loaded before the graph is parsed.
        timing_cache: A file of measured tactics, read if it is there and written back.
        version_compatible: The plan runs with later minor versions too; the plugin goes into it.
        hardware_compatible: The plan runs on every card since Ampere, slower.
        dla_core: Experimental: what Orin's deep learning accelerator can run goes there, the rest,
            deformable convolutions too, to the GPU.
    """

    workspace_bytes: int | None = None
    optimization_level: int | None = None
    compute_capabilities: tuple[str, ...] = ()
    profile: dict[str, tuple[tuple[int, ...], ...]] = field(default_factory=dict)
    plugin: str | None = None
    timing_cache: str | None = None
    version_compatible: bool = False
    hardware_compatible: bool = False
    dla_core: int | None = None


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


def build(
    flavour: Flavour,
    model: bytes,
    options: BuilderOptions,
    progress: Callable[[str, int, int], None] | None = None,
) -> Built:
    """Parse ONNX bytes into a strongly typed network and build its plan.

    Args:
        flavour: Which builder.
        model: ONNX bytes.
        options: How to build.
        progress: Called with a phase of the builder, the steps that are done, and all of them.

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
    if options.plugin is not None:
        register(flavour, Path(options.plugin))
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    network = builder.create_network(flags=flags)
    parser = trt.OnnxParser(network=network, logger=logger)
    if not parser.parse(model=model):
        raise GraphError(_parser_errors(flavour, trt, parser))
    config = _config(trt, builder, options)
    _add_profile(trt, builder, config, network, options)
    cache = _timing_cache(trt, config, options)
    if progress is not None and hasattr(trt, "IProgressMonitor"):
        config.progress_monitor = _monitor(trt, progress)
    plan = builder.build_serialized_network(network=network, config=config)
    if plan is None:
        raise BuildError(f"{flavour} {trt.__version__} built no engine: {log.errors}")
    if cache is not None:
        _keep_timing_cache(cache, options)
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
    if options.version_compatible:
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        if options.plugin is not None and hasattr(config, "plugins_to_serialize"):
            config.plugins_to_serialize = [options.plugin]
    if options.hardware_compatible:
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if options.dla_core is not None:
        if builder.num_DLA_cores <= options.dla_core:
            raise BackendError(
                f"DLA core {options.dla_core}: this device has {builder.num_DLA_cores}; only Orin "
                f"AGX and NX have some, and not under every TensorRT"
            )
        config.default_device_type = trt.DeviceType.DLA
        config.DLA_core = options.dla_core
        config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    return config


def _add_profile(
    trt: Any, builder: Any, config: Any, network: Any, options: BuilderOptions
) -> None:
    """Shapes of inputs that have sizes of -1."""
    profile = builder.create_optimization_profile()
    dynamic = []
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        if -1 not in tuple(tensor.shape):
            continue
        shapes = options.profile.get(tensor.name)
        if shapes is None or len(shapes) != 3:
            raise ShapeError(
                f"input {tensor.name!r} {tuple(tensor.shape)} has sizes that are not known: give "
                f"its smallest, usual and largest shape, or export it with fixed sizes"
            )
        smallest, usual, largest = shapes
        profile.set_shape(tensor.name, min=smallest, opt=usual, max=largest)
        dynamic.append(tensor.name)
    unknown = set(options.profile) - set(dynamic)
    if unknown:
        raise ShapeError(
            f"shapes for {', '.join(sorted(unknown))}: no such input with sizes that are not known"
        )
    if dynamic:
        config.add_optimization_profile(profile)


def _timing_cache(trt: Any, config: Any, options: BuilderOptions) -> Any:
    if options.timing_cache is None:
        return None
    path = Path(options.timing_cache)
    measured = path.read_bytes() if path.is_file() else b""
    cache = config.create_timing_cache(measured)
    if not config.set_timing_cache(cache, ignore_mismatch=False):
        # Of another card, version or driver: start anew.
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, ignore_mismatch=False)
    return cache


def _keep_timing_cache(cache: Any, options: BuilderOptions) -> None:
    path = Path(str(options.timing_cache))
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_bytes(bytes(cache.serialize()))
    part.replace(path)


def _monitor(trt: Any, progress: Callable[[str, int, int], None]) -> Any:
    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Forwards the builder's outermost phase."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self.steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            if phase_name in self.steps:
                progress(phase_name, step + 1, self.steps[phase_name])
            return True

        def phase_finish(self, phase_name: str) -> None:
            if phase_name in self.steps:
                total = self.steps.pop(phase_name)
                progress(phase_name, total, total)

    return Monitor()


def register(flavour: Flavour, library: Path) -> list[str]:
    """Load our plugin library into the registry, once a process; names of its creators.

    Raises:
        BackendError: It is not there, of another major version, or the registry does not take it.
    """
    trt = load(flavour)
    major = int(str(trt.__version__).partition(".")[0])
    if not library.is_file():
        raise BackendError(f"{library}: no such plugin library; {BUILD_PLUGIN}")
    registry = trt.get_plugin_registry()
    if registry is None:
        raise BackendError(f"{flavour} {trt.__version__} has no plugin registry")
    if registry.get_creator(FIRST_CREATOR, "1", "degmix") is None:
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
    return sorted(
        creator.name for creator in registry.all_creators if creator.plugin_namespace == "degmix"
    )


@dataclass(frozen=True)
class Binding:
    """An input or output of an engine; a size of -1 is not fixed."""

    name: str
    is_input: bool
    dtype: str
    shape: tuple[int, ...]


class Engine:
    """A plan, ready to make execution contexts. The device's context is current in every call.

    Args:
        flavour: Whose plan it is.
        plan: Its bytes. They are executable: verify where they come from first.
        plugin: Our library, where the plan has nodes of ours.

    Raises:
        BackendError: The plan is of another version or card, or damaged; has TensorRT's own text.
    """

    def __init__(self, flavour: Flavour, plan: bytes, plugin: Path | None = None) -> None:
        trt = load(flavour)
        log = Log()
        runtime = trt.Runtime(_logger(trt, log))
        if os.environ.get(ALLOW_CODE) == "1":
            # A version-compatible plan holds its own runtime and plugins, as machine code.
            runtime.engine_host_code_allowed = True
        if plugin is not None:
            register(flavour, plugin)
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise BackendError(
                f"{flavour} {trt.__version__} refuses the engine ({len(plan)} bytes): {log.errors}"
            )
        self._trt, self._log, self._runtime, self._engine = trt, log, runtime, engine
        inputs = trt.TensorIOMode.INPUT
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        self.bindings = tuple(
            Binding(
                name,
                engine.get_tensor_mode(name) == inputs,
                _plain(engine.get_tensor_dtype(name)),
                tuple(engine.get_tensor_shape(name)),
            )
            for name in names
        )

    def context(self) -> Context:
        """A new execution context: one a thread."""
        engine = self._engine
        context = engine.create_execution_context()
        if context is None:
            raise BackendError(f"no execution context: out of GPU memory? {self._log.errors}")
        return Context(context, self._log)

    def layers(self) -> list[dict[str, object]]:
        """Layers as they were built: name, kind, tactic, and the modules that went into each."""
        trt, engine = self._trt, self._engine
        inspector = engine.create_engine_inspector()
        text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
        return inspected(str(text))


def inspected(text: str) -> list[dict[str, object]]:
    """The inspector's JSON as rows; a fused layer lists every module that it holds.

    Nodes are named `module.path/Op`. TensorRT writes them into each layer's metadata, or strings
    their names together with ` + `.
    """
    rows: list[dict[str, object]] = []
    for layer in json.loads(text).get("Layers", []):
        entry = layer if isinstance(layer, dict) else {"Name": layer}
        name = str(entry.get("Name", "?"))
        nodes = re.findall(r"\[ONNX Layer: ([^\]]+)\]", str(entry.get("Metadata", "")))
        nodes = nodes or [part.strip() for part in name.split(" + ")]
        modules = dict.fromkeys(node.partition("/")[0] for node in nodes if "/" in node)
        rows.append(
            {
                "name": name,
                "kind": entry.get("LayerType", ""),
                "tactic": entry.get("TacticName", ""),
                "modules": list(modules),
            }
        )
    return rows


class Context:
    """An execution context: addresses are set once, then it is enqueued again and again."""

    def __init__(self, context: Any, log: Log) -> None:
        self._context, self._log = context, log

    def set_shape(self, name: str, shape: tuple[int, ...]) -> None:
        """Of an input whose sizes are not fixed.

        Raises:
            ShapeError: It lies outside the engine's profile.
        """
        context = self._context
        if not context.set_input_shape(name, shape):
            raise ShapeError(f"{name} {shape}: outside the engine's profile. {self._log.errors}")

    def set_address(self, name: str, pointer: int) -> None:
        """Where a tensor lies on the device."""
        context = self._context
        if not context.set_tensor_address(name, pointer):
            raise BackendError(f"{name}: address refused. {self._log.errors}")

    def enqueue(self, stream: int) -> None:
        """Run on a stream, asynchronously.

        Raises:
            BackendError: TensorRT refused; has its own text.
        """
        context = self._context
        if not context.execute_async_v3(stream):
            raise BackendError(f"the engine does not run: {self._log.errors}")


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

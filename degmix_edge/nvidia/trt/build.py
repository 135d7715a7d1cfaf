"""Build plans from ONNX.

Networks are strongly typed: precision is in the graph, and no builder flag changes it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from degmix_edge import ops
from degmix_edge.errors import BackendError, BuildError, GraphError, ShapeError
from degmix_edge.files import write_file
from degmix_edge.nvidia.trt.load import (
    Flavour,
    Log,
    import_tensorrt,
    logger_for,
    member_name,
    register,
)


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


def build_plan(
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
        BuildError: The parser did not take our plugin for one of its operators, or the builder gave
            no plan; has its own text.
    """
    trt = import_tensorrt(flavour)
    log = Log()
    logger = logger_for(trt, log)
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
        reasons = "".join(f". {reason}" for reason in log.reasons)
        raise GraphError(_parser_errors(flavour, trt, parser) + reasons)
    layers = _layers(network)
    _check_plugin_layers(flavour, str(trt.__version__), layers, ops.node_names(model))
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
    return Built(bytes(plan), layers, str(trt.__version__))


def _check_plugin_layers(
    flavour: Flavour, version: str, layers: Sequence[Layer], names: Sequence[str]
) -> None:
    """Check that the plugin runs each of our operators.

    Raises:
        BuildError: The parser took something else for one of them.
    """
    plugins = {x.name for x in layers if x.kind == "PLUGIN_V3"}
    others = [name for name in names if name not in plugins]
    if others:
        raise BuildError(
            f"{flavour} {version} does not run {len(others)} of {len(names)} operators with our "
            f"plugin, {others[0]!r} first: its parser made other layers of them. Report this with "
            f"the version"
        )


def _config(trt: Any, builder: Any, options: BuilderOptions) -> Any:
    config = builder.create_builder_config()
    # Offsets are pixels up to a map's side, which TF32's ten bits round by a tenth of a pixel.
    config.clear_flag(trt.BuilderFlag.TF32)
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
    write_file(path, bytes(cache.serialize()), force=True)


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
                member_name(layer.type),
                tuple(member_name(tensor.dtype) for tensor in outputs),
                tuple(tuple(tensor.shape) for tensor in outputs),
            )
        )
    return tuple(table)


def layer_table(layers: Sequence[Layer]) -> list[dict[str, object]]:
    """Layers as plain values, for JSON."""
    return [{"name": x.name, "kind": x.kind, "types": x.types, "shapes": x.shapes} for x in layers]

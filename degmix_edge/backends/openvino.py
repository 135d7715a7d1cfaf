"""OpenVINO on an x86 or ARM CPU: FP32, bfloat16 where the CPU has it, and INT8 from our own Q/DQ.

Its own default would be bfloat16 on any CPU that has it. Here a recipe says what is bfloat16, and
nothing else is.
"""

from __future__ import annotations

import contextlib
import io
import platform
import re
import tempfile
import threading
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np

from degmix_edge.backends import _cpu_ops, _openvino_ops
from degmix_edge.backends._base import PLAIN, EngineBackend, EngineOptions, Progress
from degmix_edge.errors import BackendError
from degmix_edge.quant.ranges import Ranges
from degmix_edge.tensors import TensorSpec

if TYPE_CHECKING:
    from degmix_edge.quant.recipe import Placed, Precision, Recipe

FLOOR = (2026, 4)
"""The first release in which marks that keep single nodes in FP32 were seen to work."""
DEVICE = "CPU"
INSTRUCTION_SETS = (
    *("sse4_2", "avx2", "avx_vnni", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16"),
    *("amx_int8", "amx_bf16", "amx_fp16", "asimd", "asimddp", "sve", "i8mm", "bf16"),
)
PROFILED = 5
"""Calls that are profiled; the median counts."""
MARK = {"name": "DisablePrecisionConversion", "version": "0", "value": "dynamic:f16"}
"""What keeps a node of OpenVINO's IR in FP32; the plugin asks for f16 where it means bfloat16."""


class Backend(EngineBackend):
    """Runs an engine on the CPU: OpenVINO's IR after its own compilation for this processor."""

    name = "openvino"
    engine_file = "engine.blob"
    runs_model = False
    is_concurrent = True
    takes_timeout = True

    @classmethod
    def unavailable(cls) -> str | None:
        try:
            version = cls.version()
        except metadata.PackageNotFoundError:
            return "openvino is not installed: pip install 'degmix-edge[openvino]'"
        if tuple(map(int, version.split(".")[:2])) < FLOOR:
            return (
                f"openvino {version} is too old, expected at least {FLOOR[0]}.{FLOOR[1]}: "
                "pip install -U openvino"
            )
        return None

    @classmethod
    def version(cls) -> str:
        return metadata.version("openvino")

    @classmethod
    def device(cls) -> str:
        """The instruction sets, and our operators: what an engine depends on."""
        ours = () if _cpu_ops.library() is None else (_cpu_ops.VERSION,)
        return "+".join((f"cpu-{platform.machine()}", *instruction_sets(), *ours))

    @classmethod
    def precisions(cls) -> tuple[Precision, ...]:
        return ("int8", "bf16", "fp32") if has_bf16() else ("int8", "fp32")

    @classmethod
    def lacks(cls, precision: Placed) -> str | None:
        if precision != "bf16":
            return super().lacks(precision)
        if has_bf16():
            return None
        return (
            f"{cls.name}: this CPU ({processor()}) has no bfloat16 arithmetic, as Xeon, EPYC and "
            "Graviton have since AVX512_BF16, AMX and BF16; use fp32 or int8"
        )

    @classmethod
    def build(
        cls,
        model: bytes,
        recipe: Recipe,
        ranges: Ranges | None,
        options: EngineOptions = PLAIN,
        progress: Progress | None = None,
    ) -> dict[str, bytes]:
        cls.refuse_options(options)
        cls.refuse_recipe(recipe)
        # Lowering needs onnx; a robot that has its engine does not have it.
        from degmix_edge.passes.forms import lower_for_openvino

        is_half = bool(recipe.nodes("bf16"))
        operators = _cpu_ops.library() is not None
        lowered, kept = lower_for_openvino(model, recipe, operators=operators)
        with _errors():
            graph = _marked(_read(lowered), kept)
            compiled = _core().compile_model(graph, DEVICE, _settings(is_half))
            blob: bytes = compiled.export_model().getvalue()
        return {cls.engine_file: (HALF if is_half else SINGLE) + blob}

    def _activate(self) -> None:
        is_half, blob = _split(self.engine)
        self._busy: set[Any] = set()
        self._idle: list[Any] = []
        with _errors():
            self._compiled = _loaded(blob, _settings(is_half, self.threads))
        named = {t.name for t in (*self.spec.map_specs, *self.spec.logits_specs)}
        self._inputs = [port.get_any_name() for port in self._compiled.inputs]
        self._outputs = [_name(port, named) for port in self._compiled.outputs]

    def engine_tensors(self) -> tuple[TensorSpec, ...]:
        names = [*self._inputs, *self._outputs]
        ports = [*self._compiled.inputs, *self._compiled.outputs]
        return tuple(map(_tensor_spec, names, ports))

    def _infer(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        try:  # a request is for one call at a time
            request = self._idle.pop()
        except IndexError:
            request = self._compiled.create_infer_request()
        self._busy.add(request)
        late = threading.Event()
        try:
            with _time_limit(request, self.timeout_s, late), _errors():
                # `infer` does not end when it is cancelled; `wait` does.
                request.start_async([feed[name] for name in self._inputs])
                request.wait()
        except BackendError:
            if late.is_set():
                raise BackendError(
                    f"{self.name}: no result after {self.timeout_s:g} s, this session's timeout"
                ) from None
            if request not in self._busy:
                raise BackendError(f"{self.name}: the call was cancelled") from None
            raise
        finally:
            self._busy.discard(request)
        tensors = map(request.get_output_tensor, range(len(self._outputs)))
        maps = {n: np.array(t.data) for n, t in zip(self._outputs, tensors, strict=True)}
        self._idle.append(request)
        return maps

    def cancel(self) -> None:
        while self._busy:
            self._busy.pop().cancel()

    def _deactivate(self) -> None:
        self._idle.clear()
        del self._compiled


SINGLE, HALF = b"degmix-openvino-f32\n", b"degmix-openvino-bf16\n"
"""The first line of an engine: what products run in that neither are INT8 nor marked as FP32."""


def node_ms(
    engine: bytes, feed: Mapping[str, np.ndarray], threads: int | None = None
) -> dict[str, float]:
    """Return the milliseconds of each node of an engine, by the name that it has in the graph.

    Args:
        engine: What `Backend.build` made.
        feed: Its inputs by name.
        threads: CPU threads; None leaves it to OpenVINO.
    """
    is_half, blob = _split(engine)
    taken: dict[str, list[float]] = {}
    with _errors():
        compiled = _loaded(blob, {**_settings(is_half, threads), "PERF_COUNT": True})
        request = compiled.create_infer_request()
        for _ in range(PROFILED):
            request.infer(dict(feed))
            for node in request.get_profiling_info():
                taken.setdefault(_in_onnx(node.node_name), []).append(
                    node.real_time.total_seconds() * 1e3
                )
    return {name: float(np.median(times)) for name, times in taken.items()}


def _core() -> Any:
    return _core_with(_cpu_ops.library())


@cache
def _core_with(operators: Path | None) -> Any:
    import openvino

    core = openvino.Core()
    for extension in () if operators is None else _openvino_ops.extensions(operators):
        core.add_extension(extension)
    return core


def _loaded(blob: bytes, settings: Mapping[str, Any]) -> Any:
    """A compiled network, whose operators of ours know its number of threads."""
    with _openvino_ops.loading() as workers:
        compiled = _core().import_model(io.BytesIO(blob), DEVICE, dict(settings))
        workers.count = int(compiled.get_property("INFERENCE_NUM_THREADS"))
    return compiled


@cache
def capabilities() -> frozenset[str]:
    """What OpenVINO's kernels can use of this processor, such as FP32, BF16 and INT8."""
    return frozenset(_core().get_property(DEVICE, "OPTIMIZATION_CAPABILITIES"))


@cache
def instruction_sets() -> tuple[str, ...]:
    """Instruction sets of this processor that OpenVINO has kernels for, as the system names them.

    Where the system does not tell, they are the precisions that OpenVINO can use.
    """
    try:
        words = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return tuple(sorted(capabilities()))
    return tuple(name for name in INSTRUCTION_SETS if name in words)


def has_bf16() -> bool:
    """Whether this processor multiplies bfloat16."""
    return "BF16" in capabilities()


def processor() -> str:
    """The processor's own name."""
    return str(_core().get_property(DEVICE, "FULL_DEVICE_NAME")).strip()


def _settings(is_half: bool, threads: int | None = None) -> dict[str, Any]:
    """One call at a time, as fast as it can be, on cores that the system chooses."""
    settings: dict[str, Any] = {
        "INFERENCE_PRECISION_HINT": "bf16" if is_half else "f32",
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        # Pinned threads of two sessions would wait for the same core while others are free.
        "ENABLE_CPU_PINNING": False,
    }
    return settings if threads is None else {**settings, "INFERENCE_NUM_THREADS": threads}


def _read(model: bytes) -> Any:
    """Read ONNX bytes.

    Raises:
        BackendError: OpenVINO has no such operator.
    """
    try:
        return _core().read_model(model)
    except RuntimeError as error:
        missing = re.search(r"No conversion rule found for operations: (.+)", str(error))
        if missing is None:
            raise
        raise BackendError(
            f"openvino {Backend.version()}: has no {missing[1]}; write a pass that lowers it to "
            "what OpenVINO has, as lower_deform_to_gridsample.py does, or use --backend onnxruntime"
        ) from None


def _marked(graph: Any, kept: frozenset[str]) -> Any:
    """The graph in which the nodes `kept` stay FP32, whatever runs in bfloat16."""
    if not kept:
        return graph
    import openvino

    with tempfile.TemporaryDirectory() as folder:
        xml = Path(folder) / "graph.xml"
        openvino.save_model(graph, xml, compress_to_fp16=False)
        tree = ElementTree.parse(xml)
        for layer in tree.iter("layer"):
            if _in_onnx(layer.get("name", "")) in kept:
                info = layer.find("rt_info")
                info = ElementTree.SubElement(layer, "rt_info") if info is None else info
                ElementTree.SubElement(info, "attribute", MARK)
        tree.write(xml)
        return _core().read_model(xml)


def _in_onnx(name: str) -> str:
    """The name that a node has in ONNX: OpenVINO parts a bias, and the scale of an INT8 product."""
    return name.removesuffix("/WithoutBiases").removesuffix("/DequantizationMultiply")


def _split(engine: bytes) -> tuple[bool, bytes]:
    for head in (SINGLE, HALF):
        if engine.startswith(head):
            return head == HALF, engine.removeprefix(head)
    raise BackendError("openvino: the engine is none of this backend's; build the bundle again")


def _name(port: Any, named: set[str]) -> str:
    """The name of an output that the network has promised; compilation may add others."""
    names = port.get_names()
    return next((name for name in sorted(names) if name in named), str(port.get_any_name()))


def _tensor_spec(name: str, port: Any) -> TensorSpec:
    shape = tuple(None if side.is_dynamic else side.get_length() for side in port.partial_shape)
    dtype = np.dtype(port.get_element_type().to_dtype())
    return TensorSpec(name=name, dtype=str(dtype), shape=shape)


@contextlib.contextmanager
def _time_limit(request: Any, seconds: float | None, late: threading.Event) -> Iterator[None]:
    """Cancel a request after so many seconds, and set `late`; None never cancels it."""
    if seconds is None:
        yield
        return

    def end() -> None:
        late.set()
        request.cancel()

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@contextlib.contextmanager
def _errors() -> Iterator[None]:
    """Turn what OpenVINO raises inside the block into a BackendError with what says most."""
    try:
        yield
    except RuntimeError as error:
        raise BackendError(f"openvino {Backend.version()}: {_first_line(error)}") from error


def _first_line(error: RuntimeError) -> str:
    """The first line of a message that is no place in OpenVINO's own source."""
    lines = [line.strip() for line in str(error).splitlines()]
    said = [ln for ln in lines if ln and not re.match(r"(Exception|Check) .*(from|at) ", ln)]
    return str((said or lines or [type(error).__name__])[0])

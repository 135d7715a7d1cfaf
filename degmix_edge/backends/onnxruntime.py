"""ONNX Runtime on the CPU: the default where there is no GPU."""

from __future__ import annotations

import platform
import tempfile
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from degmix_edge.backends import _cpu_ops
from degmix_edge.backends._base import PLAIN, EngineBackend, EngineOptions, Progress
from degmix_edge.errors import BackendError
from degmix_edge.network import IMAGE
from degmix_edge.quant.ranges import Ranges

if TYPE_CHECKING:
    from degmix_edge.quant.recipe import Recipe

FLOOR = (1, 25)
"""The first release whose CPU backend has DeformConv."""


class Backend(EngineBackend):
    """See the module. An engine is the graph after ONNX Runtime's portable optimisations."""

    name = "onnxruntime"
    is_concurrent = True

    @classmethod
    def unavailable(cls) -> str | None:
        """See `Backend`."""
        if find_spec("onnxruntime") is None:
            return "onnxruntime is not installed: pip install 'degmix-edge[cpu]'"
        if tuple(map(int, cls.version().split(".")[:2])) < FLOOR:
            return (
                f"onnxruntime {cls.version()} has no DeformConv, expected at least "
                f"{FLOOR[0]}.{FLOOR[1]} (Python >= 3.11): pip install -U onnxruntime"
            )
        return None

    @classmethod
    def version(cls) -> str:
        """See `EngineBackend`."""
        return metadata.version("onnxruntime")

    @classmethod
    def device(cls) -> str:
        """The instruction set, and our operators: what an engine depends on."""
        machine = f"cpu-{platform.machine()}"
        return machine if _cpu_ops.library() is None else f"{machine}+{_cpu_ops.VERSION}"

    @classmethod
    def build(
        cls,
        model: bytes,
        recipe: Recipe,
        ranges: Ranges | None,
        options: EngineOptions = PLAIN,
        progress: Progress | None = None,
    ) -> dict[str, bytes]:
        """See `EngineBackend`. INT8 graphs are lowered to the form that has integer CPU kernels."""
        cls.refuse_options(options)
        model = _lower(model, ranges if recipe.precision == "int8" else None)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / cls.engine_file
            portable = _options(None, level="ORT_ENABLE_EXTENDED")
            portable.optimized_model_filepath = str(path)
            _session(model, portable)
            return {cls.engine_file: path.read_bytes()}

    def _activate(self) -> None:
        self._running = _session(self.engine, _options(self.threads))
        self._names = [output.name for output in self._running.get_outputs()]

    def _infer(self, image: np.ndarray) -> dict[str, np.ndarray]:
        maps = self._running.run(None, {IMAGE: image})
        return dict(zip(self._names, maps, strict=True))

    def _deactivate(self) -> None:
        del self._running


def _lower(model: bytes, ranges: Ranges | None) -> bytes:
    import onnx

    from degmix_edge.passes._base import Pass, apply, to_graph, to_model
    from degmix_edge.passes.fuse_integer_matmul import FuseIntegerMatmul
    from degmix_edge.passes.lower_deform_sample import LowerDeformSample
    from degmix_edge.passes.lower_moe import LowerMoe
    from degmix_edge.passes.lower_qdq_for_cpu import LowerQdqForCpu
    from degmix_edge.passes.requantize_samples import RequantizeSamples

    steps: list[Pass] = []
    if _cpu_ops.library() is not None:
        steps += [LowerDeformSample(), RequantizeSamples()]
    if ranges is not None:
        steps.append(LowerQdqForCpu(ranges))
    steps.append(LowerMoe())  # after types of quantized values are settled: it gathers those
    if ranges is not None:
        steps.append(FuseIntegerMatmul())
    graph = to_graph(onnx.load_from_string(model))
    if not any(outcome.rewrites for outcome in apply(graph, steps)):
        return model
    lowered: bytes = to_model(graph, {}).SerializeToString()
    return lowered


def _options(threads: int | None, level: str = "ORT_ENABLE_ALL") -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
    options.log_severity_level = 3
    if threads is not None:
        options.intra_op_num_threads = threads
    path = _cpu_ops.library()
    if path is not None:
        try:
            options.register_custom_ops_library(str(path))
        except Exception as error:  # ONNX Runtime's errors share no base class
            raise BackendError(
                f"{path}: no library of operators for this machine ({error}); "
                f"{_cpu_ops.VARIABLE}=none leaves it out, `make cpu-ops` builds it"
            ) from None
    return options


def _session(model: bytes, options: Any) -> Any:
    import onnxruntime

    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # ONNX Runtime's errors share no base class
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BackendError(f"onnxruntime {onnxruntime.__version__}: {first}") from error

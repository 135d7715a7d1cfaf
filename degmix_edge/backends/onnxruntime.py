"""ONNX Runtime on the CPU: the default where there is no GPU."""

from __future__ import annotations

import contextlib
import platform
import tempfile
import threading
from collections.abc import Iterator, Mapping
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from degmix_edge import ort
from degmix_edge.backends import _cpu_ops
from degmix_edge.backends._base import PLAIN, EngineBackend, EngineOptions, Progress, TaskCall
from degmix_edge.errors import BackendError
from degmix_edge.graph.split_names import MIX, NEXT, PREFIX, RUN, state_task
from degmix_edge.ort import cpu_session
from degmix_edge.quant.ranges import Ranges
from degmix_edge.tensors import TensorSpec

if TYPE_CHECKING:
    from degmix_edge.quant.recipe import Placed, Precision, Recipe

FLOOR = (1, 25)
"""The first release whose CPU backend has DeformConv."""
_DTYPES = {"float": "float32", "double": "float64"}


class Backend(EngineBackend):
    """Runs an engine on the CPU: the graph after ONNX Runtime's portable optimisations."""

    name = "onnxruntime"
    is_concurrent = True
    takes_timeout = True
    takes_options = ("split",)

    @classmethod
    def unavailable(cls) -> str | None:
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
        return metadata.version("onnxruntime")

    @classmethod
    def device(cls) -> str:
        """The instruction set, and our operators: what an engine depends on."""
        machine = f"cpu-{platform.machine()}"
        return machine if _cpu_ops.library() is None else f"{machine}+{_cpu_ops.VERSION}"

    @classmethod
    def precisions(cls) -> tuple[Precision, ...]:
        """It computes FP16 and bfloat16 in FP32 on a processor."""
        return ("int8", "fp32")

    @classmethod
    def lacks(cls, precision: Placed) -> str | None:
        return None if precision == "bf16" else super().lacks(precision)

    @classmethod
    def build(
        cls,
        model: bytes,
        recipe: Recipe,
        ranges: Ranges | None,
        options: EngineOptions = PLAIN,
        progress: Progress | None = None,
    ) -> dict[str, bytes]:
        # INT8 graphs are lowered to the form that has integer CPU kernels.
        cls.refuse_options(options)
        # Lowering needs onnx; a robot that has its engine does not have it.
        from degmix_edge.passes.forms import lower_for_onnxruntime

        operators = _cpu_ops.library() is not None
        int8_ranges = ranges if recipe.precision == "int8" else None
        model = lower_for_onnxruntime(model, int8_ranges, operators=operators, split=options.split)
        if options.split:
            # ONNX Runtime would write what it fuses in branches under names of the outer graph.
            _session(model, optimization="extended")
            return {cls.engine_file: model}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / cls.engine_file
            _session(model, optimization="extended", optimized_model=path)
            return {cls.engine_file: path.read_bytes()}

    def _activate(self) -> None:
        self._calls: set[Any] = set()
        self._running = _session(self.engine, num_threads=self.threads)
        self._names = [output.name for output in self._running.get_outputs()]
        specs = [_tensor_spec(tensor) for tensor in self._running.get_inputs()]
        control = [spec for spec in specs if spec.name.startswith(PREFIX)]
        states = [spec for spec in control if spec.name not in (MIX, RUN)]
        self._zeros = {s.name: np.zeros([d or 0 for d in s.shape], s.dtype) for s in states}
        self.is_split = bool(control)

    def engine_tensors(self) -> tuple[TensorSpec, ...]:
        """Inputs and outputs, but not those by which a split engine is told what to run."""
        tensors = (*self._running.get_inputs(), *self._running.get_outputs())
        return tuple(_tensor_spec(t) for t in tensors if not t.name.startswith(PREFIX))

    def _infer(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        if not self.is_split:
            return self._run(feed)
        arrays = self._infer_tasks(feed, TaskCall(frozenset(self.spec.task_names)))
        return {name: array for name, array in arrays.items() if not name.startswith(PREFIX)}

    def _infer_tasks(self, feed: Mapping[str, np.ndarray], call: TaskCall) -> dict[str, np.ndarray]:
        if not self.is_split:
            return super()._infer_tasks(feed, call)
        mixed = call.mix | call.run  # a query reads its own mixer
        for name in self._zeros:
            if name not in call.states and state_task(name) not in mixed:
                raise BackendError(
                    f"{self.name}: no state {name!r} of the task that does not run; run its mixer "
                    "in the first call of a sequence"
                )
        # A mixer that runs does not read its old state.
        states = {
            n: zeros if state_task(n) in mixed else call.states[n]
            for n, zeros in self._zeros.items()
        }
        tasks = self.spec.task_names
        chosen = {MIX: np.array([task in mixed for task in tasks])}
        chosen[RUN] = np.array([task in call.run for task in tasks])
        arrays = self._run({**feed, **chosen, **states})
        # A map that was not computed has no rows.
        return {n.removesuffix(NEXT): a for n, a in arrays.items() if n.endswith(NEXT) or len(a)}

    def _run(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        import onnxruntime

        options = onnxruntime.RunOptions()
        self._calls.add(options)
        try:
            with _time_limit(options, self.timeout_s), ort.errors():
                maps = self._running.run(None, feed, options)
        except BackendError:
            if not options.terminate:
                raise
            is_late = options in self._calls  # those that were cancelled are not
            why = "the call was cancelled"
            if is_late:
                why = f"no result after {self.timeout_s:g} s, this session's timeout"
            raise BackendError(f"{self.name}: {why}") from None
        finally:
            self._calls.discard(options)
        return dict(zip(self._names, maps, strict=True))

    def cancel(self) -> None:
        while self._calls:
            self._calls.pop().terminate = True

    def _deactivate(self) -> None:
        del self._running


@contextlib.contextmanager
def _time_limit(options: Any, seconds: float | None) -> Iterator[None]:
    """End the call with these options after so many seconds; None never ends it."""
    if seconds is None:
        yield
        return
    timer = threading.Timer(seconds, setattr, (options, "terminate", True))
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _tensor_spec(tensor: Any) -> TensorSpec:
    """The spec of an input or output, with ONNX Runtime's name of a type, `tensor(float)`."""
    kind = tensor.type.removeprefix("tensor(").removesuffix(")")
    shape = tuple(side if isinstance(side, int) else None for side in tensor.shape)
    return TensorSpec(name=tensor.name, dtype=_DTYPES.get(kind, kind), shape=shape)


def _session(model: bytes, **options: Any) -> Any:
    """A session with our operators, where they are built."""
    library = _cpu_ops.library()
    try:
        return cpu_session(model, operators=library, **options)
    except BackendError as error:
        if library is not None and library.name in str(error):
            raise BackendError(
                f"{library}: no library of operators for this machine ({error}); "
                f"{_cpu_ops.VARIABLE}=none leaves it out, `make cpu-ops` builds it"
            ) from None
        raise

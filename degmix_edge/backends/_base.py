"""What a backend is: activate, infer, deactivate; a feed in, named maps out."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar, TypeAlias

import numpy as np

from degmix_edge.camera import RawFrame
from degmix_edge.errors import BackendError, ShapeError
from degmix_edge.network import IMAGE, NetworkSpec
from degmix_edge.quant.ranges import Ranges
from degmix_edge.tensors import TensorSpec, check, fill

if TYPE_CHECKING:
    from degmix_edge.quant.recipe import Placed, Precision, Recipe

RawFrames: TypeAlias = Mapping[str, Sequence[RawFrame]]
"""The frames of a batch, by the input that they become."""


@dataclass(frozen=True)
class TaskCall:
    """Which tasks one call of a split engine runs.

    Attributes:
        run: Tasks whose maps are computed.
        mix: Further tasks whose state is computed, and no map.
        states: The states of all other tasks, by name, as an earlier call gave them.
    """

    run: frozenset[str]
    mix: frozenset[str] = frozenset()
    states: Mapping[str, np.ndarray] = field(default_factory=dict)


class Backend(ABC):
    """Runs one network. Use it with `with`: entering activates, leaving deactivates.

    Attributes:
        name: The file's name.
        title: What tables call it.
        spec: The network that it runs.
        is_concurrent: Several threads may infer at once.
        fits_frames: `infer` takes raw frames, while it is active.
        is_split: `infer` can run some tasks alone, while it is active.
        rounds: The network itself rounds to a type narrower than float32 between its nodes.
        stages: Milliseconds by part of this thread's last call, of a backend that measures them.
    """

    name: ClassVar[str]
    title: ClassVar[str] = ""
    is_concurrent: ClassVar[bool] = False
    rounds: bool = False
    fits_frames: bool = False
    is_split: bool = False

    def __init__(self, spec: NetworkSpec) -> None:
        self.spec = spec
        self.active = False
        self._mine = threading.local()

    @property
    def stages(self) -> dict[str, float]:
        """Milliseconds by part of the last call that the calling thread made; may be empty."""
        found: dict[str, float] = getattr(self._mine, "stages", {})
        return found

    @classmethod
    @abstractmethod
    def unavailable(cls) -> str | None:
        """Why it cannot run here and what to do, or None."""

    @abstractmethod
    def _activate(self) -> None:
        """Load the network."""

    @abstractmethod
    def _infer(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run it on checked arrays that fill the batch."""

    @abstractmethod
    def _deactivate(self) -> None:
        """Give everything back."""

    def infer(
        self,
        feed: Mapping[str, np.ndarray],
        frames: RawFrames | None = None,
        *,
        call: TaskCall | None = None,
    ) -> dict[str, np.ndarray]:
        """Maps by task, batch first, as `TaskSpec.map_spec` says. The arrays are the caller's.

        Args:
            feed: An array for each of `spec.input_specs`, by name. It may have fewer images than
                `spec.batch`: the result has as many, and the call costs as much as a full one.
            frames: The images of the batch as cameras wrote them, in the place of all arrays of
                images in `feed`; only for a backend that `fits_frames`.
            call: Which tasks to run; None is all. The result has the maps of these tasks alone,
                and the states of all tasks by name. Only for a backend that `is_split`.

        Raises:
            BackendError: It is not active, or it failed, or does not fit frames; it is not split,
                or the call lacks a state.
            ShapeError: An array is not what the network takes, or there is none.
            InputError: A frame is larger than the backend takes.
        """
        if not self.active:
            raise BackendError(f"{self.name}: not active; use it inside `with`")
        frames = frames or {}
        names, batch = [*feed, *frames], self.spec.batch
        if sorted(names) != sorted(spec.name for spec in self.spec.input_specs):
            got, wanted = ", ".join(names), ", ".join(map(str, self.spec.input_specs))
            raise ShapeError(f"{self.name}: got inputs {got or 'none'}, expected {wanted}")
        specs = [spec for spec in self.spec.input_specs if spec.name in feed]
        images = len(frames[IMAGE] if IMAGE in frames else feed[IMAGE]) if batch > 1 else 1
        if images == batch:
            arrays = {spec.name: check(feed[spec.name], spec) for spec in specs}
        else:
            arrays = {spec.name: check(fill(feed[spec.name], batch), spec) for spec in specs}
        if call is not None:
            return self._infer_tasks(arrays, call)
        maps = self._infer_frames(arrays, frames) if frames else self._infer(arrays)
        return maps if images == batch else {name: array[:images] for name, array in maps.items()}

    def _infer_frames(
        self, feed: Mapping[str, np.ndarray], frames: RawFrames
    ) -> dict[str, np.ndarray]:
        """Run the network on raw frames of its images, and on other inputs that are checked."""
        raise BackendError(f"{self.name}: takes images of the network's size, and no raw frames")

    def in_double(self) -> Backend | None:
        """Return the same network computed in float64, or None where it cannot be."""
        return None

    def cancel(self) -> None:  # noqa: B027  # a backend that cannot end a call lets it finish
        """Ask calls that run in other threads to end with a BackendError, where that can be."""

    def _infer_tasks(self, feed: Mapping[str, np.ndarray], call: TaskCall) -> dict[str, np.ndarray]:
        """Run some tasks of the network on checked arrays."""
        raise BackendError(f"{self.name}: the engine is not split, and always runs all tasks")

    def __enter__(self) -> Backend:
        """Activate."""
        if not self.active:
            self._activate()
            self.active = True
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Deactivate. A second time does nothing."""
        if self.active:
            self.active = False
            self._deactivate()


@dataclass(frozen=True)
class EngineOptions:
    """What a user may ask of an engine; a backend refuses what it does not have.

    Attributes:
        dcn: How deformable convolutions are built; `auto` measures where it can.
        version_compatible: Runs with later minor versions of the library too.
        hardware_compatible: Runs on every card since Ampere.
        dla_core: Index of Orin's deep learning accelerator; experimental.
        split: A call can run any subset of the tasks.
        feeds: Typical inputs by name, to time forms of an engine on; no request.
    """

    dcn: str = "auto"
    version_compatible: bool = False
    hardware_compatible: bool = False
    dla_core: int | None = None
    split: bool = False
    feeds: tuple[Mapping[str, np.ndarray], ...] = field(default=(), compare=False, repr=False)


PLAIN = EngineOptions()
"""Nothing in particular."""
REQUESTS = tuple(field.name for field in fields(EngineOptions) if field.compare)
"""Options that a user asks for by name."""
Progress = Callable[[str, int, int], None]
"""Called with what is under way, the steps that are done, and all of them."""


class EngineBackend(Backend):
    """A backend that makes an engine of `model.onnx` and runs that.

    Args:
        spec: The network.
        engine: What `build` returned; where `runs_model`, also `model.onnx` itself.
        threads: How many CPU threads, or for a GPU how many calls at once; None is the backend's
            own choice.

    Attributes:
        engine_file: What the engine is called in a bundle.
        runs_model: `model.onnx` can stand in for an engine.
        has_lanes: `threads` is how many calls run at once, as on a GPU, and not CPU threads.
        takes_fp8: It has kernels for FP8.
        takes_options: Names of `EngineOptions` that it has.
        takes_timeout: It can end a call that takes longer than `timeout_s`.
        timeout_s: Seconds after which a call is ended; None never ends one.
    """

    engine_file: ClassVar[str] = "engine.onnx"
    runs_model: ClassVar[bool] = True
    has_lanes: ClassVar[bool] = False
    takes_fp8: ClassVar[bool] = False
    takes_options: ClassVar[tuple[str, ...]] = ()
    takes_timeout: ClassVar[bool] = False
    timeout_s: float | None = None

    def __init__(self, spec: NetworkSpec, engine: bytes, *, threads: int | None = None) -> None:
        super().__init__(spec)
        self.engine, self.threads = engine, threads

    @classmethod
    @abstractmethod
    def version(cls) -> str:
        """The version of the library that runs the engine."""

    @classmethod
    @abstractmethod
    def device(cls) -> str:
        """What the engine is built for, in words that change when it must be built again."""

    @classmethod
    def cannot_build(cls) -> str | None:
        """Why it cannot build here and what to do, or None. Most build where they run."""
        return cls.unavailable()

    @classmethod
    def precisions(cls) -> tuple[Precision, ...]:
        """Precisions in which its kernels compute on this machine, of which one is the fastest."""
        return ("int8", "fp16")

    @classmethod
    def lacks(cls, precision: Placed) -> str | None:
        """Why it builds no engine with nodes of a precision and what to do, or None."""
        if precision == "bf16" and "bf16" not in cls.precisions():
            return f"{cls.name}: builds no bfloat16 engines; use --backend openvino, or fp16"
        if precision == "fp8" and not cls.takes_fp8:
            return (
                f"{cls.name}: has no kernels for FP8; build with --backend tensorrt on a card "
                "since Ada (sm_89), with --backend tensorrt-rtx, or with --precision int8"
            )
        return None

    @classmethod
    @abstractmethod
    def build(
        cls,
        model: bytes,
        recipe: Recipe,
        ranges: Ranges | None,
        options: EngineOptions = PLAIN,
        progress: Progress | None = None,
    ) -> dict[str, bytes]:
        """The engine for `model.onnx`, as `engine_file`, and files that go with it.

        Args:
            model: ONNX bytes with the recipe's precision inside.
            recipe: What runs in which precision.
            ranges: What calibration measured; an int8 recipe needs them.
            options: What the user asked of it.
            progress: Told of the builder's steps.

        Raises:
            BackendError: The backend refused the model, or has no such option.
        """

    def engine_tensors(self) -> tuple[TensorSpec, ...] | None:
        """Inputs and outputs of the active engine, without units; None if it cannot tell."""
        return None

    @classmethod
    def refuse_recipe(cls, recipe: Recipe) -> None:
        """Before a build: what its kernels have no precision for must not be computed in another.

        Raises:
            BackendError: The recipe has such nodes.
        """
        for precision in sorted({place.precision for place in recipe.placements}):
            if reason := cls.lacks(precision):
                raise BackendError(reason)

    @classmethod
    def refuse_options(cls, options: EngineOptions) -> None:
        """Before any work: what a backend does not have must not be asked for.

        Raises:
            BackendError: It was.
        """
        others = [name for name in REQUESTS if name not in cls.takes_options]
        asked = [name for name in others if getattr(options, name) != getattr(PLAIN, name)]
        if asked:
            flags = ", ".join(f"--{name.replace('_', '-')}" for name in asked)
            other = "onnxruntime" if asked == ["split"] else "tensorrt"
            raise BackendError(f"{cls.name}: has no {flags}; that is for --backend {other}")

    @classmethod
    def refuse_precision(cls, precision: Precision) -> None:
        """Before any work: a precision that it has no kernels for must not be asked for.

        Raises:
            BackendError: It was.
        """
        if reason := cls.lacks(precision):
            raise BackendError(reason)

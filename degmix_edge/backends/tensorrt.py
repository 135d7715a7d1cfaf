"""TensorRT: engines for the card in this machine, from Orin to Hopper.

A session has lanes. A lane is an execution context with its own stream, buffers and CUDA graphs;
each call takes a free lane and gives it back, so as many threads run at once as there are lanes.
"""

from __future__ import annotations

import json
import queue
import re
import statistics
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from degmix_edge.backends import _trt_plugin
from degmix_edge.backends._base import PLAIN, REQUESTS, EngineBackend, EngineOptions, Progress
from degmix_edge.config import cache_folder
from degmix_edge.errors import BackendError, BuildError, DegmixError, GraphError
from degmix_edge.network import IMAGE, NetworkSpec
from degmix_edge.nvidia import cuda
from degmix_edge.nvidia.arrays import DLPACK_CUDA, DeviceArray, ForeignImage, foreign_image
from degmix_edge.nvidia.trt import build as trt_build
from degmix_edge.nvidia.trt import engine as trt_engine
from degmix_edge.nvidia.trt import load as trt_load
from degmix_edge.quant.ranges import Ranges
from degmix_edge.tensors import TensorSpec, fill

if TYPE_CHECKING:
    from degmix_edge.passes.pipeline import Dcn
    from degmix_edge.quant.recipe import Recipe

PACKAGES = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12")
WARM_CALLS = 3
"""Before a graph is captured, as TensorRT asks for, and before a session's first frame."""
TIMED_CALLS = 50
"""Timed calls of each form of the deformable convolutions, before one is chosen."""
DTYPES = {"FLOAT": "float32", "HALF": "float16", "INT8": "int8", "INT32": "int32"}
DTYPES |= {"UINT8": "uint8", "BOOL": "bool", "INT64": "int64"}


class Backend(EngineBackend):
    """Runs a plan on the card and with the TensorRT version that it was built for.

    Args:
        spec: The network.
        engine: What `build` returned.
        threads: Lanes; None is one.
        device_index: Which card.
    """

    name = "tensorrt"
    engine_file = "engine.plan"
    runs_model = False
    takes_options = REQUESTS
    is_concurrent = True

    def __init__(
        self,
        spec: NetworkSpec,
        engine: bytes,
        *,
        threads: int | None = None,
        device_index: int = 0,
    ) -> None:
        super().__init__(spec, engine, threads=threads)
        self.device_index = device_index

    @classmethod
    def unavailable(cls) -> str | None:
        return trt_load.unavailable("tensorrt") or cuda.unavailable()

    @classmethod
    def version(cls) -> str:
        for package in PACKAGES:
            try:
                return metadata.version(package)
            except metadata.PackageNotFoundError:
                continue
        return str(trt_load.import_tensorrt("tensorrt").__version__)  # a Jetson's has no metadata

    @classmethod
    def device(cls) -> str:
        """Card, compute capability, driver, and whether our plugin is there."""
        card = cuda.Device()
        card.close()
        plugin = _trt_plugin.library(cls.major())
        return f"{card.info}, driver {card.info.driver}" + (", degmix plugin" if plugin else "")

    @classmethod
    def build(
        cls,
        model: bytes,
        recipe: Recipe,
        ranges: Ranges | None,
        options: EngineOptions = PLAIN,
        progress: Progress | None = None,
    ) -> dict[str, bytes]:
        """Build the plan for this card, as `EngineBackend.build` describes.

        Where more than one form of the deformable convolutions can be built, each is, and the
        fastest on this card is kept. `layers.json` has the parsed layers, the layers as built with
        their modules, the form, and what each form took.
        """
        # Building needs onnx; a robot that only runs does not have it.
        from degmix_edge.passes.forms import lower_for_tensorrt

        plugin = _trt_plugin.library(cls.major())
        found: dict[str, tuple[float, list[dict[str, object]], trt_build.Built]] = {}
        refused: dict[str, str] = {}
        forms = _forms(options.dcn, recipe, plugin)
        for form in forms:
            try:
                built = cls._built(
                    lower_for_tensorrt(model, recipe, form), plugin, options, progress
                )
            except (BackendError, BuildError, GraphError) as error:
                refused[form] = str(error)
                continue
            feeds = options.feeds if len(forms) > 1 else None
            found[form] = (*cls._try(built.plan, feeds), built)
        if not found:
            raise BuildError("; ".join(f"{form}: {why}" for form, why in refused.items()))
        fastest = min(found, key=lambda name: found[name][0])
        if refused:
            why = "; ".join(f"{form}: {reason}" for form, reason in refused.items())
            warnings.warn(
                f"--dcn {fastest} is used, as others cannot be built. {why}", stacklevel=2
            )
        _, inspected, built = found[fastest]
        said = {
            "version": built.version,
            "dcn": fastest,
            "milliseconds": {name: round(entry[0], 4) for name, entry in found.items()},
            "refused": refused,
            "layers": trt_build.layer_table(built.layers),
            "built": inspected,
        }
        return {cls.engine_file: built.plan, "layers.json": json.dumps(said).encode()}

    @classmethod
    def _built(
        cls, lowered: bytes, plugin: Path | None, options: EngineOptions, progress: Progress | None
    ) -> trt_build.Built:
        from degmix_edge.nvidia.worker import build_in_child

        card = cuda.Device()
        try:
            free, what = card.free_bytes(), f"{card.info.name}-{card.info.driver}"
        finally:
            card.close()
        name = re.sub(r"[^\w.-]+", "-", f"{cls.version()}-{what}.timing")
        return build_in_child(
            "tensorrt",
            lowered,
            trt_build.BuilderOptions(
                workspace_bytes=free // 2,
                plugin=None if plugin is None else str(plugin),
                timing_cache=str(cache_folder() / "timing" / name),
                version_compatible=options.version_compatible,
                hardware_compatible=options.hardware_compatible,
                dla_core=options.dla_core,
            ),
            progress,
        )

    @classmethod
    def _try(
        cls, plan: bytes, feeds: tuple[Mapping[str, np.ndarray], ...] | None
    ) -> tuple[float, list[dict[str, object]]]:
        """Median milliseconds of a call on the device, as a graph, and the layers as built.

        Offsets of a blank image lie side by side, which flatters some forms. Without `feeds`, the
        calls get noise; None does not time.
        """
        device = cuda.Device()
        engine: trt_engine.Engine | None = None
        lane: Lane | None = None
        try:
            with device.current():
                engine = trt_engine.Engine("tensorrt", plan, _trt_plugin.library(cls.major()))
                layers = engine.layers()
            if feeds is None:
                return 0.0, layers
            lane = Lane(device, engine)
            given = feeds or (lane.noise(),)
            lane.warm_up(given[0])
            times = []
            for index in range(TIMED_CALLS):
                lane.run(given[index % len(given)])
                times.append(lane.stages["gpu_ms"])
            return statistics.median(times), layers
        finally:
            _close(device, [lane] if lane else [], engine)

    @classmethod
    def major(cls) -> str:
        """The major version of the library, such as '10'."""
        return cls.version().partition(".")[0]

    def _activate(self) -> None:
        self._device = cuda.Device(self.device_index)
        plugin = _trt_plugin.library(self.major())
        self._lanes: list[Lane] = []
        self._engine: trt_engine.Engine | None = None
        try:
            with self._device.current():
                self._engine = trt_engine.Engine("tensorrt", self.engine, plugin)
            for _ in range(self.threads or 1):
                self._lanes.append(Lane(self._device, self._engine))
            for lane in self._lanes:
                lane.warm_up(lane.zeros())
        except BaseException:
            self._deactivate()
            raise
        self._free: queue.LifoQueue[Lane] = queue.LifoQueue()
        for lane in self._lanes:
            self._free.put(lane)

    def engine_tensors(self) -> tuple[TensorSpec, ...] | None:
        if self._engine is None:
            return None
        return tuple(
            TensorSpec(name=b.name, dtype=DTYPES[b.dtype], shape=b.shape)
            for b in self._engine.bindings
        )

    @contextmanager
    def _lane(self) -> Iterator[Lane]:
        lane = self._free.get()
        try:
            yield lane
        finally:
            self._free.put(lane)

    def _infer(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        with self._lane() as lane:
            maps = lane.run(feed)
            self._mine.stages = lane.stages
            return {name: maps[name].copy() for name in maps}

    def infer_device(self, image: Any) -> dict[str, DeviceArray]:
        """Maps that stay on the device, of an image that is there already.

        The image is copied to the lane's own memory, on the device. The maps are overwritten by the
        next call on the same lane, so use it with one lane.

        Args:
            image: uint8 RGB `(N, H, W, 3)` at the network's size, contiguous, with DLPack or
                `__cuda_array_interface__`. Its writer is waited for where the array tells of it;
                one with the interface alone, and no stream in it, must be done.

        Raises:
            CudaError: It is on another device, not contiguous, or freed.
            BackendError: It is no such image, or the network takes more than an image.
        """
        if not self.active:
            raise BackendError(f"{self.name}: not active; use it inside `with`")
        if self.spec.inputs:
            others = ", ".join(one.name for one in self.spec.inputs)
            raise BackendError(f"{self.name}: takes {others} too; give all from the host (`infer`)")
        want = (tuple(self.spec.image_spec.shape), self.spec.image_spec.dtype)
        with self._lane() as lane, self._device.current():
            found = foreign_image(image, self.device_index, lane.stream.handle)
            if found is None or (found.shape, found.dtype) != want:
                got = type(image).__name__ if found is None else f"{found.dtype} {found.shape}"
                raise BackendError(
                    f"{self.name}: got {got} on the device, expected {want[1]} {want[0]}"
                )
            return lane.run_device(found, self)

    def _deactivate(self) -> None:
        lanes, engine = self._lanes, self._engine
        self._lanes, self._engine = [], None
        self._free = queue.LifoQueue()
        _close(self._device, lanes, engine)


def _close(device: cuda.Device, lanes: Sequence[Lane], engine: trt_engine.Engine | None) -> None:
    """Give everything back while the context is current, and the context last."""
    try:
        with device.current():
            for lane in lanes:
                lane.close()
            if engine is not None:
                engine.close()
    finally:
        device.close()


def _forms(asked: str, recipe: Recipe, plugin: Path | None) -> tuple[Dcn, ...]:
    """What is worth building.

    Raises:
        ConfigError: No such form.
        BackendError: It needs the plugin, which is not there.
    """
    from degmix_edge.passes.pipeline import NEED_PLUGIN, check_form

    if asked == "auto":
        if plugin is None:
            return ("builtin",)
        fused: tuple[Dcn, ...] = ("fused",) if recipe.precision != "fp32" else ()
        return (*fused, "plugin", "builtin")
    form = check_form(asked)
    if form in NEED_PLUGIN and plugin is None:
        _trt_plugin.needed(Backend.major(), form)
    return (form,)


class Lane:
    """One execution context, its stream, its buffers, and its CUDA graph.

    Raises:
        CudaError: Out of memory; what was made by then is given back.
        BackendError: The engine has sizes that are not fixed, or no context.
    """

    def __init__(self, device: cuda.Device, engine: trt_engine.Engine) -> None:
        self.device = device
        self.stages: dict[str, float] = {}
        self.graph: cuda.Graph | None = None
        self.buffers: dict[str, cuda.Buffer] = {}
        self.inputs = [b.name for b in engine.bindings if b.is_input]
        self.outputs = [b.name for b in engine.bindings if not b.is_input]
        self.context: trt_engine.Context | None = None
        self.stream: Any = None
        self.events: list[Any] = []
        with device.current() as driver:
            try:
                self.context = engine.context()
                self.stream = driver.Stream(cuda.NON_BLOCKING)
                self.events = [driver.Event() for _ in range(4)]
                for binding in engine.bindings:
                    self._add(binding)
            except BaseException:
                self.close()
                raise

    def _add(self, binding: trt_engine.Binding) -> None:
        """The buffer of a tensor: the context's addresses are set once, and are our own memory."""
        if -1 in binding.shape:
            raise BackendError(
                f"{binding.name} {binding.shape}: the engine has sizes that are not fixed; "
                f"sessions run engines of one size"
            )
        buffer = cuda.Buffer(self.device, binding.shape, DTYPES[binding.dtype])
        self.buffers[binding.name] = buffer
        assert self.context is not None
        self.context.set_address(binding.name, buffer.pointer)

    def warm_up(self, feed: Mapping[str, np.ndarray]) -> None:
        """Run, as TensorRT asks for before a capture, and record the engine as a CUDA graph.

        An engine that cannot be recorded is enqueued at each call, which a warning says.
        """
        for _ in range(WARM_CALLS):
            self.run(feed)
        try:
            with self.device.current():
                self.graph = cuda.Graph.record(self.stream, self._enqueue)
        except DegmixError as error:
            warnings.warn(
                f"the engine runs without a CUDA graph, a little slower: {error}", stacklevel=2
            )

    def zeros(self) -> dict[str, np.ndarray]:
        """A feed of zeros."""
        return {name: np.zeros_like(self.buffers[name].host) for name in self.inputs}

    def noise(self) -> dict[str, np.ndarray]:
        """A feed of zeros and of an image of noise."""
        image = self.buffers[IMAGE].host
        noise = np.random.default_rng(0).integers(0, 256, image.shape, np.uint8)
        return self.zeros() | {IMAGE: noise.astype(image.dtype)}

    def run(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Maps in this lane's host buffers, until the next call."""
        with self.device.current():
            for name, array in feed.items():
                host = self.buffers[name].host
                host[...] = fill(array, host.shape[0])
            start, uploaded, ran, done = self.events
            start.record(self.stream)
            for name in feed:
                self.buffers[name].upload(self.stream)
            uploaded.record(self.stream)
            self._launch()
            ran.record(self.stream)
            for name in self.outputs:
                self.buffers[name].download(self.stream)
            done.record(self.stream)
            self.stream.synchronize()
            self.stages = {
                "copy_in_ms": uploaded.time_since(start),
                "gpu_ms": ran.time_since(uploaded),
                "copy_out_ms": done.time_since(ran),
            }
            return {name: self.buffers[name].host for name in self.outputs}

    def run_device(self, image: ForeignImage, owner: Any) -> dict[str, DeviceArray]:
        """The same from and to the device."""
        with self.device.current():
            image.wait()
            self.buffers[IMAGE].copy_from(image.pointer, self.stream)
            self._launch()
            self.stream.synchronize()
        where = (DLPACK_CUDA, self.device.info.index)
        return {
            name: DeviceArray(buffer.pointer, buffer.host.shape, buffer.host.dtype, where, owner)
            for name, buffer in self.buffers.items()
            if name in self.outputs
        }

    def _launch(self) -> None:
        """The engine on the stream, as its graph where there is one."""
        if self.graph is None:
            self._enqueue()
        else:
            self.graph.launch(self.stream)

    def _enqueue(self) -> None:
        assert self.context is not None
        self.context.enqueue(self.stream.handle)

    def close(self) -> None:
        """Wait for the stream and give everything back. A second time does nothing."""
        with self.device.current():
            if self.stream is not None:
                self.stream.synchronize()
            if self.graph is not None:
                self.graph.close()
            for buffer in self.buffers.values():
                buffer.close()
            self.buffers.clear()
            if self.context is not None:
                self.context.close()
            # PyCUDA destroys these with their last reference, which must be gone by now.
            self.graph, self.context, self.stream, self.events = None, None, None, []

"""Lanes of an engine: each has its own execution context, stream, buffers and CUDA graph.

A call takes a free lane and gives it back, so as many threads run at once as there are lanes.
"""

from __future__ import annotations

import queue
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from degmix_edge.camera import DLPACK_CUDA, RawFrame
from degmix_edge.errors import BackendError, CudaError, DegmixError, DegmixWarning
from degmix_edge.nvidia import cuda
from degmix_edge.nvidia.arrays import DeviceArray, ForeignImage, foreign_image
from degmix_edge.nvidia.driver import Event, Stream
from degmix_edge.nvidia.frames import FitKernel, Fitting, FrameStage

if TYPE_CHECKING:
    from degmix_edge.nvidia.trt.engine import Binding, Context, Engine

WARM_CALLS = 3
"""Before a graph is captured, as TensorRT asks for, and before a session's first frame."""
DTYPES = {"FLOAT": "float32", "HALF": "float16", "INT8": "int8", "INT32": "int32"}
DTYPES |= {"UINT8": "uint8", "BOOL": "bool", "INT64": "int64"}
"""numpy's names of TensorRT's types."""
RawFrames = Mapping[str, Sequence[RawFrame]]
"""The frames of a batch, by the input that they become."""


class Lane:
    """One execution context, its stream, its buffers, and its CUDA graph.

    Attributes:
        stages: Milliseconds of the copies, of the engine and of fitting frames in the last call.
        frames: Fits raw frames, where `fit_frames` has made it.

    Raises:
        CudaError: Out of memory; what was made by then is given back.
        BackendError: The engine has sizes that are not fixed, or no context.
    """

    def __init__(self, device: cuda.Device, engine: Engine) -> None:
        self.device = device
        self.stages: dict[str, float] = {}
        self.graph: cuda.Graph | None = None
        self.buffers: dict[str, cuda.Buffer] = {}
        self.inputs = [b.name for b in engine.bindings if b.is_input]
        self.outputs = [b.name for b in engine.bindings if not b.is_input]
        self.frames: FrameStage | None = None
        self.context: Context | None = None
        self.stream: Stream | None = None
        self.events: list[Event] = []
        with device.current() as driver:
            try:
                self.context = engine.context()
                self.stream = driver.stream()
                while len(self.events) < 5:
                    self.events.append(driver.event())
                for binding in engine.bindings:
                    self._add(binding, self.context)
            except BaseException:
                self.close()
                raise

    def _add(self, binding: Binding, context: Context) -> None:
        """The buffer of a tensor: the context's addresses are set once, and are our own memory."""
        if -1 in binding.shape:
            raise BackendError(
                f"{binding.name} {binding.shape}: the engine has sizes that are not fixed; "
                f"sessions run engines of one size"
            )
        buffer = cuda.Buffer(self.device, binding.shape, DTYPES[binding.dtype])
        self.buffers[binding.name] = buffer
        context.set_address(binding.name, buffer.pointer)

    def warm_up(self, feed: Mapping[str, np.ndarray]) -> None:
        """Run, as TensorRT asks for before a capture, and record the engine as a CUDA graph.

        The graph runs once, because its first launch takes memory and time. An engine that cannot
        be recorded is enqueued at each call, which a warning says.
        """
        for _ in range(WARM_CALLS):
            self.run(feed)
        try:
            with self.device.current() as driver:
                self.graph = cuda.Graph.record(driver, self._open_stream(), self._enqueue)
            self.run(feed)
        except DegmixError as error:
            self._drop_graph()
            warnings.warn(
                f"the engine runs without a CUDA graph, a little slower: {error}",
                category=DegmixWarning,
                stacklevel=2,
            )

    def zeros(self) -> dict[str, np.ndarray]:
        """A feed of zeros."""
        return {name: np.zeros_like(self.buffers[name].host) for name in self.inputs}

    def fit_frames(self, kernel: FitKernel) -> None:
        """Take raw frames in `run` from now on, which `kernel` fits."""
        self.frames = FrameStage(self.device, kernel)

    def run(
        self, feed: Mapping[str, np.ndarray], frames: RawFrames | None = None
    ) -> dict[str, np.ndarray]:
        """Maps in this lane's host buffers, until the next call.

        Args:
            feed: Inputs as the engine takes them.
            frames: Raw frames of the inputs that `feed` does not have.
        """
        stream = self._open_stream()
        with self.device.current() as driver:
            for name, array in feed.items():
                self.buffers[name].host[...] = array
            fittings = self._put(frames or {}, stream)
            try:
                self._enqueue_call(feed, fittings, stream)
            except BaseException:
                with suppress(driver.error):
                    stream.synchronize()  # what was enqueued reads the caller's memory
                raise
            stream.synchronize()
            start, uploaded, fitted, ran, done = self.events
            self.stages = {"copy_in_ms": uploaded.milliseconds_since(start)}
            if fittings:
                self.stages["fit_ms"] = fitted.milliseconds_since(uploaded)
            self.stages["gpu_ms"] = ran.milliseconds_since(fitted)
            self.stages["copy_out_ms"] = done.milliseconds_since(ran)
            return {name: self.buffers[name].host for name in self.outputs}

    def _enqueue_call(
        self, inputs: Iterable[str], fittings: Sequence[Fitting], stream: Stream
    ) -> None:
        """Copies in, frames, engine and copies out, with an event after each."""
        start, uploaded, fitted, ran, done = self.events
        start.record(stream)
        for name in inputs:
            self.buffers[name].upload(stream)
        for source in (fitting.source for fitting in fittings):
            if source.upload is not None:
                stream.upload(source.pointer, source.upload)
        uploaded.record(stream)
        if self.frames is not None:
            self.frames.enqueue(fittings, stream)
        fitted.record(stream)
        self._launch(stream)
        ran.record(stream)
        for name in self.outputs:
            self.buffers[name].download(stream)
        done.record(stream)

    def _put(self, frames: RawFrames, stream: Stream) -> list[Fitting]:
        """The frames' places on the device, and the launches that fit them."""
        if not frames:
            return []
        assert self.frames is not None, "fit_frames comes first"
        targets = [
            (frame, self.buffers[name], index)
            for name, batch in frames.items()
            for index, frame in enumerate(batch)
        ]
        return self.frames.put(targets, stream)

    def foreign(self, image: Any) -> ForeignImage | None:
        """Another library's array on this device, as `foreign_image` describes."""
        with self.device.current():
            return foreign_image(image, self.device.info.index, self._open_stream().handle)

    def run_device(self, name: str, image: ForeignImage, owner: Any) -> dict[str, DeviceArray]:
        """Maps that stay on the device, of an array that is there already and becomes input `name`.

        The maps are overwritten by the next call, and live as long as `owner` does.
        """
        stream = self._open_stream()
        with self.device.current():
            image.wait()
            self.buffers[name].copy_from(image.pointer, stream)
            self._launch(stream)
            stream.synchronize()
        where = (DLPACK_CUDA, self.device.info.index)
        return {
            name: DeviceArray(buffer.pointer, buffer.host.shape, buffer.host.dtype, where, owner)
            for name, buffer in self.buffers.items()
            if name in self.outputs
        }

    def _open_stream(self) -> Stream:
        if self.stream is None:
            raise CudaError(f"a lane on {self.device.info}: used after it was closed")
        return self.stream

    def _launch(self, stream: Stream) -> None:
        """The engine on the stream, as its graph where there is one."""
        if self.graph is None:
            self._enqueue()
        else:
            self.graph.launch(stream)

    def _enqueue(self) -> None:
        assert self.context is not None
        self.context.enqueue(self._open_stream().handle)

    def _drop_graph(self) -> None:
        graph, self.graph = self.graph, None
        if graph is not None:
            with self.device.current():
                graph.close()

    def close(self) -> None:
        """Wait for the stream and give everything back. A second time does nothing."""
        with self.device.current():
            if self.stream is not None:
                self.stream.synchronize()
            self._drop_graph()
            if self.frames is not None:
                self.frames.close()
            for buffer in self.buffers.values():
                buffer.close()
            self.buffers.clear()
            if self.context is not None:
                self.context.close()
            for event in self.events:
                event.close()
            if self.stream is not None:
                self.stream.close()
            self.context, self.stream, self.events = None, None, []


class Lanes:
    """An engine on a card with a number of lanes; opened by one thread, used and closed by any.

    Args:
        index: Which card.
        load: Makes the engine while the card's context is current.
        count: Number of lanes.

    Raises:
        CudaError: There is no such card, or not enough memory on it; nothing is left behind.
        BackendError: The engine is refused, or has sizes that are not fixed.
    """

    def __init__(self, index: int, load: Callable[[], Engine], count: int = 1) -> None:
        self.device = cuda.Device(index)
        self.engine: Engine | None = None
        self.lanes: list[Lane] = []
        self._free: queue.LifoQueue[Lane] = queue.LifoQueue()
        try:
            with self.device.current():
                self.engine = load()
            for _ in range(count):
                self.lanes.append(Lane(self.device, self.engine))
                self._free.put(self.lanes[-1])
        except BaseException:
            self.close()
            raise

    @contextmanager
    def take(self) -> Iterator[Lane]:
        """A free lane, waiting for one where all are taken."""
        lane = self._free.get()
        try:
            yield lane
        finally:
            self._free.put(lane)

    def close(self) -> None:
        """Give everything back while the context is current, and the context last."""
        lanes, self.lanes = self.lanes, []
        engine, self.engine = self.engine, None
        try:
            with self.device.current():
                for lane in lanes:
                    lane.close()
                if engine is not None:
                    engine.close()
        finally:
            self.device.close()

    def __enter__(self) -> Lanes:
        """Return this object."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

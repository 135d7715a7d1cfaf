"""What lanes, graphs and foreign arrays must do on a card beside another library.

A check returns what it saw and raises where it failed. A note tells how the driver behaves where
neither way is a failure of ours.
"""

from __future__ import annotations

import ctypes
import dataclasses
import statistics
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
from fitted import PAD, by_pillow, frame_shape, placed_size
from lane_run import Run, current_context, in_thread, is_primary_active, same
from sample_engine import SHAPE, CopyEngine, Engine

from degmix_edge.camera import KERNEL_FORMATS, FrameFormat, RawFrame
from degmix_edge.errors import CudaError, DegmixError
from degmix_edge.nvidia import cuda
from degmix_edge.nvidia.arrays import ForeignImage
from degmix_edge.nvidia.lanes import Lane, Lanes
from degmix_edge.ops import deform_sample

CAPTURES = 20
MIB = 1 << 20
BALLAST_BYTES = 16 * MIB
ROUNDS = 6
"""How often a session is opened and closed to see what it leaves."""
SLACK_BYTES = 4 * MIB
"""Two blocks that the driver may keep for later; a leak of every round is larger."""


# Before the other library starts: nobody else holds the primary context.


def context(run: Run) -> str:
    """A context that one thread retains and another releases is gone, and on no stack."""
    for is_other in (True, False):
        device = cuda.Device()
        assert is_primary_active()
        with device.current():
            assert current_context() != 0
        assert in_thread(device.free_bytes) > 0
        in_thread(device.close) if is_other else device.close()
        assert current_context() == 0, "a context is left on this thread's stack"
        assert not is_primary_active(), "the primary context is still held"
    return "retained, used in two threads, released by another and by the same; nothing is left"


def plain(run: Run) -> str:
    """What lanes give without a graph, against the slow reference; later checks compare with it."""
    with Lanes(0, run.engine()) as lanes, lanes.take() as lane:
        for image in run.images:
            run.results.append(lane.run({"image": image})["sampled"].copy())
    want = deform_sample.reference(run.images[0], run.offset)
    error = float(np.linalg.norm(run.results[0] - want) / np.linalg.norm(want))
    assert error < 5e-4, f"relative error {error:.1e}, expected less than 5e-4"
    return f"relative error {error:.1e}"


# Beside the other library.


def one_graph(run: Run) -> str:
    """Copies and kernel in one graph, replayed by two threads with buffers and streams each."""
    with Lanes(0, run.engine(), 2) as lanes, run.working() as done:

        def replay(index: int) -> None:
            lane, image, want = lanes.lanes[index], run.images[index], run.results[index]
            buffer, sampled = lane.buffers["image"], lane.buffers["sampled"]
            stream = lane.stream
            assert stream is not None

            def enqueue() -> None:
                buffer.upload(stream)
                lane._enqueue()
                sampled.download(stream)

            with lanes.device.current() as driver:
                graph = cuda.Graph.record(driver, stream, enqueue)
                for _ in range(run.calls):
                    buffer.host[...], sampled.host[...] = image, 0
                    graph.launch(stream)
                    stream.synchronize()
                    same(sampled.host, want, f"thread {index}")
                graph.close()

        with ThreadPoolExecutor(2) as pool:
            list(pool.map(replay, range(2)))
        return (
            f"{2 * run.calls} replays are right, beside {len(done)} products of {run.partner.name}"
        )


def lanes_beside(run: Run) -> str:
    """Two lanes and two threads: the product's own way from activation to a frame."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="the engine runs")
        with Lanes(0, run.engine(), 2) as lanes, run.working() as done:
            for lane in lanes.lanes:
                lane.warm_up(lane.zeros())
                assert lane.graph is not None
            times: list[float] = []

            def frames(thread: int) -> None:
                for call in range(run.calls):
                    index = (thread + call) % len(run.images)
                    with lanes.take() as lane:
                        got = lane.run({"image": run.images[index]})["sampled"]
                        same(got, run.results[index], f"thread {thread}, call {call}")
                        times.append(sum(lane.stages.values()))

            with ThreadPoolExecutor(2) as pool:
                list(pool.map(frames, range(2)))
            assert done, f"{run.partner.name} did nothing in that time"
    median = statistics.median(times)
    return f"{len(times)} frames are right, {median:.3f} ms each, beside {len(done)} products"


def capture_beside(run: Run) -> str:
    """The other library works on the default stream while a capture is under way."""
    with Lanes(0, run.engine()) as lanes, lanes.take() as lane, ThreadPoolExecutor(1) as pool:

        def enqueue() -> None:
            lane._enqueue()
            pool.submit(run.partner.work).result(timeout=10)
            lane._enqueue()

        stream = lane.stream
        assert stream is not None
        for _ in range(CAPTURES):
            with lanes.device.current() as driver:
                cuda.Graph.record(driver, stream, enqueue).close()
        lane.warm_up(lane.zeros())
        same(lane.run({"image": run.images[1]})["sampled"], run.results[1], "afterwards")
    return f"{CAPTURES} captures, a product of {run.partner.name} inside each"


def fallback(kind: str) -> Callable[[Run], str]:
    """A capture that fails is said once, and the lane runs without a graph."""

    def check(run: Run) -> str:
        with Lanes(0, run.engine(forbidden=kind)) as lanes, lanes.take() as lane:
            with warnings.catch_warnings(record=True) as said:
                warnings.simplefilter("always")
                lane.warm_up(lane.zeros())
                for image, want in zip(run.images, run.results, strict=True):
                    same(lane.run({"image": image})["sampled"], want, "without a graph")
            texts = [str(warning.message) for warning in said]
            assert lane.graph is None, "the capture did not fail"
            assert len(texts) == 1, f"expected one warning, got {texts}"
            assert "without a CUDA graph" in texts[0], texts[0]
            return texts[0]

    return check


def foreign(run: Run) -> str:
    """Arrays of the other library, aligned and not, and maps that it takes without a copy."""
    with Lanes(0, run.engine()) as lanes, lanes.take() as lane:
        lane.warm_up(lane.zeros())
        residues = []
        for offset, image, want in zip((0, 1, 3, 128), run.images, run.results, strict=True):
            view = lane.foreign(run.partner.put(image, offset))
            assert view is not None
            assert (view.shape, view.dtype) == (SHAPE, "float16")
            residues.append(view.pointer % 256)
            maps = lane.run_device("image", view, lanes)
            same(run.partner.host(maps["sampled"]), want, f"{offset} elements from an aligned one")
    assert residues[1] == 2, f"the address is {residues[1]} bytes beyond an aligned one, expected 2"
    return f"right at {residues} bytes beyond an aligned address"


def late_writer(run: Run) -> str:
    """DLPack orders our stream after the other library's, whose writer still runs."""
    with Lanes(0, run.engine()) as lanes, lanes.take() as lane:
        lane.warm_up(lane.zeros())
        with run.partner.late(run.images[2]) as image:
            view = lane.foreign(image)
            assert view is not None
            assert run.partner.is_writing(), "the writer was done before the read was enqueued"
            maps = lane.run_device("image", view, lanes)
        same(run.partner.host(maps["sampled"]), run.results[2], "read while it was written")
    return "enqueued while the writer ran, and right"


def refused(run: Run) -> str:
    """Memory that was freed, memory of the host, and an array with gaps raise our error."""
    said = []
    with Lanes(0, run.engine()) as lanes, lanes.take() as lane:
        with lanes.device.current() as driver:
            memory = driver.memory(1 << 20)
            memory.close()
        bare = np.zeros(SHAPE, np.float16)
        described = {"shape": SHAPE, "typestr": "<f2", "version": 3, "strides": None}
        for pointer, gaps in ((memory.pointer, None), (bare.ctypes.data, None), (8, (4, 2, 2, 2))):
            view = SimpleNamespace(
                __cuda_array_interface__=described | {"data": (pointer, False), "strides": gaps}
            )
            try:
                lane.foreign(view)
            except CudaError as error:
                said.append(str(error))
        same(lane.run({"image": run.images[0]})["sampled"], run.results[0], "afterwards")
    assert len(said) == 3, f"expected three refusals, got {said}"
    return " | ".join(said)


def raw_frames(run: Run) -> str:
    """Frames as cameras write them, from the host's memory, page-locked memory and the card."""
    rng, out = np.random.default_rng(5), (run.size[0] // 2, run.size[1] // 2 + 16)
    said = []
    with Lanes(0, lambda: CopyEngine(out)) as lanes, lanes.take() as lane:
        lane.warm_up(lane.zeros())
        lane.fit_frames(run.kernel)
        for kind in KERNEL_FORMATS:
            frame = rng.integers(0, 256, frame_shape(kind, run.size), np.uint8)
            want = by_pillow(frame, kind, out)
            with page_locked(lanes.device, frame) as locked:
                for image in (frame, locked, run.partner.put(frame, 3), frame):
                    got = seen(lane, image, kind, run.size)
                    worst = int(np.abs(got.astype(int) - want).max())
                    assert worst <= 1, f"{kind}: wrong by {worst} levels"
                times = [seen_ms(lane, locked, kind, run.size) for _ in range(run.calls)]
            copy, fit = (statistics.median(column) for column in zip(*times, strict=True))
            said.append(f"{kind} copy {copy:.3f} ms, fit {fit:.3f} ms")
    return f"{run.size[1]}x{run.size[0]} to {out[1]}x{out[0]}: " + "; ".join(said)


def seen(lane: Lane, image: Any, kind: FrameFormat, size: tuple[int, int]) -> np.ndarray:
    """What the engine gets of a frame in the middle of its input."""
    out = lane.buffers["image"].host.shape[1:3]
    placed = placed_size(size, out)
    top, left = ((whole - part) // 2 for whole, part in zip(out, placed, strict=True))
    raw = RawFrame(image, kind, size, (0, 0, *size), (top, left, *placed), PAD)
    return lane.run({}, {"image": [raw]})["seen"][0]


def seen_ms(lane: Lane, image: Any, kind: FrameFormat, size: tuple[int, int]) -> list[float]:
    """Milliseconds of the copy of a frame to the card, and of fitting it there."""
    seen(lane, image, kind, size)
    return [lane.stages["copy_in_ms"], lane.stages["fit_ms"]]


@contextmanager
def page_locked(device: cuda.Device, array: np.ndarray) -> Iterator[np.ndarray]:
    """A copy of an array in page-locked memory."""
    with device.current() as driver:
        memory = driver.host_memory(array.shape, array.dtype, False)
        memory.array[...] = array
        assert cuda.is_page_locked(memory.array), "the driver does not know its own memory"
        assert not cuda.is_page_locked(array), "the driver takes numpy's memory for its own"
    try:
        yield memory.array
    finally:
        with device.current():
            memory.close()


def out_of_memory(run: Run) -> str:
    """A second lane that does not fit raises our error; the first one works on."""
    with Lanes(0, run.engine(ballast_bytes=BALLAST_BYTES)) as lanes, lanes.take() as lane:
        lane.warm_up(lane.zeros())
        with filled(lanes.device, BALLAST_BYTES // 2):
            before, said = lanes.device.free_bytes(), ""
            try:
                Lane(lanes.device, lanes.engine).close()
            except CudaError as error:
                said = str(error)
            lost = before - lanes.device.free_bytes()
            same(lane.run({"image": run.images[0]})["sampled"], run.results[0], "the first lane")
        Lane(lanes.device, lanes.engine).close()
    assert "out of memory; close other programs or use fewer lanes" in said, said or "it fits"
    assert lost <= SLACK_BYTES, f"{lost} bytes are lost"
    return said


@contextmanager
def filled(device: cuda.Device, left: int) -> Iterator[None]:
    """Take the card's memory until no block of `left` bytes is free."""
    blocks: list[Any] = []
    size = 1 << 40
    try:
        with device.current() as driver:
            while size >= left:
                try:
                    blocks.append(driver.memory(size))
                except driver.error:
                    size //= 2
        yield
    finally:
        with device.current():
            for block in blocks:
                block.close()


def mapped(run: Run) -> str:
    """Buffers that are host memory to the device too, as on a Jetson."""
    device = cuda.Device()
    device.info = dataclasses.replace(device.info, integrated=True)
    with device.current():
        engine = Engine(run.launch, run.offset)
    lane = Lane(device, engine)
    try:
        lane.warm_up(lane.zeros())
        for image, want in zip(run.images, run.results, strict=True):
            same(lane.run({"image": image})["sampled"], want, "mapped")
    finally:
        lane.close()
        with device.current():
            engine.close()
        device.close()
    return "right without a copy"


def returned(run: Run) -> str:
    """Sessions that another thread closes leave no memory, and the other library works on."""

    def session() -> None:
        lanes = Lanes(0, run.engine(ballast_bytes=BALLAST_BYTES), 2)
        for lane in lanes.lanes:
            lane.warm_up(lane.zeros())
        same(lanes.lanes[1].run({"image": run.images[3]})["sampled"], run.results[3], "a session")
        in_thread(lanes.close)

    stack = current_context()
    session()
    device = cuda.Device()
    before = device.free_bytes()
    for _ in range(ROUNDS):
        session()
    after = device.free_bytes()
    device.close()
    lost = before - after
    assert lost <= SLACK_BYTES, f"{lost} bytes are lost in {ROUNDS} sessions"
    assert current_context() == stack, "this thread's context is another than before"
    run.partner.work()
    in_thread(run.partner.work)
    return f"{lost} bytes lost in {ROUNDS} sessions; {run.partner.name} works on"


# What is worth knowing about the driver, in the end, as it may leave errors behind.


def synchronized(run: Run) -> str:
    """What becomes of a capture while another thread waits for the whole device."""
    with Lanes(0, run.engine()) as lanes, lanes.take() as lane, ThreadPoolExecutor(1) as pool:
        outcome = "the wait succeeds"

        def enqueue() -> None:
            nonlocal outcome
            lane._enqueue()
            try:
                pool.submit(run.partner.synchronize).result(timeout=10)
            except Exception as error:
                outcome = f"the wait fails ({str(error).splitlines()[0]})"

        stream = lane.stream
        assert stream is not None
        try:
            with lanes.device.current() as driver:
                cuda.Graph.record(driver, stream, enqueue).close()
        except DegmixError as error:
            return f"{outcome}; the capture fails: {error}"
        return f"{outcome}; the capture succeeds"


def blocking(run: Run) -> str:
    """The same capture on a stream that waits for the default one, which must fail."""
    library, handle = ctypes.CDLL("libcuda.so.1"), ctypes.c_void_p()
    with Lanes(0, run.engine()) as lanes, lanes.take() as lane, ThreadPoolExecutor(1) as pool:
        context = lane.context
        assert context is not None
        with lanes.device.current() as driver:
            status = library.cuStreamCreate(ctypes.byref(handle), 0)
            if status != 0:
                return f"no such stream: CUDA error {status}"
            stream = SimpleNamespace(handle=handle.value)
            outcome = "the other thread's work succeeds"

            def enqueue() -> None:
                nonlocal outcome
                context.enqueue(stream.handle)
                try:
                    pool.submit(run.partner.work).result(timeout=10)
                except Exception as error:
                    outcome = f"the other thread's work fails ({str(error).splitlines()[0]})"

            try:
                cuda.Graph.record(driver, stream, enqueue).close()
                outcome += "; the capture succeeds"
            except DegmixError as error:
                outcome += f"; the capture fails: {error}"
            library.cuStreamDestroy_v2(handle)
    return outcome


def unordered(run: Run) -> str:
    """What is read where nothing orders the streams; else the check of it could not fail."""
    with (
        Lanes(0, run.engine()) as lanes,
        lanes.take() as lane,
        run.partner.late(run.images[2]) as late,
    ):
        pointer = late.data_ptr() if hasattr(late, "data_ptr") else late.pointer
        bare = ForeignImage(pointer, SHAPE, "float16", 2 * SHAPE[-1], None, late)
        got = run.partner.host(lane.run_device("image", bare, lanes)["sampled"]).copy()
    return "the result is right" if np.array_equal(got, run.results[2]) else "the result is wrong"


CHECKS: dict[str, Callable[[Run], str]] = {
    "graph of copies and kernel, two threads": one_graph,
    "two lanes beside other work": lanes_beside,
    "capture beside the default stream": capture_beside,
    "capture that fails and says so": fallback("said"),
    "capture that fails in silence": fallback("silent"),
    "foreign arrays, any alignment": foreign,
    "array that is still written": late_writer,
    "arrays that are refused": refused,
    "frames as cameras write them": raw_frames,
    "second lane out of memory": out_of_memory,
    "mapped buffers": mapped,
    "closed by another thread": returned,
}
NOTES: dict[str, Callable[[Run], str]] = {
    "array that is still written, unordered": unordered,
    "device synchronised during a capture": synchronized,
    "capture on a blocking stream": blocking,
}

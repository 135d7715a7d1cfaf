"""One run of the lane checks: the kernel, the other library, right results, and the report."""

from __future__ import annotations

import ctypes
import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from partners import Partner
from sample_engine import SHAPE, Engine, Launch

from degmix_edge.nvidia.frames import FitKernel


class Run:
    """What every check uses.

    Args:
        launch: Enqueues the kernel.
        path: Where the report goes, if anywhere.
        calls: Calls of each thread.
        kernel: Fits frames.
        size: Height and width of a camera's frame.

    Attributes:
        images: Inputs.
        results: What the kernel gives for each of them without a graph.
        partner: The other library, once it is there.
    """

    def __init__(
        self,
        launch: Launch,
        path: Path | None,
        calls: int,
        *,
        kernel: FitKernel,
        size: tuple[int, int],
    ) -> None:
        self.launch, self.path, self.calls = launch, path, calls
        self.kernel, self.size = kernel, size
        self.report: dict[str, Any] = {"facts": {}, "checks": [], "notes": {}}
        rng = np.random.default_rng(0)
        n, c, height, width = SHAPE
        self.offset = rng.normal(0, 2, (n, 2 * c, height, width)).astype(np.float32)
        self.images = [rng.normal(0, 1, SHAPE).astype(np.float16) for _ in range(4)]
        self.results: list[np.ndarray] = []
        self.partner: Partner

    def engine(self, **options: Any) -> Callable[[], Engine]:
        """A function that makes an engine, as `Lanes` takes one."""
        return lambda: Engine(self.launch, self.offset, **options)

    def check(self, name: str, work: Callable[[Run], str]) -> None:
        """Run a check; what it returns is said, and what it raises is why it failed."""
        start, ok = time.perf_counter(), True
        try:
            detail = work(self)
        except Exception as error:
            ok, detail = False, f"{type(error).__name__}: {error}"
        seconds = round(time.perf_counter() - start, 2)
        print(f"{'ok    ' if ok else 'FAILED'} {name}: {detail} ({seconds} s)", flush=True)
        self.report["checks"].append({"name": name, "ok": ok, "detail": detail, "seconds": seconds})
        self.write()

    def note(self, name: str, work: Callable[[Run], str]) -> None:
        """Say what happened; neither way is a failure of ours."""
        try:
            detail = work(self)
        except Exception as error:
            detail = f"{type(error).__name__}: {error}"
        print(f"note   {name}: {detail}", flush=True)
        self.report["notes"][name] = detail
        self.write()

    def write(self) -> None:
        """Write the report, so that a time limit loses one check at most."""
        if self.path is not None:
            self.path.write_text(json.dumps(self.report, indent=1) + "\n")

    @contextmanager
    def working(self) -> Iterator[list[int]]:
        """Let the other library work in a thread; the list grows by an entry a product."""
        done: list[int] = []
        failures: list[BaseException] = []
        stop = threading.Event()

        def work() -> None:
            try:
                while not stop.is_set():
                    self.partner.work()
                    done.append(1)
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield done
        finally:
            stop.set()
            thread.join()
        assert not failures, f"{self.partner.name} beside us: {failures[0]}"


def same(got: np.ndarray, want: np.ndarray, what: str) -> None:
    """Raise where two arrays differ in any bit."""
    wrong = int((got != want).sum())
    assert wrong == 0, f"{what}: {wrong} of {want.size} values differ"


def in_thread(work: Callable[[], Any]) -> Any:
    """The result of a function that is called in a thread of its own."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(work).result(timeout=20)


def current_context() -> int:
    """The calling thread's context, as the driver itself has it."""
    context = ctypes.c_void_p()
    assert ctypes.CDLL("libcuda.so.1").cuCtxGetCurrent(ctypes.byref(context)) == 0
    return context.value or 0


def is_primary_active() -> bool:
    """Whether anybody holds the primary context of the first card."""
    flags, active = ctypes.c_uint(), ctypes.c_int()
    library = ctypes.CDLL("libcuda.so.1")
    state = library.cuDevicePrimaryCtxGetState(0, ctypes.byref(flags), ctypes.byref(active))
    assert state == 0
    return bool(active.value)

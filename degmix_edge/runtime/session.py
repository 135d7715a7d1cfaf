"""A session: a bundle on a backend. `session(frame)` is everything a robot does with a frame."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, overload

import numpy as np

from degmix_edge import backends
from degmix_edge.backends import Backend, EngineBackend, TaskCall
from degmix_edge.bundle.contents import Bundle, open_bundle
from degmix_edge.bundle.manifest import Manifest, Split
from degmix_edge.bundle.signing import policy
from degmix_edge.camera import KERNEL_FORMATS, FrameFormat, RawFrame, check_format
from degmix_edge.errors import BackendError, ConfigError, DegmixWarning, InputError
from degmix_edge.graph.split_names import PREFIX
from degmix_edge.network import NetworkSpec
from degmix_edge.preprocess import Fit, Placement
from degmix_edge.runtime.engine_cache import engine_bytes
from degmix_edge.runtime.frames import Frame, fit_frame, raw_frame
from degmix_edge.runtime.latency import Latency
from degmix_edge.runtime.maps import Maps
from degmix_edge.tensors import TensorSpec

MOST_THREADS = 1024
"""More CPU threads than any robot has; a system may never come back from many more."""


class Session:
    """Runs images through a backend. Close it with `with` or `close()`.

    Threads may share a session. A backend that can run several images at once does so, and any
    other backend runs them one after the other.

    Args:
        backend: The backend, which the session activates and, when it closes, deactivates.
        fit: How an image becomes the network's input.
        bundle: The bundle that the network comes from, if there is one.
        workers: How many images `submit` and a call with several images run at once.
        loaded: The arguments of `load` that make the session again in another process.
        format: What the bytes of arrays of images are, as `camera.FrameFormat` says.

    Attributes:
        spec: The network, with its tasks and sizes.
        latency: What the call cost that finished last, in milliseconds; None before the first.
            Where threads share the session, that may be another thread's call: `Maps.latency` is
            always that of the maps' own call.
    """

    def __init__(
        self,
        backend: Backend,
        fit: Fit,
        bundle: Bundle | None = None,
        *,
        workers: int = 1,
        loaded: Mapping[str, Any] | None = None,
        format: FrameFormat = "rgb",
    ) -> None:
        self.format = check_format(format)
        self._loaded, self._process = loaded, os.getpid()
        self.backend, self.fit, self.bundle = backend, fit, bundle
        self.latency: Latency | None = None
        # A state belongs to one sequence of frames, which threads must not tear apart.
        has_state = any(one.kind == "state" for one in backend.spec.inputs)
        workers = 1 if has_state else workers
        is_free = backend.is_concurrent and not has_state
        self._turn = contextlib.nullcontext() if is_free else threading.Lock()
        self._own = FrameSequence(self)
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="degmix")
        self._in_pool = backend.is_concurrent and workers > 1
        backend.__enter__()

    @property
    def spec(self) -> NetworkSpec:
        """The network that runs."""
        return self.backend.spec

    @property
    def split(self) -> Split | None:
        """What a call with some tasks costs; None where every call runs all tasks."""
        is_split = self.bundle is not None and self.backend.is_split
        return self.bundle.manifest.split if self.bundle is not None and is_split else None

    @property
    def shares(self) -> Mapping[str, float] | None:
        """Fractions of what a call with all tasks costs: of `trunk` and of each task.

        Every call of a `sequence` costs `trunk` and the tasks that it runs. They are counted in
        multiply-adds. None where every call runs all tasks: build the bundle with `--split`.
        """
        return None if self.split is None else self.split.shares

    @property
    def fits_on(self) -> Literal["cpu", "gpu"]:
        """Where arrays of images become the network's input.

        On a GPU it is our kernel, which needs backend `tensorrt` and `libdegmix_kernels.so`. Then
        an image crosses the bus once, as it is, and `Latency.stages` has `fit_ms`. Arrays of a
        format that is not in `camera.KERNEL_FORMATS` are converted on the processor.
        """
        is_there = self.backend.fits_frames and self.format in KERNEL_FORMATS
        return "gpu" if is_there else "cpu"

    # A str is an image, the path of one, although it is also a sequence of str.
    @overload
    def __call__(  # type: ignore[overload-overlap]
        self, image: Frame, *, format: FrameFormat | None = None
    ) -> Maps: ...
    @overload
    def __call__(
        self, image: Sequence[Frame], *, format: FrameFormat | None = None
    ) -> list[Maps]: ...
    def __call__(
        self, image: Frame | Sequence[Frame], *, format: FrameFormat | None = None
    ) -> Maps | list[Maps]:
        """Compute the maps of one image, or of each image in a list or tuple.

        >>> session({"image": left, "right": right})  # of a network that takes two

        Args:
            image: A path, a Pillow image, the bytes of a JPEG or PNG file, or a uint8 array of the
                session's `format`, such as RGB `(H, W, 3)`; or a list or tuple of these, of any
                sizes. An array is always one image. Where `fits_on` is `gpu`, it may be in the
                GPU's memory, with DLPack or the CUDA array interface, and its rows may have gaps.
                A network that takes depth or other numbers has an array of these, `(H, W)` or
                `(H, W, C)`, or the path of a file with them. A network with further inputs takes a
                mapping from their names in place of the image. `NetworkSpec.batch` images of a list
                run in one call of the backend.
            format: What the bytes of arrays are; None is the session's format.

        Returns:
            The maps of the image, with the latency of this call as `Maps.latency`. For a list or
            tuple, a list with the maps of each image in the same order. Each has its own latency,
            or that of the call that it shared with others.

        Raises:
            InputError: An image cannot be read, or is not what the network takes; an input is
                missing. Of several images, the message says which one, and no maps are returned.
            CudaError: An image is in the memory of another GPU, or was freed.
            BackendError: The session is closed, or the backend failed.
        """
        if isinstance(image, Sequence) and not isinstance(image, str | bytes):
            return self._maps_of_all(image, format)
        return self._call([image], None, format=format)[0]

    def run(self, images: Iterable[Frame]) -> Iterator[Maps]:
        """Compute the maps of each image when they are asked for, one image after the other.

        Raises:
            InputError: As a call, when the iterator reaches the image.
            BackendError: As a call.
        """
        return map(self._maps, images)

    def reset(self) -> None:
        """Begin a new sequence of frames: states of a recurrent network are zeros again."""
        self._own.reset()

    def sequence(self) -> FrameSequence:
        """Return a sequence of frames of its own, for one of several cameras that share a session.

        What the network remembers from frame to frame belongs to a sequence. Calls of the session
        itself are one sequence more.
        """
        return FrameSequence(self)

    def submit(self, image: Frame) -> Future[Maps]:
        """Start computing the maps of one image in another thread.

        `submit(image).result()` gives the maps, whose `latency` does not include the time until a
        thread was free, and raises what a call raises.

        Raises:
            BackendError: The session is closed.
        """
        return self._start(self._maps, image)

    def _start(self, function: Callable[..., Any], *arguments: Any) -> Future[Any]:
        self._check_process()
        try:
            return self._pool.submit(function, *arguments)
        except RuntimeError:
            raise BackendError(f"{self.backend.name}: the session is closed") from None

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle a session as the call of `load` that made it; the bundle is opened again.

        Raises:
            TypeError: The session was not made by `load`, so nothing says how to make it again.
        """
        if self._loaded is None:
            raise TypeError("only a session that `load` made can be pickled; pickle its parts")
        return _load_again, (dict(self._loaded),)

    def close(self) -> None:
        """Finish what was submitted and deactivate the backend. A second call does nothing."""
        self._pool.shutdown()
        self.backend.__exit__(None, None, None)

    def __enter__(self) -> Session:
        """Return the session itself, which is open since it was made."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the session."""
        self.close()

    def _maps(self, frame: Frame) -> Maps:
        """The maps of one frame, with the latency of this call."""
        return self._call([frame], None)[0]

    def _call(
        self,
        frames: Sequence[Frame],
        first: int | None,
        sequence: FrameSequence | None = None,
        format: FrameFormat | None = None,
        *,
        call: TaskCall | None = None,
    ) -> list[Maps]:
        """The maps of at most a batch of frames, with the latency of this call.

        Args:
            frames: The frames.
            first: Index of the first in the user's list, for messages; None for a single frame.
            sequence: What the frames belong to; None is the session's own.
            format: What arrays are; None is the session's own.
            call: Which tasks to run; None is all.
        """
        self._check_process()
        start = time.perf_counter()
        feeds, images, placements = [], [], []
        for index, frame in enumerate(frames):
            try:
                feed, raw, placement = self._fit(frame, format or self.format)
            except InputError as error:
                if first is None:
                    raise
                raise InputError(f"images[{first + index}]: {error}") from None
            feeds.append(feed)
            images.append(raw)
            placements.append(placement)
        feed = feeds[0]
        if len(feeds) > 1:
            feed = {name: np.concatenate([one[name] for one in feeds]) for name in feed}
        batch = {name: [one[name] for one in images] for name in images[0]}
        fitted = time.perf_counter()
        with self._turn:
            if call is None:
                arrays = self._infer(feed, batch, frames[0], sequence or self._own)
            else:
                arrays = self.backend.infer(feed, batch, call=call)
            stages = dict(self.backend.stages)
        inferred = time.perf_counter()
        tasks = [task for task in self.spec.tasks if call is None or task.name in call.run]
        if call is not None and sequence is not None:
            sequence._keep(call, arrays)
        maps = [
            Maps.of(arrays, tasks, placement, index if len(frames) > 1 else None)
            for index, placement in enumerate(placements)
        ]
        done = time.perf_counter()
        self.latency = Latency(
            1e3 * (fitted - start), 1e3 * (inferred - fitted), 1e3 * (done - inferred), stages
        )
        for one in maps:
            one.latency = self.latency
        return maps

    def _fit(
        self, frame: Frame, kind: FrameFormat
    ) -> tuple[dict[str, np.ndarray], dict[str, RawFrame], Placement]:
        """What the backend takes of a frame: arrays, raw images, and where the image lies."""
        if self.backend.fits_frames:
            return raw_frame(frame, self.fit, self.spec, kind)
        feed, placement = fit_frame(frame, self.fit, self.spec, kind)
        return feed, {}, placement

    def _infer(
        self,
        feed: dict[str, np.ndarray],
        images: Mapping[str, list[RawFrame]],
        frame: Frame,
        sequence: FrameSequence,
    ) -> dict[str, np.ndarray]:
        """Run the backend; a state that the frame does not have is that of the call before."""
        states = [one for one in self.spec.inputs if one.kind == "state"]
        if states:
            given = frame if isinstance(frame, Mapping) else {}
            feed = feed | {n: s for n, s in sequence.states.items() if n not in given}
        arrays = self.backend.infer(feed, images) if images else self.backend.infer(feed)
        for one in states:
            sequence.states[one.name] = arrays[one.output].copy()
        return arrays

    def _check_process(self) -> None:
        """Threads do not survive a fork: without this check, a call in a child never returns."""
        if os.getpid() != self._process:
            raise BackendError(
                f"{self.backend.name}: the session was made by process {self._process} and cannot "
                "run in its fork; call `load` in each process, or start processes with `spawn`"
            )

    def _maps_of_all(self, frames: Sequence[Frame], format: FrameFormat | None) -> list[Maps]:
        batch = self.spec.batch
        starts = range(0, len(frames), batch)
        groups = [(frames[start : start + batch], start, None, format) for start in starts]
        futures = [self._start(self._call, *group) for group in groups] if self._in_pool else None
        results: list[Maps] = []
        try:
            for index, group in enumerate(groups):
                results += futures[index].result() if futures else self._call(*group)
        finally:
            for future in futures or ():  # after an error, those that have not begun
                future.cancel()
        if results:
            self.latency = results[-1].latency
        return results


class FrameSequence:
    """Frames of one camera, in order: what a network remembers between them belongs to it.

    `Session.sequence` makes one. Several may share a session, each for one thread at a time.

    Attributes:
        states: By the name of the network's input, what it remembers; empty at the beginning. In a
            split bundle, it is what each task left to the others when it ran last.
        ages: By task of a split bundle, how many calls ago its state was made. Empty at the
            beginning, and where every call runs all tasks.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self.states: dict[str, np.ndarray] = {}
        self.ages: dict[str, int] = {}
        self._due: dict[str, int] = {}
        self._ran = frozenset[str]()

    def __call__(
        self,
        image: Frame,
        *,
        tasks: Collection[str] | None = None,
        format: FrameFormat | None = None,
    ) -> Maps:
        """Compute the maps of the sequence's next frame.

        Args:
            image: One image, as a call of the session takes it.
            tasks: Tasks to compute; None is all. In a split bundle the others cost nothing but
                their mixers, which run in the first call and when the manifest's `split` says.
                Any other network computes all tasks, and those that were not asked for are left
                out of the result.
            format: What the bytes of an array are; None is the session's format.

        Raises:
            ConfigError: There is no such task.
            InputError, CudaError, BackendError: As a call of the session.
        """
        names = self._session.spec.task_names
        for name in tasks or ():
            self._session.spec.task(name)
        asked = frozenset(names if tasks is None else tasks)
        call = None if self._session.split is None else self._task_call(asked)
        maps = self._session._call([image], None, self, format, call=call)[0]
        for name in set(maps) - asked:
            del maps[name]
        return maps

    def reset(self) -> None:
        """Begin a new sequence: states are zeros again."""
        with self._session._turn:
            self.states, self.ages, self._due, self._ran = {}, {}, {}, frozenset()

    def _task_call(self, asked: frozenset[str]) -> TaskCall:
        """A call that runs these tasks, and the mixers of others whose state is due."""
        names, split = self._session.spec.task_names, self._session.split
        is_back = split is not None and split.has_places and not asked <= self._ran
        anew = is_back or not self.states
        due = [name for name in names if anew or self._due[name] == 1]
        return TaskCall(asked, frozenset(due) - asked, self.states)

    def _keep(self, call: TaskCall, arrays: Mapping[str, np.ndarray]) -> None:
        """Take over the states of a call that is done."""
        self.states = {name: array for name, array in arrays.items() if name.startswith(PREFIX)}
        names, split = self._session.spec.task_names, self._session.split
        mixed, self._ran = call.run | call.mix, call.run
        self.ages = {n: 0 if n in mixed else self.ages[n] + 1 for n in names}
        if split is None:
            return
        for index, name in enumerate(names):
            if name not in mixed:
                self._due[name] -= 1
            else:  # mixers that all ran at once take turns from then on
                turn = index % split.refresh if len(mixed) == len(names) else 0
                self._due[name] = split.refresh - turn


def load(
    bundle: str | os.PathLike[str] | Bundle,
    *,
    size: tuple[int, int] | None = None,
    backend: str = "auto",
    threads: int | None = None,
    rebuild: bool = True,
    timeout_s: float | None = None,
    trust: str | None = None,
    keys: Sequence[str | os.PathLike[str]] = (),
    identity: str | None = None,
    not_before: str | None = None,
    format: FrameFormat = "rgb",
) -> Session:
    """Open a bundle and make it ready to run.

    Args:
        bundle: Its folder, one that is already open, or `degmix_tiny` for that of the package.
        size: Height and width at which the network runs, where the bundle has several sizes; None
            takes the first. Images of any size are fitted to it.
        backend: The name of a backend, or `auto` for the best one that can run here.
        threads: CPU threads or, on a GPU, images that run at once. None takes the number that was
            the fastest where a build measured the bundle's forms, else the backend's choice.
        rebuild: What to do where the bundle's engine does not fit: True builds one, which takes
            minutes for a GPU, and keeps it in the user's cache. False runs model.onnx instead, or
            raises a BackendError where the backend cannot.
        timeout_s: Seconds until a call ends with a BackendError, where the backend can end one.
        trust: `any` takes every whole bundle, `signed` those that one of `keys` signed. None takes
            `$DEGMIX_TRUST`, or `signed` where keys are given.
        keys: Files of public keys in PEM, or folders of them; with an `identity`, the certificates
            of authorities. None takes `$DEGMIX_KEYS`.
        identity: For whom an authority must have certified the key that signed: an e-mail address,
            a URI or a host name. None takes `$DEGMIX_IDENTITY`.
        not_before: The earliest time of a build in ISO 8601, so that no older signed bundle can
            be put back; None takes `$DEGMIX_NOT_BEFORE`.
        format: What uint8 arrays of images are, as `camera.FrameFormat` says: `rgb`, `bgr`, `nv12`,
            `yuyv`, `uyvy`, `grey`, or a Bayer mosaic such as `bayer_rggb`. Other images know it.

    Raises:
        ConfigError: There is no such backend, format or size, or a number is out of range.
        BundleError: The bundle is incomplete, changed, of another schema, or not trusted.
        GraphError: The model reads other files, or holds a loop that may never end.
        BackendError: The backend cannot run here, refused the model, or needs an engine that
            `rebuild` does not allow to build.
    """
    check_format(format)
    wanted = policy(trust, [Path(key) for key in keys], identity, not_before)
    opened = (bundle if isinstance(bundle, Bundle) else open_bundle(Path(bundle))).at(size)
    wanted.check(opened)
    chosen, own = _choose(backend, threads, timeout_s, opened)
    engine = engine_bytes(opened, chosen, rebuild=rebuild)
    runner = chosen(opened.manifest.network, engine, threads=own)
    runner.timeout_s = timeout_s
    again = {"bundle": opened.path, "backend": backend, "threads": threads, "rebuild": rebuild}
    again |= {"timeout_s": timeout_s, "size": opened.chosen_size, "format": format, **vars(wanted)}
    fit, workers = opened.manifest.fit, (threads or 1) if chosen.has_lanes else 1
    session = Session(runner, fit, opened, workers=workers, loaded=again, format=format)
    opened.release()
    _check_engine(session, runner, opened)
    return session


def _load_again(arguments: Mapping[str, Any]) -> Session:
    return load(**arguments)


def _choose(
    name: str, threads: int | None, seconds: float | None, opened: Bundle
) -> tuple[type[EngineBackend], int | None]:
    """The backend, which takes such a timeout, and its number of threads."""
    if threads is not None and not 1 <= threads <= MOST_THREADS:
        raise ConfigError(f"threads: got {threads}, expected 1 to {MOST_THREADS}, or None")
    built = [engine.backend for engine in opened.manifest.engines]
    backend = backends.choose(name, built=built)
    if seconds is not None and not 0 < seconds < float("inf"):
        raise ConfigError(f"timeout_s: got {seconds}, expected seconds above 0, or None")
    if seconds is not None and not backend.takes_timeout:
        raise ConfigError(f"timeout_s: backend {backend.name} cannot end a call; leave it out")
    return backend, _measured_threads(opened.manifest, backend) if threads is None else threads


def _measured_threads(manifest: Manifest, backend: type[EngineBackend]) -> int | None:
    """The number of threads that was the fastest for this backend's form in a build, or None.

    It is no more than this process may use, which may be fewer than where the bundle was built.
    """
    own = (backend.name, manifest.precision)
    forms = [form for form in manifest.forms if (form.backend, form.precision) == own]
    return min(forms[0].threads, backends.processors()) if forms else None


def _check_engine(session: Session, runner: EngineBackend, opened: Bundle) -> None:
    """An engine that takes or gives other tensors than the manifest says is found before a frame.

    Raises:
        BackendError: It does, and the session is closed.
    """
    manifest, tensors = opened.manifest, runner.engine_tensors()
    if manifest.split is not None and not runner.is_split:
        warnings.warn(
            f"{opened.path}: is a split bundle, and the {runner.name} engine that runs here is not "
            "split: every call runs all tasks",
            category=DegmixWarning,
            stacklevel=3,
        )
    if tensors is None:
        return
    promised = {t.name: str(t.model_copy(update={"unit": ""})) for t in _tensors(manifest)}
    found = {t.name: str(t) for t in tensors}
    for name in sorted(promised.keys() | found.keys()):
        if promised.get(name) != found.get(name):
            session.close()
            raise BackendError(
                f"{opened.path}: the {runner.name} engine has {found.get(name, f'no {name!r}')}, "
                f"the manifest says {promised.get(name, f'no {name!r}')}; build the bundle again"
            )


def _tensors(manifest: Manifest) -> tuple[TensorSpec, ...]:
    return manifest.inputs + manifest.outputs

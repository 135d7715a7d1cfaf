"""A session: a bundle on a backend. `session(image)` is everything a robot does with a frame."""

from __future__ import annotations

import contextlib
import os
import threading
import time
import warnings
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from degmix_edge import backends
from degmix_edge.backends import Backend, EngineBackend
from degmix_edge.bundle import MODEL, Bundle, Engine, engine_key, open_bundle, sha256
from degmix_edge.config import cache_folder
from degmix_edge.errors import BackendError
from degmix_edge.network import NetworkSpec
from degmix_edge.preprocess import Fit, Image, fit_image
from degmix_edge.runtime.maps import Maps

RECIPE = "recipe.yaml"


@dataclass(frozen=True)
class Latency:
    """What one image cost, in milliseconds.

    Attributes:
        pre_ms: Decode, resize, pad.
        net_ms: The backend, bytes in to maps out.
        post_ms: Padding cut off, maps named.
        stages: What `net_ms` is made of, on a backend that measures it: a GPU's copies and kernels.
    """

    pre_ms: float
    net_ms: float
    post_ms: float
    stages: dict[str, float] = field(default_factory=dict)

    @property
    def total_ms(self) -> float:
        """All three."""
        return self.pre_ms + self.net_ms + self.post_ms


class Session:
    """Runs images through a backend. Closed by `with` or `close()`.

    Threads may share a session: a backend that can, runs their images side by side, any other one
    after the other.

    Args:
        backend: Becomes active.
        fit: How images become its input.
        bundle: Where it is from.
        workers: Images under way at once through `submit`.

    Attributes:
        spec: The network: tasks, sizes.
        latency: Of the last image; None before the first.
    """

    def __init__(
        self, backend: Backend, fit: Fit, bundle: Bundle | None = None, *, workers: int = 1
    ) -> None:
        self.backend, self.fit, self.bundle = backend, fit, bundle
        self.latency: Latency | None = None
        self._turn = contextlib.nullcontext() if backend.is_concurrent else threading.Lock()
        self._pool = ThreadPoolExecutor(workers, thread_name_prefix="degmix")
        backend.__enter__()

    @property
    def spec(self) -> NetworkSpec:
        """The network that runs."""
        return self.backend.spec

    def __call__(self, image: Image) -> Maps:
        """Maps of one image: a path, a Pillow image, or a uint8 RGB array.

        Raises:
            InputError: The image cannot be read, or is no 8-bit picture.
            BackendError: The session is closed, or the backend failed.
        """
        start = time.perf_counter()
        pixels, placement = fit_image(image, self.fit)
        fitted = time.perf_counter()
        with self._turn:
            arrays = self.backend.infer(pixels[None])
            stages = self.backend.stages
        inferred = time.perf_counter()
        maps = Maps.of(arrays, self.spec.tasks, placement)
        done = time.perf_counter()
        self.latency = Latency(
            1e3 * (fitted - start), 1e3 * (inferred - fitted), 1e3 * (done - inferred), stages
        )
        return maps

    def run(self, images: Iterable[Image]) -> Iterator[Maps]:
        """Maps of each image, one after the other."""
        return map(self, images)

    def submit(self, image: Image) -> Future[Maps]:
        """Maps of one image, later: `submit(image).result()`. Raises there what a call raises.

        Raises:
            BackendError: The session is closed.
        """
        try:
            return self._pool.submit(self, image)
        except RuntimeError:
            raise BackendError(f"{self.backend.name}: the session is closed") from None

    def close(self) -> None:
        """Finish what was submitted and give the backend back. A second time does nothing."""
        self._pool.shutdown()
        self.backend.__exit__(None, None, None)

    def __enter__(self) -> Session:
        """The session itself; it is open since it was made."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()


def load(
    bundle: str | os.PathLike[str] | Bundle,
    *,
    backend: str = "auto",
    threads: int | None = None,
    rebuild: bool = True,
) -> Session:
    """Open a bundle and make it ready to run.

    Args:
        bundle: The folder, or a bundle that is already open.
        backend: `auto`, or a backend's name.
        threads: CPU threads, or on a GPU images under way at once; None is the backend's choice.
        rebuild: Where the bundle's engine is not for what runs here and model.onnx cannot stand in,
            build one and keep it in the user's cache; without it that is an error.

    Raises:
        BundleError: The bundle is incomplete, changed, or of a newer schema.
        BackendError: The backend cannot run here or refused the model; an engine of another
            version or card that is not to be rebuilt.
    """
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(Path(bundle))
    chosen = backends.choose(backend)
    manifest = opened.manifest
    engine = engine_bytes(opened, chosen, rebuild=rebuild)
    runner = chosen(manifest.network, engine, threads=threads)
    workers = (threads or 1) if not chosen.runs_model else 1
    return Session(runner, manifest.fit, opened, workers=workers)


def engine_bytes(bundle: Bundle, backend: type[EngineBackend], *, rebuild: bool = True) -> bytes:
    """The bundle's engine for `backend` if it was built for what runs here, else a stand-in.

    That is model.onnx where the backend runs it, else an engine that is built now and kept.
    """
    model, recipe = bundle.file(MODEL).read_bytes(), bundle.file(RECIPE).read_bytes()
    engine = bundle.manifest.engine(backend.name)
    here = (backend.version(), backend.device())
    key = engine_key(model, recipe, backend.name, *here)
    if engine is not None and engine.key == key:
        return bundle.file(engine.file).read_bytes()
    why = _mismatch(backend.name, engine, here)
    again = f"`degmix-edge build engine {bundle.path} --backend {backend.name}` builds it again"
    if backend.runs_model:
        warnings.warn(
            f"{bundle.path}: {why}: using {MODEL}, which is slower. {again}", stacklevel=3
        )
        return model
    if not rebuild:
        raise BackendError(f"{bundle.path}: {why}. {again}")
    kept = cache_folder() / "engines" / f"{key}.plan"
    found = _kept(kept)
    if found is None:
        warnings.warn(f"{bundle.path}: {why}: building one, for minutes. {again}", stacklevel=3)
        found = _build(bundle, backend, model)
        _keep(kept, found)
    return found


def _mismatch(name: str, engine: Engine | None, here: tuple[str, str]) -> str:
    """A table of two columns: what the engine was built for, what runs here."""
    if engine is None:
        return f"has no engine for {name}"
    rows = [("", "built for", "running on"), (name, engine.version, here[0])]
    rows += [("device", engine.device, here[1])]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
    if (engine.version, engine.device) == here:
        return "its engine is of another model.onnx or recipe"
    return "its engine does not fit\n" + "\n".join(f"  {line.rstrip()}" for line in lines) + "\n"


def _build(bundle: Bundle, backend: type[EngineBackend], model: bytes) -> bytes:
    # Building needs onnx, which a robot that has its engine does without.
    try:
        from degmix_edge.build import recipe_and_ranges
    except ModuleNotFoundError as error:
        raise BackendError(
            f"building an engine needs {error.name}: pip install 'degmix-edge[tensorrt]', or build "
            f"it on another machine with this card"
        ) from None
    return backend.build(model, *recipe_and_ranges(bundle))[backend.engine_file]


def _kept(path: Path) -> bytes | None:
    """An engine from the cache, if it is what was put there: a plan is code."""
    try:
        engine, want = path.read_bytes(), path.with_suffix(".sha256").read_text()
    except OSError:
        return None
    return engine if sha256(engine) == want else None


def _keep(path: Path, engine: bytes) -> None:
    with contextlib.suppress(OSError):  # a cache that cannot be written to costs time only
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        part.write_bytes(engine)
        part.replace(path)
        path.with_suffix(".sha256").write_text(sha256(engine))

"""A session: a bundle on a backend. `session(image)` is everything a robot does with a frame."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from degmix_edge import backends
from degmix_edge.backends import Backend, EngineBackend
from degmix_edge.bundle import MODEL, Bundle, engine_key, open_bundle
from degmix_edge.network import NetworkSpec
from degmix_edge.preprocess import Fit, Image, fit_image
from degmix_edge.runtime.maps import Maps, TaskMap

RECIPE = "recipe.yaml"


@dataclass(frozen=True)
class Latency:
    """What one image cost, in milliseconds.

    Attributes:
        pre_ms: Decode, resize, pad.
        net_ms: The backend, bytes in to maps out.
        post_ms: Padding cut off, maps named.
    """

    pre_ms: float
    net_ms: float
    post_ms: float

    @property
    def total_ms(self) -> float:
        """All three."""
        return self.pre_ms + self.net_ms + self.post_ms


class Session:
    """Runs images through a backend. Closed by `with` or `close()`; one thread at a time.

    Attributes:
        spec: The network: tasks, sizes.
        latency: Of the last image; None before the first.
    """

    def __init__(self, backend: Backend, fit: Fit, bundle: Bundle | None = None) -> None:
        self.backend, self.fit, self.bundle = backend, fit, bundle
        self.latency: Latency | None = None
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
        arrays = self.backend.infer(pixels[None])
        inferred = time.perf_counter()
        maps = Maps(
            {
                task.name: TaskMap(placement.crop(arrays[task.name][0]), task, placement)
                for task in self.spec.tasks
            }
        )
        done = time.perf_counter()
        self.latency = Latency(
            1e3 * (fitted - start), 1e3 * (inferred - fitted), 1e3 * (done - inferred)
        )
        return maps

    def run(self, images: Iterable[Image]) -> Iterator[Maps]:
        """Maps of each image, one after the other."""
        return map(self, images)

    def close(self) -> None:
        """Give the backend back. A second time does nothing."""
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
    bundle: str | os.PathLike[str] | Bundle, *, backend: str = "auto", threads: int | None = None
) -> Session:
    """Open a bundle and make it ready to run.

    Args:
        bundle: The folder, or a bundle that is already open.
        backend: `auto`, or a backend's name.
        threads: CPU threads; None leaves the choice to the backend.

    Raises:
        BundleError: The bundle is incomplete, changed, or of a newer schema.
        BackendError: The backend cannot run here or refused the model.
    """
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(Path(bundle))
    chosen = backends.choose(backend)
    manifest = opened.manifest
    runner = chosen(manifest.network, engine_bytes(opened, chosen), threads=threads)
    return Session(runner, manifest.fit, opened)


def engine_bytes(bundle: Bundle, backend: type[EngineBackend]) -> bytes:
    """The bundle's engine for `backend` if it was built for what runs here, else `model.onnx`."""
    model = bundle.file(MODEL).read_bytes()
    engine = bundle.manifest.engine(backend.name)
    here = (backend.version(), backend.device())
    key = engine_key(model, bundle.file(RECIPE).read_bytes(), backend.name, *here)
    if engine is not None and engine.key == key:
        return bundle.file(engine.file).read_bytes()
    if engine is None:
        why = f"has no engine for {backend.name}"
    else:
        why = (
            f"engine built for {backend.name} {engine.version} on {engine.device}, running on "
            f"{here[0]} on {here[1]}"
        )
    warnings.warn(
        f"{bundle.path}: {why}: using {MODEL}, which is slower. `degmix-edge build engine "
        f"{bundle.path}` builds it again",
        stacklevel=3,
    )
    return model

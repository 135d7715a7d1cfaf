"""Maps that a robot recorded, to be compared on a desktop that has PyTorch."""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import numpy as np
from polygraphy.comparator import IterationResult, RunResults
from polygraphy.logger import G_LOGGER

from degmix_edge.bundle.contents import Bundle
from degmix_edge.errors import InputError
from degmix_edge.files import output_errors
from degmix_edge.runtime import Maps, Session
from degmix_edge.runtime.frames import Frame, fit_frame

IMAGE_HASH = "image_sha256"
"""An output beside the maps of saved results: which image they are of."""


def save_results(
    session: Session,
    images: Iterable[Frame],
    path: Path,
    advance: Callable[[int], None] = lambda n: None,
) -> None:
    """Run images and keep the maps as polygraphy's RunResults, which its tools read too.

    Raises:
        OutputError: The file cannot be written.
    """
    name = session.backend.name
    iterations = []
    for image in images:
        feed, _ = fit_frame(image, session.fit, session.spec)
        start = time.perf_counter()
        maps = session.backend.infer(feed)
        outputs = OrderedDict(maps) | {IMAGE_HASH: _hash(feed)}
        seconds = time.perf_counter() - start
        iterations.append(IterationResult(outputs, runtime=seconds, runner_name=name))
        advance(1)
    with output_errors(path), G_LOGGER.verbosity(G_LOGGER.ERROR):
        RunResults([(name, iterations)]).save(str(path))


class Recorded:
    """Saved results in the place of a session: the maps that a robot gave for an image.

    Raises:
        InputError: The file holds no such results, or not all of the bundle's tasks.
    """

    def __init__(self, path: Path, bundle: Bundle) -> None:
        self.path, self.fit = path, bundle.manifest.fit
        self.bundle: Bundle | None = bundle
        self.spec = bundle.manifest.network
        try:
            with G_LOGGER.verbosity(G_LOGGER.ERROR):
                ((self.name, iterations),) = RunResults.load(str(path)).lst
            self._maps = {bytes(r[IMAGE_HASH]): {k: r[k] for k in r} for r in iterations}
        except FileNotFoundError:
            raise InputError(f"{path}: no such file; `compare --save-results` writes one") from None
        except Exception as error:  # polygraphy's errors, JSON's, and what a foreign file gives
            raise InputError(f"{path}: no results of `compare --save-results`: {error}") from None
        have = set().union(*self._maps.values()) if self._maps else set()
        lacking = [task for task in self.spec.task_names if task not in have]
        if lacking:
            raise InputError(f"{path}: has no {', '.join(lacking)}; it is of another bundle")

    def __call__(self, image: Frame) -> Maps:
        """Maps of one image.

        Raises:
            InputError: The robot was not given it.
        """
        feed, placement = fit_frame(image, self.fit, self.spec)
        arrays = self._maps.get(bytes(_hash(feed)))
        if arrays is None:
            raise InputError(
                f"{self.path}: has {len(self._maps)} images, and this one is not among them; give "
                f"the same --data as to --save-results"
            )
        return Maps.of(arrays, self.spec.tasks, placement)


def _hash(feed: Mapping[str, np.ndarray]) -> np.ndarray:
    digest = hashlib.sha256(b"".join(array.tobytes() for array in feed.values()))
    return np.frombuffer(digest.digest(), np.uint8)

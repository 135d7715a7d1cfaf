"""The processes that compute: each has a session, and Ray Serve starts and watches them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from ray import serve
from ray.serve.metrics import Counter, Histogram

from degmix_edge._version import __version__
from degmix_edge.bundle.contents import open_bundle
from degmix_edge.errors import BackendError, BundleError, DegmixError, InputError
from degmix_edge.preprocess import read_image
from degmix_edge.runtime import Maps, load
from degmix_edge.workflows.serve.exchange import Answer, Request, pack, refusal
from degmix_edge.workflows.serve.options import Served

CONCURRENT_BATCHES = 2
"""While the network computes one batch, the images of another are read or its maps are encoded."""
NET_MS = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0]
BATCH_SIZES = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0]


class Sessions:
    """A deployment of Ray Serve: each replica is a session of the bundle.

    Args:
        served: What is served.

    Raises:
        BundleError: The bundle is another one than when the server began.
        BackendError: This machine has another version of degmix-edge, or cannot run the bundle.
    """

    def __init__(self, served: Served) -> None:
        if served.version != __version__:
            raise BackendError(
                f"this machine has degmix-edge {__version__}, and the server was started by "
                f"{served.version}; install the same version"
            )
        opened = open_bundle(Path(served.bundle))
        if opened.digest != served.digest:
            raise BundleError(
                f"{served.bundle}: was replaced since the server began: its digest is "
                f"{opened.digest[:12]}, expected {served.digest[:12]}; restart the server"
            )
        size, backend = served.options.size, served.backend
        self.session = load(opened, size=size, backend=backend, threads=served.threads)
        self.failure = ""
        self._net_ms = Histogram("degmix_net_ms", "Milliseconds of one call.", boundaries=NET_MS)
        self._batch = Histogram("degmix_batch_images", "Images of a call.", boundaries=BATCH_SIZES)
        self._calls = Counter("degmix_calls", "Calls of the network.")
        self._images = Counter("degmix_images", "Images that were computed.")
        spec = self.session.spec
        # The first call of a session takes longer, and no client should wait for it.
        self.session([np.zeros((spec.height, spec.width, 3), np.uint8)])
        self._in_batches = serve.batch(
            max_batch_size=spec.batch,
            batch_wait_timeout_s=served.options.batch_wait_ms / 1e3 if spec.batch > 1 else 0,
            max_concurrent_batches=CONCURRENT_BATCHES,
        )(self._answers)

    async def maps(self, image: bytes, request: Request) -> Answer:
        """Return the maps of an encoded image, or why there are none."""
        answer: Answer = await self._in_batches((image, request))
        return answer

    async def _answers(self, calls: Sequence[tuple[bytes, Request]]) -> list[Answer]:
        """A thread computes, so that this process can still answer Ray's health checks."""
        return await asyncio.to_thread(self.compute, calls)

    def compute(self, calls: Sequence[tuple[bytes, Request]]) -> list[Answer]:
        """Return the answer to each of at most a batch of images, in one call of the network."""
        start = time.perf_counter()
        answers: dict[int, Answer] = {}
        images: dict[int, np.ndarray] = {}
        for index, (data, _) in enumerate(calls):
            try:
                images[index] = read_image(data)
            except InputError as error:
                answers[index] = refusal("image", error)
        read_ms = 1e3 * (time.perf_counter() - start)
        try:
            maps = dict(zip(images, self.session(list(images.values())), strict=True))
        except DegmixError as error:
            self.failure = str(error)
            return [answers.get(index, refusal("backend", error)) for index in range(len(calls))]
        if maps:
            self._observe(next(iter(maps.values())), len(maps))
        for index, one in maps.items():
            answers[index] = _answer(one, calls[index][1], read_ms)
        return [answers[index] for index in range(len(calls))]

    def _observe(self, maps: Maps, images: int) -> None:
        assert maps.latency is not None
        self._calls.inc()
        self._images.inc(images)
        self._batch.observe(images)
        self._net_ms.observe(maps.latency.net_ms)

    def check_health(self) -> None:
        """Tell Ray Serve to replace this process after the backend has failed.

        Raises:
            BackendError: The backend has failed.
        """
        if self.failure:
            raise BackendError(self.failure)


def _answer(maps: Maps, request: Request, read_ms: float) -> Answer:
    """The maps of one image as bytes, with what they cost."""
    latency = maps.latency
    assert latency is not None
    start = time.perf_counter()
    body = pack(maps, request)
    post_ms = latency.post_ms + 1e3 * (time.perf_counter() - start)
    pre_ms = read_ms + latency.pre_ms
    return Answer(body, times_ms={"pre": pre_ms, "net": latency.net_ms, "post": post_ms})

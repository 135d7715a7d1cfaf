"""Load a server of `degmix_edge.serve` at a fixed rate, and say how it answers."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import numpy as np
import PIL.Image

from degmix_edge.errors import ConfigError, InputError
from degmix_edge.extras import missing_package
from degmix_edge.preprocess import Fit, list_images
from degmix_edge.progress import Progress, counting, listening
from degmix_edge.report.text import Readable, TextTable
from degmix_edge.workflows.bench_figures import achieved_hz, gaps, percentiles
from degmix_edge.workflows.networks import task_names
from degmix_edge.workflows.serve.exchange import (
    BUNDLE_HEADER,
    DEADLINE,
    MAPS_PATH,
    QUEUE,
    VERSION_HEADER,
)

REFUSED = (QUEUE, DEADLINE)
"""Causes of answers by which a server that has too much to do protects itself."""
CONNECT_S, ANSWER_S = 5.0, 30.0
"""Seconds until a server must have accepted a connection, and until it must have answered."""
MOST_REQUESTS = 1_000_000
"""Requests of a run; the figures of each are kept until the end."""
LATE_MS = 20.0
"""A request that is sent so much after its moment was held up by this program."""


@dataclass(frozen=True)
class UrlBench(Readable):
    """How a server answered.

    Attributes:
        url: The server.
        bundle: The digest of its bundle.
        version: Its version of degmix-edge.
        rate_hz: Images a second that were offered.
        seconds: How long they were offered.
        offered: Requests that were sent.
        answered: Requests that got maps.
        refused: By cause, requests that the server had no time for: `queue` or `deadline`.
        failed: By cause, all other requests without maps.
        achieved_hz: Answers with maps a second; None for less than two.
        latency_ms: `p50`, `p95`, `p99` and `max` in milliseconds of the answers with maps, each
            from the moment at which its request was due.
        net_ms: The same of the network's call, as the server says.
        longest_gap_ms: The longest time between two answers with maps; None for less than two.
        late_ms: How long after its moment a request was sent at most. Figures of a run in which
            this is large are those of an overloaded client.
    """

    url: str
    bundle: str
    version: str
    rate_hz: float
    seconds: float
    offered: int
    answered: int
    refused: dict[str, int]
    failed: dict[str, int]
    achieved_hz: float | None
    latency_ms: dict[str, float]
    net_ms: dict[str, float]
    longest_gap_ms: float | None
    late_ms: float

    def text(self) -> Iterator[str | TextTable]:
        """Yield the latencies, and what a person should know besides them."""
        names = ("p50", "p95", "p99", "max")
        rows = [
            [what, *(f"{times[name]:.1f}" if times else "-" for name in names)]
            for what, times in (("latency", self.latency_ms), ("network", self.net_ms))
        ]
        title = f"{self.url}, {self.rate_hz:g} Hz, {self.seconds:g} s"
        yield TextTable(title, ["", *(f"{name} ms" for name in names)], rows)
        refused, failed = (
            f"{sum(counts.values())} {what}" + (f" ({_in_words(counts)})" if counts else "")
            for what, counts in (("refused", self.refused), ("failed", self.failed))
        )
        yield f"{self.offered} offered = {self.answered} answered + {refused} + {failed}"
        if self.achieved_hz is not None and self.longest_gap_ms is not None:
            yield (
                f"{self.achieved_hz:.2f} answers a second; the longest time without one was "
                f"{self.longest_gap_ms:.0f} ms"
            )
        if self.late_ms > LATE_MS:
            yield (
                f"this program sent a request {self.late_ms:.0f} ms late, so the figures are also "
                "those of this machine; use a lower --rate, or another machine"
            )


@dataclass(frozen=True)
class _Sent:
    """What became of one request: its moments in seconds, and why it got no maps."""

    due: float
    sent: float
    done: float
    cause: str
    net_ms: float


def bench_url(
    url: str,
    *,
    rate: float = 30.0,
    seconds: float = 30.0,
    images: str = "photos",
    tasks: str | Sequence[str] = (),
    deadline_ms: float | None = None,
    progress: Progress | None = None,
) -> UrlBench:
    """Send images to a server at a fixed rate, and time its answers.

    The schedule is open: each request has its moment, `1 / rate` seconds after the one before, and
    is sent then, however many answers are still missing. Cameras and other clients do not wait for
    each other either. A client that waits for an answer before it sends the next request offers
    less while the server is slow, so that the slowest answers hardly count. For the same reason a
    latency begins when a request is due, not when it was sent.

    Args:
        url: The server, as `http://host:port`.
        rate: Images a second.
        seconds: How long to send.
        images: `photos`, a folder or file of images, which are sent as they are, or a data set such
            as `synthetic:64`, whose images are sent as JPEG at the network's size.
        tasks: Tasks to ask for; none is all.
        deadline_ms: The deadline of each request in milliseconds; None is the server's.
        progress: Called with an `Event` after each answer.

    Raises:
        ConfigError: Nothing answers at the URL, or something else than such a server; or a number
            is out of range; or aiohttp is not installed.
        InputError: There are no images.
    """
    base, count = _checked(url, rate, seconds)
    query = {"tasks": ",".join(task_names(tasks))} if tasks else {}
    if deadline_ms is not None:
        query["deadline_ms"] = f"{deadline_ms:g}"
    with listening(progress):
        about = asyncio.run(_about(base))
        bodies = encoded_images(images, (about["height"], about["width"]))
        with counting("bench", count) as advance:
            post = partial(_outcome, base + MAPS_PATH, query)
            requests = asyncio.run(_load(post, bodies, rate, count, advance))
    return _figures(requests, base, about, rate, seconds)


def _checked(url: str, rate: float, seconds: float) -> tuple[str, int]:
    """The URL without a path, and how many requests there are.

    Raises:
        ConfigError: It is no URL, or a number is out of range.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
        raise ConfigError(f"url: got {url!r}, expected a server such as http://127.0.0.1:8000")
    for name, value in (("rate", rate), ("seconds", seconds)):
        if not 0 < value < math.inf:
            raise ConfigError(f"{name}: got {value}, expected a number above 0")
    if not 1 <= rate * seconds <= MOST_REQUESTS:
        raise ConfigError(
            f"rate {rate:g} for {seconds:g} s is {rate * seconds:g} requests, expected 1 to "
            f"{MOST_REQUESTS:,}"
        )
    return f"{parts.scheme}://{parts.netloc}", int(rate * seconds)


def encoded_images(source: str, size: tuple[int, int]) -> list[bytes]:
    """Return the images of a source as files that a server takes.

    Args:
        source: A folder or a file, whose bytes are given as they are; else a name that
            `sources.images` takes, whose images become JPEG.
        size: Height and width in pixels at which scenes are rendered.

    Raises:
        InputError: There are no images.
        ConfigError: There is no such data set.
    """
    from degmix_edge.workflows import sources

    path = Path(source)
    try:
        if path.is_file():
            return [path.read_bytes()]
        if path.is_dir():
            return [one.read_bytes() for one in list_images(path)]
    except OSError as error:
        raise InputError(f"{error.filename or source}: cannot be read: {error.strerror}") from None
    named = sources.images(source, Fit(height=size[0], width=size[1]))
    return [_jpeg(one.image) for one in named]


def _jpeg(image: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(image).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _aiohttp() -> Any:
    """The HTTP client's package.

    Raises:
        ConfigError: It is not installed.
    """
    try:
        import aiohttp
    except ImportError:
        raise missing_package("aiohttp", "--url", ConfigError) from None
    return aiohttp


def _client(aiohttp: Any) -> Any:
    """A client that never holds a request back."""
    timeout = aiohttp.ClientTimeout(total=ANSWER_S, sock_connect=CONNECT_S)
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout)


async def _about(base: str) -> dict[str, Any]:
    """What the server says of itself.

    Raises:
        ConfigError: Nothing answers, or something else.
    """
    aiohttp = _aiohttp()
    try:
        async with _client(aiohttp) as client, client.get(base) as answer:
            body, headers = await answer.read(), answer.headers
    except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
        refused = getattr(error, "errno", None) == errno.ECONNREFUSED
        why = "the connection is refused" if refused else str(error) or "no answer in time"
        raise ConfigError(
            f"url {base}: nothing answers there ({why}); start a server with `degmix-edge serve`"
        ) from None
    try:
        about = dict(json.loads(body))
        return {"height": about["height"], "width": about["width"]} | {
            name: headers[name] for name in (BUNDLE_HEADER, VERSION_HEADER)
        }
    except (ValueError, KeyError, TypeError):
        raise ConfigError(
            f"url {base}: this is no server of degmix-edge; give the address that "
            "`degmix-edge serve` prints"
        ) from None


async def _load(
    post: Callable[[Any, bytes], Awaitable[tuple[str, float]]],
    bodies: Sequence[bytes],
    rate: float,
    count: int,
    advance: Callable[[float], None],
) -> list[_Sent]:
    """Send every request at its moment, and wait for all answers."""
    async with _client(_aiohttp()) as client:
        loop = asyncio.get_running_loop()
        start, tasks = loop.time(), []

        async def ask(due: float, body: bytes) -> _Sent:
            sent = loop.time()
            cause, net_ms = await post(client, body)
            advance(1)
            return _Sent(due, sent, loop.time(), cause, net_ms)

        for index in range(count):
            due = start + index / rate
            await asyncio.sleep(max(0.0, due - loop.time()))
            tasks.append(asyncio.create_task(ask(due, bodies[index % len(bodies)])))
        return list(await asyncio.gather(*tasks))


async def _outcome(
    url: str, query: Mapping[str, str], client: Any, body: bytes
) -> tuple[str, float]:
    """Why a request got no maps, or an empty text; and what the network took in milliseconds."""
    try:
        async with client.post(url, params=query, data=body) as answer:
            content = await answer.read()
            if answer.status == 200:
                return "", _net_ms(answer.headers.get("server-timing", ""))
            return _cause(content, answer.status), math.nan
    except asyncio.TimeoutError:
        return "timeout", math.nan
    except (_aiohttp().ClientError, OSError) as error:
        return type(error).__name__, math.nan


def _cause(content: bytes, status: int) -> str:
    try:
        return str(json.loads(content)["error"]["cause"])
    except (ValueError, KeyError, TypeError):
        return f"HTTP {status}"


def _net_ms(timing: str) -> float:
    for part in timing.split(","):
        name, _, value = part.strip().partition(";dur=")
        if name == "net":
            return float(value)
    return math.nan


def _figures(
    requests: Sequence[_Sent], url: str, about: Mapping[str, Any], rate: float, seconds: float
) -> UrlBench:
    good = sorted((one for one in requests if not one.cause), key=lambda one: one.done)
    causes = Counter(one.cause for one in requests if one.cause)
    done_ns = np.array([one.done for one in good]) * 1e9
    net_ms = [one.net_ms for one in good if not math.isnan(one.net_ms)]
    return UrlBench(
        url=url,
        bundle=about[BUNDLE_HEADER],
        version=about[VERSION_HEADER],
        rate_hz=rate,
        seconds=seconds,
        offered=len(requests),
        answered=len(good),
        refused={cause: n for cause, n in causes.items() if cause in REFUSED},
        failed={cause: n for cause, n in causes.items() if cause not in REFUSED},
        achieved_hz=achieved_hz(done_ns),
        latency_ms=percentiles([1e3 * (one.done - one.due) for one in good]),
        net_ms=percentiles(net_ms),
        longest_gap_ms=gaps(done_ns, math.inf)[1],
        late_ms=max(1e3 * (one.sent - one.due) for one in requests),
    )


def _in_words(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {cause}" for cause, count in counts.items())

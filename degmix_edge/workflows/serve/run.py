"""Start a server of a bundle on Ray Serve, and end it."""

from __future__ import annotations

import logging
import os
import re
import socket
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from degmix_edge import config, errors
from degmix_edge._version import __version__
from degmix_edge.backends import choose
from degmix_edge.bundle.contents import Bundle, open_bundle
from degmix_edge.bundle.signing import policy
from degmix_edge.cluster import LOCAL, cluster
from degmix_edge.errors import BackendError, ConfigError
from degmix_edge.progress import Progress, listening, warn
from degmix_edge.workflows.label.labeller import check_network
from degmix_edge.workflows.serve.options import Served, ServeOptions

STAGE = "serve"
DRAIN_S = 5.0
"""How long images that are on their way may take when the server ends."""
HEALTH_S = 5.0
"""Between two checks of a replica's health; one that has died is noticed at once."""
TRIES = 3
"""How often Ray Serve starts a first replica that fails."""
LIGHT = {
    "RAY_SERVE_RUN_USER_CODE_IN_SEPARATE_THREAD": "0",
    "RAY_SERVE_RUN_ROUTER_IN_SEPARATE_LOOP": "0",
    "RAY_SERVE_USE_GRPC_BY_DEFAULT": "1",
    "RAY_SERVE_REPLICA_GRPC_MAX_MESSAGE_LENGTH": str(2**31 - 1),
    "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "50",
}
"""Ray Serve's own switches. Three mean less work a request, by its performance guide: they suit
code that never blocks the event loop, as ours does not. Maps of large images exceed gRPC's limit.
A busy machine takes longer to start the HTTP server than the 5 s after which it would be killed."""
ROUTER = {"initial_backoff_s": 0.002, "backoff_multiplier": 2.0, "max_backoff_s": 0.016}
"""How soon a waiting image looks for a free replica again; Ray's defaults leave replicas idle."""
AT_FRONT = 4000
"""Requests that the front holds at once, so that it refuses the others and not Ray."""


@dataclass(frozen=True)
class Server:
    """A server that runs until the `with` block of `serve` ends.

    Attributes:
        url: Where it listens.
        metrics_url: Where Prometheus reads metrics.
        bundle: The digest of the bundle.
        version: The version of degmix-edge.
        replicas: How many replicas it began with.
        threads: CPU threads of each.
    """

    url: str
    metrics_url: str
    bundle: str
    version: str
    replicas: int
    threads: int

    def wait(self) -> None:
        """Return at Ctrl-C."""
        with suppress(KeyboardInterrupt):
            while True:
                time.sleep(3600)


@contextmanager
def serve(
    bundle: str | Path | Bundle,
    options: ServeOptions | None = None,
    *,
    progress: Progress | None = None,
    **changes: Any,
) -> Iterator[Server]:
    """Serve a bundle over HTTP with Ray Serve, until the `with` block ends.

    >>> with degmix_edge.serve("robot.degmix", replicas=2) as server:
    ...     print(server.url)
    ...     server.wait()

    Args:
        bundle: The bundle, or its folder.
        options: What is asked for.
        progress: Called with an `Event` for each thing that should be noticed.
        changes: Fields of `ServeOptions`, which replace those of `options`.

    Raises:
        ConfigError: Ray Serve is not installed, the port is taken, a number is out of range, the
            bundle has no such size, or its network takes more than a picture.
        BundleError: The bundle cannot be read, or is not trusted.
        BackendError: The backend cannot run it, or the HTTP server or the replicas do not start.
    """
    values = {} if options is None else options.model_dump(exclude_unset=True)
    settings = config.parse(ServeOptions, values | changes, STAGE)
    with listening(progress):
        opened = bundle if isinstance(bundle, Bundle) else open_bundle(Path(bundle))
        served = _served(opened, settings)
        port = check_port(settings.host, settings.port)
        metrics = {"_metrics_export_port": check_port("", settings.metrics_port, "metrics_port")}
        _check_ray()
        processors = settings.most_replicas * served.threads
        with cluster(LOCAL, processors, data=False, **metrics) as ray:
            with _application(served, port):
                yield Server(
                    url=f"http://{_reachable(settings.host)}:{port}",
                    metrics_url=_metrics_url(ray),
                    bundle=served.digest,
                    version=__version__,
                    replicas=settings.replicas,
                    threads=served.threads,
                )


def _served(opened: Bundle, settings: ServeOptions) -> Served:
    """What is served, once everything is known to be there."""
    policy().check(opened)
    manifest = opened.at(settings.size).manifest
    check_network(manifest.network, STAGE)
    backend = choose(settings.backend, built=[engine.backend for engine in manifest.engines])
    threads, replicas = settings.threads_each, settings.most_replicas
    cores = len(os.sched_getaffinity(0))
    if not backend.has_lanes and threads * replicas > cores:
        warn(
            f"{replicas} replicas of {threads} threads share {cores} processors, so they slow "
            "each other down",
            STAGE,
        )
    return Served(
        bundle=str(opened.path.absolute()),
        digest=opened.digest,
        version=__version__,
        network=manifest.network,
        backend=backend.name,
        threads=threads,
        options=settings,
    )


def _check_ray() -> None:
    for name, value in LIGHT.items():  # it reads them when it is imported
        os.environ.setdefault(name, value)
    try:
        import ray.serve  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"serve needs Ray Serve, and {error.name or 'a part of it'} is not installed: "
            "pip install 'degmix-edge[serve]'"
        ) from None


def check_port(host: str, port: int, name: str = "port") -> int:
    """Return the port, or a free one for 0.

    Args:
        host: The address to listen at; empty is every address.
        port: The port.
        name: Which one it is, for messages.

    Raises:
        ConfigError: The port is taken or not allowed, or this machine has no such address.
    """
    try:
        places = socket.getaddrinfo(host or "0.0.0.0", port, type=socket.SOCK_STREAM)
        family, *_, place = places[0]
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(place)
            return int(probe.getsockname()[1])
    except OSError as error:
        raise ConfigError(
            f"{name}: cannot listen at {host or '*'}:{port} ({error.strerror or error}); choose "
            "another, or 0 for a free one"
        ) from None


def _reachable(host: str) -> str:
    """A name under which this machine reaches an address that may mean all of its own."""
    return {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)


def _metrics_url(ray: Any) -> str:
    node = ray.nodes()[0]
    return f"http://{node['NodeManagerAddress']}:{node['MetricsExportPort']}/metrics"


@contextmanager
def _application(served: Served, port: int) -> Iterator[None]:
    """The deployments on a cluster that this process is connected to.

    Raises:
        BackendError: The HTTP server or the replicas do not start.
    """
    import ray.serve
    from ray.exceptions import RayError

    ray_serve: Any = ray.serve
    settings = served.options
    quiet = {"log_level": "WARNING", "enable_access_log": False}
    http = {"host": settings.host, "port": port}
    logging.getLogger("ray.serve").setLevel(logging.WARNING)
    try:
        try:
            ray_serve.start("HeadOnly", http, logging_config=quiet)
        except (RayError, TimeoutError) as error:
            reason = str(error).strip().splitlines()[-1]
            raise BackendError(f"the HTTP server does not start: {reason}") from None
        try:
            ray_serve.run(_graph(served, quiet), name="degmix", route_prefix="/")
        except RuntimeError as error:
            raise _own_error(str(error)) from None
        yield
    finally:
        ray_serve.shutdown()


def _graph(served: Served, quiet: Mapping[str, Any]) -> Any:
    """The application: the front, and the sessions behind it."""
    import ray.serve

    from degmix_edge.workflows.serve.front import FRONT, SESSIONS, Front
    from degmix_edge.workflows.serve.sessions import CONCURRENT_BATCHES, Sessions

    ray_serve: Any = ray.serve
    settings, batch = served.options, served.network.batch
    ends = {"graceful_shutdown_timeout_s": DRAIN_S, "graceful_shutdown_wait_loop_s": 0.1}
    common = {"logging_config": quiet, "health_check_period_s": HEALTH_S, **ends}
    scale: dict[str, Any] = {"num_replicas": settings.replicas}
    if settings.max_replicas is not None:
        bounds = {"min_replicas": settings.replicas, "max_replicas": settings.max_replicas}
        scale = {"autoscaling_config": {**bounds, "target_ongoing_requests": batch}}
    sessions = ray_serve.deployment(
        Sessions,
        name=SESSIONS,
        max_ongoing_requests=CONCURRENT_BATCHES * batch,
        max_queued_requests=settings.queue,
        max_constructor_retry_count=TRIES,
        request_router_config=ROUTER,
        ray_actor_options={"num_cpus": served.threads},
        **scale,
        **common,
    ).bind(served)
    front = ray_serve.deployment(
        ray_serve.ingress()(Front),
        name=FRONT,
        max_ongoing_requests=AT_FRONT,
        ray_actor_options={"num_cpus": 0},
        **common,
    )
    return front.bind(sessions, served)


def _own_error(text: str) -> errors.DegmixError:
    """The error of ours that a replica has raised, out of the text that Ray Serve makes of it."""
    for name, message in re.findall(r"degmix_edge\.errors\.(\w+): (.+)", text):
        return getattr(errors, name)(message)  # type: ignore[no-any-return]
    return BackendError(f"the replicas do not start: {text.strip().splitlines()[-1]}")

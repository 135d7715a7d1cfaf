"""Connect to a Ray cluster, or start one; the only module that does."""

from __future__ import annotations

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from degmix_edge.errors import ConfigError, DegmixError

LOCAL = "local"
"""The address of a cluster that is started in this process and ends with it."""
CLIENT = "ray://"
"""How the address of a Ray client's server begins."""
SECONDS = 10.0
"""How long an address may take to answer."""
STORE_BYTES = 200 << 20
"""Memory of the object store of a local cluster: what travels through it is small."""


@contextmanager
def cluster(address: str, num_cpus: int, *, data: bool = True, **settings: Any) -> Iterator[Any]:
    """Connect to a cluster, or start one of this process; gives the module `ray`.

    Args:
        address: `local`, `auto`, `host:port` or `ray://host:port`.
        num_cpus: Processors of a local cluster.
        data: Ray Data is needed, too.
        settings: More arguments of `ray.init`.

    Raises:
        ConfigError: Ray is not installed, or nothing answers at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anybody
    os.environ.setdefault("RAY_DATA_LOG_LEVEL", "ERROR")  # its progress is that of the command
    try:
        import ray

        if data:
            import ray.data
    except ImportError:
        raise ConfigError(
            "--address needs ray, which is not installed: pip install 'degmix-edge[scale]'; "
            "without --address, processes of this machine do the work"
        ) from None
    options: dict[str, Any] = {"log_to_driver": False, **settings}
    on_terminate = signal.getsignal(signal.SIGTERM)
    if not address.startswith(CLIENT):  # whose server takes no level
        options["logging_level"] = "error"
    if address == LOCAL:
        options |= {"num_cpus": num_cpus, "object_store_memory": STORE_BYTES}
        options |= {"include_dashboard": False, "address": "local"}
    else:
        _check_address(address)
        options["address"] = address
    try:
        ray.init(**options)
    except ImportError as error:  # Ray's client is an extra of Ray
        raise ConfigError(f"--address {address}: {error}; pip install 'ray[client]'") from None
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(f"--address {address}: no cluster answers: {_summary(error)}") from None
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, on_terminate)  # `ray.init` has put its own in the place
    if data:
        ray.data.DataContext.get_current().enable_progress_bars = False
    try:
        yield ray
    finally:
        ray.shutdown()


def _summary(error: Exception) -> str:
    """Return what a refused connection says, with what is behind it most often."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    text = lines[0].rstrip(": ") if len(lines) < 2 else f"{lines[0].rstrip(': ')}: {lines[-1]}"
    if os.environ.get("RAY_AUTH_MODE") != "token":
        text += "; if the cluster asks for a token, as Ray does since 2.59, set RAY_AUTH_MODE=token"
    return text


def _check_address(address: str) -> None:
    """Fail at once where nothing listens: Ray itself would wait for minutes.

    Raises:
        ConfigError: Nothing listens, or this is no address.
    """
    if address == "auto":
        return
    parts = urlsplit(address if "://" in address else f"//{address}")
    try:
        host, port = parts.hostname, parts.port
    except ValueError:
        host = port = None
    if not host or not port or parts.scheme not in ("", "ray"):
        raise ConfigError(
            f"--address {address}: expected local, auto, HOST:PORT or ray://HOST:PORT"
        )
    try:
        socket.create_connection((host, port), SECONDS).close()
    except OSError as error:
        raise ConfigError(
            f"--address {address}: nothing answers there ({error.strerror or error}); start a "
            "cluster with `ray start --head`, or leave --address out"
        ) from None


def own_error(error: BaseException) -> BaseException:
    """Return the error of ours that Ray has wrapped; else the error itself."""
    inner: BaseException | None = error
    while inner is not None:
        if isinstance(inner, DegmixError):
            return _plain(inner)
        inner = getattr(inner, "cause", None) or inner.__cause__
    return error


def _plain(error: DegmixError) -> DegmixError:
    """An error without the traceback of another process, which Ray puts into its text."""
    return public_kind(error)(str(error.args[0] if error.args else error))


def public_kind(error: DegmixError) -> type[DegmixError]:
    """Return the class of `degmix_edge.errors` that an error is of, or derived from."""
    ours = [kind for kind in type(error).__mro__ if kind.__module__ == DegmixError.__module__]
    return ours[0]

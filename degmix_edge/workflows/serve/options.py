"""What a server is asked for, and what its replicas are given."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, model_validator

from degmix_edge import config
from degmix_edge.limits import Side
from degmix_edge.network import NetworkSpec
from degmix_edge.runtime.session import MOST_THREADS

MOST_REPLICAS = 1024
"""More replicas than any cluster of one bundle needs; Ray would wait for their processors."""
MOST_WAITING = 1000
"""Images that may wait at most; each holds its encoded image in memory."""
Port = Annotated[int, Field(ge=0, le=65535)]
Replicas = Annotated[int, Field(ge=1, le=MOST_REPLICAS)]


class ServeOptions(config.Settings):
    """What a server is asked for.

    Attributes:
        host: The address to listen at; `0.0.0.0` lets other machines in.
        port: The port to listen at; 0 takes a free one.
        replicas: Processes with a session each; with `max_replicas`, the least of them.
        max_replicas: Add replicas up to so many while images wait; None keeps their number.
        threads: CPU threads of each replica, or images at once on a GPU; None divides all
            processors by the replicas.
        queue: Images that may wait for a replica; a request that finds so many is refused.
        deadline_ms: Milliseconds that a request may take which does not say so itself.
        batch_wait_ms: How long an image may wait for others that share its call, where the bundle
            computes several images at once.
        backend: `auto`, or a backend's name.
        size: Height and width of a bundle that has several sizes; None takes its first.
        metrics_port: The port of Prometheus metrics on this machine; 0 takes a free one.
    """

    host: str = "127.0.0.1"
    port: Port = 8000
    replicas: Replicas = 1
    max_replicas: Replicas | None = None
    threads: Annotated[int, Field(ge=1, le=MOST_THREADS)] | None = None
    queue: Annotated[int, Field(ge=1, le=MOST_WAITING)] = 32
    deadline_ms: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 10_000.0
    batch_wait_ms: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 5.0
    backend: str = "auto"
    size: tuple[Side, Side] | None = None
    metrics_port: Port = 0

    @model_validator(mode="after")
    def _order(self) -> ServeOptions:
        if self.max_replicas is not None and self.max_replicas < self.replicas:
            raise ValueError(
                f"max_replicas: got {self.max_replicas}, expected at least replicas, which is "
                f"{self.replicas}"
            )
        return self

    @property
    def most_replicas(self) -> int:
        """How many replicas there are at most."""
        return self.max_replicas or self.replicas

    @property
    def threads_each(self) -> int:
        """CPU threads of a replica."""
        return self.threads or max(1, len(os.sched_getaffinity(0)) // self.most_replicas)


@dataclass(frozen=True)
class Served:
    """What the processes of a server are given.

    Attributes:
        bundle: The bundle's folder.
        digest: The digest of the bundle when the server began; a replica refuses any other.
        version: The version of degmix-edge that began it; a replica of another one refuses.
        network: The network.
        backend: The name of a backend, not `auto`.
        threads: CPU threads of a replica.
        options: What else was asked for.
    """

    bundle: str
    digest: str
    version: str
    network: NetworkSpec
    backend: str
    threads: int
    options: ServeOptions

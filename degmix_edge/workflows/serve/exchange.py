"""What a client asks for and what it gets, as bytes and plain values; nothing here knows Ray."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, field_validator

from degmix_edge import config
from degmix_edge.network import NetworkSpec
from degmix_edge.runtime import Maps
from degmix_edge.runtime.saving import encode, encoding

MAPS_PATH = "/maps"
"""Where images are sent to."""
MOST_BYTES = 64 << 20
"""The largest encoded image that is taken."""
VERSION_HEADER, BUNDLE_HEADER = "degmix-version", "degmix-bundle"
"""Headers of every answer: the version of degmix-edge, and the digest of the bundle."""
QUEUE, DEADLINE = "queue", "deadline"
"""Causes of requests that are refused because the server has too much to do."""
PNG_LEVEL = 1
"""How hard PNG files are compressed: zlib's default takes four times as long, which is longer than
many networks, for files that are a fifth smaller."""
STATUS = {
    "request": 400,
    "image": 400,
    "size": 413,
    QUEUE: 503,
    "replica": 503,
    DEADLINE: 504,
    "backend": 500,
    "server": 500,
}
"""By cause, the status of an answer without maps."""


class Request(config.Settings):
    """What a client wants of an image: the parameters in the query of its request.

    Attributes:
        tasks: Names of tasks, with commas between them; empty is all.
        deadline_ms: Milliseconds after the arrival, at which the answer is of no use any more.
        format: `png` gives a ZIP file of pictures of numbers, as `Maps.save` describes, with `.npy`
            for other kinds of maps; `npz` gives numpy's file with the exact arrays.
        native: Maps have the image's own size instead of the network's.
    """

    tasks: tuple[str, ...] = ()
    deadline_ms: Annotated[float, Field(gt=0, allow_inf_nan=False)]
    format: Literal["png", "npz"] = "png"
    native: bool = False

    @field_validator("tasks", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return tuple(part.strip() for part in value.split(",") if part.strip())


def read_request(query: Mapping[str, str], network: NetworkSpec, deadline_ms: float) -> Request:
    """Return what the query of a request asks for.

    Args:
        query: The parameters as text.
        network: The network, whose tasks there are.
        deadline_ms: The deadline where the client gives none.

    Raises:
        ConfigError: There is no such parameter or task, and the message has the nearest one; or a
            value is not valid.
    """
    request = config.parse(Request, {"deadline_ms": deadline_ms, **query}, "query")
    for name in request.tasks:
        network.task(name)
    return request


@dataclass(frozen=True)
class Answer:
    """What a client gets.

    Attributes:
        body: The bytes.
        cause: Why there are no maps, a key of `STATUS`; empty where they are.
        times_ms: Milliseconds by what they were spent on.
    """

    body: bytes
    cause: str = ""
    times_ms: Mapping[str, float] = field(default_factory=dict)

    @property
    def status(self) -> int:
        """The HTTP status."""
        return STATUS[self.cause] if self.cause else 200

    @property
    def headers(self) -> dict[str, str]:
        """What the body is, and the times as HTTP's Server-Timing has them."""
        timing = ", ".join(f"{name};dur={value:.3f}" for name, value in self.times_ms.items())
        kind = "application/json" if self.cause else "application/zip"
        return {"content-type": kind} | ({"server-timing": timing} if timing else {})


def refusal(cause: str, message: object) -> Answer:
    """Return an answer without maps.

    Args:
        cause: A key of `STATUS`.
        message: What people read.
    """
    return Answer(json.dumps({"error": {"cause": cause, "message": str(message)}}).encode(), cause)


def pack(maps: Maps, request: Request) -> bytes:
    """Return the maps that were asked for as one ZIP file, or as the ZIP file that an NPZ is.

    Equal maps give equal bytes.
    """
    arrays: dict[str, np.ndarray] = {}
    for name in request.tasks or tuple(maps):
        one = maps[name]
        is_whole = request.native and not one.spec.is_raw
        arrays[name] = one.at_image_size() if is_whole else np.asarray(one)
    buffer = io.BytesIO()
    if request.format == "npz":
        np.savez(buffer, **arrays)  # type: ignore[arg-type]
        return buffer.getvalue()
    with zipfile.ZipFile(buffer, "w") as archive:  # stored, because PNG files are compressed
        for name, array in arrays.items():
            spec = maps[name].spec
            # A `ZipInfo` of its own has no time of day.
            member = zipfile.ZipInfo(f"{name}.{encoding(spec)}")
            archive.writestr(member, encode(array, spec, PNG_LEVEL))
    return buffer.getvalue()


def describe_network(network: NetworkSpec) -> dict[str, Any]:
    """Return what clients may want to know of a network, as plain values."""
    tasks = {
        task.name: {"unit": task.unit, "classes": task.classes, "file": encoding(task)}
        for task in network.tasks
    }
    size = {"height": network.height, "width": network.width, "batch": network.batch}
    return {"model": network.model, **size, "tasks": tasks}

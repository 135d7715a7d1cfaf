"""How large things may be that are read from files, so that a file costs no more than it may.

Each limit is far above what real networks need. `DEGMIX_LIMITS` raises one on a machine that needs
more: `DEGMIX_LIMITS=image_pixels=400000000,side=16384`.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from dataclasses import dataclass
from typing import Annotated

from pydantic import AfterValidator, Field

from degmix_edge.errors import ConfigError, DegmixError
from degmix_edge.registry import unknown

VARIABLE = "DEGMIX_LIMITS"


@dataclass(frozen=True)
class Limits:
    """The largest values that are accepted.

    Attributes:
        file_bytes: Bytes of one file of a bundle, such as an engine.
        text_bytes: Bytes of a manifest, a recipe, ranges, or a file of settings.
        depth: Levels of nesting in JSON and YAML.
        side: Height or width in pixels of a network's input.
        image_pixels: Pixels of an image that is read from a file.
    """

    file_bytes: int = 4 << 30
    text_bytes: int = 16 << 20
    depth: int = 64
    side: int = 8192
    image_pixels: int = 128 << 20


def limits() -> Limits:
    """Return the limits, with those that `DEGMIX_LIMITS` changes.

    Raises:
        ConfigError: The variable names no limit, or a value that is no positive whole number.
    """
    return _parsed(os.environ.get(VARIABLE, ""))


def check_limit(name: str, value: int, what: str, error: type[DegmixError] = ConfigError) -> None:
    """Check that `value` is not above the limit `name`.

    Args:
        name: A field of `Limits`.
        value: What was found.
        what: The thing that has the value, for the message.
        error: The class of the error to raise.

    Raises:
        DegmixError: It is above; the message says how to raise the limit.
    """
    most = getattr(limits(), name)
    if value > most:
        raise error(
            f"{what}: {name} {value:,}, expected at most {most:,}; if that is no mistake, set "
            f"{VARIABLE}={name}={value}"
        )


def _side(value: int) -> int:
    if value > limits().side:  # a ValueError, as pydantic wants it
        raise ValueError(f"{value} pixels, expected at most {limits().side}; see {VARIABLE}")
    return value


Side = Annotated[int, Field(gt=0), AfterValidator(_side)]
"""Height or width of a network's input in pixels."""


@functools.lru_cache
def _parsed(text: str) -> Limits:
    names = [field.name for field in dataclasses.fields(Limits)]
    changed = {}
    for item in filter(None, (part.strip() for part in text.split(","))):
        name, _, number = item.partition("=")
        if name not in names:
            raise ConfigError(f"{VARIABLE}: " + unknown("limit", name, names))
        if not (number.isascii() and number.isdigit() and int(number) > 0):
            raise ConfigError(f"{VARIABLE}: {item!r}: expected {name}=N with N from 1")
        changed[name] = int(number)
    return Limits(**changed)

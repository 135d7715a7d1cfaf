"""What every source checks before it opens: its options, and the packages that it needs."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import re

from degmix_edge.capture._base import SourceOptions
from degmix_edge.errors import ConfigError


def is_path(text: str) -> bool:
    """Return whether a text may be a path: nothing like `http:` or `gst:` is in front of it."""
    return re.match(r"\w+:", text) is None


def only(options: SourceOptions, source: str, *fields: str) -> None:
    """Check that `options` sets no other fields than these, and that their values make sense.

    Raises:
        ConfigError: An option does not fit the source, or its value is out of range.
    """
    for field in dataclasses.fields(SourceOptions):
        value = getattr(options, field.name)
        if field.name not in fields and value != field.default:
            takes = f"takes {', '.join(fields)}" if fields else "takes no options"
            raise ConfigError(f"{source}: {field.name} {value!r}: this kind of source {takes}")
    rate, size = options.rate_hz, options.size
    if rate is not None and not (math.isfinite(rate) and rate > 0):
        raise ConfigError(f"{source}: rate_hz {rate!r}, expected frames a second above 0")
    if size is not None and (len(size) != 2 or min(size) < 1):
        raise ConfigError(f"{source}: size {size!r}, expected a height and a width from 1 pixel")


def need(module: str, extra: str, source: str) -> None:
    """Check that a package is installed that only some kinds of source need.

    Raises:
        ConfigError: It is not; the message names the extra that brings it.
    """
    if importlib.util.find_spec(module) is None:
        raise ConfigError(
            f"{source}: this kind of source needs {module}: pip install 'degmix-edge[{extra}]'"
        )

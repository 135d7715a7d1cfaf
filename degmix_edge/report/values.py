"""Write results as JSON, including pydantic settings, dataclasses, numpy numbers and paths."""

from __future__ import annotations

import json
from dataclasses import asdict, is_dataclass
from typing import Any


def json_text(values: Any) -> str:
    """Return `values` as indented JSON; `plain` converts what JSON does not support."""
    return json.dumps(values, indent=1, default=plain)


def plain(value: Any) -> Any:
    """Convert an object that `json` does not support to plain values."""
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if is_dataclass(value) and not isinstance(value, type):
        return asdict(value)
    if hasattr(value, "item"):
        return value.item()
    return str(value)

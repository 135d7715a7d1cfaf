"""The specification of a tensor, and the check that an array fits it."""

from __future__ import annotations

from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict

from degmix_edge.errors import ShapeError


class TensorSpec(BaseModel):
    """Name, dtype, shape and unit of one input or output; `None` in the shape allows any size."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    unit: str = ""

    def __str__(self) -> str:
        """Return a text such as `depth float32 (1, 192, 256) [m]`."""
        dims = ", ".join("*" if d is None else str(d) for d in self.shape)
        return f"{self.name} {self.dtype} ({dims})" + (f" [{self.unit}]" if self.unit else "")


def fill(array: np.ndarray, rows: int) -> np.ndarray:
    """Return `array` with `rows` rows: the last one is repeated where it has fewer."""
    missing = rows - len(array)
    if missing <= 0:
        return array
    return np.concatenate([array, *[array[-1:]] * missing])


def check(array: Any, spec: TensorSpec) -> np.ndarray:
    """Return `array` unchanged if it fits `spec`.

    Raises:
        ShapeError: It is not a numpy array, or its dtype or shape differs.
    """
    if not isinstance(array, np.ndarray):
        raise ShapeError(f"{spec.name}: got {type(array).__name__}, expected a numpy array: {spec}")
    fits = len(array.shape) == len(spec.shape) and all(
        side is None or got == side for got, side in zip(array.shape, spec.shape, strict=False)
    )
    if str(array.dtype) != spec.dtype or not fits:
        raise ShapeError(f"{spec.name}: got {array.dtype} {array.shape}, expected {spec}")
    return array

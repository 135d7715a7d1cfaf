"""How a network's output becomes a map: one entry a decode.

Each decode has three implementations, and tests check that they agree: the slow and obvious
reference in numpy is here, `passes/decode_tasks.py` builds it from ONNX nodes, and
`backends/torch_eager.py` uses torch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

DecodeName = Literal[
    "argmax",
    "labels",
    "foreground",
    "sigmoid",
    "identity",
    "clamp",
    "reciprocal",
    "exp",
    "standard_deviation",
    "unit_vector",
    "raw",
]
Values = Literal["labels", "numbers", "raw"]
"""What a pixel of a map has: a class index, one or more numbers; or the tensor is no map at all."""
EPSILON = 1e-6
"""Smallest length and smallest inverse depth that is divided by, so that zero gives no infinity."""


@dataclass(frozen=True)
class Decode:
    """From logits `(N, C, H, W)` to a map `(N, H, W)`, or `(N, H, W, C)` where C is kept.

    Attributes:
        run: The conversion, before a task's `scale`.
        meaning: What a value of the map is, in a sentence.
        channels: How many channels it takes; None is any number.
        values: What a pixel of the map has.
        keeps_channels: The map has channels last even where there is only one.
        is_regression: The values are quantities, which the last layer must not round to INT8.
        range: Lowest and highest value before the scale; None is unbounded.
    """

    run: Callable[[np.ndarray], np.ndarray]
    meaning: str
    channels: int | None = 1
    values: Values = "numbers"
    keeps_channels: bool = False
    is_regression: bool = True
    range: tuple[float | None, float | None] = (None, None)


def _argmax(logits: np.ndarray) -> np.ndarray:
    return np.asarray(np.argmax(logits, axis=1))


def _first(logits: np.ndarray) -> np.ndarray:
    return logits[:, 0]


def _foreground(logits: np.ndarray) -> np.ndarray:
    return np.asarray(1 / (1 + np.exp(logits[:, 0] - logits[:, 1])))


def _sigmoid(logits: np.ndarray) -> np.ndarray:
    return _last(1 / (1 + np.exp(-logits)))


def _last(logits: np.ndarray) -> np.ndarray:
    """Channels last, and no axis for a single one."""
    return logits[:, 0] if logits.shape[1] == 1 else np.moveaxis(logits, 1, -1)


def _clamp(logits: np.ndarray) -> np.ndarray:
    return np.asarray(np.maximum(logits[:, 0], 0))


def _reciprocal(logits: np.ndarray) -> np.ndarray:
    return np.asarray(1 / np.maximum(logits[:, 0], EPSILON))


def _exp(logits: np.ndarray) -> np.ndarray:
    return np.asarray(np.exp(logits[:, 0]))


def _standard_deviation(logits: np.ndarray) -> np.ndarray:
    return np.asarray(np.exp(0.5 * logits[:, 0]))


def _unit_vector(logits: np.ndarray) -> np.ndarray:
    length = np.sqrt(np.sum(logits * logits, axis=1, keepdims=True))
    return np.moveaxis(logits / np.maximum(length, EPSILON), 1, -1)


DECODES: dict[DecodeName, Decode] = {
    "argmax": Decode(
        _argmax,
        "The index of the class with the highest score; of equal scores, the lowest index.",
        channels=None,
        values="labels",
        is_regression=False,
    ),
    "labels": Decode(
        _first,
        "The index of the class, as the network gives it.",
        values="labels",
        is_regression=False,
    ),
    "foreground": Decode(
        _foreground,
        "A probability: the softmax of two scores, for background and foreground.",
        channels=2,
        is_regression=False,
        range=(0, 1),
    ),
    "sigmoid": Decode(
        _sigmoid, "A probability: the sigmoid of one score.", channels=None, range=(0, 1)
    ),
    "identity": Decode(_last, "The value as the network gives it.", channels=None),
    "clamp": Decode(
        _clamp, "Where the network gives less than zero, the value is zero.", range=(0, None)
    ),
    "reciprocal": Decode(_reciprocal, "One divided by what the network gives.", range=(0, None)),
    "exp": Decode(_exp, "The exponential of what the network gives.", range=(0, None)),
    "standard_deviation": Decode(
        _standard_deviation,
        "A standard deviation, from the logarithm of the variance.",
        range=(0, None),
    ),
    "unit_vector": Decode(
        _unit_vector,
        "A vector of length 1, with its components last.",
        channels=None,
        keeps_channels=True,
        range=(-1, 1),
    ),
    "raw": Decode(
        lambda tensor: tensor,
        "A tensor as the network gives it.",
        channels=None,
        values="raw",
        is_regression=False,
    ),
}

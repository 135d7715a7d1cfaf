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
        channels: How many channels it takes; None is any number.
        values: What a pixel of the map has.
        keeps_channels: The map has channels last even where there is only one.
        is_regression: The values are quantities, which the last layer must not round to INT8.
    """

    run: Callable[[np.ndarray], np.ndarray]
    channels: int | None = 1
    values: Values = "numbers"
    keeps_channels: bool = False
    is_regression: bool = True


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
    # The index of the largest channel and, of equal ones, the first.
    "argmax": Decode(_argmax, None, "labels", is_regression=False),
    # Class indices that the network gives itself.
    "labels": Decode(_first, 1, "labels", is_regression=False),
    # The second channel's probability by a softmax over two.
    "foreground": Decode(_foreground, 2, is_regression=False),
    # The probability of each channel by itself.
    "sigmoid": Decode(_sigmoid, None),
    # The values as they are.
    "identity": Decode(_last, None),
    # Negative values become zero.
    "clamp": Decode(_clamp),
    # Inverse depth becomes depth.
    "reciprocal": Decode(_reciprocal),
    # The logarithm of depth becomes depth.
    "exp": Decode(_exp),
    # The logarithm of a variance becomes a standard deviation.
    "standard_deviation": Decode(_standard_deviation),
    # Divided by its length.
    "unit_vector": Decode(_unit_vector, None, keeps_channels=True),
    # Any tensor, untouched.
    "raw": Decode(lambda tensor: tensor, None, "raw", is_regression=False),
}

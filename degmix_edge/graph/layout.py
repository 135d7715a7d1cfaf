"""Which axes of an image and of its maps hold the channels, in a file of another program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

CHANNELS = (1, 3)
"""Of an image: grey, or colours."""
TO_LAST, TO_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]
"""Permutations from `(N, C, H, W)` to `(N, H, W, C)` and back."""


def is_channels_last(shape: Sequence[Any]) -> bool:
    """Whether an input is `[N, H, W, C]`; sides that are not numbers are dynamic."""
    return len(shape) == 4 and shape[3] in CHANNELS and shape[1] not in CHANNELS


def has_last_channels(shape: Sequence[Any], image: Sequence[Any]) -> bool:
    """Whether an output of a network with a channels-last input has its channels last too.

    It has if its axes 1 and 2 are in proportion to the image and its axes 2 and 3 are not.

    Args:
        shape: The shape of the output.
        image: Height and width of the input.
    """
    if len(shape) != 4:
        return False
    height, width = image
    last = shape[1] * width == shape[2] * height
    first = shape[2] * width == shape[3] * height
    return last and not first

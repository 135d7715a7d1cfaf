"""Which axes of an image and of its maps hold the channels, in a file of another program."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

CHANNELS = (1, 3)
"""Of a picture: grey, or colours."""
TO_LAST, TO_FIRST = [0, 2, 3, 1], [0, 3, 1, 2]
"""Permutations from `(N, C, H, W)` to `(N, H, W, C)` and back."""


def is_channels_last(shape: Sequence[Any]) -> bool:
    """Whether an input is `[N, H, W, C]`; sides that are not numbers are dynamic.

    Where neither axis has the channels of a picture, the smaller one has those of a map.
    """
    if len(shape) != 4:
        return False
    _, first, second, last = (side if isinstance(side, int) else 0 for side in shape)
    if {first, last} & {*CHANNELS}:
        return last in CHANNELS and first not in CHANNELS
    return last > 0 and (last < first if first else not second)


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

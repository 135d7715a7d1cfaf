"""Class colours under simulated colour-blindness, and the two families."""

import numpy as np
import pytest
from skimage.color import deltaE_cie76, deltaE_ciede2000, rgb2lab

from degmix_edge import tasks
from degmix_edge.tasks._palette import OBJECTS, PARTS

# Machado, Oliveira and Fernandes 2009, severity 1, on linear RGB.
VISIONS = {
    "normal": ((1, 0, 0), (0, 1, 0), (0, 0, 1)),
    "protanopia": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deuteranopia": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
    "tritanopia": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.303900),
    ),
}
BACKGROUND = (0, 0, 0)


def seen(colours, vision: str) -> np.ndarray:
    """CIELAB of the colours as eyes of this kind see them."""
    share = np.array(colours, float) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    linear = (linear @ np.array(VISIONS[vision]).T).clip(0, 1)
    shown = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return rgb2lab(shown[None])[0]


def smallest(colours, others, vision: str, measure=deltaE_cie76) -> float:
    """The smallest distance between a colour and another one, or one of `others`."""
    first = seen(colours, vision)
    second = first if others is None else seen(others, vision)
    distances = measure(first[:, None], second[None])
    if others is None:
        np.fill_diagonal(distances, np.inf)
    return float(distances.min())


@pytest.mark.parametrize("vision", VISIONS)
@pytest.mark.parametrize("count", [2, 7, 10, 20])
def test_up_to_twenty_classes_can_be_told_apart(count, vision):
    with_background = tasks.palette(["background", *map(str, range(count - 1))])
    for colours in (tasks.palette(list(map(str, range(count)))), with_background):
        assert len(set(colours)) == count
        assert smallest(colours, None, vision) >= 15
        assert smallest(colours, None, vision, deltaE_ciede2000) >= 12


@pytest.mark.parametrize("vision", VISIONS)
def test_parts_are_of_another_family(vision):
    parts = tasks.find("human_parts").spec().palette
    objects = tasks.find("semseg").spec(list(map(str, range(20)))).palette
    assert smallest(parts, None, vision) >= 15
    assert smallest(parts[1:], objects, vision) >= 13
    assert not set(PARTS) & set(OBJECTS)


def test_the_old_colours_fail_this_test():
    """Of golden-angle hues, which the first release used, some look the same."""
    old = [tuple(255 * c for c in colour) for colour in golden_angle(20)]
    assert min(smallest(old, None, vision) for vision in VISIONS) < 5


def golden_angle(count: int):
    import colorsys

    for index in range(count):
        value = (0.95, 0.7, 0.5)[index % 3]
        yield colorsys.hsv_to_rgb((index * 0.61803398875) % 1.0, 0.65, value)


@pytest.mark.parametrize("family", ["objects", "parts"])
def test_the_same_class_always_has_the_same_colour(family):
    long = tasks.palette(list(map(str, range(150))), family)
    assert tasks.palette(list("abcde"), family) == long[:5]
    assert tasks.palette(["background", "a", "b"], family) == (BACKGROUND, *long[:2])
    assert len(set(long)) > 100
    assert BACKGROUND not in long

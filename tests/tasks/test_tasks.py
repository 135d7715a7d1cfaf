"""Task specs, decodes and colours."""

import numpy as np
import pytest
from conftest import task_specs

from degmix_edge import tasks
from degmix_edge.errors import ConfigError
from degmix_edge.tasks import DECODES, colour, decode

RNG = np.random.default_rng(0)
CHANNELS = {"argmax": 5, "foreground": 2, "sigmoid": 1, "clamp": 1, "unit_vector": 3}


def slow(pixel: np.ndarray, kind: str):
    """One pixel's logits, written out."""
    if kind == "argmax":
        return max(range(len(pixel)), key=lambda i: pixel[i])
    if kind == "foreground":
        powers = [np.exp(v) for v in pixel]
        return powers[1] / sum(powers)
    if kind == "sigmoid":
        return 1 / (1 + np.exp(-pixel[0]))
    if kind == "clamp":
        return pixel[0] if pixel[0] > 0 else 0.0
    return pixel / sum(v * v for v in pixel) ** 0.5


@pytest.mark.parametrize("kind", DECODES)
def test_decode_equals_a_loop(kind):
    logits = RNG.normal(size=(2, CHANNELS[kind], 3, 4))
    got = decode(logits, kind)
    for n, y, x in np.ndindex(2, 3, 4):
        np.testing.assert_allclose(got[n, y, x], slow(logits[n, :, y, x], kind), rtol=1e-6)


def test_a_zero_vector_stays_zero():
    assert not np.isnan(decode(np.zeros((1, 3, 1, 1), np.float32), "unit_vector")).any()


def test_specs_say_dtype_shape_and_unit():
    specs = task_specs()
    assert str(specs["depth"].map_spec(4, 6)) == "depth float32 (1, 4, 6) [m]"
    assert specs["normals"].map_spec(4, 6).shape == (1, 4, 6, 3)
    assert specs["semseg"].map_spec(4, 6).dtype == "uint8"
    assert specs["semseg"].logits_spec(4, 6).shape == (1, 10, 4, 6)


def test_classes_are_needed_where_the_data_set_has_them():
    with pytest.raises(ConfigError, match="semseg.*expected at least 2"):
        tasks.find("semseg").spec()
    assert len(tasks.find("human_parts").spec().classes) == 7


def test_palette_is_distinct_and_background_is_black():
    colours = tasks.palette(["background", *map(str, range(39))])
    assert len(set(colours)) == 40
    assert colours[0] == (0, 0, 0)
    assert tasks.palette(list("abc"))[0] != (0, 0, 0)


@pytest.mark.parametrize("name", tasks.names())
def test_colour_is_an_rgb_picture(name):
    spec = task_specs()[name]
    want = spec.map_spec(5, 7)
    array = np.zeros(want.shape[1:], want.dtype)
    picture = colour(array, spec)
    assert picture.shape == (5, 7, 3)
    assert picture.dtype == np.uint8


def test_depth_colours_share_a_limit():
    spec = task_specs()["depth"]
    near, far = (colour(np.full((1, 1), d, np.float32), spec, limit=6.0) for d in (1.0, 5.0))
    assert (near != far).any()
    assert (
        colour(np.full((1, 1), 9.0, np.float32), spec, 6.0)
        == colour(np.full((1, 1), 6.0, np.float32), spec, 6.0)
    ).all()


def test_ignored_labels_are_black():
    spec = task_specs()["semseg"]
    assert (colour(np.full((1, 1), 255, np.uint8), spec) == 0).all()

"""Task specs, decodes and colours."""

import numpy as np
import onnx_graphsurgeon as gs
import pytest
import torch
from conftest import task_specs
from pydantic import ValidationError

from degmix_edge import ort, tasks
from degmix_edge.backends.onnx_reference import _at_size
from degmix_edge.backends.torch_eager import _decode
from degmix_edge.errors import ConfigError
from degmix_edge.graph.model import to_model
from degmix_edge.network import NetworkSpec, Source
from degmix_edge.passes.decode_tasks import DecodeTasks
from degmix_edge.tasks import DECODES, TaskSpec, colour, decode

RNG = np.random.default_rng(0)
CHANNELS = {
    "argmax": (5, 300),
    "sigmoid": (1, 4),
    "identity": (1, 2, 3, 6),
    "unit_vector": (2, 3, 5),
}


def spec_of(kind: str, channels: int, **more) -> TaskSpec:
    if kind == "labels":
        channels = 7
    if kind == "raw":
        more |= {"shape": (2, 3), "dtype": "float32"}
    return TaskSpec(
        name="x", decode=kind, num_channels=channels, unit="", metric="mean_error", **more
    )


EVERY = [
    spec_of(kind, channels)
    for kind, decode in DECODES.items()
    for channels in CHANNELS.get(kind, (decode.channels or 1,))
]
SCALED = [spec_of(kind, 1, scale=2.5) for kind in ("sigmoid", "identity", "clamp", "exp")]


def slow(pixel: np.ndarray, kind: str):
    """One pixel's logits, written out."""
    if kind == "argmax":
        return max(range(len(pixel)), key=lambda i: pixel[i])
    if kind == "foreground":
        powers = [np.exp(v) for v in pixel]
        return powers[1] / sum(powers)
    if kind == "unit_vector":
        return pixel / sum(v * v for v in pixel) ** 0.5
    each = {
        "labels": lambda v: v,
        "sigmoid": lambda v: 1 / (1 + np.exp(-v)),
        "identity": lambda v: v,
        "clamp": lambda v: v if v > 0 else 0.0,
        "reciprocal": lambda v: 1 / v if v > 1e-6 else 1e6,
        "exp": np.exp,
        "standard_deviation": lambda v: np.exp(v) ** 0.5,
    }
    values = [each[kind](v) for v in pixel]
    return values[0] if len(values) == 1 else values


def logits_of(spec: TaskSpec, size=(3, 4)) -> np.ndarray:
    shape = (2, spec.logits_channels, *size)
    if spec.decode == "labels":
        return RNG.integers(0, 7, shape)
    return RNG.normal(size=shape).astype(np.float32)


def by_label(spec: TaskSpec) -> str:
    return f"{spec.decode}-{spec.num_channels}-{spec.scale:g}"


@pytest.mark.parametrize("spec", [s for s in EVERY + SCALED if not s.is_raw], ids=by_label)
def test_decode_equals_a_loop(spec):
    logits = logits_of(spec)
    got = decode(logits, spec)
    want = spec.map_spec(3, 4, batch=2)
    assert (got.shape, str(got.dtype)) == (want.shape, want.dtype)
    for n, y, x in np.ndindex(2, 3, 4):
        expected = np.multiply(slow(logits[n, :, y, x].astype(float), spec.decode), spec.scale)
        np.testing.assert_allclose(got[n, y, x], expected, rtol=2e-5)


@pytest.mark.parametrize("spec", [s for s in EVERY + SCALED if not s.is_raw], ids=by_label)
@pytest.mark.parametrize("stride", [1, 2])
def test_the_graph_and_torch_decode_as_numpy_does(spec, stride):
    """Logits of half the size, which are resized at stride 1."""
    spec = spec.model_copy(update={"stride": stride})
    logits = logits_of(spec, (4, 6))
    source = Source(name="x", sha256="0" * 64)
    network = NetworkSpec(model="x", height=8, width=12, tasks=(spec,), source=source)
    tensor = gs.Variable("x", logits.dtype, logits.shape)
    given = gs.Variable("given", logits.dtype, logits.shape)
    copy = gs.Node("Identity", "copy", inputs=[given], outputs=[tensor])
    graph = gs.Graph([copy], [given], [tensor], opset=20)
    assert DecodeTasks(network).run(graph) == 1
    (got,) = ort.cpu_session(to_model(graph, {}).SerializeToString()).run(None, {"given": logits})
    whole = _at_size(logits, *spec.sides(8, 12), spec)
    want = decode(whole, spec)
    assert (got.shape, got.dtype) == (want.shape, want.dtype)
    np.testing.assert_allclose(got, want, rtol=2e-5, atol=1e-6)
    by_torch = _decode(torch.from_numpy(np.ascontiguousarray(whole)), spec).numpy()
    assert by_torch.dtype == want.dtype
    np.testing.assert_allclose(by_torch, want, rtol=2e-5, atol=1e-6)


def test_a_zero_vector_stays_zero():
    spec = spec_of("unit_vector", 3)
    assert not np.isnan(decode(np.zeros((1, 3, 1, 1), np.float32), spec)).any()


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"decode": "clamp", "num_channels": 2}, "2 channels, clamp takes 1"),
        ({"decode": "argmax", "num_channels": 65536}, "expected at most 65535"),
        ({"decode": "argmax", "num_channels": 4, "scale": 2}, "argmax has no scale"),
        ({"decode": "raw", "num_channels": 1}, "only raw has a shape and a dtype"),
        ({"decode": "clamp", "num_channels": 1, "dtype": "int64"}, "only raw has a shape"),
        ({"decode": "sigmoid", "num_channels": 2, "channels": (1, 2)}, "expected 2 of them"),
        ({"decode": "clamp", "num_channels": 1, "scale": float("inf")}, "scale"),
        ({"decode": "clamp", "num_channels": 1, "stride": 0}, "stride"),
    ],
)
def test_specs_that_contradict_themselves(values, message):
    with pytest.raises(ValidationError, match=message):
        TaskSpec(name="x", unit="", metric="mean_error", **values)


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
def test_every_task_has_a_spec(name):
    task = tasks.find(name)
    needs_classes = task.num_channels is None and task.decode == "argmax"
    if task.decode != "raw":
        spec = task.spec(("floor", "wall") if needs_classes else ())
        assert spec.name == name
        assert spec.logits_channels == (2 if needs_classes else task.num_channels or 1) or (
            task.classes
        )


@pytest.mark.parametrize("spec", EVERY, ids=by_label)
def test_colour_is_an_rgb_picture(spec):
    want = spec.map_spec(5, 7)
    array = RNG.uniform(0, 3, want.shape[1:]).astype(want.dtype)
    if spec.is_raw:
        with pytest.raises(ConfigError, match="is a raw tensor float32"):
            colour(array, spec)
        return
    for values in (array, np.zeros_like(array)):
        picture = colour(values, spec)
        assert picture.shape == (5, 7, 3)
        assert picture.dtype == np.uint8


def test_flow_to_the_right_is_red_and_none_is_white():
    spec = spec_of("identity", 2)
    flow = np.array([[[4.0, 0], [0, 0], [0, 4.0]]], np.float32)
    picture = colour(flow, spec, limit=4.0)
    assert picture[0, 0].tolist() == [255, 0, 0]
    assert picture[0, 1].tolist() == [255, 255, 255]
    assert picture[0, 2].tolist() != picture[0, 0].tolist()


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


@pytest.mark.parametrize("spec", [s for s in EVERY if not (s.is_raw or s.has_labels)], ids=repr)
def test_pixels_without_a_value_are_black_and_change_no_other(spec):
    values = RNG.random((6, 8, *([spec.components] if spec.components else [])), np.float32)
    holed = np.pad(values, [(2, 0), (0, 3), (0, 0)][: values.ndim], constant_values=np.nan)
    picture = colour(holed, spec)
    np.testing.assert_array_equal(
        picture[2:, :-3].reshape(-1, 3), colour(values, spec).reshape(-1, 3)
    )
    assert not picture[:2].any()
    assert not picture[:, -3:].any()
    assert not colour(np.full_like(values, np.nan), spec).any()


@pytest.mark.parametrize(("classes", "unseen"), [(255, 255), (256, 65535), (300, 65535)])
def test_labels_without_a_class_are_black(classes, unseen):
    spec = spec_of("argmax", classes)
    picture = colour(np.array([[0, classes - 1, unseen]]), spec)
    assert picture[0, :2].any(-1).all()
    assert not picture[0, 2].any()

"""Every kind of output, described in a spec.yaml: built, proved against the file, and shown."""

import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
import yaml
from onnx import helper, numpy_helper
from PIL import Image

import degmix_edge
from degmix_edge.errors import ConfigError
from degmix_edge.workflows.compare import compare

HEIGHT, WIDTH = 48, 64
SPEC = {
    "model": "robot_eyes",
    "input": {"color": "bgr", "mean": [103.9, 116.8, 123.7], "std": [57.4, 57.1, 58.4]}
    | {"scale": 255, "fit": "stretch"},
    "tasks": {
        "semseg": {"output": "seg_out", "classes": ["road", "kerb", "wall", "sky", "robot"]},
        "lanes": {"output": "lane_logit", "kind": "mask"},
        "terrain": {"output": "tags", "kind": "multi_label", "classes": ["wet", "soft", "steep"]},
        "depth": {"output": "log_depth_and_variance", "kind": "log_depth", "channels": [0, 1]},
        "depth_deviation": {"output": "log_depth_and_variance", "kind": "uncertainty"}
        | {"channels": [1, 2], "unit": "log m"},
        "stereo": {"output": "disparity", "kind": "inverse_depth", "scale": 0.5},
        "flow": {"output": "flow_out", "stride": 4},
        "centres": {"output": "heat", "kind": "heatmap", "classes": ["car", "person"]},
        "embedding": {"output": "features", "stride": 4, "channels_last": True},
        "parts": {"output": "part_ids", "kind": "human_parts", "classes": 4},
        "trust": {"output": "trust", "kind": "confidence", "decode": "identity"},
        "boxes": {"output": "boxes", "kind": "raw", "unit": "px"},
        "best": {"output": "best", "kind": "raw"},
    },
}
OUTPUTS = {
    **{"seg_out": (5, 2), "lane_logit": (1, 1), "tags": (3, 1), "log_depth_and_variance": (2, 1)},
    **{"disparity": (1, 2), "flow_out": (2, 4), "heat": (2, 4), "features_first": (8, 4)},
    **{"parts_first": (4, 2), "trust_logit": (1, 1), "boxes_first": (4, 8)},
}


def network() -> onnx.ModelProto:
    """A stem, a convolution for each output, and what makes other kinds of some."""
    random = np.random.default_rng(3)
    stem = random.normal(size=(6, 3, 3, 3)).astype("f4") / 5
    weights = [numpy_helper.from_array(stem, "w.stem")]
    nodes = [
        helper.make_node("Conv", ["pixels", "w.stem"], ["stem"], pads=[1] * 4),
        helper.make_node("Relu", ["stem"], ["seen"]),
    ]
    for name, (channels, stride) in OUTPUTS.items():
        weight = random.normal(size=(channels, 6, 3, 3)).astype("f4") / 7
        weights.append(numpy_helper.from_array(weight, f"w.{name}"))
        attrs = {"pads": [1] * 4, "strides": [stride] * 2}
        nodes.append(helper.make_node("Conv", ["seen", f"w.{name}"], [name], **attrs))
    shape = numpy_helper.from_array(np.array([1, -1, 4]), "shape")
    nodes += [
        helper.make_node("Transpose", ["features_first"], ["features"], perm=[0, 2, 3, 1]),
        helper.make_node("ArgMax", ["parts_first"], ["part_ids"], axis=1, keepdims=0),
        helper.make_node("Sigmoid", ["trust_logit"], ["trust"]),
        helper.make_node("Transpose", ["boxes_first"], ["boxes_last"], perm=[0, 2, 3, 1]),
        helper.make_node("Reshape", ["boxes_last", "shape"], ["boxes"]),
        helper.make_node("ArgMax", ["boxes"], ["best"], axis=1, keepdims=0),
    ]
    quarter = [HEIGHT // 4, WIDTH // 4]
    shapes = {
        name: [1, channels, HEIGHT // stride, WIDTH // stride]
        for name, (channels, stride) in OUTPUTS.items()
        if not name.endswith(("_first", "trust_logit"))
    }
    shapes |= {"features": [1, *quarter, 8], "trust": [1, 1, HEIGHT, WIDTH], "boxes": [1, 48, 4]}
    infos = [helper.make_tensor_value_info(name, 1, shape) for name, shape in shapes.items()]
    infos += [helper.make_tensor_value_info("part_ids", 7, [1, HEIGHT // 2, WIDTH // 2])]
    infos += [helper.make_tensor_value_info("best", 7, [1, 4])]
    image = helper.make_tensor_value_info("pixels", 1, [1, 3, HEIGHT, WIDTH])
    graph = helper.make_graph(nodes, "eyes", [image], infos, [*weights, shape])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.fixture
def here(tmp_path, monkeypatch, pictures):
    onnx.save(network(), tmp_path / "eyes.onnx")
    write_spec(SPEC, tmp_path)
    (tmp_path / "photos").mkdir()
    for index, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / "photos" / f"{index}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_spec(spec, folder) -> None:
    (folder / "spec.yaml").write_text(yaml.safe_dump(spec, sort_keys=False))


@pytest.fixture
def bundle(here):
    return degmix_edge.build("eyes.onnx", "eyes.degmix", precision="fp32", spec="spec.yaml")


def test_every_kind_is_proved_against_the_file(here, bundle):
    found = compare(bundle, "eyes.onnx", data="photos", max_disagreement=1e-4)
    assert found.passed, found.verdict
    assert set(found.tasks) == set(SPEC["tasks"])
    logits = [t for t in found.tensors if t.equal is None]
    assert max(tensor.relative for tensor in logits) < 1e-5
    assert {t.name for t in found.tensors if t.equal is not None} == {"semseg", "parts", "best"}


def test_maps_have_their_own_shapes_units_and_classes(here, bundle):
    spec = bundle.manifest.network
    assert (spec.model, spec.color, bundle.manifest.fit.mode) == ("robot_eyes", "bgr", "stretch")
    with degmix_edge.load(bundle) as session:
        maps = session("photos/0.png")
    shapes = {name: (m.shape, str(m.dtype)) for name, m in maps.items()}
    whole, quarter = (HEIGHT, WIDTH), (HEIGHT // 4, WIDTH // 4)
    assert shapes == {
        **{"semseg": (whole, "uint8"), "parts": (whole, "uint8")},
        **{"lanes": (whole, "float32"), "terrain": ((*whole, 3), "float32")},
        **{"depth": (whole, "float32"), "depth_deviation": (whole, "float32")},
        **{"stereo": (whole, "float32"), "flow": ((*quarter, 2), "float32")},
        **{"centres": ((*whole, 2), "float32"), "embedding": ((*quarter, 8), "float32")},
        **{"trust": (whole, "float32"), "boxes": ((48, 4), "float32"), "best": ((4,), "int64")},
    }
    assert maps["terrain"].classes == ("wet", "soft", "steep")
    assert (maps["boxes"].unit, maps["flow"].unit) == ("px", "px, x right, y down")
    assert maps["parts"].max() < 4
    np.testing.assert_allclose(np.linalg.norm(maps["embedding"], axis=-1), 1, rtol=1e-5)
    assert maps["flow"].at_image_size().shape[:2] == Image.open("photos/0.png").size[::-1]


def test_pictures_legends_and_files(here, bundle):
    with degmix_edge.load(bundle) as session:
        maps = session("photos/0.png")
    for one in maps.values():
        if one.spec.is_raw:
            with pytest.raises(ConfigError, match="is a raw tensor"):
                one.colour()
        else:
            for picture in (one.colour(), one.legend(), one.overlay("photos/0.png")):
                assert picture.dtype == np.uint8
                assert picture.shape[2] == 3
    files = maps.save("out", native=True)
    pictures = {path.name.split(".")[1] for path in files[:-1]}
    assert pictures == {
        *("semseg", "lanes", "depth", "depth_deviation", "stereo", "parts"),
    }
    saved = np.load(files[-1])
    np.testing.assert_array_equal(saved["boxes"], maps["boxes"])


def test_the_command_line_takes_the_spec_and_says_what_it_assumes(here, cli):
    command = ("build", "engine", "eyes.onnx", "--precision", "int8", "--calib", "photos")
    code, out, err = cli(*command, "--spec", "spec.yaml", "--out", "x.degmix", "--json")
    assert code == 0, err
    assert json.loads(out)["tasks"] == list(SPEC["tasks"])
    said = " ".join(err.split())
    assert "bgr 48x64, 0..255 minus 103.9 116.8 123.7 by 57.4 57.1 58.4, stretch" in said
    assert "parts: labels of part_ids, 4 classes [class]" in said
    code, _, err = cli("run", "x.degmix", "photos/0.png", "--out", "maps")
    assert code == 0, err
    code, _, err = cli("verify", "x.degmix")
    assert code == 0, err


def test_flags_override_the_spec(here):
    built = degmix_edge.build(
        "eyes.onnx", "x.degmix", precision="fp32", spec="spec.yaml", color="rgb", mode="letterbox"
    )
    assert (built.manifest.network.color, built.manifest.fit.mode) == ("rgb", "letterbox")


def test_a_spec_inside_the_file(here):
    model = network()
    onnx.helper.set_model_props(model, {"degmix.spec": yaml.safe_dump(SPEC, sort_keys=False)})
    built = degmix_edge.build(model, "x.degmix", precision="fp32")
    assert built.manifest.network.model == "robot_eyes"
    assert built.manifest.network.task_names == tuple(SPEC["tasks"])


@pytest.mark.parametrize(
    ("task", "entry", "message"),
    [
        ("semseg", {"output": "seg"}, "task 'semseg': no output 'seg'.*Did you mean 'seg_out'"),
        ("semseg", {"classes": ["a", "b"]}, r"seg_out .* has 5 channels, argmax takes 2"),
        ("lanes", {"kind": "lane"}, "no task 'lane'"),
        ("lanes", {"kind": None}, "task 'lanes': say of what kind it is"),
        ("lanes", {"decode": "argmin"}, "decode"),
        ("depth", {"channels": [1, 3]}, r"channels 1\.\.3, the output .* has 2"),
        ("depth", {"channels": None}, "has 2 channels, exp takes 1"),
        (
            "embedding",
            {"channels_last": False},
            "a map of 16x8, other proportions .* channels_last: true swaps",
        ),
        (
            "parts",
            {"classes": None, "kind": "semseg"},
            r"class indices; say how many \(classes: 19",
        ),
        ("trust", {"metric": "iou"}, "no metric 'iou'"),
        ("trust", {"colours": 3}, "no setting '.*colours'"),
        ("boxes", {"kind": "depth"}, r"is a map of 48x4, other proportions .* `kind: raw`"),
    ],
)
def test_a_spec_that_contradicts_the_graph(here, task, entry, message):
    tasks = {**SPEC["tasks"], task: {**SPEC["tasks"][task], **entry}}
    write_spec({**SPEC, "tasks": tasks}, here)
    with pytest.raises(degmix_edge.errors.DegmixError, match=message):
        degmix_edge.build("eyes.onnx", "x.degmix", precision="fp32", spec="spec.yaml")
    assert not (here / "x.degmix").exists()


@pytest.mark.parametrize(
    ("image", "message"),
    [
        ({"tensor": "image"}, "no input 'image'"),
        ({"height": 64}, "height 64, the input .* has 48"),
        ({"color": "grey", "mean": 0, "std": 1}, "has 3 channels, color grey has 1"),
        ({"color": None}, "give color too"),
        ({"scale": 1}, "look like 0..255, and scale is 1"),
        ({"fit": "tile"}, "fit"),
        ({"pad": [300, 0, 0]}, "pad"),
    ],
)
def test_an_input_that_contradicts_the_graph(here, image, message):
    write_spec({**SPEC, "input": {**SPEC["input"], **image}}, here)
    with pytest.raises(degmix_edge.errors.DegmixError, match=message):
        degmix_edge.build("eyes.onnx", "x.degmix", precision="fp32", spec="spec.yaml")


def test_the_contract_and_the_emitted_script_know_every_kind(here, bundle, cli):
    code, out, err = cli("inspect", "eyes.degmix", "--json")
    assert code == 0, err
    kinds = {o["name"]: o["kind"] for o in json.loads(out)["contract"]["outputs"]}
    assert kinds == {
        **{"semseg": "class", "parts": "class", "lanes": "probability", "trust": "numbers"},
        **{"terrain": "numbers", "depth": "measure", "depth_deviation": "measure"},
        **{"stereo": "numbers", "flow": "numbers", "centres": "numbers", "embedding": "numbers"},
        **{"boxes": "numbers", "best": "numbers"},
    }
    code, _, err = cli("emit", "python", "eyes.degmix", "--out", "script")
    assert code == 0, err
    command = [sys.executable, "-I", "script/run.py", "photos/0.png", "--out", "theirs"]
    subprocess.run(command, check=True, capture_output=True, text=True)
    theirs = np.load("theirs/0.npz")
    with degmix_edge.load(bundle) as session:
        ours = session("photos/0.png")
    assert set(theirs) == set(ours)
    for name, array in ours.items():
        np.testing.assert_allclose(theirs[name], np.asarray(array), rtol=1e-3, atol=1e-4)
    for target in ("triton", "isaac", "deepstream", "cpp"):
        code, _, err = cli("emit", target, "eyes.degmix", "--out", target)
        assert code == 0, err


def test_a_budget_holds_for_every_kind(here):
    found = degmix_edge.quantize(
        "eyes.onnx",
        spec="spec.yaml",
        calibration="photos",
        budget="5%",
        examples="photos",
        device="orin-agx",
    )
    used = {name: task["used"] for name, task in found.budget.values()["tasks"].items()}
    assert set(used) == set(SPEC["tasks"])
    assert 0 < max(used.values()) <= 1

"""ONNX files of other programs: their input is asked for, and they are compared with themselves."""

import json

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper
from PIL import Image

import degmix_edge
from degmix_edge.errors import BuildError, CheckpointError, ConfigError
from degmix_edge.network import Normalisation
from degmix_edge.preprocess import normalise
from degmix_edge.workflows.bench import bench
from degmix_edge.workflows.compare import compare

HEIGHT, WIDTH = 48, 64
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "color": "rgb"}
BYTES = {"mean": (103.9, 116.8, 123.7), "std": (57.4, 57.1, 58.4), "scale": 255, "color": "bgr"}
PLAIN = {"mean": (0, 0, 0), "std": (1, 1, 1), "scale": 255, "color": "rgb"}


def foreign(seed: int = 0) -> onnx.ModelProto:
    """Two convolutions with a head at half size and one at full size, and no word of ours."""
    random = np.random.default_rng(seed)

    def weight(name, shape):
        scale = 1 / np.sqrt(np.prod(shape[1:]))
        return numpy_helper.from_array((scale * random.normal(size=shape)).astype("f4"), name)

    nodes = [
        helper.make_node("Conv", ["input.1", "w0"], ["a"], pads=[1] * 4, strides=[2, 2]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Conv", ["b", "w1"], ["semseg"]),
        helper.make_node("Conv", ["input.1", "w2"], ["depth"], pads=[1] * 4),
    ]
    weights = [weight("w0", (8, 3, 3, 3)), weight("w1", (5, 8, 1, 1)), weight("w2", (1, 3, 3, 3))]
    far = np.abs(numpy_helper.to_array(weights[2]))  # so that it is not clamped at zero everywhere
    weights[2] = numpy_helper.from_array(far, "w2")
    image = helper.make_tensor_value_info("input.1", 1, [1, 3, HEIGHT, WIDTH])
    semseg = helper.make_tensor_value_info("semseg", 1, [1, 5, HEIGHT // 2, WIDTH // 2])
    depth = helper.make_tensor_value_info("depth", 1, [1, 1, HEIGHT, WIDTH])
    graph = helper.make_graph(nodes, "theirs", [image], [semseg, depth], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.fixture
def here(tmp_path, monkeypatch, pictures):
    """A folder with the file and photographs; tests run in it."""
    onnx.save(foreign(), tmp_path / "mine.onnx")
    (tmp_path / "photos").mkdir()
    for index, picture in enumerate(pictures):
        Image.fromarray(picture).save(tmp_path / "photos" / f"{index}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("wants", [IMAGENET, BYTES, PLAIN], ids=["imagenet", "bgr", "0..255"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_bundle_gives_what_the_file_gives(here, wants, precision):
    degmix_edge.build("mine.onnx", "x.degmix", precision=precision, **wants)
    found = compare("x.degmix", "mine.onnx", data="photos", max_disagreement=0.02)
    assert found.passed, found.verdict
    assert found.against == "ONNX"
    assert {tensor.name for tensor in found.tensors} == {
        *("semseg", "semseg_logits", "depth", "depth_logits")
    }
    assert max(tensor.relative for tensor in found.tensors if tensor.equal is None) < (
        1e-5 if precision == "fp32" else 1e-2
    )


def test_a_build_checks_itself_against_the_file(here, monkeypatch):
    """A pass that is wrong on somebody's graph is found before the bundle is written."""
    from degmix_edge.passes.insert_image_input import InsertImageInput

    said = []
    options = {"precision": "fp32", **BYTES}
    degmix_edge.build("mine.onnx", "good.degmix", **options, progress=said.append)
    (check,) = [event.detail for event in said if event.name == "source check"]
    assert check == (
        "bundle against its network as it came, on 1 synthetic scene: semseg 0.00 %, depth 0.00 %"
    )

    real = InsertImageInput.run

    def forgets_the_order(self, graph):
        self.spec = self.spec.model_copy(update={"color": "rgb"})
        return real(self, graph)

    monkeypatch.setattr(InsertImageInput, "run", forgets_the_order)
    with pytest.raises(
        BuildError, match=r"differs from mine.onnx as it came, on 1 synthetic scene: semseg [1-9]"
    ):
        degmix_edge.build("mine.onnx", "bad.degmix", **options)
    assert not (here / "bad.degmix").exists()


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_a_build_checks_itself_on_several_images_of_the_user(here, monkeypatch, precision):
    """What goes wrong on bright images only is found, although the golden image is dark."""
    from degmix_edge.graph.model import append, constant, replace_uses
    from degmix_edge.passes.insert_image_input import InsertImageInput

    real = InsertImageInput.run

    def clips_bright_pixels(self, graph):
        rewrites = real(self, graph)
        (pixels,) = graph.inputs[0].outputs[0].outputs
        limit = constant("limit", 100)
        clipped = append(graph, "Min", [pixels, limit], "clipped", np.float32)
        replace_uses(pixels, clipped, keep=clipped.inputs)
        return rewrites

    rng = np.random.default_rng(0)
    dark, bright = rng.integers(0, 90, (8, HEIGHT, WIDTH, 3), np.uint8), np.uint8(150)
    options = {"precision": precision, "observer": "min_max", **PLAIN}
    monkeypatch.setattr(InsertImageInput, "run", clips_bright_pixels)
    degmix_edge.build("mine.onnx", "dark.degmix", calibration=[*dark], **options)
    frames = [*dark[:7], dark[7] // 2 + bright]
    with pytest.raises(BuildError, match="differs from mine.onnx as it came, on 4 real images"):
        degmix_edge.build("mine.onnx", "bad.degmix", calibration=frames, **options)
    assert not (here / "bad.degmix").exists()
    monkeypatch.setattr(InsertImageInput, "run", real)
    degmix_edge.build("mine.onnx", "good.degmix", calibration=frames, **options)


def test_a_build_says_on_which_images_it_was_checked(here, cli):
    wants = ("--scale", 255, "--mean", 0, 0, 0, "--std", 1, 1, 1, "--color", "rgb")
    command = ("build", "engine", "mine.onnx", "--precision", "fp32", *wants)
    code, out, err = cli(*command, "--calib", "photos", "--out", "photos.degmix")
    assert code == 0
    assert "as it came, on 4 real images: semseg 0.00 %" in " ".join((out + err).split())
    cases = (
        ({"calibration": "synthetic:9"}, "4 synthetic scenes"),
        ({"calibration": [here / "photos" / "0.png"]}, "1 real image"),
        ({"golden_image": here / "photos" / "0.png"}, "1 real image"),
        (
            {"golden_image": here / "photos" / "0.png", "calibration": "synthetic:9"},
            "1 real image and 3 synthetic scenes",
        ),
    )
    for index, (images, words) in enumerate(cases):
        said = []
        options = {"precision": "fp32", **PLAIN, **images, "progress": said.append}
        degmix_edge.build("mine.onnx", f"{index}.degmix", **options)
        (check,) = [event.detail for event in said if event.name == "source check"]
        assert check.startswith(f"bundle against its network as it came, on {words}: semseg 0.00 %")


def test_another_normalisation_is_another_network(here):
    """What a guess would do: the same file, once as it wants its input and once as ImageNet's."""
    maps = {}
    for name, wants in (("right", PLAIN), ("guessed", IMAGENET)):
        degmix_edge.build("mine.onnx", f"{name}.degmix", precision="fp32", **wants)
        with degmix_edge.load(f"{name}.degmix") as session:
            maps[name] = session("photos/0.png")["semseg"]
    assert np.mean(np.asarray(maps["right"]) != np.asarray(maps["guessed"])) > 0.1


def test_nothing_is_guessed(here, cli):
    with pytest.raises(ConfigError, match="mine.onnx: an ONNX file does not say how .* give mean"):
        degmix_edge.build("mine.onnx", "x.degmix", precision="fp32")
    with pytest.raises(ConfigError, match="an ONNX file does not say"):
        degmix_edge.build(foreign(), "x.degmix", precision="fp32")
    code, _, err = cli("build", "engine", here / "mine.onnx", "--precision", "fp32")
    assert code == 3
    assert "--scale 255 --mean 0 0 0 --std 1 1 1 --color rgb" in " ".join(err.split())
    command = ("build", "engine", here / "mine.onnx", "--precision", "fp32", "--out", "y.degmix")
    code, _, err = cli(
        *command, "--mean", 0, 0, 0, "--std", 1, 1, 1, "--scale", 255, "--color", "rgb"
    )
    assert code == 0, err
    assert not (here / "x.degmix").exists()


@pytest.mark.parametrize(
    ("wants", "message"),
    [
        ({"mean": (0, 0, 0)}, r"mean given: give std and color too \(--std, --color\)"),
        ({"color": "bgr"}, "color given: give mean and std too"),
        ({"mean": 3 * (0,), "std": 3 * (1,)}, "give color too .*colours are rgb, bgr or grey"),
        (
            {"mean": (123, 117, 104), "std": (58, 57, 57), "color": "rgb"},
            "look like 0..255, and scale is 1; give",
        ),
        ({**IMAGENET, "std": (0, 1, 1)}, "std.0"),
        ({**IMAGENET, "mean": (0, 0, float("nan"))}, "mean.2"),
        ({**IMAGENET, "mean": (0, 0)}, "2 numbers, expected one, or one for each of 3 channels"),
        ({**IMAGENET, "color": "grey"}, "differ, and grey is one channel"),
        ({**PLAIN, "scale": 128}, "scale"),
        ({**PLAIN, "color": "gbr"}, "color"),
    ],
)
def test_what_contradicts_itself(here, wants, message):
    with pytest.raises(ConfigError, match=message):
        degmix_edge.build("mine.onnx", "x.degmix", precision="fp32", **wants)
    assert not (here / "x.degmix").exists()


def renamed(names: dict[str, str]) -> onnx.ModelProto:
    """The same file with outputs of other names."""
    model = foreign()
    for node in model.graph.node:
        node.output[:] = [names.get(name, name) for name in node.output]
        node.input[:] = [names.get(name, name) for name in node.input]
    for output in model.graph.output:
        output.name = names[output.name]
    return model


@pytest.mark.parametrize(
    "own",
    [
        {"semseg": "seg_out", "depth": "1234"},
        {"semseg": "depth", "depth": "semseg"},
        {"semseg": "seg", "depth": "d", "b": "semseg"},  # a tensor inside has the task's name
    ],
    ids=["others", "exchanged", "taken"],
)
def test_outputs_have_names_of_their_own(here, own):
    onnx.save(foreign(), "named.onnx")
    onnx.save(renamed(own), "own.onnx")
    outputs = {own[task]: task for task in ("semseg", "depth")}
    degmix_edge.build("named.onnx", "named.degmix", precision="fp32", **PLAIN)
    degmix_edge.build("own.onnx", "own.degmix", precision="fp32", outputs=outputs, **PLAIN)
    found = compare("own.degmix", "own.onnx", data="photos", max_disagreement=0.02)
    assert found.passed, found.verdict
    with degmix_edge.load("named.degmix") as want, degmix_edge.load("own.degmix") as got:
        for task in ("semseg", "depth"):
            a, b = want("photos/0.png")[task], got("photos/0.png")[task]
            np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_the_names_of_outputs_on_the_command_line(here, cli):
    onnx.save(renamed({"semseg": "seg_out", "depth": "d"}), here / "own.onnx")
    build = ("build", "engine", here / "own.onnx", "--precision", "fp32", "--scale", 255)
    build += ("--mean", 0, 0, 0, "--std", 1, 1, 1, "--color", "rgb")
    cases = [
        ((), 6, "first unknown: 'seg_out'). Say which task each is (--map seg_out=TASK)"),
        (("--map", "seg_out=semseg"), 6, "first unknown: 'd'"),
        (("--map", "seg=semseg"), 3, "no output 'seg'"),
        (("--map", "seg_out=semsg"), 3, "Did you mean 'semseg'"),
        (("--map", "seg_out=depth", "--map", "d=depth"), 3, "seg_out and d are both called so"),
        (("--map", "seg_out"), 2, "expected OUTPUT=KIND, as in seg_out=semseg"),
    ]
    for more, expected, message in cases:
        code, _, err = cli(*build, *more)
        assert code == expected, err
        assert message in " ".join(err.split())
    code, _, err = cli(*build, "--map", "seg_out=semseg", "--map", "d=depth")
    assert code == 0, err


def test_a_network_of_ours_says_it_itself(exported, tmp_path):
    with pytest.raises(ConfigError, match="says itself how its input is normalised .* leave out"):
        degmix_edge.build(exported[0], tmp_path / "x.degmix", precision="fp32", **IMAGENET)


def test_a_network_of_ours_has_its_size(exported, tmp_path):
    with pytest.raises(ConfigError, match="takes 64x96, and size is 32x32; leave out size"):
        degmix_edge.build(exported[0], tmp_path / "x.degmix", precision="fp32", size=(32, 32))


def test_another_file_is_no_reference(here, cli):
    degmix_edge.build("mine.onnx", "x.degmix", precision="fp32", **PLAIN)
    onnx.save(foreign(seed=1), "other.onnx")
    with pytest.raises(CheckpointError, match=r"other.onnx: is not what x.degmix was built from"):
        compare("x.degmix", "other.onnx", data="photos")
    with pytest.raises(CheckpointError, match="was built from mine.onnx .* give it as NETWORK"):
        compare("x.degmix", data="photos")


def test_the_verbs(here, cli):
    degmix_edge.build("mine.onnx", "x.degmix", precision="fp32", **BYTES)
    files = (here / "x.degmix", here / "mine.onnx", "--data", here / "photos")
    code, out, err = cli("compare", *files, "--json")
    assert code == 0, err
    assert json.loads(out)["comparison"]["against"] == "ONNX"
    header = next(line for line in err.splitlines() if line.startswith("task "))
    assert header.split()[:3] == ["task", "metric", "ONNX"]
    code, out, err = cli("bench", *files, "--against", "onnx", "--calls", "3", "--json")
    assert code == 0, err
    assert set(json.loads(out)["results"]) == {"engine fp32", "ONNX"}
    assert "x faster than ONNX (medians, one run)" in err
    with pytest.raises(ConfigError, match="against 'torch': got .*, expected a checkpoint"):
        bench(files[0], against="torch", checkpoint=files[1], images=str(files[3]))


def test_normalising_in_numpy():
    pixels = np.arange(2 * 3 * 4 * 3, dtype=np.uint8).reshape(2, 3, 4, 3)
    spec = Normalisation(**BYTES)
    mean, std = (np.array(v) / 255 for v in (spec.mean, spec.std))
    found = normalise(pixels, mean, std, "bgr")
    want = (pixels[..., ::-1].astype(np.float64) - BYTES["mean"]) / BYTES["std"]
    np.testing.assert_allclose(found, np.moveaxis(want, -1, 1), rtol=1e-5, atol=1e-5)

"""Networks that take no picture: depth, temperatures, several spectral bands."""

import json
import re
import warnings

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

import degmix_edge
from degmix_edge.errors import BuildError, ConfigError, GraphError, InputError
from degmix_edge.network import IMAGE
from degmix_edge.ort import cpu_session
from degmix_edge.workflows.bench import bench
from degmix_edge.workflows.compare import compare, compare_engines, record
from degmix_edge.workflows.spec_check import check_spec
from degmix_edge.workflows.spec_draft import draft_spec
from degmix_edge.workflows.verify import verify

HEIGHT, WIDTH = 64, 96
DEPTH = {"scale": 0.001, "mean": (2.0,), "std": (1.5,), "color": "depth"}
BANDS = {
    "mean": (300.0, 20.0, 5.0, 0.5),
    "std": (8.0, 4.0, 2.0, 0.25),
    "color": "other",
}


class Net(nn.Module):
    """Depth or other channels in; classes and a mask out."""

    def __init__(self, channels, last=False):
        super().__init__()
        torch.manual_seed(channels)
        self.last = last
        self.stem = nn.Sequential(nn.Conv2d(channels, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.body = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1), nn.ReLU())
        self.seg, self.free = nn.Conv2d(16, 4, 1), nn.Conv2d(16, 1, 1)
        for layer in (self.stem[0], self.body[0], self.seg):
            nn.init.normal_(layer.weight, std=1.4 * layer.weight[0].numel() ** -0.5)
        nn.init.zeros_(self.seg.bias)

    def forward(self, sensor):
        planes = sensor.permute(0, 3, 1, 2) if self.last else sensor
        seen = torch.sin(3 * self.body(self.stem(planes)))  # so that all classes are there
        return {"semseg": self.seg(seen), "free": self.free(seen)}


def export(path, channels, *, last=False, name="sensor", dynamic=False, rows=1):
    sides = (HEIGHT, WIDTH, channels) if last else (channels, HEIGHT, WIDTH)
    names = {"input_names": [name], "output_names": ["semseg", "free"]}
    open_axes = (1, 2) if last else (2, 3)
    axes = {name: dict(zip((0, *open_axes), "nhw", strict=True))} if dynamic else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = (torch.randn(rows, *sides),)
        network = Net(channels, last).eval()
        torch.onnx.export(network, image, path, dynamo=False, dynamic_axes=axes, **names)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sensors")


@pytest.fixture(scope="module")
def depth_net(folder):
    return export(folder / "depth.onnx", 1, name="depth_in", dynamic=True)


@pytest.fixture(scope="module")
def depth_frames(folder):
    """Millimetres of 160x120 pixels: PNG of 16 bits, TIFF of floats, .npy of either."""
    root = folder / "depth"
    root.mkdir()
    down, across = np.mgrid[:120, :160]
    for index in range(8):
        numbers = 600 + 300 * index + 20 * down + 9 * across
        numbers[40:80, 50 + 5 * index : 90] = 700
        if index < 4:
            Image.fromarray(numbers.astype(np.uint16)).save(root / f"{index}.png")
        elif index == 4:
            Image.fromarray(numbers.astype(np.float32)).save(root / f"{index}.tiff")
        else:
            kind = np.uint16 if index == 5 else np.float32
            np.save(root / f"{index}.npy", numbers.astype(kind))
    return root


@pytest.fixture(scope="module", params=["fp32", "fp16", "int8"])
def built(request, folder, depth_net, depth_frames):
    return degmix_edge.build(
        depth_net,
        folder / f"depth_{request.param}.degmix",
        precision=request.param,
        size=(HEIGHT, WIDTH),
        calibration=str(depth_frames),
        outputs={"free": "mask"},
        **DEPTH,
    )


def depth_by_hand(path):
    """What the network takes: 160x120 becomes 85x64 and lies in 96x64, five pixels in."""
    numbers = np.load(path) if path.suffix == ".npy" else np.asarray(Image.open(path))
    whole = np.zeros((HEIGHT, WIDTH))
    for row in range(64):
        for column in range(85):
            under = int((row + 0.5) * 120 / 64), int((column + 0.5) * 160 / 85)
            value = float(numbers[under])
            whole[row, column + 5] = value if np.isfinite(value) else 0
    return ((whole * 0.001 - 2) / 1.5)[None, None].astype(np.float32)


def test_a_session_gives_what_the_file_gives(built, depth_net, depth_frames):
    """Every frame is prepared by hand, and ONNX Runtime runs the file as it came."""
    theirs = cpu_session(depth_net.read_bytes())
    with degmix_edge.load(built) as session:
        assert session.spec.image_spec.dtype == "float32"
        for path in sorted(depth_frames.iterdir()):
            seg, _ = theirs.run(None, {"depth_in": depth_by_hand(path)})
            wide = torch.nn.functional.interpolate(
                torch.from_numpy(seg), (HEIGHT, WIDTH), mode="bilinear"
            )
            want = wide.argmax(1).numpy()[0, :, 5:90]
            assert np.bincount(want.ravel(), minlength=4).max() < 0.9 * want.size
            agree = np.mean(session(path)["semseg"] == want)
            assert agree > {"fp32": 0.999, "fp16": 0.99, "int8": 0.8}[built.manifest.precision]


def test_it_is_proved_against_its_own_file(built, depth_net, depth_frames):
    found = compare(built, depth_net, data=str(depth_frames), max_disagreement=0.15)
    assert found.passed, found.verdict
    assert found.images == 8
    if built.manifest.precision == "fp32":
        assert max(t.relative for t in found.tensors if t.equal is None) < 1e-5
    assert verify(built).passed


def test_arrays_files_and_mappings_are_one_frame(built, depth_frames):
    numbers = np.load(depth_frames / "6.npy")
    with degmix_edge.load(built) as session:
        want = session(depth_frames / "6.npy")
        same = (
            numbers,
            numbers.astype(np.uint16),
            numbers[..., None],
            Image.fromarray(numbers),
            {IMAGE: numbers},
        )
        for maps in session(list(same)):
            for name, array in want.items():
                np.testing.assert_array_equal(maps[name], array)
        assert want["semseg"].at_image_size().shape == (120, 160)
        holes = numbers.copy()
        holes[30:60, 40:70] = np.nan
        filled = np.where(np.isfinite(holes), holes, 0)
        for name, array in session(filled).items():
            np.testing.assert_array_equal(session(holes)[name], array)


def test_what_is_no_depth_is_refused(built, pictures, tmp_path):
    photo = pictures[0]
    Image.fromarray(photo).save(tmp_path / "photo.jpg")
    Image.fromarray(photo).convert("P").save(tmp_path / "colours.png")
    height, width = photo.shape[:2]
    takes = r"the network 'depth' takes depth, and no picture: .*a PNG of 16 bits"
    cases = (
        (photo, rf"image: got uint8 \({height}, {width}, 3\), expected numbers \(H, W\); {takes}"),
        (
            tmp_path / "photo.jpg",
            rf"photo.jpg: got uint8 \({height}, {width}, 3\), expected numbers .*{takes}",
        ),
        (tmp_path / "colours.png", "colours.png: got a picture with a palette .*expected numbers"),
        (np.zeros((1, 120, 160), np.float32), r"got float32 \(1, 120, 160\), expected numbers"),
        (np.zeros((0, 5), np.float32), r"got float32 \(0, 5\), expected numbers"),
        (np.zeros((120, 160), bool), "got bool"),
        ("nowhere.npy", "nowhere.npy: cannot be read"),
        ({"depth_in": photo}, "frame: has depth_in, .*takes image; give"),
    )
    with degmix_edge.load(built) as session:
        for value, message in cases:
            with pytest.raises(InputError, match=message):
                session(value)


def test_every_verb_takes_it(built, depth_net, depth_frames, folder, cli):
    """Run, bench, compare, record, inspect, verify and emit, as people type them."""
    path, out = built.path, folder / f"maps_{built.manifest.precision}"
    assert cli("run", path, depth_frames, "--out", out)[0] == 0
    assert len(list(out.glob("*.semseg.png"))) == 8
    code, _, err = cli("bench", path, depth_net, "--data", depth_frames, "--against", "onnx")
    assert code == 0, err
    code, _, err = cli("bench", path)
    assert code == 4
    assert "photos: has pictures, and the network 'depth' takes depth" in " ".join(err.split())
    code, _, err = cli("compare", path, depth_net, "--max-disagreement", 30)  # synthetic scenes
    assert code == 0, err
    code, text, _ = cli("inspect", path, "--json")
    assert code == 0
    (taken,) = json.loads(text)["contract"]["inputs"]
    assert (taken["kind"], taken["dtype"], taken["layout"]) == ("map", "float32", "NCHW")
    assert "the nearest pixel" in taken["meaning"]
    assert cli("verify", path)[0] == 0
    for target in ("python", "cpp", "isaac", "deepstream"):
        code, _, err = cli("emit", target, path, "--out", folder / "emitted")
        assert code == 3
        assert "takes depth and no picture" in " ".join(err.split())
    code, _, err = cli("emit", "triton", path, "--out", out / "triton")
    assert code == 0, err


def test_maps_that_a_robot_recorded(built, depth_net, depth_frames, tmp_path):
    count, _ = record(built, tmp_path / "results.json", data=str(depth_frames))
    assert count == 8
    limits = {"max_disagreement": 0.15, "results": tmp_path / "results.json"}
    (found,) = compare_engines(built, depth_net, data=str(depth_frames), **limits).values()
    assert found.passed


SPEC = """
input:
  {tensor: depth_in, color: depth, unit: mm, scale: 0.001, mean: 2, std: 1.5, pad: 9000,
   fit: stretch}
tasks: {semseg: {classes: 4}, free: {kind: mask}}
"""


def test_a_spec_says_unit_and_pad(depth_net, depth_frames, folder):
    """Stretched, every pixel is inside; what is not finite becomes the pad value."""
    spec = folder / "depth.yaml"
    spec.write_text(SPEC)
    options = {"precision": "fp32", "spec": spec, "size": (HEIGHT, WIDTH)}
    bundle = degmix_edge.build(depth_net, folder / "stretched.degmix", **options)
    network = bundle.manifest.network
    assert (network.color, network.unit, network.scale, network.pad) == ("depth", "mm", 0.001, 9000)
    assert bundle.manifest.inputs[0].unit == "mm"
    numbers = np.load(depth_frames / "7.npy")
    numbers[:60, :80] = np.inf
    rows = ((np.arange(HEIGHT) + 0.5) * 120 / HEIGHT).astype(int)
    columns = ((np.arange(WIDTH) + 0.5) * 160 / WIDTH).astype(int)
    whole = numbers[rows][:, columns]
    whole[np.isinf(whole)] = 9000
    feed = ((whole * 0.001 - 2) / 1.5)[None, None].astype(np.float32)
    _, free = cpu_session(depth_net.read_bytes()).run(None, {"depth_in": feed})
    free = torch.nn.functional.interpolate(torch.from_numpy(free), (HEIGHT, WIDTH), mode="bilinear")
    with degmix_edge.load(bundle) as session:
        got = session(numbers)["free"]
    np.testing.assert_allclose(got, free.sigmoid().numpy()[0, 0], atol=1e-5)


def test_a_draft_of_a_network_that_takes_depth(folder, depth_frames, cli):
    path = export(folder / "drafted.onnx", 1, name="depth_in")
    spec = folder / "drafted.yaml"
    assert cli("spec", "init", path, "--out", spec)[0] == 0
    draft = draft_spec(path)
    assert "input.color" in draft.guessed
    assert [f"input.{name}" for name in ("unit", "scale", "mean", "std")] == list(draft.missing)
    assert yaml.safe_load(draft.text)["input"]["color"] == "depth"
    command = ("build", "engine", path, "--precision", "fp32", "--spec", spec, "--out", "x.degmix")
    code, _, err = cli(*command)
    assert code == 3
    assert "give mean and std too" in " ".join(err.split())
    said = ("--scale", 0.001, "--mean", 2, "--std", 1.5)
    code, _, err = cli("spec", "check", path, depth_frames / "0.png", "--spec", spec, *said)
    assert code == 0, err
    assert "depth 64x96, values times 0.001 minus 2 by 1.5, letterbox" in " ".join(err.split())
    drawn = np.asarray(Image.open("spec.png"))
    assert len(np.unique(drawn[60:250, 20:320].reshape(-1, 3), axis=0)) > 100  # colours, not grey
    assert np.ptp(drawn[60:250, 20:320].astype(int), axis=-1).max() > 100
    code, _, err = cli(*command, *said)
    assert code == 0, err
    text = draft_spec(export(folder / "bands_in.onnx", 4)).text
    assert yaml.safe_load(text)["input"]["color"] == "other"
    assert "# mean: [0, 0, 0, 0]" in text
    assert (
        yaml.safe_load(draft_spec(export(folder / "t.onnx", 1, name="thermal")).text)["input"][
            "color"
        ]
        == "other"
    )
    assert yaml.safe_load(draft_spec(export(folder / "g.onnx", 1)).text)["input"]["color"] == "grey"


def test_a_check_says_what_looks_wrong(depth_net, depth_frames):
    options = {"size": (HEIGHT, WIDTH), "outputs": {"free": "mask"}, **DEPTH}
    path = depth_frames / "0.png"
    assert not [d for d in check_spec(depth_net, path, **options).doubts if "input" in d]
    doubts = check_spec(depth_net, path, **options | {"scale": 1.0}).doubts
    assert "check mean, std and scale" in " ".join(doubts)
    doubts = check_spec(depth_net, np.full((64, 96), np.nan), **options).doubts
    assert "input: is 0 everywhere" in " ".join(doubts)


@pytest.fixture(scope="module")
def bands(folder):
    """Four bands of any ranges, 96x64 as the network has them, so that nothing is resized."""
    root = folder / "bands"
    root.mkdir()
    rng = np.random.default_rng(3)
    mean, std = (np.array(BANDS[key]) for key in ("mean", "std"))
    for index in range(8):
        smooth = rng.normal(size=(8, 12, 4)).repeat(8, 0).repeat(8, 1)
        values = mean + std * (smooth + 0.1 * rng.normal(size=(HEIGHT, WIDTH, 4)))
        np.save(root / f"{index}.npy", values.astype(np.float32))
    return root


@pytest.mark.parametrize("precision", ["fp32", "int8"])
@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("dynamic", [False, True])
def test_several_bands(folder, bands, precision, last, dynamic):
    path = export(folder / f"bands_{last}_{dynamic}.onnx", 4, last=last, dynamic=dynamic)
    target = folder / f"bands_{last}_{dynamic}_{precision}.degmix"
    options = {"size": (HEIGHT, WIDTH)} if dynamic else {}
    bundle = degmix_edge.build(
        path,
        target,
        precision=precision,
        calibration=str(bands),
        outputs={"free": "mask"},
        **options,
        **BANDS,
    )
    assert bundle.manifest.inputs[0].shape == (1, 4, HEIGHT, WIDTH)
    assert compare(bundle, path, data=str(bands), max_disagreement=0.15).passed
    values = np.load(bands / "3.npy")
    normal = ((values - BANDS["mean"]) / BANDS["std"]).astype(np.float32)
    feed = normal[None] if last else normal.transpose(2, 0, 1)[None]
    _, free = cpu_session(path.read_bytes()).run(None, {"sensor": feed})
    free = torch.nn.functional.interpolate(torch.from_numpy(free), (HEIGHT, WIDTH), mode="bilinear")
    with degmix_edge.load(bundle) as session:
        got = session(values)["mask"]
        limit = 1e-5 if precision == "fp32" else 0.15
        np.testing.assert_allclose(got, free.sigmoid().numpy()[0, 0], atol=limit)
        with pytest.raises(
            InputError, match=r"got float32 \(64, 96, 3\), expected numbers \(H, W, 4\)"
        ):
            session(values[..., :3])
    with pytest.raises(
        InputError, match=r"synthetic:64: has pictures, .* takes other; give a folder"
    ):
        compare(bundle, path)


def test_a_number_for_each_band_on_the_command_line(folder, bands, cli):
    path = export(folder / "typed.onnx", 4)
    command = ("build", "engine", path, "--precision", "fp32", "--map", "free=mask")
    command += ("--color", "other", "--std", 8, 4, 2, 0.25, "--mean", 300, -20, 5, 0.5)
    code, _, err = cli(*command, "--calib", bands, "--out", "typed.degmix")
    assert code == 0, err
    text = " ".join(err.split())
    assert "other 64x96, values times 1 minus 300 -20 5 0.5 by 8 4 2 0.25, letterbox" in text
    assert "as it came, on 4 real images" in text
    code, _, err = cli("build", "engine", path, "--mean", "blue", "--std", 1, "--color", "other")
    assert code == 2
    assert "'blue': expected one number, or one by channel" in err


def test_bytes_of_four_bands(folder, tmp_path):
    """A network that takes uint8 normalises itself; RGBA files hold its four bands."""
    import onnx
    from onnx import helper

    path = export(folder / "floats.onnx", 4)
    model = onnx.load(path)
    for node in model.graph.node:
        node.input[:] = ["as_float" if name == "sensor" else name for name in node.input]
    model.graph.node.insert(0, helper.make_node("Cast", ["sensor"], ["as_float"], "cast", to=1))
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    onnx.save(model, path)
    rng = np.random.default_rng(0)
    values = rng.integers(0, 256, (HEIGHT, WIDTH, 4), np.uint8)
    Image.fromarray(values).save(tmp_path / "bands.png")
    options = {"precision": "fp32", "outputs": {"free": "raw"}}
    with pytest.raises(ConfigError, match="leave out mean, std and scale, or give 0, 1 and 1"):
        degmix_edge.build(path, tmp_path / "no.degmix", scale=255, color="other", **options)
    bundle = degmix_edge.build(path, tmp_path / "x.degmix", color="other", **options)
    _, free = cpu_session(path.read_bytes()).run(None, {"sensor": values.transpose(2, 0, 1)[None]})
    with degmix_edge.load(bundle) as session:
        got = session(tmp_path / "bands.png")["raw"]
    np.testing.assert_allclose(got, free[0], atol=1e-4 * np.abs(free).max())


def test_temperatures_of_a_camera_with_16_bits(folder, tmp_path):
    """Hundredths of a kelvin in PNG files; what differs most of a larger folder calibrates INT8."""
    path = export(folder / "thermal.onnx", 1, name="thermal")
    root = tmp_path / "thermal"
    root.mkdir()
    rng = np.random.default_rng(1)
    for index in range(12):
        kelvin = 270 + 4 * index + 5 * rng.normal(size=(8, 12)).repeat(8, 0).repeat(8, 1)
        Image.fromarray((100 * kelvin).astype(np.uint16)).save(root / f"{index:02}.png")
    said = []
    options = {"scale": 0.01, "mean": (295,), "std": (15,), "color": "other"}
    bundle = degmix_edge.build(
        path,
        tmp_path / "thermal.degmix",
        calibration=str(root),
        calibration_count=8,
        outputs={"free": "mask"},
        progress=said.append,
        **options,
    )
    assert [e.detail for e in said if "8 of 12 images chosen" in e.detail]
    (checked,) = [event.detail for event in said if event.name == "source check"]
    assert "on 4 real images" in checked
    assert compare(bundle, path, data=str(root), max_disagreement=0.15).passed
    timed = bench(bundle, images=str(root), calls=10)
    assert next(iter(timed.values())).calls == 10


def test_without_images_a_scene_has_to_do(folder, depth_net):
    """Depth is that of a rendered scene; other numbers are made up, and the build says so."""
    for name, path, options, scene in (
        ("depth", depth_net, {"size": (HEIGHT, WIDTH), **DEPTH}, "scene 2000000, its depth"),
        ("bands", export(folder / "b.onnx", 4), BANDS, "scene 2000000, made-up numbers"),
    ):
        said = []
        options = options | {"precision": "fp32", "outputs": {"free": "mask"}}
        target = folder / f"unseen_{name}.degmix"
        bundle = degmix_edge.build(path, target, progress=said.append, **options)
        details = {event.name: event.detail for event in said if event.detail}
        assert details["images"] == f"0 for calibration, golden image {scene}"
        assert "on 1 synthetic scene: semseg 0.00 %" in details["source check"]
        assert verify(bundle).passed
    said = []
    bundle = degmix_edge.build(
        depth_net,
        folder / "rendered.degmix",
        calibration="synthetic:8",
        size=(HEIGHT, WIDTH),
        outputs={"free": "mask"},
        progress=said.append,
        **DEPTH,
    )
    assert [e.detail for e in said if e.detail.startswith("8 for calibration")]
    assert compare(bundle, depth_net, data="synthetic:8", max_disagreement=0.3).images == 8


def test_depth_of_scenes_is_in_the_unit_of_the_input(depth_net, folder):
    """`mm` gets millimetres; without a unit, `scale` makes metres of it; both are one network."""
    from degmix_training.data import synthetic

    from degmix_edge.workflows.sources import images

    bundles = []
    for unit in ("unit: mm, ", ""):
        spec = folder / f"unit{len(unit)}.yaml"
        spec.write_text(SPEC.replace("unit: mm, ", unit))
        options = {"precision": "fp32", "spec": spec, "size": (HEIGHT, WIDTH)}
        bundle = degmix_edge.build(depth_net, folder / f"unit{len(unit)}.degmix", **options)
        bundles.append(bundle.manifest)
    for manifest in bundles:
        (item,) = images("synthetic:1", manifest.fit, network=manifest.network)
        metres = item.frame / 1000
        scene = synthetic.DataSet(size=(HEIGHT, WIDTH)).open_split("test", ["depth"], 1)[0]
        np.testing.assert_allclose(metres, scene.labels["depth"], rtol=1e-5)


def test_a_picture_beside_depth(folder, depth_frames, pictures, tmp_path):
    """The first input is depth, and the picture beside it says its own normalisation."""

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(7)
            self.net = Net(4)

        def forward(self, depth_in, view):
            return self.net(torch.cat([depth_in, view], 1))

    path = folder / "both.onnx"
    example = (torch.randn(1, 1, HEIGHT, WIDTH), torch.randn(1, 3, HEIGHT, WIDTH))
    names = {"input_names": ["depth_in", "view"], "output_names": ["semseg", "free"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(Both().eval(), example, path, dynamo=False, **names)
    text = SPEC + "inputs: {view: {kind: image, color: bgr, mean: 0.45, std: 0.22}}\n"
    (tmp_path / "both.yaml").write_text(text)
    for name in ("image", "view"):
        (tmp_path / "frames" / name).mkdir(parents=True)
    for index, source in enumerate(sorted(depth_frames.iterdir())):
        (tmp_path / "frames" / "image" / source.name).write_bytes(source.read_bytes())
        view = Image.fromarray(pictures[index]).resize((160, 120))
        view.save(tmp_path / "frames" / "view" / f"{source.stem}.png")
    data = str(tmp_path / "frames")
    for calibration in (None, data):
        bundle = degmix_edge.build(
            path,
            tmp_path / "both.degmix",
            precision="fp32",
            spec=tmp_path / "both.yaml",
            calibration=calibration,
            force=True,
        )
    assert [tensor.name for tensor in bundle.manifest.inputs] == ["image", "view"]
    found = compare(bundle, path, data=data)
    assert found.passed
    assert found.images == 8
    (tmp_path / "both.yaml").write_text(text.replace(", mean: 0.45, std: 0.22", ""))
    with pytest.raises(
        ConfigError, match="input 'view': an image beside a first input that is none"
    ):
        degmix_edge.build(
            path, tmp_path / "no.degmix", spec=tmp_path / "both.yaml", precision="fp32"
        )


def test_a_torch_module_that_takes_depth(depth_frames, tmp_path):
    """The module as its author wrote it is the reference."""
    import runpy

    (tmp_path / "ours.py").write_text(
        "import torch\nfrom torch import nn\n\n\ndef make():\n    torch.manual_seed(0)\n"
        "    net = nn.Sequential(nn.Conv2d(1, 8, 3, 2, 1), nn.ReLU(), nn.Conv2d(8, 3, 1))\n"
        "    return net.eval()\n"
    )
    module = runpy.run_path(str(tmp_path / "ours.py"))["make"]()
    options = {"size": (HEIGHT, WIDTH), "outputs": {"output": "semseg"}, **DEPTH}
    bundle = degmix_edge.build(module, tmp_path / "m.degmix", precision="fp32", **options)
    found = compare(bundle, f"{tmp_path / 'ours.py'}:make", data=str(depth_frames))
    assert found.passed
    assert found.tasks["semseg"].agreement > 99.9
    wide = Net(4).eval()
    bundle = degmix_edge.build(
        wide,
        tmp_path / "w.degmix",
        precision="fp32",
        size=(64, 96),
        outputs={"free": "mask"},
        **BANDS,
    )
    assert bundle.manifest.inputs[0].shape == (1, 4, 64, 96)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_two_cameras_and_two_sizes(folder, depth_net, depth_frames, precision):
    frames = sorted(depth_frames.iterdir())
    options = {"precision": precision, "calibration": str(depth_frames), **DEPTH}
    options["outputs"] = {"free": "mask"}
    two = folder / f"two_{precision}.degmix"
    bundle = degmix_edge.build(depth_net, two, size=(HEIGHT, WIDTH), batch=2, **options)
    assert bundle.manifest.inputs[0].shape == (2, 1, HEIGHT, WIDTH)
    with degmix_edge.load(bundle) as session:
        for maps, frame in zip(session(frames), frames, strict=True):
            for name, array in session(frame).items():
                np.testing.assert_array_equal(array, maps[name])
    sizes = [(HEIGHT, WIDTH), (96, 128)]
    bundle = degmix_edge.build(depth_net, folder / f"s_{precision}.degmix", size=sizes, **options)
    with degmix_edge.load(bundle, size=(96, 128)) as session:
        assert session(frames[0])["mask"].placement.image_height == 120
    assert verify(bundle).passed


def test_a_budget_is_searched_on_frames_of_depth(folder, depth_frames, tmp_path):
    path = export(folder / "budget.onnx", 1)
    bundle = degmix_edge.build(
        path,
        tmp_path / "budget.degmix",
        calibration=str(depth_frames),
        examples=str(depth_frames),
        budget="1000%",
        device="orin-agx",
        outputs={"free": "mask"},
        **DEPTH,
    )
    assert bundle.manifest.precision == "int8"
    page = (tmp_path / "budget.degmix.budget.html").read_text()
    assert re.search(r"changed most for [\w, ]*\bmask\b", page)
    assert page.count("data:image") >= 6


@pytest.mark.parametrize(
    ("channels", "said", "error", "message"),
    [
        (1, {"color": "depth"}, ConfigError, "color given: give mean and std too"),
        (1, {**DEPTH, "mean": (1, 2, 3)}, ConfigError, "3 numbers, expected one"),
        (1, {**DEPTH, "scale": 0}, ConfigError, "scale"),
        (1, {**DEPTH, "pad": (0, 0, 0)}, ConfigError, "pad .* with color depth, expected a number"),
        (3, DEPTH, GraphError, "with 3 channels, and 1 are described; say --color other"),
        (1, BANDS, GraphError, "with 1 channels, and 4 are described, one mean and std for each"),
        (
            4,
            {**BANDS, "std": (1, 2)},
            ConfigError,
            r"std \(1.0, 2.0\) is of 2 channels, and the .* 4",
        ),
        (
            4,
            {**DEPTH, "scale": 1, "color": "rgb"},
            GraphError,
            r"expected an RGB image .*\(--color other\)",
        ),
        (1, {**DEPTH, "color": "grey"}, ConfigError, "scale 0.001, expected the value of white"),
        (
            3,
            {**BANDS, "color": "rgb", "pad": 3.5},
            ConfigError,
            "pad 3.5 with color rgb, expected an",
        ),
    ],
)
def test_what_does_not_fit(folder, channels, said, error, message):
    path = export(folder / f"any_{channels}.onnx", channels)
    with pytest.raises(error, match=message):
        degmix_edge.build(
            path, folder / "no.degmix", precision="fp32", outputs={"free": "mask"}, **said
        )


def test_depth_without_an_axis_of_channels_is_refused(folder):
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = Net(1)

        def forward(self, sensor):
            return self.net(sensor[:, None])

    names = {"input_names": ["sensor"], "output_names": ["semseg", "free"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = (torch.randn(1, HEIGHT, WIDTH),)
        torch.onnx.export(Flat().eval(), image, folder / "flat.onnx", dynamo=False, **names)
    message = r"shape \[1, 64, 96\], expected \[N, C, H, W\] .* export it with an axis for"
    with pytest.raises(GraphError, match=message):
        degmix_edge.build(
            folder / "flat.onnx",
            folder / "no.degmix",
            precision="fp32",
            outputs={"free": "mask"},
            **DEPTH,
        )


def test_colours_and_depth_in_one_tensor_with_depth_first(folder):
    """The parts of four channels may be named either way round."""
    path = export(folder / "rgbd.onnx", 4)
    spec = folder / "rgbd.yaml"
    spec.write_text(
        "input: {tensor: sensor, channels: [3, 4], color: depth, mean: 2000, std: 1500, unit: mm}\n"
        "inputs:\n"
        "  view: {tensor: sensor, channels: [0, 3], kind: image, color: rgb, mean: 0.5, std: 0.2}\n"
        "tasks: {semseg: {classes: 4}, free: {kind: mask}}\n"
    )
    bundle = degmix_edge.build(path, folder / "rgbd.degmix", precision="fp32", spec=spec)
    rng = np.random.default_rng(0)
    depth = rng.integers(500, 5000, (HEIGHT, WIDTH), np.uint16)
    view = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    planes = [*((view / 255 - 0.5) / 0.2).transpose(2, 0, 1), (depth - 2000.0) / 1500]
    feed = {"sensor": np.stack(planes)[None].astype(np.float32)}
    _, free = cpu_session(path.read_bytes()).run(None, feed)
    free = torch.nn.functional.interpolate(torch.from_numpy(free), (HEIGHT, WIDTH), mode="bilinear")
    with degmix_edge.load(bundle) as session:
        got = session({"image": depth, "view": view})["free"]
    np.testing.assert_allclose(got, free.sigmoid().numpy()[0, 0], atol=1e-5)


def test_a_wrong_pass_on_depth_is_found(depth_net, depth_frames, folder, monkeypatch):
    from degmix_edge.passes.insert_image_input import InsertImageInput

    real = InsertImageInput.run

    def forgets_the_scale(self, graph):
        self.spec = self.spec.model_copy(update={"scale": 0.0011})
        return real(self, graph)

    monkeypatch.setattr(InsertImageInput, "run", forgets_the_scale)
    with pytest.raises(BuildError, match="differs from depth.onnx as it came, on 4 real images"):
        degmix_edge.build(
            depth_net,
            folder / "no.degmix",
            precision="fp32",
            size=(HEIGHT, WIDTH),
            calibration=str(depth_frames),
            outputs={"free": "mask"},
            **DEPTH,
        )


def test_a_map_of_two_channels_beside_a_picture(folder, pictures, tmp_path):
    """Each channel of a further map has a mean and a std of its own."""

    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = Net(5)

        def forward(self, view, radar):
            return self.net(torch.cat([view, radar], 1))

    path = folder / "radar.onnx"
    example = (torch.randn(1, 3, HEIGHT, WIDTH), torch.randn(1, 2, HEIGHT, WIDTH))
    names = {"input_names": ["view", "radar"], "output_names": ["semseg", "free"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(Both().eval(), example, path, dynamo=False, **names)
    (tmp_path / "radar.yaml").write_text(
        "input: {color: rgb, mean: 0.5, std: 0.25}\n"
        "inputs: {radar: {kind: map, mean: [10, -2], std: [4, 0.5]}}\n"
        "tasks: {semseg: {classes: 4}, free: {kind: mask}}\n"
    )
    options = {"precision": "fp32", "spec": tmp_path / "radar.yaml"}
    bundle = degmix_edge.build(path, tmp_path / "radar.degmix", **options)
    view = np.asarray(Image.fromarray(pictures[0]).resize((WIDTH, HEIGHT)))
    radar = np.random.default_rng(0).normal((10, -2), (4, 0.5), (HEIGHT, WIDTH, 2))
    feed = {
        "view": ((view / 255 - 0.5) / 0.25).transpose(2, 0, 1)[None].astype(np.float32),
        "radar": ((radar - [10, -2]) / [4, 0.5]).transpose(2, 0, 1)[None].astype(np.float32),
    }
    _, free = cpu_session(path.read_bytes()).run(None, feed)
    free = torch.nn.functional.interpolate(torch.from_numpy(free), (HEIGHT, WIDTH), mode="bilinear")
    with degmix_edge.load(bundle) as session:
        got = session({"image": view, "radar": radar})["free"]
        np.testing.assert_allclose(got, free.sigmoid().numpy()[0, 0], atol=1e-5)
        with pytest.raises(InputError, match=r"radar: got float64 \(64, 96\), expected numbers"):
            session({"image": view, "radar": radar[..., 0]})

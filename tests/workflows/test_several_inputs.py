"""Networks that take more than an image: stereo, depth, intrinsics, a state; and several images."""

import json
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from PIL import Image
from torch import nn

import degmix_edge
from degmix_edge.errors import BuildError, ConfigError, GraphError, InputError, ShapeError
from degmix_edge.network import IMAGE
from degmix_edge.workflows.compare import compare
from degmix_edge.workflows.spec_draft import draft_spec
from degmix_edge.workflows.verify import verify

HEIGHT, WIDTH = 64, 96
LIKE_IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "color": "rgb"}
INPUTS = ("left", "right", "range_m", "camera", "memory")
SPEC = """
input: {tensor: left, color: bgr, mean: [103.9, 116.8, 123.7], std: 58, scale: 255}
inputs:
  right: {kind: image}
  range: {tensor: range_m, kind: map, unit: mm, scale: 0.001, mean: 2, std: 1.5, pad: 0}
  camera: {kind: intrinsics}
  memory: {kind: state, output: new_memory}
tasks:
  semseg: {output: seg, classes: 5}
  depth: {output: dist}
  new_memory: {kind: raw}
"""


class Stereo(nn.Module):
    """Both pictures through one stem, depth beside them, a camera matrix, and a memory."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU())
        self.range = nn.Conv2d(1, 8, 3, 2, 1)
        self.joint = nn.Conv2d(32, 8, 3, 1, 1)
        self.seg, self.dist = nn.Conv2d(8, 5, 1), nn.Conv2d(8, 1, 1)

    def forward(self, left, right, range_m, camera, memory):
        focal = camera[:, 0, 0].reshape(-1, 1, 1, 1) / 100
        parts = (self.stem(left), self.stem(right), F.relu(self.range(range_m)), memory)
        joint = torch.tanh(self.joint(torch.cat(parts, 1)))
        return self.seg(joint), self.dist(joint).abs() * focal, joint


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("inputs")


@pytest.fixture(scope="module")
def stereo(folder):
    """The network's file, with dynamic axes, and its spec."""
    torch.manual_seed(1)
    path = folder / "stereo.onnx"
    args = (torch.randn(1, 3, HEIGHT, WIDTH), torch.randn(1, 3, HEIGHT, WIDTH))
    args += (torch.randn(1, 1, HEIGHT, WIDTH), torch.eye(3)[None] * 100)
    args += (torch.randn(1, 8, HEIGHT // 2, WIDTH // 2),)
    dynamic = {name: {0: "n", 2: "h", 3: "w"} for name in ("left", "right", "range_m")}
    names = {"input_names": list(INPUTS), "output_names": ["seg", "dist", "new_memory"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        options = {"dynamo": False, "opset_version": 13, "dynamic_axes": dynamic}
        torch.onnx.export(Stereo().eval(), args, path, **names, **options)
    (folder / "stereo.yaml").write_text(SPEC)
    return path


@pytest.fixture(scope="module")
def frames(folder, pictures):
    """A folder of frames, larger than the network, with one camera for all."""
    root = folder / "frames"
    for name in ("image", "right", "range"):
        (root / name).mkdir(parents=True)
    for index, frame in enumerate(pictures[:8]):
        picture = Image.fromarray(frame).resize((160, 120))
        picture.save(root / "image" / f"{index}.png")
        Image.fromarray(np.roll(np.asarray(picture), -3, 1)).save(root / "right" / f"{index}.png")
        depth = np.linspace(500, 6000, 160 * 120).reshape(120, 160).astype(np.uint16)
        Image.fromarray(depth).save(root / "range" / f"{index}.png")
    np.savetxt(root / "camera.txt", [[150, 0, 79.5], [0, 150, 59.5], [0, 0, 1]])
    return root


@pytest.fixture(scope="module", params=["fp32", "fp16", "int8"])
def built(request, stereo, folder, frames):
    target = folder / f"{request.param}.degmix"
    options = {"spec": folder / "stereo.yaml", "size": (HEIGHT, WIDTH)}
    calibration = str(frames) if request.param != "fp32" else None
    return degmix_edge.build(
        stereo, target, precision=request.param, calibration=calibration, **options
    )


def test_it_is_proved_against_its_own_file(built, stereo, frames):
    found = compare(built, stereo, data=str(frames), max_disagreement=0.1)
    assert found.passed
    assert found.images == 8
    if built.manifest.precision == "fp32":
        worst = max(t.relative for t in found.tensors if t.equal is None)
        assert worst < 1e-5
        assert found.tasks["semseg"].agreement > 99.9
    assert verify(built).passed


def test_a_build_is_checked_on_the_frames_of_the_user(stereo, frames, folder):
    said = []
    options = {"spec": folder / "stereo.yaml", "size": (HEIGHT, WIDTH), "progress": said.append}
    for calibration, words in ((str(frames), "on 4 real images"), (None, "on 1 synthetic scene")):
        degmix_edge.build(
            stereo,
            folder / "checked.degmix",
            precision="fp32",
            calibration=calibration,
            force=True,
            **options,
        )
        checks = [event.detail for event in said if event.name == "source check"]
        assert words in checks[-1]


def frame(root, index):
    numbers = np.asarray(Image.open(root / "range" / f"{index}.png"))
    pictures = {
        key: np.asarray(Image.open(root / folder / f"{index}.png"))
        for key, folder in (("image", "image"), ("right", "right"))
    }
    return {**pictures, "range": numbers, "camera": np.loadtxt(root / "camera.txt")}


def test_a_session_takes_a_mapping_and_remembers(built, stereo, frames):
    """Every input is prepared by hand, the state is carried by hand, and ONNX Runtime runs it."""
    from degmix_edge.ort import cpu_session

    theirs, memory = cpu_session(stereo.read_bytes()), np.zeros((1, 8, 32, 48), np.float32)
    limit = {"fp32": 1e-5, "fp16": 1e-2, "int8": 0.2}[built.manifest.precision]
    with degmix_edge.load(built) as session:
        for index in (0, 1, 2):
            maps = session(frame(frames, index))
            seg, dist, memory = theirs.run(None, by_hand(frames, index) | {"memory": memory})
            got, want = maps["new_memory"], memory[0]
            assert np.abs(got - want).max() <= limit * np.abs(want).max()
        again = session(frame(frames, 0))["new_memory"]
        session.reset()
        first = session(frame(frames, 0))["new_memory"]
        assert not np.array_equal(again, first)
        given = session(frame(frames, 0) | {"memory": np.zeros((1, 8, 32, 48), np.float32)})
        assert np.array_equal(given["new_memory"], first)


def by_hand(root, index):
    """What the network takes: 160x120 becomes 85x64 and is centred in 96x64, five pixels in."""
    feed = {}
    for key, name in (("left", "image"), ("right", "right")):
        small = Image.open(root / name / f"{index}.png").resize((85, 64), Image.BILINEAR)
        whole = np.empty((HEIGHT, WIDTH, 3))
        whole[...] = (124, 116, 104)
        whole[:, 5:90] = np.asarray(small)
        planes = (whole[..., ::-1] - [103.9, 116.8, 123.7]) / 58
        feed[key] = planes.transpose(2, 0, 1)[None].astype(np.float32)
    depth = np.asarray(Image.open(root / "range" / f"{index}.png"))
    whole = np.zeros((HEIGHT, WIDTH))
    for row in range(64):
        for column in range(85):
            below = int((row + 0.5) * 120 / 64), int((column + 0.5) * 160 / 85)
            whole[row, column + 5] = depth[below]
    feed["range_m"] = ((whole * 0.001 - 2) / 1.5)[None, None].astype(np.float32)
    across, down = 85 / 160, 64 / 120
    camera = [[150 * across, 0, (79.5 + 0.5) * across - 0.5 + 5], [0, 150 * down, 31.5], [0, 0, 1]]
    return feed | {"camera": np.array(camera, np.float32)[None]}


def test_frames_that_do_not_fit_are_refused_by_name(built, frames):
    good = frame(frames, 0)
    without = {name: value for name, value in good.items() if name != "right"}
    cases = (
        (good["image"], r"frame: has image, and the network .* takes image, right, range, camera"),
        (without, r"give \{'image': \.\.\., 'right'"),
        (good | {"thermal": 1}, "has image, right, range, camera, thermal, and the network"),
        (good | {"right": good["image"][:50]}, r"right: is 50x160 .* and the image 120x160"),
        (good | {"range": good["range"][:50]}, r"range: is 50x160 .* and the image 120x160"),
        (
            good | {"camera": np.zeros((3, 3))},
            "camera: got focal lengths 0.0 and 0.0, .*calibrated",
        ),
        (good | {"camera": np.eye(4)}, r"camera: got float64 \(4, 4\), expected a camera matrix"),
        (good | {"range": "nowhere.npy"}, "range: nowhere.npy: cannot be read"),
        (
            good | {"memory": np.zeros(3, np.float32)},
            r"memory: got float32 \(3,\), expected \(1, 8",
        ),
    )
    with degmix_edge.load(built) as session:
        for value, message in cases:
            with pytest.raises(InputError, match=message):
                session(value)
        with pytest.raises(InputError, match=r"images\[1\]: frame: has image"):
            session([good, good["image"]])


def test_depth_that_is_not_known_is_the_pad_value(built, frames):
    good = frame(frames, 0)
    holes = good["range"].astype(np.float32)
    holes[10:50, 20:60] = np.nan
    filled = np.where(np.isfinite(holes), holes, 0)
    with degmix_edge.load(built) as session:
        first = session(good | {"range": holes})["new_memory"]
        session.reset()
        assert np.array_equal(first, session(good | {"range": filled})["new_memory"])


def test_images_alone_do_not_do(built, stereo, frames, folder, cli):
    for data, message in (("photos", "expected the folders photos/image, photos/right"),):
        with pytest.raises(InputError, match=message):
            compare(built, stereo, data=data)
    (folder / "less" / "image").mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(folder / "less" / "image" / "a.png")
    with pytest.raises(InputError, match="less/right: has no a with one of .npy"):
        compare(built, stereo, data=str(folder / "less"))
    out = folder / f"maps_{built.manifest.precision}"
    assert cli("run", built.path, frames, "--out", out)[0] == 0
    assert len(list(out.glob("*.semseg.png"))) == 8
    code, out, _ = cli("inspect", built.path, "--json")
    assert code == 0
    inputs = json.loads(out)["contract"]["inputs"]
    assert [one["name"] for one in inputs] == ["image", "right", "range", "camera", "memory"]


def test_several_inputs_have_to_be_described(stereo, folder):
    options = {"precision": "fp32", "size": (HEIGHT, WIDTH), **LIKE_IMAGENET}
    message = r"5 inputs: left .*; right .* what each other is \(--input right=KIND .* `degmix-edge"
    with pytest.raises(ConfigError, match=message):
        degmix_edge.build(stereo, folder / "no.degmix", **options)
    with pytest.raises(ConfigError, match="no input 'rihgt'.*right"):
        degmix_edge.build(stereo, folder / "no.degmix", inputs={"rihgt": "image"}, **options)
    text = SPEC.replace("output: new_memory", "output: depth")
    (folder / "other.yaml").write_text(text)
    with pytest.raises(ConfigError, match="state 'memory': .* raw task 'depth' of the same type"):
        degmix_edge.build(
            stereo,
            folder / "no.degmix",
            spec=folder / "other.yaml",
            size=(HEIGHT, WIDTH),
            precision="fp32",
        )
    draft = draft_spec(stereo).text
    for line in ("right:", "kind: image", "kind: map", "kind: intrinsics", "kind: state"):
        assert line in draft


def batched(path, rows, *, mixes=False, dynamic=False):
    """A file whose batch is `rows`, or open."""

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(2)
            self.stem = nn.Conv2d(3, 8, 3, 2, 1)
            self.seg, self.dist = nn.Conv2d(8, 4, 1), nn.Conv2d(8, 1, 1)

        def forward(self, image):
            seen = self.stem(image).relu()
            if mixes:
                seen = seen + seen.mean(0, keepdim=True)
            return self.seg(seen), self.dist(seen).abs()

    axes = {"dynamic_axes": {"image": {0: "n"}}} if dynamic else {}
    names = {"input_names": ["image"], "output_names": ["semseg", "depth"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = torch.randn(rows, 3, HEIGHT, WIDTH)
        torch.onnx.export(Net().eval(), (image,), path, dynamo=False, **names, **axes)
    return path


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("dynamic", [False, True])
def test_four_images_of_a_call_have_the_maps_that_each_has_alone(
    folder, pictures, precision, dynamic
):
    path = batched(folder / f"four_{dynamic}.onnx", 4 if not dynamic else 2, dynamic=dynamic)
    target = folder / f"four_{dynamic}_{precision}.degmix"
    options = {"calibration": pictures[:8]} | ({"batch": 4} if dynamic else {})
    bundle = degmix_edge.build(path, target, precision=precision, **options, **LIKE_IMAGENET)
    assert bundle.manifest.network.batch == 4
    assert bundle.manifest.inputs[0].shape == (4, HEIGHT, WIDTH, 3)
    with degmix_edge.load(bundle) as session:
        together = session(pictures[:6])  # a whole call, and one that is filled up
        assert len(together) == 6
        for maps, picture in zip(together, pictures, strict=False):
            for name, array in session(picture).items():
                np.testing.assert_array_equal(array, maps[name])
        assert together[0].latency == together[3].latency
        assert together[4].latency == together[5].latency != together[0].latency
        with pytest.raises(InputError, match=r"images\[5\]: .*no such file"):
            session([*pictures[:5], "nowhere.png"])
    assert compare(bundle, path, data="photos").passed
    assert verify(bundle).passed


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_our_own_network_takes_a_batch(folder, pictures, precision):
    """Every bit is what the network with a batch of one gives, also of sums over all pixels."""
    from degmix_edge.workflows.networks import read_checkpoint

    network = read_checkpoint("degmix_tiny")
    options = {"precision": precision, "calibration": pictures[:8], "backend": "onnxruntime"}
    four, one = (
        degmix_edge.build(network, folder / f"own_{precision}_{n}.degmix", batch=n, **options)
        for n in (4, 1)
    )
    for threads in (1, 2):
        with (
            degmix_edge.load(four, backend="onnxruntime", threads=threads) as together,
            degmix_edge.load(one, backend="onnxruntime", threads=threads) as single,
        ):
            for maps, picture in zip(together(pictures[:8]), pictures, strict=False):
                for name, want in single(picture).items():
                    np.testing.assert_array_equal(maps[name], want)


def test_a_network_that_mixes_its_images_is_refused(folder):
    path = batched(folder / "mixes.onnx", 2, mixes=True)
    with pytest.raises(BuildError, match="image 0 of a batch of 2 has other maps"):
        degmix_edge.build(path, folder / "no.degmix", precision="fp32", **LIKE_IMAGENET)


def test_a_batch_that_the_file_does_not_have_is_refused(folder, pictures):
    path = batched(folder / "static.onnx", 4)
    with pytest.raises(GraphError, match="a batch of 4, expected 2; leave --batch out"):
        degmix_edge.build(path, folder / "no.degmix", precision="fp32", batch=2, **LIKE_IMAGENET)
    bundle = degmix_edge.build(path, folder / "s.degmix", precision="fp32", **LIKE_IMAGENET)
    with degmix_edge.load(bundle) as session:
        five = np.zeros((5, HEIGHT, WIDTH, 3), np.uint8)
        with pytest.raises(ShapeError, match=r"got uint8 \(5, 64, 96, 3\), expected .*\(4, 64"):
            session.backend.infer({IMAGE: five})


@pytest.mark.parametrize("last", [False, True])
def test_an_input_may_hold_colours_and_depth(folder, frames, last):
    """RGB-D in four channels: each part is an input of its own, and the file runs as it came."""

    class FourChannels(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(4)
            self.stem, self.seg = nn.Conv2d(4, 8, 3, 2, 1), nn.Conv2d(8, 3, 1)

        def forward(self, rgbd):
            planes = rgbd.permute(0, 3, 1, 2) if last else rgbd
            return self.seg(self.stem(planes).relu())

    path = folder / f"rgbd_{last}.onnx"
    example = torch.randn(*((1, HEIGHT, WIDTH, 4) if last else (1, 4, HEIGHT, WIDTH)))
    names = {"input_names": ["rgbd"], "output_names": ["semseg"]}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(FourChannels().eval(), (example,), path, dynamo=False, **names)
    text = """
input: {tensor: rgbd, channels: [0, 3], color: rgb, mean: 0.45, std: 0.22}
inputs: {range: {tensor: rgbd, channels: [3, 4], kind: map, unit: mm, scale: 0.001, mean: 3}}
tasks: {semseg: {classes: 3}}
"""
    spec = folder / "rgbd.yaml"
    spec.write_text(text)
    bundle = degmix_edge.build(path, folder / f"rgbd_{last}.degmix", precision="fp32", spec=spec)
    assert [tensor.name for tensor in bundle.manifest.inputs] == ["image", "range"]
    found = compare(bundle, path, data=str(frames))
    assert found.passed
    assert found.tasks["semseg"].agreement > 99.9
    for wrong in ("[3, 5]", "[2, 4]"):
        spec.write_text(text.replace("[3, 4]", wrong))
        with pytest.raises(ConfigError, match="together these have to be all of its channels"):
            degmix_edge.build(path, folder / "no.degmix", precision="fp32", spec=spec)


def test_a_torch_module_with_a_second_picture(folder, frames, tmp_path):
    """The spec names the arguments of `forward`, and PyTorch itself is the reference."""
    text = """
import torch
from torch import nn


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(5)
        self.stem, self.seg = nn.Conv2d(6, 8, 3, 2, 1), nn.Conv2d(8, 3, 1)

    def forward(self, left, other, *, gain):
        both = torch.cat([left, other], 1)
        return {"semseg": self.seg(self.stem(both).relu()) * gain}


def make():
    return Pair().eval()
"""
    (tmp_path / "pair.py").write_text(text)
    import runpy

    module = runpy.run_path(str(tmp_path / "pair.py"))["make"]()
    spec = tmp_path / "pair.yaml"
    spec.write_text(
        "input: {color: rgb, mean: 0.45, std: 0.22}\n"
        "inputs: {right: {tensor: other, kind: image}, gain: {kind: tensor, shape: [1, 3, 1, 1]}}\n"
    )
    np.save(frames / "gain.npy", np.ones((1, 3, 1, 1), np.float32))
    bundle = degmix_edge.build(
        module, tmp_path / "pair.degmix", precision="fp32", spec=spec, size=(HEIGHT, WIDTH)
    )
    found = compare(bundle, f"{tmp_path / 'pair.py'}:make", data=str(frames))
    assert found.passed
    assert found.tasks["semseg"].agreement > 99.9
    spec.write_text(spec.read_text().replace(", shape: [1, 3, 1, 1]", ""))
    with pytest.raises(ConfigError, match="'gain': a torch module does not say the shape"):
        degmix_edge.build(
            module, tmp_path / "no.degmix", precision="fp32", spec=spec, size=(HEIGHT, WIDTH)
        )

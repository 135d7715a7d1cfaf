"""A torch module with outputs of its own takes a spec, and is proved against itself."""

import collections

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

import degmix_edge
from degmix_edge.errors import ConfigError, GraphError
from degmix_edge.preprocess import fit_image, normalise
from degmix_edge.workflows.compare import compare

pytestmark = pytest.mark.slow(file_seconds=25)
SIZE = (48, 64)
MODULE = """
import torch
from torch import nn

OUTPUTS = {"seg": (5, 2), "lanes": (1, 1), "depth_and_variance": (2, 1), "flow": (2, 4)}
OUTPUTS |= {"parts": (4, 2), "features": (8, 4), "boxes": (4, 8)}

class Eyes(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU())
        self.heads = nn.ModuleDict(
            {n: nn.Conv2d(6, c, 3, stride=s, padding=1) for n, (c, s) in OUTPUTS.items()}
        )

    def forward(self, image):
        seen = self.stem(image / 50)
        found = {name: head(seen) for name, head in self.heads.items()}
        found["parts"] = found["parts"].argmax(1)
        found["features"] = found["features"].permute(0, 2, 3, 1)
        found["boxes"] = found["boxes"].flatten(2).transpose(1, 2)
        return {**found, "step": 3}

def make():
    torch.manual_seed(4)
    return Eyes()
"""
SPEC = {
    "model": "yard_robot",
    "input": {"color": "bgr", "mean": [103.9, 116.8, 123.7], "std": [57.4, 57.1, 58.4]}
    | {"scale": 255, "fit": "crop", "height": SIZE[0], "width": SIZE[1]},
    "tasks": {
        "semseg": {"output": "seg", "classes": ["road", "kerb", "wall", "sky", "robot"]},
        "lanes": {"kind": "mask"},
        "depth": {"output": "depth_and_variance", "kind": "log_depth", "channels": [0, 1]},
        "depth_deviation": {"output": "depth_and_variance", "kind": "uncertainty"}
        | {"channels": [1, 2], "unit": "log m"},
        "flow": {"stride": 4},
        "human_parts": {"output": "parts", "classes": 4},
        "embedding": {"output": "features", "stride": 4, "channels_last": True},
        "boxes": {"kind": "raw", "unit": "px"},
    },
}


@pytest.fixture
def here(tmp_path, monkeypatch, pictures):
    (tmp_path / "net.py").write_text(MODULE)
    write(SPEC, tmp_path / "spec.yaml")
    (tmp_path / "photos").mkdir()
    for index, picture in enumerate(pictures[:3]):
        Image.fromarray(picture).save(tmp_path / "photos" / f"{index}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(spec, path):
    path.write_text(yaml.safe_dump(spec, sort_keys=False))


def eyes():
    import runpy

    return runpy.run_path("net.py")["make"]()


def test_every_kind_of_output_is_proved_against_the_module(here, cli):
    bundle = degmix_edge.build(eyes(), "eyes.degmix", precision="fp32", spec="spec.yaml")
    spec = bundle.manifest.network
    assert (spec.model, spec.color, bundle.manifest.fit.mode) == ("yard_robot", "bgr", "crop")
    assert spec.task_names == tuple(SPEC["tasks"])
    assert spec.task("semseg").classes == ("road", "kerb", "wall", "sky", "robot")
    assert [spec.task(name).decode for name in ("depth", "human_parts", "boxes")] == [
        *("exp", "labels", "raw")
    ]
    for reference in (eyes(), "net.py:make"):
        found = compare(bundle, reference, data="photos", max_disagreement=1e-4)
        assert found.passed, found.verdict
        assert set(found.tasks) == set(SPEC["tasks"])
        assert max(t.relative for t in found.tensors if t.equal is None) < 1e-5
    code, _, err = cli("compare", "eyes.degmix", "net.py:make", "--data", "photos")
    assert code == 0, err
    with degmix_edge.load(bundle) as session:
        maps = session("photos/0.png")
    # By hand: what the module sees is BGR in 0..255 without its mean.
    pixels, _ = fit_image("photos/0.png", bundle.manifest.fit)
    image = (pixels[..., ::-1].astype(np.float32) - SPEC["input"]["mean"]) / SPEC["input"]["std"]
    with torch.no_grad():
        planes = torch.from_numpy(image.transpose(2, 0, 1)[None].astype(np.float32))
        outputs = eyes().eval()(planes)
    depth = outputs["depth_and_variance"][0, 0].exp().numpy()
    np.testing.assert_allclose(maps["depth"], depth, rtol=1e-4)
    np.testing.assert_allclose(maps["boxes"], outputs["boxes"][0].numpy(), atol=1e-4)
    lanes = outputs["lanes"][0, 0].sigmoid().numpy()
    np.testing.assert_allclose(maps["lanes"], lanes, atol=1e-5)


def test_int8_and_flags_that_override_the_spec(here):
    bundle = degmix_edge.build(
        eyes(),
        "eyes.degmix",
        spec="spec.yaml",
        calibration="photos",
        size=(32, 64),
        mode="stretch",
        classes={"semseg": "abcde"},
    )
    spec = bundle.manifest.network
    assert (spec.height, spec.width, bundle.manifest.precision) == (32, 64, "int8")
    assert bundle.manifest.fit.mode == "stretch"
    assert spec.task("semseg").classes == tuple("abcde")
    found = compare(bundle, eyes(), data="photos", max_disagreement=0.5)
    assert found.passed, found.verdict


Pair = collections.namedtuple("Pair", ["logits", "metres"])


class Returns(nn.Module):
    """Two maps, returned as `how` says."""

    def __init__(self, how, channels=3):
        super().__init__()
        self.how, self.layers = how, nn.Conv2d(channels, 4, 3, padding=1)

    def forward(self, image):
        seen = self.layers(image)
        return self.how(seen[:, :3], seen[:, 3:])


RETURNED = {
    "tuple": (lambda a, b: (a, b), ("output_0", "output_1")),
    "list": (lambda a, b: [a, b], ("output_0", "output_1")),
    "named tuple": (Pair, ("logits", "metres")),
    "dictionary": (lambda a, b: {"a": a, "b": b, "more": None}, ("a", "b")),
}


@pytest.mark.parametrize("kind", RETURNED)
def test_outputs_are_called_as_the_module_returns_them(tmp_path, kind):
    how, (first, second) = RETURNED[kind]
    outputs = {first: "semseg", second: "depth"}
    module = Returns(how)
    bundle = degmix_edge.build(
        module, tmp_path / "x.degmix", precision="fp32", size=(16, 24), outputs=outputs
    )
    image = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
    with degmix_edge.load(bundle) as session:
        maps = session(image)
    with torch.no_grad():  # nothing was said of the input: it is ImageNet's
        seen = module.layers(torch.from_numpy(normalise(image[None])))[0].numpy()
    assert np.mean(np.asarray(maps["semseg"]) == seen[:3].argmax(0)) > 0.99
    np.testing.assert_allclose(maps["depth"], np.maximum(seen[3], 0), atol=1e-4)


def test_a_single_tensor_of_a_grey_image(tmp_path):
    module = Returns(lambda a, b: b, channels=1)
    bundle = degmix_edge.build(
        module,
        tmp_path / "x.degmix",
        **{"precision": "fp32", "size": (16, 24), "outputs": {"output": "mask"}},
        **{"mean": (0.5,), "std": (0.25,), "color": "grey"},
    )
    assert (bundle.manifest.network.channels, bundle.manifest.network.mean) == (1, (0.5,))
    assert bundle.manifest.network.task_names == ("mask",)


class Breaks(nn.Module):
    def __init__(self, how):
        super().__init__()
        self.how, self.layers = how, nn.Conv2d(3, 1, 1)

    def forward(self, image):
        return {"depth": self.how(self.layers(image))}


def branches(x):
    return x * 2 if x.sum() > 0 else x


def refusal(module, kind=GraphError, **changes):
    with pytest.raises(kind) as caught:
        degmix_edge.build(module, "x.degmix", **{"precision": "fp32", "size": SIZE, **changes})
    return str(caught.value)


def test_a_module_that_cannot_be_exported_says_its_own_reason(here, capfd):
    capfd.readouterr()
    message = refusal(Breaks(branches))
    assert capfd.readouterr() == ("", "")  # PyTorch prints pages
    assert message.startswith(
        "Breaks: PyTorch cannot export it: GuardOnDataDependentSymNode: Could"
    )
    line = branches.__code__.co_firstlineno + 1
    assert message.endswith(
        f"(test_module_with_spec.py:{line}, return x * 2 if x.sum() > 0 else x)"
    )
    assert "\n" not in message
    message = refusal(Breaks(lambda x: torch.linalg.lstsq(x, x).solution))
    assert message.startswith(
        "Breaks: PyTorch cannot export it: DynamicOutputShapeException: aten.linalg_lstsq.default ("
    )
    message = refusal(Breaks(lambda x: x @ x.flatten()))
    assert message.startswith("Breaks: fails on an image of (1, 3, 48, 64): RuntimeError: ")
    assert "test_module_with_spec.py" in message
    assert "\n" not in message
    assert not (here / "x.degmix").exists()


def test_what_a_spec_of_a_module_may_not_say(here):
    spec = {**SPEC, "tasks": {**SPEC["tasks"], "lanes": {"output": "lane", "kind": "mask"}}}
    write(spec, here / "wrong.yaml")
    message = refusal(eyes(), ConfigError, spec="wrong.yaml")
    assert "Eyes: task 'lanes': no output 'lane'" in message
    assert "Did you mean 'lanes'?" in message
    message = refusal(eyes(), ConfigError, spec="spec.yaml", classes={"semsag": "abcde"})
    assert "Eyes: classes: no task 'semsag'" in message
    message = refusal(eyes(), ConfigError, spec="spec.yaml", classes={"semseg": "abc"})
    assert "task 'semseg': output seg" in message
    assert "has 5 channels, argmax takes 3" in message
    assert "returns seg, lanes, depth_and_variance" in refusal(eyes())
    assert "returns no tensor" in refusal(Returns(lambda a, b: {"depth": None}))
    no_size = {key: v for key, v in SPEC["input"].items() if key not in ("height", "width")}
    write({**SPEC, "input": no_size}, here / "wrong.yaml")
    assert "give size=(height, width)" in refusal(eyes(), ConfigError, spec="wrong.yaml", size=None)
    message = refusal(eyes(), ConfigError, mean=(0.5,), std=(0.5,))
    assert (
        message == "Eyes: mean, std given: give color too (--color); colours are rgb, bgr or grey, "
        "and inputs that are no picture depth or other"
    )

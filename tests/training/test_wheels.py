"""ImageNet weights from a package: real evidence on photographs, and every way to get it wrong."""

import dataclasses
import json

import numpy as np
import onnx
import PIL.Image
import pytest
import skimage.data
import timm
import torch
from degmix_training import checkpoint, wheels
from degmix_training.backbone import Backbone
from degmix_training.config import TrainConfig, preset
from degmix_training.pretrained import load_pretrained, read_wheel
from degmix_training.wheels import WHEELS, find_file

from degmix_edge import config
from degmix_edge.bundle.contents import open_bundle
from degmix_edge.errors import CheckpointError, ConfigError
from degmix_edge.workflows.build import build
from degmix_edge.workflows.training import train

pytestmark = pytest.mark.slow(file_seconds=25)
NAME = "efficientnet_lite0"
pytest.importorskip(WHEELS[NAME].package)


@pytest.fixture(scope="module")
def classifier():
    model = timm.create_model(WHEELS[NAME].backbone)
    model.load_state_dict(read_wheel(NAME))
    return model.eval()


def normalised(picture, side=224):
    """The largest square in the middle of a picture, as the network takes it."""
    image = PIL.Image.fromarray(picture)
    length = min(image.size)
    left, top = ((n - length) // 2 for n in image.size)
    window = (left, top, left + length, top + length)
    image = image.resize((side, side), PIL.Image.Resampling.BICUBIC, window)
    pixels = torch.from_numpy(np.asarray(image, np.float32) / 255).permute(2, 0, 1)[None]
    wheel = WHEELS[NAME]
    return (pixels - torch.tensor(wheel.mean).view(3, 1, 1)) / torch.tensor(wheel.std).view(3, 1, 1)


@pytest.mark.parametrize(
    ("photograph", "index"), [("chelsea", 285), ("coffee", 967)], ids=["Egyptian cat", "espresso"]
)
def test_the_weights_know_what_photographs_show(classifier, photograph, index):
    with torch.inference_mode():
        shares = classifier(normalised(getattr(skimage.data, photograph)())).softmax(1)[0]
    assert int(shares.argmax()) == index
    assert shares[index] > 0.3


def test_a_backbone_has_the_maps_of_that_classifier(classifier):
    backbone = Backbone(WHEELS[NAME].backbone).eval()
    fates = load_pretrained(backbone, NAME)
    assert len(fates) == 296
    assert all(fate.became or fate.why for fate in fates)
    image = normalised(skimage.data.chelsea(), 128)
    with torch.inference_mode():
        maps, last = backbone(image), classifier.forward_features(image)
        # The classifier goes on with one convolution and one norm.
        again = classifier.bn2(classifier.conv_head(maps[-1]))
    assert [m.shape[-1] for m in maps] == [32, 16, 8, 4]
    torch.testing.assert_close(again, last)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """One step of the preset from the package's weights."""
    out = tmp_path_factory.mktemp("lite0") / "run"
    settings = ["height=64", "width=96", "steps=1", "val_every=1", "batch_size=2"]
    settings += ["data.train=2", "data.val=1", "optim.warmup=0"]
    return train("degmix_lite0", out, overrides=settings)


def test_a_run_starts_from_them(run):
    settings = run.card.config
    assert settings.pretrained == NAME
    state = checkpoint.load(run.checkpoint).network.backbone.network.state_dict()
    weights = read_wheel(NAME)
    for key in ("conv_stem.weight", "blocks.3.1.conv_dw.weight", "blocks.6.0.conv_pwl.weight"):
        change = (state[key] - weights[key]).norm() / weights[key].norm()
        assert 0 < change < 0.1, key


def test_the_normalisation_reaches_the_bundle(run, tmp_path):
    assert (run.card.config.mean, run.card.config.std) == ((0.5,) * 3, (0.5,) * 3)
    build(run.checkpoint, tmp_path / "a.degmix", precision="int8", calibration="synthetic:2")
    bundle = open_bundle(tmp_path / "a.degmix")
    assert bundle.manifest.network.mean == bundle.manifest.network.std == (0.5, 0.5, 0.5)
    assert bundle.manifest.precision == "int8"
    kinds = {node.op_type for node in onnx.load_from_string(bundle.onnx()).graph.node}
    assert "QuantizeLinear" in kinds
    assert "Pad" not in kinds


def test_a_checkpoint_of_half_precision_fits_into_8_mb():
    from degmix_training.untrained import untrained

    settings = config.load(TrainConfig, preset("degmix_lite0"))
    found = untrained("degmix", settings.network, settings.task_specs(), (192, 256), 0)
    size = sum(
        value.numel() * (2 if value.is_floating_point() else 8)
        for value in found.network.state_dict().values()
    )
    assert size < 7_500_000


# Normalisation


def test_settings_take_the_normalisation_of_their_weights():
    assert TrainConfig(pretrained=NAME).mean == (0.5, 0.5, 0.5)
    assert TrainConfig().mean == (0.485, 0.456, 0.406)
    given = config.load(TrainConfig, preset("degmix_tiny"), [f"pretrained={NAME}"])
    assert given.std == (0.5, 0.5, 0.5)
    assert config.load(TrainConfig, preset("degmix_lite0"), ["pretrained=none"]).mean == (0.5,) * 3


def test_another_normalisation_is_refused():
    with pytest.raises(ConfigError, match=r"trained with mean \[0.5, 0.5, 0.5\].*got mean \[0.4"):
        config.load(TrainConfig, preset("degmix_lite0"), ["mean=[0.485, 0.456, 0.406]"])


# Bad input


def package(tmp_path, monkeypatch, content=None):
    """A package like the real one, with other weights or with none."""
    folder = tmp_path / "other_lite0_model"
    (folder / "models").mkdir(parents=True)
    (folder / "__init__.py").write_text("raise RuntimeError('this code must not run')\n")
    if content is not None:
        torch.save(content, folder / "models" / "other.pth")
    monkeypatch.syspath_prepend(tmp_path)
    wheel = dataclasses.replace(WHEELS[NAME], package=folder.name)
    monkeypatch.setitem(wheels.WHEELS, NAME, wheel)


def test_the_package_is_missing(monkeypatch):
    wheel = dataclasses.replace(WHEELS[NAME], package="no_such_package")
    monkeypatch.setitem(wheels.WHEELS, NAME, wheel)
    with pytest.raises(ConfigError, match=r'pip install "degmix-edge\[pretrained\]"'):
        find_file(NAME)


def test_a_package_without_weights(tmp_path, monkeypatch):
    package(tmp_path, monkeypatch)
    with pytest.raises(CheckpointError, match=r"has 0 \.pth files, expected one.*other-lite0"):
        read_wheel(NAME)


def test_a_package_with_a_damaged_file(tmp_path, monkeypatch):
    package(tmp_path, monkeypatch, {})
    (tmp_path / "other_lite0_model" / "models" / "other.pth").write_bytes(b"\x80\x02 cut off")
    with pytest.raises(CheckpointError, match="not a PyTorch file that can be read without"):
        read_wheel(NAME)


def test_a_package_with_weights_of_another_network(tmp_path, monkeypatch):
    other = timm.create_model("mobilenetv4_conv_small_050").state_dict()
    package(tmp_path, monkeypatch, other)
    with pytest.raises(CheckpointError, match="expected the 296 of timm's 'tf_efficientnet_lite0'"):
        read_wheel(NAME)


def test_another_backbone_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="'tf_efficientnet_lite0', and this network has 'mobile"):
        load_pretrained(Backbone("mobilenetv4_conv_small_050"), NAME)
    # The same shapes, but other padding: it would load and compute something else.
    with pytest.raises(ConfigError, match="this network has 'efficientnet_lite0'"):
        load_pretrained(Backbone("efficientnet_lite0"), NAME)


def test_a_misspelt_name():
    backbone = Backbone("mobilenetv4_conv_small_050")
    with pytest.raises(CheckpointError, match="Did you mean 'efficientnet_lite0'"):
        load_pretrained(backbone, "efficientnet_lite")
    with pytest.raises(CheckpointError, match=r"weights/a\.pth: no such file"):
        load_pretrained(backbone, "weights/a.pth")


def test_the_command_line_says_what_is_missing(tmp_path, monkeypatch, capfd):
    from degmix_edge.cli import invoke

    wheel = dataclasses.replace(WHEELS[NAME], package="no_such_package")
    monkeypatch.setitem(wheels.WHEELS, NAME, wheel)
    arguments = ["train", "degmix_tiny", "--pretrained", NAME, "--out", str(tmp_path / "run")]
    small = ["network.backbone=tf_efficientnet_lite0", "data.train=8", "data.val=1", "height=32"]
    small += ["width=32"]
    for setting in small:
        arguments += ["--set", setting]
    assert invoke([*arguments, "--json"]) == 3
    captured = capfd.readouterr()
    assert "degmix-edge[pretrained]" in captured.err + captured.out
    assert not (tmp_path / "run").exists()
    json.loads(captured.out or "{}")

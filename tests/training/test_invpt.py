"""InvPT beside a slow rewriting of its public code, by weights under their public names."""

import public_invpt
import pytest
import torch
from degmix_training import checkpoint, models
from degmix_training.authors import import_checkpoint
from degmix_training.authors._base import image_size
from degmix_training.config import TrainConfig, network_config, preset
from degmix_training.cost import count

from degmix_edge import config, tasks
from degmix_edge.errors import CheckpointError
from degmix_edge.workflows.convert import convert

pytestmark = pytest.mark.slow(file_seconds=6)

TASKS = {"semseg": 5, "sal": 2, "depth": 1}
SIZE = (64, 128)
PLAIN = {"last_norm": True, "table_resize": "plain", "table_side": SIZE}
D = public_invpt.D


@pytest.fixture(scope="module")
def state():
    return public_invpt.random_state(TASKS, SIZE)


def released(folder, state):
    torch.save({"model": {f"module.{k}": v for k, v in state.items()}}, folder / "released.pth.tar")
    return folder / "released.pth.tar"


def test_an_imported_network_is_the_published_one(state, tmp_path):
    found = import_checkpoint(released(tmp_path, state), {}, {"plain": PLAIN})
    assert found.model == "invpt"
    assert (found.config["features"], found.config["dim"]) == (8, 16)
    assert list(found.tasks) == ["semseg", "saliency", "depth"]
    whys = {fate.why for fate in found.fates if not fate.became}
    assert {"a norm that no code reads", "the first stage is not widened"} < whys
    network = found.network.double()
    network.training = True  # its own flag alone: it gives the initial predictions too
    image = torch.randn(2, 3, *SIZE, dtype=torch.float64)
    with torch.inference_mode():
        got = network(image)
    # The import subtracts a bias from a running mean in FP32.
    for task, name in zip(TASKS, found.tasks, strict=True):
        bias = state[f"{D}.invpt.mt_proj.{task}.0.bias"].double()
        mean = state[f"{D}.invpt.mt_proj.{task}.1.running_mean"].double()
        network.heads[name][1].running_mean.copy_(mean - bias)
    with torch.inference_mode():
        exact = network(image)
    logits, initial = public_invpt.outputs(state, TASKS, image, network.backbone)
    for task, name in zip(TASKS, found.tasks, strict=True):
        scale = logits[task].abs().max()
        assert (got[name] - logits[task]).abs().max() <= 1e-6 * scale
        assert (exact[name] - logits[task]).abs().max() <= 1e-11 * scale
        difference = exact[f"{name}@initial"] - initial[task]
        assert difference.abs().max() <= 1e-11 * initial[task].abs().max()


@torch.inference_mode()
def test_a_converted_checkpoint_is_the_imported_network(state, tmp_path):
    path, out = released(tmp_path, state), tmp_path / "ours.safetensors"
    with pytest.raises(CheckpointError, match=r"pos_embed is \(1, 33, 192\), expected \(1, 26,"):
        convert(path, out)
    convert(path, out, size=SIZE, overrides=["plain.table_side=[64,128]"])
    image = torch.randn(1, 3, *SIZE)
    want = import_checkpoint(path, settings={"plain": PLAIN}).network(image)
    got = checkpoint.load(out).network(image)
    assert all(torch.equal(got[name], logits) for name, logits in want.items())


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda s: s.pop(f"{D}.invpt.mix_proj.sal.0.bias"), "no enter.saliency.bias"),
        (lambda s: s.update({f"{D}.invpt.more.weight": torch.ones(1)}), "nothing explains .*more"),
        (lambda s: s.pop("backbone.blocks.11.norm1.weight"), "no backbone.*blocks.11.norm1.weight"),
        (lambda s: s.pop("backbone.pos_embed"), "backbone not recognised from 149 keys"),
    ],
)
def test_what_is_not_the_published_network_is_refused(change, match, state, tmp_path):
    changed = dict(state)
    change(changed)
    with pytest.raises(CheckpointError, match=match):
        import_checkpoint(released(tmp_path, changed), {}, {"plain": PLAIN})


PUBLISHED = [("nyud", 402_092_888, 601.878), ("pascal", 422_929_810, 672.379)]
"""Parameters and GMAC of the public graphs at their full size, counted as `cost.count` does."""


@pytest.mark.parametrize(("data", "params", "gmac"), PUBLISHED)
def test_it_has_the_published_size(data, params, gmac):
    settings = config.load(TrainConfig, preset(f"{data}_invpt"))
    channels = {"semseg": 40 if data == "nyud" else 21, "human_parts": 7}
    specs = {
        name: tasks.find(name).spec(tuple(map(str, range(channels.get(name, 0)))))
        for name in settings.tasks
    }
    size = settings.height, settings.width
    with torch.device("meta"):
        network = models.find("invpt").Model(network_config("invpt", settings.network), specs)
    found = count(network, *size)
    # What the public code has and does not read: a skip, widenings, a norm, a mixing of scores;
    # and a bias in front of a batch norm for each task.
    skip, count_of = 576 * 9 * 1024, len(specs)
    dead = skip + 576 + count_of * (576 * 576 + 576) + count_of * 2 * 144 + 10 + count_of * 576
    assert found.params + dead == params
    grid = size[0] * size[1] / 256
    assert (found.macs + skip * grid) / 1e9 == pytest.approx(gmac, rel=1e-5)


def test_the_size_is_told_by_the_number_of_patches():
    for patches, want in ((1008, (448, 576)), (1024, (512, 512)), (16, (64, 64))):
        assert image_size(patches, (448, 576)) == want

"""TaskPrompter beside a slow rewriting of its public code, by weights under their public names."""

import public_taskprompter
import pytest
import torch
from conftest import small, task_specs
from degmix_training import checkpoint, models
from degmix_training.authors import import_checkpoint
from degmix_training.config import TrainConfig, network_config, preset
from degmix_training.cost import count

from degmix_edge import config, tasks
from degmix_edge.errors import CheckpointError, ConfigError, ShapeError
from degmix_edge.workflows.convert import convert

pytestmark = pytest.mark.slow(file_seconds=6)

TASKS = {"semseg": 5, "sal": 2, "depth": 1}
SIZE = (64, 64)


@pytest.fixture(scope="module")
def state():
    return public_taskprompter.random_state(TASKS, SIZE)


def released(folder, state):
    torch.save({"model": {f"module.{k}": v for k, v in state.items()}}, folder / "released.pth.tar")
    return folder / "released.pth.tar"


@pytest.mark.parametrize("windows", [4, 1])
@torch.inference_mode()
def test_an_imported_network_is_the_published_one(windows, state, tmp_path):
    found = import_checkpoint(released(tmp_path, state), {}, {"windows": windows})
    assert found.model == "taskprompter"
    assert found.size == SIZE
    sizes = [found.config[name] for name in ("features", "head_width", "reweigh")]
    assert sizes == [6, 8, True]
    assert list(found.tasks) == ["semseg", "saliency", "depth"]
    network = found.network.double()
    image = torch.randn(2, 3, *SIZE, dtype=torch.float64)
    logits = public_taskprompter.outputs(state, TASKS, image, windows)
    norms = [network.heads[name][1] for name in found.tasks]
    biases = [f"heads.{task}.mt_proj.0" for task in TASKS]
    norms += [layers.fuse[name][2] for layers in network.depths for name in found.tasks]
    biases += [f"backbone.fea_fuse.{depth}.{task}.1" for depth in range(4) for task in TASKS]
    for exact in (False, True):
        got = network(image)
        for task, name in zip(TASKS, found.tasks, strict=True):
            difference = (got[name] - logits[task]).abs().max()
            assert difference <= (1e-11 if exact else 1e-6) * logits[task].abs().max()
        for norm, name in zip(norms, biases, strict=True):  # the import subtracts in FP32
            place, number = name[:-1], int(name[-1])
            mean = state[f"{place}{number + 1}.running_mean"].double()
            norm.running_mean.copy_(mean - state[f"{name}.bias"].double())


@torch.inference_mode()
def test_a_converted_checkpoint_is_the_imported_network(state, tmp_path):
    path, out = released(tmp_path, state), tmp_path / "ours.safetensors"
    with pytest.raises(ConfigError, match="--size 96x64, but this network is built for 64x64"):
        convert(path, out, size=(96, 64))
    assert convert(path, out).size == SIZE
    image = torch.randn(1, 3, *SIZE)
    want, got = import_checkpoint(path).network(image), checkpoint.load(out).network(image)
    assert all(torch.equal(got[name], logits) for name, logits in want.items())


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda s: s.pop("heads.sal.linear_pred.bias"), "no heads.saliency.3.bias"),
        (lambda s: s.update({"backbone.more.weight": torch.ones(1)}), "nothing explains .*more"),
        (lambda s: s.pop("heads.semseg.mt_proj.0.weight"), "no heads.semseg.mt_proj.0.weight, by"),
        (lambda s: s.pop("backbone.pos_embed"), "backbone not recognised"),
        (
            lambda s: [s.pop(k) for k in list(s) if k.startswith("backbone.blocks.11.")],
            "192 channels with 11 blocks",
        ),
    ],
)
def test_what_is_not_the_published_network_is_refused(change, match, state, tmp_path):
    changed = dict(state)
    change(changed)
    with pytest.raises(CheckpointError, match=match):
        import_checkpoint(released(tmp_path, changed))


PUBLISHED = [
    ("nyud_taskprompter", 513_505_709, 839.675),
    ("pascal_taskprompter", 401_104_864, 496.584),
    ("pascal_taskprompter_base", 418_332_214, 1153.372),
]
"""Parameters and GMAC of the public graphs at their full size, counted as `cost.count` does."""


@pytest.mark.parametrize(("name", "params", "gmac"), PUBLISHED)
def test_it_has_the_published_size(name, params, gmac):
    settings = config.load(TrainConfig, preset(name))
    channels = {"semseg": 40 if name.startswith("nyud") else 21, "human_parts": 7}
    specs = {
        task: tasks.find(task).spec(tuple(map(str, range(channels.get(task, 0)))))
        for task in settings.tasks
    }
    size = settings.height, settings.width
    with torch.device("meta"):
        values = network_config("taskprompter", settings.network, size)
        network = models.find("taskprompter").Model(values, specs)
    found = count(network, *size)
    # What the public code has and does not read: the prompts behind the last block and the class
    # token's position; and biases in front of batch norms, at four depths and in the head.
    dim, patches = network.backbone.network.embed_dim, size[0] * size[1] // 256
    dead = dim * (patches + 1) + dim + len(specs) * 5 * values.head_width
    assert found.params + dead == params
    # It also multiplies channel attention by values, which nothing reads.
    assert 0.999 * gmac < found.macs / 1e9 < gmac


def test_prompts_are_for_one_size():
    settings = network_config("taskprompter", small("taskprompter"), (64, 96))
    network = models.find("taskprompter").Model(settings, task_specs(("depth",))).eval()
    with pytest.raises(ShapeError, match="image of 96x64, expected 64x96: its prompts have one"):
        network(torch.randn(1, 3, 96, 64))

"""The three networks are the published ones: parameters, arithmetic, released checkpoints."""

import sys
import types

import pytest
import torch
from degmix_training import models
from degmix_training.authors import import_checkpoint
from degmix_training.backbone import Backbone
from degmix_training.config import network_config
from degmix_training.cost import count
from degmix_training.models import _decoder
from degmix_training.pretrained import load_backbone, unfold_to_block_order
from public_head import PublicHead, mmseg_swin, random_state

from degmix_edge import tasks
from degmix_edge.errors import CheckpointError

pytestmark = pytest.mark.slow(file_seconds=25)

NYUD = {"semseg": 40, "depth": 1, "normals": 3, "edge": 1}
PASCAL = {"semseg": 21, "human_parts": 7, "saliency": 2, "normals": 3, "edge": 1}
# Parameters in millions (NYUD, PASCAL) and GMAC (425x560, 512x512) of the public graphs.
PUBLISHED = {
    ("demt", "tiny"): (32.07, 33.03, 128.6, 180.0),
    ("demt", "small"): (53.39, 54.35, 149.4, 203.8),
    ("demt", "base"): (91.97, 93.07, 192.5, 254.8),
    ("demt", "large"): (201.58, 202.96, 306.6, 388.6),
    ("demtg", "tiny"): (33.20, 34.37, 157.1, 219.0),
    ("demtg", "small"): (54.52, 55.69, 177.9, 242.8),
    ("demtg", "base"): (93.10, 94.41, 221.0, 293.8),
    ("demtg", "large"): (202.71, 204.30, 335.1, 427.6),
    ("degmix", "tiny"): (39.10, 40.28, 43.3, 56.7),
    ("degmix", "small"): (60.42, 61.59, 64.1, 80.4),
    ("degmix", "base"): (100.97, 102.28, 99.4, 120.7),
    ("degmix", "large"): (214.51, 216.10, 198.0, 233.3),
}


def specs(channels):
    return {
        name: tasks.find(name).spec(tuple(map(str, range(n))) if n > 3 else ())
        for name, n in channels.items()
    }


def dead_parameters(model, channels, dim, num_tasks):
    """The public graph's weights that have no effect on what it computes for one image."""
    fusion_query_and_key = 2 * (dim * dim + dim)
    key_bias_under_softmax = num_tasks * dim if model != "degmix" else 0
    unused_reduction = sum(channels) * dim + dim + 2 * dim if model == "degmix" else 0
    return fusion_query_and_key + key_bias_under_softmax + unused_reduction


@pytest.fixture
def made_once(monkeypatch):
    """Networks without values share a backbone, because Swin's own initialization takes seconds."""
    made = {}

    def of(config, **options):
        if config.backbone not in made:
            made[config.backbone] = Backbone.of(config, **options)
        return made[config.backbone]

    monkeypatch.setattr(_decoder, "Backbone", types.SimpleNamespace(of=of))


@pytest.mark.parametrize(("model", "swin"), list(PUBLISHED))
def test_parameters_and_multiply_adds_are_the_published_graphs(model, swin, made_once):
    published = PUBLISHED[model, swin]
    for index, (channels, size) in enumerate(((NYUD, (425, 560)), (PASCAL, (512, 512)))):
        with torch.device("meta"):
            config = network_config(model, {"backbone": f"swin_{swin}_patch4_window7_224"})
            network = models.find(model).Model(config, specs(channels))
        cost = count(network, *size)
        dead = dead_parameters(model, network.backbone.channels, 256, len(channels))
        assert (cost.params + dead) / 1e6 == pytest.approx(published[index], rel=1e-3)
        assert cost.macs / 1e9 <= published[2 + index]
        assert cost.macs == sum(cost.macs_of.values())
        if swin == "tiny":  # what is folded comes after the backbone, and is the same for all four
            with torch.device("meta"):
                folded = network.fold_for_inference()
            folded = count(folded, *size)
            assert folded.macs < cost.macs
            assert folded.macs_of["backbone"] == cost.macs_of["backbone"]


def test_multiply_adds_of_a_mixer_by_hand():
    with torch.device("meta"):
        config = network_config("demt", {"backbone": "swin_tiny_patch4_window7_224"})
        network = models.find("demt").Model(config, specs({"depth": 1}))
    pixels, d = 56 * 56, 256
    offsets = 9 * d * 18 + 9 * 9 * 2 * d  # two groups
    assert count(network, 224, 224).macs_of["mixers"] == pixels * (d * d + offsets + d * d)


def test_hrnet_has_the_published_parameters():
    with torch.device("meta"):
        config = network_config("demt", {"backbone": "hrnet_w18_small_v2", "dim": 128})
        network = models.find("demt").Model(config, specs(NYUD))
    dead = dead_parameters("demt", [], 128, len(NYUD))
    assert (count(network, 425, 560).params + dead) / 1e6 == pytest.approx(4.764, rel=1e-3)


@pytest.fixture(scope="module")
def swin():
    torch.manual_seed(0)
    return Backbone("swin_tiny_patch4_window7_224").eval()


THEIR_TASKS = {"semseg": 5, "sal": 2, "depth": 1}
CASES = [("demt", "mix_first", 4), ("demt", "deform_first", 4), ("demtg", "mix_first", 2)]
CASES += [("degmix", "mix_first", 2), ("degmix", "deform_first", 2)]


@pytest.mark.parametrize(("model", "order", "heads"), CASES)
def test_a_released_checkpoint_computes_what_the_public_head_computes(
    model, order, heads, swin, tmp_path
):
    head = random_state(model, order, THEIR_TASKS, swin.channels, depth=2)
    state = {**head, **{f"backbone.{k}": v for k, v in mmseg_swin(swin).items()}}
    state["criterion.weight"] = torch.ones(3)
    state = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    path = tmp_path / "released.ckpt"
    torch.save({"state_dict": state, "epoch": 3, "callbacks": {}}, path)

    found = import_checkpoint(path, {"semseg": tuple("abcde")}, {"num_heads": heads})
    assert found.model == model
    assert list(found.tasks) == ["semseg", "saliency", "depth"]
    assert found.config["mixer_order"] == order
    assert found.config["depth"] == 2
    assert {fate.key for fate in found.fates} == set(state)

    network = found.network.double()
    torch.manual_seed(1)
    maps = [
        torch.randn(1, c, -(-9 // s), -(-10 // s), dtype=torch.float64)
        for c, s in zip(swin.channels, (1, 2, 4, 8), strict=True)
    ]
    # The checkpoint is float32: the reference computes with those very numbers.
    exact = {k: v.double() for k, v in state.items() if k.startswith("head.")}
    want = PublicHead(model, order, exact, THEIR_TASKS, heads)(maps, (36, 40))
    with torch.no_grad():
        got = network.decode(maps, torch.Size((36, 40)))
        folded = network.fold_for_inference().decode(maps, torch.Size((36, 40)))
    for theirs, ours in zip(THEIR_TASKS, found.tasks, strict=True):
        scale = want[theirs].abs().max()
        assert (got[ours] - want[theirs]).abs().max() <= 1e-5 * scale
        assert (got[ours] - want[theirs]).abs().max() <= 1e-9 * scale  # what float64 really gives
        assert (folded[ours] - want[theirs]).abs().max() <= 1e-9 * scale
    with torch.inference_mode():
        image = torch.randn(1, 3, 61, 90)
        for a, b in zip(found.network.float().backbone(image), swin(image), strict=True):
            torch.testing.assert_close(a, b)


def released(tmp_path, swin, change):
    head = random_state("demt", "mix_first", THEIR_TASKS, swin.channels, depth=1)
    state = {**head, **{f"backbone.{k}": v for k, v in mmseg_swin(swin).items()}}
    change(state)
    path = tmp_path / "released.ckpt"
    torch.save({"state_dict": state}, path)
    return path


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (
            lambda s: s.update({"head.extra.weight": torch.ones(1)}),
            "1 keys that nothing explains.*head.extra.weight",
        ),
        (lambda s: s.update({"ema.decay": torch.ones(1)}), "1 keys that nothing explains"),
        (lambda s: s.pop("head.smlp.0.bias"), "no interact.2.bias"),
        (lambda s: s.pop("backbone.norm2.weight"), "no backbone.norms.2.weight"),
        (lambda s: s.update({"head.smlp.0.bias": torch.ones(3)}), r"is \(3,\), expected \(16,\)"),
        (lambda s: s.pop("head.task_fusion.out_proj.weight"), "none of the authors' checkpoints"),
        (
            lambda s: s.pop("backbone.patch_embed.projection.weight"),
            "no backbone.network.patch_embed.proj.weight",
        ),
        (
            lambda s: [s.pop(k) for k in list(s) if k.startswith("backbone.stages.0.")],
            "backbone not recognised",
        ),
    ],
)
def test_released_checkpoints_that_are_refused(change, match, swin, tmp_path):
    with pytest.raises(CheckpointError, match=match):
        import_checkpoint(released(tmp_path, swin, change), {})


def test_an_old_lightning_file_is_read_and_a_harmful_one_refused(swin, tmp_path, monkeypatch):
    module = types.ModuleType("pytorch_lightning.callbacks.model_checkpoint")
    module.ModelCheckpoint = type("ModelCheckpoint", (), {"__module__": module.__name__})
    for name in ("pytorch_lightning", "pytorch_lightning.callbacks"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, module.__name__, module)
    path = released(tmp_path, swin, lambda state: None)
    content = torch.load(path)
    torch.save({**content, "callbacks": {module.ModelCheckpoint: {"best": 1}}}, path)
    monkeypatch.delitem(sys.modules, module.__name__)
    assert import_checkpoint(path, {}).model == "demt"

    class Harm:
        def __reduce__(self):
            return (print, ("this would run",))

    torch.save({**content, "callbacks": Harm()}, path)
    with pytest.raises(CheckpointError, match=r"builtins\.print.*could run code"):
        import_checkpoint(path, {})
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="not a PyTorch file"):
        import_checkpoint(path, {})


def test_patch_merging_is_permuted():
    weight = torch.arange(8.0)  # 2 channels, (channel, row, column)
    # timm: (0,0), (1,0), (0,1), (1,1) as (row, column), channels inside.
    assert unfold_to_block_order(weight).tolist() == [0, 4, 2, 6, 1, 5, 3, 7]


@pytest.mark.parametrize("style", ["mmseg", "microsoft", "timm", "own"])
def test_backbone_weights_from_a_file(style, swin, tmp_path):
    own = swin.state_dict()
    state = {k.removeprefix("network."): v for k, v in own.items() if k.startswith("network.")}
    if style == "mmseg":
        state = {f"backbone.{k}": v for k, v in mmseg_swin(swin).items()}
        state["decode_head.conv_seg.weight"] = torch.ones(3)
    elif style == "own":
        state = dict(own)
    else:
        state = {k.replace("layers_", "layers."): v for k, v in state.items()}
        state["head.weight"], state["norm.weight"] = torch.ones(3), torch.ones(3)
        if style == "microsoft":
            moved = {}
            for key, value in state.items():
                if ".downsample." in key:
                    stage = int(key[len("layers.")])
                    key = key.replace(f"layers.{stage}", f"layers.{stage - 1}")
                moved[key] = value
            state = {**moved, "layers.0.blocks.1.attn_mask": torch.ones(3)}
    path = tmp_path / "swin.pth"
    torch.save({"state_dict" if style == "mmseg" else "model": state}, path)
    torch.manual_seed(5)
    fresh = Backbone(swin.name)
    fates = load_backbone(fresh, path)
    for key, value in fresh.state_dict().items():
        if style in ("mmseg", "own") or not key.startswith("norms."):
            assert torch.equal(value, own[key]), key
    assert any("starts anew" in f.why for f in fates) == (style in ("microsoft", "timm"))


def test_weights_of_another_backbone_are_refused(swin, tmp_path):
    path = tmp_path / "swin.pth"
    torch.save(mmseg_swin(swin), path)
    with pytest.raises(CheckpointError, match="does not fit backbone 'swin_small.*missing"):
        load_backbone(Backbone("swin_small_patch4_window7_224"), path)
    with pytest.raises(CheckpointError, match="keys that nothing explains"):
        load_backbone(Backbone("resnet18"), path)


def test_hrnet_weights_from_a_file(tmp_path):
    own = Backbone("hrnet_w18_small_v2")
    state = {f"backbone.{k.removeprefix('network.')}": v for k, v in own.state_dict().items()}
    state["decode_head.conv_seg.weight"] = torch.ones(3)
    torch.save({"state_dict": state}, tmp_path / "hrnet.pth")
    torch.manual_seed(9)
    fresh = Backbone(own.name)
    load_backbone(fresh, tmp_path / "hrnet.pth")
    for key, value in fresh.state_dict().items():
        assert torch.equal(value, own.state_dict()[key]), key

"""HRNet and ViT compute what the published code computes, and convert proves it or refuses."""

import pytest
import timm
import torch
from conftest import small, task_specs
from degmix_training import checkpoint
from degmix_training.authors import import_checkpoint
from degmix_training.backbone import Backbone, PlainSettings
from degmix_training.pretrained import load_backbone
from degmix_training.untrained import untrained
from public_head import PublicHead, random_state
from public_hrnet import random_hrnet
from public_vit import random_vit

from degmix_edge import config
from degmix_edge.errors import CheckpointError, ConfigError

pytestmark = pytest.mark.slow(file_seconds=20)

SIZES = [(128, 160), (106, 140), (425, 560)]
TASKS = {"semseg": 5, "sal": 2, "depth": 1}


def singles(state):
    return {k: v.float() if v.is_floating_point() else v for k, v in state.items()}


def largest_difference(got, want):
    assert [m.shape for m in got] == [m.shape for m in want]
    pairs = zip(got, want, strict=True)
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


@pytest.fixture(scope="module")
def hrnet():
    return random_hrnet()


def released(folder, hrnet, change=None, model="demt"):
    head = random_state(model, "mix_first", TASKS, (18, 36, 72, 144), depth=1)
    state = {**head, **{f"backbone.{k}": v for k, v in hrnet.state_dict().items()}}
    if change:
        change(state)
    torch.save({"state_dict": singles(state)}, folder / "released.ckpt")
    return folder / "released.ckpt"


@torch.inference_mode()
def test_an_imported_hrnet_is_the_published_one(hrnet, tmp_path):
    found = import_checkpoint(released(tmp_path, hrnet), {}, {"num_heads": 4})
    assert found.config["backbone"] == "hrnet_w18_small_v2"
    assert "within" in found.notes[0]
    ours = found.network.backbone.double()
    for size in SIZES:
        image = torch.randn(1, 3, *size, dtype=torch.float64)
        assert largest_difference(ours(image), hrnet(image)) <= 1e-9


@pytest.mark.parametrize("style", ["mmsegmentation", "timm"])
@torch.inference_mode()
def test_hrnet_weights_of_either_kind_give_the_published_maps(style, hrnet, tmp_path):
    state = singles(hrnet.state_dict())
    if style == "timm":  # with the layers of a classifier, which have no place here
        whole = timm.create_model("hrnet_w18_small_v2").state_dict()
        assert set(state) < set(whole)
        state = {**whole, **state}
    torch.save(state, tmp_path / "hrnet.pth")
    ours = Backbone("hrnet_w18_small_v2").eval()
    load_backbone(ours, tmp_path / "hrnet.pth")
    image = torch.randn(2, 3, 106, 140, dtype=torch.float64)
    assert largest_difference(ours.double()(image), hrnet(image)) <= 1e-9


@pytest.mark.parametrize(
    ("change", "settings", "match"),
    [
        # A whole zoo of HRNets has the same names: depths and widths differ.
        (
            lambda s: [s.pop(k) for k in list(s) if k.startswith("backbone.stage4.1.")],
            {},
            "does not fit demt with hrnet_w18_small_v2",
        ),
        (lambda s: s.pop("backbone.stage3.1.fuse_layers.0.1.1.bias"), {}, "1 of .* missing"),
        (
            lambda s: s.update({"backbone.layer1.2.conv1.weight": torch.ones(64, 256, 1, 1)}),
            {},
            "backbone not recognised.*18 channels with 3 blocks",
        ),
        # The same weights, fused as timm does it: the names cannot tell, the maps do.
        (None, {"hrnet_fuse": "nearest"}, "computes other maps than the file describes"),
    ],
)
def test_what_is_not_the_published_hrnet_is_refused(change, settings, match, hrnet, tmp_path):
    with pytest.raises(CheckpointError, match=match):
        import_checkpoint(released(tmp_path, hrnet, change), {}, settings)


def test_weights_of_another_backbone_are_named(hrnet, tmp_path):
    torch.save(singles(hrnet.state_dict()), tmp_path / "hrnet.pth")
    for other in ("hrnet_w18", "hrnet_w18_small", "resnet18"):
        with pytest.raises(CheckpointError, match="The file is of hrnet_w18_small_v2$"):
            load_backbone(Backbone(other), tmp_path / "hrnet.pth")
    torch.save(timm.create_model("resnet18").state_dict(), tmp_path / "resnet.pth")
    with pytest.raises(CheckpointError, match="The file is of resnet18$"):
        load_backbone(Backbone("hrnet_w18_small_v2"), tmp_path / "resnet.pth")
    load_backbone(Backbone("resnet18"), tmp_path / "resnet.pth")


FIRST = [
    ("demt", {"backbone": "hrnet_w18_small_v2"}, {"hrnet_fuse": "nearest"}),
    ("mlore", {"backbone": "vit_tiny_patch16_224"}, {"activation": "relu", "plain": {}}),
    ("m3vit", {"distil": True}, {"shared_norm": True, "distil": False}),
    ("baseline", {"partially_dynamic": {}}, {"partially_dynamic": {"structured": True}}),
]
"""What a card says, and what was the default when the first format was written."""


@pytest.mark.parametrize(("model", "given", "former"), FIRST, ids=[row[0] for row in FIRST])
@torch.inference_mode()
def test_checkpoints_of_the_first_format_compute_what_they_did(model, given, former, tmp_path):
    values = small(model) | given
    before = untrained(model, values | former, task_specs(("depth", "edge")), (64, 96))
    silent = before.card.config.model_copy(update={"network": values})
    card = before.card.model_copy(update={"config": silent})
    image = torch.randn(1, 3, 64, 96)
    state = before.network.state_dict()
    if model == "m3vit":
        state |= {"distillations.0.balance.weight": torch.ones(2)}  # of the former module
    path = tmp_path / "first.safetensors"
    write_as(path, checkpoint.FIRST_FORMAT, state, card)
    loaded = checkpoint.load(path)
    for task, logits in before.network(image).items():
        assert torch.equal(loaded.network(image)[task], logits)
    # Written again, it says what it is.
    checkpoint.save(path, loaded.network.state_dict(), loaded.card)
    again = checkpoint.load(path).network(image)
    for task, logits in before.network(image).items():
        assert torch.equal(again[task], logits)
    # In the second format the same card means the published network.
    write_as(path, checkpoint.FORMAT, before.network.state_dict(), card)
    assert not computes(path, image, before.network(image)["depth"])


def computes(path, image, depth):
    try:
        return torch.equal(checkpoint.load(path).network(image)["depth"], depth)
    except CheckpointError:  # weights of another network
        return False


def write_as(path, name, state, card):
    from safetensors.torch import save_file

    header = {"format": name, "card": card.model_dump_json()}
    save_file({key: value.contiguous() for key, value in state.items()}, path, metadata=header)


def test_a_run_of_the_first_format_is_resumed_only_with_its_settings(tmp_path):
    from degmix_training.fit import LAST, STATE, fit

    values = small("demt") | {"backbone": "hrnet_w18_small_v2"}
    begun = untrained("demt", values, task_specs(("depth", "edge")), (64, 96))
    write_as(tmp_path / LAST, checkpoint.FIRST_FORMAT, begun.network.state_dict(), begun.card)
    torch.save({}, tmp_path / STATE)
    (tmp_path / "config.yaml").write_text(config.dump(begun.card.config))
    with pytest.raises(ConfigError, match="cannot resume with other settings: network .*nearest"):
        fit(begun.card.config, tmp_path, resume=True)


def test_a_fuse_of_hrnet_is_for_hrnet():
    with pytest.raises(ConfigError, match="hrnet_fuse 'nearest' applies to HRNet only"):
        Backbone("resnet18", hrnet_fuse="nearest")


@pytest.fixture(scope="module")
def vit():
    return random_vit()


def released_vit(folder, vit, change=None):
    head = random_state("degmix", "mix_first", TASKS, (1440,), depth=1, plain=vit.dim)
    state = {**head, **{f"backbone.{k}": v for k, v in vit.state_dict().items()}}
    if change:
        change(state)
    torch.save({"state_dict": singles(state)}, folder / "released.ckpt")
    return folder / "released.ckpt", singles(head)


@torch.inference_mode()
def test_an_imported_vit_is_the_published_one(vit, tmp_path):
    path, head = released_vit(tmp_path, vit)
    found = import_checkpoint(path, {})
    assert found.model == "degmix"
    assert found.config["backbone"] == "vit_tiny_patch16_224"
    assert found.config["plain"]["table_side"] == 64
    assert "within" in found.notes[0]
    network = found.network.double()
    for size in ((64, 64), (43, 58), (80, 96)):  # the table's size, a smaller and a larger one
        image = torch.randn(1, 3, *size, dtype=torch.float64)
        want = vit(image)
        assert largest_difference(network.backbone(image), want) <= 1e-9
    exact = {k: v.double() for k, v in head.items()}
    want = PublicHead("degmix", "mix_first", exact, TASKS, 2)(want, size)
    got = network(image)
    for theirs, ours in zip(TASKS, found.tasks, strict=True):
        scale = want[theirs].abs().max()
        assert (got[ours] - want[theirs]).abs().max() <= 1e-9 * scale
    # Saved and loaded again, it has the same table, norms and class token.
    again = Backbone(found.config["backbone"], plain=network.backbone.plain)
    again.load_state_dict(network.backbone.state_dict())


@pytest.mark.parametrize(
    ("change", "settings", "match"),
    [
        (None, {"plain": {"table_side": 64, "epsilon": 1e-5}}, "computes other maps"),
        (lambda s: s.pop("backbone.layers.3.ln2.bias"), {}, "no backbone.*blocks.3.norm2.bias"),
        (lambda s: s.pop("head.featconv.head6.3.weight"), {}, "no embed.join.3.weight"),
        (
            lambda s: s.update({"head.featconv.head7.0.weight": torch.ones(1)}),
            {},
            "1 keys that nothing explains .*head7",
        ),
        (
            lambda s: [s.pop(k) for k in list(s) if k.startswith("backbone.layers.11.")],
            {},
            "192 channels with 11 blocks",
        ),
    ],
)
def test_what_is_not_the_published_vit_is_refused(change, settings, match, vit, tmp_path):
    with pytest.raises(CheckpointError, match=match):
        import_checkpoint(released_vit(tmp_path, vit, change)[0], {}, settings)


@torch.inference_mode()
def test_a_class_token_and_a_last_norm_are_settings(tmp_path):
    theirs = timm.create_model("vit_tiny_patch16_224").eval()
    torch.nn.init.normal_(theirs.norm.weight)
    torch.nn.init.normal_(theirs.cls_token)
    torch.save(theirs.state_dict(), tmp_path / "vit.pth")
    image = torch.randn(1, 3, 224, 224)
    for plain in ({}, {"class_token": False, "last_norm": True}):
        ours = Backbone("vit_tiny_patch16_224", plain=PlainSettings(**plain)).eval()
        fates = {fate.key: fate for fate in load_backbone(ours, tmp_path / "vit.pth")}
        tokens = theirs.patch_embed(image) + theirs.pos_embed[:, 1:]
        if not plain:
            first = theirs.cls_token + theirs.pos_embed[:, :1]
            tokens = torch.cat((first, tokens), dim=1)
        tokens = theirs.blocks(tokens)[:, -196:]
        want = theirs.norm(tokens) if plain else tokens
        torch.testing.assert_close(ours(image)[-1], want.transpose(1, 2).unflatten(2, (14, 14)))
        assert bool(fates["norm.weight"].became) == bool(plain)
        assert bool(fates["cls_token"].became) != bool(plain)
    with pytest.raises(ConfigError, match="apply to timm's VisionTransformer"):
        Backbone("vit_small_patch16_dinov3", plain=PlainSettings(last_norm=True))

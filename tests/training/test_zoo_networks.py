"""The zoo's networks: sizes as in the public graphs, and each part by a slow reference."""

import math
import warnings

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import lively, small, task_specs
from degmix_training import checkpoint, experts, models
from degmix_training.config import network_config
from degmix_training.cost import count
from degmix_training.models._moe import FixedExperts, Mixture
from degmix_training.models._network import Head
from degmix_training.models._partially_dynamic import (
    MixedConv2d,
    PartiallyDynamicConv2d,
    PartialSettings,
    partition,
)
from degmix_training.models._tam import Distillation
from degmix_training.models.densemtl import CrossTask, nearest
from degmix_training.models.m3vit import MoeTransformer
from degmix_training.models.mlore import LowRank, Router
from degmix_training.models.taskexpert import Depth
from degmix_training.untrained import untrained
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from degmix_edge import tasks
from degmix_edge.errors import ConfigError, ShapeError

pytestmark = pytest.mark.slow(file_seconds=20)

NYUD = {"semseg": 40, "depth": 1, "normals": 3, "edge": 1}
PASCAL = {"semseg": 21, "human_parts": 7, "saliency": 2, "normals": 3, "edge": 1}
SD, SDN = ("semseg", "depth"), ("semseg", "depth", "normals")


def specs(channels):
    return {
        name: tasks.find(name).spec(tuple(map(str, range(n))) if n > 3 else ())
        for name, n in channels.items()
    }


def published(model, channels, size, **settings):
    with torch.device("meta"):
        config = network_config(model, settings, size)
        return models.find(model).Model(config, specs(channels))


def make(model, names=("semseg", "depth", "normals"), size=(64, 96), **settings):
    torch.manual_seed(3)
    config = network_config(model, small(model) | settings, size)
    return models.find(model).Model(config, task_specs(names))


# Parameters in millions and GMAC: initial features, distillation, heads.
PADNET = [
    ({k: NYUD[k] for k in SD}, (), (480, 640), 3.08, (8.0, 45.3, 5.5)),
    ({k: NYUD[k] for k in SD}, ("edge", "normals"), (480, 640), 8.23, (16.1, 135.9, 5.5)),
    (NYUD, (), (480, 640), 15.59, (16.1, 271.8, 10.9)),
    (PASCAL, (), (512, 512), 25.37, (17.1, 386.5, 11.6)),
]


@pytest.mark.parametrize(("channels", "auxiliary", "size", "params", "gmac"), PADNET)
def test_padnet_has_the_compared_forms_size(channels, auxiliary, size, params, gmac):
    network = published("padnet", channels, size, auxiliary=auxiliary)
    parts = ("features", "initial", "distil", "heads")
    own = sum(p.numel() for part in parts for p in getattr(network, part).parameters())
    assert own / 1e6 == pytest.approx(params, rel=0.01)
    macs = count(network, *size).macs_of
    for part, want in zip(("features", "distil", "heads"), gmac, strict=True):
        assert macs[part] / 1e9 == pytest.approx(want, rel=0.01)
    assert macs["initial"] == 0  # in training only


DENSEMTL = [
    (SD, (448, 576), 87.4, 233.9),
    (SDN, (448, 576), 111.0, 403.1),
    (tuple(NYUD), (448, 576), 135.4, 624.4),
    (SD, (512, 1024), 87.4, 491.9),
    (SDN, (512, 1024), 111.0, 870.7),
]


@pytest.mark.parametrize(("names", "size", "params", "gmac"), DENSEMTL)
def test_densemtl_has_the_published_forms_size(names, size, params, gmac):
    network = published("densemtl", {k: NYUD[k] for k in names}, size)
    cost = count(network, *size)
    assert cost.params / 1e6 == pytest.approx(params, rel=0.01)
    assert cost.macs / 1e9 == pytest.approx(gmac, rel=0.01)


def test_m3vit_has_the_papers_backbone():
    """42.9 M and 21.6 M are without position table and routers, as the dense one is counted."""
    network = published("m3vit", {"semseg": 40, "depth": 1}, (480, 640))
    routers = sum(p.numel() for m in network._mixtures() for p in m.router.parameters())
    own = sum(p.numel() for p in network.backbone.parameters())
    assert (own - routers - network.backbone.network.pos_embed.numel()) / 1e6 == pytest.approx(
        42.9, rel=0.01
    )
    with torch.device("meta"):
        import timm

        dense = timm.create_model("deit_small_patch16_224", num_classes=0)
    plain = sum(p.numel() for p in dense.parameters()) - dense.pos_embed.numel()
    assert plain / 1e6 == pytest.approx(21.6, rel=0.01)
    head = sum(p.numel() for p in network.decoders["semseg"].parameters())
    assert head / 1e6 == pytest.approx((9 * 256 * (384 + 3 * 256) + 40 * 256) / 1e6, rel=0.01)


# GMAC of the backbone: every expert and a mask; tasks share block 0, block 1's attention, and its
# experts' first product.
SHARED_FIRST = {(480, 640): 2.8, (512, 512): 2.4}
M3VIT = [
    ({"semseg": 40}, (480, 640), 64.7),
    ({"semseg": 40, "depth": 1}, (480, 640), 124.0),
    ({"semseg": 21}, (512, 512), 53.6),
    (PASCAL, (512, 512), 250.4),
]


@pytest.mark.parametrize(("channels", "size", "gmac"), M3VIT)
def test_m3vit_costs_what_masking_costs(channels, size, gmac):
    network = published("m3vit", channels, size)
    cost = count(network, *size)
    saved = SHARED_FIRST[size] * (len(channels) - 1)
    assert cost.macs_of["backbone"] / 1e9 == pytest.approx(gmac - saved, rel=0.01)
    heads = {(480, 640): 60.5, (512, 512): 51.6}[size] * len(channels)
    assert cost.macs_of["decoders"] / 1e9 == pytest.approx(heads, rel=0.015)


def test_m3vit_gathered_costs_what_the_dense_transformer_costs():
    torch.manual_seed(0)
    config = network_config("m3vit", {}, (480, 640))
    backbone = MoeTransformer(config, 1, pretrained=False).eval()
    # torch 2.14 counts nothing for the fused attention of its CPU kernels; plain products it does.
    plain = sdpa_kernel(SDPBackend.MATH)
    with plain, FlopCounterMode(display=False) as counter, torch.inference_mode():
        backbone(torch.randn(1, 3, 480, 640))
    assert counter.get_total_flops() / 2e9 == pytest.approx(39.2, rel=0.01)


def slow_mixture(mixture, x, router):
    """A token at a time, its experts one by one."""
    probabilities = router(x)  # T N L E
    rows, images, tokens, _ = probabilities.shape
    hidden = mixture.expand.out_features // mixture.experts
    out = torch.zeros(rows, images, tokens, x.shape[-1], dtype=x.dtype)
    for t, n, i in np.ndindex(rows, images, tokens):
        token = x[t if len(x) > 1 else 0, n, i]
        for expert in probabilities[t, n, i].argsort(descending=True)[: mixture.top_k]:
            own = slice(int(expert) * hidden, (int(expert) + 1) * hidden)
            inner = mixture.expand.weight[own] @ token + mixture.expand.bias[own]
            made = mixture.contract.weight[:, own] @ F.gelu(inner) + mixture.bias[expert]
            out[t, n, i] += probabilities[t, n, i, expert] * made
    return out


CASES = [
    ("single", 1),
    *((router, n) for router in ("multi_gate", "task_conditioned") for n in (1, 3)),
]


@pytest.mark.parametrize(("router", "rows"), CASES)
@torch.inference_mode()
def test_masked_and_gathered_experts_are_the_slow_ones(router, rows):
    torch.manual_seed(0)
    values = {"experts": 5, "top_k": 2, "expert_dim": 7, "router": router}
    config = network_config("m3vit", values, (64, 96))
    mixture = Mixture(8, config, 3).double().eval()
    mixture.bias.normal_()
    x = torch.randn(rows, 2, 6, 8, dtype=torch.float64)
    gates = mixture.gates(mixture.router(x))
    assert ((gates > 0).sum(-1) == 2).all()
    want = slow_mixture(mixture, x, mixture.router)
    torch.testing.assert_close(mixture.gathered(x, gates), want)
    torch.testing.assert_close(mixture.masked(x, gates), want)
    assert len(want) == (1 if router == "single" else 3)


@torch.inference_mode()
def test_keeping_tasks_keeps_their_values_and_drops_their_rows():
    for router in ("multi_gate", "task_conditioned", "single"):
        network = lively(make("m3vit", router=router))
        kept = network.keep(("semseg", "normals"))
        image = torch.randn(2, 3, 64, 96)
        want, got = network(image), kept(image)
        assert list(got) == ["semseg", "normals"]
        for task, logits in got.items():
            assert (logits - want[task]).abs().max() <= 1e-5 * want[task].abs().max()
        rows = kept.backbone(image)
        assert len(rows) == (1 if router == "single" else 2)


@torch.inference_mode()
def test_a_faded_router_is_an_ordinary_mlp():
    network = lively(make("m3vit", fade=0.5))
    network.train()
    network.advance(0.4)
    assert all(m.faded == 0 for m in network._mixtures())
    assert network.folds == ()
    network.advance(1.0)
    network.eval()
    assert network.folds == ("drop_routers",)
    folded = network.fold_for_inference()
    assert all(isinstance(m, FixedExperts) for m in folded.backbone.mixtures.values())
    image = torch.randn(2, 3, 64, 96)
    want, got = network(image), folded(image)
    for task, logits in got.items():
        assert (logits - want[task]).abs().max() <= 1e-5 * want[task].abs().max()
    assert count(folded, 64, 96).macs < count(network, 64, 96).macs


def test_training_gives_what_inference_does_not():
    image = torch.randn(2, 3, 64, 96)
    extra = {
        "padnet": {"edge@initial", "semseg@initial"},
        "densemtl": {"semseg@side", "depth@side"},
        "m3vit": {"semseg@distil0", "depth@distil2", "@balance"},
        "mlore": {"@balance"},
        "taskexpert": set(),
        "invpt": {"semseg@initial", "depth@initial"},
        "taskprompter": set(),
    }
    for model, names in extra.items():
        settings = {"auxiliary": ("edge",)} if model == "padnet" else {}
        network = make(model, ("semseg", "depth"), **settings).train()
        found = network(image)
        assert names <= set(found), model
        for name, output in found.items():
            assert output.shape[-2:] == (64, 96) if name[0] != "@" else output.ndim == 0, name
        assert list(network.eval()(image)) == ["semseg", "depth"]


def test_a_position_table_of_another_size_is_resized_and_said():
    network = make("m3vit").eval()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        network(torch.randn(1, 3, 64, 96))
        network(torch.randn(1, 3, 60, 90))  # the same grid of patches
    with pytest.warns(UserWarning, match="for 4x6 patches, resized to 6x4"):
        logits = network(torch.randn(1, 3, 96, 64))
    assert logits["depth"].shape == (1, 1, 96, 64)


def test_a_router_over_positions_refuses_another_size():
    network = make("mlore").eval()
    with pytest.raises(ShapeError, match="image of 96x64, expected 64x96: its routers have one"):
        network(torch.randn(1, 3, 96, 64))


@pytest.mark.parametrize(
    ("model", "names", "settings", "message"),
    [
        ("padnet", ("depth",), {}, "one task depth, expected at least two"),
        ("densemtl", ("depth",), {}, "one task depth, expected at least two"),
        ("padnet", ("depth",), {"auxiliary": ("semseg",)}, "classes of the data set"),
        ("padnet", ("depth",), {"auxiliary": ("depth",)}, "one of its tasks already"),
        ("padnet", ("depth",), {"auxiliary": ("dept",)}, "Did you mean 'depth'"),
        ("m3vit", SD, {"experts": 3, "top_k": 4}, "3 experts, expected at least top_k = 4"),
        ("mlore", SD, {"top_k": 5}, r"4 experts \(ranks\), expected at least top_k = 5"),
        ("m3vit", SD, {"backbone": "resnet18"}, "timm cannot make it"),
        ("m3vit", SD, {"backbone": "vit_base_patch32_224"}, "patches of 16"),
        ("densemtl", SD, {"backbone": "swin_tiny_patch4_window7_224"}, "no map at 2"),
        ("densemtl", SD, {"exchange": 1}, "exchange at level 1, expected at least finest = 2"),
    ],
)
def test_what_a_network_cannot_be_made_of(model, names, settings, message):
    with pytest.raises(ConfigError, match=message):
        make(model, names, **settings)


def test_padnet_serves_one_task_that_others_help():
    network = make("padnet", ("depth",), auxiliary=("edge", "normals")).eval()
    assert list(network(torch.randn(1, 3, 64, 96))) == ["depth"]


@torch.inference_mode()
def test_a_low_rank_mixture_is_the_sum_of_its_experts():
    torch.manual_seed(0)
    ranks = (1, 3, 2)
    mixture = LowRank(4, ranks).double()
    mixture.up_bias.normal_()
    x, shares = torch.randn(2, 4, 5, 6).double(), torch.randn(2, 3).double()
    want = torch.zeros(2, 4, 5, 6).double()
    start = 0
    for index, rank in enumerate(ranks):
        part = slice(start, start := start + rank)
        inner = F.conv2d(x, mixture.down.weight[part], mixture.down.bias[part], padding=1)
        expert = F.conv2d(inner, mixture.up.weight[:, part], mixture.up_bias[index])
        want += shares[:, index, None, None, None] * expert
    torch.testing.assert_close(mixture(x, shares), want)


@pytest.mark.parametrize("mask_first", [True, False])
@torch.inference_mode()
def test_an_image_keeps_its_top_experts(mask_first):
    torch.manual_seed(0)
    config = network_config("mlore", small("mlore") | {"mask_first": mask_first}, (64, 96))
    router = Router(config, 12).eval()
    for parameter in router.parameters():
        parameter.add_(0.3 * torch.randn_like(parameter))
    x = torch.randn(3, 16, 3, 4)
    shares, _ = router(x)
    assert ((shares > 1e-9).sum(1) == config.top_k).all()
    router.top_k = router.count  # nothing is masked
    top = router(x)[0].topk(config.top_k, dim=1).values.sum(1)
    want = torch.ones(3) if mask_first else top  # not divided again
    torch.testing.assert_close(shares.sum(1), want)


def test_an_mlore_has_the_published_head_maps_and_losses():
    """By the public code's description: GELU, a final norm, no class token, pooled balance."""
    settings = {"backbone": "vit_tiny_patch16_224", "level": 0}
    torch.manual_seed(3)
    network = make("mlore", SD, **settings).train()
    assert isinstance(network.heads["depth"][2], torch.nn.GELU)
    names = set(network.backbone.state_dict())
    assert "last_norm.weight" in names
    assert not any("cls_token" in name for name in names)
    router = next(iter(network.depths[0][0].routers.values()))
    seen = []
    hooks = [
        r.register_forward_hook(lambda module, args, out: seen.append(out[0]))
        for blocks in network.depths
        for block in blocks
        for r in block.routers.values()
    ]
    balance = network(torch.randn(2, 3, 64, 96))["@balance"]
    for hook in hooks:
        hook.remove()
    want = 0.0
    for task_shares in zip(seen[::2], seen[1::2], strict=True):  # two tasks a block
        assert all(((s > 0).sum(1) == network.config.top_k).all() for s in task_shares)
        pooled = torch.cat(task_shares).mean(0).double().detach().numpy()
        want += (pooled.std(ddof=1) / pooled.mean()) ** 2
    assert balance.item() == pytest.approx(network.config.balance * want, rel=1e-5)
    # The noise is the second output times a normal number, as it is: no softplus.
    x = torch.randn(1, 16, 4, 6)
    with torch.no_grad():
        router.out.weight.zero_()
        router.out.bias.zero_()
        router.top_k = router.count
        even = router(x)[0]
        router.out.bias[router.count : 2 * router.count] = 2.0
        noisy = router(x)[0]
    assert even.max() == pytest.approx(even.min())
    assert noisy.max() > 1.5 * noisy.min()


def test_m3vit_has_a_norm_a_task_and_the_published_balance_loss():
    network = make("m3vit", SDN).train()
    for task, decoder in network.decoders.items():
        assert decoder.norm.eps == 1e-6, task
    assert isinstance(network.backbone.network.norm, torch.nn.Identity)
    shared = make("m3vit", SDN, shared_norm=True)
    assert isinstance(shared.backbone.network.norm, torch.nn.LayerNorm)
    gates = []
    mixture = network._mixtures()[0]
    probabilities = torch.rand(3, 2, 5, mixture.experts).softmax(-1)
    mixture.train()
    gates = mixture.gates(probabilities).double().numpy()
    want = 0.0
    for task in gates:
        for used in (task.sum((0, 1)), (task > 0).sum((0, 1))):
            want += used.var(ddof=1) / used.mean() ** 2
    assert mixture.uneven.item() == pytest.approx(want, rel=1e-5)


@pytest.mark.parametrize(
    ("count", "shares"),
    [(2, ("B", "1-B")), (3, ("B", "(1-B)/2", "(1-B)/2")), (5, ("B/2",) * 2 + ("(1-B)/3",) * 3)],
)
@torch.inference_mode()
def test_distillation_is_the_published_module(count, shares):
    torch.manual_seed(0)
    names = ("semseg", "depth", "normals", "edge", "saliency")[:count]
    tam = Distillation(6, task_specs(names)).eval()
    features = {name: torch.randn(2, 6, 10, 9) for name in names}
    given = torch.cat(list(features.values()), 1)
    conv, norm, relu, second, second_norm, sigmoid = tam.share
    B = sigmoid(second_norm(second(relu(norm(conv(given))))))  # noqa: N806
    parts = [x * eval(s, {"B": B}) for x, s in zip(features.values(), shares, strict=True)]
    x = torch.cat(parts, 1)
    for layer in tam.attend:
        x = layer(x)
    M = x[..., :10, :9]  # noqa: N806
    attended = torch.cat([f * (1 + M) for f in features.values()], 1)
    for name, side in tam(features).items():
        torch.testing.assert_close(side, tam.side[name](attended))
    kinds = [type(layer).__name__ for layer in tam.attend]
    assert kinds == ["Conv2d", "BatchNorm2d", "ReLU"] * 3 + [
        *("ConvTranspose2d", "BatchNorm2d", "ReLU", "ConvTranspose2d", "BatchNorm2d", "Sigmoid")
    ]


@torch.inference_mode()
def test_a_memory_is_read_and_written_as_written_down():
    torch.manual_seed(0)
    config = network_config("taskexpert", small("taskexpert"))
    depth = Depth(5, config, task_specs(("depth",))).double().eval()
    x, memory = torch.randn(2, 5, 4, 6).double(), torch.randn(2, 16, 4, 6).double()
    got = depth(x, {"depth": memory})["depth"]
    for row in range(2):
        y = depth.project(x[row : row + 1])
        experts = [expert(y) for expert in depth.experts]
        inner = torch.cat((y.mean((2, 3)), memory[row : row + 1].mean((2, 3))), 1)
        gate = depth.gates["depth"]
        shares = gate.shares(F.gelu(gate.hidden(inner))).softmax(1)[0]
        assert len(shares) == len(experts) + 1
        read = sum(s * e for s, e in zip(shares, [*experts, memory[row : row + 1]], strict=True))
        want = memory[row : row + 1] + depth.write["depth"](read)
        torch.testing.assert_close(got[row : row + 1], want)


@torch.inference_mode()
def test_cross_task_attention_by_hand():
    torch.manual_seed(0)
    pair = CrossTask(4, 2).double().eval()
    pair.alpha.normal_()
    mine, other = torch.randn(1, 4, 4, 6).double(), torch.randn(1, 4, 4, 6).double()
    offered = pair.extract(other)
    q = pair.query(mine[:, :, ::2, ::2])  # nearest
    pooled = offered.reshape(1, 4, 2, 2, 3, 2).amax((3, 5))
    k, v = pair.key(pooled), pair.value(pooled)
    taken = torch.zeros(1, 4, 4, 6).double()
    for y, x in np.ndindex(4, 6):
        scores = torch.stack([q[0, :, y // 2, x // 2] @ k[0, :, b, a] for b, a in np.ndindex(2, 3)])
        shares = (scores / math.sqrt(4)).softmax(0)
        taken[0, :, y, x] = sum(
            s * v[0, :, b, a] for s, (b, a) in zip(shares, np.ndindex(2, 3), strict=True)
        )
    gated = pair.message(offered) * pair.attention(offered).sigmoid()
    want = pair.join(torch.cat((gated, pair.alpha * taken), 1))
    torch.testing.assert_close(pair(mine, other), want)
    assert nearest(mine, (4, 6)) is mine


def test_inverse_depth_is_metres_outside():
    network = make("densemtl", SD, depth="inverse").eval()
    y = torch.tensor([65536 / (100 * 2.5 + 1), 65536 / 1.0, -3.0]).view(1, 1, 1, 3)
    metres = network._out("depth", y, (1, 3)).flatten()
    torch.testing.assert_close(metres, torch.tensor([2.5, 0.0, 3276.79]), rtol=1e-5, atol=1e-6)


# Partially dynamic convolutions


def slow_kernel(layer, x):
    """Each row's kernel by the paper's formula, in numpy."""
    mask = np.broadcast_to(layer.mask.numpy(), layer.static.shape)
    dynamic = layer.dynamic.detach().numpy().reshape(layer.settings.kernels, *layer.static.shape)
    scale = 2 / (1 + np.exp(-float(layer.phi)))
    pooled = x.mean((2, 3)).numpy()
    hidden = np.maximum(pooled @ layer.attention.squeeze.weight.detach().numpy().T, 0)
    excite = layer.attention.excite
    scores = hidden @ excite.weight.detach().numpy().T + excite.bias.detach().numpy()
    shares = np.exp(scores / float(layer.attention.temperature))
    shares /= shares.sum(1, keepdims=True)
    static = (2 - scale) * (1 - mask) * layer.static.detach().numpy()
    return [scale * mask * np.tensordot(s, dynamic, 1) + static for s in shares]


def layer_of(**settings):
    torch.manual_seed(0)
    layer = PartiallyDynamicConv2d(6, 5, 3, PartialSettings(score="random", **settings))
    partition([layer], ())
    with torch.no_grad():
        layer.phi.fill_(0.7)
    layer.advance(0.1)
    return layer.double()


@pytest.mark.parametrize("structured", [True, False])
@torch.inference_mode()
def test_a_partially_dynamic_convolution_is_the_papers_and_folds_exactly(structured):
    layer = layer_of(structured=structured)
    assert 0 < layer.mask.mean() < 1
    assert layer.attention.temperature > 1
    x = torch.randn(3, 6, 4, 7).double()
    want = [
        F.conv2d(x[i : i + 1], torch.from_numpy(kernel), padding=1)
        for i, kernel in enumerate(slow_kernel(layer, x))
    ]
    torch.testing.assert_close(layer(x), torch.cat(want))
    folded, order = layer.folded()
    assert isinstance(folded, MixedConv2d)
    assert (folded.static is not None) == structured
    torch.testing.assert_close(folded.double()(x), layer(x)[:, order])
    assert sorted(order.tolist()) == list(range(5))


def test_a_partially_dynamic_convolution_starts_as_the_public_code():
    torch.manual_seed(0)
    layer = PartiallyDynamicConv2d(64, 48, 3, PartialSettings(reduction=1))
    for weight, width in (
        *((part, 9 * 48) for part in (*layer.dynamic.chunk(4), layer.static)),
        (layer.attention.squeeze.weight, 64),
        (layer.attention.excite.weight, 4),
    ):
        sigma = (2 / width) ** 0.5
        assert weight.std().item() == pytest.approx(sigma, rel=0.1)
        assert weight.abs().max() > 1.8 * sigma  # a uniform one would end at 1.73 sigma
    assert layer.attention.excite.bias.abs().max() == 0
    partition([layer], [lambda: pytest.fail("a random mask needs no loss")])
    assert layer.mask.shape == layer.static.shape
    assert layer.mask.mean() == 0.5
    steps = 90 * 10  # 90 epochs of ten steps; the public code's temperature, step by step
    for step in range(0, steps, 7):
        layer.advance(step / steps)
        want = 1 + max(0, 29 * (150 - step) / 150)
        assert layer.attention.temperature.item() == pytest.approx(want, rel=1e-5)
    uniform = PartiallyDynamicConv2d(64, 48, 3, PartialSettings(init="uniform"))
    assert uniform.static.abs().max() <= (9 * 64) ** -0.5


@pytest.mark.parametrize(("structured", "entries"), [(True, 5), (False, 5 * 6 * 9)])
@pytest.mark.parametrize("schedule", ["exponential", "linear"])
@pytest.mark.parametrize("rounds", [1, 4])
def test_the_share_is_reached_over_all_layers_together(structured, entries, schedule, rounds):
    settings = PartialSettings(
        share=0.4, structured=structured, rounds=rounds, schedule=schedule, score="magnitude"
    )
    torch.manual_seed(0)
    layers = [PartiallyDynamicConv2d(6, 5, 3, settings) for _ in range(3)]
    with torch.no_grad():
        layers[2].dynamic.mul_(100)
    partition(layers, ())
    partition(layers, [lambda: pytest.fail("it was partitioned already")])
    kept = sum(int(layer.mask.sum()) for layer in layers)
    assert kept == round(0.4 * 3 * entries)
    if structured:
        assert layers[2].mask.all()  # ranked together
    assert all(layer.partitioned for layer in layers)


def test_snip_keeps_what_the_loss_feels():
    torch.manual_seed(0)
    layer = PartiallyDynamicConv2d(
        3, 4, 3, PartialSettings(share=0.5, structured=True, score="snip")
    )
    x = torch.randn(2, 3, 6, 6)
    calls = []

    def loss():
        calls.append(1)
        return layer(x)[:, [1, 3]].square().sum()  # other channels do not matter

    partition([layer], [loss, loss])
    assert layer.mask.flatten().tolist() == [0, 1, 0, 1]
    assert len(calls) == 2 * layer.settings.rounds
    assert not layer.mask.requires_grad


@torch.inference_mode()
def test_a_head_folds_the_order_into_what_follows():
    torch.manual_seed(0)
    head = lively(_Headed(PartialSettings(structured=True)), size=(8, 9))
    x = torch.randn(2, 3, 8, 9)
    want = head(x)
    head.head.fold_partition()
    torch.testing.assert_close(head(x), want, rtol=1e-5, atol=1e-5)


class _Headed(torch.nn.Module):
    def __init__(self, settings):
        super().__init__()
        self.head = Head(3, 7, 2, settings)

    def begin(self, losses):
        partition([self.head[0]], losses)

    def forward(self, x):
        return self.head(x)


DYNAMIC = ("baseline", "degmix", "padnet", "densemtl", "m3vit", "mlore", "invpt", "taskprompter")


@pytest.mark.parametrize("model", DYNAMIC)
@torch.inference_mode()
def test_any_head_can_be_partially_dynamic(model):
    network = lively(make(model, partially_dynamic={"kernels": 3}))
    assert "fold_partition" in network.folds
    image = torch.randn(2, 3, 64, 96)
    want, got = network(image), network.fold_for_inference()(image)
    for task, logits in got.items():
        assert (logits - want[task]).abs().max() <= 1e-5 * want[task].abs().max()


# Experts that are pruned


@pytest.fixture
def m3vit():
    loaded = untrained("m3vit", small("m3vit"), task_specs(SDN), (64, 96))
    torch.manual_seed(0)
    images = [torch.randn(1, 3, 64, 96) for _ in range(3)]
    return loaded, images


@torch.inference_mode()
def test_shares_are_the_gates_that_experts_get(m3vit):
    loaded, images = m3vit
    found = experts.shares(loaded, images)
    mixture = loaded.network.backbone.mixtures["1"]
    inputs = []
    hook = mixture.register_forward_hook(lambda module, args, out: inputs.append(args[0]))
    for image in images:
        loaded.network(image)
    hook.remove()
    total = torch.zeros(3, 6)
    for x in inputs:
        probabilities = mixture.router(x)
        for t, n, i in np.ndindex(*probabilities.shape[:3]):
            for expert in probabilities[t, n, i].argsort(descending=True)[:2]:
                total[t, expert] += probabilities[t, n, i, expert]
    torch.testing.assert_close(found["1"], total / total.sum(1, keepdim=True))


@torch.inference_mode()
def test_pruning_nothing_changes_nothing_and_more_changes_some(m3vit, tmp_path):
    loaded, images = m3vit
    found = experts.shares(loaded, images)
    same = experts.prune(loaded, found, 0.0)
    assert same.network.config.kept_experts == (6, 6)
    for task, logits in loaded.network(images[0]).items():
        torch.testing.assert_close(same.network(images[0])[task], logits)
    few = experts.prune(loaded, found, 0.9)
    assert max(few.network.config.kept_experts) <= 6
    for name, share in found.items():
        mixture = few.network.backbone.mixtures[name]
        assert (mixture.allowed.sum(1) == 2).all()  # top_k
        best = share.topk(2, dim=1).indices.sort(1).values
        for task, row in enumerate(mixture.allowed):
            assert mixture.kept[row > 0].tolist() == best[task].tolist()
    # It is a checkpoint like any other: it is saved, loaded and exported.
    path = tmp_path / "few.safetensors"
    checkpoint.save(path, few.network.state_dict(), few.card)
    again = checkpoint.load(path)
    for task, logits in few.network(images[0]).items():
        torch.testing.assert_close(again.network(images[0])[task], logits)
    kept = again.network.keep(("depth",))
    torch.testing.assert_close(kept(images[0])["depth"], few.network(images[0])["depth"])
    with pytest.raises(ConfigError, match="pruned already"):
        experts.shares(again, images)


def test_only_experts_of_tokens_are_pruned():
    loaded = untrained("mlore", small("mlore"), task_specs(SD), (64, 96))
    with pytest.raises(ConfigError, match="'mlore' has no experts of tokens"):
        experts.shares(loaded, [])

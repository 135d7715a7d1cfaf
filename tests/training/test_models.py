"""Every model: shapes, batch independence, folding, gradients; mixer and query by reference."""

import dataclasses
import functools

import numpy as np
import pytest
import torch
from conftest import (
    HEIGHT,
    TASKS,
    WIDTH,
    lively,
    lively_checkpoint,
    lively_network,
    shared_export,
    small,
    task_specs,
)
from degmix_training import backbone as backbones
from degmix_training import checkpoint, models
from degmix_training.backbone import Backbone
from degmix_training.config import network_config
from degmix_training.export import export_checkpoint
from degmix_training.models._folded import FoldedTokenQuery, second_moments
from degmix_training.models._mixer import (
    DeformConv,
    ModulatedDeformConv,
    ModulatedOffset,
    OffsetNetwork,
    SpatialGate,
    sample,
)
from degmix_training.models._network import Network
from degmix_training.models.degmix import TokenQuery
from degmix_training.untrained import untrained
from torchvision.ops import deform_conv2d

from degmix_edge.errors import ConfigError
from degmix_edge.graph.cost import costs, total_macs
from degmix_edge.passes.forms import simplify_model

pytestmark = pytest.mark.slow(file_seconds=40)


def make(model: str, size=(HEIGHT, WIDTH), **settings):
    torch.manual_seed(3)
    values = small(model) | settings
    return models.find(model).Model(network_config(model, values, size), task_specs())


@functools.cache
def made(name: str, size: tuple[int, int]):
    return lively(make(name, size), size)


@pytest.fixture(params=models.names(), scope="module")
def name(request):
    return request.param


@pytest.fixture
def network(name, request):
    """The model; one that is made for one size, for the test's."""
    size = request.node.callspec.params.get("size", (HEIGHT, WIDTH))
    fixed = "height" in models.find(name).Config.model_fields
    return made(name, size if fixed else (HEIGHT, WIDTH))


@pytest.mark.parametrize("size", [(64, 96), (96, 64), (52, 75)])
@torch.inference_mode()
def test_logits_have_the_images_size(network, size):
    logits = network(torch.randn(2, 3, *size))
    for name, spec in task_specs().items():
        assert logits[name].shape == (2, spec.num_channels, *size)


@pytest.mark.parametrize("batch", [1, 3, 8])
@torch.inference_mode()
def test_a_row_of_a_batch_is_the_image_alone(network, batch):
    images = torch.randn(batch, 3, 64, 96)
    together = network(images)
    for row in range(batch):
        for name, alone in network(images[row : row + 1]).items():
            scale = alone.abs().max().clamp(min=0.1)
            torch.testing.assert_close(together[name][row], alone[0], rtol=0, atol=2e-5 * scale)


@pytest.mark.parametrize("size", [(64, 96), (52, 75)])
@torch.inference_mode()
def test_folding_is_exact(network, size):
    images = torch.randn(2, 3, *size)
    want, got = network(images), network.fold_for_inference()(images)
    for name, logits in want.items():
        assert (got[name] - logits).abs().max() <= 1e-5 * logits.abs().max()


ON_END = ("degmix", "densemtl", "m3vit")
"""Exported upright too: PyTorch's exporter takes seconds a network."""
EXPORTS = [*((n, (HEIGHT, WIDTH)) for n in models.names()), *((n, (WIDTH, HEIGHT)) for n in ON_END)]


@pytest.mark.parametrize(("name", "size"), EXPORTS)
def test_export_computes_what_torch_does(name, size):
    import onnxruntime

    upright = size != (HEIGHT, WIDTH)
    few = {"backbone": "test_resnet"} if upright and name != "m3vit" else {}
    loaded = lively_checkpoint(name, **few)
    network, tasks = loaded.network, TASKS
    if upright:
        tasks = TASKS[:2]
        card = loaded.card.model_copy(
            update={"height": size[0], "width": size[1], "tasks": loaded.card.tasks[:2]}
        )
        if "height" in models.find(name).Config.model_fields:  # made for one size
            network = lively(checkpoint.build(card), size)
        loaded = dataclasses.replace(loaded, network=network, card=card)
    model = export_checkpoint(loaded) if upright else shared_export(loaded)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    image = torch.randn(1, 3, *size)
    got = session.run(list(tasks), {"image": image.numpy()})
    with torch.inference_mode():
        outputs = network(image)
    for task, logits in zip(tasks, got, strict=True):
        want = outputs[task]
        assert abs(torch.from_numpy(logits) - want).max() <= 1e-4 * want.abs().max()
    # A recipe names nodes; fake-quantization will go into the modules of those names.
    modules = dict(network.fold_for_inference().named_modules())
    weights = {tensor.name for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in ("Conv", "Gemm", "DeformConv") and weights & set(node.input):
            assert node.name.split("/")[0] in modules, node.name


def test_kept_tasks_keep_their_values_and_cost_less(name):
    import onnxruntime

    loaded, whole = lively_network(name)
    kept = ("depth", "normals")
    # Tasks that are rows of a batch go before the export; a graph pass sees the others.
    before = type(loaded.network).keep is not Network.keep
    model = simplify_model(export_checkpoint(loaded, tasks=kept) if before else whole, kept)
    assert total_macs(costs(model)) < total_macs(costs(simplify_model(whole, TASKS)))
    session = onnxruntime.InferenceSession(model.SerializeToString())
    image = torch.randn(1, 3, HEIGHT, WIDTH)
    got = session.run(list(kept), {"image": image.numpy()})
    with torch.inference_mode():
        want = loaded.network(image)
    for task, logits in zip(kept, got, strict=True):
        assert abs(torch.from_numpy(logits) - want[task]).max() <= 1e-4 * want[task].abs().max()
    assert {output.name for output in session.get_outputs()} == set(kept)


def test_swin_exports_without_scatter_and_without_padding_windows(monkeypatch):
    create = backbones._create

    def shallow(name, options, *more):
        """Each stage with one block of plain and one of shifted windows."""
        return create(name, {**options, "depths": (2, 2, 2, 2)}, *more)

    monkeypatch.setattr(backbones, "_create", shallow)
    values = small("demtg") | {"backbone": "swin_tiny_patch4_window7_224"}
    loaded = untrained("demtg", values, task_specs(("depth",)), (224, 224))
    model = simplify_model(export_checkpoint(loaded), ("depth",))
    operators = {node.op_type for node in model.graph.node}
    assert not operators & {"ScatterND", "Where", "If", "Loop", "Pad"}


def test_every_parameter_learns(network):
    network.train()
    network.zero_grad()
    sum(logits.square().mean() for logits in network(torch.randn(2, 3, 64, 96)).values()).backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        # A bias in front of a batch norm in training mode has none: the norm takes it away.
        assert parameter.grad.abs().sum() > 0 or name.endswith("bias"), name
    network.eval()


def slow_deform(value, offset, weight, bias):
    """Gather and multiply, a pixel at a time, in float64."""
    n, c, height, width = value.shape
    sampled = np.zeros((n, c, height, width))
    for i, ch, y, x in np.ndindex(n, c, height, width):
        py, px = y + offset[i, 2 * ch, y, x], x + offset[i, 2 * ch + 1, y, x]
        top, left = int(np.floor(py)), int(np.floor(px))
        for row in (top, top + 1):
            for column in (left, left + 1):
                if 0 <= row < height and 0 <= column < width:
                    share = (1 - abs(py - row)) * (1 - abs(px - column))
                    sampled[i, ch, y, x] += share * value[i, ch, row, column]
    return np.einsum("oc,nchw->nohw", weight[:, :, 0, 0], sampled) + bias[:, None, None]


@pytest.mark.parametrize("shape", [(1, 2, 5, 4), (2, 3, 1, 6), (3, 2, 4, 4)])
@pytest.mark.parametrize("reach", [0.0, 0.7, 20.0])
def test_three_ways_to_sample_are_one(shape, reach):
    torch.manual_seed(0)
    n, c, height, width = shape
    conv = DeformConv(c)
    value, offset = torch.randn(shape), reach * torch.randn(n, 2 * c, height, width)
    with torch.no_grad():
        want = slow_deform(*(t.numpy() for t in (value, offset, conv.weight, conv.bias)))
        by_grid = torch.nn.functional.conv2d(sample(value, offset), conv.weight, conv.bias)
        by_torchvision = deform_conv2d(value, offset, conv.weight, conv.bias)
        conv.train()
        np.testing.assert_allclose(conv(value, offset), by_grid)
        conv.eval()
        np.testing.assert_allclose(conv(value, offset), by_torchvision)
    np.testing.assert_allclose(by_torchvision, want, atol=1e-5)
    if height > 1:  # grid_sample has no pixel pitch along a side of one pixel
        np.testing.assert_allclose(by_grid, want, atol=1e-4)


@torch.inference_mode()
def test_offsets_that_are_no_numbers_sample_nothing():
    conv = DeformConv(2).eval()
    value = torch.ones(1, 2, 3, 4)
    for bad in (float("nan"), float("inf"), -float("inf"), 1e30):
        offset = torch.zeros(1, 4, 3, 4)
        offset[:, :2] = bad
        only_second = conv.weight[:, 1, 0, 0] + conv.bias
        torch.testing.assert_close(conv(value, offset)[0, :, 1, 1], only_second)


def test_positions_by_hand():
    rows_and_columns = OffsetNetwork._positions(torch.zeros(1, 4, 2, 3))[0]
    assert rows_and_columns.shape == (18, 2, 3)
    # Tap 0 is above left, tap 4 the pixel itself, tap 8 below right; the first pixel is (1, 1).
    np.testing.assert_array_equal(rows_and_columns[0], [[0, 0, 0], [1, 1, 1]])
    np.testing.assert_array_equal(rows_and_columns[4], [[1, 1, 1], [2, 2, 2]])
    np.testing.assert_array_equal(rows_and_columns[9], [[0, 1, 2], [0, 1, 2]])
    np.testing.assert_array_equal(rows_and_columns[17], [[2, 3, 4], [2, 3, 4]])


def test_half_of_the_channels_see_rows_and_half_columns():
    torch.manual_seed(0)
    network = OffsetNetwork(8, zero_init=False)
    features = torch.randn(1, 8, 4, 5)
    before = network(features)
    with torch.no_grad():
        network.to_taps.bias[9:] += 1.0  # the columns
    changed = (network(features) - before).abs().sum((0, 2, 3)) > 0
    assert not changed[:8].any()
    assert changed[8:].all()


def test_zero_initial_offsets():
    assert OffsetNetwork(8, zero_init=True)(torch.randn(1, 8, 4, 5)).abs().max() == 0


def test_a_query_is_softmax_free_attention():
    torch.manual_seed(0)
    query = TokenQuery(12, 3).double()
    task, fused = torch.randn(2, 7, 12).double(), torch.randn(2, 20, 12).double()
    with torch.no_grad():
        for parameter in query.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
        q = query.to_q(query.norm_q(task))
        k = query.to_k(query.norm_k(fused))
        v = query.to_v(query.norm_v(fused))
        heads = []
        for part in torch.arange(12).chunk(3):
            scores = q[..., part] @ k[..., part].transpose(1, 2) / 2  # sqrt(12 / 3)
            heads.append(scores @ v[..., part])
        want = task + query.out_norm(query.out(query.project(torch.cat(heads, -1))))
        torch.testing.assert_close(query(task, fused), want)
        single = query.float()
        norm = torch.nn.functional.layer_norm(fused.float(), (12,))
        folded = FoldedTokenQuery(single)(task.float(), second_moments(norm))
        torch.testing.assert_close(folded.double(), want, rtol=1e-4, atol=1e-4)


def test_backbones_are_checked():
    with pytest.raises(ConfigError, match="has no such model. Did you mean"):
        Backbone("mobilenetv4_conv_smal")
    with pytest.raises(ConfigError, match=r"strides \[.*expected one at each of \[4, 8, 16, 32\]"):
        Backbone("vit_base_patch32_224")
    with pytest.raises(ConfigError, match="patch_size 2: does not apply to the plain vision"):
        make("degmix", backbone="vit_tiny_patch16_224", patch_size=2)


@pytest.mark.parametrize(
    "backbone", ["swin_tiny_patch4_window7_224", "hrnet_w18_small_v2", "vit_tiny_patch16_224"]
)
@torch.inference_mode()
def test_published_backbones(backbone):
    network = Backbone(backbone).eval()
    images = torch.randn(3, 3, 61, 90)
    maps = network(images)
    for index, stride in enumerate(network.strides):
        assert maps[index].shape[-2:] == (-(-61 // stride), -(-90 // stride))
        for row in range(3):
            alone = network(images[row : row + 1])[index][0]
            assert (maps[index][row] - alone).abs().max() <= 1e-5 * alone.abs().max()


@torch.inference_mode()
def test_a_plain_transformer_has_its_own_embedding():
    network = make("degmix", backbone="vit_tiny_patch16_224").eval()
    embedded = network.embed(network.backbone(torch.randn(1, 3, 61, 90)))
    assert embedded.shape == (1, 16, 16, 24)  # stride 4 of the image padded to 64 x 96
    assert network(torch.randn(1, 3, 61, 90))["depth"].shape == (1, 1, 61, 90)


@torch.inference_mode()
def test_swin_pads_before_it_shifts():
    """Where nothing is padded timm agrees; where something is, a window at the edge is by hand."""
    import timm

    torch.manual_seed(0)
    ours = Backbone("swin_tiny_patch4_window7_224").eval()
    theirs = timm.create_model(
        ours.name, features_only=True, img_size=(448, 448), always_partition=True
    )
    theirs.load_state_dict(ours.network.state_dict())
    image = torch.randn(1, 3, 448, 448)
    raw = ours.network(image)
    for a, b in zip(raw, theirs.eval()(image), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
    block = ours.network.layers_0.blocks[1]  # shifted by 3, windows of 7
    x = torch.randn(1, 9, 8, 96)
    padded = torch.zeros(1, 14, 14, 96)
    padded[:, :9, :8] = x
    # The window that holds rows 3..9 and columns 3..9 of the padded map is inside: no mask.
    window = padded[:, 3:10, 3:10].reshape(1, 49, 96)
    want = block.attn(window).view(7, 7, 96)[:6, :5]
    torch.testing.assert_close(block._attn(x)[0, 3:9, 3:8], want, rtol=1e-4, atol=1e-5)


OPTIONS = [
    {"mixer_order": "deform_first"},
    {"spatial_gating": True},
    {"deform_kernel": 3, "deform_groups": 2},
    {"depth": 2, "num_heads": 8},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: next(iter(o)))
@pytest.mark.parametrize("model", ["demtg", "degmix"])
def test_options(model, options):
    network = lively(make(model, **options))
    with torch.inference_mode():
        images = torch.randn(2, 3, 64, 96)
        want, got = network(images), network.fold_for_inference()(images)
        for name, logits in want.items():
            assert (got[name] - logits).abs().max() <= 1e-5 * logits.abs().max()
    test_every_parameter_learns(network)


def test_a_spatial_gate_starts_open():
    torch.manual_seed(0)
    x = torch.randn(2, 4, 5, 6)
    torch.testing.assert_close(SpatialGate(4)(x), x)


@torch.no_grad()
def test_modulated_deformable_convolution_by_hand():
    torch.manual_seed(0)
    offsets, conv = ModulatedOffset(4, 3, 2), ModulatedDeformConv(4, 3)
    x = torch.randn(1, 4, 6, 7)
    # No offset yet and half a mask: half of an ordinary convolution.
    plain = torch.nn.functional.conv2d(x, conv.weight, padding=1)
    want = plain / 2 + conv.bias.view(1, -1, 1, 1)
    torch.testing.assert_close(conv(x, offsets(x)), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "values",
    [
        {"dim": 15},
        {"dim": 16, "num_heads": 3},
        {"dims": 16},
        {"deform_kernel": 2},
        {"deform_groups": 2},
        {"dim": 16, "deform_kernel": 3, "deform_groups": 3},
        {"mixer_order": "both"},
    ],
)
def test_sizes_that_do_not_fit(values):
    with pytest.raises(ConfigError, match="degmix"):
        network_config("degmix", values)

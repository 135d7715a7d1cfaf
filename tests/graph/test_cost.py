"""Costs of an ONNX graph: against PyTorch's own counter, and by hand."""

import numpy as np
import onnx_graphsurgeon as gs
import pytest
import torch
from conftest import NETWORK, TASKS, lively_network, small, task_specs
from degmix_training import cost, models
from degmix_training.export import export_checkpoint
from degmix_training.untrained import untrained

from degmix_edge.errors import ConfigError, GraphError
from degmix_edge.graph import roofline as devices
from degmix_edge.graph.cost import NodeCost, by_part, costs, total_macs
from degmix_edge.graph.model import constant

pytestmark = pytest.mark.slow(file_seconds=75)

SIZE = (64, 96)


FOLDED = [m for m in models.names() if models.find(m).Model.own_folds]


@pytest.mark.parametrize("model", models.names())
def test_it_counts_what_pytorch_counts(model):
    loaded, exported = lively_network(model)
    counted_alike(loaded.network.fold_for_inference(), exported)


@pytest.mark.parametrize("model", FOLDED)
def test_it_counts_what_pytorch_counts_without_folds(model):
    values = small(model) | {"backbone": "test_resnet"}  # which has no folds, and few layers
    loaded = untrained(model, values, task_specs(TASKS[:2]), SIZE)
    counted_alike(loaded.network, export_checkpoint(loaded, ()))


def counted_alike(network, model):
    want, found = cost.count(network, *SIZE), costs(model)
    assert total_macs(found) == want.macs
    parts = by_part(found)
    assert parts["backbone"] == want.macs_of["backbone"]
    assert sum(parts.values()) == want.macs


def node(op, inputs, shape, **attrs):
    out = gs.Variable("y", np.float32, shape)
    made = gs.Node(op, "part.x/" + op, attrs, inputs, [out])
    variables = [t for t in inputs if isinstance(t, gs.Variable)]
    return costs(gs.Graph([made], variables, [out], opset=20))[0]


def test_by_hand():
    x = gs.Variable("x", np.float32, [1, 8, 5, 6])
    grouped = node("Conv", [x, constant("w", np.zeros((4, 2, 3, 3)))], [1, 4, 5, 6], group=4)
    assert grouped.macs == 4 * 30 * 2 * 9
    assert grouped.weight_bytes == 4 * 4 * 2 * 9
    assert grouped.read_bytes == 4 * 240
    assert grouped.write_bytes == 4 * 120
    up = node("ConvTranspose", [x, constant("w", np.zeros((8, 3, 2, 2)))], [1, 3, 10, 12])
    assert up.macs == 240 * 3 * 4
    a, b = (gs.Variable(n, np.float32, s) for n, s in (("a", [2, 3, 7]), ("b", [2, 7, 5])))
    assert node("MatMul", [a, b], [2, 3, 5]).macs == 2 * 3 * 5 * 7
    t = gs.Variable("t", np.float32, [7, 3])
    assert node("Gemm", [t, constant("w", np.zeros((7, 5)))], [3, 5], transA=1).macs == 105
    assert node("Einsum", [a, b], [2, 3, 5], equation="bij,bjk->bik").macs == 210
    equation = "... i j, ... j k -> ... i k"
    c = gs.Variable("c", np.float32, [4, 1, 3, 7])
    assert node("Einsum", [c, b], [4, 2, 3, 5], equation=equation).macs == 4 * 210
    d = gs.Variable("d", np.float32, [5, 6])
    assert node("Einsum", [a, b, d], [2, 3, 6], equation="bij,bjk,kl->bil").macs == 6 * 210
    assert node("Relu", [x], [1, 8, 5, 6]).macs == 0


def test_an_unknown_shape_names_the_node():
    x = gs.Variable("x", np.float32, [1, 8, "h", 6])
    with pytest.raises(GraphError, match=r"part.x/Conv \(Conv\): shape .* is not static"):
        node("Conv", [x, constant("w", np.zeros((4, 8, 1, 1)))], [1, 4, "h", 6])


def test_a_roofline():
    device = devices.find("orin-agx")
    wide = NodeCost("n", "Conv", int(42.5e9 / 2), 0, 0, 0)
    assert device.node_ms(wide, "fp16") == pytest.approx(1.0, rel=0.01)
    moving = NodeCost("n", "Conv", 1, 0, int(204.8e6), 0)
    assert device.node_ms(moving, "fp32") == pytest.approx(1.0, rel=0.01)
    assert device.saving_ms(moving) == pytest.approx(0.25, rel=0.01)
    for name, found in devices.devices().items():
        assert found.source, name
        assert found.tflops["int8"] >= found.tflops["fp16"] >= found.tflops["fp32"] > 0
    with pytest.raises(ConfigError, match="no device 'orin'. Have: orin-agx"):
        devices.find("orin")


def test_untrained_networks_are_no_special_cases():
    network = {k: v for k, v in NETWORK.items() if k != "patch_size"}
    made = untrained("demt", network, task_specs(("depth",)), SIZE)
    state = made.network.state_dict()
    norms = [v for k, v in state.items() if k.endswith("running_var")]
    assert norms
    assert all(v.std() > 0.05 for v in norms)
    assert all(v.abs().sum() > 0 for v in state.values() if v.dtype == torch.float32)

"""Passes over mixtures of experts and parallel convolutions: both graphs on the same image."""

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime
import pytest
import torch
from conftest import HEIGHT, TASKS, WIDTH, lively_network, small
from degmix_training.config import network_config
from degmix_training.models.mlore import Mixture as LowRankMixture

from degmix_edge import tasks
from degmix_edge.graph.cost import costs, total_macs
from degmix_edge.graph.model import append, constant, to_graph, to_model
from degmix_edge.passes._base import apply
from degmix_edge.passes.fold_conv_mixture import FoldConvMixture
from degmix_edge.passes.forms import simplify_model
from degmix_edge.passes.hoist_pointwise import HoistPointwise
from degmix_edge.passes.lower_moe import LowerMoe, mixtures
from degmix_edge.passes.merge_convs import MergeConvs

pytestmark = pytest.mark.slow(file_seconds=25)


def run(model: onnx.ModelProto, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(model.SerializeToString(), options)
    names = [value.name for value in session.get_outputs()]
    return dict(zip(names, session.run(None, inputs), strict=True))


def images():
    """Of other statistics than the export's example, which is zero."""
    rng = np.random.default_rng(0)
    return [rng.normal(size=(1, 3, HEIGHT, WIDTH)).astype(np.float32) * s for s in (0.3, 1, 3)]


def rewritten(model: onnx.ModelProto, step):
    graph = to_graph(model)
    rewrites = apply(graph, [step])[0].rewrites
    made = to_model(graph, {})
    assert step.run(to_graph(made)) == 0  # a second run finds nothing
    return made, rewrites


def same(before: onnx.ModelProto, after: onnx.ModelProto, network, tolerance=1e-5):
    for image in images():
        want, got = run(before, image=image), run(after, image=image)
        with torch.inference_mode():
            eager = network(torch.from_numpy(image))
        for task, logits in want.items():
            scale = np.abs(logits).max()
            assert np.abs(got[task] - logits).max() <= tolerance * scale
            assert np.abs(got[task] - eager[task].numpy()).max() <= 2 * tolerance * scale


BACKBONE = {"backbone": "test_resnet"}
"""The smallest of timm with batch norms, where what is folded comes after it."""
FOLDED = [
    ("mlore", {}, 12),  # 4 depths, 3 tasks
    *(
        ("baseline", {"partially_dynamic": (("structured", s),), **BACKBONE}, 3)
        for s in (True, False)
    ),
]


@pytest.mark.parametrize(("model", "settings", "rewrites"), FOLDED)
def test_a_run_time_kernel_is_the_mixture(model, settings, rewrites):
    loaded, exported = lively_network(model, **settings)
    plain = simplify_model(exported, TASKS)
    folded, count = rewritten(plain, FoldConvMixture())
    assert count == rewrites
    assert total_macs(costs(folded)) < total_macs(costs(plain))
    same(plain, folded, loaded.network)


# GMAC of all experts of the published forms: ranks side by side, and the run-time kernel.
MLORE = [
    (4, (28, 36), 768, range(16, 241, 16), 16, 651, 500),
    (5, (32, 32), 452, range(16, 129, 8), 72, 289, 160),
    (5, (32, 32), 640, range(16, 129, 8), 64, 451, 320),
    (5, (32, 32), 192, range(8, 65, 4), 32, 59, 21),
]


class OneTask(torch.nn.Module):
    def __init__(self, block, task):
        super().__init__()
        self.block, self.task = block, task

    def forward(self, image):
        return self.block({self.task: image})[0][self.task]


@pytest.mark.parametrize(("count", "size", "channels", "ranks", "own", "plain", "folded"), MLORE)
def test_mlore_costs_what_the_published_forms_cost(
    count, size, channels, ranks, own, plain, folded
):
    values = {"channels": channels, "ranks": tuple(ranks), "task_rank": own}
    config = network_config("mlore", values, (16 * size[0], 16 * size[1]))
    torch.manual_seed(0)
    specs = {"depth": tasks.find("depth").spec()}
    block = OneTask(LowRankMixture(config, specs, size[0] * size[1]), "depth").eval()
    program = torch.onnx.export(
        block,
        (torch.zeros(1, channels, *size),),
        dynamo=True,
        opset_version=20,
        verbose=False,
    )
    graph = to_graph(program.model_proto)
    per_task = 8 * count
    left = _experts(graph, size, channels)
    assert per_task * left / 1e9 == pytest.approx(plain, rel=0.01)
    assert apply(graph, [FoldConvMixture()])[0].rewrites == 1
    assert per_task * _experts(graph, size, channels) / 1e9 == pytest.approx(folded, rel=0.01)


def _experts(graph: gs.Graph, size, channels) -> int:
    """Of everything but the 1x1 convolutions in front and behind, and the router."""
    graph = to_graph(to_model(graph, {}))
    return sum(
        cost.macs
        for node, cost in zip(graph.nodes, costs(graph), strict=True)
        if (node.op == "Conv" and _is_expert(node, channels))
        or (node.op == "MatMul" and node.outputs[0].shape[-1] == 9 * channels)
    )


def _is_expert(conv: gs.Node, channels: int) -> bool:
    outputs, inputs, *kernel = conv.inputs[1].shape
    return kernel == [3, 3] or (outputs == channels and inputs != channels)


@pytest.mark.parametrize("router", ["multi_gate", "single", "task_conditioned"])
def test_gathered_experts_are_the_masked_ones(router):
    loaded, model = lively_network(
        "m3vit", **({} if router == "multi_gate" else {"router": router})
    )
    plain = simplify_model(model, TASKS)
    found = mixtures(to_graph(plain))
    settings = small("m3vit")
    # Experts are not lost that no token of the export's example chose.
    assert [m.experts for m in found] == [settings["experts"]] * 2
    assert [m.kept for m in found] == [settings["top_k"]] * 2
    lowered, rewrites = rewritten(plain, LowerMoe(0))
    assert rewrites == 2
    gathers = [n for n in lowered.graph.node if n.op_type == "NonZero"]
    assert len(gathers) == 2 * settings["experts"]
    same(plain, lowered, loaded.network)
    assert LowerMoe(10**12).run(to_graph(plain)) == 0  # not worth it


def test_the_images_route_otherwise_than_the_exports_example():
    _, model = lively_network("m3vit")
    graph = to_graph(simplify_model(model, TASKS))
    graph.outputs = [n.outputs[1] for n in graph.nodes if n.op == "TopK"]
    probe = to_model(graph, {})
    example = run(probe, image=np.zeros((1, 3, HEIGHT, WIDTH), np.float32))
    for image in images():
        for name, chosen in run(probe, image=image).items():
            assert (np.sort(chosen) != np.sort(example[name])).any(), name


def test_a_mixture_of_another_shape_is_left_alone():
    _, model = lively_network("m3vit")
    graph = to_graph(simplify_model(model, TASKS))
    mul = next(n for n in graph.nodes if n.op == "Mul" and n.name.startswith("backbone.mixtures.1"))
    mul.op = "Add"
    assert len(mixtures(graph)) == 1


def test_a_pointwise_convolution_runs_before_the_map_is_enlarged():
    loaded, model = lively_network("densemtl")
    graph = to_graph(model)
    from degmix_edge.passes import pipeline

    steps = pipeline.simplify(TASKS)
    place = next(i for i, step in enumerate(steps) if isinstance(step, HoistPointwise))
    apply(graph, steps[:place])
    plain = to_model(graph, {})
    hoisted, rewrites = rewritten(plain, HoistPointwise())
    assert rewrites == 6  # ordered pairs of three tasks
    saved = total_macs(costs(plain)) - total_macs(costs(hoisted))
    pixels, small_pixels, dim = 16 * 24, 8 * 12, 8
    assert saved == 6 * (pixels - small_pixels) * dim * dim
    same(plain, hoisted, loaded.network)


def hoistable(mode: str, channels: int, *, factor: bool, readers: int = 1) -> gs.Graph:
    rng = np.random.default_rng(0)
    graph = gs.Graph(opset=20)
    a = gs.Variable("a", np.float32, [1, 3, 8, 12])
    b = gs.Variable("b", np.float32, [1, channels, 4, 6])
    sizes = constant("sizes", [1, channels, 8, 12], np.int64)
    empty = gs.Variable.empty()
    coordinates = "asymmetric" if mode == "nearest" else "half_pixel"
    attrs = {"mode": mode, "coordinate_transformation_mode": coordinates}
    attrs |= {"nearest_mode": "floor"} if mode == "nearest" else {}
    up = append(graph, "Resize", [b, empty, empty, sizes], "up", np.float32, **attrs)
    if factor:
        alpha = constant("alpha", rng.normal(size=(1, channels, 1, 1)))
        up = append(graph, "Mul", [alpha, up], "scaled", np.float32)
    joined = append(graph, "Concat", [a, up], "joined", np.float32, axis=1)
    weight = constant("w", rng.normal(size=(5, 3 + channels, 1, 1)))
    bias = constant("bias", rng.normal(size=5))
    out = append(graph, "Conv", [joined, weight, bias], "conv", np.float32, kernel_shape=[1, 1])
    graph.inputs, graph.outputs = [a, b], [out]
    if readers > 1:
        graph.outputs.append(append(graph, "Relu", [up], "other", np.float32))
    return graph


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("factor", [True, False])
def test_hoisting_by_hand(mode, factor):
    rng = np.random.default_rng(1)
    feed = {
        "a": rng.normal(size=(1, 3, 8, 12)).astype(np.float32),
        "b": rng.normal(size=(1, 6, 4, 6)).astype(np.float32),
    }
    plain = to_model(hoistable(mode, 6, factor=factor), {})
    hoisted, rewrites = rewritten(plain, HoistPointwise())
    assert rewrites == 1
    want, got = run(plain, **feed)["conv"], run(hoisted, **feed)["conv"]
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5 * np.abs(want).max())


@pytest.mark.parametrize("change", [{"channels": 4}, {"channels": 6, "readers": 2}])
def test_what_is_not_worth_hoisting_stays(change):
    graph = to_graph(to_model(hoistable("linear", factor=False, **change), {}))
    assert HoistPointwise().run(graph) == 0


@pytest.mark.parametrize(("model", "fewer"), [("densemtl", 20), ("padnet", 12)])
def test_merged_convolutions_are_the_separate_ones(model, fewer):
    loaded, exported = lively_network(model)
    plain = simplify_model(exported, TASKS)
    merged, rewrites = rewritten(plain, MergeConvs())
    assert rewrites > 0
    convs = [sum(n.op_type == "Conv" for n in m.graph.node) for m in (plain, merged)]
    assert convs[0] - convs[1] >= fewer
    assert total_macs(costs(merged)) == total_macs(costs(plain))
    same(plain, merged, loaded.network)


def test_weights_that_are_shared_are_not_copied_into_a_merged_convolution():
    _, exported = lively_network("mlore")
    plain = simplify_model(exported, TASKS)
    merged, _ = rewritten(plain, MergeConvs())
    assert merged.ByteSize() <= 1.05 * plain.ByteSize()


def test_training_only_branches_are_not_exported():
    for model, names in (
        ("padnet", "initial."),
        ("densemtl", "side."),
        ("m3vit", "distillations."),
    ):
        loaded, exported = lively_network(model)
        assert any(name.startswith(names) for name in loaded.network.state_dict())
        assert not any(tensor.name.startswith(names) for tensor in exported.graph.initializer)

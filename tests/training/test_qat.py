"""Quantization-aware training: its arithmetic, its parity with the INT8 graph, what it refuses."""

import json

import numpy as np
import onnx
import pytest
import torch
from conftest import lively_network
from degmix_training import checkpoint
from degmix_training.distillation import Teacher
from degmix_training.fake_quant import Quantizer, on_grid, scale_of
from degmix_training.objective import Objective
from degmix_training.qat import Deployed, fake_quantized, fit_recipe, widen
from degmix_training.sites import Sites, WeightSite, find_sites

from degmix_edge import config
from degmix_edge.errors import ConfigError, GraphError, TrainingError
from degmix_edge.network import IMAGE
from degmix_edge.ort import cpu_session
from degmix_edge.preprocess import normalise
from degmix_edge.quant import qparams
from degmix_edge.quant.recipe import OVER_BUDGET, Placement, Recipe
from degmix_edge.workflows.evaluate import evaluate
from degmix_edge.workflows.qat import train_quantized
from degmix_edge.workflows.quantize import quantize

pytestmark = pytest.mark.slow(file_seconds=25)

FEW = ("data.train=8", "data.val=2", "data.augment=none", "batch_size=2")


def test_the_grid_is_that_of_the_passes():
    rng = np.random.default_rng(0)
    amax = (10 ** rng.uniform(-6, 4, 200)).astype(np.float32)
    scale = scale_of(torch.from_numpy(amax))
    np.testing.assert_array_equal(scale.numpy(), qparams.scale_of(amax))
    x = rng.normal(size=(200, 50)).astype(np.float32) * amax[:, None]
    steps = on_grid(torch.from_numpy(x), scale[:, None], -127) / scale[:, None]
    want = qparams.quantize(x, scale.numpy(), axis=0)
    np.testing.assert_array_equal(steps.round().numpy(), want)


def test_gradients_are_those_of_learned_step_sizes():
    x = torch.tensor([0.3, 1.7, -2.2, 500.0, -500.0], requires_grad=True)
    scale = torch.tensor(1.0, requires_grad=True)
    on_grid(x, scale, -128).sum().backward()
    assert x.grad.tolist() == [1, 1, 1, 0, 0]
    # Inside: the rounding error in steps. Outside: the end of the grid.
    assert scale.grad.item() == pytest.approx(-0.3 + 0.3 + 0.2 + 127 - 128, abs=1e-5)


def test_averaged_ranges_follow_what_they_see_until_they_are_frozen():
    sites = Sites({"x": 0}, {"layer": {0: "x"}}, {}, ())
    quantizer = Quantizer(sites, {"x": 4.0}, ranges="ema", freeze=0.5, decay=0.75)
    quantizer(torch.tensor([-8.0, 1.0]), "x")
    assert quantizer.amax()["x"] == pytest.approx(5.0, rel=1e-3)
    quantizer.advance(0.5)
    quantizer(torch.tensor([-80.0]), "x")
    assert quantizer.amax()["x"] == pytest.approx(5.0, rel=1e-3)
    assert not list(quantizer.parameters())


def test_what_a_budget_kept_in_float_is_trained_for_int8():
    reasons = {"a": "constant weights", "b": "budget: INT8 saves no time here", "d": "asked for"}
    places = [Placement(node=n, op="Conv", precision="fp32", reason=r) for n, r in reasons.items()]
    places.append(Placement(node="c", op="Conv", precision="fp32", reason=f"{OVER_BUDGET}x by 1"))
    wide = widen(Recipe(precision="int8", placements=tuple(places)))
    assert wide.nodes("int8") == {"c"}
    assert wide.nodes("fp32") == {"a", "b", "d"}


@pytest.fixture(scope="module")
def recipe(loaded, pictures, tmp_path_factory):
    out = tmp_path_factory.mktemp("recipe") / "ptq.onnx"
    quantize(loaded, out, calibration=pictures, observer="min_max")
    return out.with_name("ptq.onnx.recipe.yaml")


@pytest.fixture(scope="module")
def run(loaded, recipe, tmp_path_factory):
    """Two steps whose norms move, and a third one after a restart."""
    out = tmp_path_factory.mktemp("runs") / "qat"
    changes = [*FEW, "val_every=2", "optim.lr=1e-3", "qat.freeze_norms=0.9"]
    train_quantized(recipe, loaded, out, overrides=[*changes, "steps=2"])
    return train_quantized(recipe, loaded, out, overrides=[*changes, "steps=3"], resume=True)


def quantized_tensors(model, image):
    """The INT8 values and the scale of each quantized activation of an ONNX graph, by tensor."""
    pairs = {n.input[0]: n for n in model.graph.node if n.op_type == "QuantizeLinear"}
    scales = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    del model.graph.output[:]
    names = [node.output[0] for node in pairs.values()]
    model.graph.output.extend(map(onnx.helper.make_empty_tensor_value_info, names))
    session = cpu_session(model.SerializeToString(), optimization="none")
    values = session.run(names, {IMAGE: image[None]})
    return {
        tensor: (value.astype(int), float(scales[node.input[1]]))
        for (tensor, node), value in zip(pairs.items(), values, strict=True)
    }


def test_the_int8_graph_computes_on_the_trained_grid(run, loaded, pictures):
    assert run.step == 3
    found = checkpoint.load(run.checkpoint)
    before = loaded.network.state_dict()["heads.semseg.1.running_var"]
    assert not torch.equal(found.network.state_dict()["heads.semseg.1.running_var"], before)
    built = quantize(found, calibration=pictures, observer="min_max")
    assert built.recipe.nodes("int8") == found.card.trained.recipe.nodes("int8")
    network, seen = fake_quantized(found), {}
    network.quantizer.register_forward_hook(lambda _, args, out: seen.update({args[1]: out}))
    network(
        torch.from_numpy(
            normalise(pictures[0][None], found.card.config.mean, found.card.config.std)
        )
    )
    want = quantized_tensors(onnx.load_from_string(built.model), pictures[0])
    assert len(want) > 50
    assert want.keys() == seen.keys() == found.card.amax.keys()
    far = total = 0
    for tensor, (steps, scale) in want.items():
        assert scale * 127 == found.card.amax[tensor]
        got = (seen[tensor] / scale).round().long().numpy()
        difference = np.abs(np.sort(got, axis=None) - np.sort(steps, axis=None))
        if got.shape == steps.shape:
            difference = np.abs(got - steps)
        far, total = far + (difference > 1).sum(), total + difference.size
    assert far <= total / 1000


def test_an_evaluation_in_parts_rounds_as_one_metric_does(run):
    found = evaluate(run.checkpoint, data="synthetic:2", slices="brightness")
    assert found.slices
    assert found.scores == evaluate(run.checkpoint, data="synthetic:2").scores


def test_weights_lie_on_the_grid_of_the_graph(run, pictures):
    found = checkpoint.load(run.checkpoint)
    built = quantize(found, calibration=pictures, observer="min_max")
    tensors = {
        t.name: onnx.numpy_helper.to_array(t)
        for t in onnx.load_from_string(built.model).graph.initializer
    }
    for path in ("interact.0", "queries.depth"):
        node = f"{path}/MatMul"
        stored, scale = (tensors[f"{node}.weight/{part}"] for part in ("int8", "scale"))
        module = found.network.get_submodule(path)
        weight = module.weight.T if path == "interact.0" else module.left
        rows = scale if path == "interact.0" else scale[:, None]
        np.testing.assert_allclose(weight.numpy(), stored * rows, rtol=1e-6)


@pytest.mark.parametrize("weight", [0, 2])
def test_it_imitates_the_float_network(recipe, loaded, tmp_path, monkeypatch, weight):
    seen, found = [], Objective.without_labels

    def without_labels(self, image, outputs):
        losses = found(self, image, outputs)
        seen.append((image, losses))
        return losses

    monkeypatch.setattr(Objective, "without_labels", without_labels)
    changes = [*FEW, "steps=1", "val_every=1", f"qat.imitate={weight}"]
    train_quantized(recipe, loaded, tmp_path / "run", overrides=changes)
    ((image, losses),) = seen
    assert set(losses) == {f"imitate/{task}" for task in loaded.tasks if weight}
    if weight:
        config = loaded.card.config
        teacher = Teacher.of(loaded.network, config.mean, config.std, image.device)
        own = loaded.network(torch.from_numpy(normalise(image.numpy(), config.mean, config.std)))
        exact = teacher.losses(image, own, loaded.tasks)
        for task in loaded.tasks:  # of INT8, and more than that of the network itself
            assert losses[f"imitate/{task}"] > weight * exact[task] + 1e-6, task


def test_other_recipes_and_starts_are_refused(run, recipe, loaded, tmp_path):
    refuse = pytest.raises
    other = config.load(Recipe, recipe)
    path = tmp_path / "other.yaml"
    path.write_text(config.dump(Recipe(precision="fp16")))
    with refuse(ConfigError, match="is a recipe for fp16, and training is for int8"):
        train_quantized(path, loaded, tmp_path / "a")
    with refuse(ConfigError, match="another network: the network has no node .* no weighted"):
        train_quantized(recipe, lively_network("padnet")[0], tmp_path / "a")
    path.write_text(config.dump(other.model_copy(update={"placements": other.placements[1:]})))
    with refuse(ConfigError, match="the recipe has no node 'backbone.network.conv_stem/Conv'"):
        train_quantized(path, loaded, tmp_path / "a")
    with refuse(ConfigError, match="was trained for INT8 already"):
        train_quantized(recipe, checkpoint.load(run.checkpoint), tmp_path / "a")
    with refuse(ConfigError, match="cannot resume with other settings: .*optim"):
        changed = [*FEW, "steps=3", "val_every=2", "optim.lr=1e-5", "qat.freeze_norms=0.9"]
        train_quantized(recipe, loaded, run.checkpoint.parent, overrides=changed, resume=True)
    assert not (tmp_path / "a").exists()


def test_a_module_that_is_not_the_graphs_is_refused(tmp_path, pictures):
    """Convolutions that a pass splits hold a part of a module's weights each."""
    network = lively_network("densemtl")[0]
    quantize(network, tmp_path / "ptq.onnx", calibration=pictures, observer="min_max")
    with pytest.raises(GraphError, match="12 INT8 nodes have no module.*--keep-float exchange"):
        train_quantized(tmp_path / "ptq.onnx.recipe.yaml", network, tmp_path / "a", overrides=FEW)


def test_a_convolution_that_ends_a_container_has_its_norm(tmp_path, pictures):
    """The stem of a ResNet-D is a container, and the norm behind it is outside."""
    network = lively_network("padnet")[0]
    made = quantize(network, tmp_path / "ptq.onnx", calibration=pictures, observer="min_max")
    deployed = Deployed.of(network)
    recipe = fit_recipe(made.recipe, deployed.model, "recipe")
    sites = find_sites(deployed.network, deployed.model, recipe)
    stem = "backbone.network.conv1.6"
    assert WeightSite(stem, "weight", 0, "backbone.network.bn1") in sites.weights
    assert not sites.unmatched


def test_a_loss_that_is_no_number_names_layer_and_task(recipe, loaded, tmp_path):
    changes = [*FEW, "steps=3", "val_every=3", "optim.lr=1e30"]
    match = r"step 1: the loss of \w+.* is \S+ under fake quantization on .*; the first layer .* 'b"
    with pytest.raises(TrainingError, match=match):
        train_quantized(recipe, loaded, tmp_path / "nan", overrides=changes)


def test_the_verb(recipe, checkpoint_path, cli):
    few = [part for change in (*FEW, "steps=1", "val_every=1") for part in ("--set", change)]
    verb = ("train", "--qat", recipe, "--from", checkpoint_path, "--out", "q", "--json", *few)
    code, out, err = cli(*verb)
    assert code == 0, err
    assert json.loads(out)["step"] == 1
    code, _, err = cli("train", "--qat", recipe, "--out", "q")
    assert code == 2
    assert "--qat RECIPE and --from CHECKPOINT belong together" in err
    code, _, err = cli("train", "degmix_tiny", "--qat", recipe, "--from", checkpoint_path)
    assert code == 2
    assert "leave out PRESET" in err

"""`export onnx`: of a model without a checkpoint, with its report, and pruned."""

import json

import numpy as np
import onnx
import pytest
import torch
from conftest import lively, saved, small, task_specs
from deform_graphs import run
from degmix_training import models
from degmix_training.config import network_config
from onnx import helper

from degmix_edge.passes.forms import simplify_model

pytestmark = pytest.mark.slow(file_seconds=30)

BACKBONE = "test_resnet"
"""The smallest of timm with batch norms: these tests are about what comes after it."""
SMALL = ["--backbone", BACKBONE, "--size", "64x96", "--set", "dim=32"]


@pytest.mark.parametrize(
    ("model", "folds"),
    [
        ("demtg", ["fold_interaction", "hoist_embed", "absorb_queries"]),
        ("baseline", []),
    ],
)
def test_the_report_of_a_model(cli, model, folds, tmp_path):
    options = SMALL[:-2] if model == "baseline" else [*SMALL, "--set", "depth=1"]
    tasks = ["--tasks", "semseg,normals"]
    command = ["export", "onnx", "--model", model, *options, *tasks, "--report", "--json"]
    code, out, err = cli(*command, "--out", "m.onnx")
    assert code == 0, err
    values = json.loads(out)
    steps = values["steps"]
    assert [s["name"] for s in steps[: len(folds) + 1]] == ["plain export", *folds]
    assert [s["name"] for s in steps[len(folds) + 1 :]] == [
        "prune_tasks",
        "fold_constants",
        "remove_identities",
        "fold_padding",
        "fold_batchnorm",
        "hoist_pointwise",
        "share_constants",
    ]
    assert values["max_relative_difference"] <= 1e-5
    assert values["macs"] == steps[-1]["macs"] <= steps[0]["macs"] == values["macs_plain"]
    assert (values["macs"] < values["macs_plain"]) == bool(folds)
    assert sum(values["macs_of"].values()) == values["macs"]
    assert all(s["nodes"] > 0 and s["size_bytes"] > 0 for s in steps)
    assert f"--model {model}: random weights, seed 0" in err
    model = onnx.load(tmp_path / "m.onnx")
    onnx.checker.check_model(model, full_check=True)
    props = {p.key: p.value for p in model.metadata_props}
    assert json.loads(props["degmix.provenance"])["folds"] == folds
    assert json.loads(props["degmix.network"])["source"]["name"] == "random-0"
    assert model.opset_import[0].version == 20
    assert [v.name for v in model.graph.input] == ["image"]


def test_one_task_of_a_checkpoint_keeps_its_map(cli, checkpoint_path, exported, tmp_path):
    code, out, err = cli("export", "onnx", checkpoint_path, "--tasks", "depth", "--json")
    assert code == 0, err
    assert json.loads(out)["outputs"] == ["depth"]
    image = np.random.default_rng(0).normal(size=(1, 3, 64, 96)).astype(np.float32)
    whole = simplify_model(exported[0], exported[1].task_names)
    want = run(whole, {"image": image}, "depth")
    got = run(onnx.load(tmp_path / "model.onnx"), {"image": image}, "depth")
    np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-6 * np.abs(want).max())


def test_the_report_of_one_task_of_a_checkpoint(cli, tmp_path):
    """Of a model without folds of its own: the report exports the network after each fold."""
    config, specs = small("baseline") | {"backbone": BACKBONE}, task_specs()
    torch.manual_seed(1)
    network = models.find("baseline").Model(network_config("baseline", config), specs)
    path = saved(tmp_path / "six.safetensors", "baseline", lively(network), config, specs)
    code, out, err = cli("export", "onnx", path, "--tasks", "depth", "--report", "--json")
    assert code == 0, err
    values = json.loads(out)
    assert values["outputs"] == ["depth"]
    prune = next(s for s in values["steps"] if s["name"] == "prune_tasks")
    assert prune["rewrites"] == 5 * 4  # the nodes of the other heads
    assert values["head_macs"] < 0.6 * values["head_macs_plain"]
    assert values["max_relative_difference"] <= 1e-5


def test_kept_tasks_of_a_model(cli):
    command = ["export", "onnx", "--model", "demt", *SMALL, "--tasks", "depth,normals"]
    code, out, _ = cli(*command, "--keep", "normals", "--json")
    assert code == 0
    assert json.loads(out)["outputs"] == ["normals"]


def test_the_same_seed_is_the_same_network(cli, tmp_path, real_exports):
    command = ["export", "onnx", "--model", "demt", *SMALL, "--tasks", "depth"]
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        assert cli(*command, "--seed", seed, "--out", f"{name}.onnx")[0] == 0
    a, b, c = ((tmp_path / f"{n}.onnx").read_bytes() for n in "abc")
    assert a == b != c


def test_a_window_transformer_at_an_awkward_size_is_advised(checkpoint_path):
    from degmix_training import checkpoint
    from degmix_training.export import wasteful_size

    loaded = checkpoint.load(checkpoint_path)
    assert wasteful_size(loaded) is None
    network = {"backbone": "swin_tiny_patch4_window7_224"}
    for size, nearest in (((425, 560), "448x672"), ((480, 640), "448x672"), ((448, 672), None)):
        card = loaded.card.model_copy(
            update={
                "height": size[0],
                "width": size[1],
                "config": loaded.card.config.model_copy(update={"network": network}),
            }
        )
        advice = wasteful_size(checkpoint.Checkpoint(loaded.network, card, "", loaded.path))
        if nearest is None:
            assert advice is None
        else:
            assert f"multiples of 224 need none: the nearest is {nearest}" in advice


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "give a CHECKPOINT, or --model NAME"),
        (["--model", "demtg"], "--model needs --size"),
        (["x.safetensors", "--size", "64x96"], "--size is for --model"),
        (["--model", "demtg", "--size", "64"], "expected HEIGHTxWIDTH"),
        (["--model", "demtgg", "--size", "64x96"], "Did you mean 'demtg'?"),
        (["--model", "demt", *SMALL, "--tasks", "depth,edge", "--keep", "semseg"], "no task"),
    ],
)
def test_mistakes(cli, arguments, message):
    code, _, err = cli("export", "onnx", *arguments)
    assert code in (2, 3)
    assert message in err


def graph_of(*nodes, shape=(1, 3, 64, 96)):
    image = helper.make_tensor_value_info("image", 1, list(shape))
    depth = helper.make_tensor_value_info("depth", 1, [1, 1, 64, 96])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.example", 1)]
    return helper.make_model(
        helper.make_graph(list(nodes), "g", [image], [depth]), opset_imports=opsets, ir_version=10
    )


def test_unsupported_operators_are_listed_with_their_nodes(cli, tmp_path):
    foo = helper.make_node("Foo", ["image"], ["a"], name="neck.foo/Foo", domain="com.example")
    nonzero = helper.make_node("NonZero", ["a"], ["b"], name="heads.depth/NonZero")
    last = helper.make_node("Cast", ["b"], ["depth"], name="cast", to=1)
    onnx.save(graph_of(foo, nonzero, last), tmp_path / "odd.onnx")
    plain = ("--precision", "fp16", "--mean", 0, 0, 0, "--std", 1, 1, 1, "--color", "rgb")
    code, _, err = cli("quantize", "odd.onnx", *plain)
    assert code == 6
    assert "com.example::Foo at node 'neck.foo/Foo': not of standard ONNX" in err
    assert "NonZero at node 'heads.depth/NonZero': its output's shape depends on the data" in err


def test_dynamic_shapes_are_refused(cli, tmp_path):
    relu = helper.make_node("Relu", ["image"], ["depth"], name="relu")
    model = graph_of(relu, shape=("batch", 3, "height", 96))
    from degmix_edge.errors import GraphError
    from degmix_edge.graph.check import check_graph

    with pytest.raises(GraphError, match=r"input 'image' has the dynamic shape \['batch', 3"):
        check_graph(model)
    onnx.save(model, tmp_path / "dynamic.onnx")
    plain = ("--precision", "fp16", "--mean", 0, 0, 0, "--std", 1, 1, 1, "--color", "rgb")
    code, _, err = cli("quantize", "dynamic.onnx", *plain)
    assert code == 6
    assert "give --size HEIGHTxWIDTH" in " ".join(err.split())

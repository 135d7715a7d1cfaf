"""NVIDIA's own parser and builder take every model in every precision, without a GPU."""

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import HEIGHT, WIDTH, lively_network
from degmix_calibration.collect import collect
from degmix_training import models
from degmix_training.export import network_spec

from degmix_edge import backends, trt
from degmix_edge import build as building
from degmix_edge.bundle import open_bundle
from degmix_edge.engine.build import build
from degmix_edge.engine.lower import lower
from degmix_edge.errors import BackendError, BuildError, GraphError
from degmix_edge.passes._base import to_graph
from degmix_edge.quant.recipe import choose
from degmix_edge.quant.sites import observed_tensors
from degmix_edge.runtime import load

pytestmark = pytest.mark.skipif(
    trt.unavailable("tensorrt-rtx") is not None, reason="no TensorRT-RTX for this platform"
)
TABLES = Path(__file__).parents[2] / "build" / "layer_tables"


@pytest.fixture(scope="module", params=models.names())
def deployed(request, pictures):
    """Every model: the deployed float graph, its spec, and ranges."""
    loaded, exported = lively_network(request.param)
    graph, spec, _ = building.deploy(exported, network_spec(loaded), building.Options())
    recipe = choose(to_graph(graph), spec, "int8")
    named = [(str(i), picture) for i, picture in enumerate(pictures[:3])]
    return graph, spec, collect(graph, observed_tensors(to_graph(graph), recipe), named, "min_max")


# INT8 engines hold FP16 layers too. What has forms of its own in float is built in those as well.
BUILDS = [*((m, "int8") for m in models.names()), ("degmix", "fp32")]
BUILDS += [(m, "fp16") for m in ("degmix", "m3vit", "mlore")]


@pytest.mark.parametrize(("deployed", "precision"), BUILDS, indirect=["deployed"])
def test_it_builds(deployed, precision):
    graph, spec, ranges = deployed
    recipe = choose(to_graph(graph), spec, precision)
    model = building.quantize(graph, recipe, ranges, spec).SerializeToString()
    files = backends.find("tensorrt-rtx").build(model, recipe, ranges)
    assert len(files["engine.plan"]) > 100_000
    TABLES.mkdir(parents=True, exist_ok=True)
    (TABLES / f"{spec.model}.{precision}.json").write_bytes(files["layers.json"])
    layers = json.loads(files["layers.json"])["layers"]
    types = Counter(t for x in layers if x["kind"] == "CONVOLUTION" for t in x["types"])
    if precision == "fp32":
        assert set(types) == {"FLOAT"}
    else:
        assert types["HALF"] > types["FLOAT"]
    stored = sum(x["kind"] == "QUANTIZE" and "INT8" in x["types"] for x in layers)
    assert (stored > 20) == (precision == "int8")
    named = {x["name"].split("/")[0] for x in layers if x["kind"] == "CONVOLUTION"}
    assert any(name.startswith("backbone.") for name in named)  # layers are modules


def test_every_models_int8_runs_on_the_cpu_and_is_near_its_float(deployed, pictures):
    graph, spec, ranges = deployed
    recipe = choose(to_graph(graph), spec, "int8")
    model = building.quantize(graph, recipe, ranges, spec).SerializeToString()
    ort = backends.find("onnxruntime")
    engine = ort.build(model, recipe, ranges)[ort.engine_file]
    with ort(spec, graph.SerializeToString()) as floats, ort(spec, engine) as int8:
        for picture in pictures[:3]:  # those that it was calibrated on
            want, got = floats.infer(picture[None]), int8.infer(picture[None])
            # Random weights: maps have little to say, so only gross damage counts.
            noise = np.abs(got["depth"] - want["depth"]).mean()
            assert noise <= 0.1 * np.abs(want["depth"]).mean() + 0.05
            assert (got["normals"] * want["normals"]).sum(-1).mean() > 0.75
            assert all(np.isfinite(found).all() for found in got.values())


def test_the_lowered_graph_gives_the_same_maps(bundles, pictures):
    """What the builder gets, run by ONNX Runtime: GridSample form, FP16 and INT8 inside."""
    ort = backends.find("onnxruntime")
    for precision, bundle in bundles.items():
        model = bundle.file("model.onnx").read_bytes()
        recipe = building.config.load(building.Recipe, bundle.file("recipe.yaml"))
        spec, image = bundle.manifest.network, pictures[0][None]
        with ort(spec, model) as want_runs, ort(spec, lower(model, recipe)) as got_runs:
            want, got = want_runs.infer(image), got_runs.infer(image)
        differences = building.differences(spec, want, got, building.LOWERED[precision])
        assert differences.passed, (precision, differences.text)


def test_a_bundle_for_cards_is_built_here_and_runs_on_the_cpu(exported, pictures, tmp_path):
    stages = []
    options = building.Options(precision="fp16", backend="tensorrt-rtx")
    target = tmp_path / "rtx.degmix"
    clock = building.Clock(stages.append)
    building.build(*exported, target, options, golden_image=pictures[0], clock=clock)
    opened = open_bundle(target)
    assert opened.manifest.engines[0].file == "engines/tensorrt_rtx/engine.plan"
    assert "engines/tensorrt_rtx/layers.json" in opened.manifest.files
    said = next(stage.detail for stage in stages if stage.name == "golden check")
    assert "was not run here" in said
    with pytest.warns(UserWarning, match="has no engine for onnxruntime"), load(opened) as session:
        assert session(pictures[0])["depth"].shape == (HEIGHT, WIDTH)
    with pytest.raises(BackendError, match="run by TensorRT-RTX itself on the card"):
        load(opened, backend="tensorrt-rtx")


def test_what_the_parser_refuses_names_the_node(exported):
    graph = to_graph(building.deploy(*exported, building.Options())[0])
    model = building.to_model(graph, {}).SerializeToString()  # DeformConv is not lowered
    with pytest.raises(
        GraphError, match=r"node 'mixers\.\w+\.0\.deform/DeformConv' \(DeformConv\)"
    ):
        build("tensorrt-rtx", model, trt.BuilderOptions())


def test_a_card_that_it_does_not_know():
    x = onnx.helper.make_tensor_value_info("x", 1, [1, 2])
    node = onnx.helper.make_node("Relu", ["x"], ["y"], name="r")
    graph = onnx.helper.make_graph([node], "g", [x], [onnx.ValueInfoProto(name="y", type=x.type)])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])
    options = trt.BuilderOptions(compute_capabilities=("SM42",))
    with pytest.raises(BackendError, match="no compute capability 'SM42'. Have: .*SM89"):
        build("tensorrt-rtx", model.SerializeToString(), options)
    assert len(build("tensorrt-rtx", model.SerializeToString(), trt.BuilderOptions()).plan) > 0


@pytest.mark.parametrize(
    ("death", "message"),
    [
        ("os.abort()", "ended with signal 6. Its last lines: out of patience"),
        ("os.kill(os.getpid(), 9)", "the builder was killed.*memory runs out"),
        ("sys.exit(3)", "ended with code 3"),
    ],
)
def test_a_builder_that_dies_is_an_error(monkeypatch, death, message):
    from degmix_edge.engine import build as module

    code = f"import os, sys; print('out of patience', file=sys.stderr, flush=True); {death}"
    monkeypatch.setattr(module, "_command", lambda *_: [sys.executable, "-c", code])
    with pytest.raises(BuildError, match=message):
        module.build("tensorrt-rtx", b"", trt.BuilderOptions())

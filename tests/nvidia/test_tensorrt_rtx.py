"""NVIDIA's own parser and builder take every model in every precision, without a GPU."""

import json
import re
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

from degmix_edge import backends, config
from degmix_edge.backends import EngineOptions
from degmix_edge.bundle.contents import open_bundle
from degmix_edge.bundle.golden import LOWERED, differences
from degmix_edge.errors import BackendError, BuildError, ConfigError, GraphError
from degmix_edge.graph.model import to_graph, to_model
from degmix_edge.network import IMAGE
from degmix_edge.nvidia.trt import build as trt_build
from degmix_edge.nvidia.trt import load as trt_load
from degmix_edge.nvidia.worker import build_in_child
from degmix_edge.passes.forms import deploy_model, lower_for_tensorrt, quantize_model
from degmix_edge.quant.recipe import Recipe
from degmix_edge.quant.rules import choose
from degmix_edge.quant.sites import observed_tensors
from degmix_edge.runtime import load
from degmix_edge.workflows.build import build

pytestmark = [
    pytest.mark.slow(file_seconds=65),
    pytest.mark.skipif(
        trt_load.unavailable("tensorrt-rtx") is not None, reason="no TensorRT-RTX for this platform"
    ),
]
TABLES = Path(__file__).parents[2] / "build" / "layer_tables"


@pytest.fixture(scope="module", params=models.names())
def deployed(request, pictures):
    """Every model: the deployed float graph, its spec, and ranges."""
    loaded, exported = lively_network(request.param)
    graph, spec, _ = deploy_model(exported, network_spec(loaded))
    recipe = choose(to_graph(graph), spec, "int8")
    named = [(str(i), {IMAGE: picture[None]}) for i, picture in enumerate(pictures[:3])]
    return graph, spec, collect(graph, observed_tensors(to_graph(graph), recipe), named, "min_max")


# INT8 engines hold FP16 layers too. What has forms of its own in float is built in those as well.
BUILDS = [*((m, "int8") for m in models.names()), ("degmix", "fp32")]
BUILDS += [(m, "fp16") for m in ("degmix", "m3vit", "mlore")]


@pytest.mark.parametrize(("deployed", "precision"), BUILDS, indirect=["deployed"])
def test_it_builds(deployed, precision):
    graph, spec, ranges = deployed
    recipe = choose(to_graph(graph), spec, precision)
    model = quantize_model(graph, recipe, ranges, spec).SerializeToString()
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


@pytest.fixture
def plugin(emulated, monkeypatch):
    """Our plugin library; its kernels are for the processor, which a builder does not ask about."""
    library = emulated / "libdegmix_trt_emulated.so"
    monkeypatch.setenv("DEGMIX_TRT_PLUGIN", str(library))
    return library


@pytest.mark.parametrize("form", ["plugin", "offsets"])
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("deployed", ["degmix"], indirect=True)
def test_our_plugin_is_in_the_engine(deployed, precision, form, plugin):
    graph, spec, ranges = deployed
    recipe = choose(to_graph(graph), spec, precision)
    model = quantize_model(graph, recipe, ranges, spec).SerializeToString()
    asked = EngineOptions(dcn=form)
    files = backends.find("tensorrt-rtx").build(model, recipe, ranges, asked)
    found = json.loads(files["layers.json"])
    assert found["dcn"] == form
    kinds = Counter(layer["kind"] for layer in found["layers"])
    # Of one depth, with the mixers of all tasks; offsets of our own are FP16.
    assert kinds["PLUGIN_V3"] == (2 if form == "offsets" and precision != "fp32" else 1)
    assert not kinds["GRID_SAMPLE"]


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_classic_mixers_of_all_tasks_are_one_layer(precision, plugin, pictures, tmp_path):
    """DeGMix with DCNv2 in its mixers, as the product builds it."""
    loaded, exported = lively_network("degmix", deform_kernel=3, deform_groups=2)
    assert len(network_spec(loaded).task_names) == 3
    build(
        exported,
        tmp_path / "x.degmix",
        precision=precision,
        backend="tensorrt-rtx",
        dcn="plugin",
        calibration=list(pictures[:3]) if precision == "int8" else None,
        observer="min_max",
    )
    found = json.loads((tmp_path / "x.degmix/engines/tensorrt_rtx/layers.json").read_text())
    (layer,) = [layer for layer in found["layers"] if layer["kind"] == "PLUGIN_V3"]
    assert len(layer["types"]) == 3
    assert layer["name"].count("DeformConv") == 3
    assert not any(layer["kind"] == "GRID_SAMPLE" for layer in found["layers"])


def sampler_model(channels: int) -> bytes:
    """A graph of one DegmixDeformSample, which says a number of channels."""
    shapes = {"value": [1, 4, 8, 8], "offset": [1, 8, 8, 8], "out": [1, 4, 8, 8]}
    values = {k: onnx.helper.make_tensor_value_info(k, 1, v) for k, v in shapes.items()}
    attrs = {"channels": channels, "plugin_version": "1", "plugin_namespace": "degmix"}
    node = onnx.helper.make_node(
        "DegmixDeformSample", ["value", "offset"], ["out"], "sampler", domain="degmix", **attrs
    )
    inputs = [values["value"], values["offset"]]
    graph = onnx.helper.make_graph([node], "g", inputs, [values["out"]])
    opsets = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid("degmix", 1)]
    model: bytes = onnx.helper.make_model(
        graph, opset_imports=opsets, ir_version=10
    ).SerializeToString()
    return model


def test_what_our_plugin_refuses_is_said(plugin):
    options = trt_build.BuilderOptions(plugin=str(plugin))
    assert build_in_child("tensorrt-rtx", sampler_model(4), options).layers[0].kind == "PLUGIN_V3"
    with pytest.raises(BuildError, match=r"degmix: .*\(1, 4, 8, 8\).*expected 5 and 10 channels"):
        build_in_child("tensorrt-rtx", sampler_model(5), options)


def test_forms_that_it_does_not_have(monkeypatch):
    rtx = backends.find("tensorrt-rtx")
    monkeypatch.setenv("DEGMIX_TRT_PLUGIN", "none")
    recipe = Recipe(precision="fp32")
    with pytest.raises(ConfigError, match="no form of deformable convolutions 'builtin'. Have: pl"):
        rtx.build(b"", recipe, None, EngineOptions(dcn="builtin"))
    with pytest.raises(BackendError, match="--dcn plugin: our plugin library is not in"):
        rtx.build(b"", recipe, None, EngineOptions(dcn="plugin"))
    with pytest.raises(BackendError, match="has no --dla-core"):
        rtx.build(b"", recipe, None, EngineOptions(dla_core=0))


def test_every_models_int8_runs_on_the_cpu_and_is_near_its_float(deployed, pictures):
    graph, spec, ranges = deployed
    recipe = choose(to_graph(graph), spec, "int8")
    model = quantize_model(graph, recipe, ranges, spec).SerializeToString()
    ort = backends.find("onnxruntime")
    engine = ort.build(model, recipe, ranges)[ort.engine_file]
    with ort(spec, graph.SerializeToString()) as floats, ort(spec, engine) as int8:
        for picture in pictures[:3]:  # those that it was calibrated on
            want, got = floats.infer({IMAGE: picture[None]}), int8.infer({IMAGE: picture[None]})
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
        recipe = config.load(Recipe, bundle.file("recipe.yaml"))
        spec, image = bundle.manifest.network, pictures[0][None]
        with (
            ort(spec, model) as want_runs,
            ort(spec, lower_for_tensorrt(model, recipe)) as got_runs,
        ):
            want, got = want_runs.infer({IMAGE: image}), got_runs.infer({IMAGE: image})
        found = differences(spec, want, got, LOWERED[precision])
        assert found.passed, (precision, found.text)


def test_a_bundle_for_cards_is_built_here_and_runs_on_the_cpu(exported, pictures, tmp_path):
    events = []
    target = tmp_path / "rtx.degmix"
    build(
        exported[0],
        target,
        precision="fp16",
        backend="tensorrt-rtx",
        golden_image=pictures[0],
        progress=events.append,
    )
    opened = open_bundle(target)
    assert opened.manifest.engines[0].file == "engines/tensorrt_rtx/engine.plan"
    assert "engines/tensorrt_rtx/layers.json" in opened.manifest.files
    said = next(event.detail for event in events if event.name == "golden check")
    assert "was not run here" in said
    with pytest.warns(UserWarning, match="has no engine for onnxruntime"), load(opened) as session:
        assert session(pictures[0])["depth"].shape == (HEIGHT, WIDTH)
    with pytest.raises(BackendError, match="run by TensorRT-RTX itself on the card"):
        load(opened, backend="tensorrt-rtx")


def test_what_the_parser_refuses_names_the_node(exported):
    graph = to_graph(deploy_model(*exported)[0])
    model = to_model(graph, {}).SerializeToString()  # DeformConv is not lowered
    with pytest.raises(
        GraphError, match=r"node 'mixers\.\w+\.0\.deform/DeformConv' \(DeformConv\)"
    ):
        build_in_child("tensorrt-rtx", model, trt_build.BuilderOptions())


def test_a_card_that_it_does_not_know():
    x = onnx.helper.make_tensor_value_info("x", 1, [1, 2])
    node = onnx.helper.make_node("Relu", ["x"], ["y"], name="r")
    graph = onnx.helper.make_graph([node], "g", [x], [onnx.ValueInfoProto(name="y", type=x.type)])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 20)])
    options = trt_build.BuilderOptions(compute_capabilities=("SM42",))
    with pytest.raises(BackendError, match="no compute capability 'SM42'. Have: .*SM89"):
        build_in_child("tensorrt-rtx", model.SerializeToString(), options)
    assert (
        len(
            build_in_child(
                "tensorrt-rtx", model.SerializeToString(), trt_build.BuilderOptions()
            ).plan
        )
        > 0
    )


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ((), "expected one libtensorrt_rtx.so.*, found none; pip install"),
        (("1.6.0", "1.7.1"), "found libtensorrt_rtx.so.1.6.0, libtensorrt_rtx.so.1.7.1; pip"),
    ],
)
def test_libraries_that_are_missing_or_of_two_versions(monkeypatch, tmp_path, names, message):
    for name in names:
        (tmp_path / f"libtensorrt_rtx.so.{name}").write_bytes(b"")
    monkeypatch.setattr(trt_load, "_rtx_folder", lambda: tmp_path)
    with pytest.raises(BackendError, match=re.escape(message)):
        build_in_child("tensorrt-rtx", b"", trt_build.BuilderOptions())


@pytest.mark.parametrize(
    ("death", "message"),
    [
        ("os.abort()", "ended with signal 6. Its last lines: out of patience"),
        ("os.kill(os.getpid(), 9)", "the builder was killed.*memory runs out"),
        ("sys.exit(3)", "ended with code 3"),
    ],
)
def test_a_builder_that_dies_is_an_error(monkeypatch, death, message):
    from degmix_edge.nvidia import worker as module

    code = f"import os, sys; print('out of patience', file=sys.stderr, flush=True); {death}"
    monkeypatch.setattr(module, "_command", lambda *_: [sys.executable, "-c", code])
    with pytest.raises(BuildError, match=message):
        module.build_in_child("tensorrt-rtx", b"", trt_build.BuilderOptions())

"""Our sampling inside OpenVINO, and offsets without positions, on the graphs that `build` makes."""

import itertools

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from cpu_library import COMPILER, cpu_library

from degmix_edge import backends
from degmix_edge.backends import _cpu_ops, _openvino_ops
from degmix_edge.bundle.contents import recipe_and_ranges
from degmix_edge.bundle.golden import LOWERED, differences
from degmix_edge.errors import BackendError, ConfigError
from degmix_edge.graph.model import to_graph
from degmix_edge.network import IMAGE
from degmix_edge.passes import pipeline
from degmix_edge.passes.forms import lower_for_openvino
from degmix_edge.quant.recipe import Recipe
from degmix_edge.quant.rules import choose
from degmix_edge.runtime import load
from degmix_edge.workflows.build import build

OPENVINO = backends.find("openvino")
MIXERS = 6
HALF = pytest.mark.skipif("bf16" not in OPENVINO.precisions(), reason="this CPU has no bfloat16")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(COMPILER is None, reason="no C++ compiler"),
]


@pytest.fixture
def library(monkeypatch):
    """Our operators, which every map is large enough for."""
    path = cpu_library()
    monkeypatch.setenv(_cpu_ops.VARIABLE, str(path))
    monkeypatch.setattr(pipeline, "SAMPLES_OF_OPERATOR", 0)
    return path


def engine(model: bytes, recipe: Recipe, ranges=None) -> bytes:
    return OPENVINO.build(model, recipe, ranges)[OPENVINO.engine_file]


def ran(spec, built: bytes, image, threads: int = 1) -> tuple[dict, list[tuple[str, str, str]]]:
    """The maps, and each node's name, kind and precision."""
    with OPENVINO(spec, built, threads=threads) as running:
        maps = running.infer({IMAGE: image})
        nodes = running._compiled.get_runtime_model().get_ordered_ops()
    info = [(node.get_friendly_name(), node.get_rt_info()) for node in nodes]
    keys = ("layerType", "runtimePrecision")
    return maps, [(name, *(i[key].astype(str) for key in keys)) for name, i in info]


def half_recipe(bundle) -> Recipe:
    graph = to_graph(onnx.load_from_string(bundle.onnx()))
    return choose(graph, bundle.manifest.network, "bf16")


@pytest.mark.parametrize("threads", [1, 2])
def test_float_engines_sample_with_it(bundles, pictures, library, monkeypatch, threads):
    bundle, image = bundles["fp32"], pictures[0][None]
    model, spec = bundle.onnx(), bundle.manifest.network
    got, nodes = ran(spec, engine(model, Recipe(precision="fp32")), image, threads)
    assert [kind for _, kind, _ in nodes].count("Reference") == MIXERS
    assert not any(kind == "GridSample" for _, kind, _ in nodes)
    monkeypatch.setenv(_cpu_ops.VARIABLE, "none")
    want, nodes = ran(spec, engine(model, Recipe(precision="fp32")), image)
    assert [kind for _, kind, _ in nodes].count("GridSample") == MIXERS
    for name, values in want.items():
        if values.dtype == np.uint8:
            assert np.mean(values == got[name]) >= 0.999
        else:
            assert np.linalg.norm(got[name] - values) < 1e-5 * np.linalg.norm(values)


def test_int8_products_behind_it_are_int8(bundles, pictures, library):
    bundle = bundles["int8"]
    recipe, ranges = recipe_and_ranges(bundle)
    spec, image = bundle.manifest.network, pictures[0][None]
    got, nodes = ran(spec, engine(bundle.onnx(), recipe, ranges), image)
    products = [p for name, k, p in nodes if k == "Convolution" and "deform/DeformConv" in name]
    assert len(products) == MIXERS
    assert set(products) <= {"i8", "u8"}
    assert set(got) >= {tensor.name for tensor in spec.map_specs}


@HALF
@pytest.mark.parametrize("has_operators", [True, False])
def test_offsets_are_made_in_bfloat16_and_positions_added_in_fp32(
    bundles, pictures, library, monkeypatch, has_operators
):
    if not has_operators:
        monkeypatch.setenv(_cpu_ops.VARIABLE, "none")
    bundle, image = bundles["fp32"], pictures[0][None]
    model, spec = bundle.onnx(), bundle.manifest.network
    recipe = half_recipe(bundle)
    offsets = {p.node for p in recipe.placements if "offsets" in p.reason}
    assert len(offsets) == 2 * MIXERS
    assert offsets <= recipe.nodes("fp32")
    got, nodes = ran(spec, engine(model, recipe), image)
    kinds = {name.removesuffix("/WithoutBiases"): (kind, p) for name, kind, p in nodes}
    assert {kinds[name][1] for name in offsets} == {"bf16"}
    if has_operators:
        assert {p for kind, p in kinds.values() if kind == "Reference"} == {"f32"}
    else:
        added = [p for name, (_, p) in kinds.items() if name.endswith("sample/moved")]
        assert added == ["f32"] * MIXERS
    want, _ = ran(spec, engine(model, Recipe(precision="fp32")), image)
    found = differences(spec, want, got, LOWERED["bf16"])
    assert found.passed, found.text


@HALF
def test_positions_stay_where_a_grid_would_need_a_large_constant(bundles, monkeypatch):
    model, recipe = bundles["fp32"].onnx(), half_recipe(bundles["fp32"])
    offsets = {p.node for p in recipe.placements if "offsets" in p.reason}
    assert not lower_for_openvino(model, recipe)[1] & offsets
    monkeypatch.setattr(pipeline, "SAMPLES_OF_TABLE", 1)
    assert lower_for_openvino(model, recipe)[1] >= offsets
    assert not lower_for_openvino(model, recipe, operators=True)[1] & offsets


def test_two_engines_have_threads_of_their_own(bundles, pictures, library):
    bundle, image = bundles["fp32"], {IMAGE: pictures[0][None]}
    spec, built = bundle.manifest.network, engine(bundle.onnx(), Recipe(precision="fp32"))
    asked: list[int] = []
    opened = _cpu_ops.opened(library)
    sample = opened.degmixCpuSample
    counted = type("Counted", (), {})()
    counted.degmixCpuSample = lambda *a: asked.append(a[2]) or sample(*a)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_cpu_ops, "opened", lambda path: counted)
        _openvino_ops.extensions.cache_clear()
        backends.openvino._core_with.cache_clear()
        with OPENVINO(spec, built, threads=1) as one, OPENVINO(spec, built, threads=2) as two:
            one.infer(image)
            two.infer(image)
    _openvino_ops.extensions.cache_clear()
    backends.openvino._core_with.cache_clear()
    assert [n for n, _ in itertools.groupby(asked)] == [1, 2]
    assert len(asked) == 2 * MIXERS


def test_an_engine_is_built_again_where_it_is_missing(exported, pictures, library, tmp_path):
    path = tmp_path / "x.degmix"
    build(exported[0], path, precision="fp32", golden_image=pictures[0], backend="openvino")
    want = np.asarray(load(path, backend="openvino")(pictures[0])["depth"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(_cpu_ops.VARIABLE, "none")
        patch.setenv("DEGMIX_CACHE", str(tmp_path / "cache"))
        with pytest.warns(UserWarning, match=r"(?s)running on.*building one"):
            got = np.asarray(load(path, backend="openvino")(pictures[0])["depth"])
        patch.setenv("DEGMIX_CACHE", str(tmp_path / "empty"))
        with pytest.raises(BackendError, match="degmix_cpu1"):
            load(path, backend="openvino", rebuild=False)
    np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)


def test_a_file_that_is_no_library_is_named(bundles, monkeypatch, tmp_path):
    text = tmp_path / "text.so"
    text.write_text("no library")
    monkeypatch.setenv(_cpu_ops.VARIABLE, str(text))
    with pytest.raises(ConfigError, match=r"text.so: no library of operators"):
        engine(bundles["fp32"].onnx(), Recipe(precision="fp32"))


def test_a_map_that_is_too_small_goes_through_a_grid(bundles, library, monkeypatch):
    monkeypatch.undo()
    monkeypatch.setenv(_cpu_ops.VARIABLE, str(library))
    lowered, _ = lower_for_openvino(
        bundles["fp32"].onnx(), Recipe(precision="fp32"), operators=True
    )
    ops = [node.op for node in gs.import_onnx(onnx.load_from_string(lowered)).nodes]
    assert ops.count("GridSample") == MIXERS

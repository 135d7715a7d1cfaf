"""The CPU operator, compiled here, against its slow reference and ONNX Runtime's DeformConv."""

import _ctypes
import ctypes
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from cpu_library import COMPILER, cpu_library
from deform_graphs import deform_graph, quantized
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from degmix_edge import backends
from degmix_edge.backends import _cpu_ops
from degmix_edge.backends.onnxruntime import _session
from degmix_edge.errors import BackendError, ConfigError
from degmix_edge.graph.model import to_graph, to_model
from degmix_edge.ops.deform_sample import position_offsets, reference
from degmix_edge.passes._base import apply
from degmix_edge.passes.lower_deform_sample import LowerDeformSample
from degmix_edge.workflows.build import build

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(COMPILER is None, reason="no C++ compiler"),
]


@pytest.fixture(scope="module")
def library():
    return cpu_library()


@pytest.fixture
def present(library, monkeypatch):
    monkeypatch.setenv(_cpu_ops.VARIABLE, str(library))
    return library


def session(library, threads=1, model=None):
    if model is None:
        sides = ["N", "C", "H", "W"], ["N", "D", "h", "w"]
        x, offset = (
            helper.make_tensor_value_info(n, 1, s)
            for n, s in zip(("value", "offset"), sides, strict=True)
        )
        out = helper.make_tensor_value_info("out", 1, ["N", "C", "h", "w"])
        node = helper.make_node("DegmixDeformSample", ["value", "offset"], ["out"], domain="degmix")
        opsets = [helper.make_opsetid("", 20), helper.make_opsetid("degmix", 1)]
        graph = helper.make_graph([node], "g", [x, offset], [out])
        model = helper.make_model(graph, opset_imports=opsets, ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = threads, 4
    options.register_custom_ops_library(str(library))
    return onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )


@pytest.fixture(scope="module")
def sample(library):
    running = session(library)
    return lambda value, offset: running.run(None, {"value": value, "offset": offset})[0]


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(0, 3),
    c=st.integers(1, 4),
    size=st.tuples(st.integers(1, 6), st.integers(1, 20)),
    spread=st.sampled_from([0.3, 2.0, 30.0]),
    seed=st.integers(0, 999),
)
def test_it_is_the_reference(sample, n, c, size, spread, seed):
    rng = np.random.default_rng(seed)
    value = rng.normal(size=(n, c, *size)).astype(np.float32)
    offset = (spread * rng.normal(size=(n, 2 * c, *size))).astype(np.float32)
    # A float32 coordinate of 20 px is off by 1e-6 of a pixel, between values up to 8 apart.
    np.testing.assert_allclose(sample(value, offset), reference(value, offset), atol=2e-5)


def test_borders_and_what_is_no_number(sample):
    value = np.random.default_rng(0).normal(size=(1, 1, 5, 19)).astype(np.float32)
    offset = np.zeros((1, 2, 5, 19), np.float32)
    offset[0, 0, 0] = np.resize([np.nan, np.inf, -np.inf, 1e30, -1e30, -1, -0.5, 5, 4.999], 19)
    offset[0, 1, 1] = np.resize([np.nan, np.inf, -np.inf, 3e38, -3e38, -2, -1.5, 19, 0.25], 19)
    got, want = sample(value, offset), reference(value, offset)
    assert np.isfinite(got).all()
    np.testing.assert_allclose(got, want, atol=1e-6)
    assert (got[0, 0, 0, :5] == 0).all()


def test_a_large_batch_and_another_output_size(sample):
    rng = np.random.default_rng(2)
    value = rng.normal(size=(33, 2, 4, 9)).astype(np.float32)
    offset = rng.normal(size=(33, 4, 3, 8)).astype(np.float32)
    np.testing.assert_allclose(sample(value, offset), reference(value, offset), atol=2e-5)


def test_threads_change_nothing(library):
    rng = np.random.default_rng(3)
    feeds = {"value": rng.normal(size=(2, 16, 12, 33)), "offset": rng.normal(size=(2, 32, 12, 33))}
    feeds = {k: v.astype(np.float32) for k, v in feeds.items()}
    one, two = (session(library, threads).run(None, feeds)[0] for threads in (1, 2))
    np.testing.assert_array_equal(one, two)


def by_c_interface(library, value, offset, position=None, threads=1):
    """What a runtime gets that lends an operator no threads."""
    n, c, *size = value.shape
    out = np.full((n, c, *offset.shape[2:]), np.nan, np.float32)
    arrays = (value, offset, position, out)
    addresses = (None if array is None else array.ctypes.data for array in arrays)
    params = _cpu_ops.SampleParams(*addresses, c, *size, *offset.shape[2:])
    sample = _cpu_ops.opened(library).degmixCpuSample
    assert sample(ctypes.byref(params), n * c, threads) == 0
    return out


@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 2),
    c=st.integers(1, 5),
    size=st.tuples(st.integers(1, 6), st.integers(1, 20)),
    is_along=st.booleans(),
    seed=st.integers(0, 999),
)
def test_a_table_of_positions_is_added(library, n, c, size, is_along, seed):
    rng = np.random.default_rng(seed)
    value = rng.normal(size=(n, c, *size)).astype(np.float32)
    offset = (2 * rng.normal(size=(n, 2 * c, *size))).astype(np.float32)
    table = rng.normal(size=(9, c, 4)).astype(np.float32) if is_along else None
    own = 0 if table is None else position_offsets(table, *size)
    got = by_c_interface(library, value, offset, table)
    # Of a pixel 40 px away; values are up to 8 apart.
    np.testing.assert_allclose(got, reference(value, offset + own), atol=1e-4)


def test_threads_of_its_own_change_nothing(library):
    rng = np.random.default_rng(3)
    value = rng.normal(size=(2, 16, 64, 65)).astype(np.float32)
    offset = rng.normal(size=(2, 32, 64, 65)).astype(np.float32)
    one, three, many = (by_c_interface(library, value, offset, None, n) for n in (1, 3, 999))
    np.testing.assert_array_equal(one, three)
    np.testing.assert_array_equal(one, many)
    np.testing.assert_allclose(
        one, session(library).run(None, {"value": value, "offset": offset})[0]
    )


@pytest.mark.parametrize("isa", ["plain", "avx2"])
def test_each_instruction_set(library, isa):
    code = (
        "import sys, numpy as np; sys.path[:0] = sys.argv[2:];"
        "from test_deform_sample_cpu import session, reference;"
        "r = np.random.default_rng(0);"
        "v = r.normal(size=(1, 3, 7, 37)).astype('f4');"
        "o = (5 * r.normal(size=(1, 6, 7, 37))).astype('f4');"
        "got = session(sys.argv[1]).run(None, {'value': v, 'offset': o})[0];"
        "assert np.abs(got - reference(v, o)).max() < 5e-6; print('equal')"
    )
    here = Path(__file__).parent
    paths = [str(here), str(here.parent)]
    environment = {**os.environ, "DEGMIX_CPU_ISA": isa}
    done = subprocess.run(
        [sys.executable, "-c", code, str(library), *paths],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == "equal", done.stderr


@pytest.mark.parametrize(
    ("value", "offset", "message"),
    [
        ((1, 2, 3, 3), (1, 3, 3, 3), r"value is \(1, 2, 3, 3\) and offset \(1, 3, 3, 3\)"),
        ((1, 2, 3, 3), (2, 4, 3, 3), "expected an offset of"),
    ],
)
def test_wrong_shapes_are_errors(sample, value, offset, message):
    with pytest.raises(Exception, match=message):
        sample(np.zeros(value, np.float32), np.zeros(offset, np.float32))


def test_the_pass_keeps_the_function(library):
    graph, feeds = deform_graph(np.random.default_rng(0), n=2, groups=4, group=1, size=(6, 20))
    want = session(library, model=to_model(graph.copy(), {})).run(None, feeds)[0]
    done = apply(graph, [LowerDeformSample(), LowerDeformSample()])
    assert [o.rewrites for o in done] == [1, 0]
    assert {n.name: n.op for n in graph.nodes} == {
        "block/DeformConv/sample": "DegmixDeformSample",
        "block/DeformConv": "Conv",
    }
    got = session(library, model=to_model(graph, {})).run(None, feeds)[0]
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_quantized_weights_stay_quantized():
    graph, _ = quantized(np.random.default_rng(0), 3.0)
    apply(graph, [LowerDeformSample()])
    conv = next(n for n in graph.nodes if n.op == "Conv")
    assert conv.inputs[1].inputs[0].op == "DequantizeLinear"


def test_engines_use_it_and_models_stay_standard(exported, pictures, present, tmp_path):
    ort = backends.find("onnxruntime")
    assert ort.device().endswith("+degmix_cpu1")
    for precision in ("fp32", "int8"):
        target = tmp_path / f"{precision}.degmix"
        bundle = build(
            exported[0], target, precision=precision, calibration=pictures, observer="min_max"
        )
        engine = onnx.load(bundle.file("engines/onnxruntime/engine.onnx"))
        ops = [node.op_type for node in engine.graph.node]
        assert ops.count("DegmixDeformSample") == 6
        assert "DeformConv" not in ops
        model = onnx.load(bundle.file("model.onnx"))
        assert not any(node.domain == "degmix" for node in model.graph.node)
        if precision == "int8":  # the products behind the samples are integer kernels
            makers = {o: n for n in engine.graph.node for o in n.output}
            sampled = [n for n in engine.graph.node if n.op_type == "QLinearConv"]
            assert sum("deform" in n.name for n in sampled) == 6, makers.keys()


def test_an_engine_is_not_run_without_it(exported, pictures, present, tmp_path, monkeypatch):
    from degmix_edge.runtime import load

    target = tmp_path / "x.degmix"
    build(exported[0], target, precision="fp32", golden_image=pictures[0])
    want = {name: np.asarray(m) for name, m in load(target)(pictures[0]).items()}
    monkeypatch.setenv(_cpu_ops.VARIABLE, "none")
    with pytest.warns(UserWarning, match=r"(?s)built for +running on\n.*degmix_cpu1"):
        got = load(target)(pictures[0])
    np.testing.assert_allclose(got["depth"], want["depth"], rtol=1e-3, atol=1e-3)


def test_a_library_that_is_not_there_or_is_none(monkeypatch, tmp_path):
    monkeypatch.setenv(_cpu_ops.VARIABLE, str(tmp_path / "no.so"))
    with pytest.raises(ConfigError, match="no.so: no such file; unset it, or run `make cpu-ops`"):
        _cpu_ops.library()
    text = tmp_path / "text.so"
    text.write_text("no library")
    with pytest.raises(ConfigError, match=r"text.so: no library of operators"):
        _cpu_ops.instruction_set(text)
    with pytest.raises(ConfigError, match=r"older one \(.*degmixCpuIsa.*`make cpu-ops` builds"):
        _cpu_ops.instruction_set(Path(_ctypes.__file__))
    monkeypatch.setenv(_cpu_ops.VARIABLE, str(text))
    with pytest.raises(BackendError, match=r"text.so: no library of operators.*=none leaves it"):
        _session(b"")


def test_graphs_round_trip(present):
    graph, _ = deform_graph(np.random.default_rng(0), groups=4, group=1)
    apply(graph, [LowerDeformSample()])
    again = to_graph(to_model(graph, {}))
    assert [n.op for n in again.nodes] == ["DegmixDeformSample", "Conv"]
    assert again.nodes[0].domain == "degmix"


def test_the_doctor_tries_the_library(present, monkeypatch):
    from degmix_edge.workflows import doctor

    check = doctor._cpu_operators()
    assert check.status == "ok"
    assert check.found.endswith("self-test passed")
    model = onnx.load_from_string(doctor.SELF_TEST)
    onnx.checker.check_model(model)
    (value,) = reference(np.array([[[[1, 2], [3, 4]]]]), np.full((1, 2, 1, 1), 0.5)).ravel()
    assert value == 2.5
    other = onnx.ModelProto()
    other.CopyFrom(model)
    other.graph.node[0].op_type = "Nonesuch"
    monkeypatch.setattr(doctor, "SELF_TEST", other.SerializeToString())
    check = doctor._cpu_operators()
    assert check.status == "missing"
    assert "self-test failed" in check.found
    del other.graph.node[:]
    other.graph.node.append(helper.make_node("ReduceMax", ["value"], ["out"]))
    monkeypatch.setattr(doctor, "SELF_TEST", other.SerializeToString())
    assert "self-test gave 4.0, expected 2.5" in doctor._cpu_operators().found

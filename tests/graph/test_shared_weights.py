"""Weights of several ONNX files in one: nothing is lost, and nothing else can be referred to."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from degmix_edge.errors import GraphError
from degmix_edge.graph.self_contained import check_self_contained
from degmix_edge.graph.shared_weights import (
    ALIGNMENT,
    SMALLEST,
    put_weights_back,
    share_weights,
)
from degmix_edge.limits import VARIABLE
from degmix_edge.ort import cpu_session

FILES = ("model.onnx", "engines/onnxruntime/engine.onnx")
LOCATION = "weights.bin"


@pytest.fixture(params=["fp32", "fp16", "int8"])
def graphs(request, bundles):
    """What the product makes: model.onnx and the engine of one bundle."""
    bundle = bundles[request.param]
    return {name: bundle.read(name) for name in FILES}


def tensors(model: bytes) -> list[onnx.TensorProto]:
    return list(onnx.load_from_string(model).graph.initializer)


def test_files_come_back_byte_for_byte_and_equal_weights_lie_once(graphs):
    shared, weights = share_weights(graphs, LOCATION)
    for name, model in graphs.items():
        assert len(shared[name]) < len(model)
        assert put_weights_back(shared[name], weights, LOCATION, name) == model
    large = [t.raw_data for g in graphs.values() for t in tensors(g) if len(t.raw_data) >= SMALLEST]
    assert len(set(large)) < len(large)
    assert len(weights) < sum(map(len, set(large))) + ALIGNMENT * len(set(large))
    assert all(weights.count(content) for content in set(large))


def test_other_programs_read_the_files_where_they_lie(graphs, tmp_path):
    shared, weights = share_weights(graphs, LOCATION)
    path = tmp_path / "model.onnx"
    path.write_bytes(shared["model.onnx"])
    (tmp_path / LOCATION).write_bytes(weights)
    onnx.checker.check_model(str(path), full_check=True)
    expected = tensors(graphs["model.onnx"])
    for own, theirs in zip(expected, onnx.load(path).graph.initializer, strict=True):
        assert np.array_equal(numpy_helper.to_array(own), numpy_helper.to_array(theirs))
    for entry in onnx.load(path, load_external_data=False).graph.initializer:
        values = {pair.key: pair.value for pair in entry.external_data}
        assert not values or int(values["offset"]) % ALIGNMENT == 0
        assert not values or values["location"] == LOCATION


def test_a_file_that_refers_to_others_is_refused_unless_its_weights_are_put_back(graphs):
    shared, weights = share_weights(graphs, LOCATION)
    for name, model in shared.items():
        with pytest.raises(GraphError, match="a tensor lies in another file"):
            check_self_contained(model, name)
        check_self_contained(put_weights_back(model, weights, LOCATION, name), name)


def outside(tensor: onnx.TensorProto, **values: str) -> None:
    """Refer to other bytes than before."""
    del tensor.external_data[:]
    for key, value in values.items():
        tensor.external_data.add(key=key, value=value)


PLACE = {"location": LOCATION, "offset": "0", "length": "128"}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"location": "../weights.bin"}, "lies in '../weights.bin', expected all in weights.bin"),
        ({"location": "/etc/passwd"}, "lies in '/etc/passwd'"),
        ({"location": "sub/../weights.bin"}, "lies in 'sub/../weights.bin'"),
        ({"length": "99999999"}, "at 0 to 99999999 of weights.bin, which has"),
        ({"offset": "99999999"}, "which has [0-9]+ bytes; copy the bundle again"),
        ({"offset": "-64"}, "without one offset and one length"),
        ({"offset": "0x10"}, "without one offset and one length"),
        ({"offset": "9" * 40}, "without one offset and one length"),
        ({"offset": ""}, "without one offset and one length"),
        ({"checksum": "0"}, "without one offset and one length"),
    ],
)
def test_what_a_file_may_not_refer_to(graphs, values, message):
    shared, weights = share_weights(graphs, LOCATION)
    model = onnx.load_from_string(shared["model.onnx"])
    victim = next(t for t in model.graph.initializer if t.external_data)
    outside(victim, **(PLACE | values))
    with pytest.raises(GraphError, match=message):
        put_weights_back(model.SerializeToString(), weights, LOCATION, "model.onnx")


def test_a_tensor_with_its_value_inside_and_outside(graphs):
    shared, weights = share_weights(graphs, LOCATION)
    model = onnx.load_from_string(shared["model.onnx"])
    next(t for t in model.graph.initializer if t.external_data).raw_data = b"x" * 128
    with pytest.raises(GraphError, match="a tensor with two values"):
        put_weights_back(model.SerializeToString(), weights, LOCATION, "model.onnx")


def test_a_reference_twice_or_in_an_attribute(graphs):
    shared, weights = share_weights(graphs, LOCATION)
    model = onnx.load_from_string(shared["model.onnx"])
    victim = next(t for t in model.graph.initializer if t.external_data)
    victim.external_data.add(key="offset", value="0")
    with pytest.raises(GraphError, match="without one offset and one length"):
        put_weights_back(model.SerializeToString(), weights, LOCATION, "model.onnx")
    model = onnx.load_from_string(shared["model.onnx"])
    hidden = TensorProto(name="hidden", data_type=TensorProto.FLOAT, dims=[32], data_location=1)
    outside(hidden, **PLACE)
    model.graph.node.append(helper.make_node("Constant", [], ["hidden"], value=hidden))
    whole = put_weights_back(model.SerializeToString(), weights, LOCATION, "model.onnx")
    with pytest.raises(GraphError, match="a tensor lies in another file"):
        check_self_contained(whole, "model.onnx")


def test_a_small_file_cannot_become_a_huge_one(graphs, monkeypatch):
    """Many tensors that refer to the same bytes; the limit is that of a whole file."""
    shared, weights = share_weights(graphs, LOCATION)
    monkeypatch.setenv(VARIABLE, "file_bytes=100000")
    model = onnx.load_from_string(shared["model.onnx"])
    victim = next(t for t in model.graph.initializer if t.external_data)
    outside(victim, **(PLACE | {"length": "60000"}))
    again = model.graph.initializer.add()
    again.CopyFrom(victim)
    with pytest.raises(GraphError, match="file_bytes"):
        put_weights_back(model.SerializeToString(), weights, LOCATION, "model.onnx")


@pytest.mark.parametrize("cut", [0.2, 0.5, 0.9, 0.999])
def test_a_file_that_is_cut_off(graphs, cut):
    shared, weights = share_weights(graphs, LOCATION)
    data = shared["model.onnx"][: int(cut * len(shared["model.onnx"]))]
    with pytest.raises(GraphError, match="not a readable ONNX model; copy it again"):
        put_weights_back(data, weights, LOCATION, "model.onnx")


def test_what_need_not_be_moved_stays_as_it_is():
    """Small constants, values in other fields, and a tensor that says where it lies."""
    small = numpy_helper.from_array(np.arange(4, dtype=np.int64), "small")
    typed = helper.make_tensor("typed", TensorProto.FLOAT, [64], np.arange(64.0))
    said = numpy_helper.from_array(np.arange(64, dtype=np.float32), "said")
    said.data_location = TensorProto.DEFAULT
    nodes = [helper.make_node("Add", ["typed", "said"], ["sum"])]
    output = helper.make_tensor_value_info("sum", TensorProto.FLOAT, [64])
    graph = helper.make_graph(nodes, "g", [], [output], [small, typed, said])
    opset = helper.make_opsetid("", 20)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=10).SerializeToString()
    shared, weights = share_weights({"a": model, "b": model}, LOCATION)
    assert shared == {"a": model, "b": model}
    assert weights == b""
    whole = put_weights_back(model, weights, LOCATION, "a")
    assert whole == model
    assert np.array_equal(cpu_session(whole).run(None, {})[0], 2 * np.arange(64.0))

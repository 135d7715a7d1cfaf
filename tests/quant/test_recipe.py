"""Which nodes stay float, and why; quantization parameters."""

import numpy as np
import onnx_graphsurgeon as gs
import pytest

from degmix_edge.errors import ConfigError, GraphError
from degmix_edge.graph.model import append, constant, to_graph
from degmix_edge.passes.forms import deploy_model
from degmix_edge.quant import ranges as reading
from degmix_edge.quant.qparams import per_channel_scale, quantize, scale_of
from degmix_edge.quant.rules import choose


@pytest.fixture(scope="module")
def deployed(exported):
    model, spec, _ = deploy_model(*exported)
    return to_graph(model), spec


def reasons(recipe):
    return {p.node: p.reason for p in recipe.placements if p.precision == "fp32"}


def test_what_stays_float_in_int8(deployed):
    kept = reasons(choose(*deployed, "int8"))
    firsts = [n for n, r in kept.items() if "reads the image" in r]
    assert firsts == ["backbone.network.conv_stem/Conv"]
    offsets = {n for n, r in kept.items() if "offsets" in r}
    assert offsets == {
        f"mixers.{task}.0.offset.{layer}/Conv"
        for task in deployed[1].task_names
        for layer in ("to_taps", "to_offset")
    }
    lasts = {n for n, r in kept.items() if "last layer" in r}
    assert lasts == {f"heads.{task}.3/Conv" for task in ("normals", "edge", "depth")}


@pytest.mark.parametrize("bias_first", [True, False])
def test_only_the_first_layer_of_a_foreign_graph_reads_the_image(deployed, bias_first):
    """TorchScript adds the bias of a linear layer from the left; BGR is a Gather of channels."""
    image = gs.Variable("image", np.uint8, [1, 8, 8, 3])
    graph = gs.Graph([], [image], [], opset=18)
    tensor = append(graph, "Cast", [image], "float", np.float32, to=1)
    order = constant("order", [2, 1, 0], np.int64)
    tensor = append(graph, "Gather", [tensor, order], "bgr", np.float32, axis=3)
    for name in ("first", "second"):
        tensor = append(graph, "MatMul", [tensor, constant(f"{name}.w", np.eye(3))], name, "f4")
        operands = [tensor, constant(f"{name}.b", [1.0] * 3)]
        operands = operands[::-1] if bias_first else operands
        tensor = append(graph, "Add", operands, f"{name}/bias", "f4")
    spec = deployed[1].keep(["semseg"])
    assert list(reasons(choose(graph, spec, "int8"))) == ["first"]


def test_fp16_keeps_only_the_offset_branch(deployed):
    recipe = choose(*deployed, "fp16")
    assert set(reasons(recipe).values()) == {"makes the offsets of a deformable convolution"}
    assert "heads.depth.3/Conv" in recipe.nodes("fp16")


def test_fp32_places_nothing(deployed):
    assert choose(*deployed, "fp32").placements == ()


def test_weights_alone_where_other_operands_stay_float(deployed):
    recipe = choose(*deployed, "int8")
    assert sum(name.startswith("queries.") for name in recipe.nodes("int8_weights")) == 12
    deformable = [n for n in recipe.nodes("int8") if n.endswith("deform/DeformConv")]
    assert len(deformable) == 6  # samples keep the scale of their values


def test_keep_float_is_obeyed_and_checked(deployed):
    name = "heads.semseg.0/Conv"
    assert reasons(choose(*deployed, "int8", keep_float=(name,)))[name] == "asked for"
    with pytest.raises(GraphError, match="Did you mean 'heads.semseg.0/Conv'"):
        choose(*deployed, "int8", keep_float=("heads.semseg.0/Con",))


def test_scale_and_quantize_by_hand():
    assert scale_of(127.0) == 1
    assert scale_of(0.0) > 0
    values = np.array([[-300.0, 0.4, 0.5, 1.5], [63.5, -1.0, 2.0, 127.0]])
    np.testing.assert_array_equal(
        quantize(values, scale_of(127.0)), [[-127, 0, 0, 2], [64, -1, 2, 127]]
    )
    np.testing.assert_allclose(per_channel_scale(values, 0), [300 / 127, 1], rtol=5e-4)
    for scale in per_channel_scale(values, 0):
        assert np.float32(np.float16(scale)) == scale  # the grid of the FP16 graph, exactly
    by_row = quantize(values, per_channel_scale(values, 0), axis=0)
    assert by_row[0, 0] == -127
    assert by_row[1, 3] == 127


def test_ranges_of_other_weights_are_refused(bundles, tmp_path):
    path = tmp_path / "ranges.json"
    path.write_bytes(bundles["int8"].file("ranges.json").read_bytes())
    good = reading.Ranges.model_validate_json(path.read_text())
    assert reading.read(path, good.graph_sha256) == good
    with pytest.raises(ConfigError, match="the weights changed. Calibrate again"):
        reading.read(path, "0" * 64)
    path.write_text("{")
    with pytest.raises(ConfigError, match="not a ranges file"):
        reading.read(path, good.graph_sha256)
    with pytest.raises(ConfigError, match="no such ranges file"):
        reading.read(tmp_path / "none.json", "")

"""Passes on graphs that other programs may write: each rewrites exactly, or leaves them alone."""

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from onnx import TensorProto, helper, numpy_helper

from degmix_edge.graph.cost import costs
from degmix_edge.graph.model import constant, to_graph, to_model
from degmix_edge.network import NetworkSpec, Source
from degmix_edge.ort import cpu_session
from degmix_edge.passes._base import apply
from degmix_edge.passes.decode_tasks import DecodeTasks
from degmix_edge.passes.fold_batchnorm import FoldBatchnorm
from degmix_edge.passes.fold_constants import FoldConstants
from degmix_edge.passes.fold_conv_mixture import FoldConvMixture
from degmix_edge.passes.fuse_integer_matmul import FuseIntegerMatmul
from degmix_edge.passes.hoist_pointwise import HoistPointwise
from degmix_edge.passes.insert_fp16 import InsertFp16
from degmix_edge.passes.lower_moe import LowerMoe
from degmix_edge.passes.lower_qdq_for_cpu import LowerQdqForCpu
from degmix_edge.passes.lower_row_sum import LowerRowSum
from degmix_edge.passes.merge_convs import MergeConvs
from degmix_edge.passes.pipeline import other_forms, simplify
from degmix_edge.passes.remove_identities import RemoveIdentities
from degmix_edge.passes.share_constants import ShareConstants
from degmix_edge.quant.ranges import Ranges
from degmix_edge.quant.recipe import Placement, Recipe
from degmix_edge.tasks import find

NO_RANGES = Ranges(graph_sha256="0", observer="min_max", images=(), tensors={})


def parse(body, opset=18, **weights):
    """A model from ONNX's text form; arrays become its initializers."""
    head = f'<ir_version: 8, opset_import: ["": {opset}, "com.other": 1]> g '
    model = onnx.parser.parse_model(head + body)
    tensors = [numpy_helper.from_array(np.asarray(v), name) for name, v in weights.items()]
    model.graph.initializer.extend(tensors)
    return model


def outputs(model):
    session = cpu_session(model.SerializeToString(), optimization="none")
    random = np.random.default_rng(1)
    inputs = {}
    for value in session.get_inputs():
        sides = [side if isinstance(side, int) else 3 for side in value.shape]
        kind = {"tensor(float)": "f4", "tensor(float16)": "f2", "tensor(int64)": "i8"}[value.type]
        inputs[value.name] = (3 * random.normal(size=sides)).astype(kind)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, inputs), strict=True))


def check(model, step, rewrites, tolerance=1e-5):
    """`step` makes so many rewrites, none the second time, and the outputs stay; the new graph."""
    wanted = outputs(model)
    graph = to_graph(model)
    first, second = (apply(graph, [step])[0].rewrites for _ in range(2))
    assert (first, second) == (rewrites, 0)
    got = outputs(to_model(graph, {}))
    assert list(got) == list(wanted)
    for name, value in wanted.items():
        assert got[name].dtype == value.dtype
        limit = tolerance * max(np.abs(value).max(), 1e-9) if value.dtype.kind == "f" else 0
        np.testing.assert_allclose(got[name], value, rtol=0, atol=limit)
    return graph


def normal(*shape, dtype="f4", seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(dtype)


def norm_weights(channels=4, dtype="f4"):
    names = {"s": normal(channels, seed=1), "b": normal(channels, seed=2)}
    names |= {"m": normal(channels, seed=3), "v": np.abs(normal(channels, seed=4)) + 0.5}
    return {name: value.astype(dtype) for name, value in names.items()}


class TestNames:
    def test_nodes_without_names_get_their_own(self):
        model = parse(
            "(float[2] x) => (float[2] y, float[2] z) {a = Relu(x) y = Neg(a) z = Abs(a)}"
        )
        assert [node.name for node in to_graph(model).nodes] == ["a", "y", "z"]

    def test_nodes_of_one_name_are_told_apart(self):
        model = parse("(float[2] x) => (float[2] z) {y = Relu(x) z = Neg(y)}")
        for node in model.graph.node:
            node.name = "node"
        names = [node.name for node in to_graph(model).nodes]
        assert names == ["node", "node.1"]
        assert {cost.node for cost in costs(model)} == set(names)

    def test_a_pass_does_not_overwrite_a_tensor_that_others_read(self):
        """Folded weights of the node `conv` are called like weights that it shares with another."""
        model = parse(
            """(float[1,4,5,5] x) => (float[1,4,5,5] y, float[1,4,5,5] z)
            {c = Conv(x, w) y = BatchNormalization(c, s, b, m, v) z = Conv(x, w)}""",
            w=normal(4, 4, 1, 1),
            **norm_weights(),
        )
        model.graph.node[0].name = "conv"
        for node in (model.graph.node[0], model.graph.node[2]):
            node.input[1] = "conv.weight"
        next(t for t in model.graph.initializer if t.name == "w").name = "conv.weight"
        check(model, FoldBatchnorm(), 1)

    def test_two_norms_behind_unnamed_convolutions(self):
        model = parse(
            """(float[1,4,5,5] x) => (float[1,4,5,5] y)
            {a = Conv(x, w) c = BatchNormalization(a, s, b, m, v)
             d = Conv(c, u) y = BatchNormalization(d, s, b, m, v)}""",
            w=normal(4, 4, 1, 1),
            u=normal(4, 4, 1, 1, seed=7),
            **norm_weights(),
        )
        check(model, FoldBatchnorm(), 2)


class TestFoldBatchnorm:
    def test_statistics_of_the_batch_stay(self):
        model = parse(
            """(float[1,4,5,5] x) => (float[1,4,5,5] y, float[4] rm, float[4] rv)
            {c = Conv(x, w) y, rm, rv = BatchNormalization <training_mode = 1> (c, s, b, m, v)}""",
            w=normal(4, 4, 1, 1),
            **norm_weights(),
        )
        check(model, FoldBatchnorm(), 0)

    @pytest.mark.parametrize("made", ["s", "bias"])
    def test_what_is_computed_is_not_folded(self, made):
        scale, bias = ("t", "k") if made == "s" else ("s", "t")
        model = parse(
            f"""(float[1,4,5,5] x, float[4] r) => (float[1,4,5,5] y)
            {{t = Abs(r) c = Conv(x, w, {bias})
              y = BatchNormalization(c, {scale}, b, m, v)}}""",
            w=normal(4, 4, 1, 1),
            k=normal(4, seed=9),
            **norm_weights(),
        )
        check(model, FoldBatchnorm(), 0)

    @pytest.mark.parametrize("sides", [1, 2, 3])
    def test_every_number_of_dimensions_and_groups(self, sides):
        shape = ",".join(["5"] * sides)
        model = parse(
            f"""(float[1,4,{shape}] x) => (float[1,4,{shape}] y)
            {{c = Conv<group = 2>(x, w) y = BatchNormalization(c, s, b, m, v)}}""",
            w=normal(4, 2, *[1] * sides),
            **norm_weights(),
        )
        check(model, FoldBatchnorm(), 1)

    def test_half_floats_stay(self):
        model = parse(
            """(float16[1,4,5,5] x) => (float16[1,4,5,5] y)
            {c = Conv(x, w) y = BatchNormalization(c, s, b, m, v)}""",
            w=normal(4, 4, 1, 1, dtype="f2"),
            **norm_weights(dtype="f2"),
        )
        check(model, FoldBatchnorm(), 1, tolerance=2e-3)


class TestFoldConstants:
    @pytest.mark.parametrize("attributes", ["start = 1", "end = -1", "start = -3, end = 3"])
    def test_a_part_of_a_shape(self, attributes):
        model = parse(
            f"(float[2,3,4,5] x) => (int64[n] y) {{a = Relu(x) y = Shape<{attributes}>(a)}}"
        )
        check(model, FoldConstants(), 2)

    def test_a_factor_between_casts_is_not_rounded(self):
        model = parse(
            """(int64[4] x) => (int64[4] y)
            {f = Cast<to = 1>(x) p = Mul(f, half) y = Cast<to = 7>(p)}""",
            half=np.float32(0.5),
        )
        check(model, FoldConstants(), 0)

    def test_random_numbers_stay_random(self):
        model = parse(
            """(float[4] x) => (float[4] y) {r = RandomNormal<shape = [4]>() y = Add(x, r)}"""
        )
        graph = to_graph(model)
        assert apply(graph, [FoldConstants()])[0].rewrites == 0

    def test_a_node_that_cannot_be_run_does_not_keep_the_others(self):
        model = parse(
            """(float[4] x) => (float[4] y, float[4] z)
            {a = Add(k, k) y = Mul(x, a) b = com.other.Strange(k) z = Mul(x, b)}""",
            k=normal(4),
        )
        graph = to_graph(model)
        assert [o.rewrites for o in apply(graph, [FoldConstants(), FoldConstants()])] == [1, 0]
        assert sorted(node.op for node in graph.nodes) == ["Mul", "Mul", "Strange"]

    def test_shapes_that_folded_shapes_make_known(self):
        """The shape of the second reshape is the first one's, which is computed too."""
        model = parse(
            """(float[2,12] x) => (float[a,b] z)
            {s = Concat<axis = 0>(two, rest) r = Reshape(x, s) t = Shape(r)
             u = Gather(t, order) z = Reshape(r, u)}""",
            two=np.int64([6]),
            rest=np.int64([-1]),
            order=np.int64([1, 0]),
        )
        graph = check(model, FoldConstants(), 3)
        assert [node.op for node in graph.nodes] == ["Reshape", "Reshape"]
        assert graph.outputs[0].shape == [4, 6]

    @pytest.mark.parametrize("taken", [True, False])
    def test_a_choice_that_is_known_becomes_its_branch(self, taken):
        """One branch gives a constant and an outer tensor, the other computes with both."""
        model = parse(
            """(float[4] x) => (float[4] y, float[4] z)
            {a = Relu(x)
             p, q = If (taken) <
               then_branch = t () => (float[4] c, float[4] i)
                 {c = Constant<value = float[4] {1, 2, 3, 4}>() i = Identity(a)},
               else_branch = e () => (float[4] m, float[4] n) {m = Mul(a, k) n = Neg(m)}>
             y = Add(p, x) z = Mul(q, p)}""",
            taken=np.bool_(taken),
            k=normal(4),
        )
        graph = check(model, FoldConstants(), 1)
        assert "If" not in {node.op for node in graph.nodes}

    def test_a_choice_of_the_image_stays(self):
        model = parse(
            """(float[4] x) => (float[4] y)
            {s = ReduceSum<keepdims = 0>(x) g = Greater(s, zero)
             y = If (g) <then_branch = t () => (float[4] c) {k = Add(two, two) c = Mul(x, k)},
                         else_branch = e () => (float[4] n) {n = Neg(x)}>}""",
            zero=np.float32(0),
            two=np.float32(2),
        )
        check(model, FoldConstants(), 0)

    def test_stored_weights_stay_small(self):
        model = parse(
            """(float[1,4] x) => (float[1,4] y)
            {w = DequantizeLinear(q, s) y = MatMul(x, w)}""",
            q=np.ones((4, 4), np.int8),
            s=np.float32(0.1),
        )
        check(model, FoldConstants(), 0)


class TestRemoveIdentities:
    def test_a_resize_whose_scales_come_first(self):
        """Opset 10 has no region: 1.04 of 24 pixels are 24 pixels too, but others."""
        model = parse(
            """(float[1,1,24,24] x) => (float[1,1,24,24] y)
            {r = Resize<mode = "linear">(x, scales) y = Relu(r)}""",
            opset=10,
            scales=np.float32([1, 1, 1.04, 1.04]),
        )
        check(model, RemoveIdentities(), 0)

    def test_a_resize_that_reads_between_the_pixels(self):
        model = parse(
            """(float[1,1,4,4] x) => (float[1,1,4,4] y)
            {r = Resize<mode = "linear", coordinate_transformation_mode = "tf_half_pixel_for_nn">
               (x, , ones) y = Relu(r)}""",
            opset=11,
            ones=np.ones(4, np.float32),
        )
        graph = to_graph(model)
        assert apply(graph, [RemoveIdentities()])[0].rewrites == 0

    def test_a_side_that_may_grow(self):
        x, y = gs.Variable("x", np.float32, [None]), gs.Variable("y", np.float32, [None])
        added = gs.Variable("added", np.float32, [None])
        nodes = [gs.Node("Add", "a", {}, [x, constant("zeros", [0.0] * 5)], [added])]
        nodes.append(gs.Node("Relu", "r", {}, [added], [y]))
        graph = gs.Graph(nodes, [x], [y], opset=18)
        assert apply(graph, [RemoveIdentities()])[0].rewrites == 0


HOISTED = """(float[1,3,8,8] a, float[1,6,4,4] b) => (float[1,2,8,8] y)
    {{r = Resize<mode = "linear"{more}>(b, , {how}) c = Concat<axis = 1>(a, r)
      y = Conv(c, w, k)}}"""
SCALES = np.float32([1, 1, 2, 2])


class TestHoistPointwise:
    weights = {"w": normal(2, 9, 1, 1), "k": normal(2)}

    @pytest.mark.parametrize(
        ("more", "sizes"),
        [("", [1, 6, 8, 8]), (", axes = [2, 3]", [8, 8]), (", axes = [3, 2]", [8, 8])],
    )
    def test_sizes_of_all_sides_or_of_some(self, more, sizes):
        body = HOISTED.format(more=more, how=", sizes")
        check(parse(body, sizes=np.int64(sizes), **self.weights), HoistPointwise(), 1)

    def test_scales(self):
        body = HOISTED.format(more="", how="scales")
        check(parse(body, scales=SCALES, **self.weights), HoistPointwise(), 1)
        check(parse(body, 13, scales=SCALES, **self.weights), HoistPointwise(), 1)

    def test_sizes_that_name_the_channels(self):
        body = HOISTED.format(more=", axes = [1, 2, 3]", how=", sizes")
        check(parse(body, sizes=np.int64([6, 8, 8]), **self.weights), HoistPointwise(), 0)

    def test_half_floats_stay(self):
        body = HOISTED.format(more="", how="scales").replace("float[", "float16[")
        weights = {name: value.astype("f2") for name, value in self.weights.items()}
        check(parse(body, scales=SCALES, **weights), HoistPointwise(), 1, tolerance=4e-3)

    def test_maps_below_each_other(self):
        model = parse(
            """(float[1,6,8,8] a, float[1,6,4,4] b) => (float[1,2,16,8] y)
            {r = Resize<mode = "linear">(b, , scales) c = Concat<axis = 2>(a, r) y = Conv(c, w)}""",
            scales=SCALES,
            w=normal(2, 6, 1, 1),
        )
        check(model, HoistPointwise(), 0)

    @pytest.mark.parametrize(("maps", "factors"), [((2, 6), (2, 6, 1, 1)), ((1, 1), (1, 6, 1, 1))])
    def test_factors_that_are_not_one_a_channel(self, maps, factors):
        batch, channels = maps
        model = parse(
            f"""(float[{batch},3,8,8] a, float[{batch},{channels},4,4] b)
            => (float[{batch},1,8,8] y)
            {{r = Resize<mode = "linear">(b, , scales) p = Mul(r, f)
              c = Concat<axis = 1>(a, p) y = Conv(c, w)}}""",
            scales=SCALES,
            f=normal(*factors),
            w=normal(1, 9, 1, 1),
        )
        check(model, HoistPointwise(), 0)

    def test_channels_that_are_not_known(self):
        """A map behind a shape that is computed: how many channels it has is not in the file."""
        model = parse(
            """(float[1,6,4,4] b, float[1,3,64] a, int64[4] s) => (float[1,2,8,8] y)
            {r = Resize<mode = "linear">(b, , scales) i = Mul(s, zeros) t = Add(i, sides)
             d = Reshape(a, t) c = Concat<axis = 1>(d, r) y = Conv(c, w)}""",
            scales=SCALES,
            zeros=np.int64([0, 0, 0, 0]),
            sides=np.int64([1, 3, 8, 8]),
            w=normal(2, 9, 1, 1),
        )
        check(model, HoistPointwise(), 0)


class TestShareConstants:
    def test_equal_numbers_of_other_types(self):
        """graph-surgeon holds bfloat16 as float32."""
        x = gs.Variable("x", np.float32, [2])
        plain = gs.Constant("plain", np.ones(2, np.float32))
        brain = gs.Constant("brain", np.ones(2, np.float32), export_dtype=TensorProto.BFLOAT16)
        outs = [gs.Variable("y", np.float32, [2]), gs.Variable("z", TensorProto.BFLOAT16, [2])]
        nodes = [
            gs.Node("Add", "a", {}, [x, plain], outs[:1]),
            gs.Node("Neg", "n", {}, [brain], outs[1:]),
        ]
        graph = gs.Graph(nodes, [x], outs, opset=18)
        assert apply(graph, [ShareConstants()])[0].rewrites == 0


class TestMergeConvs:
    body = """(float[1,4,5,5] x) => (float[1,2,5,5] y, float[1,3,5,5] z)
        {y = Conv(x, w) z = Conv(x, u, k)}"""
    weights = {"w": normal(2, 4, 1, 1), "u": normal(3, 4, 1, 1, seed=5), "k": normal(3)}

    @pytest.mark.parametrize("opset", [11, 12, 13, 18])
    def test_sizes_as_an_attribute_or_an_input(self, opset):
        check(parse(self.body, opset, **self.weights), MergeConvs(), 1)

    def test_half_floats_stay(self):
        weights = {name: value.astype("f2") for name, value in self.weights.items()}
        model = parse(self.body.replace("float[", "float16["), **weights)
        check(model, MergeConvs(), 1, tolerance=2e-3)

    def test_one_dimension(self):
        weights = {name: v[..., 0] if v.ndim == 4 else v for name, v in self.weights.items()}
        check(parse(self.body.replace(",5,5]", ",5]"), **weights), MergeConvs(), 1)


class TestFoldConvMixture:
    body = """(float[1,3,8,8] x, float[1,{a},1,1] g, float[1,{b},1,1] h) => (float[1,4,8,8] y)
        {{p = Conv<pads = [1, 1, 1, 1]>(x, w) q = Conv<pads = [1, 1, 1, 1]>(x, u, k)
          i = Mul(p, g) j = Mul(q, h) y = Add(i, j)}}"""
    weights = {"w": normal(4, 3, 3, 3), "u": normal(4, 3, 3, 3, seed=5), "k": normal(4)}

    @pytest.mark.parametrize(("a", "b"), [(4, 4), (1, 4), (1, 1)])
    def test_gates_of_channels_and_of_the_image(self, a, b):
        check(parse(self.body.format(a=a, b=b), **self.weights), FoldConvMixture(), 1)

    def test_two_gates_of_the_image_and_a_product_behind(self):
        model = parse(
            """(float[1,3,8,8] x, float[1,1,1,1] g, float[1,1,1,1] h) => (float[1,4,8,8] y)
            {p = Conv<pads = [1, 1, 1, 1]>(x, w) q = Conv<pads = [1, 1, 1, 1]>(x, u)
             i = Mul(p, g) j = Mul(i, h) n = Add(j, h) o = Conv(n, m) y = Add(o, q)}""",
            m=normal(4, 4, 1, 1, seed=6),
            **{name: self.weights[name] for name in "wu"},
        )
        check(model, FoldConvMixture(), 1)

    def test_half_floats_stay(self):
        weights = {name: value.astype("f2") for name, value in self.weights.items()}
        body = self.body.format(a=4, b=4).replace("float[", "float16[")
        check(parse(body, **weights), FoldConvMixture(), 1, tolerance=5e-3)

    def test_maps_of_one_channel_that_become_many(self):
        model = parse(
            """(float[1,3,8,8] x, float[1,4,1,1] g, float[1,4,1,1] h) => (float[1,4,8,8] y)
            {p = Conv<pads = [1, 1, 1, 1]>(x, w) q = Conv<pads = [1, 1, 1, 1]>(x, u)
             i = Mul(p, g) j = Mul(q, h) y = Add(i, j)}""",
            w=normal(1, 3, 3, 3),
            u=normal(4, 3, 3, 3, seed=5),
        )
        check(model, FoldConvMixture(), 0)

    def test_pads_that_are_not_written_out(self):
        body = self.body.format(a=4, b=4).replace(
            "Conv<pads = [1, 1, 1, 1]>(x, u, k)", 'Conv<auto_pad = "SAME_UPPER">(x, u, k)'
        )
        plain = body.replace("pads = [1, 1, 1, 1]", "dilations = [1, 1]").replace(
            "[1,3,8,8] x", "[1,3,10,10] x"
        )
        check(parse(body, **self.weights), FoldConvMixture(), 0)
        check(parse(plain.replace("SAME_UPPER", "VALID"), **self.weights), FoldConvMixture(), 0)


class TestQuantizedGraphs:
    """Pairs that are in the file already need not be ours: around zero, one grid a tensor."""

    @pytest.mark.parametrize("zero", [0, 7])
    def test_integer_product_of_others(self, zero):
        model = parse(
            """(float[3,4] x) => (float[3,5] y)
            {q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z)
             w = DequantizeLinear(i, t, o) y = MatMul(d, w)}""",
            s=np.float32(0.05),
            z=np.int8(zero),
            t=np.float32(0.02),
            o=np.int8(zero),
            i=np.random.default_rng(0).integers(-100, 100, (4, 5), dtype=np.int8),
        )
        check(model, FuseIntegerMatmul(), int(zero == 0), tolerance=1e-4)

    def test_pairs_without_a_zero_point(self):
        model = parse(
            """(float[3,4] x) => (float[3,5] y)
            {q = QuantizeLinear(x, s) d = DequantizeLinear(q, s)
             w = DequantizeLinear(i, t) y = MatMul(d, w)}""",
            s=np.float32(0.05),
            t=np.float32(0.02),
            i=np.random.default_rng(0).integers(-100, 100, (4, 5), dtype=np.int8),
        )
        check(model, FuseIntegerMatmul(), 0)

    @pytest.mark.parametrize("zero", [0, 7])
    def test_another_zero_point_stays(self, zero):
        model = parse(
            """(float[3,4] x) => (float[3,4] y)
            {q = QuantizeLinear(x, s, z) y = DequantizeLinear(q, s, z)}""",
            s=np.float32(0.05),
            z=np.int8(zero),
        )
        check(model, LowerQdqForCpu(NO_RANGES), int(zero == 0))

    def test_what_lies_inside_a_pair_stays(self):
        model = parse(
            """(float[3,4] x) => (float[4,3] y)
            {q = QuantizeLinear(x, s, z) t = Transpose<perm = [1, 0]>(q)
             y = DequantizeLinear(t, s, z)}""",
            s=np.float32(0.05),
            z=np.int8(0),
        )
        check(model, LowerQdqForCpu(NO_RANGES), 0)


def moe(expert_axis=-1):
    """The masked form of a mixture of 3 experts of width 2 for 4 tokens."""
    sides = [1, 1, 4, 3, 2] if expert_axis == -1 else [1, 1, 4, 2, 3]
    unsqueezed = -1 if expert_axis == -1 else 3
    return parse(
        """(float[1,1,4,5] x, float[1,1,4,3] r) => (float[1,1,4,6] y)
        {v, i = TopK<axis = -1>(r, two) e = ScatterElements<axis = -1>(zeros, i, v)
          m = Unsqueeze(e, at) f = MatMul(x, w) a = Add(f, k) g = Gelu(a)
          h = Reshape(g, sides) o = Mul(h, m) l = Reshape(o, flat) y = MatMul(l, u)}""",
        20,
        two=np.int64([2]),
        zeros=np.zeros((1, 1, 4, 3), np.float32),
        at=np.int64([unsqueezed]),
        w=normal(5, 6),
        k=normal(6),
        u=normal(6, 6),
        sides=np.int64(sides),
        flat=np.int64([1, 1, 4, 6]),
    )


class TestLowerMoe:
    def test_experts_side_by_side(self):
        check(moe(), LowerMoe(0), 1)

    def test_units_in_front_of_experts(self):
        check(moe(expert_axis=3), LowerMoe(0), 0)


def sums(op="ReduceSum", sides=(4, 900, 5), axes=(1,), keepdims=1):
    given = ",".join(map(str, sides))
    made = np.zeros(sides).sum(tuple(axes), keepdims=bool(keepdims)).shape
    result = ",".join(map(str, made))
    return parse(
        f"""(float[{given}] x) => (float[{result}] y)
        {{t = Mul(x, x) y = {op}<keepdims = {keepdims}>(t, axes)}}""",
        axes=np.int64(axes),
    )


class TestLowerRowSum:
    @pytest.mark.parametrize("op", ["ReduceSum", "ReduceMean"])
    @pytest.mark.parametrize("keepdims", [0, 1])
    @pytest.mark.parametrize("axis", [1, -2])
    def test_rows_of_a_batch(self, op, keepdims, axis):
        check(sums(op, axes=(axis,), keepdims=keepdims), LowerRowSum(), 1)

    def test_rows_of_several_heads(self):
        check(sums(sides=(2, 3, 70, 5), axes=(2,), keepdims=0), LowerRowSum(), 1)

    def test_others_stay(self):
        for sides, axes in (
            ((4, 9, 5), (2,)),
            ((4, 9, 5), (0,)),
            ((4, 9, 5), (1, 2)),
            ((4, 2, 5), (1,)),
            ((9, 5), (0,)),
            ((4, 9, 5, 6), (1,)),
        ):
            check(sums(sides=sides, axes=axes), LowerRowSum(), 0)
        check(sums("ReduceMax"), LowerRowSum(), 0)


def test_another_tensor_is_called_like_the_logits():
    model = parse(
        """(float[1,3,8,8] x) => (float[1,2,8,8] semseg)
        {semseg_logits = Relu(x) semseg = Conv(semseg_logits, w)}""",
        w=normal(2, 3, 1, 1),
    )
    source = Source(name="theirs.onnx", sha256="0")
    tasks = (find("semseg").spec(("a", "b")),)
    spec = NetworkSpec(model="theirs", height=8, width=8, tasks=tasks, source=source)
    wanted = outputs(model)["semseg"]
    graph = to_graph(model)
    apply(graph, [DecodeTasks(spec, raw_logits=True)])
    assert [tensor.name for tensor in graph.outputs] == ["semseg", "semseg_logits"]
    found = outputs(to_model(graph, {}))
    np.testing.assert_array_equal(found["semseg_logits"], wanted)
    np.testing.assert_array_equal(found["semseg"], wanted.argmax(1))


@pytest.mark.parametrize("lowest", [np.finfo(np.float32).min, -np.inf])
def test_half_floats_leave_a_mask_that_they_cannot_hold(lowest):
    """Attention masks hold the lowest float of all."""
    mask = np.where(np.tri(4) > 0, 0, lowest).astype(np.float32)
    model = parse(
        """(float[4,4] x) => (float[4,4] y)
        {p = MatMul(x, w) m = Add(p, mask) a = Softmax(m) y = MatMul(a, u)}""",
        w=normal(4, 4),
        u=normal(4, 4, seed=8),
        mask=mask,
    )
    wanted = outputs(model)["y"]
    graph = to_graph(model)
    places = (
        Placement(node=node, op="MatMul", precision="fp16", reason="test") for node in ("p", "y")
    )
    apply(graph, [InsertFp16(Recipe(precision="fp16", placements=tuple(places)))])
    np.testing.assert_allclose(outputs(to_model(graph, {}))["y"], wanted, atol=1e-2)


def test_a_whole_graph_with_everything_that_is_optional():
    """Initializers as inputs, an output that others read, an identity that makes one."""
    model = parse(
        """(float[1,4,6,6] x) => (float[1,4,6,6] c, float[1,4,6,6] y, float[1,4,6,6] same)
        {c = Conv(x, w, ) i = Identity(c) n = BatchNormalization(i, s, b, m, v)
         d = Dropout(n) j = Identity(d) y = Relu(j) same = Identity(y)}""",
        13,
        w=normal(4, 4, 1, 1),
        **norm_weights(),
    )
    for tensor in model.graph.initializer:
        value = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        model.graph.input.append(value)
    wanted = _with_image(model)
    graph = to_graph(model)
    apply(graph, simplify(["c", "y", "same"]))
    assert [tensor.name for tensor in graph.inputs] == ["x"]
    assert [node.op for node in graph.nodes].count("Identity") == 1
    for form in [None, *other_forms()]:
        other = graph.copy()
        if form is not None:
            apply(other, [form])
        got = _with_image(to_model(other, {}))
        for name, value in wanted.items():
            np.testing.assert_allclose(got[name], value, atol=1e-5)


def _with_image(model):
    session = cpu_session(model.SerializeToString(), optimization="none")
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(None, {"x": normal(1, 4, 6, 6)}), strict=True))

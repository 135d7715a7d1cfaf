"""Files of other programs become the form of our passes and stay the same function."""

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper, parser

from degmix_edge.errors import ConfigError, GraphError
from degmix_edge.graph.adopt import adopt
from degmix_edge.graph.float32 import narrow_types
from degmix_edge.graph.opset import OPSET, version_of
from degmix_edge.ort import cpu_session
from degmix_edge.passes.forms import simplify_model

HEIGHT, WIDTH = 8, 12
IMAGE = np.random.default_rng(0).normal(size=(1, 3, HEIGHT, WIDTH)).astype(np.float32)


def file(opset: int, text: str, *, image="float[n,3,h,w] x", outputs="float[a,b,c,d] y", **weights):
    """A model with the nodes of `text`, as the ONNX parser reads them."""
    model = parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : {opset}]> theirs ({image}) => ({outputs})\n'
        f"{{ {text} }}"
    )
    for name, values in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(values), name))
    for output in model.graph.output:
        if not output.type.tensor_type.shape.dim:
            output.type.tensor_type.ClearField("shape")
    return model


def run(model: onnx.ModelProto, image: np.ndarray = IMAGE) -> list[np.ndarray]:
    session = cpu_session(model.SerializeToString(), num_threads=1)
    return session.run(None, {session.get_inputs()[0].name: image})


def adopted(model: onnx.ModelProto, **options) -> onnx.ModelProto:
    """The adopted model, once it has the form that is promised."""
    before = model.SerializeToString(deterministic=True)
    result = adopt(model, "mine.onnx", size=(HEIGHT, WIDTH), **options)
    assert model.SerializeToString(deterministic=True) == before
    onnx.checker.check_model(result, full_check=True)
    assert version_of(result) == OPSET
    for value in (*result.graph.input, *result.graph.output):
        dims = value.type.tensor_type.shape.dim
        assert all(dim.HasField("dim_value") for dim in dims)
    (image,) = result.graph.input
    shape = [d.dim_value for d in image.type.tensor_type.shape.dim]
    assert shape in ([1, channels, HEIGHT, WIDTH] for channels in (1, 3))
    assert image.type.tensor_type.elem_type == TensorProto.FLOAT
    assert not narrow_types(result)
    names = [node.name for node in result.graph.node]
    assert len(set(names)) == len(names)
    assert "" not in names
    return result


F, I = np.float32, np.int64  # noqa: E741
RANDOM = np.random.default_rng(1)
SIDES = "s = Shape(x) h = Gather<axis=0>(s, two) w = Gather<axis=0>(s, three)"
CASES = {
    "Upsample 7": (7, "y = Upsample<mode='nearest', scales=[1.0,1.0,2.0,1.5]>(x)", {}),
    "Upsample 7 linear": (7, "y = Upsample<mode='linear', scales=[1.0,1.0,2.0,3.0]>(x)", {}),
    "Upsample 9": (9, "y = Upsample<mode='linear'>(x, s)", {"s": F([1, 1, 2, 2])}),
    "Resize 10 up": (10, "y = Resize<mode='nearest'>(x, s)", {"s": F([1, 1, 1.5, 1.7])}),
    "Resize 10 down": (10, "y = Resize<mode='nearest'>(x, s)", {"s": F([1, 1, 0.6, 0.7])}),
    "Resize 10 linear": (10, "y = Resize<mode='linear'>(x, s)", {"s": F([1, 1, 2, 2.5])}),
    "Resize 11 sizes": (
        11,
        "y = Resize<mode='linear', coordinate_transformation_mode='align_corners'>(x, e, e, z)",
        {"e": F([]), "z": I([1, 3, 5, 7])},
    ),
    "Resize 11 scales": (
        11,
        "y = Resize<mode='cubic', cubic_coeff_a=-0.75>(x, e, s)",
        {"e": F([]), "s": F([1, 1, 2, 2])},
    ),
    "Slice 9": (9, "y = Slice<axes=[2,3], starts=[1,0], ends=[-1,5]>(x)", {}),
    "Pad 10": (10, "y = Pad<mode='reflect', pads=[0,0,1,2,0,0,3,1]>(x)", {}),
    "Pad 2": (9, "y = Pad<pads=[0,0,1,2,0,0,3,1], value=0.5>(x)", {}),
    "Clip 6": (10, "y = Clip<max=0.5>(x)", {}),
    "Dropout 7": (7, "y = Dropout<ratio=0.3>(x)", {}),
    "BatchNormalization 7": (
        7,
        "y = BatchNormalization<epsilon=0.01>(x, a, b, c, d)",
        {n: RANDOM.uniform(0.5, 2, 3).astype(F) for n in "abcd"},
    ),
    "TopK 9": (9, "y, i = TopK<axis=3, k=4>(x)", {}),
    "Softmax 11 over all": (11, "y = Softmax<axis=1>(x)", {}),
    "Softmax 11 default": (11, "y = Softmax(x)", {}),
    "LogSoftmax 12 last": (12, "y = LogSoftmax<axis=-1>(x)", {}),
    "Softmax 12 from the end": (12, "y = Softmax<axis=-2>(x)", {}),
    "ReduceMean 11": (11, "y = ReduceMean<axes=[2,3], keepdims=1>(x)", {}),
    "ReduceL2 13": (13, "y = ReduceL2<axes=[1], keepdims=1>(x)", {}),
    "ReduceSum 11": (11, "y = ReduceSum<axes=[1], keepdims=1>(x)", {}),
    "ReduceMax 18": (18, "y = ReduceMax<keepdims=1>(x, a)", {"a": I([1])}),
    "Squeeze 11": (
        11,
        "a = ReduceMax<axes=[1], keepdims=1>(x) b = Squeeze<axes=[1]>(a) "
        "y = Unsqueeze<axes=[0]>(b)",
        {},
    ),
    "Split 11": (11, "a, b = Split<axis=1, split=[1,2]>(x) y = Concat<axis=1>(b, a)", {}),
    "Split 13 in three": (13, "a, b, c = Split<axis=1>(x) y = Concat<axis=1>(b, c, a)", {}),
    "Scatter 9": (9, "y = Scatter<axis=0>(x, i, u)", {"i": I([[[[0]]]]), "u": F([[[[7]]]])}),
    "DepthToSpace 10": (10, "a = Concat<axis=1>(x, x, x, x) y = DepthToSpace<blocksize=2>(a)", {}),
    "GridSample 16": (
        16,
        "y = GridSample<mode='bicubic', align_corners=1>(x, g)",
        {"g": RANDOM.uniform(-1, 1, (1, 4, 5, 2)).astype(F)},
    ),
    "GroupNormalization 21": (
        21,
        "y = GroupNormalization<num_groups=3>(x, a, b)",
        {"a": F([1, 2, 3]), "b": F([0, 1, 2])},
    ),
    "RMSNormalization 23": (23, "y = RMSNormalization(x, a)", {"a": np.ones(WIDTH, F)}),
    "Attention 23": (23, "y = Attention(x, x, x)", {}),
    "Swish 24": (24, "y = Swish(x)", {}),
    "sides in a Reshape": (
        11,
        f"{SIDES} h1 = Unsqueeze<axes=[0]>(h) w1 = Unsqueeze<axes=[0]>(w) "
        "p = Mul(h1, w1) z = Concat<axis=0>(one3, p) f = Reshape(x, z) m = ReduceMean<axes=[2]>(f) "
        "z2 = Concat<axis=0>(one3, h1, w1) g = Reshape(f, z2) n = Unsqueeze<axes=[3]>(m) "
        "y = Mul(g, n)",
        {"two": I(2), "three": I(3), "one3": I([1, 3])},
    ),
    "halved sides in a Resize": (
        13,
        "s = Shape(x) a = Slice(s, b0, b2, b0) c = Slice(s, b2, b4, b0) "
        "f = Cast<to=1>(c) g = Mul(f, half) k = Floor(g) i = Cast<to=7>(k) "
        "z = Concat<axis=0>(a, i) y = Resize<mode='nearest'>(x, , , z)",
        {"b0": I([0]), "b2": I([2]), "b4": I([4]), "half": F(0.5)},
    ),
    "Shape from 2": (
        15,
        "s = Shape<start=2>(x) z = Concat<axis=0>(a, s) p = MaxPool<kernel_shape=[2,2], "
        "strides=[2,2]>(x) y = Resize<mode='linear'>(p, , , z)",
        {"a": I([1, 3])},
    ),
    "a grid of the sides": (
        13,
        f"{SIDES} r = Range(zero, w, unit) f = Cast<to=1>(r) y = Add(x, f)",
        {"two": I(2), "three": I(3), "zero": I(0), "unit": I(1)},
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_operators(case):
    """Each operator whose definition changed, in its older or newer form."""
    opset, text, weights = CASES[case]
    model = file(opset, text.replace("'", '"'), **weights)
    result = adopted(model)
    for want, got in zip(run(model), run(result), strict=True):
        assert want.shape == got.shape
        assert np.ptp(want) > 0
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    assert not {"Shape", "Range", "Size"} & {node.op_type for node in result.graph.node}


@pytest.mark.parametrize("wide", [True, False])
def test_a_branch_of_known_sides(wide):
    """The exporter writes If where a squeeze depends on a dynamic side."""
    model = file(
        13,
        "s = Shape(x) w = Gather<axis=0>(s, three) c = Greater(w, limit) "
        "y = If(c) <then_branch = a () => (float[k,l,m,o] t) { t = Relu(x) }, "
        "else_branch = b () => (float[k,l,m,o] e) { e = Neg(x) }>",
        three=I(3),
        limit=I(WIDTH - 1 if wide else WIDTH),
    )
    result = adopted(model)
    assert [node.op_type for node in result.graph.node] == ["Relu" if wide else "Neg", "Identity"]
    np.testing.assert_array_equal(run(result)[0], run(model)[0])


@pytest.mark.parametrize("kind", [TensorProto.FLOAT16, TensorProto.BFLOAT16])
def test_half_floats(kind):
    """Weights, constants, casts, inputs and outputs; the values are the file's own."""
    name = TensorProto.DataType.Name(kind).lower()
    weight = RANDOM.normal(size=(4, 3, 3, 3)).astype(F)
    model = file(
        17,
        f"c = Conv<pads=[1,1,1,1]>(x, k) d = Cast<to=1>(c) e = Relu(d) f = Cast<to={kind}>(e) "
        f"y = Mul(f, half)",
        image=f"{name}[n,3,h,w] x",
        outputs=f"{name}[a,b,c,d] y",
    )
    dtype = helper.tensor_dtype_to_np_dtype(kind)
    for key, values in (("k", weight), ("half", F(0.5))):
        model.graph.initializer.append(numpy_helper.from_array(values.astype(dtype), key))
    assert narrow_types(model) == {kind}
    result = adopted(model)
    assert [node.op_type for node in simplified(result).graph.node] == ["Conv", "Relu", "Mul"]
    (got,) = run(result)
    kernel = weight.astype(dtype).astype(F)
    (want,) = run(file(17, "c = Conv<pads=[1,1,1,1]>(x, k) y = Relu(c)", k=kernel))
    np.testing.assert_allclose(got, want / 2, rtol=1e-5, atol=1e-5)


def simplified(model: onnx.ModelProto) -> onnx.ModelProto:
    """What the passes leave, with every output kept."""
    return simplify_model(model, [output.name for output in model.graph.output])


def test_weights_among_the_inputs():
    """Files of IR version 3 list every weight as an input."""
    model = file(8, "y = Mul(x, k)", k=F([2.0]))
    model.ir_version = 3
    model.graph.input.append(helper.make_tensor_value_info("k", 1, [1]))
    np.testing.assert_array_equal(run(adopted(model))[0], IMAGE * 2)


def test_functions_of_the_file():
    text = (
        '<ir_version: 8, opset_import: ["" : 18, "their.lib" : 1]> theirs (float[1,3,8,12] x) '
        "=> (float[1,3,8,12] y) { y = their.lib.twice(x) } "
        '<domain: "their.lib", opset_import: ["" : 18]> twice (a) => (b) { b = Add(a, a) }'
    )
    np.testing.assert_array_equal(run(adopted(parser.parse_model(text)))[0], IMAGE * 2)


def test_channels_last():
    """The transpose of the file and ours vanish, and outputs keep their layout."""
    model = file(
        13,
        "p = Transpose<perm=[0,3,1,2]>(x) c = Conv<strides=[2,2]>(p, k) r = Relu(c) "
        "y = Transpose<perm=[0,2,3,1]>(r) z = Softmax<axis=-1>(y)",
        image="float[n,h,w,3] x",
        outputs="float[a,b,c,d] y, float[e,f,g,i] z",
        k=RANDOM.normal(size=(5, 3, 1, 1)).astype(F),
    )
    result = adopted(model)
    for want, got in zip(run(model, IMAGE.transpose(0, 2, 3, 1)), run(result), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6)
    operators = [node.op_type for node in simplified(result).graph.node]
    assert operators == ["Conv", "Relu", "Transpose", "Softmax"]


def test_grey_images_of_either_layout():
    for shape, place in (("1,1,8,12", (0, 1, 2, 3)), ("1,8,12,1", (0, 2, 3, 1))):
        model = file(13, "y = Relu(x)", image=f"float[{shape}] x")
        image = np.ascontiguousarray(IMAGE[:, :1])
        (got,) = run(adopted(model), image)
        np.testing.assert_array_equal(got, np.maximum(image.transpose(place), 0))


@pytest.mark.parametrize("last", [True, False])
def test_bytes(last):
    """No cast to bytes stays before a cast to floats; a node that computes with bytes keeps one."""
    image = "uint8[n,h,w,3] x" if last else "uint8[n,3,h,w] x"
    planes = "p = Transpose<perm=[0,3,1,2]>(x)" if last else "p = Identity(x)"
    model = file(
        13,
        f'{planes} f = Cast<to=1>(p) g = Div(f, white) q = BitShift<direction="RIGHT">(p, b) '
        "h = Cast<to=1>(q) y = Sub(g, h)",
        image=image,
        white=F(255),
        b=np.uint8(3),
    )
    pixels = np.random.default_rng(0).integers(0, 256, (1, 3, HEIGHT, WIDTH)).astype(np.uint8)
    own = np.ascontiguousarray(pixels.transpose(0, 2, 3, 1)) if last else pixels
    result = adopted(model)
    want, got = run(model, own)[0], run(result, pixels.astype(F) + F(1e-5))[0]
    np.testing.assert_array_equal(got, want)
    casts = [n for n in simplified(result).graph.node if n.op_type == "Cast"]
    assert [c.attribute[0].i for c in casts] == [TensorProto.UINT8, TensorProto.FLOAT]


RESIZED = {"e": F([]), "s": F([1, 1, 2, 2])}
REFUSED = {
    "dynamic": (
        file(13, "y = Relu(x)"),
        None,
        r"has shape \['n', 3, 'h', 'w'\] with the dynamic "
        r"axes height \('h'\) and width \('w'\), .* give --size HEIGHTxWIDTH",
    ),
    "one dynamic side": (
        file(13, "y = Relu(x)", image="float[1,3,8,w] x"),
        None,
        r"dynamic axes width \('w'\)",
    ),
    "another size": (
        file(13, "y = Relu(x)", image="float[1,3,8,12] x"),
        (8, 16),
        r"has the width 12 in its file, and --size is 8x16; leave --size out",
    ),
    "two channels": (
        file(13, "y = Relu(x)", image="float[1,2,8,12] x"),
        None,
        r"expected an RGB image .*or a grey one of one channel",
    ),
    "rank": (file(13, "y = Relu(x)", image="float[3,8,12] x"), None, r"expected an image \[N, 3"),
    "type": (
        file(13, "y = Cast<to=1>(x)", image="int32[1,3,8,12] x"),
        None,
        r"is int32, expected one of float32, float16, bfloat16, uint8",
    ),
    "two images": (
        file(13, "y = Add(x, z)", image="float[1,3,8,12] x, float[1,3,8,12] z"),
        None,
        r"2 inputs: x \[1, 3, 8, 12\]; z .*One is the image; say what each other is \(--input z",
    ),
    "domain": (
        parser.parse_model(
            '<ir_version: 8, opset_import: ["" : 13, "mmcv" : 1]> g '
            "(float[1,3,8,12] x) => (float[1,3,8,12] y) { y = mmcv.Deform(x) }"
        ),
        None,
        r"mmcv::Deform at node 'y': not of standard ONNX",
    ),
    "opset": (file(6, "y = Relu(x)"), (8, 12), r"opset 6 is older than 7, .* opset_version=20"),
    "redefined": (
        file(
            11,
            'y = Resize<coordinate_transformation_mode="tf_half_pixel_for_nn">(x, e, s)',
            **RESIZED,
        ),
        (8, 12),
        r"Resize at node 'y' cannot be converted from opset 11 to 20: its tf_half_pixel",
    ),
    "up and down": (
        file(10, "y = Resize(x, s)", s=F([1, 1, 1.5, 0.7])),
        (8, 12),
        r"Resize at node 'y' cannot be converted from opset 10 to 20: .* enlarges one side",
    ),
    "Hardmax": (file(11, "y = Hardmax(x)"), (8, 12), r"Hardmax at node 'y' cannot be converted"),
    "data": (
        file(13, "n = NonZero(x) y = Cast<to=1>(n)", outputs="float[a,b] y"),
        (8, 12),
        r"NonZero at node 'n': its output's shape depends on the data",
    ),
    "size": (
        file(
            13,
            "p = MaxPool<kernel_shape=[2,2], strides=[2,2]>(x) q = Resize(p, , s) y = Add(x, q)",
            s=F([1, 1, 2, 2]),
        ),
        (9, 12),
        r"does not take an image of 9 x 12: Add at node 'y': .*multiples of 32",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    model, size, message = REFUSED[case]
    error = ConfigError if case == "two images" else GraphError
    with pytest.raises(error, match=message) as caught:
        adopt(model, "mine.onnx", size=size)
    assert str(caught.value).startswith("mine.onnx: ")


def test_the_batch_is_that_of_the_file_or_the_one_asked_for():
    own = adopt(file(13, "y = Relu(x)", image="float[4,3,8,12] x"), "mine.onnx")
    assert own.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 4
    asked = adopt(file(13, "y = Relu(x)"), "mine.onnx", size=(8, 12), batch=3)
    assert asked.graph.input[0].type.tensor_type.shape.dim[0].dim_value == 3
    with pytest.raises(GraphError, match="a batch of 4, expected 1; leave --batch out, or export"):
        adopt(file(13, "y = Relu(x)", image="float[4,3,8,12] x"), "mine.onnx", batch=1)

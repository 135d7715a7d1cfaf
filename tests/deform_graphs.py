"""Small graphs around one deformable convolution, for tests of passes and operators."""

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime

from degmix_edge.graph.model import append, constant, to_graph, to_model


def deform_graph(rng, *, n=1, group=2, groups=1, size=(5, 4), kernel=(1, 1), mask=False, **attrs):
    """x, offset (, mask) -> DeformConv "block/DeformConv" -> y; groups of channels, bias."""
    c, out = group * groups, 6
    stride, pads = attrs.get("strides", [1, 1]), attrs.get("pads", [0] * 4)
    dilation = attrs.get("dilations", [1, 1])
    spread = [d * (k - 1) + 1 for d, k in zip(dilation, kernel, strict=True)]
    height, width = (
        (s + pads[i] + pads[i + 2] - spread[i]) // stride[i] + 1 for i, s in enumerate(size)
    )
    taps = kernel[0] * kernel[1]
    names = {"x": [n, c, *size], "offset": [n, 2 * groups * taps, height, width]}
    if mask:
        names["mask"] = [n, groups * taps, height, width]
    inputs = {k: gs.Variable(k, np.float32, s) for k, s in names.items()}
    weight = constant("w", rng.normal(size=(out, c, *kernel)))
    y = gs.Variable("y", np.float32, [n, out, height, width])
    tensors = [inputs["x"], weight, inputs["offset"], constant("b", rng.normal(size=out))]
    tensors += [inputs["mask"]] if mask else []
    attrs |= {"offset_group": groups, "kernel_shape": list(kernel)}
    node = gs.Node("DeformConv", "block/DeformConv", attrs, tensors, [y])
    feeds = {k: rng.normal(size=v.shape).astype(np.float32) for k, v in inputs.items()}
    feeds["offset"] *= max(size)
    return gs.Graph([node], list(inputs.values()), [y], opset=20), feeds


def run(model: onnx.ModelProto, feeds: dict[str, np.ndarray], name: str = "y") -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    return session.run([name], feeds)[0]


def quantized(rng, amax: float, **options) -> tuple[gs.Graph, dict[str, np.ndarray]]:
    """The same with `x` and the weights behind Q/DQ."""
    graph, feeds = deform_graph(rng, **{"group": 1, "groups": 4, "size": (6, 7)} | options)
    node = graph.nodes[0]
    scale, zero = constant("s", amax / 127), constant("z", 0, np.int8)
    q = append(graph, "QuantizeLinear", [node.inputs[0], scale, zero], "x/q", np.int8)
    node.inputs[0] = append(graph, "DequantizeLinear", [q, scale, zero], "x/dq", np.float32)
    stored = np.rint(node.inputs[1].values * 30).clip(-127, 127)
    weights = [constant("w8", stored, np.int8), constant("ws", [1 / 30] * 6)]
    weights.append(constant("wz", [0] * 6, np.int8))
    node.inputs[1] = append(graph, "DequantizeLinear", weights, "w/dq", np.float32, axis=0)
    return to_graph(to_model(graph, {})), feeds

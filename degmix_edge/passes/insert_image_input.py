"""Let the graph take a camera's bytes: uint8 `(1, H, W, 3)` RGB, not normalised float NCHW."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from degmix_edge.errors import GraphError
from degmix_edge.graph.model import append, constant
from degmix_edge.network import IMAGE, NetworkSpec
from degmix_edge.passes._base import Pass
from degmix_edge.preprocess import GREY


class InsertImageInput(Pass):
    """Cast, transpose, subtract the mean, multiply by 1 / std."""

    def __init__(self, spec: NetworkSpec) -> None:
        self.spec = spec

    def run(self, graph: gs.Graph) -> int:
        if len(graph.inputs) != 1:
            names = [tensor.name for tensor in graph.inputs]
            raise GraphError(f"graph has {len(names)} inputs {names}, expected the one image")
        old = graph.inputs[0]
        if old.dtype == np.uint8:
            return 0
        channels = self.spec.channels
        want = [1, channels, self.spec.height, self.spec.width]
        if old.dtype != np.float32 or list(old.shape) != want:
            raise GraphError(
                f"input {old.name!r}: got {old.dtype} {old.shape}, expected float32 {want}; "
                f"export with a static batch of 1"
            )
        mean, std = (
            np.array(v, np.float32).reshape(1, channels, 1, 1) * 255
            for v in (self.spec.mean, self.spec.std)
        )
        consumers = list(old.outputs)
        image = gs.Variable(IMAGE, np.uint8, list(self.spec.image_spec.shape))
        # TensorRT takes uint8 as an input's type only: the cast is first.
        pixels = append(graph, "Cast", [image], "image/float", np.float32, to=1)
        planes = append(graph, "Transpose", [pixels], "image/planes", np.float32, perm=[0, 3, 1, 2])
        if self.spec.color == "bgr":
            order = constant("image/order", [2, 1, 0], np.int64)
            planes = append(graph, "Gather", [planes, order], "image/bgr", np.float32, axis=1)
        if self.spec.color == "grey":
            weights = constant("image/weights", np.array(GREY, np.float32).reshape(1, 3, 1, 1))
            weighted = append(graph, "Mul", [planes, weights], "image/weighted", np.float32)
            axis = constant("image/axis", [1], np.int64)
            planes = append(
                graph, "ReduceSum", [weighted, axis], "image/grey", np.float32, keepdims=1
            )
        centred = append(
            graph, "Sub", [planes, constant("image/mean", mean)], "image/centred", np.float32
        )
        normal = append(
            graph,
            "Mul",
            [centred, constant("image/scale", 1 / std)],
            "image/normalised",
            np.float32,
        )
        for node in consumers:
            node.inputs = [normal if tensor is old else tensor for tensor in node.inputs]
        graph.inputs = [image]
        return 1

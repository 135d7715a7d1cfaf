"""Which experts a mixture chooses, and whether INT8 changes the choice."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from degmix_edge.network import IMAGE
from degmix_edge.passes._base import to_graph, to_model
from degmix_edge.quant.recipe import routing_branch


@dataclass(frozen=True)
class Flips:
    """Share of choices that differ from the float network's, over all mixtures and images.

    Attributes:
        mixtures: How many there are; 0 for a network that chooses nothing.
        choices: Sets of experts that were compared: one a token, or one an image and task.
        router: By the routers' own arithmetic, on the very same input.
        total: Of whole networks: their routers' inputs come from INT8 layers.
    """

    mixtures: int
    choices: int
    router: float
    total: float


def selection_flips(
    floats: onnx.ModelProto, int8: onnx.ModelProto, images: Sequence[np.ndarray]
) -> Flips:
    """Compare the choices of two deployed graphs of one network.

    Args:
        floats: Before quantization.
        int8: After it; nodes and tensors keep their names.
        images: uint8 `(H, W, 3)` at the network's size.
    """
    graph = to_graph(floats)
    chosen = [node.outputs[1].name for node in graph.nodes if node.op == "TopK"]
    if not chosen:
        return Flips(0, 0, 0.0, 0.0)
    routers, entries = _routers(graph, chosen)
    want = _Runner(floats, chosen)
    got = _Runner(int8, [*chosen, *entries])
    alone = _Runner(routers, chosen)
    count, router, total = 0, 0, 0
    for image in images:
        feed = {IMAGE: image[None]}
        ours, theirs = got(feed), want(feed)
        exact = alone({name: ours[name] for name in entries})
        for name in chosen:
            sets = [np.sort(found[name], axis=-1) for found in (ours, theirs, exact)]
            count += sets[0][..., 0].size
            total += int((sets[0] != sets[1]).any(-1).sum())
            router += int((sets[0] != sets[2]).any(-1).sum())
    return Flips(len(chosen), count, router / max(count, 1), total / max(count, 1))


def _routers(graph: gs.Graph, chosen: list[str]) -> tuple[onnx.ModelProto, list[str]]:
    """The routers alone, as a graph from what they read to what they choose, and their inputs."""
    topk = [node for node in graph.nodes if node.op == "TopK"]
    inside = {id(node): node for node in (*routing_branch(graph), *topk)}
    made = {id(out) for node in inside.values() for out in node.outputs}
    entries = {
        tensor.name: tensor
        for node in inside.values()
        for tensor in node.inputs
        if isinstance(tensor, gs.Variable) and tensor.name and id(tensor) not in made
    }
    part = graph.copy()
    tensors = part.tensors()
    part.inputs = [tensors[name] for name in entries]
    for tensor in part.inputs:
        tensor.inputs.clear()
    part.outputs = [tensors[name] for name in chosen]
    return to_model(part, {}), list(entries)


class _Runner:
    def __init__(self, model: onnx.ModelProto, outputs: Sequence[str]) -> None:
        import onnxruntime

        graph = to_graph(model)
        tensors = graph.tensors()
        graph.outputs = [tensors[name] for name in dict.fromkeys(outputs)]
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        # As written: fused nodes would round otherwise in one graph than in the other.
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        self.session = onnxruntime.InferenceSession(
            to_model(graph, {}).SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        self.names = [output.name for output in self.session.get_outputs()]

    def __call__(self, feed: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(zip(self.names, self.session.run(None, feed), strict=True))

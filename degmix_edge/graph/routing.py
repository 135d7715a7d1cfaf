"""Measure whether INT8 changes the experts that a mixture chooses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from degmix_edge.graph.model import to_graph, to_model
from degmix_edge.ort import cpu_session, filled
from degmix_edge.quant.rules import routing_branch


@dataclass(frozen=True)
class Flips:
    """The share of choices that differ from the float network's, over all mixtures and images.

    Attributes:
        mixtures: Number of mixtures; 0 for a network that chooses no experts.
        choices: Number of sets of experts that were compared. There is one per token, or one per
            image and task.
        router: Share that differs because of the routers' own arithmetic, on the same input.
        total: Share that differs in the whole network, where routers read outputs of INT8 layers.
    """

    mixtures: int
    choices: int
    router: float
    total: float


def selection_flips(
    floats: onnx.ModelProto, int8: onnx.ModelProto, feeds: Sequence[Mapping[str, np.ndarray]]
) -> Flips:
    """Compare the choices of two deployed graphs of one network.

    Args:
        floats: The graph before quantization.
        int8: The graph after quantization; nodes and tensors have the same names.
        feeds: Their inputs by name, of each image.
    """
    graph = to_graph(floats)
    chosen = [node.outputs[1].name for node in graph.nodes if node.op == "TopK"]
    if not chosen:
        return Flips(0, 0, 0.0, 0.0)
    routers, entries = _routers(graph, chosen)
    run_floats = _Runner(floats, chosen)
    run_int8 = _Runner(int8, [*chosen, *entries])
    run_routers = _Runner(routers, chosen)
    count, router, total = 0, 0, 0
    for feed in feeds:
        quantized, reference = run_int8(feed), run_floats(feed)
        exact = run_routers({name: quantized[name] for name in entries})
        for name in chosen:
            sets = [np.sort(choices[name], axis=-1) for choices in (quantized, reference, exact)]
            count += sets[0][..., 0].size
            total += int((sets[0] != sets[1]).any(-1).sum())
            router += int((sets[0] != sets[2]).any(-1).sum())
    return Flips(len(chosen), count, router / max(count, 1), total / max(count, 1))


def _routers(graph: gs.Graph, chosen: list[str]) -> tuple[onnx.ModelProto, list[str]]:
    """Return a graph of only the routers, from their inputs to their choices, and its inputs."""
    topk = [node for node in graph.nodes if node.op == "TopK"]
    inside = {id(node): node for node in (*routing_branch(graph), *topk)}
    internal = {id(out) for node in inside.values() for out in node.outputs}
    entries = {
        tensor.name: tensor
        for node in inside.values()
        for tensor in node.inputs
        if isinstance(tensor, gs.Variable) and tensor.name and id(tensor) not in internal
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
        graph = to_graph(model)
        tensors = graph.tensors()
        graph.outputs = [tensors[name] for name in dict.fromkeys(outputs)]
        # No optimization, because fused nodes would round differently in the two graphs.
        self.session = cpu_session(to_model(graph, {}).SerializeToString(), optimization="none")
        self.names = [output.name for output in self.session.get_outputs()]

    def __call__(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return dict(
            zip(self.names, self.session.run(None, filled(self.session, feed)), strict=True)
        )

"""Make one convolution of several that read the same map: the same products, fewer launches.

For GPUs: one wide kernel keeps a card busier than several narrow ones. On a CPU the split costs a
copy and wins nothing.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from degmix_edge.graph.model import append, constant
from degmix_edge.passes._base import Pass

SIZES_AS_INPUT = 13
"""The opset since which Split takes its sizes as an input."""


class MergeConvs(Pass):
    """Merges convolutions of one map into one.

    They have equal kernels, strides, pads and dilations, and nothing else reads their weights.
    """

    def run(self, graph: gs.Graph) -> int:
        groups: dict[tuple[object, ...], list[gs.Node]] = {}
        for node in graph.nodes:
            if node.op == "Conv" and _is_own(node) and node.outputs[0].shape:
                attrs = tuple(sorted((k, str(v)) for k, v in node.attrs.items()))
                key = (id(node.inputs[0]), list(node.inputs[1].shape[2:]).__repr__(), attrs)
                groups.setdefault(key, []).append(node)
        found = [group for group in groups.values() if len(group) > 1]
        for group in found:
            self._merge(graph, group)
        return len(found)

    @staticmethod
    def _merge(graph: gs.Graph, group: list[gs.Node]) -> None:
        first = group[0]
        widths = [conv.inputs[1].shape[0] for conv in group]
        outs = [conv.outputs[0] for conv in group]
        weight = np.concatenate([conv.inputs[1].values for conv in group])
        dtype = weight.dtype
        inputs = [first.inputs[0], constant(f"{first.name}.weight/merged", weight, dtype)]
        if any(len(conv.inputs) > 2 for conv in group):
            biases = [
                conv.inputs[2].values if len(conv.inputs) > 2 else np.zeros(width)
                for conv, width in zip(group, widths, strict=True)
            ]
            inputs.append(constant(f"{first.name}.bias/merged", np.concatenate(biases), dtype))
        name = f"{first.name}/merged"
        made = append(graph, "Conv", inputs, name, dtype, **dict(first.attrs))
        made.shape = [outs[0].shape[0], sum(widths), *outs[0].shape[2:]]
        for conv in group:
            conv.outputs.clear()
        split = gs.Node("Split", f"{name}/Split", {"axis": 1}, [made], outs)
        if graph.opset < SIZES_AS_INPUT:
            split.attrs["split"] = widths
        else:
            split.inputs.append(constant(f"{name}/widths", widths, np.int64))
        graph.nodes.append(split)


def _is_own(conv: gs.Node) -> bool:
    constants = all(isinstance(tensor, gs.Constant) for tensor in conv.inputs[1:])
    shared = any(len(tensor.outputs) > 1 for tensor in conv.inputs[1:2])
    return constants and not shared and conv.attrs.get("group", 1) == 1

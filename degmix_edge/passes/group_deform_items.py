"""Put the maps of all tasks in one launch: equal, independent operators become one node.

The samplings and deformable convolutions of one depth of a network are small, and a launch of each
alone leaves most of a card idle. Our plugin takes up to eight in one node, whose inputs are those
of its items one after another. It runs behind `insert_fp16`, which knows inputs by their place.
"""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import onnx_graphsurgeon as gs

from degmix_edge.ops.deform_conv2d import OP as CONV
from degmix_edge.ops.deform_offsets import OP as OFFSETS
from degmix_edge.ops.deform_sample import AT_OP
from degmix_edge.ops.deform_sample import OP as SAMPLE
from degmix_edge.passes._base import Pass

GROUPED = (SAMPLE, AT_OP, OFFSETS, CONV)
MOST_ITEMS = 8


class GroupDeformItems(Pass):
    """Nodes of one operator, shape and type of which none needs another's result become one."""

    def run(self, graph: gs.Graph) -> int:
        graph.toposort()
        groups: dict[tuple[Any, ...], list[gs.Node]] = defaultdict(list)
        depths: dict[int, int] = {}
        for node in graph.nodes:
            makers = [maker for tensor in node.inputs for maker in tensor.inputs]
            depth = max((depths[id(maker)] for maker in makers), default=0)
            if node.op in GROUPED and "items" not in node.attrs:
                # A node that needs another one lies deeper than it.
                depth += 1
                groups[(depth, *_kind(node))].append(node)
            depths[id(node)] = depth
        rewrites = 0
        for nodes in groups.values():
            for first in range(0, len(nodes), MOST_ITEMS):
                rewrites += _group(graph, nodes[first : first + MOST_ITEMS])
        return rewrites


def _kind(node: gs.Node) -> tuple[Any, ...]:
    """What nodes of one launch have in common."""
    tensors = [(str(tensor.dtype), tuple(tensor.shape or ())) for tensor in node.inputs]
    return (node.op, node.domain, repr(sorted(node.attrs.items())), *tensors)


def _group(graph: gs.Graph, nodes: list[gs.Node]) -> int:
    if len(nodes) == 1:
        return 0
    first = nodes[0]
    inputs = [tensor for node in nodes for tensor in node.inputs]
    outputs = [node.outputs[0] for node in nodes]
    name = " + ".join(node.name for node in nodes)
    attrs = {**first.attrs, "items": len(nodes)}
    for node in nodes:
        node.inputs.clear()
        node.outputs.clear()
    graph.nodes.append(gs.Node(first.op, name, attrs, inputs, outputs, domain=first.domain))
    return len(nodes)

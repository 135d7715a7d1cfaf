"""Operators of our own, one file each: a slow reference in numpy, and an ONNX function body.

The body is what the operator means in standard ONNX. A graph that carries it runs in ONNX Runtime
without the plugin. TensorRT gets the same graph without bodies.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from degmix_edge import registry

if TYPE_CHECKING:
    import onnx

DOMAIN = "degmix"
INT8_DOMAIN = "degmix.int8"
"""Domain of a node that samples INT8: the plugin is the same, only the function body differs."""
INT8_OUT_DOMAIN = "degmix.int8.out"
"""Domain of a convolution that samples INT8 and stores INT8 too; again only the body differs."""
DOMAINS = (DOMAIN, INT8_DOMAIN, INT8_OUT_DOMAIN)


def attach(model: onnx.ModelProto) -> onnx.ModelProto:
    """Return `model` with the function bodies of our operators that it uses.

    A function has as many inputs as its body, so a node of several items becomes one node an item.
    """
    nodes_of_items = [one for node in model.graph.node for one in _items(node)]
    del model.graph.node[:]
    model.graph.node.extend(nodes_of_items)
    have = {(f.domain, f.name): f for f in functions()}
    used: dict[tuple[str, str], onnx.FunctionProto] = {}
    nodes = list(model.graph.node)
    while nodes:
        key = (nodes[-1].domain, nodes.pop().op_type)
        if key in have and key not in used:
            used[key] = have[key]
            nodes += have[key].node  # bodies may use others of ours
    del model.functions[:]
    model.functions.extend(used.values())
    return model


def _items(node: onnx.NodeProto) -> list[onnx.NodeProto]:
    """One node for each item of a node of ours, or the node itself."""
    items = next((a.i for a in node.attribute if a.name == "items"), 1)
    if node.domain not in DOMAINS or items == 1:
        return [node]
    per_item = len(node.input) // items
    nodes = []
    for item in range(items):
        one = type(node)()
        one.CopyFrom(node)
        one.name = f"{node.name}/{item}"
        kept = [attribute for attribute in one.attribute if attribute.name != "items"]
        for field, values in (
            (one.input, node.input[item * per_item : (item + 1) * per_item]),
            (one.output, [node.output[item]]),
            (one.attribute, kept),
        ):
            copies = list(values)
            del field[:]
            field.extend(copies)
        nodes.append(one)
    return nodes


def node_names(model: bytes) -> list[str]:
    """Names of the nodes of our operators in a serialized ONNX model."""
    import onnx

    nodes = onnx.load_from_string(model).graph.node
    return [node.name for node in nodes if node.domain in DOMAINS]


def functions() -> Iterable[onnx.FunctionProto]:
    """The bodies of all operators."""
    for name in registry.names(__name__):
        yield from registry.find(__name__, name).functions()

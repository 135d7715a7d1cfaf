"""The tensors that are quantized: inputs of INT8 nodes, and the other branch of an addition.

A builder fuses `Conv -> Add -> activation` into one INT8 kernel only if the addition's other input
also comes from a DQ. That tensor nearly always has a Q/DQ pair already, because the first
convolution of the block reads it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import onnx_graphsurgeon as gs

from degmix_edge.quant.recipe import Recipe
from degmix_edge.quant.rules import is_quantizable, stored_operand

Site = tuple[gs.Node, int]
"""A node and the index of its input."""
KEEP_SCALE = ("Concat",)


def activation_sites(graph: gs.Graph, recipe: Recipe) -> list[Site]:
    """Return the inputs that must come from a DQ, in graph order."""
    chosen = recipe.nodes("int8") | recipe.nodes("fp8")
    nodes = [node for node in graph.nodes if node.name in chosen and is_quantizable(node)]
    int8 = {id(node) for node in nodes}
    return [(node, 0) for node in nodes] + list(_residuals(graph, int8))


def observed_tensors(graph: gs.Graph, recipe: Recipe) -> list[str]:
    """Return the names of the tensors whose ranges a build needs.

    They are the sites, the outputs of INT8 nodes and the outputs of Relus.
    """
    inputs = [node.inputs[index].name for node, index in activation_sites(graph, recipe)]
    chosen = recipe.nodes("int8") | recipe.nodes("fp8")
    produced = (n.outputs[0].name for n in graph.nodes if n.name in chosen or n.op == "Relu")
    return list(dict.fromkeys([*inputs, *produced]))


def weight_site(node: gs.Node) -> tuple[int, int] | None:
    """Return which input of a node holds weights to quantize, and the axis of their scales.

    The axis counts output channels, or output rows where stored weights are on the left.
    """
    if is_quantizable(node):
        return 1, _output_axis(node)
    index = stored_operand(node)
    if index is None:
        return None
    return index, node.inputs[index].values.ndim - 2 if index == 0 else _output_axis(node)


def _output_axis(node: gs.Node) -> int:
    last = node.op == "MatMul" or (node.op == "Gemm" and not node.attrs.get("transB", 0))
    return node.inputs[1].values.ndim - 1 if last else 0


def scale_groups(graph: gs.Graph, names: Iterable[str]) -> dict[str, int]:
    """Return the index of a scale for each tensor of `names`.

    The output of a Concat and its quantized inputs have the same one: a builder can then move the Q
    before the Concat, and needs no requantization in between.
    """
    groups = {name: index for index, name in enumerate(dict.fromkeys(names))}
    for node in graph.nodes:
        if node.op in KEEP_SCALE and node.outputs[0].name in groups:
            joined = {groups[t.name] for t in (*node.inputs, *node.outputs) if t.name in groups}
            groups = {n: min(joined) if g in joined else g for n, g in groups.items()}
    order = {group: index for index, group in enumerate(dict.fromkeys(groups.values()))}
    return {name: order[group] for name, group in groups.items()}


def shared_amax(graph: gs.Graph, amax: dict[str, float]) -> dict[str, float]:
    """Return `amax` with the largest value of each of the `scale_groups`."""
    groups = scale_groups(graph, amax)
    largest = [0.0] * (1 + max(groups.values(), default=-1))
    for name, group in groups.items():
        largest[group] = max(largest[group], amax[name])
    return {name: largest[group] for name, group in groups.items()}


def _residuals(graph: gs.Graph, int8: set[int]) -> Iterator[Site]:
    for add in graph.nodes:
        if add.op != "Add" or not any(id(reader) in int8 for reader in _readers(add)):
            continue
        for index, tensor in enumerate(add.inputs):
            skip = add.inputs[1 - index]
            conv = tensor.inputs[0] if tensor.inputs else None
            alone = conv is not None and conv.op == "Conv" and len(tensor.outputs) == 1
            variable = isinstance(skip, gs.Variable)
            if alone and variable and id(conv) in int8 and skip.shape == tensor.shape:
                yield add, 1 - index
                break


def _readers(add: gs.Node) -> list[gs.Node]:
    """Return the nodes that read the addition, or the activation after it."""
    readers = list(add.outputs[0].outputs)
    if len(readers) == 1 and readers[0].op == "Relu":
        readers = list(readers[0].outputs[0].outputs)
    return readers

"""Where activations are quantized: the inputs of INT8 nodes, and the other branch of an addition.

A builder fuses `Conv -> Add -> activation` into one INT8 kernel only if the addition's other input
comes from a DQ too; that tensor nearly always has a pair already, for the first convolution of the
block.
"""

from __future__ import annotations

from collections.abc import Iterator

import onnx_graphsurgeon as gs

from degmix_edge.quant.recipe import Recipe, is_quantizable

Site = tuple[gs.Node, int]
"""A node and the index of its input."""
KEEP_SCALE = ("Concat",)


def activation_sites(graph: gs.Graph, recipe: Recipe) -> list[Site]:
    """Inputs that must come from a DQ, in graph order."""
    chosen = recipe.nodes("int8")
    nodes = [node for node in graph.nodes if node.name in chosen and is_quantizable(node)]
    int8 = {id(node) for node in nodes}
    return [(node, 0) for node in nodes] + list(_residuals(graph, int8))


def observed_tensors(graph: gs.Graph, recipe: Recipe) -> list[str]:
    """Names of the tensors whose ranges a build needs: sites, outputs of INT8 nodes, and Relus."""
    wanted = [node.inputs[index].name for node, index in activation_sites(graph, recipe)]
    chosen = recipe.nodes("int8")
    produced = (n.outputs[0].name for n in graph.nodes if n.name in chosen or n.op == "Relu")
    return list(dict.fromkeys([*wanted, *produced]))


def shared_amax(graph: gs.Graph, amax: dict[str, float]) -> dict[str, float]:
    """`amax` of quantized tensors, with one value for a Concat's output and its inputs.

    Then a builder may move the Q before the Concat, and no requantization is left between.
    """
    shared = dict(amax)
    for node in reversed(graph.nodes):  # outputs first: a chain of Concats settles in one walk
        if node.op in KEEP_SCALE and node.outputs[0].name in shared:
            names = [t.name for t in (*node.inputs, *node.outputs) if t.name in shared]
            largest = max(shared[name] for name in names)
            shared.update(dict.fromkeys(names, largest))
    return shared


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
    """What reads the addition, or the activation behind it."""
    readers = list(add.outputs[0].outputs)
    if len(readers) == 1 and readers[0].op == "Relu":
        readers = list(readers[0].outputs[0].outputs)
    return readers

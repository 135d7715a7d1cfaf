"""What depends on constants only becomes one: coordinate grids, reshaped weights, static shapes."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
import onnxruntime

from degmix_edge.graph.model import infer_shapes, name_apart
from degmix_edge.passes._base import Pass

KEPT = {"DequantizeLinear", "Bernoulli", "Multinomial"}
KEPT |= {f"Random{kind}{like}" for kind in ("Normal", "Uniform") for like in ("", "Like")}
"""A DQ keeps stored weights small; the others give another result each time."""


class FoldConstants(Pass):
    """Nodes whose inputs are all constant become constants, and so do shapes that are static.

    An `If` becomes the branch that its constant condition takes. A folded shape makes others known,
    so all this is done until nothing changes.
    """

    def run(self, graph: gs.Graph) -> int:
        # graph-surgeon folds with ONNX Runtime, which warns of what it leaves.
        onnxruntime.set_default_logger_severity(3)
        rewrites = 0
        while True:
            before = list(graph.nodes)
            for node in before:
                _fold_shape(node)
                _take_branch(graph, node)
            name_apart(graph)
            _fold(graph.cleanup().toposort())
            left = {id(node) for node in graph.cleanup().nodes}
            folded = sum(id(node) not in left for node in before)
            if not folded:
                _keep_outputs(graph)
                return rewrites
            rewrites += folded
            infer_shapes(graph)


def _fold(graph: gs.Graph) -> None:
    # graph-surgeon's own folding of shapes is left out, which ignores `start` and `end` and rounds
    # float factors between two casts; so is that of choices, which loses tensors of a branch.
    def fold(**settings: object) -> None:
        graph.fold_constants(
            fold_shapes=False,
            recurse_subgraphs=False,
            flatten_subgraphs=False,
            should_exclude_node=lambda node: node.op in KEPT or _gives_constant(graph, node),
            **settings,
        )

    try:
        fold(error_ok=False)
    except Exception:  # ONNX Runtime refuses one node, which shall not keep the others
        fold(partitioning="recursive")


def _keep_outputs(graph: gs.Graph) -> None:
    """Let a node give each output that became a constant: other tools look for outputs of nodes."""
    for place, output in enumerate(graph.outputs):
        if isinstance(output, gs.Constant):
            given = gs.Variable(output.name, output.dtype, output.shape)
            output.name = f"{output.name}/constant"
            graph.nodes.append(gs.Node("Identity", given.name, {}, [output], [given]))
            graph.outputs[place] = given


def _gives_constant(graph: gs.Graph, node: gs.Node) -> bool:
    """Whether it is one of the nodes that `_keep_outputs` made."""
    # graph-surgeon asks about nodes of a copy.
    return node.op == "Identity" and node.outputs[0].name in {o.name for o in graph.outputs}


def _take_branch(graph: gs.Graph, node: gs.Node) -> None:
    """Replace a choice that is known by the nodes of its branch."""
    if node.op != "If" or not isinstance(node.inputs[0], gs.Constant):
        return
    branch = node.attrs["then_branch" if node.inputs[0].values.item() else "else_branch"]
    outputs = list(node.outputs)
    node.outputs.clear()
    graph.nodes.extend(branch.nodes)
    for inner, outer in zip(branch.outputs, outputs, strict=True):
        graph.nodes.append(gs.Node("Identity", outer.name, {}, [inner], [outer]))


def _fold_shape(node: gs.Node) -> None:
    """Make a constant of the shape of a tensor whose sides are all known."""
    if node.op != "Shape" or isinstance(node.inputs[0], gs.Constant):
        return
    sides = node.inputs[0].shape
    if sides is None:
        return
    sides = sides[node.attrs.get("start", 0) : node.attrs.get("end")]
    if all(isinstance(side, int) for side in sides):
        (output,) = node.outputs
        node.outputs.clear()
        output.to_constant(np.array(sides, dtype=np.int64))

"""Let one engine run any subset of its tasks: each task's mixer and query stand in an If.

Its further inputs and outputs are those of `graph.split_names`. A map whose query did not run has
no rows. With every mixer and query the function is the same, and no state is read. Weights that
several branches read lie once, outside of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_graphsurgeon as gs

from degmix_edge.graph.model import append, constant
from degmix_edge.graph.split_names import MIX, NEXT, RUN, state_name
from degmix_edge.graph.task_parts import TaskPart, task_parts
from degmix_edge.passes._base import Pass

COPIED = 1024
"""Bytes: smaller constants, such as shapes and scales, are in each branch that reads them, where
ONNX Runtime looks for them before it fuses nodes."""


class SplitTasks(Pass):
    """Each task's mixer and query become an If.

    Args:
        tasks: The tasks, in the order of the conditions.
    """

    def __init__(self, tasks: Sequence[str]) -> None:
        self.tasks = tuple(tasks)

    def run(self, graph: gs.Graph) -> int:
        if any(tensor.name == RUN for tensor in graph.inputs):
            return 0
        _dequantize_in_place(graph)
        parts = task_parts(graph, self.tasks)
        _share_constants(graph, parts)
        mix, run = (_conditions(graph, name, self.tasks) for name in (MIX, RUN))
        for task, part in parts.items():
            kept = [_kept(graph, state_name(task, i), s) for i, s in enumerate(part.states)]
            ends = [*part.states, *part.tokens]
            others = [*kept, *map(_nothing, part.tokens)]
            then, other = _branches(graph, part.mixer, ends, others)
            _append_if(graph, mix[task], then, other, ends)
            others = [_nothing(tensor) for tensor in part.outputs]
            then, other = _branches(graph, part.query, part.outputs, others)
            _append_if(graph, run[task], then, other, part.outputs)
            for index, state in enumerate(part.states):
                after = append(
                    graph, "Identity", [state], f"{state_name(task, index)}{NEXT}", state.dtype
                )
                after.shape = state.shape
                graph.outputs.append(after)
        return 2 * len(parts)


def _dequantize_in_place(graph: gs.Graph) -> None:
    """Give each reader a DQ of its own, as ONNX Runtime does before it looks for INT8 kernels.

    Then integers cross from one branch to another, and a kernel is in one graph with its DQs.
    """
    for node in [node for node in graph.nodes if node.op == "DequantizeLinear"]:
        (out,) = node.outputs
        for index, reader in enumerate(list(out.outputs)[1:], 1):
            name = f"{node.name}/{index}"
            own = gs.Variable(name, out.dtype, out.shape)
            graph.nodes.append(gs.Node(node.op, name, dict(node.attrs), list(node.inputs), [own]))
            _replace([reader], out, own)


def _conditions(graph: gs.Graph, name: str, tasks: Sequence[str]) -> dict[str, gs.Variable]:
    """A new input with a bool for each task, and its parts by task."""
    given = gs.Variable(name, np.bool_, [len(tasks)])
    graph.inputs.append(given)
    flags = [gs.Variable(f"{name}/{task}", np.bool_, [1]) for task in tasks]
    attrs = {"axis": 0, "num_outputs": len(tasks)}
    graph.nodes.append(gs.Node("Split", f"{name}/Split", attrs, [given], flags))
    return dict(zip(tasks, flags, strict=True))


def _kept(graph: gs.Graph, name: str, state: gs.Variable) -> gs.Node:
    """A new input with an earlier state, and the node that passes it on."""
    given = gs.Variable(name, state.dtype, state.shape)
    graph.inputs.append(given)
    out = gs.Variable(f"{name}/kept", state.dtype, state.shape)
    return gs.Node("Identity", out.name, {}, [given], [out])


def _nothing(tensor: gs.Variable) -> gs.Node:
    """A node that gives a tensor of the same shape, without rows."""
    values = np.zeros((0, *tensor.shape[1:]), tensor.dtype)
    out = gs.Variable(f"{tensor.name}/nothing", tensor.dtype, values.shape)
    return gs.Node(
        "Constant", out.name, {"value": constant(out.name, values, values.dtype)}, [], [out]
    )


def _branches(
    graph: gs.Graph, nodes: Sequence[gs.Node], ends: Sequence[gs.Variable], others: list[gs.Node]
) -> tuple[gs.Graph, gs.Graph]:
    """Move `nodes`, which make `ends`, out of the graph; the second branch is `others`."""
    inside = {id(node) for node in nodes}
    made = []
    for end in ends:
        inner = gs.Variable(f"{end.name}/made", end.dtype, end.shape)
        readers = [node for node in end.outputs if id(node) in inside]
        for node in (end.inputs[0], *readers):
            node.inputs = [inner if tensor is end else tensor for tensor in node.inputs]
            node.outputs = [inner if tensor is end else tensor for tensor in node.outputs]
        made.append(inner)
    graph.nodes = [node for node in graph.nodes if id(node) not in inside]
    own = {"opset": graph.opset, "import_domains": graph.import_domains}
    return (
        gs.Graph(list(nodes), [], made, name="then", **own),
        gs.Graph(others, [], [node.outputs[0] for node in others], name="else", **own),
    )


def _append_if(
    graph: gs.Graph,
    condition: gs.Variable,
    then: gs.Graph,
    other: gs.Graph,
    ends: Sequence[gs.Variable],
) -> None:
    attrs = {"then_branch": then, "else_branch": other}
    graph.nodes.append(gs.Node("If", f"{condition.name}/If", attrs, [condition], list(ends)))


def _share_constants(graph: gs.Graph, parts: Mapping[str, TaskPart]) -> None:
    """Give constants that several branches read to each of them, or to all from outside."""
    branch_of = {
        id(node): f"{kind}.{task}"
        for task, part in parts.items()
        for kind, nodes in (("mixer", part.mixer), ("query", part.query))
        for node in nodes
    }
    readers: dict[int, dict[str, list[gs.Node]]] = defaultdict(lambda: defaultdict(list))
    constants: dict[int, gs.Constant] = {}
    for node in graph.nodes:
        for tensor in node.inputs:
            if isinstance(tensor, gs.Constant):
                constants[id(tensor)] = tensor
                readers[id(tensor)][branch_of.get(id(node), "")].append(node)
    for key, shared in constants.items():
        branches = readers[key]
        if len(branches) == 1:
            continue
        if shared.values.nbytes < COPIED:
            for branch, nodes in branches.items():
                own = gs.Constant(f"{shared.name}/{branch or 'trunk'}", shared.values)
                _replace(nodes, shared, own)
            continue
        held = gs.Constant(f"{shared.name}/value", shared.values)
        out = gs.Variable(f"{shared.name}/shared", shared.dtype, shared.shape)
        graph.nodes.insert(0, gs.Node("Constant", out.name, {"value": held}, [], [out]))
        _replace([node for nodes in branches.values() for node in nodes], shared, out)


def _replace(nodes: Sequence[gs.Node], old: gs.Tensor, new: gs.Tensor) -> None:
    for node in nodes:
        node.inputs = [new if tensor is old else tensor for tensor in node.inputs]

"""Which nodes of a graph are for one task alone, and what one task leaves to the others.

    trunk -> mixer of X -> state of X -> queries of all tasks -> maps
                        -> tokens of X -> query of X alone

A network of ours with `split_tasks` has such a graph, and names its mixers `mixers.X`. All else
follows from which node reads what, so it holds in every precision and after every pass.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

import onnx
import onnx_graphsurgeon as gs

from degmix_edge.bundle.manifest import TRUNK, Split, split_with
from degmix_edge.errors import GraphError
from degmix_edge.graph.cost import costs, total_macs
from degmix_edge.graph.model import to_graph
from degmix_edge.tasks import logits_name

_MIXER = re.compile(r"^mixers\.(\w+)\.")


@dataclass(frozen=True)
class TaskPart:
    """What a graph has for one task alone.

    Attributes:
        mixer: Nodes up to the state and the tokens, in the graph's order.
        query: The nodes behind them, up to the outputs.
        states: What nodes of other tasks read of the mixer.
        tokens: What only the query reads of the mixer.
        outputs: Outputs of the graph: the map, and the logits where the graph gives them.
    """

    mixer: list[gs.Node]
    query: list[gs.Node]
    states: list[gs.Variable]
    tokens: list[gs.Variable]
    outputs: list[gs.Variable]

    @property
    def has_places(self) -> bool:
        """Whether the state has a value for each place in the image, as tokens have."""
        return any(_size(a) == _size(b) for a in self.states for b in self.tokens)


def task_parts(graph: gs.Graph, tasks: Sequence[str]) -> dict[str, TaskPart]:
    """Return the parts of a graph by task; all other nodes are for several tasks.

    Raises:
        GraphError: The graph has no such parts.
    """
    graph.toposort()
    if len(tasks) < 2:
        raise GraphError(
            f"--split: the network has the task {', '.join(tasks)} alone, expected several; "
            "leave out --split"
        )
    outputs = {t: [o for o in graph.outputs if o.name in (t, logits_name(t))] for t in tasks}
    mixed = _mixed(graph)
    states = _states(graph, mixed, _reached(graph, outputs))
    ends = {("mixer", task): states[task] for task in tasks}
    ends |= {("query", task): outputs[task] for task in tasks}
    stop = {id(tensor) for task in tasks for tensor in states[task]}
    reached = _reached(graph, ends, stop)
    parts = {t: _part(graph, t, reached, states[t], outputs[t]) for t in tasks}
    _check_parts(graph, parts, mixed)
    return parts


def task_shares(model: onnx.ModelProto, tasks: Sequence[str]) -> Split:
    """Return what each task of a graph costs.

    Raises:
        GraphError: As `task_parts`, or a shape is not known.
    """
    graph = to_graph(model)
    parts = task_parts(graph, tasks)
    counted = costs(graph)
    macs, whole = {cost.node: cost.macs for cost in counted}, total_macs(counted) or 1

    def share(nodes: Iterable[gs.Node]) -> float:
        return sum(macs[node.name] for node in nodes) / whole

    mixers = {task: share(part.mixer) for task, part in parts.items()}
    by_task = {task: mixers[task] + share(part.query) for task, part in parts.items()}
    trunk = max(0.0, 1 - sum(by_task.values()))
    return split_with(
        {TRUNK: trunk, **by_task}, mixers, any(part.has_places for part in parts.values())
    )


def _mixed(graph: gs.Graph) -> dict[int, frozenset[str]]:
    """By node, the tasks whose mixers it is part of or depends on; not all of them have maps."""
    mixed: dict[int, frozenset[str]] = {}
    for node in graph.nodes:
        makers = [maker for tensor in node.inputs for maker in tensor.inputs]
        own = _MIXER.findall(node.name)
        mixed[id(node)] = frozenset(own).union(*(mixed[id(maker)] for maker in makers))
    return mixed


def _reached(
    graph: gs.Graph, ends: Mapping[Any, Iterable[gs.Variable]], stop: Iterable[int] = ()
) -> dict[int, set[Any]]:
    """By node, the ends that it is needed for, not counting what goes through tensors in `stop`."""
    of_tensor: dict[int, set[Any]] = defaultdict(set)
    for end, tensors in ends.items():
        for tensor in tensors:
            of_tensor[id(tensor)].add(end)
    closed, reached = set(stop), {}
    for node in reversed(graph.nodes):
        reached[id(node)] = set[Any]().union(*(of_tensor[id(out)] for out in node.outputs))
        for tensor in node.inputs:
            if id(tensor) not in closed:
                of_tensor[id(tensor)] |= reached[id(node)]
    return reached


def _states(
    graph: gs.Graph, mixed: Mapping[int, frozenset[str]], reached: Mapping[int, set[str]]
) -> dict[str, list[gs.Variable]]:
    """By task, the tensors of its mixer alone that nodes of other tasks read."""
    states: dict[str, dict[int, gs.Variable]] = defaultdict(dict)
    for node in graph.nodes:
        for tensor in node.inputs:
            of = mixed[id(tensor.inputs[0])] if tensor.inputs else frozenset()
            if len(of) != 1:
                continue
            (task,) = of
            if task not in reached[id(tensor.inputs[0])]:
                continue  # the state itself is further up
            crosses = mixed[id(node)] != of or task not in reached[id(node)]
            if crosses and reached[id(node)] - {task}:
                states[task][id(tensor)] = tensor
    return defaultdict(list, {task: list(found.values()) for task, found in states.items()})


def _part(
    graph: gs.Graph,
    task: str,
    reached: Mapping[int, set[Any]],
    states: list[gs.Variable],
    outputs: list[gs.Variable],
) -> TaskPart:
    own = [n for n in graph.nodes if reached[id(n)] and {t for _, t in reached[id(n)]} == {task}]
    mixer = [node for node in own if ("mixer", task) in reached[id(node)]]
    inside = {id(node) for node in mixer}
    query = [node for node in own if id(node) not in inside]
    made = _unique(
        tensor
        for node in query
        for tensor in node.inputs
        if tensor.inputs and id(tensor.inputs[0]) in inside
    )
    kept = {id(tensor) for tensor in states}
    return TaskPart(mixer, query, states, [t for t in made if id(t) not in kept], outputs)


def _check_parts(
    graph: gs.Graph, parts: Mapping[str, TaskPart], mixed: Mapping[int, frozenset[str]]
) -> None:
    """Check that nothing for several tasks reads a part of one task, except its state.

    Raises:
        GraphError: A node does, or a task has no part of its own.
    """
    alone = {id(n) for part in parts.values() for n in (*part.mixer, *part.query)}
    kept = {id(tensor) for part in parts.values() for tensor in part.states}
    for task, part in parts.items():
        if not part.states or not part.query or not part.tokens:
            raise GraphError(
                f"--split: the graph does not keep {task} apart from the other tasks; build from "
                "the checkpoint of a demt, demtg or degmix with --split, or leave out --split"
            )
    for node in graph.nodes:
        for tensor in node.inputs if id(node) not in alone else ():
            if tensor.inputs and id(tensor.inputs[0]) in alone and id(tensor) not in kept:
                raise GraphError(
                    f"--split: {node.name} ({node.op}) is for several tasks and reads "
                    f"{tensor.name}, which is for one of them; leave out --split"
                )


def _unique(tensors: Iterable[gs.Variable]) -> list[gs.Variable]:
    return list({id(tensor): tensor for tensor in tensors}.values())


def _size(tensor: gs.Variable) -> int:
    return int(prod(side for side in tensor.shape or () if isinstance(side, int)))

"""Keep the asked tasks; what only the others needed goes with them."""

from __future__ import annotations

from collections.abc import Sequence

import onnx_graphsurgeon as gs

from degmix_edge.errors import GraphError
from degmix_edge.passes._base import Pass


class PruneTasks(Pass):
    """Outputs other than `tasks` are dropped.

    In the DeMT family every query reads every task's mixer, so those stay: the kept tasks' values
    do not change.
    """

    def __init__(self, tasks: Sequence[str]) -> None:
        self.tasks = tuple(tasks)

    def run(self, graph: gs.Graph) -> int:
        have = [tensor.name for tensor in graph.outputs]
        missing = [task for task in self.tasks if task not in have]
        if missing:
            raise GraphError(f"graph has no output for {', '.join(missing)}; it has {have}")
        before = len(graph.nodes)
        graph.outputs = [tensor for tensor in graph.outputs if tensor.name in self.tasks]
        graph.cleanup()
        return before - len(graph.nodes)

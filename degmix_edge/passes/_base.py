"""What a pass is, and how passes are run.

A pass checks its ground, rewrites, returns how many rewrites it made, and makes none when it is run
again.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

import onnx_graphsurgeon as gs

from degmix_edge.graph.model import name_apart


class Pass(ABC):
    """One rewrite of a graph. Its name is its file's name."""

    @property
    def name(self) -> str:
        """The file's name."""
        return type(self).__module__.rsplit(".", 1)[-1]

    @abstractmethod
    def run(self, graph: gs.Graph) -> int:
        """Rewrite `graph` in place; return the number of rewrites.

        Raises:
            GraphError: The graph is not one this pass can work on.
        """


@dataclass(frozen=True)
class Outcome:
    """What one pass did."""

    name: str
    rewrites: int
    nodes: int
    seconds: float


def apply(graph: gs.Graph, passes: Iterable[Pass]) -> list[Outcome]:
    """Run `passes` in order; after each, drop what nothing uses and tell names apart."""
    outcomes = []
    for step in passes:
        start = time.perf_counter()
        rewrites = step.run(graph)
        name_apart(graph)
        graph.cleanup().toposort()
        seconds = time.perf_counter() - start
        outcomes.append(Outcome(step.name, rewrites, len(graph.nodes), seconds))
    return outcomes

"""Give every deformable convolution a bias, because TensorRT's importer takes one for granted."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from degmix_edge.graph.model import constant
from degmix_edge.passes._base import Pass


class AddDeformBias(Pass):
    """A zero bias for each `DeformConv` that has none."""

    def run(self, graph: gs.Graph) -> int:
        rewrites = 0
        for node in graph.nodes:
            if node.op != "DeformConv":
                continue
            while len(node.inputs) < 4:
                node.inputs.append(gs.Variable.empty())
            if node.inputs[3].is_empty():
                node.inputs[3] = constant(f"{node.name}/bias", [0.0] * node.inputs[1].shape[0])
                rewrites += 1
        return rewrites

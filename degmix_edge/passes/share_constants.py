"""Keep one copy of equal constants: the coordinate grid of the offset networks, above all."""

from __future__ import annotations

import onnx_graphsurgeon as gs

from degmix_edge.passes._base import Pass


class ShareConstants(Pass):
    """Constants of equal dtype, shape and bytes become one tensor."""

    def run(self, graph: gs.Graph) -> int:
        first: dict[tuple[object, ...], gs.Constant] = {}
        rewrites = 0
        for node in graph.nodes:
            for index, tensor in enumerate(node.inputs):
                if not isinstance(tensor, gs.Constant):
                    continue
                # What numpy has no type for, such as bfloat16, is float32 here and not in the file.
                stored = (str(tensor.dtype), str(tensor.export_dtype))
                key = (*stored, tuple(tensor.shape), tensor.values.tobytes())
                kept = first.setdefault(key, tensor)
                if kept is not tensor:
                    node.inputs[index] = kept
                    rewrites += 1
        return rewrites

"""From model.onnx to the graph that TensorRT's builders get."""

from __future__ import annotations

import onnx

from degmix_edge.passes._base import Pass, apply, to_graph, to_model
from degmix_edge.passes.insert_fp16 import InsertFp16
from degmix_edge.passes.lower_deform_to_gridsample import LowerDeformToGridsample
from degmix_edge.passes.requantize_samples import RequantizeSamples
from degmix_edge.quant.recipe import Recipe


def lower(model: bytes, recipe: Recipe) -> bytes:
    """ONNX bytes without DeformConv, for a builder that has no kernel for it.

    What is not INT8 in an int8 recipe runs in FP16, but for what the recipe keeps in FP32.
    """
    graph = to_graph(onnx.load_from_string(model))
    apply(graph, [LowerDeformToGridsample()])
    graph = to_graph(to_model(graph, {}))  # with shapes of what is new
    rest: list[Pass] = [RequantizeSamples()]  # before FP16, which gives scales their type
    if recipe.precision != "fp32":
        rest.append(InsertFp16(recipe))
    apply(graph, rest)
    lowered: bytes = to_model(graph, {}).SerializeToString()
    return lowered

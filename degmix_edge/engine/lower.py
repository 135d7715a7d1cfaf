"""From model.onnx to the graph that TensorRT's builders get."""

from __future__ import annotations

from typing import Literal, get_args

import onnx
import onnx_graphsurgeon as gs

from degmix_edge import ops
from degmix_edge.ops.deform_sample_fused import MIX_OP, OP
from degmix_edge.passes._base import Pass, apply, constant, to_graph, to_model
from degmix_edge.passes.fuse_deform_offsets import FuseDeformOffsets
from degmix_edge.passes.insert_fp16 import InsertFp16
from degmix_edge.passes.lower_deform_to_gridsample import LowerDeformToGridsample
from degmix_edge.passes.lower_deform_to_plugin import LowerDeformToPlugin
from degmix_edge.passes.requantize_samples import RequantizeSamples
from degmix_edge.quant.recipe import Recipe

Dcn = Literal["plugin", "fused", "builtin", "gridsample"]
"""How a builder gets deformable convolutions: our plugin; the same with offsets and tail inside,
which FP16 engines have; TensorRT's own importer's; or GridSample, for builders without a kernel."""
FORMS: tuple[Dcn, ...] = get_args(Dcn)


def lower(model: bytes, recipe: Recipe, dcn: Dcn = "gridsample") -> bytes:
    """ONNX bytes for a TensorRT builder.

    What is not INT8 in an int8 recipe runs in FP16, but for what the recipe keeps in FP32.
    """
    graph = to_graph(onnx.load_from_string(model))
    if dcn == "gridsample":
        apply(graph, [LowerDeformToGridsample()])
    elif dcn == "builtin":
        _add_biases(graph)
    else:
        apply(graph, [LowerDeformToPlugin()])
    if dcn == "fused" and recipe.precision == "fp16":
        apply(graph, [FuseDeformOffsets()])
        recipe = _with_half_maps(graph, recipe)
    graph = to_graph(to_model(graph, {}))  # with shapes of what is new
    rest: list[Pass] = []
    if dcn == "gridsample":
        rest.append(RequantizeSamples())  # before FP16, which gives scales their type
    if recipe.precision != "fp32":
        rest.append(InsertFp16(recipe))
    apply(graph, rest)
    lowered: bytes = ops.attach(to_model(graph, {})).SerializeToString()
    return lowered


def _add_biases(graph: gs.Graph) -> None:
    """TensorRT's importer does not look whether a bias is there."""
    for node in graph.nodes:
        if node.op != "DeformConv":
            continue
        while len(node.inputs) < 4:
            node.inputs.append(gs.Variable.empty())
        if node.inputs[3].is_empty():
            node.inputs[3] = constant(f"{node.name}/bias", [0.0] * node.inputs[1].shape[0])


def _with_half_maps(graph: gs.Graph, recipe: Recipe) -> Recipe:
    """Convolutions that make maps of fused nodes may run in FP16: the position is not in them."""
    makers = {
        maker.name
        for node in graph.nodes
        if node.op in (OP, MIX_OP)
        for maker in node.inputs[1].inputs
    }
    placements = tuple(
        place.model_copy(update={"precision": "fp16", "reason": "makes maps without positions"})
        if place.node in makers
        else place
        for place in recipe.placements
    )
    return recipe.model_copy(update={"placements": placements})

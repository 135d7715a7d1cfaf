"""The forms of one graph on its way: simplified, deployed, quantized, lowered for a backend.

Each function runs one list of `pipeline` and returns a new model.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx
import onnx_graphsurgeon as gs

from degmix_edge.errors import GraphError
from degmix_edge.graph.check import check_graph
from degmix_edge.graph.model import to_graph, to_model
from degmix_edge.network import METADATA_KEY, NetworkSpec, from_metadata
from degmix_edge.ops.deform_sample import AT_OP
from degmix_edge.passes import pipeline
from degmix_edge.passes._base import apply
from degmix_edge.passes.pipeline import Dcn
from degmix_edge.quant.ranges import Ranges
from degmix_edge.quant.recipe import CALIBRATED, Placed, Precision, Recipe
from degmix_edge.quant.rules import WEIGHTED


def simplify_model(model: onnx.ModelProto, tasks: Sequence[str]) -> onnx.ModelProto:
    """The float network of `tasks` with fewer nodes: normalised image in, logits out.

    Raises:
        GraphError: The graph has dynamic inputs or unsupported operators.
    """
    check_graph(model)
    graph = to_graph(model)
    apply(graph, pipeline.simplify(tasks))
    return to_model(graph, metadata_for(model, tasks))


def metadata_for(model: onnx.ModelProto, tasks: Sequence[str]) -> dict[str, str]:
    """The metadata of `model`, with its spec cut to `tasks`."""
    metadata = {prop.key: prop.value for prop in model.metadata_props}
    spec = from_metadata(metadata, "this graph")
    if spec is None:
        return metadata
    return metadata | {METADATA_KEY: spec.keep(tasks).model_dump_json()}


def deploy_model(
    model: onnx.ModelProto,
    spec: NetworkSpec,
    *,
    tasks: Sequence[str] = (),
    precision: Precision = "fp32",
    raw_logits: bool = False,
) -> tuple[onnx.ModelProto, NetworkSpec, str]:
    """The float graph that takes bytes and gives maps, its spec, and what the passes did.

    Args:
        model: Normalised `(1, 3, H, W)` in, logits named by task out.
        spec: What the network promises.
        tasks: Tasks to keep; none keeps all.
        precision: What the graph will be quantized to: some folds have no INT8 form.
        raw_logits: Keep the logits as outputs beside the maps.

    Raises:
        ConfigError: The network has no such task.
        GraphError: The graph is not what the passes take.
    """
    check_graph(model)
    spec = spec.keep(tasks or spec.task_names)
    graph = to_graph(model)
    before = len(graph.nodes)
    narrow = precision in CALIBRATED
    passes = pipeline.deploy(spec, spec.task_names, raw_logits=raw_logits, int8=narrow)
    outcomes = apply(graph, passes)
    done = ", ".join(f"{o.name} {o.rewrites}" for o in outcomes)
    detail = f"{before} -> {len(graph.nodes)} nodes ({done})"
    return to_model(graph, {METADATA_KEY: spec.model_dump_json()}), spec, detail


def quantize_model(
    model: onnx.ModelProto, recipe: Recipe, ranges: Ranges | None, spec: NetworkSpec
) -> onnx.ModelProto:
    """The deployed graph in the recipe's precision."""
    graph = to_graph(model)
    apply(graph, pipeline.quantize(recipe, ranges))
    return to_model(graph, {METADATA_KEY: spec.model_dump_json()})


def lower_for_onnxruntime(
    model: bytes, ranges: Ranges | None, *, operators: bool, split: bool = False
) -> bytes:
    """ONNX bytes in the form that ONNX Runtime's CPU kernels run fastest.

    Args:
        model: ONNX bytes with the recipe's precision inside.
        ranges: Ranges of an INT8 model; None for a float one.
        operators: Whether our own CPU operators are there.
        split: Let a call run any subset of the tasks.

    Raises:
        GraphError: The graph cannot be split.
    """
    proto = onnx.load_from_string(model)
    graph = to_graph(proto)
    tasks = _tasks_of(proto) if split else ()
    outcomes = apply(graph, pipeline.for_onnxruntime(ranges, operators=operators, split=tasks))
    if not any(outcome.rewrites for outcome in outcomes):
        return model
    lowered: bytes = to_model(graph, {}).SerializeToString()
    return lowered


def lower_for_openvino(
    model: bytes, recipe: Recipe, *, operators: bool = False
) -> tuple[bytes, frozenset[str]]:
    """ONNX bytes in the form that OpenVINO's CPU kernels run fastest.

    Args:
        model: ONNX bytes with the recipe's precision inside.
        recipe: What runs in which precision.
        operators: Whether our own CPU operators are there.

    Returns:
        The graph, and the names of its nodes that stay FP32 where others run in bfloat16. These
        are the recipe's own ones, others that read results of these alone, and what adds positions
        to offsets. Convolutions that make offsets without positions are not among them.
    """
    graph = to_graph(onnx.load_from_string(model))
    apply(graph, pipeline.sampled(recipe, operators=operators))
    narrow = _with_narrow_maps(graph, recipe, "bf16")
    apply(graph, pipeline.for_openvino(recipe, operators=operators))
    lowered: bytes = to_model(graph, {}).SerializeToString()
    return lowered, _kept_in_fp32(graph, narrow) if recipe.nodes("bf16") else frozenset()


def _kept_in_fp32(graph: gs.Graph, recipe: Recipe) -> frozenset[str]:
    floats = recipe.nodes("fp32")
    lower = {place.node for place in recipe.placements} - floats
    kept = set(_makers_of_grids(graph))
    for node in graph.toposort().nodes:
        makers = [maker.name for tensor in node.inputs for maker in tensor.inputs]
        follows = bool(makers) and node.name not in lower and kept.issuperset(makers)
        # What replaced a node is called after it.
        parts = node.name.split("/")
        names = {"/".join(parts[:count]) for count in range(1, len(parts) + 1)}
        if follows or not floats.isdisjoint(names):
            kept.add(node.name)
    return frozenset(kept)


def _makers_of_grids(graph: gs.Graph) -> Iterator[str]:
    """The nodes between a convolution of offsets and the sampling that reads them."""
    frontier = [node.inputs[1] for node in graph.nodes if node.op == "GridSample"]
    while frontier:
        for node in frontier.pop().inputs:
            if node.op not in WEIGHTED:
                yield node.name
                frontier += [tensor for tensor in node.inputs if isinstance(tensor, gs.Variable)]


def _tasks_of(model: onnx.ModelProto) -> tuple[str, ...]:
    """The tasks of a finished model, which describes itself."""
    spec = from_metadata({prop.key: prop.value for prop in model.metadata_props}, "this graph")
    if spec is None:
        raise GraphError(
            "--split: the graph does not say which tasks it has; build it from its checkpoint"
        )
    return spec.task_names


def lower_for_tensorrt(model: bytes, recipe: Recipe, dcn: Dcn = "gridsample") -> bytes:
    """ONNX bytes for a TensorRT builder.

    What is not INT8 in an INT8 recipe runs in FP16, except what the recipe keeps in FP32. Our
    operators have no function bodies here: TensorRT's parsers before 10.7 would take those in
    place of the plugin. `ops.attach` gives them to a graph that ONNX Runtime is to run.
    """
    graph = to_graph(onnx.load_from_string(model))
    apply(graph, pipeline.deformable(dcn, recipe))
    recipe = _with_narrow_maps(graph, recipe, "fp16")
    graph = to_graph(to_model(graph, {}))  # with shapes of what is new
    apply(graph, pipeline.half_floats(dcn, recipe))
    lowered: bytes = to_model(graph, {}).SerializeToString()
    return lowered


def _with_narrow_maps(graph: gs.Graph, recipe: Recipe, precision: Placed) -> Recipe:
    """Let convolutions that make maps and offsets without positions run in 16 bits."""
    makers: set[str] = set()
    for node in graph.nodes:
        if node.op == AT_OP:  # its offsets are made of maps, which another convolution makes
            offsets = node.inputs[1].inputs
            makers |= {maker.name for maker in offsets}
            makers |= {maker.name for conv in offsets for maker in conv.inputs[0].inputs}
    placements = tuple(
        place.model_copy(update={"precision": precision, "reason": "makes maps without positions"})
        if place.node in makers
        else place
        for place in recipe.placements
    )
    return recipe.model_copy(update={"placements": placements})

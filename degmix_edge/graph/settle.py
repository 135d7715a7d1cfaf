"""Every shape of a graph for one size of its image, and a constant for what depends on shapes only.

The nodes are walked once, in order: each gets the shapes that its inputs have by then, and is run
if all its inputs are constant. Shape inference of a whole graph has to be repeated instead, once
for each Reshape whose shape is computed from another tensor's.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import onnx
from onnx import GraphProto, NodeProto, TensorProto, TypeProto, helper, numpy_helper

from degmix_edge.errors import BackendError
from degmix_edge.graph.model import IR_VERSION
from degmix_edge.ort import cpu_session, errors

MOST_ELEMENTS = 1 << 20
"""Larger constants are weights: `FoldConstants` folds them, once."""
_KEPT = {"Dropout", "Bernoulli", "Multinomial", "DequantizeLinear", "QuantizeLinear"}
"""Operators that are random, or that store weights in few bytes. Those called Random are too."""


class Settled:
    """The walk over one model, which it changes in place.

    Args:
        model: Its image input is static, and its nodes are in order.

    Attributes:
        types: The type and shape of each tensor, as far as they are known.
        values: Each small constant.
        problem: The first node that does not take its inputs, with the reason; or empty.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.opsets = list(model.opset_import)
        self.version = max((o.version for o in self.opsets if o.domain == ""), default=1)
        self.types: dict[str, TypeProto] = {i.name: i.type for i in model.graph.input}
        self.values: dict[str, TensorProto] = {}
        self.problem = ""
        self._outputs = {output.name for output in model.graph.output}
        for weight in model.graph.initializer:
            self._add_constant(weight)

    def run(self) -> None:
        """Walk the nodes; then the model has the shape of each tensor."""
        graph, kept = self.model.graph, []
        for node in self._flattened(list(graph.node)):
            self._infer(node)
            constants = self._evaluated(node)
            if constants is None:
                kept.append(node)
                continue
            for constant in constants:
                self._add_constant(constant)
            graph.initializer.extend(constants)
        del graph.node[:], graph.value_info[:]
        graph.node.extend(kept)
        self._drop_unused(graph)
        for name in (name for node in kept for name in node.output if name in self.types):
            if name not in self._outputs:
                graph.value_info.append(helper.make_value_info(name, self.types[name]))
        for output in graph.output:
            if output.name in self.types:
                output.type.CopyFrom(self.types[output.name])

    def _add_constant(self, tensor: TensorProto) -> None:
        self.types[tensor.name] = helper.make_tensor_type_proto(tensor.data_type, tensor.dims)
        if math.prod(tensor.dims) <= MOST_ELEMENTS:
            self.values[tensor.name] = tensor

    def _flattened(self, nodes: Sequence[NodeProto]) -> Iterator[NodeProto]:
        """The nodes, with the branch that is taken in place of an If whose condition is known."""
        for node in nodes:
            condition = self.values.get(node.input[0]) if node.op_type == "If" else None
            if condition is None:
                yield node
                continue
            wanted = "then_branch" if numpy_helper.to_array(condition).item() else "else_branch"
            branch = next(a.g for a in node.attribute if a.name == wanted)
            for weight in branch.initializer:
                self._add_constant(weight)
            self.model.graph.initializer.extend(branch.initializer)
            yield from self._flattened(branch.node)
            for own, name in zip(branch.output, node.output, strict=True):
                yield helper.make_node("Identity", [own.name], [name])

    def _infer(self, node: NodeProto) -> None:
        """Note the types of what `node` makes."""
        names = [name for name in node.input if name]
        try:
            schema = onnx.defs.get_schema(node.op_type, self.version, node.domain)
        except onnx.defs.SchemaError:
            return
        if any(name not in self.types for name in names):
            return
        try:
            types = onnx.shape_inference.infer_node_outputs(
                schema,
                node,
                {name: self.types[name] for name in names},
                {name: self.values[name] for name in names if name in self.values},
                opset_imports=self.opsets,
            )
        except MemoryError:
            raise
        except Exception as error:  # its errors share no base class
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            reason = lines[0] if lines else type(error).__name__
            self.problem = self.problem or f"{node.op_type} at node {node.name!r}: {reason}"
            return
        if any(static_shape(kind) is None for kind in types.values()) or not types:
            types |= self._of_function(node, names)
        self.types |= types

    def _of_function(self, node: NodeProto, names: list[str]) -> dict[str, TypeProto]:
        """The types of what a node makes that ONNX defines by other operators."""
        weights = [self.values[name] for name in dict.fromkeys(names) if name in self.values]
        inputs = [
            helper.make_value_info(name, self.types[name])
            for name in dict.fromkeys(names)
            if name not in self.values
        ]
        outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
        graph = helper.make_graph([node], "one", inputs, outputs, weights)
        model = helper.make_model(graph, opset_imports=self.opsets, ir_version=IR_VERSION)
        inferred = onnx.shape_inference.infer_shapes(model, data_prop=True)
        return {o.name: o.type for o in inferred.graph.output if o.type.WhichOneof("value")}

    def _evaluated(self, node: NodeProto) -> list[TensorProto] | None:
        """What `node` makes, if that depends on shapes and constants only."""
        if node.domain or node.op_type in _KEPT or node.op_type.startswith("Random"):
            return None
        if self._outputs & set(node.output):
            return None  # an output of the graph is made by a node
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            tensor = TensorProto()
            tensor.CopyFrom(node.attribute[0].t)
            tensor.name = node.output[0]
            return [tensor]
        if node.op_type in ("Shape", "Size"):
            return self._measured(node)
        names = [name for name in node.input if name]
        if any(name not in self.values for name in names):
            return None
        return self._executed(node, names)

    def _measured(self, node: NodeProto) -> list[TensorProto] | None:
        """The result of Shape or Size."""
        shape = static_shape(self.types.get(node.input[0]))
        if shape is None:
            return None
        ends = {a.name: a.i for a in node.attribute}
        part = shape[ends.get("start", 0) : ends.get("end", len(shape))]
        value = np.array(part if node.op_type == "Shape" else math.prod(shape), np.int64)
        return [numpy_helper.from_array(value, node.output[0])]

    def _executed(self, node: NodeProto, names: list[str]) -> list[TensorProto] | None:
        """What ONNX Runtime makes of constant inputs, unless that is large."""
        if any(a.HasField("g") or a.graphs for a in node.attribute):
            return None
        shapes = [static_shape(self.types.get(name)) for name in node.output]
        if any(math.prod(shape) > MOST_ELEMENTS for shape in shapes if shape is not None):
            return None
        outputs = [onnx.ValueInfoProto(name=name) for name in node.output if name]
        weights = [self.values[name] for name in dict.fromkeys(names)]
        graph = helper.make_graph([node], "constant", [], outputs, weights)
        model = helper.make_model(graph, opset_imports=self.opsets, ir_version=IR_VERSION)
        try:
            session = cpu_session(model.SerializeToString(), num_threads=1, log_severity=4)
            with errors():
                arrays = session.run(None, {})
        except BackendError:
            return None  # it has no kernel for these types
        if any(not isinstance(a, np.ndarray) or a.size > MOST_ELEMENTS for a in arrays):
            return None
        return [numpy_helper.from_array(a, o.name) for a, o in zip(arrays, outputs, strict=True)]

    @staticmethod
    def _drop_unused(graph: GraphProto) -> None:
        """Drop the constants that only other constants needed."""
        used = {name for node in graph.node for name in node.input}
        used |= {output.name for output in graph.output}
        inner = any(a.HasField("g") or a.graphs for node in graph.node for a in node.attribute)
        kept = [w for w in graph.initializer if inner or w.name in used]
        del graph.initializer[:]
        graph.initializer.extend(kept)


def settle(model: onnx.ModelProto) -> str:
    """Give `model` the shape of each tensor, and make constants of what depends on shapes only.

    Args:
        model: Its image input is static; it is changed in place.

    Returns:
        The first node that does not take its inputs, with the reason; empty if all do.
    """
    walk = Settled(model)
    walk.run()
    return walk.problem


def static_shape(kind: TypeProto | None) -> list[int] | None:
    """The sides of a tensor, if all are known."""
    if kind is None or not kind.tensor_type.HasField("shape"):
        return None
    dims = kind.tensor_type.shape.dim
    if not all(dim.HasField("dim_value") for dim in dims):
        return None
    return [dim.dim_value for dim in dims]

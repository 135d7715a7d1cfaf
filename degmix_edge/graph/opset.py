"""From any version of the standard operators to the one that the passes are written for."""

from __future__ import annotations

import re

import onnx
from onnx import NodeProto, helper, inliner, numpy_helper, version_converter

from degmix_edge.errors import GraphError

OPSET = 20
"""The version that every graph has from the first pass on.

It is the first with both DeformConv (19) and Gelu (20), so that our own exports have it, and every
pass and backend is tested with it. Parsers on robots are older than exporters: TensorRT 10.3, which
JetPack 6.2 has, does not read the newest opsets.
"""
OLDEST = 7
"""ONNX Runtime runs no older file, so that nothing could check what became of one."""
REDEFINED = {"GroupNormalization"}
"""Operators that opset 20 has with another meaning than the opsets after it."""


def version_of(model: onnx.ModelProto) -> int:
    """The version of the standard operators that `model` uses."""
    return max((o.version for o in model.opset_import if o.domain in ("", "ai.onnx")), default=1)


def to_opset(model: onnx.ModelProto, where: str) -> onnx.ModelProto:
    """Return `model` with operators of version `OPSET`.

    Args:
        model: All its shapes are known, because some operators need them to be converted.
        where: The name of the file, for error messages.

    Raises:
        GraphError: The version is too old, or an operator cannot be converted. The message names
            the operator and its nodes.
    """
    version = version_of(model)
    if version == OPSET:
        return model
    if version < OLDEST:
        raise GraphError(
            f"{where}: opset {version} is older than {OLDEST}, the oldest that ONNX Runtime runs; "
            f"export it again with opset_version={OPSET}"
        )
    _refuse_redefined(model, version, where)
    _leave_out_empty(model, version)
    nearest = _nearest_modes(model, version, where)
    try:
        converted: onnx.ModelProto = version_converter.convert_version(model, OPSET)
    except MemoryError:
        raise
    except Exception as error:  # the converter's own errors share no base class
        raise _cannot_convert(model, version, where, str(error)) from error
    for node in converted.graph.node:
        if node.output[0] in nearest:  # opset 11 changed these defaults; the converter forgets it
            values = {"coordinate_transformation_mode": "asymmetric"}
            values["nearest_mode"] = nearest[node.output[0]]
            node.attribute.extend(helper.make_attribute(*item) for item in values.items())
    return converted


def without_newer(model: onnx.ModelProto, where: str) -> onnx.ModelProto:
    """Return `model` with operators that are newer than `OPSET` written out in older ones.

    Raises:
        GraphError: An operator is newer and is not defined by others.
    """
    used = {node.op_type for node in model.graph.node if node.domain == ""}
    newer = {name for name in used if _since(name) > OPSET}
    newer |= used & REDEFINED if version_of(model) > OPSET else set()
    if not newer:
        return model
    typed: onnx.ModelProto = onnx.shape_inference.infer_shapes(model)
    for weight in typed.graph.initializer:
        value = helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims)
        typed.graph.value_info.append(value)
    for node in typed.graph.node:
        if node.op_type in newer:
            _write_defaults(node)
    functions = [("", name) for name in sorted(newer)]
    try:
        inlined: onnx.ModelProto = inliner.inline_selected_functions(
            typed, functions, inline_schema_functions=True
        )
    except RuntimeError as error:
        raise _cannot_convert(model, version_of(model), where, str(error)) from error
    left = [node for node in inlined.graph.node if node.op_type in newer]
    if left:
        raise _refusal(left[0], version_of(model), where, f"no operators of opset {OPSET} say it")
    return inlined


def _write_defaults(node: NodeProto) -> None:
    """Write down the attributes that have defaults; the inliner takes those that are written."""
    written = {attribute.name for attribute in node.attribute}
    for name, attribute in onnx.defs.get_schema(node.op_type).attributes.items():
        if name not in written and attribute.default_value.name:
            node.attribute.append(attribute.default_value)


def _refuse_redefined(model: onnx.ModelProto, version: int, where: str) -> None:
    """Refuse what the converter would change into another function without a word."""
    for node in model.graph.node:
        values = {a.name: helper.get_attribute_value(a) for a in node.attribute}
        old_mode = values.get("coordinate_transformation_mode") == b"tf_half_pixel_for_nn"
        if node.op_type == "Resize" and old_mode:
            raise _refusal(node, version, where, "its tf_half_pixel_for_nn ended with opset 13")
        if node.op_type == "Hardmax" and version < 13 and values.get("axis", 1) != -1:
            raise _refusal(node, version, where, "opset 13 gave its axis another meaning")


def _leave_out_empty(model: onnx.ModelProto, version: int) -> None:
    """Leave out empty scales beside sizes, which exporters wrote before inputs were optional."""
    if version >= 13:
        return
    empty = {weight.name for weight in model.graph.initializer if list(weight.dims) == [0]}
    for node in model.graph.node:
        if node.op_type == "Resize" and len(node.input) == 4:
            node.input[1:3] = ["" if name in empty else name for name in node.input[1:3]]


def _nearest_modes(model: onnx.ModelProto, version: int, where: str) -> dict[str, str]:
    """How each Resize or Upsample before opset 11 rounds, by its output: down if it enlarges.

    The old definitions are silent on it. This is what ONNX Runtime does with them.
    """
    if version >= 11:
        return {}
    weights = {weight.name: weight for weight in model.graph.initializer}
    modes = {}
    for node in model.graph.node:
        if node.op_type not in ("Resize", "Upsample"):
            continue
        scales = [value for a in node.attribute if a.name == "scales" for value in a.floats]
        if len(node.input) > 1 and node.input[1] in weights:
            scales = numpy_helper.to_array(weights[node.input[1]]).tolist()
        smaller = any(scale < 1 for scale in scales)
        if smaller and any(scale > 1 for scale in scales):
            raise _refusal(node, version, where, "it enlarges one side and shrinks another")
        modes[node.output[0]] = "ceil" if smaller else "floor"
    return modes


def _since(name: str) -> int:
    """The first version that has the operator; 1 for one that is not known."""
    versions = [s.since_version for s in onnx.defs.get_all_schemas_with_history() if s.name == name]
    return min(versions, default=1)


def _cannot_convert(model: onnx.ModelProto, version: int, where: str, message: str) -> GraphError:
    reason = next((line for line in message.splitlines() if line.strip()), "no reason given")
    known = re.search(r"for (\w+)$|Op '(\w+)'", reason)
    name = next((n for n in known.groups() if n), "") if known else ""
    for node in model.graph.node:
        if node.op_type == name:
            return _refusal(node, version, where, f"the converter has no rule for it ({reason})")
    return GraphError(
        f"{where}: cannot be converted from opset {version} to {OPSET} ({reason}); export it "
        f"again with opset_version={OPSET}"
    )


def _refusal(node: NodeProto, version: int, where: str, reason: str) -> GraphError:
    return GraphError(
        f"{where}: {node.op_type} at node {node.name!r} cannot be converted from opset {version} "
        f"to {OPSET}: {reason}. Export it again with opset_version={OPSET}"
    )

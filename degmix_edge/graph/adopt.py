"""Bring an ONNX file of another program into the form that the passes take.

    inline functions -> freeze axes -> float32 -> fold shapes -> opset -> channels first

The function of the graph stays the same; `workflows.engine.check_source` compares both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import TensorProto, ValueInfoProto, inliner

from degmix_edge.errors import ConfigError, DegmixError, GraphError
from degmix_edge.graph.check import DOMAINS, check_domains, check_graph
from degmix_edge.graph.float32 import widen
from degmix_edge.graph.layout import (
    CHANNELS,
    TO_LAST,
    is_channels_last,
)
from degmix_edge.graph.model import IR_VERSION, append, replace_uses, to_graph, to_model
from degmix_edge.graph.opset import to_opset, without_newer
from degmix_edge.graph.settle import settle, static_shape
from degmix_edge.graph.spec_file import InputEntry, OtherEntry, SpecFile
from degmix_edge.graph.split_inputs import split_inputs
from degmix_edge.registry import unknown

INPUT_TYPES = {
    TensorProto.FLOAT: "float32",
    TensorProto.FLOAT16: "float16",
    TensorProto.BFLOAT16: "bfloat16",
    TensorProto.UINT8: "uint8",
}
_MOVES = {"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Slice", "Gather"}
"""Operators that move the values of their first input and compute nothing."""
_AXES = ("batch", "channels", "height", "width")


def adopt(
    model: onnx.ModelProto,
    where: str,
    *,
    size: tuple[int, int] | None = None,
    batch: int | None = None,
    said: SpecFile | None = None,
) -> onnx.ModelProto:
    """Return the ONNX model of another program in the form that the passes take.

    The result has an image, float32 `(batch, C, H, W)` under the name that it had, with three
    channels or one, or a map of numbers in its place, static shapes and opset `opset.OPSET`. Its
    weights lie inside, and no value is float16 or bfloat16. An image `[N, H, W, C]` or of uint8
    becomes that form too; bytes are taken as floats from 0 to 255. The outputs keep their names,
    their order and their layout.

    Args:
        model: The model, with its weights loaded; it stays as it is.
        where: The name of the file, for error messages.
        size: Height and width in pixels, where the input's axes are dynamic.
        batch: Number of images, where the first axis is dynamic; None is 1 there, and else what the
            file says.
        said: Which inputs there are beside the image.

    Raises:
        ConfigError: Several inputs, and `said` does not say what each is.
        GraphError: The image is no RGB image, `size` is missing or contradicts the file, an
            operator cannot be converted, or the shape of an output depends on the image.
    """
    try:
        return _adopted(model, where, size, batch, said or SpecFile())
    except (DegmixError, MemoryError):
        raise
    except Exception as error:  # onnx raises nearly anything on a graph that nobody exported
        raise GraphError(
            f"{where}: cannot be read as a graph ({type(error).__name__}: {error}); export it again"
        ) from error


def _adopted(
    model: onnx.ModelProto,
    where: str,
    size: tuple[int, int] | None,
    batch: int | None,
    said: SpecFile,
) -> onnx.ModelProto:
    adopted, said = split_inputs(_own_copy(model, where), said, where)
    image = _freeze(adopted, where, size, batch, said)
    pixels = _pixels(image)
    kinds = {name: entry.kind for name, entry in said.other_tensors.items()}
    fitted = [image.name, *(name for name in kinds if kinds[name] in ("image", "map"))]
    of_bytes = [v.name for v in adopted.graph.input if _elem(v) == TensorProto.UINT8]
    widen(adopted)
    adopted = without_newer(adopted, where)
    if problem := settle(adopted):
        hint = "; most networks need sides that are multiples of 32" if size else ""
        raise GraphError(
            f"{where}: does not take an image of {pixels[0]} x {pixels[1]}: {problem}{hint}"
        )
    _refuse_dynamic(adopted, where)
    adopted = to_opset(adopted, where)
    _name_nodes(adopted.graph)
    settle(adopted)
    graph = to_graph(adopted)
    for index, tensor in enumerate(list(graph.inputs)):
        if tensor.name not in fitted:
            continue
        if tensor.name in of_bytes:
            graph.inputs[index] = _take_floats(graph, tensor)
        if is_channels_last(graph.inputs[index].shape):
            graph.inputs[index] = _put_channels_first(graph, graph.inputs[index])
    return to_model(graph, {prop.key: prop.value for prop in model.metadata_props})


def takes_bytes(model: onnx.ModelProto, said: SpecFile) -> bool:
    """Whether the image input of a file of another program is uint8."""
    inputs = {value.name: value for value in _inputs(model.graph)}
    image = inputs.get(said.image_among([*inputs]) or "")
    return image is not None and _elem(image) == TensorProto.UINT8


def _elem(value: ValueInfoProto) -> int:
    kind: int = value.type.tensor_type.elem_type
    return kind


def _inputs(graph: onnx.GraphProto) -> Iterator[ValueInfoProto]:
    """The inputs without the weights, which old files list among them."""
    weights = {weight.name for weight in graph.initializer}
    return (value for value in graph.input if value.name not in weights)


def _own_copy(model: onnx.ModelProto, where: str) -> onnx.ModelProto:
    """A copy whose nodes are all operators, without what is stale after a change of shapes."""
    copy = onnx.ModelProto()
    copy.CopyFrom(inliner.inline_local_functions(model) if model.functions else model)
    del copy.functions[:]
    copy.ir_version = IR_VERSION
    images = list(_inputs(copy.graph))
    del copy.graph.input[:]
    copy.graph.input.extend(images)
    for node in copy.graph.node:
        if node.domain == "ai.onnx":
            node.domain = ""
    _name_nodes(copy.graph)
    try:
        check_domains(copy)
    except GraphError as error:
        raise GraphError(f"{where}: {error}") from error
    versions = {o.domain.replace("ai.onnx", ""): o for o in copy.opset_import}
    opsets = [onnx.helper.make_opsetid(d, o.version) for d, o in versions.items() if d in DOMAINS]
    del copy.opset_import[:]
    copy.opset_import.extend(opsets)
    del copy.graph.value_info[:]
    for output in copy.graph.output:
        output.type.tensor_type.ClearField("shape")
    return copy


def _freeze(
    model: onnx.ModelProto,
    where: str,
    size: tuple[int, int] | None,
    batch: int | None,
    said: SpecFile,
) -> ValueInfoProto:
    """Give the inputs static axes and return the image."""
    inputs: dict[str, ValueInfoProto] = {value.name: value for value in model.graph.input}
    name, others = said.image_among([*inputs]), said.other_tensors
    if strange := [one for one in (name, *others) if one is not None and one not in inputs]:
        raise ConfigError(f"{where}: " + unknown("input", strange[0], [*inputs]))
    left = [one for one in inputs if one != name and one not in others]
    if name is None or name in others or left:
        raise ConfigError(_ask_inputs(where, inputs, left))
    image = inputs[name]
    rows = _freeze_image(image, where, size, batch, said.input)
    for own, entry in others.items():
        if entry.kind == "image":
            picture = InputEntry(color=entry.color)
            _freeze_image(inputs[own], where, _pixels(image), rows, picture)
        else:
            _freeze_other(inputs[own], where, _pixels(image), rows, entry)
    return image


def _ask_inputs(where: str, inputs: Mapping[str, ValueInfoProto], left: Sequence[str]) -> str:
    listed = "; ".join(f"{name} {_shape(value)}" for name, value in inputs.items())
    flags = " ".join(f"--input {name}=KIND" for name in left[1:] or left)
    return (
        f"{where}: {len(inputs)} inputs: {listed}. One is the image; say what each other is "
        f"({flags}), of image, map (such as depth), intrinsics, tensor and state; `degmix-edge "
        f"spec init` drafts a file with them"
    )


def _freeze_other(
    value: ValueInfoProto,
    where: str,
    pixels: tuple[int, int],
    batch: int,
    entry: OtherEntry,
) -> None:
    """Give an input that is no image static axes."""
    shape, sides = _shape(value), list(entry.shape or ())
    if not sides:
        sides = [side if isinstance(side, int) else 0 for side in shape]
        if sides and not sides[0]:
            sides[0] = batch
        if entry.kind == "map" and len(sides) > 2:
            place = slice(1, 3) if is_channels_last(shape) else slice(-2, None)
            sides[place] = [have or side for have, side in zip(sides[place], pixels, strict=True)]
    contradicts = any(isinstance(s, int) and s != w for s, w in zip(shape, sides, strict=False))
    if not all(sides) or len(sides) != len(shape) or contradicts:
        raise GraphError(
            f"{where}: input {value.name!r} has shape {shape}; say its sides in a spec (shape: "
            "[...]), as in the file where that has numbers"
        )
    for dim, side in zip(value.type.tensor_type.shape.dim, sides, strict=True):
        dim.dim_value = side


def _freeze_image(
    image: ValueInfoProto,
    where: str,
    size: tuple[int, int] | None,
    batch: int | None,
    said: InputEntry,
) -> int:
    """Give an image static axes, and return how many there are."""
    kind, shape = image.type.tensor_type.elem_type, _shape(image)
    what = f"{where}: input {image.name!r}"
    if len(shape) != 4:
        expected = "an image [N, 3, H, W] or [N, H, W, 3]"
        if said.takes_map:
            expected = "[N, C, H, W] or [N, H, W, C]; export it with an axis for the channels"
        raise GraphError(f"{what} has shape {shape}, expected {expected}")
    if kind not in INPUT_TYPES:
        name = TensorProto.DataType.Name(kind).lower()
        raise GraphError(f"{what} is {name}, expected one of {', '.join(INPUT_TYPES.values())}")
    order = [0, 2, 3, 1] if is_channels_last(shape) else [0, 1, 2, 3]
    axes = dict(zip([_AXES[axis] for axis in order], shape, strict=True))
    own = axes["batch"] if isinstance(axes["batch"], int) else 1
    rows = batch or own
    wanted = {"batch": rows, "channels": _channels(f"{what} has shape {shape}", axes, said)}
    if size is not None:
        wanted |= {"height": size[0], "width": size[1]}
    _check_axes(what, axes, wanted)
    for dim, name in zip(image.type.tensor_type.shape.dim, axes, strict=True):
        dim.dim_value = wanted[name] if name in wanted else dim.dim_value
    return rows


def _channels(what: str, axes: Mapping[str, int | str], said: InputEntry) -> int:
    """How many channels an image or a map in its place has; a dynamic axis has what was said.

    Raises:
        GraphError: It has others, or nothing says how many.
    """
    have = axes["channels"]
    if not said.takes_map:
        if isinstance(have, int) and have not in CHANNELS:
            raise GraphError(
                f"{what}, expected an RGB image [N, 3, H, W] or [N, H, W, 3], or a grey one of one "
                "channel; an input that is no picture has another color (--color other)"
            )
        return 1 if have == 1 else 3
    count = said.channels_said or have
    if not isinstance(count, int):
        raise GraphError(
            f"{what} with dynamic channels ({have!r}); say a mean or std for each of them"
        )
    if isinstance(have, int) and have != count:
        hint = "; say --color other" if said.color == "depth" else ", one mean and std for each"
        raise GraphError(f"{what} with {have} channels, and {count} are described{hint}")
    return count


def _check_axes(what: str, axes: dict[str, int | str], wanted: dict[str, int]) -> None:
    shape = list(axes.values())
    if isinstance(axes["batch"], int) and axes["batch"] != wanted["batch"]:
        raise GraphError(
            f"{what} has shape {shape} with a batch of {axes['batch']}, expected "
            f"{wanted['batch']}; leave --batch out, or export it with a batch of "
            f"{wanted['batch']} or a dynamic one"
        )
    sides = {name: axes[name] for name in ("height", "width")}
    dynamic = [name for name, side in sides.items() if not isinstance(side, int)]
    if dynamic and "height" not in wanted:
        names = " and ".join(f"{name} ({axes[name]!r})" for name in dynamic)
        raise GraphError(
            f"{what} has shape {shape} with the dynamic axes {names}, and an engine is made for "
            "one size; give --size HEIGHTxWIDTH (size=(height, width))"
        )
    other = [n for n, s in sides.items() if isinstance(s, int) and s != wanted.get(n, s)]
    if other:
        raise GraphError(
            f"{what} has the {other[0]} {axes[other[0]]} in its file, and --size is "
            f"{wanted['height']}x{wanted['width']}; leave --size out, or export it again with a "
            f"dynamic {other[0]}"
        )


def _refuse_dynamic(model: onnx.ModelProto, where: str) -> None:
    """Refuse operators and outputs whose shape depends on what is in the image."""
    try:
        check_graph(model)
    except GraphError as error:
        raise GraphError(f"{where}: {error}") from error
    for output in model.graph.output:
        if static_shape(output.type) is None:
            raise GraphError(
                f"{where}: output {output.name!r} has shape {_shape(output)}, because it depends "
                "on what is in the image; cut the network before it, and do that step in the "
                "code that runs after the network (a `raw` output passes on what comes before)"
            )


def _take_floats(graph: gs.Graph, old: gs.Variable) -> gs.Variable:
    """Take floats from 0 to 255 in place of bytes.

    TensorRT has uint8 as a type of inputs only, so that casts back to bytes are made for those
    nodes alone that compute with bytes.
    """
    image = gs.Variable(old.name, np.float32, old.shape)
    old.name = f"{image.name}/bytes"
    # The deployed graph multiplies by 1 / std, which may miss a whole number by a bit.
    rounded = append(graph, "Round", [image], f"{image.name}/rounded", np.float32)
    rounded.shape = old.shape
    replace_uses(old, rounded)
    pending = [rounded]
    while pending:
        floats = pending.pop()
        moves = [node for node in floats.outputs if _moves(node, floats, graph)]
        kept = [*moves, *(node for node in floats.outputs if node.op == "Cast")]
        if len(kept) < len(floats.outputs):
            name = f"{floats.name}/bytes"
            as_bytes = append(graph, "Cast", [floats], name, np.uint8, to=TensorProto.UINT8)
            replace_uses(floats, as_bytes, keep=[*kept, *as_bytes.inputs])
        for node in moves:
            node.outputs[0].dtype = np.dtype(np.float32)
            pending.append(node.outputs[0])
    return image


def _moves(node: gs.Node, tensor: gs.Variable, graph: gs.Graph) -> bool:
    """Whether `node` moves the values of `tensor` to an inner tensor and computes nothing."""
    others = any(other is tensor for other in node.inputs[1:])
    is_output = any(output is node.outputs[0] for output in graph.outputs)
    return node.op in _MOVES and not others and not is_output


def _put_channels_first(graph: gs.Graph, old: gs.Variable) -> gs.Variable:
    """Take `(N, C, H, W)` in place of `(N, H, W, C)`."""
    batch, height, width, channels = old.shape
    image = gs.Variable(old.name, old.dtype, [batch, channels, height, width])
    old.name = f"{image.name}/channels_last"
    graph.nodes.append(gs.Node("Transpose", old.name, {"perm": TO_LAST}, [image], [old]))
    return image


def _name_nodes(graph: onnx.GraphProto) -> None:
    """Give every node a name of its own, because recipes and messages name nodes."""
    names: set[str] = set()
    for node in graph.node:
        node.name = node.name or node.output[0]
        while node.name in names:
            node.name += "/again"
        names.add(node.name)


def _pixels(image: ValueInfoProto) -> tuple[int, int]:
    shape = [int(side) for side in _shape(image)]
    height, width = shape[1:3] if is_channels_last(shape) else shape[2:4]
    return height, width


def _shape(value: ValueInfoProto) -> list[int | str]:
    """The sides of a tensor; a dynamic one is its name, or `?`."""
    dims = value.type.tensor_type.shape.dim
    return [dim.dim_value if dim.dim_value > 0 else dim.dim_param or "?" for dim in dims]

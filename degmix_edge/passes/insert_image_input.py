"""Let the graph take what a camera gives: uint8 `(N, H, W, 3)` RGB, or numbers in their unit."""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from degmix_edge.errors import GraphError
from degmix_edge.graph.model import append, constant
from degmix_edge.network import InputSpec, NetworkSpec
from degmix_edge.passes._base import Pass
from degmix_edge.preprocess import GREY


class InsertImageInput(Pass):
    """Cast, transpose, subtract the mean, multiply by 1 / std.

    Further images get the same. A map is scaled and normalised in its own unit. The image, or the
    map in its place, comes first, whatever the network calls it, and other inputs follow by the
    names of their specs.
    """

    def __init__(self, spec: NetworkSpec) -> None:
        self.spec = spec

    def run(self, graph: gs.Graph) -> int:
        own = [one.graph_tensor for one in self.spec.inputs]
        inputs = {tensor.name: tensor for tensor in graph.inputs}
        images = [tensor for name, tensor in inputs.items() if name not in own]
        if len(images) != 1 or not inputs.keys() >= {*own}:
            wanted = f"the image and {', '.join(own)}" if own else "the one image"
            raise GraphError(f"graph has {len(inputs)} inputs {list(inputs)}, expected {wanted}")
        specs = (self.spec.image, *self.spec.inputs)
        if _is_taken(images[0], specs[0]):
            return 0
        for tensor in graph.tensors().values():
            if tensor.inputs and tensor.name in {one.name for one in specs}:
                tensor.name = f"{tensor.name}.inner"
        olds = (images[0], *(inputs[name] for name in own))
        take = {"image": _take_image}
        graph.inputs = [
            take.get(one.kind, _take_map)(graph, old, one)
            for old, one in zip(olds, specs, strict=True)
        ]
        return len(specs)


def _is_taken(tensor: gs.Variable, spec: InputSpec) -> bool:
    """Whether the pass has been here: the input is of bytes, or a map that is normalised."""
    if spec.kind == "image":
        return bool(tensor.dtype == np.uint8)
    ours = {f"{spec.name}/{step}" for step in ("scaled", "centred", "normalised")}
    is_plain = (spec.scale, {*spec.mean}, {*spec.std}) == (1, {0}, {1})
    return tensor.name == spec.name and (is_plain or {node.name for node in tensor.outputs} <= ours)


def _take_image(graph: gs.Graph, old: gs.Variable, spec: InputSpec) -> gs.Variable:
    """A new input of bytes in the place of a normalised image."""
    name, want = spec.name, list(spec.shape)
    if old.dtype != np.float32 or list(old.shape) != want:
        raise GraphError(
            f"input {old.name!r}: got {old.dtype} {old.shape}, expected float32 {want}; export "
            f"with a static batch of {want[0]}"
        )
    batch, channels, *sides = want
    mean, std = (
        np.array(v, np.float32).reshape(1, channels, 1, 1) * 255 for v in (spec.mean, spec.std)
    )
    consumers = list(old.outputs)
    image = gs.Variable(name, np.uint8, [batch, *sides, 3])
    # TensorRT takes uint8 as an input's type only: the cast is first.
    pixels = append(graph, "Cast", [image], f"{name}/float", np.float32, to=1)
    planes = append(graph, "Transpose", [pixels], f"{name}/planes", np.float32, perm=[0, 3, 1, 2])
    if spec.color == "bgr":
        order = constant(f"{name}/order", [2, 1, 0], np.int64)
        planes = append(graph, "Gather", [planes, order], f"{name}/bgr", np.float32, axis=1)
    if spec.color == "grey":
        weights = constant(f"{name}/weights", np.array(GREY, np.float32).reshape(1, 3, 1, 1))
        weighted = append(graph, "Mul", [planes, weights], f"{name}/weighted", np.float32)
        axis = constant(f"{name}/axis", [1], np.int64)
        planes = append(
            graph, "ReduceSum", [weighted, axis], f"{name}/grey", np.float32, keepdims=1
        )
    centred = append(
        graph, "Sub", [planes, constant(f"{name}/mean", mean)], f"{name}/centred", np.float32
    )
    scaled = [centred, constant(f"{name}/scale", 1 / std)]
    normal = append(graph, "Mul", scaled, f"{name}/normalised", np.float32)
    _replace(old, consumers, normal)
    return image


def _take_map(graph: gs.Graph, old: gs.Variable, spec: InputSpec) -> gs.Variable:
    """A new input called after its spec; a map has its unit, and others stay as they are."""
    if str(old.dtype) != spec.dtype or list(old.shape) != [*spec.shape]:
        want = f"{spec.dtype} {list(spec.shape)}"
        raise GraphError(f"input {old.name!r}: got {old.dtype} {old.shape}, expected {want}")
    name, consumers = spec.name, list(old.outputs)
    taken = values = gs.Variable(name, old.dtype, list(old.shape))
    if spec.kind == "map" and spec.scale != 1:
        scale = constant(f"{name}/unit", spec.scale)
        values = append(graph, "Mul", [values, scale], f"{name}/scaled", np.float32)
    if spec.kind == "map" and any(spec.mean):
        mean = constant(f"{name}/mean", _by_channel(spec.mean))
        values = append(graph, "Sub", [values, mean], f"{name}/centred", np.float32)
    if spec.kind == "map" and {*spec.std} != {1}:
        std = constant(f"{name}/std", 1 / _by_channel(spec.std))
        values = append(graph, "Mul", [values, std], f"{name}/normalised", np.float32)
    _replace(old, consumers, values)
    return taken


def _by_channel(values: tuple[float, ...]) -> np.ndarray:
    """One number for all channels, or `(C, 1, 1)`."""
    array = np.array(values, np.float64)
    return array[0] if len({*values}) == 1 else array.reshape(-1, 1, 1)


def _replace(old: gs.Variable, consumers: list[gs.Node], new: gs.Variable) -> None:
    for node in consumers:
        node.inputs = [new if tensor is old else tensor for tensor in node.inputs]

"""Which modules and tensors of a torch network are the INT8 nodes of its deployed graph.

Every weighted node of an exported graph is called `<module path>/<operator>`, or
`<module path>/<operator>.<call>` for later calls of a module. Its weights are a parameter of that
module, with the batch norm folded in that reads the module's output.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import torch
from torch import nn

from degmix_edge.graph.model import to_graph
from degmix_edge.quant.recipe import Recipe
from degmix_edge.quant.sites import activation_sites, scale_groups, weight_site

NODE = re.compile(r"(?P<path>.+)/(?P<op>\w+?)(?:\.(?P<call>\d+))?")
ROOT = "network"
"""What stands for the path of the network itself in the names of nodes."""
CLOSE = 1e-5
"""Largest difference of a weight and its node's constant, relative to the largest weight."""


@dataclass(frozen=True)
class WeightSite:
    """A parameter on an INT8 grid.

    Attributes:
        module: The path of its module.
        parameter: Its name there.
        axis: The axis with a scale for each index.
        norm: The path of the batch norm that is folded into it; empty for none.
    """

    module: str
    parameter: str
    axis: int
    norm: str = ""


@dataclass(frozen=True)
class Sites:
    """Where a network is quantized.

    Attributes:
        tensors: The index of the range, by the name of each quantized tensor of the graph. Tensors
            that share a scale have the same index.
        inputs: By module and call: the tensor that the module reads.
        sums: By module and number of an addition in it: which operand is quantized, and its tensor.
        weights: The quantized parameters.
        unmatched: Names of nodes that are no module with weights of its own.
    """

    tensors: dict[str, int]
    inputs: dict[str, dict[int, str]]
    sums: dict[str, dict[int, tuple[int, str]]]
    weights: tuple[WeightSite, ...]
    unmatched: tuple[str, ...] = field(default=())


def find_sites(network: nn.Module, model: onnx.ModelProto, recipe: Recipe) -> Sites:
    """Find the modules of the INT8 nodes of `recipe`.

    Args:
        network: The network as it was exported, with its folds.
        model: Its deployed float graph.
        recipe: The precision of each node of that graph.
    """
    graph = to_graph(model)
    norms = _norms(network, graph.inputs[0].shape)
    chosen = recipe.nodes("int8") | recipe.nodes("int8_weights")
    weights: dict[str, WeightSite] = {}
    for node in graph.nodes:
        if node.name in chosen:
            site = _weight(network, norms, node)
            if site is not None:
                weights[node.name] = site
    unmatched = tuple(n.name for n in graph.nodes if n.name in chosen and n.name not in weights)
    inputs: dict[str, dict[int, str]] = {}
    sums: dict[str, dict[int, tuple[int, str]]] = {}
    for node, index in activation_sites(graph, _without(recipe, unmatched)):
        path, call = path_of(node.name)
        tensor = node.inputs[index].name
        if node.name in weights:
            inputs.setdefault(path, {})[call] = tensor
        else:
            owner = "" if path == ROOT else path
            sums.setdefault(owner, {})[call] = (index, tensor)
    names = [t for calls in inputs.values() for t in calls.values()]
    names += [tensor for additions in sums.values() for _, tensor in additions.values()]
    groups = scale_groups(graph, names)
    return Sites(groups, inputs, sums, tuple(dict.fromkeys(weights.values())), unmatched)


def path_of(node: str) -> tuple[str, int]:
    """Return the module path and the number of the call in a node's name."""
    match = NODE.fullmatch(node)
    return (match["path"], int(match["call"] or 0)) if match else ("", 0)


def _without(recipe: Recipe, nodes: Sequence[str]) -> Recipe:
    left = set(nodes)
    kept = tuple(place for place in recipe.placements if place.node not in left)
    return recipe.model_copy(update={"placements": kept})


def _norms(network: nn.Module, shape: Sequence[int]) -> dict[str, str]:
    """Return the batch norm that reads the output of each module, by the paths of both."""
    writers: dict[int, str] = {}
    norms: dict[str, str] = {}
    alive: list[object] = []  # an address is of one tensor as long as that lives

    def write(path: str) -> Callable[..., None]:
        def look(module: nn.Module, args: Any, output: Any) -> None:
            if path in norms_of_network and id(args[0]) in writers:
                norms[writers[id(args[0])]] = path
            # A container returns what its last module wrote, and its hook runs after that one.
            writers.setdefault(id(output), path)
            alive.append(output)

        return look

    modules = dict(network.named_modules())
    kind = nn.modules.batchnorm._BatchNorm
    norms_of_network = {path for path, module in modules.items() if isinstance(module, kind)}
    handles = [m.register_forward_hook(write(path)) for path, m in modules.items() if path]
    batch, height, width, _ = shape
    device = next(network.parameters()).device
    try:
        with torch.no_grad():
            network(torch.zeros(batch, 3, height, width, device=device))
    finally:
        for handle in handles:
            handle.remove()
    return norms


def _weight(network: nn.Module, norms: Mapping[str, str], node: gs.Node) -> WeightSite | None:
    """Return the parameter that a node's constant is made of, or None."""
    site = weight_site(node)
    modules = dict(network.named_modules())
    path, _ = path_of(node.name)
    if site is None or path not in modules:
        return None
    index, axis = site
    values = node.inputs[index].values
    factors: dict[str, np.ndarray | None] = {"": None}
    if path in norms:
        factors[norms[path]] = norm_factor(modules[norms[path]])
    for name, parameter in modules[path].named_parameters(recurse=False):
        found = _axis(parameter.detach().double().cpu().numpy(), values, axis, factors)
        if found is not None:
            return WeightSite(path, name, *found)
    return None


def norm_factor(norm: nn.Module) -> np.ndarray:
    """Return the factor of each channel of a batch norm, in float64."""
    scale, variance = (getattr(norm, n).detach().double() for n in ("weight", "running_var"))
    factor: np.ndarray = (scale / torch.sqrt(variance + norm.eps)).cpu().numpy()  # type: ignore[operator]
    return factor


def _axis(
    parameter: np.ndarray, values: np.ndarray, axis: int, norms: Mapping[str, np.ndarray | None]
) -> tuple[int, str] | None:
    """Return the axis of `parameter` that is `axis` of `values`, and the norm between the two."""
    for norm, factor in norms.items():
        layouts = {axis: parameter}
        if factor is not None:
            if len(factor) != len(parameter):
                continue
            layouts = {0: parameter * factor.reshape(-1, *[1] * (parameter.ndim - 1))}
        elif parameter.ndim == 2:
            layouts[1 - axis] = parameter.T
        for own, layout in layouts.items():
            if layout.shape == values.shape:
                limit = CLOSE * np.abs(values).max(initial=0)
                if np.abs(layout - values).max(initial=0) <= limit:
                    return own, norm
    return None

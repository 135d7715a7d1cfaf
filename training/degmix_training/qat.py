"""What a quantization-aware training starts from: a folded network, its sites, its first ranges."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx
import torch
from torch import Tensor, nn

from degmix_edge import ort
from degmix_edge.errors import ConfigError, GraphError
from degmix_edge.graph.model import to_graph
from degmix_edge.network import IMAGE
from degmix_edge.passes.forms import deploy_model
from degmix_edge.preprocess import normalise
from degmix_edge.quant.recipe import OVER_BUDGET, Placement, Recipe
from degmix_edge.quant.rules import is_quantizable, stored_operand
from degmix_edge.registry import unknown
from degmix_training import export
from degmix_training.checkpoint import Checkpoint
from degmix_training.fake_quant import Quantizer, attach
from degmix_training.sites import Sites, find_sites

SAME = 1e-3
"""Largest difference of a tensor in torch and in the graph, relative to the largest value."""


@dataclass(frozen=True)
class Start:
    """A network to train for INT8.

    Attributes:
        network: The float network with the folds of its engine, and all weights trainable.
        sites: Where it is quantized.
        amax: The first range of each tensor of `sites`.
        original: The float network, in eval mode, whose maps the trained one imitates.
    """

    network: nn.Module
    sites: Sites
    amax: Mapping[str, float]
    original: nn.Module


@dataclass(frozen=True)
class Deployed:
    """A checkpoint's network as its engine computes it, in torch and as a graph.

    Attributes:
        network: The network in torch, with its folds.
        folds: The names of these.
        model: The deployed float graph: bytes in, maps out.
        spec: What the graph promises.
        original: The checkpoint's own network.
    """

    network: Any
    folds: tuple[str, ...]
    model: onnx.ModelProto
    spec: Any
    original: Any

    @classmethod
    def of(cls, checkpoint: Checkpoint) -> Deployed:
        """Fold and export the network of `checkpoint`.

        Raises:
            GraphError: The network cannot be exported.
        """
        network: Any = checkpoint.network
        folds = tuple(network.folds)
        spec = export.network_spec(checkpoint)
        model = export.export_checkpoint(checkpoint, folds)
        model, spec, _ = deploy_model(model, spec, precision="int8")
        return cls(network.fold_for_inference(folds), folds, model, spec, network)


def widen(recipe: Recipe) -> Recipe:
    """Return `recipe` with the nodes in INT8 that a budget search kept in float.

    Quantization after training could not hold these inside the budget. Nodes that the rules or the
    user keep in float, and nodes that save no time in INT8, stay as they are.
    """
    return recipe.model_copy(update={"placements": tuple(map(_widened, recipe.placements))})


def _widened(place: Placement) -> Placement:
    if not place.reason.startswith(OVER_BUDGET):
        return place
    quantizable = place.op in ("Conv", "Gemm", "DeformConv", "MatMul")
    change = {"precision": "int8" if quantizable else "int8_weights"}
    return place.model_copy(update={**change, "reason": "trained for INT8, as the budget needs it"})


def fit_recipe(recipe: Recipe, model: onnx.ModelProto, where: str) -> Recipe:
    """Return `recipe` for the deployed graph `model`, after the check that it belongs to it.

    Args:
        recipe: The recipe.
        model: The graph.
        where: The recipe's file, for messages.

    Raises:
        ConfigError: It is no recipe for INT8, or it is of another network.
    """
    if recipe.precision != "int8":
        raise ConfigError(
            f"{where}: is a recipe for {recipe.precision}, and training is for int8; give the "
            "recipe.yaml of an INT8 bundle or of `degmix-edge quantize --precision int8`"
        )
    graph = to_graph(model)
    stored = {n.name for n in graph.nodes if stored_operand(n) is not None}
    nodes = {n.name: n.op for n in graph.nodes if is_quantizable(n) or n.name in stored}
    places = {place.node: place for place in recipe.placements}
    for name, have, of in (
        *((n, nodes, "the network") for n in places if n not in nodes),
        *((n, places, "the recipe") for n in nodes if n not in places),
    ):
        raise ConfigError(
            f"{where}: is a recipe of another network: {of} has no node {name!r}. "
            f"{unknown('weighted node', name, have)} Make a recipe of this checkpoint with "
            "`degmix-edge quantize`"
        )
    wide = widen(recipe)
    placements = tuple(
        place.model_copy(update={"precision": "int8_weights"})
        if place.node in stored and place.precision == "int8"
        else place
        for place in wide.placements
    )
    return wide.model_copy(update={"placements": placements})


def fake_quantized(checkpoint: Checkpoint) -> nn.Module:
    """Return the network of a checkpoint that was trained for INT8, with its fake quantization.

    Its maps are those of the INT8 engine, up to the rounding of float arithmetic. The network of
    any other checkpoint comes back as it is.
    """
    trained = checkpoint.card.trained
    if trained is None:
        return checkpoint.network
    deployed = Deployed.of(checkpoint)
    sites = find_sites(deployed.network, deployed.model, trained.recipe)
    quantizer = Quantizer(sites, trained.amax, ranges="ema", freeze=0.0, decay=0.5)
    attach(deployed.network, quantizer)
    network: nn.Module = deployed.network.eval()
    return network


def begin(
    deployed: Deployed, recipe: Recipe, amax: Mapping[str, float], image: np.ndarray
) -> Start:
    """Find where `recipe` quantizes the network, and prove it on an image.

    Args:
        deployed: The network.
        recipe: What `fit_recipe` returned.
        amax: The first range of each tensor that the recipe quantizes.
        image: uint8 RGB `(H, W, 3)` at the network's size.

    Raises:
        GraphError: A node of the recipe is no module of its own, or a module reads something else
            than its node.
    """
    sites = find_sites(deployed.network, deployed.model, recipe)
    if sites.unmatched:
        raise GraphError(
            f"{deployed.spec.model}: {len(sites.unmatched)} INT8 nodes have no module whose "
            f"weights they hold, {sites.unmatched[0]!r} first, and cannot be trained; build the "
            f"recipe with {' '.join(f'--keep-float {name}' for name in sites.unmatched[:3])}"
        )
    _prove(deployed, sites, amax, image)
    # Lightning keeps the mode of each module, and a folded network comes in eval mode.
    network = deployed.network.requires_grad_(True).train()
    ranges = {tensor: amax[tensor] for tensor in sites.tensors}
    # A copy: the training moves it to its device, and the checkpoint is the caller's.
    return Start(network, sites, ranges, deployed.original.fold_for_inference(()))


class _Recorder(Quantizer):
    """Records the tensors that would be quantized, and leaves them as they are."""

    values: dict[str, Tensor]

    def forward(self, x: Tensor, tensor: str) -> Tensor:
        self.values[tensor] = x.detach()
        return x


def _prove(deployed: Deployed, sites: Sites, amax: Mapping[str, float], image: np.ndarray) -> None:
    """Check that torch computes the graph's tensors where `sites` say.

    Raises:
        GraphError: It computes another, or none.
    """
    spec = deployed.spec
    activations = replace(sites, weights=())
    recorder = _Recorder(activations, amax, ranges="ema", freeze=0.0, decay=0.5)
    recorder.values = {}
    copy = deployed.network.fold_for_inference(())
    attach(copy, recorder)
    batch = torch.from_numpy(normalise(image[None], spec.mean, spec.std))
    with torch.no_grad():
        copy(batch)
    wanted = _graph_tensors(deployed.model, list(sites.tensors), image)
    for tensor, want in wanted.items():
        got = recorder.values.get(tensor)
        if got is None or not _same(got.numpy(), want):
            what = "nothing" if got is None else f"another tensor, {tuple(got.shape)}"
            raise GraphError(
                f"{spec.model}: where the graph quantizes {tensor!r} {want.shape}, the network in "
                f"torch has {what}; build the recipe with --keep-float for the nodes that read it"
            )


def _same(got: np.ndarray, want: np.ndarray) -> bool:
    """Return whether two tensors hold the same values, in any layout."""
    if got.size != want.size:
        return False
    limit = SAME * max(float(np.abs(want).max()), 1e-6)
    return bool(np.abs(np.sort(got, axis=None) - np.sort(want, axis=None)).max() <= limit)


def _graph_tensors(
    model: onnx.ModelProto, names: list[str], image: np.ndarray
) -> dict[str, np.ndarray]:
    observed = onnx.ModelProto()
    observed.CopyFrom(model)
    del observed.graph.output[:]
    observed.graph.output.extend(map(onnx.helper.make_empty_tensor_value_info, names))
    session = ort.cpu_session(observed.SerializeToString(), optimization="none")
    with ort.errors():
        values = session.run(names, {IMAGE: image[None]})
    return dict(zip(names, values, strict=True))

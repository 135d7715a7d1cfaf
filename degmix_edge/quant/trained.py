"""The recipe and the ranges that quantization-aware training leaves in a float graph's metadata."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pydantic import ValidationError

from degmix_edge.config import Settings
from degmix_edge.errors import ConfigError
from degmix_edge.quant.ranges import Range, Ranges
from degmix_edge.quant.recipe import Recipe

TRAINED_KEY = "degmix.trained"
"""The metadata key of a graph that was trained for INT8."""


class Trained(Settings):
    """What a network was trained for.

    Attributes:
        recipe: The precision of each node during training.
        amax: The magnitude that maps to 127, by the name of each quantized tensor.
    """

    recipe: Recipe
    amax: dict[str, float]

    def placed(self, weighted: Iterable[str], keep_float: Iterable[str] = ()) -> Recipe:
        """Return the recipe for a graph that has the nodes `weighted`.

        Args:
            weighted: Names of the graph's nodes that could be quantized, in graph order.
            keep_float: Names of nodes that the user keeps in fp32.

        Raises:
            ConfigError: The graph has a node that was not there in training.
        """
        places = {place.node: place for place in self.recipe.placements}
        nodes = list(weighted)
        unknown = [node for node in nodes if node not in places]
        if unknown:
            raise ConfigError(
                f"the network was trained for INT8 without the node {unknown[0]!r} and "
                f"{len(unknown) - 1} others; leave out --split, or build in fp32 or fp16"
            )
        kept = {"precision": "fp32", "reason": "asked for"}
        floats = set(keep_float)
        placements = tuple(
            places[node].model_copy(update=kept) if node in floats else places[node]
            for node in nodes
        )
        return self.recipe.model_copy(update={"placements": placements})

    def over(self, ranges: Ranges) -> Ranges:
        """Return `ranges` with the trained magnitudes in place of the measured ones."""
        tensors = {name: self._trained(name, measured) for name, measured in ranges.tensors.items()}
        return ranges.model_copy(update={"tensors": tensors})

    def _trained(self, name: str, measured: Range) -> Range:
        amax = self.amax.get(name)
        return measured if amax is None else measured.model_copy(update={"amax": amax})


def trained_in(metadata: Mapping[str, str], where: str) -> Trained | None:
    """Return what the metadata of a float graph say of its training, or None.

    Raises:
        ConfigError: They cannot be read.
    """
    text = metadata.get(TRAINED_KEY)
    if text is None:
        return None
    try:
        return Trained.model_validate_json(text)
    except ValidationError as error:
        raise ConfigError(
            f"{where}: {TRAINED_KEY} does not fit this version: {error}; export it again"
        ) from None

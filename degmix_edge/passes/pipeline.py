"""The ordered lists of passes. Order is meaning; each place has its reason."""

from __future__ import annotations

from collections.abc import Sequence

from degmix_edge.network import NetworkSpec
from degmix_edge.passes._base import Pass
from degmix_edge.passes.decode_tasks import DecodeTasks
from degmix_edge.passes.fold_batchnorm import FoldBatchnorm
from degmix_edge.passes.fold_constants import FoldConstants
from degmix_edge.passes.fold_conv_mixture import FoldConvMixture
from degmix_edge.passes.hoist_pointwise import HoistPointwise
from degmix_edge.passes.insert_fp16 import InsertFp16
from degmix_edge.passes.insert_image_input import InsertImageInput
from degmix_edge.passes.insert_qdq import InsertQdq
from degmix_edge.passes.prune_tasks import PruneTasks
from degmix_edge.passes.remove_identities import RemoveIdentities
from degmix_edge.passes.share_constants import ShareConstants
from degmix_edge.quant.ranges import Ranges
from degmix_edge.quant.recipe import Recipe


def simplify(tasks: Sequence[str]) -> list[Pass]:
    """The same float function of the asked tasks, with fewer nodes."""
    return [
        PruneTasks(tasks),  # first: nothing is rewritten that is dropped
        FoldConstants(),  # before the others: they look for constants
        RemoveIdentities(),  # before folds, which look for neighbours
        FoldBatchnorm(),  # before Q/DQ, which would stand between the two
        HoistPointwise(),  # after it: norms are in the convolutions' weights
        ShareConstants(),  # last: the others make constants
    ]


def deploy(
    spec: NetworkSpec, tasks: Sequence[str], *, raw_logits: bool = False, int8: bool = False
) -> list[Pass]:
    """From an exported float network to one that takes bytes and gives maps."""
    return [
        *simplify(tasks),
        # A kernel that the image makes has no INT8 form; the mixture that it replaces has.
        *([] if int8 else [FoldConvMixture()]),
        InsertImageInput(spec),
        DecodeTasks(spec, raw_logits=raw_logits),
        ShareConstants(),
    ]


def quantize(recipe: Recipe, ranges: Ranges | None) -> list[Pass]:
    """Precision, last: recipes and ranges name the nodes and tensors that `deploy` leaves."""
    if recipe.precision == "fp16":
        return [InsertFp16(recipe)]
    if recipe.precision == "int8" and ranges is not None:
        return [InsertQdq(recipe, ranges), ShareConstants()]  # zero points are all the same
    return []

"""The ordered lists of passes. Order is meaning; each place has its reason."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from degmix_edge.errors import ConfigError
from degmix_edge.network import NetworkSpec
from degmix_edge.passes._base import Pass
from degmix_edge.passes.add_deform_bias import AddDeformBias
from degmix_edge.passes.decode_tasks import DecodeTasks
from degmix_edge.passes.fold_batchnorm import FoldBatchnorm
from degmix_edge.passes.fold_constants import FoldConstants
from degmix_edge.passes.fold_conv_mixture import FoldConvMixture
from degmix_edge.passes.fold_padding import FoldPadding
from degmix_edge.passes.fuse_deform_output import FuseDeformOutput
from degmix_edge.passes.fuse_integer_matmul import FuseIntegerMatmul
from degmix_edge.passes.group_deform_items import GroupDeformItems
from degmix_edge.passes.guard_concat_scale import GuardConcatScale
from degmix_edge.passes.hoist_pointwise import HoistPointwise
from degmix_edge.passes.insert_bf16 import InsertBf16
from degmix_edge.passes.insert_fp16 import InsertFp16
from degmix_edge.passes.insert_image_input import InsertImageInput
from degmix_edge.passes.insert_qdq import InsertQdq
from degmix_edge.passes.lower_deform_offsets import LowerDeformOffsets
from degmix_edge.passes.lower_deform_sample import LowerDeformSample
from degmix_edge.passes.lower_deform_to_gridsample import LowerDeformToGridsample
from degmix_edge.passes.lower_deform_to_plugin import LowerDeformToPlugin
from degmix_edge.passes.lower_moe import LowerMoe
from degmix_edge.passes.lower_qdq_for_cpu import LowerQdqForCpu
from degmix_edge.passes.lower_row_sum import LowerRowSum
from degmix_edge.passes.merge_convs import MergeConvs
from degmix_edge.passes.move_token_transposes import MoveTokenTransposes
from degmix_edge.passes.prune_tasks import PruneTasks
from degmix_edge.passes.remove_bf16 import RemoveBf16
from degmix_edge.passes.remove_fp16 import RemoveFp16
from degmix_edge.passes.remove_identities import RemoveIdentities
from degmix_edge.passes.requantize_samples import RequantizeSamples
from degmix_edge.passes.resize_to_matmul import ResizeToMatmul
from degmix_edge.passes.share_constants import ShareConstants
from degmix_edge.passes.split_deform_positions import SplitDeformPositions
from degmix_edge.passes.split_tasks import SplitTasks
from degmix_edge.quant.ranges import Ranges
from degmix_edge.quant.recipe import CALIBRATED, Recipe
from degmix_edge.registry import unknown

Dcn = Literal["plugin", "offsets", "builtin", "gridsample"]
"""How a TensorRT builder gets deformable convolutions: through our plugin; the same with DeMT's
offsets made by our plugin too, in engines with FP16 layers; through TensorRT's own importer; or as
GridSample, for builders without a kernel."""
FORMS: tuple[Dcn, ...] = get_args(Dcn)
NEED_PLUGIN: tuple[Dcn, ...] = ("plugin", "offsets")

SAMPLES_OF_OPERATOR = 1 << 16
"""A call of our operator from OpenVINO costs as long as it saves on about so many samples."""
SAMPLES_OF_TABLE = 1 << 20
"""A constant of 8 MiB."""


def check_form(asked: str, have: Sequence[Dcn] = FORMS) -> Dcn:
    """The form that is called `asked`.

    Raises:
        ConfigError: There is none among `have`.
    """
    for form in have:
        if form == asked:
            return form
    raise ConfigError(unknown("form of deformable convolutions", asked, have))


def simplify(tasks: Sequence[str]) -> list[Pass]:
    """The same float function of the asked tasks, with fewer nodes."""
    return [
        PruneTasks(tasks),  # first: nothing is rewritten that is dropped
        FoldConstants(),  # before the others: they look for constants
        RemoveIdentities(),  # before folds, which look for neighbours
        FoldPadding(),  # before Q/DQ, for the same reason as the next
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
    if recipe.precision in CALIBRATED and ranges is not None:
        # Zero points are all the same.
        return [InsertQdq(recipe, ranges), InsertBf16(recipe), ShareConstants()]
    return [InsertBf16(recipe)]


def for_onnxruntime(
    ranges: Ranges | None, *, operators: bool, split: Sequence[str] = ()
) -> list[Pass]:
    """From model.onnx to the form that ONNX Runtime's CPU kernels run fastest.

    Args:
        ranges: Ranges of an INT8 model; None for a float one.
        operators: Whether our own CPU operators are there.
        split: Tasks that are to run in any subset; none always runs all.
    """
    return [
        RemoveBf16(),  # before passes that look for neighbours; it has no kernels for bfloat16
        *([LowerDeformSample(), RequantizeSamples()] if operators else []),
        *([LowerQdqForCpu(ranges)] if ranges is not None else []),
        LowerMoe(),  # after types of quantized values are settled: it gathers those
        *([FuseIntegerMatmul()] if ranges is not None else []),  # of what the two before left
        LowerRowSum(),  # after it: its products are of floats, which stay floats
        ResizeToMatmul(),  # the same holds
        ShareConstants(),  # after it: heads of one size have the same two matrices
        *([SplitTasks(split)] if split else []),  # last: passes do not look into branches
    ]


def sampled(recipe: Recipe, *, operators: bool) -> list[Pass]:
    """From model.onnx to deformable convolutions as samplings, for OpenVINO's CPU kernels.

    Args:
        recipe: What runs in which precision.
        operators: Whether our own CPU operators are there.
    """
    # A grid has the positions as a constant, which should be small.
    most = None if operators else SAMPLES_OF_TABLE
    return [
        RemoveBf16(),  # before passes that look for neighbours; the engine says what is bfloat16
        LowerDeformSample(),
        *([SplitDeformPositions(most)] if recipe.nodes("bf16") else []),
    ]


def for_openvino(recipe: Recipe, *, operators: bool) -> list[Pass]:
    """What follows `sampled`: the form that OpenVINO's CPU kernels run fastest.

    Q/DQ pairs stay as they are: its own passes take them from symmetric INT8 to integer kernels,
    and fail on the form of `LowerQdqForCpu` in products of matrices.

    Args:
        recipe: What runs in which precision.
        operators: Whether our own CPU operators are there.
    """
    return [
        # There is no DeformConv in its reader of ONNX. Our sampler wants a large map.
        LowerDeformToGridsample(SAMPLES_OF_OPERATOR if operators else None),
        # Of what is lowered; the guard then sees every pair.
        *([RequantizeSamples(), GuardConcatScale()] if recipe.precision == "int8" else []),
        ResizeToMatmul(),  # after types are settled: its products are of floats, which stay floats
        MoveTokenTransposes(),  # its convolutions keep channels last
        ShareConstants(),  # last: heads of one size have the same two matrices
    ]


def deformable(dcn: Dcn, recipe: Recipe) -> list[Pass]:
    """From model.onnx to deformable convolutions in the form `dcn`; then shapes are inferred."""
    floats = [RemoveFp16()] if recipe.precision == "fp16" else []  # forms look for neighbours
    if dcn == "gridsample":
        return [*floats, LowerDeformToGridsample()]
    if dcn == "builtin":
        return [*floats, AddDeformBias()]
    if recipe.precision == "fp32":
        return [*floats, LowerDeformToPlugin()]
    last = [LowerDeformOffsets()] if dcn == "offsets" else []
    # Before FP16, whose casts would part a convolution from its Q.
    fused = [FuseDeformOutput()] if recipe.precision == "int8" else []
    return [*floats, LowerDeformToPlugin(), *fused, SplitDeformPositions(), *last]


def half_floats(dcn: Dcn, recipe: Recipe) -> list[Pass]:
    """What follows `deformable` for a TensorRT builder: what is not INT8 runs in FP16."""
    return [
        # Before FP16, which gives scales their type.
        *([RequantizeSamples()] if dcn == "gridsample" else []),
        *([InsertFp16(recipe)] if recipe.precision != "fp32" else []),
        *([GroupDeformItems()] if dcn in NEED_PLUGIN else []),  # last: types are settled
    ]


def other_forms() -> list[Pass]:
    """What a precision or a backend may make of a simplified graph, each on its own."""
    return [
        FoldConvMixture(),  # float builds fold mixtures of kernels
        MergeConvs(),  # fewer, larger convolutions
        LowerMoe(0),  # the CPU backend gathers each expert's tokens
    ]

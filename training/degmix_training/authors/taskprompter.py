"""Checkpoints of TaskPrompter's public code, on a plain vision transformer.

The number of windows is not in the weights: it is the published one, unless settings say otherwise.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from degmix_edge.errors import CheckpointError
from degmix_training import models
from degmix_training.authors._base import (
    TASKS,
    Imported,
    data_and_specs,
    image_size,
    need,
    place_renamed,
)
from degmix_training.config import network_config
from degmix_training.pretrained import kind_of, load_strictly, refuse_unexplained

KEYS = "backbone.task_prompts and backbone.fea_decode_spa.*"
SIZES = {"nyud": (448, 576), "pascal_context": (512, 512)}
"""Input sizes of the public configs in pixels, by data set."""
WINDOWS = {("pascal_context", "vit_large_patch16"): 1}
"""Windows along a side in the public configs; 4 in the others."""
RENAMES = {
    r"^backbone\.task_prompts$": "backbone.prompts",
    r"^backbone\.blocks\.(\d+)\.attn\.token_trans\.": r"backbone.spread.\1.",
    r"^backbone\.blocks\.(\d+)\.attn\.token_trans1\.": r"backbone.gather.\1.",
    r"^backbone\.(patch_embed|pos_embed|blocks|norm)\b": r"backbone.network.\1",
    r"^backbone\.fea_decode_spa\.(\d)\.(\w+)\.0\.": r"depths.\1.by_pixel.\2.",
    r"^backbone\.fea_decode_chan\.(\d)\.(\w+)\.0\.": r"depths.\1.by_channel.\2.",
    r"^backbone\.fea_fuse\.": "depths.fuse.",
    r"^backbone\.ctr_attn_conv\.": "depths.reweigh.",
    r"^depths\.(fuse|reweigh)\.(\d)\.": r"depths.\2.\1.",
    r"^heads\.(\w+)\.mt_proj\.": r"heads.\1.",
    r"^heads\.(\w+)\.linear_pred\.": r"heads.\1.3.",
}
"""Their names to ours; every pattern in turn."""
REASONS = {
    r".*\.token_trans1\.": "the prompts behind the last block, which no code reads",
}


def recognises(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are weights of TaskPrompter's public code on a plain transformer."""
    return "backbone.task_prompts" in tensors and bool(_channels(tensors))


def read(
    path: Path,
    tensors: Mapping[str, Tensor],
    classes: Mapping[str, tuple[str, ...]] | None,
    settings: Mapping[str, Any],
) -> Imported:
    """Build the network that `tensors`, read from `path`, are the weights of.

    Args:
        path: The file, for messages.
        tensors: All of its weights by key.
        classes: Class names by task; None is those of the data set that the tasks tell.
        settings: Settings of the model that override what was found.

    Raises:
        CheckpointError: A key is unexplained, missing or of another shape.
    """
    source, specs = data_and_specs(path, _channels(tensors), classes)
    config, size = _describe(path, tensors, source)
    config |= settings
    network: Any = models.find("taskprompter").Model(
        network_config("taskprompter", config, size), specs
    )
    ours = dict(tensors)
    if "backbone.pos_embed" in ours:  # the class token, which is not in the sequence, has a row
        ours["backbone.pos_embed"] = ours["backbone.pos_embed"][:, 1:]
    renamed = {key: _own_name(key) for key in ours}
    state, fates = place_renamed(network.state_dict(), ours, renamed, REASONS)
    refuse_unexplained(path, fates)
    load_strictly(network, state, path, f"taskprompter with {config['backbone']}")
    windows = network.config.windows
    notes = [
        f"backbone: {config['backbone']}, by the names and shapes of its weights alone",
        f"assumed: {windows}x{windows} windows (--set windows=...)",
    ]
    return Imported(
        "taskprompter",
        network.eval(),
        config,
        specs,
        fates,
        source,
        size,
        fixed_size=True,
        notes=notes,
    )


def _channels(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Their tasks in order, with logit channels."""
    return {
        match[1]: tensor.shape[0]
        for key, tensor in tensors.items()
        if (match := re.match(r"heads\.(\w+)\.linear_pred\.weight$", key))
    }


def _describe(
    path: Path, tensors: Mapping[str, Tensor], source: str
) -> tuple[dict[str, Any], tuple[int, int]]:
    """Settings of the model and its input size, read off the weights."""
    first = next(iter(_channels(tensors)))
    kind = kind_of({k.removeprefix("backbone."): t for k, t in tensors.items()})
    if not kind.startswith("vit_"):
        raise CheckpointError(
            f"{path}: backbone not recognised{f', which is {kind}' if kind else ''}; expected a "
            f"plain vision transformer of timm's sizes under backbone.*"
        )
    spread = need(path, tensors, "backbone.blocks.0.attn.token_trans.weight")
    config = {
        "backbone": f"{kind}_384",
        "windows": WINDOWS.get((source, kind), 4),
        "features": need(path, tensors, f"backbone.fea_decode_spa.0.{first}.0.weight").shape[0],
        "head_width": need(path, tensors, f"heads.{first}.mt_proj.0.weight").shape[0],
        "reweigh": any(key.startswith("backbone.ctr_attn_conv.") for key in tensors),
    }
    return config, image_size(spread.shape[0], SIZES[source])


def _own_name(key: str) -> str:
    """Return what our network calls the weight that their code calls `key`."""
    for theirs, ours in TASKS.items():
        key = key.replace(f".{theirs}.", f".{ours}.")
    for pattern, place in RENAMES.items():
        key = re.sub(pattern, place, key)
    return key

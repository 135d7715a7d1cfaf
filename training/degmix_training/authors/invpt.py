"""Checkpoints of InvPT's public code, on a plain vision transformer.

The public code has weights that nothing reads: a skip to the first stage, and that stage's mixing
of scores and widening. Their fates say so.
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
from degmix_training.pretrained import (
    Fate,
    kind_of,
    load_strictly,
    prove,
    refuse_unexplained,
    translate,
)

KEYS = "multi_task_decoder.invpt.* and multi_task_decoder.intermediate_head.*"
SIZES = {"nyud": (448, 576), "pascal_context": (512, 512)}
"""Input sizes of the public configs in pixels, by data set."""
DECODER = "multi_task_decoder."
RENAMES = {
    r"^intermediate_head\.": "initial.",
    r"^preliminary_decoder\.(\w+)\.0\.conv\.": r"features.\1.0.",
    r"^preliminary_decoder\.(\w+)\.0\.bn1\.": r"features.\1.1.",
    r"^preliminary_decoder\.(\w+)\.1\.conv\.": r"features.\1.3.",
    r"^preliminary_decoder\.(\w+)\.1\.bn1\.": r"features.\1.4.",
    r"^scale_embed\.0\.": "stages.2.skip.",
    r"^scale_embed\.1\.": "stages.1.skip.",
    r"^invpt\.mix_proj\.(\w+)\.0\.": r"enter.\1.",
    r"^invpt\.norm_mts\.(\d)\.": r"stages.\1.norm_all.",
    r"^invpt\.redu_chan\.(\d)\.": r"stages.\1.widen.",
    r"^invpt\.mt_proj\.": "heads.",
    r"^heads\.(\w+)\.linear_pred\.": r"heads.\1.3.",
    r"^invpt\.invpt_stages\.": "stages.",
    r"\.blocks\.0\.": ".",
    r"\.patch_embed\.(\w+)\.proj\.1\.": r".up.\1.0.",
    r"\.patch_embed\.(\w+)\.proj\.2\.": r".up.\1.1.",
    r"\.patch_embed\.(\w+)\.proj\.4\.": r".up.\1.3.",
    r"\.patch_embed\.(\w+)\.proj\.5\.": r".up.\1.4.",
    r"\.attn\.conv_proj_q\.(\w+)\.conv\.": r".attention.reduce.\1.0.",
    r"\.attn\.conv_proj_q\.(\w+)\.bn\.": r".attention.reduce.\1.1.",
    r"\.attn\.proj_q\.": ".attention.query.",
    r"\.attn\.proj_k\.": ".attention.key.",
    r"\.attn\.proj_v\.": ".attention.value.",
    r"\.attn\.proj\.": ".attention.out.",
    r"\.attn\.fuse_attn\.": ".attention.mix.",
}
"""Their names behind the backbone, without `DECODER`, to ours; every pattern in turn."""
INDEXED = r"(patch_embed|conv_proj_q|redu_chan\.\d)\.(\d+)\."
"""Names where their code counts the tasks."""
REASONS = {
    r"multi_task_decoder\.scale_embed\.2\.": "a skip to the first stage, which no code reads",
    r"multi_task_decoder\.invpt\.norm_mt\.": "a norm that no code reads",
    r"multi_task_decoder\.invpt\.redu_chan\.0\.": "the first stage is not widened",
    r".*invpt_stages\.0\.blocks\.0\.attn\.fuse_attn\.": "the first stage has no scores before it",
}


def recognises(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are weights of InvPT's public code."""
    return any(key.startswith(f"{DECODER}invpt.") for key in tensors) and bool(_channels(tensors))


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
    stripped = {
        k.removeprefix("backbone."): t for k, t in tensors.items() if k.startswith("backbone.")
    }
    config, size = _describe(path, tensors, stripped, source)
    config |= {**settings, "plain": config["plain"] | settings.get("plain", {})}
    network: Any = models.find("invpt").Model(network_config("invpt", config), specs)
    state, of_backbone = translate(network.backbone, stripped)
    state = {f"backbone.{key}": tensor for key, tensor in state.items()}
    fates = [Fate(f"backbone.{fate.key}", fate.became, fate.why) for fate in of_backbone]
    renamed = {k: _own_name(k, list(specs)) for k in tensors if not k.startswith("backbone.")}
    placed, rest = place_renamed(network.state_dict(), tensors, renamed, REASONS)
    state |= placed
    fates += rest
    refuse_unexplained(path, fates)
    load_strictly(network, state, path, f"invpt with {config['backbone']}")
    notes = [prove(network.backbone, stripped, of_backbone, path)]
    return Imported("invpt", network.eval(), config, specs, fates, source, size, notes=notes)


def _channels(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Their tasks in order, with logit channels."""
    pattern = rf"{re.escape(DECODER)}intermediate_head\.(\w+)\.weight$"
    return {
        match[1]: tensor.shape[0]
        for key, tensor in tensors.items()
        if (match := re.match(pattern, key))
    }


def _describe(
    path: Path,
    tensors: Mapping[str, Tensor],
    backbone: Mapping[str, Tensor],
    source: str,
) -> tuple[dict[str, Any], tuple[int, int]]:
    """Settings of the model and its input size, read off the weights."""
    kind = kind_of(backbone)
    if not kind.startswith("vit_"):
        raise CheckpointError(
            f"{path}: backbone not recognised from {len(backbone)} keys"
            f"{f', which are of {kind}' if kind else ''}; expected a plain vision transformer of "
            f"timm's sizes under backbone.*"
        )
    first = next(iter(_channels(tensors)))
    size = image_size(backbone["pos_embed"].shape[1] - 1, SIZES[source])
    plain = {"last_norm": True, "table_resize": "plain", "table_side": size}
    config = {
        "backbone": f"{kind}_384",
        "plain": plain,
        "features": need(path, tensors, f"{DECODER}intermediate_head.{first}.weight").shape[1],
        "dim": need(path, tensors, f"{DECODER}invpt.mix_proj.{first}.0.weight").shape[0],
    }
    return config, size


def _own_name(key: str, names: list[str]) -> str:
    """Return what our network calls the weight that their code calls `key`."""
    name = key.removeprefix(DECODER)
    for theirs, ours in TASKS.items():
        name = name.replace(f".{theirs}.", f".{ours}.")
    name = re.sub(INDEXED, lambda match: f"{match[1]}.{names[int(match[2])]}.", name)
    for pattern, place in RENAMES.items():
        name = re.sub(pattern, place, name)
    return name

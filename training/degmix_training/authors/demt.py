"""Lightning checkpoints of DeMT, DeMTG and DeGMix. The backbone may be Swin, HRNet or ViT.

The number of heads is not in the weights: it is the published one, unless settings say otherwise.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from degmix_edge.errors import CheckpointError
from degmix_training import models
from degmix_training.authors._base import TASKS, Imported, data_and_specs
from degmix_training.backbone import PLAIN_STRIDE
from degmix_training.config import network_config
from degmix_training.pretrained import (
    Fate,
    kind_of,
    load_strictly,
    prove,
    refuse_unexplained,
    translate,
)

KEYS = "head.defor_mixers.*, head.task_fusion.* and head.final_logits.*"
VIT_EPSILON = 1e-5
"""Of the LayerNorms in the public code's ViT, where timm has 1e-6."""
FUSION = "attention over a sequence of one: query and key have no effect"
REASONS = {
    r"(criterion|metrics_dict)\.": "of the training program",
    r"head\.defor_mixers\..*\.offset$": "a shift pattern that no code reads",
    r"head\..*num_batches_tracked$": "counter of batches",
}


def recognises(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are weights of the family."""
    mixers = any(re.match(r"head\.defor_mixers\.0\.blocks\.\d+\.", key) for key in tensors)
    return mixers and "head.task_fusion.out_proj.weight" in tensors and bool(_heads(tensors))


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
    model, config = _describe(path, tensors)
    config |= settings
    source, specs = data_and_specs(path, _heads(tensors), classes)
    network: Any = models.find(model).Model(network_config(model, config), specs)
    backbone_keys = {k: t for k, t in tensors.items() if k.startswith("backbone.")}
    stripped = {k.removeprefix("backbone."): t for k, t in backbone_keys.items()}
    state, fates = translate(network.backbone, stripped)
    state = {f"backbone.{key}": tensor for key, tensor in state.items()}
    of_backbone = fates
    fates = [Fate(f"backbone.{f.key}", f.became, f.why) for f in fates]
    placed, rest = _place_head(tensors, model, list(specs), config["mixer_order"])
    state |= placed
    fates += rest
    refuse_unexplained(path, fates)
    for name, tensor in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            state.setdefault(name, tensor)
    load_strictly(network, state, path, f"{model} with {config['backbone']}")
    notes = [
        prove(network.backbone, stripped, of_backbone, path),
        f"mixer order: {config['mixer_order'].replace('_', ' ')}",
        f"heads ({config.get('num_heads', 'published')}) are assumed",
    ]
    return Imported(model, network.eval(), config, specs, fates, source, notes=notes)


def _place_head(
    tensors: Mapping[str, Tensor], model: str, names: list[str], order: str
) -> tuple[dict[str, Tensor], list[Fate]]:
    """Our weights for everything behind the backbone, and what became of each key there."""
    state: dict[str, Tensor] = {}
    fates = []
    for key, tensor in tensors.items():
        if key.startswith("backbone."):
            continue
        placed = _place(key, tensor, model, names, order)
        state |= placed
        reasons = [why for pattern, why in REASONS.items() if re.match(pattern, key)]
        if model == "degmix" and key.startswith("head.linear1."):
            reasons.append("the reduction that the patch embedding replaced; no code reads it")
        why = reasons[0] if reasons and not placed else ""
        if placed and key.endswith(("in_proj_weight", "in_proj_bias")):
            why = FUSION if "task_fusion" in key else _key_bias(key)
        fates.append(Fate(key, ", ".join(placed), why))
    return state, fates


def _key_bias(key: str) -> str:
    return "the keys' bias has no effect under softmax" if key.endswith("bias") else ""


def _describe(path: Path, tensors: Mapping[str, Tensor]) -> tuple[str, dict[str, Any]]:
    """The model and its settings, read off the weights."""
    blocks = [m for k in tensors if (m := re.match(r"head\.defor_mixers\.0\.blocks\.(\d+)\.", k))]
    gated = any(key.startswith("head.gmlps.") for key in tensors)
    patch = tensors.get("head.patch_embed.projection.weight")
    # The ViT has no patch embedding, and DeGMix's query has a norm in front of each projection.
    is_degmix = patch is not None or "head.task_querys.0.norm_q.weight" in tensors
    model = "degmix" if is_degmix else "demtg" if gated else "demt"
    first = next(iter(_heads(tensors)))
    config: dict[str, Any] = {
        **_backbone(path, tensors),
        "dim": tensors["head.task_fusion.out_proj.weight"].shape[0],
        "depth": 1 + max(int(match[1]) for match in blocks),
        "head_channels": tensors[f"head.bottleneck.{first}.conv.weight"].shape[0],
        "mixer_order": (
            "deform_first"
            if any(k.startswith("head.defor_mixers.0.blocks.0.0.fn.") for k in tensors)
            else "mix_first"
        ),
    }
    if patch is not None:
        config["patch_size"] = patch.shape[-1]
    return model, config


def _heads(tensors: Mapping[str, Tensor]) -> dict[str, int]:
    """Their tasks in order, with logit channels."""
    found = {}
    for key, tensor in tensors.items():
        if match := re.match(r"head\.final_logits\.(\w+)\.weight$", key):
            found[match[1]] = tensor.shape[0]
    return found


def _backbone(path: Path, tensors: Mapping[str, Tensor]) -> dict[str, Any]:
    """The backbone's settings, read off its weights."""
    own = {k.removeprefix("backbone."): t for k, t in tensors.items() if k.startswith("backbone.")}
    kind = kind_of(own)
    name = f"{kind}_224" if kind.startswith("vit_") else kind
    if " " in kind or not kind.startswith(("swin_", "hrnet_", "vit_")):
        raise CheckpointError(
            f"{path}: backbone not recognised from {len(own)} keys"
            f"{f', which are of {kind}' if kind else ''} ({', '.join(list(own)[:2]) or 'none'}); "
            f"expected mmsegmentation's Swin T/S/B/L, HRNetV2 or ViT under backbone.*"
        )
    if not kind.startswith("vit_"):
        return {"backbone": name}
    side = math.isqrt(own["pos_embed"].shape[1] - 1) * PLAIN_STRIDE
    plain = {"table_side": side, "table_resize": "plain", "epsilon": VIT_EPSILON}
    return {"backbone": name, "plain": plain}


def _place(key: str, tensor: Tensor, model: str, names: list[str], order: str) -> dict[str, Tensor]:
    """Our weights that a key of their head fills; empty where none."""
    parts = key.split(".")
    if parts[0] != "head" or len(parts) < 3:
        return {}
    kind, rest = parts[1], ".".join(parts[2:])
    leaf = parts[-1]
    if kind == "linear1" and model != "degmix":
        if parts[2] == "0":
            return {f"embed.{leaf}": tensor[..., None, None] if leaf == "weight" else tensor}
        return {f"embed_norm.{leaf}": tensor}
    if kind == "featconv":
        branch = re.fullmatch(r"head([2-6])", parts[2])
        if branch is None or leaf == "num_batches_tracked":
            return {}
        place = "join" if branch[1] == "6" else f"scales.{int(branch[1]) - 2}"
        return {f"embed.{place}.{'.'.join(parts[3:])}": tensor}
    if kind == "patch_embed":
        place = {"projection": "embed", "norm": "embed_norm"}.get(parts[2])
        return {f"{place}.{leaf}": tensor} if place else {}
    if kind == "defor_mixers":
        return _place_mixer(rest, tensor, names, order)
    if kind == "task_fusion":
        if parts[2] == "out_proj":
            return {f"interact.1.{leaf}": tensor}
        return {f"interact.0.{rest.removeprefix('in_proj_')}": tensor.chunk(3)[2]}
    if kind == "smlp":
        return {f"interact.{2 + int(parts[2])}.{leaf}": tensor}
    if kind == "smlp2":
        return {
            f"queries.{names[int(parts[2])]}.{('out', 'out_norm')[int(parts[3])]}.{leaf}": tensor
        }
    if kind == "task_querys":
        return _place_query(f"queries.{names[int(parts[2])]}", parts[3:], tensor)
    if kind == "gmlps":
        return _place_gate(rest, leaf, tensor)
    if kind in ("bottleneck", "final_logits"):
        head = f"heads.{TASKS.get(parts[2], parts[2])}"
        if leaf == "num_batches_tracked":
            return {}
        place = {"conv": 0, "bn": 1}.get(parts[3]) if kind == "bottleneck" else 3
        return {} if place is None else {f"{head}.{place}.{leaf}": tensor}
    return {}


def _place_mixer(rest: str, tensor: Tensor, names: list[str], order: str) -> dict[str, Tensor]:
    match = re.match(r"(\d+)\.blocks\.(\d+)\.(.+)\.(\w+)$", rest)
    if not match or match[4] == "num_batches_tracked":
        return {}
    inner = {"0": "mix", "2": "mix_norm", "3.fn": "deform"}
    if order == "deform_first":
        inner = {"1": "mix", "3": "mix_norm", "0.fn": "deform"}
    place = inner.get(match[3])
    if place is None:
        stem = next((k for k, v in inner.items() if v == "deform"), "")
        place = {
            f"{stem}.0": "deform",
            f"{stem}.2": "deform_norm",
            f"{stem}.0.get_offset.p_conv": "offset.to_taps",
            f"{stem}.0.get_offset.opt": "offset.to_offset",
        }.get(match[3])
    if place is None or (place == "deform" and match[4] == "offset"):
        return {}
    return {f"mixers.{names[int(match[1])]}.{match[2]}.{place}.{match[4]}": tensor}


def _place_query(place: str, parts: list[str], tensor: Tensor) -> dict[str, Tensor]:
    if parts[0] == "in_proj_weight":
        q, k, v = tensor.chunk(3)
        return {f"{place}.to_{x}.weight": t for x, t in (("q", q), ("k", k), ("v", v))}
    if parts[0] == "in_proj_bias":
        q, _, v = tensor.chunk(3)
        return {f"{place}.to_q.bias": q, f"{place}.to_v.bias": v}
    if parts[0] in ("out_proj", "proj"):
        return {f"{place}.project.{parts[1]}": tensor}
    if re.fullmatch(r"(norm|to)_[qkv]", parts[0]):
        return {f"{place}.{parts[0]}.{parts[1]}": tensor}
    return {}


def _place_gate(rest: str, leaf: str, tensor: Tensor) -> dict[str, Tensor]:
    place = {
        "gating.0.fn.ln1_0": "norm",
        "gating.0.fn.fc1_0": "expand",
        "gating.0.fn.sgu_0.ln": "gate_norm",
        "gating.0.fn.sgu_0.proj": "gate",
        "gating.0.fn.fc2_0": "contract",
    }.get(rest.rpartition(".")[0])
    if place is None:
        return {}
    return {f"gate.{place}.{leaf}": tensor[..., 0] if tensor.ndim == 3 else tensor}

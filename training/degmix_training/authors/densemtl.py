"""State dicts of DenseMTL's public code, and the weights released with it.

Two things are not in such a file:

- The last batch norm of an exchange reads the other tasks' features concatenated in the order in
  which a Python set gave them, which is another one in each process. With three tasks or more the
  order is read off the statistics: what the concatenated features are on average is in their own
  batch norms, and only one order explains the mean that the next batch norm has seen.
- Whether the last stage of the backbone dilates: it does where it can, as in the public configs.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from degmix_edge.errors import CheckpointError
from degmix_training import data, models
from degmix_training.authors._base import Imported, task_spec
from degmix_training.config import network_config
from degmix_training.data.cityscapes import CLASSES as CITYSCAPES
from degmix_training.pretrained import Fate, load_strictly, prove, refuse_unexplained, translate

KEYS = "heads.*.decoder.* and m.*.SxTAM_*"
MEAN = (0.45, 0.45, 0.45)
STD = (0.225, 0.225, 0.225)
TASKS = {"edges": "edge"}
"""Their names where they are not ours."""
RESNETS = {
    ((2, 2, 2, 2), False): 18,
    ((3, 4, 6, 3), False): 34,
    ((3, 4, 6, 3), True): 50,
    ((3, 4, 23, 3), True): 101,
    ((3, 8, 36, 3), True): 152,
}
"""Depth by blocks of the four stages, and whether blocks are bottlenecks."""
DOWN = {4: 1, 3: 1, 2: 2, 1: 4, 0: 8}
"""By level of the exchange: how much coarser its attention is."""
VKITTI = (
    "terrain sky tree vegetation building road guard_rail traffic_sign traffic_light pole misc "
    "truck car van"
)
CLASSES = {
    # Cityscapes and Synthia share them.
    16: tuple(name for name in CITYSCAPES if name not in ("terrain", "truck", "train")),
    14: tuple(VKITTI.split()),
    40: data.find("nyud").DataSet.classes["semseg"],
}
SIZES = {16: (512, 1024), 14: (320, 1024), 40: (448, 576)}
"""That the public configs train at, by classes."""
CLEAR = 0.7
"""An order is told where its error is below this share of the next one's."""
EPSILON = 1e-5
REASONS = {
    r"params\.": "the same weights again, listed by task",
    r".*num_batches_tracked$": "counter of batches",
}


def recognises(tensors: Mapping[str, Tensor]) -> bool:
    """Whether these are weights of DenseMTL's public code."""
    return any(re.match(r"m\.\w+\.\d\.SxTAM_", key) for key in tensors)


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
        classes: Class names by task; None is those of the data set with that many classes.
        settings: Settings of the model that override what was found.

    Raises:
        CheckpointError: A key is unexplained, missing or of another shape.
    """
    channels, level = _channels_and_level(path, tensors)
    config = _describe(path, tensors, level) | settings
    seen = channels.get("semseg", 0)
    known = {"semseg": CLASSES.get(seen, ())}
    if classes is not None and len(classes.get("semseg", ())) == seen:
        known = {"semseg": classes["semseg"]}
    # An edge of two classes is one logit, the difference.
    specs = {
        (name := TASKS.get(task, task)): task_spec(
            path, name, count - 1 if name == "edge" else count, known
        )
        for task, count in channels.items()
    }
    network: Any = models.find("densemtl").Model(network_config("densemtl", config), specs)
    stripped = {
        key.removeprefix("backbone.encoder."): tensor
        for key, tensor in tensors.items()
        if key.startswith("backbone.encoder.")
    }
    state, fates = translate(network.backbone, stripped)
    orders = {task: _source_order(tensors, task, list(channels), level) for task in channels}
    placed, of_heads = _place_all(tensors, orders)
    state = {f"backbone.{key}": tensor for key, tensor in state.items()} | placed
    theirs = [Fate(f"backbone.encoder.{f.key}", f.became, f.why) for f in fates] + of_heads
    refuse_unexplained(path, theirs)
    for name, tensor in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            state.setdefault(name, tensor)
    load_strictly(network, state, path, f"densemtl with {config['backbone']}")
    proof = prove(network.backbone, stripped, fates, path)
    return Imported(
        "densemtl",
        network.eval(),
        config,
        specs,
        theirs,
        data="nyud" if seen == 40 else "folder",
        size=SIZES.get(seen),
        mean=MEAN,
        std=STD,
        notes=[proof, *_notes(specs, config, orders)],
    )


def _channels_and_level(path: Path, tensors: Mapping[str, Tensor]) -> tuple[dict[str, int], int]:
    """Output channels by task, in order, and the level at which tasks exchange features."""
    channels = {
        match[1]: tensor.shape[0]
        for key, tensor in tensors.items()
        if (match := re.match(r"heads\.(\w+)\.decoder\.14\.weight$", key))
    }
    levels = {int(m[1]) for k in tensors if (m := re.match(r"m\.\w+?\.(\d)\.", k))}
    if len(channels) < 2 or len(levels) != 1:
        raise CheckpointError(
            f"{path}: DenseMTL with {len(channels)} tasks that exchange at {len(levels)} levels "
            f"({', '.join(map(str, sorted(levels)))}), expected at least two tasks and one level"
        )
    return channels, levels.pop()


def _place_all(
    tensors: Mapping[str, Tensor], orders: Mapping[str, Order]
) -> tuple[dict[str, Tensor], list[Fate]]:
    """Our tensors for everything behind the backbone, and the fate of each key there."""
    state: dict[str, Tensor] = {}
    fates = []
    for key, tensor in tensors.items():
        if key.startswith("backbone.encoder."):
            continue
        placed = _place(key, tensor, tensors, orders)
        state |= placed
        reasons = [why for pattern, why in REASONS.items() if re.match(pattern, key)]
        if re.match(r"heads\.\w+\.decoder\.0\.convs\.4\.2\.", key) and not reasons:
            reasons = ["folded into the convolution before it"]
        fates.append(Fate(key, ", ".join(placed), "" if placed or not reasons else reasons[0]))
    return state, fates


def _notes(
    specs: Mapping[str, Any], config: Mapping[str, Any], orders: Mapping[str, Order]
) -> list[str]:
    dilated = "dilates, as published" if config["dilated"] else "does not dilate"
    notes = [f"assumed: the backbone's last stage {dilated} (--set dilated=...)"]
    notes += [order.words(task) for task, order in orders.items() if order.others]
    if "depth" in specs:
        notes.append("depth: given as 65536 / (cm + 1), turned to metres in the network")
    if "normals" in specs:
        notes.append("normals: in the frame of their labels; look at one image before using them")
    return notes


def _describe(path: Path, tensors: Mapping[str, Tensor], level: int) -> dict[str, Any]:
    """Settings of the model, read off the weights."""
    stages = tuple(
        1
        + max(
            (int(m[1]) for k in tensors if (m := re.match(_stage(stage), k))),
            default=-1,
        )
        for stage in (1, 2, 3, 4)
    )
    bottleneck = "backbone.encoder.layer1.0.conv3.weight" in tensors
    depth = RESNETS.get((stages, bottleneck))
    if depth is None:
        raise CheckpointError(
            f"{path}: backbone not recognised: stages of {stages} blocks under backbone.encoder., "
            f"expected a ResNet of {', '.join(str(d) for d in RESNETS.values())} layers"
        )
    task = next(m[1] for k in tensors if (m := re.match(r"heads\.(\w+)\.decoder\.13\.", k)))
    second = [f"heads.{task}.decoder.{place}.block.0.conv.weight" for place in (13, 11, 8, 5, 2)]
    if missing := [key for key in second if key not in tensors]:
        raise CheckpointError(f"{path}: a decoder without {', '.join(missing)}, expected five")
    return {
        "backbone": f"resnet{depth}",
        "dilated": bottleneck,  # the public code's ResNets dilate bottlenecks only
        "widths": tuple(tensors[key].shape[0] for key in second),
        "exchange": level,
        "down": DOWN[level],
        "pads": "reflect",
        "depth": "inverse",
    }


def _stage(stage: int) -> str:
    return rf"backbone\.encoder\.layer{stage}\.(\d+)\."


@dataclass(frozen=True)
class Order:
    """In which order a task's last product of the exchange reads the other tasks.

    Attributes:
        ours: The tasks in the network's order.
        others: The tasks in the file's order; empty where there is one.
        error, next: Relative error of the explained mean, with it and with the next best order.
    """

    ours: tuple[str, ...]
    others: tuple[str, ...] = ()
    error: float = 0.0
    next: float = 0.0

    def words(self, task: str) -> str:
        """Say for a user what was found."""
        told = "told" if self.error <= CLEAR * self.next else "NOT told clearly"
        return (
            f"{task}: sources {', '.join(self.others)}, {told} by batch-norm statistics (error "
            f"{self.error:.2f}, the next order {self.next:.2f})"
        )

    def sort(self, weight: Tensor) -> Tensor:
        """`(C, sources * C, 1, 1)` from the file's order to ours."""
        if not self.others:
            return weight
        blocks = dict(zip(self.others, weight.chunk(len(self.others), dim=1), strict=True))
        return torch.cat([blocks[task] for task in self.ours], dim=1)


def _source_order(
    tensors: Mapping[str, Tensor], task: str, names: Sequence[str], level: int
) -> Order:
    """The order of `task`'s sources; see the module's text."""
    ours = tuple(name for name in names if name != task)
    prefix = f"m.{task}.{level}"
    weight, seen = (
        tensors.get(f"{prefix}.post.0.weight"),
        tensors.get(f"{prefix}.post.1.running_mean"),
    )
    norms = [f"{prefix}.proj_{source}.1" for source in ours]
    has_all = all(f"{n}.{leaf}" in tensors for n in norms for leaf in ("weight", "bias"))
    if len(ours) < 2 or weight is None or seen is None or not has_all:
        return Order(ours)  # a missing weight is refused later, by its name
    means = {
        source: _mean_behind_relu(tensors[f"{n}.weight"], tensors[f"{n}.bias"])
        for source, n in zip(ours, norms, strict=True)
    }
    blocks = weight.flatten(1).chunk(len(ours), dim=1)
    errors = {}
    for others in itertools.permutations(ours):
        explained = torch.stack(
            [block @ means[source] for block, source in zip(blocks, others, strict=True)]
        ).sum(0)
        errors[others] = float((explained - seen).norm() / seen.norm().clamp(min=1e-12))
    best, second, *_ = sorted(errors, key=lambda others: errors[others])
    return Order(ours, best, errors[best], errors[second])


def _mean_behind_relu(scale: Tensor, shift: Tensor) -> Tensor:
    """Mean of `max(0, scale * z + shift)` for a standard normal z."""
    width = scale.abs().clamp(min=1e-12)
    normal = torch.distributions.Normal(0.0, 1.0)
    ratio = shift / width
    return shift * normal.cdf(ratio) + width * normal.log_prob(ratio).exp()


def _place(
    key: str, tensor: Tensor, tensors: Mapping[str, Tensor], orders: Mapping[str, Order]
) -> dict[str, Tensor]:
    """Our weights that a key of their heads or exchange fills; empty where none."""
    if key.endswith("num_batches_tracked"):
        return {}
    if match := re.match(r"heads\.(\w+)\.decoder\.(\d+)\.(.+)$", key):
        return _place_decoder(match[1], int(match[2]), match[3], tensor, tensors)
    if match := re.match(r"m\.(\w+)\.\d\.(.+)$", key):
        return _place_exchange(match[1], match[2], tensor, orders)
    return {}


def _place_decoder(
    task: str, place: int, rest: str, tensor: Tensor, tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Modules 0 to 13 are the levels from coarse to fine, three each; two predictions follow."""
    name = TASKS.get(task, task)
    if place in (14, 15):
        if name == "edge":
            tensor = tensor[1:] - tensor[:1]
        return {f"{('heads', 'side')[place - 14]}.{name}.{rest}": tensor}
    if place == 0:
        return _place_pool(f"decoders.{name}.pool", f"heads.{task}.decoder.0", rest, tensors)
    block, leaf = rest.rpartition(".")[::2]
    if block != "block.0.conv" or place > 13:
        return {}
    # The last level has no skip, and so no place between its two blocks.
    index, part = (4, place - 12) if place >= 12 else divmod(place, 3)
    return {f"decoders.{name}.{'second' if part else 'first'}.{index}.0.{leaf}": tensor}


def _place_pool(
    ours: str, theirs: str, rest: str, tensors: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    tensor = tensors[f"{theirs}.{rest}"]
    if match := re.match(r"convs\.([0-3])\.([01]\.\w+)$", rest):
        return {f"{ours}.branches.{match[1]}.{match[2]}": tensor}
    if match := re.match(r"project\.([01]\.\w+)$", rest):
        return {f"{ours}.project.{match[1]}": tensor}
    if rest != "convs.4.1.weight":
        return {}
    norm = {
        leaf: tensors.get(f"{theirs}.convs.4.2.{leaf}")
        for leaf in ("weight", "bias", "running_mean", "running_var")
    }
    if any(value is None for value in norm.values()):
        return {}  # refused later, as a weight without a place
    scale = norm["weight"] / (norm["running_var"] + EPSILON).sqrt()  # type: ignore[operator]
    return {
        f"{ours}.pool.0.weight": tensor * scale[:, None, None, None],
        f"{ours}.pool.0.bias": norm["bias"] - norm["running_mean"] * scale,  # type: ignore[operator]
    }


def _place_exchange(
    task: str, rest: str, tensor: Tensor, orders: Mapping[str, Order]
) -> dict[str, Tensor]:
    name = TASKS.get(task, task)
    if match := re.match(r"post\.([01])\.(\w+)$", rest):
        if match[1] == "0":
            tensor = orders[task].sort(tensor)
        return {f"exchange.merge.{name}.{match[1]}.{match[2]}": tensor}
    match = re.match(r"(extract|SA|SxTAM|proj)_([a-z]+)\.(.+)$", rest)
    if match is None:
        return {}
    kind, source, leaf = match[1], TASKS.get(match[2], match[2]), match[3]
    pair = f"exchange.pairs.{name}.{source}"
    stems = {
        "extract": {"0": "extract.0"},
        "SA": {"conv": "message", "attention.0": "attention"},
        "proj": {"0": "join.0", "1": "join.1"},
        "SxTAM": {
            f"conv_{letter}.{index}": f"{ours}.{index}"
            for letter, ours in (("b", "query"), ("c", "key"), ("d", "value"))
            for index in (0, 1)
        },
    }[kind]
    if (kind, leaf) == ("SxTAM", "alpha"):
        return {f"{pair}.alpha": tensor}
    stem, _, weight = leaf.rpartition(".")
    return {f"{pair}.{stems[stem]}.{weight}": tensor} if stem in stems else {}

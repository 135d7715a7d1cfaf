"""A model by names: its size, its tasks with a data set's classes, random weights, its cost."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from degmix_edge import config
from degmix_edge.report.text import Readable, TextTable

if TYPE_CHECKING:
    from degmix_training.checkpoint import Checkpoint
    from degmix_training.cost import Cost

PREFERRED = ("nyud", "pascal_context", "cityscapes", "synthetic")
"""Data sets in the order in which they are tried where none is named.

Published ones come first, in the order of the family's papers. All others follow, so that a package
that adds a data set changes no result.
"""


def parse_size(text: str) -> tuple[int, int]:
    """`448x672` as height and width.

    Raises:
        ConfigError: It is no such text.
    """
    from degmix_edge.errors import ConfigError

    height, _, width = text.lower().partition("x")
    if not (height.isdigit() and width.isdigit() and int(height) and int(width)):
        raise ConfigError(f"--size {text}: expected HEIGHTxWIDTH in pixels, as in 425x560")
    return int(height), int(width)


def specs(names: Sequence[str], data: str | None) -> tuple[str, dict[str, Any]]:
    """The tasks with the classes of `data`, or of the first data set that has them all.

    Raises:
        ConfigError: There is no such task or data set, its class names are not known without its
            folder, or no data set has labels for all the tasks.
    """
    from degmix_training import data as data_sets

    from degmix_edge import tasks
    from degmix_edge.errors import ConfigError

    for name in names:
        tasks.find(name)
    known = _classes()
    if data is not None and data not in known:
        data_sets.find(data)
        raise ConfigError(
            f"data set {data!r}: its class names are in its folder; expected one that always has "
            f"the same: {', '.join(known)}"
        )
    fitting = [
        d for d, classes in known.items() if data in (None, d) and set(names) <= set(classes)
    ]
    if not fitting:
        have = "; ".join(f"{name}: {', '.join(classes)}" for name, classes in known.items())
        raise ConfigError(f"no data set has labels for {', '.join(names)} together. {have}")
    classes = known[fitting[0]]
    return fitting[0], {name: tasks.find(name).spec(classes[name]) for name in names or classes}


def _classes() -> dict[str, Mapping[str, tuple[str, ...]]]:
    """Class names by task, by data set, of every data set that has them without its folder."""
    from degmix_training import data as data_sets

    from degmix_edge import registry

    found = {
        name: module.DataSet.classes
        for name, module in registry.modules(data_sets.__name__)
        if isinstance(getattr(module.DataSet, "classes", None), Mapping)
    }
    first = [name for name in PREFERRED if name in found]
    return {name: found[name] for name in (*first, *(n for n in found if n not in first))}


def random_checkpoint(
    model: str,
    size: tuple[int, int],
    *,
    tasks: Sequence[str] = (),
    backbone: str | None = None,
    data: str | None = None,
    overrides: Sequence[str] = (),
    seed: int = 0,
) -> Checkpoint:
    """A model with random weights as a checkpoint that is on no disk.

    Args:
        model: Entry of `degmix_training.models`.
        size: Height and width of its input in pixels.
        tasks: Its tasks; none is all of the data set's.
        backbone: Its backbone by timm name.
        data: The data set whose classes it has.
        overrides: Other model settings, as `a=value`.
        seed: Seed of the weights.

    Raises:
        ConfigError: No such model, or settings that do not fit it.
    """
    from degmix_training.untrained import untrained

    network = config.override({"backbone": backbone} if backbone else {}, overrides)
    return untrained(model, network, specs(tasks, data)[1], size, seed)


@dataclass(frozen=True)
class ModelCost(Readable):
    """What a model costs.

    Attributes:
        model: Entry of `degmix_training.models`.
        network: Its settings.
        height, width: Size of its input in pixels.
        data: The data set whose classes it has.
        tasks: Channels by task.
        trained: Parameters and multiply-adds of the network as it is trained.
        exported: The same of the network that export makes of it.
    """

    model: str
    network: Any
    height: int
    width: int
    data: str
    tasks: dict[str, int]
    trained: Cost
    exported: Cost

    def text(self) -> Iterator[str | TextTable]:
        """Yield parameters and multiply-adds, trained and exported."""
        pair = (self.trained, self.exported)
        rows = [["parameters M", *(f"{c.params / 1e6:.3f}" for c in pair)]]
        for part in ("total", *self.trained.macs_of):
            macs = [c.macs_of.get(part, c.macs) for c in pair]
            rows.append([f"GMAC {part}", *(f"{m / 1e9:.2f}" for m in macs)])
        size, names = f"{self.height}x{self.width}", ", ".join(self.tasks)
        title = f"{self.model}, {size}, {names} with the classes of {self.data}"
        yield TextTable(title, ["", "trained", "exported"], rows)
        yield "GMAC: billions of multiply-adds an image, attention and deformable ones included"

    def values(self) -> dict[str, Any]:
        """The cost as plain values."""
        names = ("model", "network", "height", "width", "data", "tasks")
        values = {name: getattr(self, name) for name in names}
        values |= {name: getattr(self.trained, name) for name in ("params", "macs", "macs_of")}
        return values | {"exported": self.exported}


def model_cost(
    model: str,
    size: tuple[int, int],
    *,
    tasks: Sequence[str] = (),
    backbone: str | None = None,
    data: str | None = None,
    overrides: Sequence[str] = (),
) -> ModelCost:
    """Parameters and multiply-adds of one image, counted without memory or arithmetic.

    Args:
        model: Entry of `degmix_training.models`.
        size: Height and width of its input in pixels.
        tasks: Its tasks; none is all of the data set's.
        backbone: Its backbone by timm name.
        data: The data set whose classes it has.
        overrides: Other model settings, as `a=value`.

    Raises:
        ConfigError: No such model, or settings that do not fit it.
    """
    import torch
    from degmix_training import cost, models
    from degmix_training.config import network_config

    values = config.override({"backbone": backbone} if backbone else {}, overrides)
    found = models.find(model)
    settings = network_config(model, values, size)
    data, task_specs = specs(tasks, data)
    with torch.device("meta"):
        network = found.Model(settings, task_specs)
        folded = network.fold_for_inference()
    return ModelCost(
        model,
        settings,
        *size,
        data,
        {name: spec.num_channels for name, spec in task_specs.items()},
        cost.count(network, *size),
        cost.count(folded, *size),
    )

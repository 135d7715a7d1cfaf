"""A checkpoint that a network's authors released, as one of ours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from degmix_edge import config
from degmix_edge.errors import ConfigError
from degmix_edge.files import check_file
from degmix_edge.report.text import Readable, TextTable

if TYPE_CHECKING:
    from degmix_training.authors import Imported
    from degmix_training.checkpoint import Card
    from degmix_training.pretrained import Fate

SIZES = {"nyud": (425, 560), "pascal_context": (512, 512)}
"""Input sizes that the DeMT family was published at, by data set."""


@dataclass(frozen=True)
class Converted(Readable):
    """A converted checkpoint.

    Attributes:
        path: The file that was written.
        model: Entry of `degmix_training.models`.
        network: Its settings, read off the weights.
        tasks: Names of its tasks.
        size: Height and width of its input in pixels.
        notes: What is not in the weights and was assumed.
        fates: What became of every key of the file.
    """

    path: Path
    model: str
    network: dict[str, Any]
    tasks: list[str]
    size: tuple[int, int]
    notes: Sequence[str]
    fates: Sequence[Fate]

    def text(self) -> Iterator[str]:
        """Yield what the network is, and what was used, left out and assumed."""
        used = sum(bool(fate.became) for fate in self.fates)
        yield f"{self.model} on {self.network['backbone']}, tasks {', '.join(self.tasks)}"
        yield f"{used} of {len(self.fates)} keys fill weights"
        for why, count in Counter(fate.why for fate in self.fates if fate.why).items():
            yield f"  {count} keys: {why}"
        yield from (f"  {note}" for note in self.notes)
        yield f"{self.path}: written, {self.size[0]}x{self.size[1]}"

    def key_table(self) -> TextTable:
        """What became of every key."""
        rows = [[fate.key, fate.became or "-", fate.why] for fate in self.fates]
        return TextTable(f"{len(rows)} keys", ["key", "became", "why"], rows)

    def values(self) -> dict[str, Any]:
        """The conversion as plain values."""
        names = ("model", "network", "tasks", "size", "notes", "fates")
        return {"checkpoint": self.path, **{name: getattr(self, name) for name in names}}


def convert(
    checkpoint: str | Path,
    out: str | Path,
    *,
    data: str | None = None,
    size: tuple[int, int] | None = None,
    overrides: Sequence[str] = (),
    force: bool = False,
) -> Converted:
    """Convert a checkpoint that a network's authors released.

    These are the authors of DeMT, DeMTG, DeGMix, DenseMTL, InvPT and TaskPrompter.

    It is strict: a key that nothing explains is an error. No code in the file is run.

    Args:
        checkpoint: The authors' file.
        out: The `.safetensors` file to write.
        data: The data set that it was trained on: class names, size.
        size: Height and width of the input, if they are not the data set's.
        overrides: Model settings that the weights do not show, as `a=value`.
        force: Replace a file that is at `out`.

    Raises:
        CheckpointError: It is no such file, or has keys that nothing explains.
        ConfigError: The input size is not known or not the network's, or a setting does not fit.
        OutputError: `out` exists without `force`, or cannot be written.
    """
    from degmix_training import checkpoint as checkpoints
    from degmix_training import data as data_sets
    from degmix_training.authors import import_checkpoint

    check_file(Path(out), force=force)
    # A folder's classes are the folder's own.
    classes = getattr(data_sets.find(data).DataSet, "classes", None) if data else None
    found = import_checkpoint(Path(checkpoint), classes, config.override({}, overrides))
    name = data or found.data
    if size and found.size and found.fixed_size and size != found.size:
        raise ConfigError(
            f"{checkpoint}: --size {size[0]}x{size[1]}, but this network is built for "
            f"{found.size[0]}x{found.size[1]}; leave --size out"
        )
    height, width = size or found.size or SIZES.get(name) or (0, 0)
    if not height:
        raise ConfigError(f"{checkpoint}: trained at a size that is not known; give --size HxW")
    card = _card(found, name, (height, width), Path(checkpoint).name)
    checkpoints.save(Path(out), found.network.state_dict(), card)
    return Converted(
        Path(out),
        found.model,
        found.config,
        list(found.tasks),
        (height, width),
        found.notes,
        found.fates,
    )


def _card(found: Imported, data: str, size: tuple[int, int], name: str) -> Card:
    from degmix_training.checkpoint import Card
    from degmix_training.config import TrainConfig

    height, width = size
    settings = TrainConfig(
        model=found.model,
        network=found.config,
        tasks=tuple(found.tasks),
        height=height,
        width=width,
        mean=found.mean,
        std=found.std,
        data={"name": data, "train": None, "val": None},
    )
    return Card(
        model=found.model,
        tasks=tuple(found.tasks.values()),
        height=height,
        width=width,
        config=settings,
        scores={},
        step=0,
        seed=0,
        commit="unknown",
        versions={"converted from": name},
    )

"""Importers of checkpoints that authors released, one file each: `recognises`, `read`.

An importer may also have `KEYS`, a text that says by which keys it recognises a checkpoint.

Strict: every key of a file either fills weights here, or has no effect on what the network computes
for one image, and its fate says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from degmix_edge import registry
from degmix_edge.errors import CheckpointError
from degmix_training.authors._base import Imported
from degmix_training.pretrained import read_weights

__all__ = ["Imported", "find", "import_checkpoint", "names"]


def names() -> list[str]:
    """Names of all importers."""
    return registry.names(__name__)


def find(name: str) -> ModuleType:
    """The module of importer `name`, which has `recognises` and `read`.

    Raises:
        ConfigError: There is no such importer; the message has the nearest name.
    """
    return registry.find(__name__, name)


def import_checkpoint(
    path: Path,
    classes: Mapping[str, tuple[str, ...]] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Imported:
    """Read a released checkpoint into the network that it describes.

    The first importer that recognises the weights reads them. Importers of other packages come
    after ours.

    Model, backbone, sizes, tasks and their order are read off the weights; what is not in them is
    the published value, unless `settings` says otherwise.

    Args:
        path: A PyTorch file, whatever its ending, or `.safetensors`.
        classes: Class names by task, of the data set it was trained on; None is those of the data
            set that the channels tell. A task whose count of names differs from the file's
            channels gets the published names of that count, or numbered classes.
        settings: Settings of the model's `Config` that override what was found.

    Raises:
        CheckpointError: No importer knows it, or a key is unexplained, missing or of another shape.
    """
    tensors = read_weights(path)
    expected = []
    for name, importer in registry.modules(__name__):
        if importer.recognises(tensors):
            found: Imported = importer.read(path, tensors, classes, settings or {})
            return found
        expected.append(f"{name} ({_about(importer)})")
    raise CheckpointError(
        f"{path}: none of the authors' checkpoints: got keys {', '.join(list(tensors)[:3])}, ...; "
        f"expected those of one that an importer recognises: {', '.join(expected)}"
    )


def _about(importer: ModuleType) -> str:
    summary = (importer.__doc__ or "no description").splitlines()[0].rstrip(".")
    keys = getattr(importer, "KEYS", "")
    return f"{summary}; keys {keys}" if keys else summary

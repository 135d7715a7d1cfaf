"""Importers of checkpoints that authors released, one file each: `recognises`, `read`.

Strict: every key of a file either fills weights here, or has no effect on what the network computes
for one image, and its fate says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from degmix_edge import registry
from degmix_edge.errors import CheckpointError
from degmix_training.authors._base import Imported
from degmix_training.pretrained import read_weights

__all__ = ["Imported", "import_checkpoint"]


def import_checkpoint(
    path: Path,
    classes: Mapping[str, tuple[str, ...]] | None = None,
    settings: Mapping[str, Any] | None = None,
) -> Imported:
    """Read a released checkpoint into the network that it describes.

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
    for name in registry.names(__name__):
        importer = registry.find(__name__, name)
        if importer.recognises(tensors):
            found: Imported = importer.read(path, tensors, classes, settings or {})
            return found
    raise CheckpointError(
        f"{path}: none of the authors' checkpoints: expected keys head.defor_mixers.*, "
        f"head.task_fusion.* and head.final_logits.* (DeMT, DeMTG, DeGMix), or heads.*.decoder.* "
        f"and m.*.SxTAM_* (DenseMTL); got {', '.join(list(tensors)[:3])}, ..."
    )

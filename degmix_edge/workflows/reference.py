"""The PyTorch network behind a bundle."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from degmix_edge.errors import CheckpointError

if TYPE_CHECKING:
    from degmix_training.checkpoint import Checkpoint

    from degmix_edge.bundle.contents import Bundle
    from degmix_edge.runtime import Session


def reference_session(
    bundle: Bundle, checkpoint: str | Path | None, threads: int | None = None
) -> Session:
    """A session on PyTorch FP32 with the checkpoint that `bundle` was built from.

    Args:
        bundle: Its manifest has the checkpoint's SHA-256.
        checkpoint: A file or short name; None looks among those that are shipped.
        threads: CPU threads of PyTorch, for the whole process.

    Raises:
        CheckpointError: It is another checkpoint, or none is known.
    """
    import torch

    from degmix_edge.backends.torch_eager import Backend
    from degmix_edge.runtime import Session

    loaded = source_checkpoint(bundle, checkpoint)
    if threads is not None:
        torch.set_num_threads(threads)
    backend = Backend(bundle.manifest.network, loaded.network, raw_logits=True)
    return Session(backend, bundle.manifest.fit)


def source_checkpoint(bundle: Bundle, checkpoint: str | Path | None) -> Checkpoint:
    """The checkpoint that `bundle` was built from, checked by its hash."""
    from degmix_training.checkpoint import load, locate, shipped

    from degmix_edge.files import sha256

    want = bundle.manifest.network.source
    paths = [locate(str(checkpoint))] if checkpoint else list(shipped().values())
    for path in paths:
        if sha256(Path(path).read_bytes()) == want.sha256:
            return load(path)
    if checkpoint:
        raise CheckpointError(
            f"{checkpoint}: is not what {bundle.path} was built from: expected {want.name} with "
            f"SHA-256 {want.sha256[:12]}"
        )
    raise CheckpointError(
        f"{bundle.path}: was built from {want.name} (SHA-256 {want.sha256[:12]}), which is "
        "not shipped; give it as CHECKPOINT"
    )

"""The network behind a bundle, as its author runs it: a checkpoint in PyTorch, or an ONNX file."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from degmix_edge.errors import CheckpointError
from degmix_edge.runtime import Session

if TYPE_CHECKING:
    from degmix_training.checkpoint import Checkpoint

    from degmix_edge.backends import Backend
    from degmix_edge.bundle.contents import Bundle


def reference_session(
    bundle: Bundle, network: str | Path | None, threads: int | None = None
) -> Session:
    """A session on the float network that `bundle` was built from, without anything of the bundle.

    Args:
        bundle: Its manifest has the SHA-256 of the network's file.
        network: A checkpoint's file or short name, or an ONNX file; None looks among the
            checkpoints that are shipped.
        threads: CPU threads of PyTorch, for the whole process.

    Raises:
        CheckpointError: It is another network, or none is known.
        GraphError: The ONNX file cannot be read.
    """
    spec = bundle.manifest.network
    reference: Backend
    if str(network).endswith(".onnx"):
        from degmix_edge.backends.onnx_reference import Backend as OnnxReference

        reference = OnnxReference(spec, _source_onnx(bundle, Path(str(network))), raw_logits=True)
    else:
        import torch

        from degmix_edge.backends.torch_eager import Backend as TorchEager

        loaded = source_checkpoint(bundle, network)
        if threads is not None:
            torch.set_num_threads(threads)
        reference = TorchEager(spec, loaded.network, raw_logits=True)
    return Session(reference, bundle.manifest.fit)


def _source_onnx(bundle: Bundle, path: Path) -> bytes:
    """The bytes of the ONNX file that `bundle` was built from, with all its weights inside."""
    from degmix_edge.graph.model import read_model
    from degmix_edge.graph.spec import source_hash

    model = read_model(path)
    if source_hash(path) != bundle.manifest.network.source.sha256:
        raise _other(bundle, path)
    return bytes(model.SerializeToString())


def _other(bundle: Bundle, path: str | Path) -> CheckpointError:
    want = bundle.manifest.network.source
    return CheckpointError(
        f"{path}: is not what {bundle.path} was built from: expected {want.name} with SHA-256 "
        f"{want.sha256[:12]}"
    )


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
        raise _other(bundle, checkpoint)
    raise CheckpointError(
        f"{bundle.path}: was built from {want.name} (SHA-256 {want.sha256[:12]}), which is "
        "not shipped; give it as NETWORK, after the bundle"
    )

"""The network behind a bundle, as its author runs it: a checkpoint in PyTorch, or an ONNX file."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import TYPE_CHECKING

from degmix_edge.errors import CheckpointError, ConfigError
from degmix_edge.runtime import Session

if TYPE_CHECKING:
    from degmix_training.checkpoint import Checkpoint
    from torch import nn

    from degmix_edge.backends import Backend
    from degmix_edge.bundle.contents import Bundle


def reference_session(
    bundle: Bundle, network: str | Path | nn.Module | None, threads: int | None = None
) -> Session:
    """A session on the float network that `bundle` was built from, without anything of the bundle.

    Args:
        bundle: Its manifest has the SHA-256 of the network's file.
        network: A checkpoint's file or short name, an ONNX file, a torch module, or `FILE.py:NAME`,
            a function without arguments that makes the module. None looks among the checkpoints
            that are shipped.
        threads: CPU threads of PyTorch, for the whole process.

    Raises:
        CheckpointError: It is another network, or none is known.
        GraphError: The ONNX file cannot be read.
        ConfigError: `FILE.py:NAME` gives no module.
    """
    spec = bundle.manifest.network
    reference: Backend
    if str(network).endswith(".onnx"):
        from degmix_edge.backends.onnx_reference import Backend as OnnxReference

        reference = OnnxReference(spec, _source_onnx(bundle, Path(str(network))), raw_logits=True)
    else:
        import torch

        from degmix_edge.backends.torch_eager import Backend as TorchEager

        if isinstance(network, torch.nn.Module) or ".py:" in str(network):
            module = _source_module(bundle, network)  # type: ignore[arg-type]
        else:
            module = source_checkpoint(bundle, network).network
        if threads is not None:
            torch.set_num_threads(threads)
        reference = TorchEager(spec, module, raw_logits=True)
    return Session(reference, bundle.manifest.fit)


def _source_module(bundle: Bundle, network: str | Path | nn.Module) -> nn.Module:
    """The torch module that `bundle` was built from, checked by the hash of its weights."""
    import torch
    from degmix_training.export import module_hash

    name = str(network) if isinstance(network, str | Path) else type(network).__name__
    module = _made_by(name) if isinstance(network, str | Path) else network
    if not isinstance(module, torch.nn.Module):
        raise ConfigError(f"{name}: gives {type(module).__name__}, expected a torch.nn.Module")
    if module_hash(module) != bundle.manifest.network.source.sha256:
        raise _other(bundle, name)
    return module.eval()


def _made_by(place: str) -> object:
    """What the function of `FILE.py:NAME` returns; the file is run."""
    path, _, name = place.rpartition(":")
    if not Path(path).is_file():
        raise ConfigError(f"{path}: no such file; expected FILE.py:NAME")
    try:
        return runpy.run_path(path)[name]()
    except KeyError:
        raise ConfigError(f"{path}: defines no {name!r}") from None
    except Exception as error:  # the file is the user's program
        raise ConfigError(f"{place}: fails with {type(error).__name__}: {error}") from error


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

"""PyTorch to ONNX with `torch.onnx.export(dynamo=True)`; names carry the module's path."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import io
import json
import logging
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from importlib import metadata
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from degmix_edge import __version__
from degmix_edge import tasks as all_tasks
from degmix_edge.errors import ConfigError, DegmixError, GraphError
from degmix_edge.network import IMAGE, METADATA_KEY, NetworkSpec, Source
from degmix_training.checkpoint import Checkpoint

OPSET = 20
"""The first opset that has both DeformConv (19) and Gelu (20)."""
PACKAGES = ("torch", "torchvision", "timm", "onnx", "onnxscript")
PROVENANCE_KEY = "degmix.provenance"
SCOPES = "pkg.torch.onnx.name_scopes"


class _Outputs(nn.Module):
    """Wrap a network so that it returns its dictionary as a tuple in the spec's order."""

    def __init__(self, network: nn.Module, tasks: tuple[str, ...]) -> None:
        super().__init__()
        self.network, self.tasks = network, tasks

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        logits = self.network(image)
        return tuple(logits[task] for task in self.tasks)


def network_spec(checkpoint: Checkpoint, tasks: Sequence[str] = ()) -> NetworkSpec:
    """Return the spec of the exported network, with only `tasks` or, if that is empty, with all."""
    card = checkpoint.card
    spec = NetworkSpec(
        model=card.model,
        height=card.height,
        width=card.width,
        tasks=card.tasks,
        mean=card.config.mean,
        std=card.config.std,
        source=Source(name=checkpoint.path.name, sha256=checkpoint.sha256),
    )
    return spec.keep(tasks or spec.task_names)


def export_checkpoint(
    checkpoint: Checkpoint, folds: Iterable[str] | None = None, tasks: Sequence[str] = ()
) -> onnx.ModelProto:
    """Export the network as float ONNX.

    The input is the normalised `image` `(1, 3, H, W)`; each task has one output of logits. Shapes
    are static, the opset is 20, and the file holds the shape of every value.

    Nodes and their outputs are called `<module path>/<operator>`, so recipes and ranges survive a
    re-export. The metadata holds the spec and the provenance.

    Args:
        checkpoint: The network.
        folds: The model's own folds to apply; None applies all.
        tasks: Tasks to keep; empty keeps all.

    Raises:
        ConfigError: The network has no such task.
        ShapeError: The network does not take images of this size.
        GraphError: PyTorch's exporter refused the network.
    """
    spec = network_spec(checkpoint, tasks)
    network: Any = checkpoint.network
    if len(spec.tasks) < len(checkpoint.card.tasks):
        network = network.keep(spec.task_names)
    folds = tuple(network.folds if folds is None else folds)
    model = _exported(network.fold_for_inference(folds), spec, str(checkpoint.path))
    _describe(model, spec, {"folds": folds, "commit": checkpoint.card.commit})
    return _checked(model)


def export_module(
    module: nn.Module, size: tuple[int, int], classes: Mapping[str, Sequence[str]]
) -> tuple[onnx.ModelProto, NetworkSpec]:
    """Export a user's torch module as float ONNX, and return it with its spec.

    Args:
        module: Takes `(1, 3, H, W)` float32, RGB normalised by ImageNet's mean and standard
            deviation, and returns `{task: logits (1, C, H, W)}`.
        size: H and W in pixels.
        classes: Class names by task; the classes of a task that is missing here are numbered.

    Raises:
        ConfigError: An output is not a known task, or the class names do not fit its channels.
        GraphError: The module does not return such a dictionary, or PyTorch's exporter refused it.
    """
    module = module.eval()
    name = type(module).__name__
    with torch.no_grad():
        outputs = module(torch.zeros(1, 3, *size))
    if not isinstance(outputs, Mapping) or not all(
        isinstance(value, Tensor) and value.ndim == 4 for value in outputs.values()
    ):
        raise GraphError(
            f"{name}: gives {type(outputs).__name__}, expected a dictionary from task to logits "
            "(N, C, H, W)"
        )
    specs = []
    for task, logits in outputs.items():
        kind, channels = all_tasks.find(task), logits.shape[1]
        numbered = () if kind.num_channels else tuple(f"class {i}" for i in range(channels))
        spec = kind.spec(tuple(classes.get(task, numbered)))
        if spec.num_channels != channels:
            raise ConfigError(
                f"{name}: task {task!r} has {channels} channels, expected {spec.num_channels}"
            )
        specs.append(spec)
    spec = NetworkSpec(
        model=name,
        height=size[0],
        width=size[1],
        tasks=tuple(specs),
        source=Source(name=name, sha256=module_hash(module)),
    )
    model = _exported(module, spec, name)
    _describe(model, spec, {})
    return _checked(model), spec


def module_hash(module: nn.Module) -> str:
    """Return the SHA-256 of a module's weights, by which a bundle knows what it was built from."""
    digest = hashlib.sha256()
    for value in module.state_dict().values():
        digest.update(value.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


def _exported(network: nn.Module, spec: NetworkSpec, where: str) -> onnx.ModelProto:
    """Export a network without metadata, with names by module path."""
    module = _Outputs(network, spec.task_names).eval()
    example = torch.zeros(1, 3, spec.height, spec.width)
    noise = io.StringIO()
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(noise):
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                opset_version=OPSET,
                input_names=[IMAGE],
                output_names=list(spec.task_names),
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        if isinstance(error.__cause__, DegmixError):  # the network itself says why
            raise error.__cause__ from None
        raise GraphError(f"{where}: PyTorch cannot export it: {error}") from error
    model: onnx.ModelProto = program.model_proto
    _rename(model, {IMAGE, *spec.task_names})
    return model


def _describe(model: onnx.ModelProto, spec: NetworkSpec, provenance: dict[str, Any]) -> None:
    """Write the spec and the provenance into the metadata."""
    versions = {"degmix-edge": __version__} | {p: metadata.version(p) for p in PACKAGES}
    provenance = provenance | {"opset": OPSET, "versions": versions}
    props = {METADATA_KEY: spec.model_dump_json(), PROVENANCE_KEY: json.dumps(provenance)}
    onnx.helper.set_model_props(model, props)


def _checked(model: onnx.ModelProto) -> onnx.ModelProto:
    model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    onnx.checker.check_model(model, full_check=True)
    return model


def wasteful_size(checkpoint: Checkpoint) -> str | None:
    """Return advice if a window transformer pads its windows at this size, else None."""
    name = str(checkpoint.card.config.network.get("backbone", ""))
    match = re.search(r"window(\d+)", name)
    if match is None:
        return None
    whole = int(match[1]) * 32
    height, width = checkpoint.card.height, checkpoint.card.width
    if height % whole == 0 and width % whole == 0:
        return None
    # A size halfway between two multiples is rounded up, so that no detail of the image is lost.
    better = "x".join(str(max(1, (2 * s + whole) // (2 * whole)) * whole) for s in (height, width))
    return (
        f"{name} at {height}x{width} pads its windows of {match[1]} and computes on the padding; "
        f"multiples of {whole} need none: the nearest is {better}"
    )


def _weight_owner(node: onnx.NodeProto, weights: set[str]) -> str:
    """Return the module whose weights `node` reads, or an empty string.

    A node into which a norm was folded still belongs to the convolution.
    """
    owners = [n.removesuffix(".weight") for n in node.input if n in weights and ".weight" in n]
    return owners[0] if node.op_type in ("Conv", "Gemm", "MatMul", "DeformConv") and owners else ""


def _rename(model: onnx.ModelProto, fixed: set[str]) -> None:
    """Name nodes and values by module path, and drop the exporter's notes with their file paths."""
    counts: Counter[str] = Counter()
    weights = {tensor.name for tensor in model.graph.initializer}
    names: dict[str, str] = {}
    for node in model.graph.node:
        notes = {prop.key: prop.value for prop in node.metadata_props}
        scopes = ast.literal_eval(notes.get(SCOPES, "['', '']"))
        path = _weight_owner(node, weights) or scopes[-2]
        path = path.removeprefix("network").removeprefix(".")
        stem = f"{path or 'network'}/{node.op_type}"
        node.name = f"{stem}.{counts[stem]}" if counts[stem] else stem
        counts[stem] += 1
        for index, output in enumerate(node.output):
            if output and output not in fixed:
                names[output] = f"{node.name}:{index}" if index else node.name
        del node.metadata_props[:]
        node.doc_string = ""
    for tensor in model.graph.initializer:
        names[tensor.name] = tensor.name.removeprefix("network.")
    for node in model.graph.node:
        node.input[:] = [names.get(name, name) for name in node.input]
        node.output[:] = [names.get(name, name) for name in node.output]
    for tensor in model.graph.initializer:
        tensor.name = names[tensor.name]
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        del value.metadata_props[:]
    del model.graph.value_info[:]
    del model.graph.metadata_props[:]
    del model.metadata_props[:]

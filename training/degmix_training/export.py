"""PyTorch to ONNX: `torch.onnx.export(dynamo=True)`, with names that carry the module's path."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import logging
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from importlib import metadata
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from degmix_edge import __version__
from degmix_edge.errors import GraphError
from degmix_edge.network import IMAGE, METADATA_KEY, NetworkSpec, Source
from degmix_training.checkpoint import Checkpoint

OPSET = 20
"""DeformConv is in opset 19, Gelu in 20."""
PACKAGES = ("torch", "torchvision", "timm", "onnx", "onnxscript")
PROVENANCE_KEY = "degmix.provenance"
SCOPES = "pkg.torch.onnx.name_scopes"


class _Outputs(nn.Module):
    """The network with its dictionary as a tuple, in the spec's order."""

    def __init__(self, network: nn.Module, tasks: tuple[str, ...]) -> None:
        super().__init__()
        self.network, self.tasks = network, tasks

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        logits = self.network(image)
        return tuple(logits[task] for task in self.tasks)


def network_spec(checkpoint: Checkpoint, tasks: Sequence[str] = ()) -> NetworkSpec:
    """What the exported network promises; `tasks` are those to keep, none being all."""
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


def export(
    checkpoint: Checkpoint, folds: Iterable[str] | None = None, tasks: Sequence[str] = ()
) -> onnx.ModelProto:
    """The network as float ONNX: `image` `(1, 3, H, W)` normalised to one logits output a task.

    Static shapes, opset 20, every value's shape in the file.

    Nodes and their outputs are called `<module path>/<operator>`, so recipes and ranges survive a
    re-export. The spec and the provenance lie in the metadata.

    Args:
        checkpoint: The network.
        folds: Of the model's own, those to apply; None is all.
        tasks: To keep; none is all.

    Raises:
        ConfigError: The network has no such task.
        GraphError: PyTorch's exporter refused the network.
    """
    spec = network_spec(checkpoint, tasks)
    network: Any = checkpoint.network
    if len(spec.tasks) < len(checkpoint.card.tasks):
        network = network.keep(spec.task_names)
    folds = tuple(network.folds if folds is None else folds)
    folded = network.fold_for_inference(folds)
    module = _Outputs(folded, spec.task_names).eval()
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
        raise GraphError(f"{checkpoint.path}: PyTorch cannot export it: {error}") from error
    model: onnx.ModelProto = program.model_proto
    _rename(model, {IMAGE, *spec.task_names})
    provenance = {
        "folds": folds,
        "opset": OPSET,
        "commit": checkpoint.card.commit,
        "versions": {"degmix-edge": __version__} | {p: metadata.version(p) for p in PACKAGES},
    }
    props = {METADATA_KEY: spec.model_dump_json(), PROVENANCE_KEY: json.dumps(provenance)}
    onnx.helper.set_model_props(model, props)
    model = onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True)
    onnx.checker.check_model(model, full_check=True)
    return model


def wasteful_size(checkpoint: Checkpoint) -> str | None:
    """Advice where a window transformer pads its windows at this size, else None."""
    name = str(checkpoint.card.config.network.get("backbone", ""))
    match = re.search(r"window(\d+)", name)
    if match is None:
        return None
    whole = int(match[1]) * 32
    height, width = checkpoint.card.height, checkpoint.card.width
    if height % whole == 0 and width % whole == 0:
        return None
    # Halfway is the larger one: nothing of the image is lost.
    better = "x".join(str(max(1, (2 * s + whole) // (2 * whole)) * whole) for s in (height, width))
    return (
        f"{name} at {height}x{width} pads its windows of {match[1]} and computes on the padding; "
        f"multiples of {whole} need none: the nearest is {better}"
    )


def _weight_owner(node: onnx.NodeProto, weights: set[str]) -> str:
    """The module whose weights `node` reads: a folded norm's node is still the convolution's."""
    owners = [n.removesuffix(".weight") for n in node.input if n in weights and ".weight" in n]
    return owners[0] if node.op_type in ("Conv", "Gemm", "MatMul", "DeformConv") and owners else ""


def _rename(model: onnx.ModelProto, fixed: set[str]) -> None:
    """Name nodes and values by module path; drop the exporter's notes, which hold file paths."""
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

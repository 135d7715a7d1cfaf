"""PyTorch to ONNX with `torch.onnx.export(dynamo=True)`; names carry the module's path."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import io
import json
import logging
import re
import sys
import traceback
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import onnx
import torch
from torch import Tensor, nn

from degmix_edge import __version__
from degmix_edge.errors import DegmixError, GraphError
from degmix_edge.graph.outputs import named_outputs
from degmix_edge.network import IMAGE, METADATA_KEY, NetworkSpec, Source
from degmix_edge.quant.trained import TRAINED_KEY
from degmix_training.checkpoint import Checkpoint

OPSET = 20
"""The first opset that has both DeformConv (19) and Gelu (20)."""
PACKAGES = ("torch", "torchvision", "timm", "onnx", "onnxscript")
PROVENANCE_KEY = "degmix.provenance"
SCOPES = "pkg.torch.onnx.name_scopes"


class _Outputs(nn.Module):
    """Wrap a network so that it returns its outputs as a tuple in the order of `names`."""

    def __init__(
        self, network: nn.Module, names: tuple[str, ...], others: tuple[str, ...] = ()
    ) -> None:
        super().__init__()
        self.network, self.names, self.others = network, names, others

    def forward(self, image: Tensor, *others: Tensor) -> tuple[Tensor, ...]:
        more = dict(zip(self.others, others, strict=True))
        outputs = named_outputs(self.network(image, **more))
        return tuple(outputs[name] for name in self.names)


def network_spec(
    checkpoint: Checkpoint, tasks: Sequence[str] = (), *, batch: int = 1
) -> NetworkSpec:
    """Return the spec of the exported network, with only `tasks` or, if that is empty, with all."""
    card = checkpoint.card
    spec = NetworkSpec(
        model=card.model,
        height=card.height,
        width=card.width,
        tasks=card.tasks,
        mean=card.config.mean,
        std=card.config.std,
        batch=batch,
        source=Source(name=checkpoint.path.name, sha256=checkpoint.sha256),
    )
    return spec.keep(tasks or spec.task_names)


def export_checkpoint(
    checkpoint: Checkpoint,
    folds: Iterable[str] | None = None,
    tasks: Sequence[str] = (),
    *,
    batch: int = 1,
    split: bool = False,
) -> onnx.ModelProto:
    """Export the network as float ONNX.

    The input is the normalised `image` `(N, 3, H, W)`; each task has one output of logits. Shapes
    are static, the opset is 20, and the file holds the shape of every value.

    Nodes and their outputs are called `<module path>/<operator>`, so recipes and ranges survive a
    re-export. The metadata holds the spec and the provenance.

    Args:
        checkpoint: The network.
        folds: The model's own folds to apply; None applies all.
        tasks: Tasks to keep; empty keeps all.
        batch: How many images one call computes.
        split: Keep the nodes of each task apart, so that an engine can run tasks alone.

    Raises:
        ConfigError: The network has no such task, or its tasks cannot run apart.
        ShapeError: The network does not take images of this size.
        GraphError: PyTorch's exporter refused the network.
    """
    spec = network_spec(checkpoint, tasks, batch=batch)
    network: Any = checkpoint.network
    if len(spec.tasks) < len(checkpoint.card.tasks):
        network = network.keep(spec.task_names)
    folds = tuple(network.folds if folds is None else folds)
    example = torch.zeros(spec.batch, 3, spec.height, spec.width)
    folded = network.fold_for_inference(folds)
    if split:
        folded.split_tasks()
    model = _exported(folded, spec.task_names, example, str(checkpoint.path))
    applied = (*network.folded, *folds)
    describe(model, spec, {"folds": applied, "commit": checkpoint.card.commit})
    if checkpoint.card.trained is not None:
        text = checkpoint.card.trained.model_dump_json()
        model.metadata_props.add(key=TRAINED_KEY, value=text)
    return _checked(model)


def export_module(
    module: nn.Module,
    size: tuple[int, int],
    *,
    channels: int = 3,
    batch: int = 1,
    others: Mapping[str, Sequence[int]] | None = None,
) -> onnx.ModelProto:
    """Export a user's torch module as float ONNX, whose outputs have the module's own names.

    Args:
        module: Takes a float32 image `(N, C, H, W)` and returns tensors, whose names
            `outputs.named_outputs` describes.
        size: H and W in pixels.
        channels: C.
        batch: N.
        others: Shapes of float32 tensors that `forward` takes beside the image, by the names of its
            arguments.

    Raises:
        GraphError: The module fails on such an image or returns no tensor, or PyTorch's exporter
            refused it.
    """
    module, name = module.eval(), type(module).__name__
    example = torch.zeros(batch, channels, *size)
    more = {key: torch.zeros(*shape) for key, shape in (others or {}).items()}
    try:
        with torch.no_grad():
            returned = named_outputs(module(example, **more))
    except Exception as error:  # the module is the user's program
        beside = f" and {', '.join(more)}" if more else ""
        raise GraphError(
            f"{name}: fails on an image of {tuple(example.shape)}{beside}: {first_reason(error)}"
        ) from error
    names = tuple(key for key, value in returned.items() if isinstance(value, Tensor))
    if not names:
        raise GraphError(f"{name}: returns no tensor, expected logits by task")
    return _checked(_exported(module, names, example, name, more))


def module_hash(module: nn.Module) -> str:
    """Return the SHA-256 of a module's weights, by which a bundle knows what it was built from."""
    digest = hashlib.sha256()
    for value in module.state_dict().values():
        digest.update(value.detach().cpu().numpy().tobytes())
    return digest.hexdigest()


def _exported(
    network: nn.Module,
    names: tuple[str, ...],
    example: Tensor,
    where: str,
    others: Mapping[str, Tensor] | None = None,
) -> onnx.ModelProto:
    """Export a network without metadata, with names by module path."""
    more = others or {}
    module = _Outputs(network, names, tuple(more)).eval()
    try:
        with warnings.catch_warnings(), _silence():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module,
                (example, *more.values()),
                dynamo=True,
                opset_version=OPSET,
                input_names=[IMAGE, *more],
                output_names=list(names),
                verbose=False,
            )
    except torch.onnx.errors.OnnxExporterError as error:
        if isinstance(error.__cause__, DegmixError):  # the network itself says why
            raise error.__cause__ from None
        raise GraphError(f"{where}: PyTorch cannot export it: {first_reason(error)}") from error
    model: onnx.ModelProto = program.model_proto
    _rename(model, {IMAGE, *more, *names})
    return model


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep the exporter from printing and logging pages about what its error says anyway."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    sink = io.StringIO()
    # rich goes on drawing progress on what this attribute says.
    sink.rich_proxied_file = getattr(sys.stderr, "rich_proxied_file", sys.stderr)
    try:
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(sink):
            yield
    finally:
        logging.disable(before)


def first_reason(error: BaseException) -> str:
    """Return the first line of the error that caused `error`, and the user's line it is about."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    text = f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__
    ours = (str(Path(torch.__file__).parent), __file__)
    frames = traceback.extract_tb(error.__traceback__)
    users = [frame for frame in frames if not frame.filename.startswith((*ours, "<"))]
    if not users:
        return text
    last = users[-1]
    return f"{text} ({Path(last.filename).name}:{last.lineno}, {last.line})"


def describe(model: onnx.ModelProto, spec: NetworkSpec, provenance: Mapping[str, Any]) -> None:
    """Write the spec and the provenance into the metadata of `model`, whose outputs are tasks."""
    versions = {"degmix-edge": __version__} | {p: metadata.version(p) for p in PACKAGES}
    provenance = {**provenance, "opset": OPSET, "versions": versions}
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

"""What a bundle, an ONNX file or a checkpoint holds."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from degmix_edge.bundle.contents import open_bundle, recipe_and_ranges
from degmix_edge.bundle.contract import Contract, contract, contract_lines
from degmix_edge.bundle.manifest import Form, Manifest, size_text
from degmix_edge.bundle.ready import ENDING, located
from degmix_edge.quant.recipe import Recipe
from degmix_edge.report.text import Readable, TextTable

if TYPE_CHECKING:
    from degmix_training.checkpoint import Card, Score


@dataclass(frozen=True)
class BundleContents(Readable):
    """A verified bundle.

    Attributes:
        path: The folder.
        manifest: What the bundle says of itself.
        contract: What its model takes and gives, with layouts, ranges, meanings and classes.
        recipe: The precision of every weighted node.
        sizes: The contract of every size of image, by `448x672`; `contract` is that of the first.
        size_bytes: Size of every file.
    """

    path: Path
    manifest: Manifest
    contract: Contract
    sizes: dict[str, Contract]
    recipe: Recipe
    size_bytes: dict[str, int]

    def text(self) -> Iterator[str | TextTable]:
        """Yield what the bundle is, and its files."""
        yield from bundle_lines(self)
        sizes = [[name, f"{size:,}"] for name, size in self.size_bytes.items()]
        yield TextTable("files", ["file", "bytes"], sizes)

    def node_table(self) -> TextTable:
        """The precision of every weighted node, and its reason."""
        rows = [[p.node, p.op, p.precision, p.reason] for p in self.recipe.placements]
        return TextTable("recipe", ["node", "operator", "precision", "reason"], rows)

    def values(self) -> dict[str, Any]:
        """The contents as plain values."""
        values = {name: getattr(self, name) for name in ("manifest", "contract", "recipe")}
        values |= {"sizes": self.sizes} if len(self.sizes) > 1 else {}
        return values | {"size_bytes": self.size_bytes}


@dataclass(frozen=True)
class OnnxContents(Readable):
    """An ONNX file.

    Attributes:
        path: The file.
        opset: Version of the standard operators.
        inputs, outputs: Shapes by name; a side that is not static is a name.
        operators: How often each operator occurs.
        size_bytes: Size of the file.
        described: Whether the file carries degmix metadata.
    """

    path: Path
    opset: int
    inputs: dict[str, list[Any]]
    outputs: dict[str, list[Any]]
    operators: dict[str, int]
    size_bytes: int
    described: bool

    def text(self) -> Iterator[str]:
        """Yield inputs, outputs and operators."""
        nodes = sum(self.operators.values())
        yield f"{self.path}: opset {self.opset}, {nodes} nodes, {self.size_bytes:,} bytes"
        for kind, shapes in (("input", self.inputs), ("output", self.outputs)):
            yield from (f"{kind}: {name} {shape}" for name, shape in shapes.items())
        yield "operators: " + ", ".join(f"{op} {n}" for op, n in self.operators.items())
        if not self.described:
            yield "no degmix metadata: tasks are known by output names"

    def values(self) -> dict[str, Any]:
        """The contents as plain values."""
        names = ("path", "opset", "inputs", "outputs", "operators", "size_bytes")
        return {name: getattr(self, name) for name in names}


@dataclass(frozen=True)
class CheckpointContents(Readable):
    """A checkpoint: its file and its card."""

    path: Path
    card: Card

    def text(self) -> Iterator[str | TextTable]:
        """Yield what the card says, and the scores."""
        card = self.card
        size = f"{card.height}x{card.width}"
        yield f"{self.path}: {card.model}, {size}, step {card.step}, seed {card.seed}"
        yield f"commit {card.commit}; " + ", ".join(f"{k} {v}" for k, v in card.versions.items())
        yield score_table("validation scores", card.scores)

    def values(self) -> dict[str, Any]:
        """The contents as plain values."""
        return {"path": self.path, "card": self.card}


Contents = BundleContents | OnnxContents | CheckpointContents


def describe(thing: str | Path) -> Contents:
    """Read what a bundle folder, an `.onnx` file or a checkpoint holds.

    Raises:
        BundleError, GraphError, CheckpointError: It cannot be read.
    """
    path = Path(thing)
    if path.suffix == ENDING:
        path = located(path)  # a name without the ending is that of a checkpoint
    if path.is_dir():
        return _bundle(path)
    return _onnx(path) if path.suffix == ".onnx" else _checkpoint(str(thing))


def score_table(title: str, scores: Mapping[str, Score]) -> TextTable:
    """One row for each task, beside the best constant prediction."""
    rows = [
        [task, f"{s.metric} [{s.unit}]", f"{s.value:.3f}", f"{s.constant:.3f}"]
        for task, s in scores.items()
    ]
    return TextTable(title, ["task", "metric", "value", "best constant"], rows)


def bundle_lines(found: BundleContents) -> list[str]:
    """Return what a bundle holds as lines of text for people."""
    manifest, recipe, spec = found.manifest, found.recipe, found.manifest.network
    lines = [f"{found.path}: {spec.model}, {manifest.precision}, built {manifest.created}"]
    lines.append(f"source: {spec.source.name} ({spec.source.sha256[:12]})")
    for size, agreed in found.sizes.items():
        lines += [f"size {size}:"] if len(found.sizes) > 1 else []
        lines += contract_lines(agreed)
    lines += [f"engine: {e.backend} {e.version} on {e.device}" for e in manifest.engines]
    if manifest.forms:
        lines.append(_fastest_line(manifest.forms))
    if manifest.split is not None:
        parts = (f"{name} {100 * share:.1f} %" for name, share in manifest.split.shares.items())
        lines.append(f"runs any subset of its tasks; shares of a call: {', '.join(parts)}")
    lines.append(f"weighted nodes in {recipe.precision}: {len(recipe.nodes(recipe.precision))}")
    kept = Counter(place.reason for place in recipe.placements if place.precision == "fp32")
    return [*lines, *(f"  fp32: {count} x {reason}" for reason, count in kept.items())]


def _fastest_line(forms: Sequence[Form]) -> str:
    """The form that a build chose by measurement, which is the first, and what the others took."""
    first, *others = forms
    text = (
        f"the fastest of {len(forms)} forms: {_form_name(first)}, {first.net_ms:.2f} ms a call "
        "where it was built; a session takes as many threads"
    )
    rest = [f"{_form_name(form)} {form.net_ms:.2f} ms" for form in others]
    return f"{text} (others: {', '.join(rest)})" if rest else text


def _form_name(form: Form) -> str:
    return f"{form.backend} {form.precision} with {form.threads} thread{'s' * (form.threads > 1)}"


def _bundle(path: Path) -> BundleContents:
    opened = open_bundle(path)
    return BundleContents(
        path,
        opened.manifest,
        contract(opened.manifest),
        {size_text(size): contract(opened.at(size).manifest) for size in opened.sizes},
        recipe_and_ranges(opened)[0],
        {name: len(opened.read(name)) for name in opened.manifest.files},
    )


def _onnx(path: Path) -> OnnxContents:
    from degmix_edge.graph.model import read_model
    from degmix_edge.network import METADATA_KEY

    model = read_model(path)
    return OnnxContents(
        path,
        max(o.version for o in model.opset_import if o.domain in ("", "ai.onnx")),
        {v.name: _shape(v) for v in model.graph.input},
        {v.name: _shape(v) for v in model.graph.output},
        dict(Counter(node.op_type for node in model.graph.node).most_common()),
        path.stat().st_size,
        any(prop.key == METADATA_KEY for prop in model.metadata_props),
    )


def _checkpoint(name: str) -> CheckpointContents:
    from degmix_training.checkpoint import locate, read_card

    path = locate(name)
    return CheckpointContents(path, read_card(path))


def _shape(value: Any) -> list[Any]:
    return [dim.dim_value or dim.dim_param for dim in value.type.tensor_type.shape.dim]

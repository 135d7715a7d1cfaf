"""A bundle's card: the manifest in a form for people."""

from __future__ import annotations

import re
from collections import Counter

from degmix_edge.bundle.manifest import Manifest, size_text
from degmix_edge.quant.recipe import Recipe


def card_text(manifest: Manifest, recipe: Recipe) -> str:
    """Return Markdown with the source, the tasks, the nodes in fp32 with reasons, and versions."""
    spec = manifest.network
    rows = [
        f"| {task.name} | {_text(task.unit)} | {_text(task.metric)} | "
        f"{_text(', '.join(task.classes)) or '-'} |"
        for task in spec.tasks
    ]
    sizes = ", ".join(map(size_text, manifest.all_sizes))
    float_reasons = Counter(p.reason for p in recipe.placements if p.precision == "fp32")
    return "\n".join(
        [
            f"# {_text(spec.model)}, {sizes}, {recipe.precision}",
            "",
            f"Made from {_text(spec.source.name)} (SHA-256 {_text(spec.source.sha256)}), "
            f"{manifest.created}.",
            "",
            "| task | unit | metric | classes |",
            "|---|---|---|---|",
            *rows,
            "",
            f"{len(recipe.nodes(recipe.precision))} weighted nodes in {recipe.precision}."
            + (" Kept in fp32:" if float_reasons else ""),
            *(f"- {count} x {_text(reason)}" for reason, count in float_reasons.items()),
            "",
            "Built with " + ", ".join(f"{k} {v}" for k, v in manifest.versions.items()) + ".",
            "",
        ]
    )


def _text(name: str) -> str:
    """A name from a checkpoint or an ONNX file, which must not become a heading, link or tag."""
    line = "".join(c if c.isprintable() else " " for c in name)
    return re.sub(r"([\\`*\[\]<>|#])", r"\\\1", line)

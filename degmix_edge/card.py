"""A bundle's card: what the manifest says, for people."""

from __future__ import annotations

from collections import Counter

from degmix_edge.bundle import Manifest
from degmix_edge.quant.recipe import Recipe


def write(manifest: Manifest, recipe: Recipe) -> str:
    """Markdown: source, tasks, what stayed in fp32 and why, versions."""
    spec = manifest.network
    rows = [
        f"| {task.name} | {task.unit} | {task.metric} | {', '.join(task.classes) or '-'} |"
        for task in spec.tasks
    ]
    kept = Counter(p.reason for p in recipe.placements if p.precision == "fp32")
    return "\n".join(
        [
            f"# {spec.model}, {spec.height}x{spec.width}, {recipe.precision}",
            "",
            f"Made from `{spec.source.name}` (SHA-256 {spec.source.sha256}), {manifest.created}.",
            "",
            "| task | unit | metric | classes |",
            "|---|---|---|---|",
            *rows,
            "",
            f"{len(recipe.nodes(recipe.precision))} weighted nodes in {recipe.precision}."
            + (" Kept in fp32:" if kept else ""),
            *(f"- {count} x {reason}" for reason, count in kept.items()),
            "",
            "Built with " + ", ".join(f"{k} {v}" for k, v in manifest.versions.items()) + ".",
            "",
        ]
    )

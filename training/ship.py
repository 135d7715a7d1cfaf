"""Put a trained run's checkpoint among those that ship with the package, with its card.

    python training/ship.py RUN NAME

Refuses a checkpoint that does not beat the best constant prediction on every task.
"""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from degmix_training.checkpoint import WEIGHTS, Card, Score, read_card

from degmix_edge import metrics

LIMIT_BYTES = 8_000_000


def margin(score: Score) -> float:
    """How much better than the constant, as a fraction of its value; negative is worse."""
    gain = score.value - score.constant
    higher = metrics.find(score.metric).higher_is_better
    return (gain if higher else -gain) / score.constant


def text(name: str, digest: str, card: Card) -> str:
    """The card as Markdown."""
    rows = [
        f"| {task} | {s.metric} [{s.unit}] | {s.value:.3f} | {s.constant:.3f} | {margin(s):+.0%} |"
        for task, s in card.scores.items()
    ]
    data = card.config.data
    return "\n".join(
        [
            f"# {name}",
            "",
            f"{card.model} on {card.config.network.get('backbone')}, "
            f"{card.height}x{card.width}, trained "
            f"from scratch on {data.train} {data.name} scenes: {card.step} steps, seed "
            f"{card.seed}, "
            f"commit {card.commit}.",
            "",
            "| task | metric | value | best constant | better by |",
            "|---|---|---|---|---|",
            *rows,
            "",
            f"On {data.val} validation scenes. The constant is the best map that never "
            "looks at the image.",
            "It has never seen a photograph: on real images it shows how the pipeline "
            "works, not how good",
            "the networks are.",
            "",
            f"SHA-256 {digest}. Licence Apache-2.0. "
            + ", ".join(f"{k} {v}" for k, v in card.versions.items())
            + ".",
            "",
        ]
    )


def main(run: Path, name: str) -> None:
    """Copy, name and describe."""
    source = run / "last.safetensors"
    weights, card = source.read_bytes(), read_card(source)
    worse = [task for task, score in card.scores.items() if margin(score) <= 0]
    if worse:
        sys.exit(f"{source}: no better than a constant on {', '.join(worse)}; train longer")
    if len(weights) > LIMIT_BYTES:
        sys.exit(f"{source}: {len(weights)} bytes, at most {LIMIT_BYTES} ship with the package")
    digest = hashlib.sha256(weights).hexdigest()
    for old in WEIGHTS.glob(f"{name}-*"):
        old.unlink()
    WEIGHTS.mkdir(exist_ok=True)
    target = WEIGHTS / f"{name}-{digest[:8]}.safetensors"
    target.write_bytes(weights)
    target.with_suffix(".md").write_text(text(name, digest, card))
    print(target)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])

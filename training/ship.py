"""Put a run's checkpoint among those that ship: weights in half precision, and a page.

    python training/ship.py runs/lite0/best.safetensors degmix_lite0

Weights are rounded to half precision; statistics of norms stay in single. The rounded network is
scored anew on the run's validation split, so that the card tells what the shipped file does. The
files are named after the checksum, and replace those of the same name. A checkpoint is refused that
does not beat the best constant prediction on every task, or whose file is too large for a package.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from pathlib import Path

import torch
from degmix_training import checkpoint
from degmix_training.checkpoint import WEIGHTS, Checkpoint, Score
from degmix_training.evaluate import network_predictor, score
from torch import Tensor

from degmix_edge import metrics

LIMIT_BYTES = 8_000_000


def margin(score: Score) -> float:
    """Return how much better than the constant, as a fraction of its value; negative is worse."""
    gain = score.value - score.constant
    higher = metrics.find(score.metric).higher_is_better
    return (gain if higher else -gain) / score.constant


def halved(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the state with its weights in half precision, and its statistics as they are."""
    return {
        key: value.half() if value.is_floating_point() and "running_" not in key else value
        for key, value in state.items()
    }


def rescored(found: Checkpoint) -> checkpoint.Card:
    """Return the card with the scores of the network that its weights now are."""
    config = found.card.config
    samples = config.open_data().open_split("val", config.tasks, config.data.val)
    values = score(network_predictor(found.network, found.tasks, config), samples, found.tasks)
    scores = {
        task: old.model_copy(update={"value": values[task]})
        for task, old in found.card.scores.items()
    }
    return found.card.model_copy(update={"scores": scores})


def page(name: str, card: checkpoint.Card, sha256: str) -> str:
    """Return the page that ships beside the weights, in Markdown."""
    config = card.config
    backbone = config.network.get("backbone", "its default backbone")
    start = "from scratch" if config.pretrained == "none" else f"from {config.pretrained} weights"
    lines = [
        f"# {name}\n",
        f"{card.model} on {backbone}, {card.height}x{card.width}, trained {start} on "
        f"{config.data.train} scenes of {config.data.name}: {card.step} steps, seed {card.seed}, "
        f"commit {card.commit}.\n",
        "| task | metric | value | best constant | better by |",
        "|---|---|---|---|---|",
    ]
    for task, old in card.scores.items():
        lines.append(
            f"| {task} | {old.metric} [{old.unit}] | {old.value:.3f} | {old.constant:.3f} | "
            f"{margin(old):+.0%} |"
        )
    versions = ", ".join(f"{key} {value}" for key, value in card.versions.items())
    lines += [
        f"\nOn {config.data.val} validation scenes. The constant is the best map that never looks "
        "at the image.",
        f"\nSHA-256 {sha256}. Licence Apache-2.0. {versions}.\n",
    ]
    return "\n".join(lines)


def main() -> None:
    """Write both files; see the module."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("name")
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    found = checkpoint.load(options.checkpoint)
    draft = options.out / f"{options.name}.safetensors"
    state = halved(found.network.state_dict())
    checkpoint.save(draft, state, found.card)
    card = rescored(checkpoint.load(draft))
    checkpoint.save(draft, state, card)
    weights = draft.read_bytes()
    worse = [task for task, score in card.scores.items() if margin(score) <= 0]
    if worse or len(weights) > LIMIT_BYTES:
        draft.unlink()
        if worse:
            sys.exit(f"{options.checkpoint}: no better than a constant on {', '.join(worse)}")
        sys.exit(f"{options.checkpoint}: {len(weights)} bytes, and at most {LIMIT_BYTES} ship")
    for old in options.out.glob(f"{options.name}-*"):
        old.unlink()
    sha256 = hashlib.sha256(weights).hexdigest()
    final = draft.rename(draft.with_name(f"{options.name}-{sha256[:8]}.safetensors"))
    final.with_suffix(".md").write_text(page(options.name, card, sha256))
    print(f"{final}: {final.stat().st_size / 1e6:.2f} MB")
    for task, new in card.scores.items():
        print(f"{task}: {found.card.scores[task].value:.4f}, in half precision {new.value:.4f}")


if __name__ == "__main__":
    main()

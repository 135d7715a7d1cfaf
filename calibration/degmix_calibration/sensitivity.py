"""What each layer's quantization alone costs each task.

One trial a layer: that layer in INT8, every other in float. Each result is written to a state file
as it comes, so an interrupted measurement goes on where it was.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from degmix_calibration.trial import Damage, Trials, pool
from degmix_edge.errors import OutputError
from degmix_edge.quant.recipe import Recipe

INT8 = ("int8", "int8_weights")
Sensitivity = dict[str, dict[str, Damage]]
"""Damage by layer and task."""


@dataclass(frozen=True)
class Layer:
    """Nodes that are quantized together: those of one module.

    Attributes:
        name: The module's path.
        nodes: Names of its INT8 nodes.
        macs: Of all of them, an image.
        saving_ms: What INT8 saves on the target; negative where it costs.
    """

    name: str
    nodes: tuple[str, ...]
    macs: int
    saving_ms: float


def layers(
    recipe: Recipe, macs: Mapping[str, int], saving_ms: Mapping[str, float]
) -> tuple[Layer, ...]:
    """The layers that `recipe` quantizes, in graph order.

    Args:
        recipe: What the rules allow.
        macs: By node.
        saving_ms: By node; a node that is missing saves nothing.
    """
    members: dict[str, list[str]] = {}
    for place in recipe.placements:
        if place.precision in INT8:
            members.setdefault(place.node.rpartition("/")[0], []).append(place.node)
    return tuple(
        Layer(
            name,
            tuple(nodes),
            sum(macs.get(node, 0) for node in nodes),
            sum(saving_ms.get(node, 0.0) for node in nodes),
        )
        for name, nodes in members.items()
    )


def restrict(recipe: Recipe, kept: Iterable[Layer], reasons: Mapping[str, str]) -> Recipe:
    """`recipe` with only the layers `kept` in INT8; `reasons` by node for those that are not."""
    chosen = {node for layer in kept for node in layer.nodes}
    placements = tuple(
        place
        if place.precision not in INT8 or place.node in chosen
        else place.model_copy(
            update={"precision": "fp32", "reason": reasons.get(place.node, "kept float")}
        )
        for place in recipe.placements
    )
    return recipe.model_copy(update={"placements": placements})


def measure(
    trials: Trials,
    recipe: Recipe,
    found: Sequence[Layer],
    *,
    state: Path | None = None,
    workers: int = 1,
    advance: Callable[[int], None] = lambda n: None,
) -> Sensitivity:
    """Damage of each layer of `found` alone.

    Args:
        trials: Graph, ranges and examples.
        recipe: That `found` was made of.
        found: Layers to measure.
        state: Results are kept here and read from here; of another graph, ranges or examples they
            are dropped.
        workers: Processes.
        advance: Called with 1 for each layer, also for one that was kept.

    Raises:
        OutputError: `state` cannot be written.
    """
    key = _key(trials, recipe)
    done = _read(state, key)
    done = {layer.name: done[layer.name] for layer in found if layer.name in done}
    advance(len(done))
    missing = [layer for layer in found if layer.name not in done]
    if not missing:
        return done
    _write(state, {"key": key}, done)
    with pool(trials, min(workers, len(missing))) as each:
        for index, damage in each([restrict(recipe, [layer], {}) for layer in missing]):
            done[missing[index].name] = damage
            _append(state, missing[index].name, damage)
            advance(1)
    return {layer.name: done[layer.name] for layer in found}


def _key(trials: Trials, recipe: Recipe) -> str:
    digest = hashlib.sha256(trials.ranges.model_dump_json().encode())
    digest.update(recipe.model_dump_json().encode())
    digest.update(str(trials.lowered).encode())
    for example in trials.examples:
        digest.update(example.pixels.tobytes())
        for name, label in sorted(example.labels.items()):
            digest.update(name.encode() + label.tobytes())
    return digest.hexdigest()


def _read(state: Path | None, key: str) -> Sensitivity:
    """Kept results; a last line that was cut short is dropped."""
    if state is None or not state.is_file():
        return {}
    done: Sensitivity = {}
    try:
        first, *lines = state.read_text().splitlines()
        if json.loads(first).get("key") != key:
            return {}
        for line in lines:
            values = json.loads(line)
            done[values["layer"]] = {t: Damage(**d) for t, d in values["tasks"].items()}
    except (ValueError, KeyError, TypeError):
        return done
    return done


def _write(state: Path | None, header: Mapping[str, str], done: Sensitivity) -> None:
    if state is None:
        return
    try:
        state.write_text(json.dumps(header) + "\n")
    except OSError as error:
        raise OutputError(f"{state}: cannot be written: {error.strerror}") from None
    for name, damage in done.items():
        _append(state, name, damage)


def _append(state: Path | None, name: str, damage: Mapping[str, Damage]) -> None:
    if state is None:
        return
    line = {"layer": name, "tasks": {task: asdict(value) for task, value in damage.items()}}
    with state.open("a") as file:
        file.write(json.dumps(line) + "\n")

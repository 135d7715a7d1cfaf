"""Measure what a lower precision of each layer alone costs each task.

There is one trial per layer, with that layer in INT8 or bfloat16 and every other in FP32. A module
that may be either is two layers. Each result is written to a state file at once, so an interrupted
measurement can resume.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from degmix_calibration.trial import Damage, Trials, pool
from degmix_edge.errors import OutputError
from degmix_edge.quant.recipe import Placed, Recipe

INT8 = ("int8", "int8_weights")
LOWER = (*INT8, "bf16")
Sensitivity = dict[str, dict[str, Damage]]
"""Damage by layer and task."""


@dataclass(frozen=True)
class Layer:
    """The nodes of one module, which get a lower precision together.

    Attributes:
        name: The module's path, and its precision where that is bfloat16.
        nodes: Names of its nodes.
        macs: Multiply-adds of all these nodes for one image.
        saving_ms: Time that the precision saves on the target; negative if it is slower.
        precision: What they get, `int8` or `bf16`.
    """

    name: str
    nodes: tuple[str, ...]
    macs: int
    saving_ms: float
    precision: Placed = "int8"

    @property
    def module(self) -> str:
        """The module's path."""
        return module_of(self.nodes[0])


def layers(
    recipe: Recipe,
    macs: Mapping[str, int],
    saving_ms: Mapping[str, float],
    half_ms: Mapping[str, float] | None = None,
) -> tuple[Layer, ...]:
    """Return the layers that may have a lower precision by `recipe`, in graph order.

    Args:
        recipe: The recipe that the rules allow.
        macs: Multiply-adds by node.
        saving_ms: Time that INT8 saves by node; a missing node saves nothing.
        half_ms: The same for bfloat16; None where the target has none.
    """
    members: dict[tuple[str, Placed], list[str]] = {}
    for place in recipe.placements:
        if half_ms is not None and place.precision in ("int8", "bf16"):
            members.setdefault((module_of(place.node), "bf16"), []).append(place.node)
        if place.precision in INT8:
            members.setdefault((module_of(place.node), "int8"), []).append(place.node)
    return tuple(
        Layer(
            f"{module} in bf16" if precision == "bf16" else module,
            tuple(nodes),
            sum(macs.get(node, 0) for node in nodes),
            sum((half_ms or {} if precision == "bf16" else saving_ms).get(n, 0.0) for n in nodes),
            precision,
        )
        for (module, precision), nodes in members.items()
    )


def module_of(node: str) -> str:
    """Return the path of the module that a node belongs to."""
    return node.rpartition("/")[0]


def restrict(recipe: Recipe, kept: Iterable[Layer], reasons: Mapping[str, str]) -> Recipe:
    """Return `recipe` with only the layers `kept` in a lower precision; INT8 is the lowest.

    `reasons` holds a reason for each node that becomes FP32.
    """
    rungs: dict[str, Placed] = {}
    for layer in sorted(kept, key=lambda layer: layer.precision == "int8"):
        rungs.update(dict.fromkeys(layer.nodes, layer.precision))
    placements = []
    for place in recipe.placements:
        rung = rungs.get(place.node, "fp32")
        if place.precision in LOWER and rung == "fp32":
            changes = {"precision": "fp32", "reason": reasons.get(place.node, "kept float")}
            place = place.model_copy(update=changes)
        elif rung == "bf16":
            place = place.model_copy(update={"precision": "bf16"})
        placements.append(place)
    return recipe.model_copy(update={"placements": tuple(placements)})


def measure(
    trials: Trials,
    recipe: Recipe,
    found: Sequence[Layer],
    *,
    state: Path | None = None,
    workers: int = 1,
    address: str | None = None,
    advance: Callable[[int], None] = lambda n: None,
) -> Sensitivity:
    """Measure the damage of each layer of `found` alone.

    Args:
        trials: Graph, ranges and examples.
        recipe: The recipe that has the layers `found`.
        found: Layers to measure.
        state: File that results are written to and read from. Results for another graph, other
            ranges or other examples are dropped.
        workers: Number of processes.
        address: A Ray cluster whose actors try the layers; None uses processes.
        advance: Called with the number of layers that are done, including those read from `state`.

    Raises:
        OutputError: `state` cannot be written.
        ConfigError: Nothing answers at the address.
    """
    key = _key(trials, recipe)
    done = _read(state, key)
    done = {layer.name: done[layer.name] for layer in found if layer.name in done}
    advance(len(done))
    missing = [layer for layer in found if layer.name not in done]
    if not missing:
        return done
    _write(state, {"key": key}, done)
    with pool(trials, min(workers, len(missing)), address) as each:
        for index, damage in each([restrict(recipe, [layer], {}) for layer in missing]):
            done[missing[index].name] = damage
            _append(state, missing[index].name, damage)
            advance(1)
    return {layer.name: done[layer.name] for layer in found}


def _key(trials: Trials, recipe: Recipe) -> str:
    digest = hashlib.sha256(trials.ranges.model_dump_json().encode() if trials.ranges else b"")
    digest.update(recipe.model_dump_json().encode())
    digest.update(f"{trials.lowered} {trials.backend}".encode())
    for example in trials.examples:
        for array in example.feed.values():
            digest.update(array.tobytes())
        for name, label in sorted(example.labels.items()):
            digest.update(name.encode() + label.tobytes())
    return digest.hexdigest()


def _read(state: Path | None, key: str) -> Sensitivity:
    """Read the results of `state`, without a last line that was cut short."""
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

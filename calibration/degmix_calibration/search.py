"""Choose the layers that run in INT8 or bfloat16 so that every task stays within its budget.

Layers are ordered by what they cost the most affected task for each millisecond that they save. A
bisection finds the longest prefix of that order within the budget, and tries the real recipe each
time. Then single layers after the prefix are tried, those with the largest savings first. Only
trials decide, because the order comes from layers measured alone, and damages do not simply add up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from degmix_calibration import cpu_profile
from degmix_calibration.limits import Limit
from degmix_calibration.sensitivity import Layer, Sensitivity, layers, measure, restrict
from degmix_calibration.trial import Damage, Trials
from degmix_edge.backends import find
from degmix_edge.errors import AccuracyError, BackendError
from degmix_edge.graph import roofline
from degmix_edge.graph.cost import costs
from degmix_edge.progress import Progress, counting, listening, note
from degmix_edge.quant.recipe import OVER_BUDGET, Placed, Recipe

EXTRA_TRIALS = 8
"""Number of single layers after the prefix that are tried."""


@dataclass(frozen=True)
class Choice:
    """A recipe, and what it costs each task.

    Attributes:
        recipe: The recipe; layers that are not in `kept` are fp32, with the reason.
        kept: The layers that got a lower precision; a module in INT8 may be there twice.
        damage: The measured damage of this recipe, by task.
        use: Damage as a share of the allowance, by task; more than 1 is over the budget.
        trials: Number of whole recipes that were tried.
        closest: The recipe with more layers than `kept` that exceeds the budget least, or None.
    """

    recipe: Recipe
    kept: tuple[Layer, ...]
    damage: dict[str, Damage]
    use: dict[str, float]
    trials: int
    closest: Choice | None = None

    @property
    def worst(self) -> str:
        """The task that uses the largest share of its budget, and so decides."""
        return max(self.use, key=lambda task: self.use[task])

    @property
    def fits(self) -> bool:
        """Whether every task is within its budget."""
        return self.use[self.worst] <= 1

    @property
    def saving_ms(self) -> float:
        """The time that the layers save, in milliseconds."""
        return sum({x.module: x.saving_ms for x in sorted(self.kept, key=_is_int8)}.values())

    def text(self, count: int | None = None) -> str:
        """Return how many layers got which precision, of `count` that may have a lower one."""
        of_all = "" if count is None else f" of {count}"
        half = f" and {len(self.bf16)} in bfloat16" if self.bf16 else ""
        return f"{len(self.int8)}{of_all} layers in INT8{half}"

    @property
    def int8(self) -> tuple[Layer, ...]:
        """The layers in INT8."""
        return tuple(filter(_is_int8, self.kept))

    @property
    def bf16(self) -> tuple[Layer, ...]:
        """The layers in bfloat16."""
        lower = {layer.module for layer in self.int8}
        return tuple(x for x in self.kept if not _is_int8(x) and x.module not in lower)


def order(
    found: Sequence[Layer], measured: Sensitivity, allowed: Mapping[str, float]
) -> list[Layer]:
    """Return the layers that save time, in increasing order of cost per millisecond saved.

    INT8 that saves no more than bfloat16 does in the same module is left out. The cost of a layer
    is the largest distance from the float maps over all tasks, as a share of the task's allowance.
    By the triangle inequality no distance metric loses more than that.
    """

    def price(layer: Layer) -> float:
        cost = worst_share(measured[layer.name], allowed)
        return cost / layer.saving_ms

    half = {layer.module: layer.saving_ms for layer in found if layer.precision == "bf16"}
    better = [x for x in found if x.precision == "bf16" or x.saving_ms > half.get(x.module, 0.0)]
    return sorted((layer for layer in better if layer.saving_ms > 0), key=price)


def worst_share(damage: Mapping[str, Damage], allowed: Mapping[str, float]) -> float:
    """Return the largest distance over all tasks, as a share of the task's allowance."""
    return max(_share(damage[task].distance, allowed[task]) for task in allowed)


def search(
    trials: Trials,
    recipe: Recipe,
    ordered: Sequence[Layer],
    limits: Mapping[str, Limit],
    *,
    reasons: Mapping[str, str],
    say: Callable[[str], None] = lambda text: None,
) -> Choice:
    """Return the recipe that saves most within the budget.

    Args:
        trials: Graph, ranges and examples.
        recipe: The recipe that the rules allow.
        ordered: Layers in the order of `order`.
        limits: Each task's limit.
        reasons: For each node, the reason to record if it stays float.
        say: Called with one line for each trial.
    """
    allowed = _allowed(trials, limits)
    tried: dict[frozenset[str], Choice] = {}

    def attempt(kept: Sequence[Layer]) -> Choice:
        key = frozenset(layer.name for layer in kept)
        if key not in tried:
            candidate = restrict(recipe, kept, reasons)
            try:
                damage = trials.score(candidate)
            except BackendError as error:  # it does not fit
                say(f"{len(kept)} layers cannot be built together: {error}")
                damage = dict.fromkeys(allowed, Damage(float("inf"), None))
            use = _use(damage, allowed)
            choice = Choice(candidate, tuple(kept), damage, use, len(tried) + 1)
            tried[key] = choice
            say(
                f"{choice.text(len({layer.module for layer in ordered}))}: "
                f"{choice.worst} at {100 * choice.use[choice.worst]:.0f} % of its budget"
            )
        return tried[key]

    best = attempt(ordered)
    if not best.fits:
        low, high = 0, len(ordered)  # `low` fits, `high` does not
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if attempt(ordered[:middle]).fits else (low, middle)
        best = attempt(ordered[:low])
        # The first layer after the prefix is the one that did not fit.
        after = sorted(ordered[low + 1 :], key=lambda layer: -layer.saving_ms)[:EXTRA_TRIALS]
        for layer in after:
            wider = attempt([*best.kept, layer])
            best = wider if wider.fits else best
    wider_ones = [c for c in tried.values() if len(c.kept) > len(best.kept)]
    closest = min(wider_ones, key=lambda c: c.use[c.worst], default=None)
    return replace(best, trials=len(tried), closest=closest)


def _is_int8(layer: Layer) -> bool:
    return layer.precision == "int8"


def shares(
    trials: Trials, damage: Mapping[str, Damage], limits: Mapping[str, Limit]
) -> dict[str, float]:
    """Return damage as a share of the allowance, by task; more than 1 is over the budget."""
    return _use(damage, _allowed(trials, limits))


def _allowed(trials: Trials, limits: Mapping[str, Limit]) -> dict[str, float]:
    return {t.name: limits[t.name].allowed(trials.value(t)) for t in trials.spec.tasks}


def _use(damage: Mapping[str, Damage], allowed: Mapping[str, float]) -> dict[str, float]:
    return {task: _share(damage[task].cost, allowed[task]) for task in allowed}


def _share(amount: float, allowed: float) -> float:
    if amount <= 0:
        return 0.0
    return amount / allowed if allowed else float("inf")


@dataclass(frozen=True)
class Findings:
    """The result of a search, with everything that it is based on.

    Attributes:
        search: The search with its settings.
        allowed: The loss that each task's budget allows, in the metric's unit.
        layers: Every layer that the rules allow in INT8.
        measured: The damage of each layer alone, by task.
        choice: The chosen recipe.
        int8_macs_percent: Share of the multiply-adds that are INT8 under `choice`.
    """

    search: BudgetSearch
    allowed: dict[str, float]
    layers: tuple[Layer, ...]
    measured: Sensitivity
    choice: Choice
    int8_macs_percent: float

    def check(self) -> None:
        """Check that the budget was met.

        Raises:
            AccuracyError: No recipe with enough INT8 is within the budget. The message describes
                the closest one.
        """
        choice, share, least = self.choice, self.int8_macs_percent, self.search.min_int8
        if choice.kept and choice.fits and share >= least:
            return
        why = (
            f"only {share:.1f} % of the MACs fit, --min-int8 asks for {least:g} %"
            if choice.kept and choice.fits
            else "no layer can have a lower precision inside it"
        )
        closest = choice.closest
        shown = (
            f"The closest recipe with more has {closest.text()} and puts "
            f"{closest.worst} at {100 * closest.use[closest.worst]:.0f} % of its budget. "
            if closest is not None
            else ""
        )
        raise AccuracyError(f"{why}. {shown}Widen the budget of {choice.worst}")


@dataclass
class BudgetSearch:
    """The search for the recipe that saves most inside a budget per task.

    It measures what each layer alone costs each task, orders the layers, and tries whole recipes.

    Attributes:
        trials: Graph, ranges and examples.
        recipe: The recipe that the rules allow.
        limits: Each task's limit, from `limits.parse`.
        device: The target whose savings count. Those of `cpu` are measured here; those of other
            targets come from a roofline.
        min_int8: Percentage of the multiply-adds that must be INT8.
        workers: Number of processes that measure layers.
        address: A Ray cluster that measures layers; None uses processes.
        state: A file from which an interrupted search resumes.
    """

    trials: Trials
    recipe: Recipe
    limits: Mapping[str, Limit]
    device: str = "cpu"
    min_int8: float = 0.0
    workers: int = 1
    address: str | None = None
    state: Path | None = None

    def run(self, progress: Progress | None = None) -> Findings:
        """Search, and report to `progress`.

        The result may exceed the budget; `Findings.check` tells.

        Raises:
            ConfigError: There is no such device.
            OutputError: The state cannot be written.
        """
        with listening(progress):
            return self._run()

    def _run(self) -> Findings:
        trials, recipe, limits = self.trials, self.recipe, self.limits
        allowed = _allowed(trials, limits)
        macs = {cost.node: cost.macs for cost in costs(trials.model)}
        half = self._with(recipe, "bf16") if self._has_bf16 else None
        half_ms = None if half is None else cpu_profile.savings_ms(trials, half)
        candidates = layers(recipe, macs, self._savings_ms(), half_ms)
        with counting("measure layers", len(candidates)) as advance:
            how: dict[str, Any] = {
                "state": self.state,
                "workers": self.workers,
                "address": self.address,
            }
            measured = measure(trials, recipe, candidates, advance=advance, **how)
        ordered = order(candidates, measured, allowed)
        reasons = _reasons(candidates, measured, allowed)
        choice = search(trials, recipe, ordered, limits, reasons=reasons, say=note)
        share = 100 * sum(x.macs for x in choice.int8) / max(sum(macs.values()), 1)
        return Findings(self, allowed, candidates, measured, choice, share)

    @property
    def _has_bf16(self) -> bool:
        """Whether the target is a backend that has bfloat16 here."""
        backend: Any = find(self.trials.backend)
        return self.device == "cpu" and "bf16" in backend.precisions()

    @staticmethod
    def _with(recipe: Recipe, precision: Placed) -> Recipe:
        """The recipe with all that may be lower in one precision."""
        changes = {"precision": precision}
        placements = (
            place.model_copy(update=changes) if place.precision in ("int8", "bf16") else place
            for place in recipe.placements
        )
        return recipe.model_copy(update={"placements": tuple(placements)})

    def _savings_ms(self) -> dict[str, float]:
        """Return what INT8 saves by node: measured for the CPU, else estimated from a roofline."""
        if self.device != "cpu":
            target = roofline.find(self.device)
            return {cost.node: target.saving_ms(cost) for cost in costs(self.trials.model)}
        return cpu_profile.savings_ms(self.trials, self.recipe)


def _reasons(
    found: Sequence[Layer], measured: Sensitivity, allowed: Mapping[str, float]
) -> dict[str, str]:
    reasons = {}
    for layer in found:
        damage = measured[layer.name]
        worst = max(allowed, key=lambda t: damage[t].distance / (allowed[t] or 1e-12))
        text = f"{OVER_BUDGET}{worst} by {damage[worst].distance:.3g}"
        if layer.saving_ms <= 0:
            text = "budget: INT8 saves no time here"
        reasons.update(dict.fromkeys(layer.nodes, text))
    return reasons

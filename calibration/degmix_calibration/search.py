"""Choose what runs in INT8 so that every task stays inside its budget.

Layers are ordered by what they cost the worst-off task for each millisecond that they save. The
longest prefix of that order inside the budget is found by halving, with the real recipe tried each
time; then single layers behind it are tried, the largest savings first. Only trials decide: the
order comes from layers measured alone, and damages do not simply add up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from degmix_calibration.budget import Limit
from degmix_calibration.sensitivity import Layer, Sensitivity, restrict
from degmix_calibration.trial import Damage, Trials
from degmix_edge.quant.recipe import Recipe

EXTRA_TRIALS = 8
"""Layers behind the prefix that are tried on their own."""


@dataclass(frozen=True)
class Choice:
    """The recipe that was found.

    Attributes:
        recipe: Layers outside `kept` are fp32, with the reason.
        kept: Layers in INT8.
        damage: By task, of this very recipe.
        use: By task, damage as a share of its allowance; over 1 is outside.
        trials: Recipes that were tried as a whole.
        closest: With more layers than `kept`, the recipe that is least outside; None where
            everything fits.
    """

    recipe: Recipe
    kept: tuple[Layer, ...]
    damage: dict[str, Damage]
    use: dict[str, float]
    trials: int
    closest: Choice | None = None

    @property
    def worst(self) -> str:
        """The task nearest to, or farthest beyond, its budget: it decides."""
        return max(self.use, key=lambda task: self.use[task])

    @property
    def fits(self) -> bool:
        """Whether every task is inside its budget."""
        return self.use[self.worst] <= 1

    @property
    def saving_ms(self) -> float:
        """Of the layers in INT8."""
        return sum(layer.saving_ms for layer in self.kept)


def order(
    found: Sequence[Layer], measured: Sensitivity, allowed: Mapping[str, float]
) -> list[Layer]:
    """Layers that save something, the cheapest saving first.

    A layer costs what the worst-off task pays: its distance from the float map as a share of the
    task's allowance. By the triangle inequality no distance metric loses more than that.
    """

    def price(layer: Layer) -> float:
        cost = worst_share(measured[layer.name], allowed)
        return cost / layer.saving_ms

    return sorted((layer for layer in found if layer.saving_ms > 0), key=price)


def worst_share(damage: Mapping[str, Damage], allowed: Mapping[str, float]) -> float:
    """Largest distance as a share of its task's allowance."""
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
    """The recipe with the most savings inside the budget.

    Args:
        trials: Graph, ranges and examples.
        recipe: What the rules allow.
        ordered: From `order`.
        limits: By task.
        reasons: By node, why it is float if it ends up so.
        say: Called with one line a trial.
    """
    allowed = {t.name: limits[t.name].allowed(trials.value(t)) for t in trials.spec.tasks}
    tried: dict[frozenset[str], Choice] = {}

    def attempt(kept: Sequence[Layer]) -> Choice:
        key = frozenset(layer.name for layer in kept)
        if key not in tried:
            candidate = restrict(recipe, kept, reasons)
            damage = trials.score(candidate)
            use = {task: _share(damage[task].cost, allowed[task]) for task in allowed}
            choice = Choice(candidate, tuple(kept), damage, use, len(tried) + 1)
            tried[key] = choice
            say(
                f"{len(kept)} of {len(ordered)} layers in INT8: "
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
        # The first layer behind the prefix is the one that did not fit.
        behind = sorted(ordered[low + 1 :], key=lambda layer: -layer.saving_ms)[:EXTRA_TRIALS]
        for layer in behind:
            wider = attempt([*best.kept, layer])
            best = wider if wider.fits else best
    wider_ones = [c for c in tried.values() if len(c.kept) > len(best.kept)]
    closest = min(wider_ones, key=lambda c: c.use[c.worst], default=None)
    return replace(best, trials=len(tried), closest=closest)


def _share(amount: float, allowed: float) -> float:
    if amount <= 0:
        return 0.0
    return amount / allowed if allowed else float("inf")

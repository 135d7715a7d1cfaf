"""What a set of tasks costs, learned from the calls that were made."""

from __future__ import annotations

from collections.abc import Collection, Mapping

NEW = 0.1
"""Weight of the newest call in the running mean."""
TRUNK = "trunk"
"""The part of a network that runs whatever the tasks are, by its name among the shares."""


class CostModel:
    """Milliseconds of a call by the tasks that run.

    A network in one part costs the same whatever is wanted of it. Of a network that is split, a set
    that has run costs what it cost; any other costs its share of the whole, scaled by what the sets
    that have run cost beside theirs.

    Args:
        shares: The part of a whole call's cost, by task and for `trunk`; None is a network in one
            part.
    """

    def __init__(self, shares: Mapping[str, float] | None) -> None:
        self._shares = shares
        self._means: dict[frozenset[str], float] = {}
        self._scale: float | None = None

    def learn(self, tasks: Collection[str], cost_ms: float) -> None:
        """Note what a call with these tasks cost in milliseconds."""
        key = self._key(tasks)
        self._means[key] = _mean(self._means.get(key), cost_ms)
        self._scale = _mean(self._scale, cost_ms / self._share(key))

    def __call__(self, tasks: Collection[str]) -> float:
        """Return what a call with these tasks is expected to cost in milliseconds.

        It is 0 while nothing has run.
        """
        key = self._key(tasks)
        return self._means.get(key, (self._scale or 0.0) * self._share(key))

    def _key(self, tasks: Collection[str]) -> frozenset[str]:
        return frozenset(tasks if self._shares else ())

    def _share(self, key: frozenset[str]) -> float:
        if not self._shares:
            return 1.0
        return self._shares[TRUNK] + sum(self._shares[task] for task in key)


def _mean(before: float | None, value: float) -> float:
    return value if before is None else before + NEW * (value - before)

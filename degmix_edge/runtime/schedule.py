"""Which tasks run on a frame: earliest deadline first, while a budget of milliseconds lasts."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from degmix_edge.errors import ConfigError
from degmix_edge.registry import unknown

MOST_HZ = 1000.0
"""A rate above this is a mistake: no camera is as fast."""
STARVED_PERIODS = 3.0
"""A task that has not run for so many of its periods is starved."""


@dataclass
class _Plan:
    """One task: how often it is wanted, and when it runs next, in seconds."""

    period_s: float
    priority: int
    due_s: float = -math.inf
    ran_s: float | None = None
    waits_since_s: float | None = None


class Schedule:
    """Decides which tasks run on each frame of one camera.

    The decision depends on the arguments alone, never on a clock or on chance, so that hours can
    be simulated in a test. A task with a rate is due once a period, on the frame that is nearest to
    its deadline. Of the due tasks, those with
    the earliest deadline come first, and of equal deadlines those with the higher priority, as long
    as the budget lasts. The first of them always runs, even if it alone exceeds the budget.

    Args:
        rates: Runs a second by task. None is every frame, and 0 is never.
        priorities: By task; a higher number goes first where deadlines are equal. The default is 0.
        budget_ms: Milliseconds that one frame may cost. None is no limit.

    Raises:
        ConfigError: A rate, a priority or the budget is out of range.
    """

    def __init__(
        self,
        rates: Mapping[str, float | None],
        *,
        priorities: Mapping[str, int] | None = None,
        budget_ms: float | None = None,
    ) -> None:
        if strange := set(priorities or {}) - set(rates):
            raise ConfigError(unknown("task", sorted(strange)[0], rates))
        self._plans = {
            task: _Plan(_period(task, rate), (priorities or {}).get(task, 0))
            for task, rate in rates.items()
        }
        self.budget_ms = budget_ms
        self._last_s: float | None = None
        self._is_spread = False

    @property
    def budget_ms(self) -> float | None:
        """Milliseconds that one frame may cost; None is no limit."""
        return self._budget_ms

    @budget_ms.setter
    def budget_ms(self, value: float | None) -> None:
        if value is not None and not 0 < value < math.inf:
            raise ConfigError(f"budget_ms: got {value}, expected milliseconds above 0, or None")
        self._budget_ms = value

    @property
    def rates(self) -> dict[str, float | None]:
        """Runs a second by task; None is every frame, and 0 is never."""
        return {task: _rate(plan.period_s) for task, plan in self._plans.items()}

    def set_rate(self, task: str, rate: float | None) -> None:
        """Change how often a task runs; the next frame follows the new rate.

        Raises:
            ConfigError: There is no such task, or the rate is out of range.
        """
        plan = self._plan(task)
        plan.period_s = _period(task, rate)
        plan.due_s = -math.inf if plan.ran_s is None else plan.ran_s + plan.period_s

    def set_priority(self, task: str, priority: int) -> None:
        """Change which of two tasks with equal deadlines runs first.

        Raises:
            ConfigError: There is no such task.
        """
        self._plan(task).priority = priority

    def choose(
        self, now_s: float, cost_ms: Callable[[Collection[str]], float] | None = None
    ) -> tuple[str, ...]:
        """Return the tasks that run on a frame, in the order of the rates.

        Args:
            now_s: When the frame was captured, in seconds on any steady clock. A time before the
                last one starts the schedule again.
            cost_ms: What a set of tasks costs in milliseconds. It is asked only if there is a
                budget.
        """
        gap_s = self._gap(now_s)
        due = [
            task
            for task, plan in self._plans.items()
            if plan.due_s <= now_s + gap_s / 2 and plan.period_s < math.inf
        ]
        for task in due:
            plan = self._plans[task]
            plan.waits_since_s = now_s if plan.waits_since_s is None else plan.waits_since_s
        chosen = self._within_budget(due, cost_ms)
        self._mark(chosen, now_s)
        return tuple(task for task in self._plans if task in chosen)

    def starved(self, now_s: float) -> dict[str, float]:
        """Return tasks that wait for three of their periods or more, and how long, in seconds.

        A task that runs on every frame is starved when it has waited for a second.
        """
        waits = {
            task: now_s - plan.waits_since_s
            for task, plan in self._plans.items()
            if plan.waits_since_s is not None
        }
        return {
            task: wait
            for task, wait in waits.items()
            if wait >= STARVED_PERIODS * (self._plans[task].period_s or 1 / STARVED_PERIODS)
        }

    def _within_budget(
        self, due: list[str], cost_ms: Callable[[Collection[str]], float] | None
    ) -> set[str]:
        if self._budget_ms is None or cost_ms is None:
            return set(due)
        order = sorted(due, key=lambda task: (self._plans[task].due_s, -self._plans[task].priority))
        chosen: list[str] = []
        for task in order:
            cost = cost_ms([*chosen, task])
            # A network in one part costs the same with every task, so that dropping saves nothing.
            # One task more that seems to cost less was measured beside another program.
            if not chosen or cost <= self._budget_ms or cost == cost_ms(chosen):
                chosen.append(task)
        return set(chosen)

    def _mark(self, chosen: Collection[str], now_s: float) -> None:
        """Note that tasks run now, and when they are due again."""
        for task in chosen:
            plan = self._plans[task]
            # Counting from the deadline keeps the mean rate; who was late does not catch up.
            before = now_s if plan.ran_s is None else plan.due_s
            plan.due_s = max(before + plan.period_s, now_s)
            plan.ran_s, plan.waits_since_s = now_s, None

    def _gap(self, now_s: float) -> float:
        """Seconds since the frame before; 0 for the first. A clock that went back starts again."""
        last, self._last_s = self._last_s, now_s
        if last is not None and now_s < last:
            for plan in self._plans.values():
                plan.due_s, plan.ran_s, plan.waits_since_s = -math.inf, None, None
            last, self._is_spread = None, False
        if last is None:
            return 0.0
        if not self._is_spread:
            self._spread(now_s, now_s - last)
        return now_s - last

    def _spread(self, now_s: float, gap_s: float) -> None:
        """Give each slow task a frame of its own: all of them ran on the first frame.

        Tasks that come due together would make one frame in three, say, twice as slow.
        """
        self._is_spread = True
        slow = [p for p in self._plans.values() if 1.5 * gap_s < p.period_s < math.inf]
        for place, plan in enumerate(sorted(slow, key=lambda plan: plan.period_s)):
            early_s = (len(slow) - place) * gap_s % plan.period_s
            plan.due_s = now_s + plan.period_s - early_s

    def _plan(self, task: str) -> _Plan:
        if task not in self._plans:
            raise ConfigError(unknown("task", task, self._plans))
        return self._plans[task]


def read_rates(text: str) -> dict[str, float | None]:
    """Return rates by task from a text such as `depth=30,semseg=10,edge=every`.

    Raises:
        ConfigError: A part has no task, or its rate is no number.
    """
    rates: dict[str, float | None] = {}
    for part in text.split(","):
        task, _, rate = (word.strip() for word in part.partition("="))
        try:
            rates[task] = None if rate == "every" else float(rate)
        except ValueError:
            raise ConfigError(
                f"rates: got {part.strip()!r}, expected TASK=HZ, or TASK=every for every frame, as "
                "in depth=30,semseg=10"
            ) from None
    return rates


def _period(task: str, rate: float | None) -> float:
    """Seconds between two runs: 0 is every frame, and infinity is never."""
    if rate is None:
        return 0.0
    if not 0 <= rate <= MOST_HZ:
        raise ConfigError(
            f"rates: {task} got {rate}, expected 0 (never) to {MOST_HZ:.0f} runs a second, or None "
            "(every frame)"
        )
    return 1 / rate if rate else math.inf


def _rate(period_s: float) -> float | None:
    if period_s == 0:
        return None
    return 0.0 if period_s == math.inf else 1 / period_s

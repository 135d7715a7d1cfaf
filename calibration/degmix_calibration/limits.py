"""How much accuracy each task may lose, for example `semseg=-0.5pt,depth=+1%,normals=+0.3deg`.

An amount is the largest change that is allowed: in points (`pt`, for a metric in percent), in
percent of the float network's value (`%`), or in the metric's own unit (`deg`, `m`). A sign is
optional; it must be the sign of a change for the worse.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from degmix_edge import metrics
from degmix_edge.errors import ConfigError
from degmix_edge.metrics import Metric
from degmix_edge.network import NetworkSpec

DEFAULT = 1.0
"""Allowance in percent of a task that the budget does not name."""
_LIMIT = re.compile(r"(?P<sign>[+-]?)(?P<amount>\d+(?:\.\d*)?|\.\d+)\s*(?P<unit>pt|%|deg|m)")
_OF_UNIT = {"%": "pt", "deg": "deg", "m": "m"}


@dataclass(frozen=True)
class Limit:
    """One task's allowance: `amount` in `unit`, which is `%` (relative) or the metric's own."""

    task: str
    amount: float
    unit: str
    metric: type[Metric]
    named: bool

    def allowed(self, reference: float) -> float:
        """Return the allowance in the metric's unit if the float network scores `reference`."""
        return self.amount / 100 * abs(reference) if self.unit == "%" else self.amount

    @property
    def text(self) -> str:
        """The limit in the form in which a user types it, for example `semseg=-0.5pt`."""
        sign = "-" if self.metric.higher_is_better else "+"
        return f"{self.task}={sign}{self.amount:g}{self.unit}"


def parse(text: str, spec: NetworkSpec) -> dict[str, Limit]:
    """Return the limit of every task of `spec`.

    Tasks that `text` does not name get `DEFAULT` percent. An amount without a task, such as `1%`,
    applies to all tasks that are not named.

    Raises:
        ConfigError: The network lacks a task, one is named twice, an amount cannot be read, its
            unit is not the metric's, or its sign allows only an improvement.
    """
    given: dict[str, str] = {}
    rest = ""
    for part in (p.strip() for p in text.split(",") if p.strip()):
        task, separator, amount = part.partition("=")
        name = spec.task(task.strip()).name if separator else ""
        if name in given or (not separator and rest):
            raise ConfigError(
                f"budget {text!r}: says two amounts for {name or 'all tasks'}; give one"
            )
        if separator:
            given[name] = amount.strip()
        else:
            rest = part
    rest = rest or f"{DEFAULT:g}%"
    return {
        task.name: _limit(task.name, given.get(task.name, rest), task.name in given, spec)
        for task in spec.tasks
    }


def _limit(task: str, text: str, named: bool, spec: NetworkSpec) -> Limit:
    metric = metrics.find(spec.task(task).metric)
    of = metric.unit or spec.task(task).unit
    own = _OF_UNIT.get(of, of)
    match = _LIMIT.fullmatch(text)
    if match is None:
        raise ConfigError(
            f"budget of {task}: got {text!r}, expected an amount such as 1% or 0.5{own}"
        )
    sign, unit = match["sign"], match["unit"]
    if unit not in ("%", own):
        raise ConfigError(
            f"budget of {task}: got {text!r}, expected % (of the float value) or {own}: its "
            f"metric is {metric.name} in {of}"
        )
    worse = "-" if metric.higher_is_better else "+"
    if sign and sign != worse:
        raise ConfigError(
            f"budget of {task}: {text!r} asks it to become better; worse is {worse} for "
            f"{metric.name}"
        )
    return Limit(task, float(match["amount"]), unit, metric, named)

"""One number that says how much better a multi-task network is than single-task networks."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from degmix_edge import metrics
from degmix_edge.errors import ConfigError


@dataclass(frozen=True)
class TaskGain:
    """One task's contribution to delta_m."""

    task: str
    metric: str
    sign: int
    value: float
    baseline: float
    source: str
    """Where the baseline comes from."""
    gain: float
    """Gain in percent of the baseline; positive is better."""


@dataclass(frozen=True)
class DeltaM:
    """`100 / T * sum_i sign_i (M_i - B_i) / B_i`: the mean of the tasks' gains, in percent."""

    delta_m: float
    tasks: list[TaskGain]


def delta_m(
    values: Mapping[str, float],
    baselines: Mapping[str, tuple[float, str]],
    metric_of: Mapping[str, str],
) -> DeltaM:
    """Compare `values` with `baselines`, which hold a number and its source.

    The measure is that of Maninis et al. 2019, "Attentive Single-Tasking of Multiple Tasks"; its
    formula is eq. 4 of Vandenhende et al. 2021, "Multi-Task Learning for Dense Prediction Tasks: A
    Survey". The sign is +1 where a higher metric is better and -1 where a lower one is. The
    baselines are single-task networks of the same backbone.

    Raises:
        ConfigError: A task has no baseline, or its baseline is 0 or not finite.
    """
    gains = []
    for task, value in values.items():
        baseline, source = baselines.get(task, (math.nan, "none given"))
        if not math.isfinite(baseline) or baseline == 0:
            raise ConfigError(
                f"delta_m: task {task!r} has baseline {baseline} ({source}), expected a number "
                f"other than 0; train one with `degmix-edge train PRESET --task {task}`"
            )
        metric = metrics.find(metric_of[task])
        sign = 1 if metric.higher_is_better else -1
        gain = 100 * sign * (value - baseline) / baseline
        gains.append(TaskGain(task, metric.name, sign, value, baseline, source, gain))
    return DeltaM(sum(g.gain for g in gains) / len(gains), gains)

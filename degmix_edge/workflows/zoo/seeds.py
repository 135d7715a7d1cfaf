"""One row for the trainings of a network with several seeds: means and standard deviations."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean, stdev

from degmix_edge.workflows.zoo.result import Baseline, Elsewhere, ZooRow


def over_seeds(rows: Sequence[ZooRow]) -> ZooRow:
    """Return one row for the trainings of a network: means and standard deviations.

    Trainings that ASHA ended early do not count beside one that ran to its end.

    Args:
        rows: One for each seed.
    """
    counted = [row for row in rows if not row.stopped_at] or list(rows)
    first = counted[0]
    remarks = [
        remark if len(rows) == 1 else f"seed {row.seeds[0]}: {remark}"
        for row in rows
        for remark in row.remarks
    ]
    names = ("values", "int8", "drop", "delta_m")
    groups = {name: [getattr(row, name) for row in counted] for name in names}
    return replace(
        first,
        latency_ms={},
        remarks=remarks,
        seeds=tuple(seed for row in counted for seed in row.seeds),
        values=means(groups["values"]),
        int8=means(groups["int8"]),
        drop=means(groups["drop"]),
        delta_m=means(groups["delta_m"]),
        std=deviations(groups),
        also={
            source: _elsewhere_over_seeds([row.also[source] for row in counted])
            for source in first.also
        },
    )


def _elsewhere_over_seeds(rows: Sequence[Elsewhere]) -> Elsewhere:
    names = ("values", "calibration", "delta_m")
    groups = {name: [getattr(row, name) for row in rows] for name in names}
    return Elsewhere(
        rows[0].images,
        means(groups["values"]),
        means(groups["calibration"]),
        means(groups["delta_m"]),
        deviations(groups),
    )


def means(group: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Return the mean of each number that every member of the group has."""
    return {key: fmean(one[key] for one in group) for key in _shared(group)}


def deviations(
    groups: Mapping[str, Sequence[Mapping[str, float]]],
) -> dict[str, dict[str, float]]:
    """Return standard deviations of samples by group and key; empty where there is one member."""
    return {
        name: {key: _deviation([one[key] for one in group]) for key in _shared(group)}
        for name, group in groups.items()
        if len(group) > 1
    }


def _shared(group: Sequence[Mapping[str, float]]) -> list[str]:
    return [key for key in group[0] if all(key in one for one in group)]


def _deviation(values: Sequence[float]) -> float:
    """The standard deviation of a sample; NaN where a value is not finite."""
    return stdev(values) if all(map(math.isfinite, values)) else math.nan


def baselines_over_seeds(by_seed: Mapping[int, Mapping[str, Baseline]]) -> dict[str, Baseline]:
    """Return what delta_m is measured against, by task: the mean over seeds.

    Args:
        by_seed: By seed and task, the network of that seed.
    """
    each = list(by_seed.values())
    values = [{task: one.value for task, one in single.items()} for single in each]
    std = deviations({"values": values}).get("values", {})
    return {
        task: Baseline(value, each[0][task].of, std.get(task, 0.0), tuple(by_seed))
        for task, value in means(values).items()
    }

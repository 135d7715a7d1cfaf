"""What a zoo gives: a row for each network, what they are compared with, and the files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from degmix_training.zoo import ZooConfig

    from degmix_edge.workflows.bench import Result

PRECISIONS = ("fp32", "int8")
MAX_DROP = 0.02
"""How much worse than FP32 a task may be in INT8, as a fraction, before a remark says so."""


@dataclass
class Elsewhere:
    """What a float network scores on a data set beside the zoo's own.

    Attributes:
        images: How many images it has.
        values: The metric of PyTorch FP32, by task.
        calibration: The expected calibration error in percent, by task with classes.
        delta_m: In percent, as `fp32`; missing where there is nothing to compare with.
        std: Standard deviations over seeds, as `ZooRow.std` has them.
    """

    images: int
    values: dict[str, float]
    calibration: dict[str, float] = field(default_factory=dict)
    delta_m: dict[str, float] = field(default_factory=dict)
    std: dict[str, dict[str, float]] = field(default_factory=dict)


@dataclass
class ZooRow:
    """One network of a zoo: one training of it, or the means over its seeds.

    What a network costs, its step and its latency are those of its first seed.

    Attributes:
        name: Its entry in the zoo.
        model: Entry of `degmix_training.models`.
        backbone: Its timm name.
        params: Parameters of the trained network.
        step: The training step of the checkpoint.
        gmac: Multiply-adds in billions: of the trained network (`trained`), and of its graph after
            folds and passes, by precision.
        values: By task: the metric of PyTorch FP32 on the validation split.
        int8: By task: the metric of the INT8 engine on the validation split.
        drop: By task: how much worse INT8 is, as a fraction.
        size_bytes: Size of the bundle, by precision.
        flips: Shares of the expert choices that differ in INT8, `router` and `total`; see
            `graph.routing.Flips`. Empty where the network has no experts.
        remarks: What a reader must know, such as a task that INT8 hurts and the layer that does it.
        delta_m: In percent, by precision; missing where there is nothing to compare with.
        latency_ms: Median of one engine call in milliseconds, by backend and precision.
        seeds: The seeds of the trainings that count.
        std: Standard deviations over these seeds (of a sample, with n - 1): those of `values`,
            `int8`, `drop` and `delta_m`, by these names. Empty where there is one seed.
        stopped_at: The step at which ASHA ended the training; 0 where it ran to its end.
        also: By data set of `ZooConfig.also`, what the float network scores there.
    """

    name: str
    model: str
    backbone: str
    params: int
    step: int
    gmac: dict[str, float]
    values: dict[str, float]
    int8: dict[str, float]
    drop: dict[str, float]
    size_bytes: dict[str, int]
    flips: dict[str, float]
    remarks: list[str] = field(default_factory=list)
    delta_m: dict[str, float] = field(default_factory=dict)
    latency_ms: dict[str, dict[str, float]] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0,)
    std: dict[str, dict[str, float]] = field(default_factory=dict)
    stopped_at: int = 0
    also: dict[str, Elsewhere] = field(default_factory=dict)

    @property
    def rank(self) -> float:
        """What networks are ordered by: delta_m in INT8; without one a network comes last."""
        return self.delta_m.get("int8", float("-inf"))

    def deviation(self, form: str) -> float | None:
        """Return the standard deviation of delta_m over seeds; None where there is none."""
        return self.std.get("delta_m", {}).get(form)


@dataclass(frozen=True)
class Baseline:
    """What delta_m of one task is measured against.

    Attributes:
        value: The metric on the validation split: the mean over seeds.
        of: The network that has it.
        std: Its standard deviation over seeds; 0 where there is one.
        seeds: The seeds. delta_m of each seed is measured against the network of that seed.
    """

    value: float
    of: str
    std: float = 0.0
    seeds: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class ZooResult:
    """A finished zoo.

    In every process of a distributed job except the first there are no networks, because the first
    one builds and scores them.

    Attributes:
        zoo: The settings.
        out: The folder with the files.
        networks: One row for each network, the best INT8 delta_m first; means over its seeds.
        trainings: One row for each network and seed, in the same order.
        baselines: By task.
        also: By data set of `ZooConfig.also` and task, what delta_m is measured against there.
        latencies: By backend and `NETWORK PRECISION`.
        machine: Where and when latencies were measured.
        versions: Versions of the packages that took part.
    """

    zoo: ZooConfig
    out: Path
    networks: tuple[ZooRow, ...] = ()
    trainings: tuple[ZooRow, ...] = ()
    baselines: Mapping[str, Baseline] = field(default_factory=dict)
    also: Mapping[str, Mapping[str, Baseline]] = field(default_factory=dict)
    latencies: Mapping[str, Mapping[str, Result]] = field(default_factory=dict)
    machine: Mapping[str, str] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)

    @property
    def page(self) -> Path:
        """The report as HTML."""
        return self.out / "zoo.html"

    @property
    def table(self) -> Path:
        """The table as CSV, one number a cell."""
        return self.out / "zoo.csv"

    @property
    def chart(self) -> Path:
        """The chart as PNG."""
        return self.out / "zoo.png"

    @property
    def numbers(self) -> Path:
        """All numbers as JSON: `values`."""
        return self.out / "zoo.json"

    @property
    def remarks(self) -> tuple[str, ...]:
        """The remarks of all networks, each with its network's name."""
        return tuple(f"{row.name}: {remark}" for row in self.networks for remark in row.remarks)

    @property
    def compared_with(self) -> str:
        """What delta_m is measured against, in words."""
        has_own_steps = any(entry.steps for entry in self.zoo.entries.values())
        same = "backbone" if has_own_steps else "budget and backbone"
        if self.zoo.reference == "single":
            return f"single-task networks of the same {same}"
        return f"the multi-task baseline of the same {same}"

    @property
    def verdict(self) -> str:
        """The best network in one line."""
        best, count = self.networks[0], len(self.remarks)
        gain, deviation = best.delta_m.get("int8", float("nan")), best.deviation("int8")
        text = f"{gain:+.1f}" if deviation is None else f"{gain:+.1f} ± {deviation:.1f}"
        seeds = "" if deviation is None else f" ({len(best.seeds)} seeds)"
        return (
            f"best in INT8: {best.name}, delta_m {text} %{seeds} against {self.compared_with}; "
            + (f"{count} remarks below" if count else "every task is within 2 % of FP32")
        )

    def values(self) -> dict[str, Any]:
        """Everything that was measured, as the JSON has it."""
        return {
            "zoo": self.zoo,
            "networks": list(self.networks),
            "trainings": list(self.trainings),
            "baselines": self.baselines,
            "also": self.also,
            "latencies": self.latencies,
            "machine": self.machine,
            "versions": self.versions,
        }

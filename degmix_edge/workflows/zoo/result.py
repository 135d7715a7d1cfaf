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
class ZooRow:
    """One network of a zoo.

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

    @property
    def rank(self) -> float:
        """What networks are ordered by: delta_m in INT8; without one a network comes last."""
        return self.delta_m.get("int8", float("-inf"))


@dataclass(frozen=True)
class Baseline:
    """What delta_m of one task is measured against: a value, and the network that has it."""

    value: float
    of: str


@dataclass(frozen=True)
class ZooResult:
    """A finished zoo.

    In every process of a distributed job except the first there are no networks, because the first
    one builds and scores them.

    Attributes:
        zoo: The settings.
        out: The folder with the files.
        networks: The best INT8 delta_m first.
        baselines: By task.
        latencies: By backend and `NETWORK PRECISION`.
        machine: Where and when latencies were measured.
        versions: Versions of the packages that took part.
    """

    zoo: ZooConfig
    out: Path
    networks: tuple[ZooRow, ...] = ()
    baselines: Mapping[str, Baseline] = field(default_factory=dict)
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
        if self.zoo.reference == "single":
            return "single-task networks of the same budget and backbone"
        return "the multi-task baseline of the same budget and backbone"

    @property
    def verdict(self) -> str:
        """The best network in one line."""
        best, count = self.networks[0], len(self.remarks)
        return (
            f"best in INT8: {best.name}, delta_m {best.delta_m.get('int8', float('nan')):+.1f} % "
            f"against {self.compared_with}; "
            + (f"{count} remarks below" if count else "every task is within 2 % of FP32")
        )

    def values(self) -> dict[str, Any]:
        """Everything that was measured, as the JSON has it."""
        return {
            "zoo": self.zoo,
            "networks": list(self.networks),
            "baselines": self.baselines,
            "latencies": self.latencies,
            "machine": self.machine,
            "versions": self.versions,
        }

"""Targets, and what a node costs on them by a roofline: the larger of its arithmetic and its bytes.

Williams et al., "Roofline", CACM 52(4), 2009. The figures and their sources are in `devices.yaml`.
"""

from __future__ import annotations

from importlib import resources

import yaml

from degmix_edge.config import Settings
from degmix_edge.errors import ConfigError
from degmix_edge.graph_cost import NodeCost
from degmix_edge.registry import unknown

BYTES = {"fp32": 4, "fp16": 2, "int8": 1}
FLOAT_BYTES = 4
"""Of the graph whose costs are given."""


class Device(Settings):
    """A target.

    Attributes:
        bandwidth_gbs: Memory bandwidth, 1e9 bytes a second.
        tflops: Dense peak by precision, 1e12 additions and multiplications a second.
        launch_us: A kernel that does nothing, in microseconds.
        source: Where the figures are from.
    """

    title: str
    bandwidth_gbs: float
    tflops: dict[str, float]
    launch_us: float
    source: str

    @property
    def float_precision(self) -> str:
        """What is not INT8 runs in this: FP16 where it is faster."""
        return "fp16" if self.tflops["fp16"] > self.tflops["fp32"] else "fp32"

    def node_ms(self, cost: NodeCost, precision: str) -> float:
        """Milliseconds of one node at best, in `fp32`, `fp16` or `int8`."""
        float_bytes = cost.weight_bytes + cost.read_bytes + cost.write_bytes
        bytes_moved = float_bytes * BYTES[precision] / FLOAT_BYTES
        seconds = max(
            2 * cost.macs / (self.tflops[precision] * 1e12),
            bytes_moved / (self.bandwidth_gbs * 1e9),
        )
        return 1e3 * seconds + 1e-3 * self.launch_us

    def saving_ms(self, cost: NodeCost) -> float:
        """What INT8 saves against the float precision of this target."""
        return self.node_ms(cost, self.float_precision) - self.node_ms(cost, "int8")


def devices() -> dict[str, Device]:
    """All targets by name."""
    text = resources.files("degmix_edge").joinpath("devices.yaml").read_text()
    return {name: Device(**values) for name, values in yaml.safe_load(text)["devices"].items()}


def find(name: str) -> Device:
    """The target called `name`.

    Raises:
        ConfigError: There is none.
    """
    have = devices()
    if name not in have:
        raise ConfigError(unknown("device", name, have))
    return have[name]

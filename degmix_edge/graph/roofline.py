"""Target devices, and the time of a node on them by the roofline model.

The time is the larger of the times for arithmetic and for memory traffic (Williams et al.,
"Roofline", CACM 52(4), 2009). The figures and their sources are in `devices.yaml`.
"""

from __future__ import annotations

from importlib import resources

import yaml

from degmix_edge.config import Settings
from degmix_edge.errors import ConfigError
from degmix_edge.graph.cost import NodeCost
from degmix_edge.registry import unknown

BYTES = {"fp32": 4, "fp16": 2, "int8": 1}
FLOAT_BYTES = 4
"""Bytes of each value in the float graph, for which costs are given."""


class Device(Settings):
    """A target device.

    Attributes:
        title: Its full name.
        bandwidth_gbs: Memory bandwidth in 1e9 bytes per second.
        tflops: Dense peak by precision in 1e12 additions and multiplications per second.
        launch_us: Time of a kernel that does nothing, in microseconds.
        source: Source of the figures.
    """

    title: str
    bandwidth_gbs: float
    tflops: dict[str, float]
    launch_us: float
    source: str

    @property
    def float_precision(self) -> str:
        """The precision of layers that are not INT8: FP16 if it is faster than FP32."""
        return "fp16" if self.tflops["fp16"] > self.tflops["fp32"] else "fp32"

    def node_ms(self, cost: NodeCost, precision: str) -> float:
        """Return the least time of one node in milliseconds, in `fp32`, `fp16` or `int8`."""
        float_bytes = cost.weight_bytes + cost.read_bytes + cost.write_bytes
        bytes_moved = float_bytes * BYTES[precision] / FLOAT_BYTES
        seconds = max(
            2 * cost.macs / (self.tflops[precision] * 1e12),
            bytes_moved / (self.bandwidth_gbs * 1e9),
        )
        return 1e3 * seconds + 1e-3 * self.launch_us

    def saving_ms(self, cost: NodeCost) -> float:
        """Return the milliseconds that INT8 saves against this target's float precision."""
        return self.node_ms(cost, self.float_precision) - self.node_ms(cost, "int8")


def devices() -> dict[str, Device]:
    """Return all targets by name."""
    text = resources.files("degmix_edge.graph").joinpath("devices.yaml").read_text()
    return {name: Device(**values) for name, values in yaml.safe_load(text)["devices"].items()}


def find(name: str) -> Device:
    """Return the target called `name`.

    Raises:
        ConfigError: There is no such target.
    """
    have = devices()
    if name not in have:
        raise ConfigError(unknown("device", name, have))
    return have[name]

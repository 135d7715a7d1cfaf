"""Six maps of 640x480 at 30 Hz through the ROS node: lost messages, and how old the others are.

    python tests/campaigns/ros_node.py --rclpy /path/to/python --seconds 300

A camera, the node and a reader are three processes on one machine. It prints a table for
docs/ros.md. The network is small, so that its own time does not hide that of the transport.
"""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import degmix_edge

sys.path.insert(0, str(Path(__file__).parents[1] / "ros"))
from rig import NodeProcess, PeerProcess, as_text, wait_for

SIZE = (480, 640)
IMAGE = "sensor_msgs/msg/Image"
CHANNELS = {"semseg": 2, "human_parts": 2, "saliency": 2, "normals": 3, "edge": 1, "depth": 1}
TOPICS = {
    "semseg": "/segmentation/mask",
    "human_parts": "/human_parts/mask",
    **{name: f"/{name}/image" for name in ("saliency", "normals", "edge", "depth")},
}
DOMAIN = 61
SLOW_SECONDS = 30.0


class SixTasks(nn.Module):
    """Six maps of full size in little time: the channels of one convolution of single pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Conv2d(3, sum(CHANNELS.values()), 1)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Image `(N, 3, H, W)` to `{task: (N, C, H, W)}`."""
        parts = self.head(image).split(list(CHANNELS.values()), dim=1)
        return dict(zip(CHANNELS, parts, strict=True))


def build(path: Path) -> Path:
    """Write the bundle of the six tasks."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, (*SIZE, 3), np.uint8) for _ in range(2)]
    classes = {"semseg": ["free", "occupied"], "human_parts": ["background", "person"]}
    degmix_edge.build(
        SixTasks(), path, size=SIZE, classes=classes, calibration=images, precision="fp32"
    )
    return path


def measure(bundle: Path, folder: Path, seconds: float, **reading: Any) -> dict[str, Any]:
    """Run the three processes for so long; `reading` is how the reader subscribes."""
    node = NodeProcess(
        bundle, DOMAIN, folder / "node.log", "-r", "image:=/camera/image_raw", "-p", "threads:=1"
    )
    camera, reader = PeerProcess("camera", DOMAIN), PeerProcess("reader", DOMAIN)
    try:
        picture = np.random.default_rng(1).integers(0, 256, (*SIZE, 3), np.uint8)
        fields = {"size": SIZE, "step": 3 * SIZE[1], "frame_id": "optical"}
        camera.camera(topic="/camera/image_raw", fps=30, image=as_text(picture), **fields)
        kinds = reading["topics"]
        reader.listen(topics={"/diagnostics": "diagnostic_msgs/msg/DiagnosticArray"})
        reader.listen(**reading)
        for topic in kinds:
            wait_for(lambda topic=topic: len(reader.got(topic=topic)) > 20, 60)
        start = {topic: len(reader.got(topic=topic)) for topic in kinds}
        used, stages = _cpu_seconds(node.process.pid), []
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            time.sleep(1)
            values = reader.diagnostics["values"]
            stages.append(
                {
                    k: float(v)
                    for k, v in values.items()
                    if k.startswith("last ") and v[:1].isdigit()
                }
            )
        cpu = _cpu_seconds(node.process.pid) - used
        got = {topic: reader.got(topic=topic)[start[topic] :] for topic in kinds}
        sent, after = {tuple(one) for one in camera.sent()}, reader.diagnostics["values"]
    finally:
        for process in (camera, reader, node):
            process.close()
    medians = {
        name.removeprefix("last "): float(np.median([one[name] for one in stages]))
        for name in stages[0]
    }
    return {"got": got, "sent": sent, "stages": medians, "after": after, "cpu": cpu}


def rows(found: dict[str, Any]) -> list[str]:
    """Rows of a table, one for each topic."""
    stages = found["stages"]
    inference = stages["pre_ms"] + stages["net_ms"] + stages["post_ms"]
    # A frame is published on all topics: what one of them lacks, was lost. The topics are read one
    # after the other while messages arrive, so that the last ones of some were not yet there.
    seen = [sorted(tuple(one[:2]) for one in got) for got in found["got"].values()]
    first, last = max(one[0] for one in seen), min(one[-1] for one in seen)
    inner = {frame for frame in set().union(*seen) if first <= frame <= last}
    lines = []
    for topic, got in found["got"].items():
        stamps = {tuple(one[:2]) for one in got}
        assert stamps <= found["sent"], f"{topic}: a stamp that no image had"
        assert {one[2] for one in got} == {"optical"}, topic
        ages = np.array([one[3] for one in got]) / 1e6
        p50, p95, p99 = np.percentile(ages, (50, 95, 99))
        arrived = np.median([one[4] for one in got]) / 1e6
        lost = len(inner - stamps)
        lines.append(
            f"| `{topic}` | {len(got)} | {lost} | {p50:.1f} | {p95:.1f} | {p99:.1f} | "
            f"{arrived:.1f} | {arrived - inference:.1f} |"
        )
    return lines


def tell(found: dict[str, Any], seconds: float) -> None:
    """Print the table of a measurement, and what the node itself says."""
    print("| topic | messages | lost | age p50 | p95 | p99 | on arrival p50 | over inference |")
    print("|---|---|---|---|---|---|---|---|")
    print("\n".join(rows(found)))
    print("stages, ms:", {name: round(value, 1) for name, value in found["stages"].items()})
    print("drops:", {k: v for k, v in found["after"].items() if k.startswith("dropped")})
    print(
        f"images {found['after']['images']}, CPU {100 * found['cpu'] / seconds:.0f} % of a core,"
        f" load {os.getloadavg()[0]:.1f}",
        flush=True,
    )


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    """Measure six maps, and then one map that a slow reader takes, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rclpy", default=os.environ.get("DEGMIX_TEST_RCLPY", sys.executable))
    parser.add_argument("--seconds", type=float, default=300)
    options = parser.parse_args()
    os.environ["DEGMIX_TEST_RCLPY"] = options.rclpy
    about = "import rclpy, importlib.metadata as m; print(m.version('ros-rclpy'))"
    version = subprocess.check_output([options.rclpy, "-c", about], text=True).strip()
    print(platform.machine(), f"{os.cpu_count()} cores, rclpy {version}, {time.strftime('%F')}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        bundle = build(folder / "six.degmix")
        six = dict.fromkeys(TOPICS.values(), IMAGE)
        print("\nSix maps, a prompt reader")
        tell(measure(bundle, folder, options.seconds, topics=six, depth=10), options.seconds)
        seconds = min(SLOW_SECONDS, options.seconds)
        for depth in (1, 10):
            print(f"\nOne map, a reader that needs 100 ms for each, depth {depth}")
            one = {TOPICS["depth"]: IMAGE}
            tell(measure(bundle, folder, seconds, topics=one, depth=depth, work_s=0.1), seconds)


if __name__ == "__main__":
    main()

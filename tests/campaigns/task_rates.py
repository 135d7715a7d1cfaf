"""What tasks at their own rates cost and lose, on rendered sequences of a moving camera.

    python tests/campaigns/task_rates.py degmix_tiny --sequences 30

Each sequence is one scene, 13 frames at 30 Hz if not told otherwise. The camera walks 0.5 m/s,
turns 20 degrees a second and bobs by 1 cm; or all of that three times as fast. Depth runs on every
frame, semseg on every third and normals on every sixth, and no other task runs after the first
frame. Everything is compared, frame by frame, with all tasks on every frame.

Errors are against the scene's labels. A difference is relative to that of all tasks, and stands
with its jackknife standard error over the sequences.
"""

from __future__ import annotations

import argparse
import platform
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path

import numpy as np
from degmix_training.data import synthetic

from degmix_edge.metrics import ignored
from degmix_edge.runtime import Maps, Session, load
from degmix_edge.runtime.warp import warp
from degmix_edge.workflows.build import build

HZ = 30.0
STRIDES = {"depth": (1, 0), "semseg": (3, 0), "normals": (6, 1)}
"""Frames from one run to the next, and the phase."""
FIRST_SEED = 3_000_000
"""Scenes that no data set has."""
OTHER_SCENE = 1_000


@dataclass
class Totals:
    """What a metric is computed of, by sequence."""

    parts: list[np.ndarray] = field(default_factory=list)

    def add(self, sequence: int, part: np.ndarray) -> None:
        """Add what one frame contributes."""
        while len(self.parts) <= sequence:
            self.parts.append(np.zeros_like(part))
        self.parts[sequence] = self.parts[sequence] + part


def rmse_parts(depth: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Sum of squared errors, and their number."""
    valid = np.isfinite(depth)
    return np.array([((depth - label)[valid].astype(np.float64) ** 2).sum(), valid.sum()])


def angle_parts(normals: np.ndarray, label: np.ndarray) -> np.ndarray:
    """Sum of angles in degrees, and their number."""
    valid = np.isfinite(normals).all(-1)
    cosine = (normals * label).sum(-1)[valid].clip(-1, 1)
    return np.array([np.degrees(np.arccos(cosine.astype(np.float64))).sum(), valid.sum()])


def confusion(classes: np.ndarray, label: np.ndarray) -> np.ndarray:
    """How often each class of the label got each class of the map."""
    count = len(synthetic.CLASSES["semseg"])
    valid = (classes != ignored(count)) & (label != ignored(count))
    pairs = label[valid].astype(np.int64) * count + classes[valid]
    return np.bincount(pairs, minlength=count * count).reshape(count, count)


def rmse(parts: np.ndarray) -> float:
    """RMSE in metres."""
    return float(np.sqrt(parts[0] / parts[1]))


def mean_angle(parts: np.ndarray) -> float:
    """Mean angle in degrees."""
    return float(parts[0] / parts[1])


def miou(parts: np.ndarray) -> float:
    """Mean IoU in percent, over the classes that labels have."""
    hits, union = np.diag(parts), parts.sum(0) + parts.sum(1) - np.diag(parts)
    present = parts.sum(1) > 0
    return float(100 * np.mean(hits[present] / union[present]))


METRICS: dict[str, tuple[Callable[..., np.ndarray], Callable[[np.ndarray], float]]] = {
    "depth": (rmse_parts, rmse),
    "semseg": (confusion, miou),
    "normals": (angle_parts, mean_angle),
}


def difference(whole: Totals, other: Totals, metric: Callable) -> tuple[float, float, float]:
    """The metric of all tasks, the relative difference in percent, and its standard error."""
    pair = [np.stack(totals.parts) for totals in (whole, other)]
    sums = [parts.sum(0) for parts in pair]

    def relative(without: int | None) -> float:
        a, b = (
            metric(s if without is None else s - p[without])
            for s, p in zip(sums, pair, strict=True)
        )
        return 100 * (b / a - 1)

    count = len(pair[0])
    left = np.array([relative(index) for index in range(count)])
    error = np.sqrt((count - 1) / count * ((left - left.mean()) ** 2).sum())
    return metric(sums[0]), relative(None), float(error)


def pose_at(seed: int, frame: int, speed: float) -> np.ndarray:
    """From the camera at a frame to the camera at frame 0, `(4, 4)`."""
    seconds, side = frame / HZ * speed, 1 if seed % 2 else -1
    angle = side * np.deg2rad(20) * seconds
    c, s = np.cos(angle), np.sin(angle)
    pose = np.eye(4)
    pose[:3, :3] = [[c, 0, s], [0, 1, 0], [-s, 0, c]]
    pose[:3, 3] = [0, 0.01 * np.sin(2 * np.pi * 1.8 * seconds), 0.5 * seconds]
    return pose


def sequence(
    seed: int, size: tuple[int, int], speed: float, frames: int
) -> Iterator[synthetic.Scene]:
    """The frames of one sequence."""
    for frame in range(frames):
        yield synthetic.render(seed, *size, pose=pose_at(seed, frame, speed), frame=frame)


def tasks_at(frame: int) -> list[str]:
    """The tasks that run on a frame; None of them is left out on the first."""
    return [t for t, (stride, phase) in STRIDES.items() if frame % stride == phase % stride]


class Measured:
    """What one speed gives: totals by variant and task, and CPU time by frame."""

    VARIANTS = ("fresh", "own rate", "held", "warped", "own rate, states of another scene")

    def __init__(self) -> None:
        self.totals = {(v, t): Totals() for v in self.VARIANTS for t in METRICS}
        self.totals |= {("fresh on its frames", t): Totals() for t in METRICS}

    def add(self, variant: str, index: int, maps: Mapping[str, np.ndarray], scene) -> None:
        """Add the maps of one frame."""
        for task in METRICS.keys() & maps.keys():
            label, parts = scene.labels[task], METRICS[task][0]
            self.totals[variant, task].add(index, parts(np.asarray(maps[task]), label))

    def run(self, session: Session, index: int, speed: float, frames: int) -> None:
        """Run one sequence in each variant."""
        size, seed = (session.spec.height, session.spec.width), FIRST_SEED + index
        scenes = list(sequence(seed, size, speed, frames))
        own, strange = session.sequence(), session.sequence()
        strange(synthetic.render(seed + OTHER_SCENE, *size).image)
        held: dict[str, tuple[int, np.ndarray]] = {}
        for frame, scene in enumerate(scenes):
            fresh = session(scene.image)
            tasks = tasks_at(frame) if frame else None
            maps = own(scene.image, tasks=tasks)
            held |= {task: (frame, maps[task]) for task in METRICS if task in maps}
            if not frame:
                continue
            self.add("fresh", index, fresh, scene)
            self.add("fresh on its frames", index, {t: fresh[t] for t in tasks}, scene)
            self.add("own rate", index, {t: maps[t] for t in tasks}, scene)
            others = strange(scene.image, tasks=tasks)
            self.add("own rate, states of another scene", index, others, scene)
            self.add("held", index, {t: m for t, (_, m) in held.items()}, scene)
            self.add("warped", index, self._warped(held, frame, scene, maps, (seed, speed)), scene)

    def _warped(
        self, held: Mapping, frame: int, scene, maps: Maps, where: tuple[int, float]
    ) -> dict[str, np.ndarray]:
        warped = {}
        for task, (then, array) in held.items():
            warped[task] = array
            if task != "depth" and then != frame:
                seed, speed = where
                poses = [pose_at(seed, one, speed) for one in (then, frame)]
                pose = np.linalg.inv(poses[0]) @ poses[1]
                warped[task] = warp(array, maps["depth"], scene.intrinsics, pose)
        return warped

    def lines(self) -> list[str]:
        """Rows of the table."""
        rows = []
        for variant in self.VARIANTS[1:]:
            ran = variant.startswith("own rate")
            cells = []
            for task, (_, metric) in METRICS.items():
                base = self.totals["fresh on its frames" if ran else "fresh", task]
                value, change, error = difference(base, self.totals[variant, task], metric)
                cells.append(f"{change:+.2f} +- {error:.2f} % of {value:.3f}")
            rows.append(f"| {variant} | " + " | ".join(cells) + " |")
        return rows


def cost(session: Session, frames: int, repeats: int) -> tuple[float, float, float, list[float]]:
    """CPU ms of a frame with all tasks and at own rates, the median ratio, and each frame's."""
    size = session.spec.height, session.spec.width
    images = [scene.image for scene in sequence(FIRST_SEED, size, 1, frames)]
    whole, own = [], []
    for _ in range(repeats):
        both = session.sequence(), session.sequence()
        times = np.zeros((2, frames))
        for frame, image in enumerate(images):
            for which, tasks in ((0, None), (1, tasks_at(frame) if frame else None)):
                start = time.process_time()
                both[which](image, tasks=tasks)
                times[which, frame] = 1e3 * (time.process_time() - start)
        whole.append(times[0, 1:])
        own.append(times[1, 1:])
    ratios = np.sum(own, axis=1) / np.sum(whole, axis=1)
    each = np.median(own, axis=0) / np.median(whole)
    mean_whole, mean_own = (float(np.median(np.mean(t, axis=1))) for t in (whole, own))
    return mean_whole, mean_own, float(np.median(ratios)), [float(f) for f in each]


def main() -> None:
    """Build a split bundle of the network and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("network", help="A checkpoint, or degmix_tiny.")
    parser.add_argument("--precision", default="fp32", choices=["fp32", "int8"])
    parser.add_argument("--sequences", type=int, default=30)
    parser.add_argument("--frames", type=int, default=13, help="Of each sequence.")
    parser.add_argument("--repeats", type=int, default=15)
    given = parser.parse_args()
    versions = {p: metadata.version(p) for p in ("onnxruntime", "numpy")}
    print(f"{platform.machine()}, Python {platform.python_version()}, {versions}")
    with tempfile.TemporaryDirectory() as folder:
        bundle = build(
            given.network,
            Path(folder) / "rates.degmix",
            precision=given.precision,
            calibration="synthetic:32",
            backend="onnxruntime",
            split=True,
        )
        split = bundle.manifest.split
        assert split is not None
        with load(bundle, threads=1) as session:
            macs = split.cost({"depth": 30, "semseg": 10, "normals": 5})
            print(
                f"{given.network} {given.precision}, states are made anew in {split.refresh} calls"
            )
            mean_whole, mean_own, ratio, each = cost(session, given.frames, given.repeats)
            print(f"CPU ms, one thread: all {mean_whole:.2f}, own rates {mean_own:.2f}")
            print(f"ratio {100 * ratio:.1f} %, in multiply-adds {100 * macs:.1f} %")
            print("frames: " + " ".join(f"{100 * f:.0f}" for f in each) + " %")
            for speed in (1, 3):
                measured = Measured()
                for index in range(given.sequences):
                    measured.run(session, index, speed, given.frames)
                print(f"\nspeed {speed}, {given.sequences} sequences\n")
                print("| | " + " | ".join(METRICS) + " |\n|---|" + "---|" * len(METRICS))
                print("\n".join(measured.lines()), flush=True)


if __name__ == "__main__":
    main()

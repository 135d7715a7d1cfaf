"""Many calls of one session, and many sessions: memory and open files stay what they were."""

from __future__ import annotations

import gc
import os
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import skimage.data

from degmix_edge.runtime import load

WARM = 0.1
"""Share of the calls before the first sample: caches and arenas fill up."""
SAMPLES = 200


@dataclass(frozen=True)
class Soak:
    """What many calls cost.

    Attributes:
        calls: How many.
        seconds: How long they took.
        slope_mb_per_hour: Growth of the resident memory, by a line through all samples.
        files: Open files at the first sample and at the end.
    """

    calls: int
    seconds: float
    slope_mb_per_hour: float
    files: tuple[int, int]


def soak(bundle: Path, calls: int) -> Soak:
    """Call a session with images of two sizes, an image file, and a future, in turn."""
    images = [skimage.data.coffee()[:200, :300].copy(), skimage.data.astronaut()]
    every = max(1, int(calls * (1 - WARM)) // SAMPLES)
    times, sizes, files = [], [], []
    start = time.monotonic()
    with load(bundle, threads=1) as session:
        for index in range(calls):
            image = images[index % 2]
            maps = session.submit(image).result() if index % 3 == 0 else session(image)
            assert maps
            if index >= calls * WARM and index % every == 0:
                gc.collect()
                times.append(time.monotonic() - start)
                sizes.append(_resident_bytes())
                files.append(len(os.listdir("/proc/self/fd")))
    slope = np.polyfit(times, sizes, 1)[0] * 3600 / 1e6
    return Soak(calls, time.monotonic() - start, float(slope), (files[0], files[-1]))


def _resident_bytes() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("VmRSS"))

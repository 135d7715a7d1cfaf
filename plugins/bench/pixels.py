"""Time frames on the processor with and without our library, alternating in one run.

    make cpu-ops && python plugins/bench/pixels.py [--runs 200]

Prints the median milliseconds of CPU time of this thread.
"""

from __future__ import annotations

import argparse
import os
import time
from collections.abc import Callable

import numpy as np

from degmix_edge import pixel_library
from degmix_edge.camera import FrameFormat, to_rgb
from degmix_edge.preprocess import Fit, fit_image

HEIGHT, WIDTH = 480, 640
SHAPES: dict[FrameFormat, tuple[int, ...]] = {
    "bgr": (HEIGHT, WIDTH, 3),
    "nv12": (HEIGHT * 3 // 2, WIDTH),
    "yuyv": (HEIGHT, WIDTH, 2),
    "uyvy": (HEIGHT, WIDTH, 2),
    "bayer_rggb": (HEIGHT, WIDTH),
}


def cases() -> dict[str, Callable[[], object]]:
    """Return what is timed, by name."""
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    fit = Fit(height=192, width=256)
    found: dict[str, Callable[[], object]] = {"resize": lambda: fit_image(picture, fit)}
    for kind, shape in SHAPES.items():
        frame = rng.integers(0, 256, shape, np.uint8)
        found[kind] = lambda frame=frame, kind=kind: to_rgb(frame, kind)
    nv12 = rng.integers(0, 256, SHAPES["nv12"], np.uint8)
    found["nv12 and resize"] = lambda: fit_image(to_rgb(nv12, "nv12"), fit)
    return found


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=200)
    runs = parser.parse_args().runs
    path = pixel_library.library()
    if path is None:
        raise SystemExit("no library: make cpu-ops")
    timed = cases()
    times: dict[tuple[str, str], list[float]] = {}
    for _ in range(runs):
        for name, call in timed.items():
            for value in ("none", str(path)):
                os.environ[pixel_library.VARIABLE] = value
                start = time.thread_time()
                call()
                times.setdefault((name, value), []).append(1e3 * (time.thread_time() - start))
    print(f"{'':18}numpy, Pillow  library  ratio")
    for name in timed:
        before, after = (np.median(times[name, value]) for value in ("none", str(path)))
        print(f"{name:18}{before:10.2f} ms {after:8.2f} ms {before / after:6.1f}")


if __name__ == "__main__":
    main()

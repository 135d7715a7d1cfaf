"""A camera that never waits, tasks at their own rates, and a consumer that is sometimes busy."""

import time
from collections.abc import Iterator

import numpy as np
import skimage.data

import degmix_edge
from degmix_edge.capture import CapturedFrame, IterableSource

HEIGHT, WIDTH, FPS, FRAMES = 360, 480, 20, 40


def camera() -> Iterator[CapturedFrame]:
    """A camera that moves over a photograph, with the time at which it saw each frame."""
    photo, start = skimage.data.stereo_motorcycle()[0], time.monotonic_ns()
    for index in range(FRAMES):
        due = start + index * 10**9 // FPS
        time.sleep(max(0, due - time.monotonic_ns()) / 1e9)
        image = np.ascontiguousarray(photo[:HEIGHT, 5 * index : 5 * index + WIDTH])
        yield CapturedFrame(image, time.monotonic_ns(), captured_ns=due, stamp_ns=index)


source = IterableSource(camera(), is_live=True)
rates = {"depth": 20, "semseg": 5}
with degmix_edge.stream("robot.degmix", source, rates=rates) as stream:
    for result in stream:
        near = float(result.maps["depth"].min())
        age = result.frames_old["semseg"]
        print(f"frame {result.stamp_ns}: {near:.1f} m, {result.age_ms:.0f} ms, semseg of {age} ago")
        if result.stamp_ns % 10 == 0:
            time.sleep(0.3)  # frames go on; the next result is the newest, not the next

counts = stream.stats.cameras["camera"]
lost = sum(counts.dropped.values())
print(f"{counts.captured} frames: {counts.delivered} delivered, {lost} dropped, runs {counts.runs}")

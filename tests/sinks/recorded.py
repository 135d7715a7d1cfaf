"""Results of a real stream for tests of sinks."""

import numpy as np

import degmix_edge
from degmix_edge.capture import CapturedFrame

START_NS = 1_700_000_000_000_000_000
STEP_NS = 33_333_333


def as_sent(task_map):
    """The numbers of a map in a message: probabilities in 8 bits, and no depth of zero."""
    values = np.asarray(task_map)
    if task_map.spec.decode == "sigmoid":
        return np.rint(values * 255).astype(np.uint8)
    if task_map.task == "depth":
        return np.where(values > 0, values, np.float32("nan"))
    return values


def frames(pictures, count, **fields):
    """Frames at 30 Hz, with stamps."""
    return [
        CapturedFrame(
            pictures[i % len(pictures)],
            0,
            stamp_ns=START_NS + i * STEP_NS,
            index=i,
            frame_id="optical",
            **fields,
        )
        for i in range(count)
    ]


def results(session, frames, **options):
    """The result of every frame."""
    with degmix_edge.stream(session, frames, **options) as stream:
        return list(stream)

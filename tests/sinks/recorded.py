"""Results of a real stream for tests of sinks."""

import degmix_edge
from degmix_edge.capture import CapturedFrame

START_NS = 1_700_000_000_000_000_000
STEP_NS = 33_333_333


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

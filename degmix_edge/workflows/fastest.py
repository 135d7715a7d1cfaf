"""Which precision computes a network faster on this machine: engines are timed in turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from degmix_edge import progress
from degmix_edge.backends import EngineBackend
from degmix_edge.errors import ConfigError
from degmix_edge.quant.recipe import Precision
from degmix_edge.runtime import Session
from degmix_edge.runtime.frames import Frame
from degmix_edge.workflows.bench import bench_sessions
from degmix_edge.workflows.engine import Part

CALLS = 40
"""Timed calls of each precision."""
FRAMES = 8
"""Images that are cycled through."""


def candidates(backend: type[EngineBackend]) -> tuple[Precision, Precision]:
    """Return the precisions that are worth building for a backend.

    ONNX Runtime computes FP16 in FP32 on a processor, so that FP32 is its float precision.

    Raises:
        ConfigError: Its engines cannot run on this machine, so that nothing can be timed.
    """
    reason = backend.unavailable()
    if reason is not None:
        raise ConfigError(
            f"precision 'auto' times the engines, and {backend.name} cannot run here ({reason}); "
            "give fp32, fp16 or int8"
        )
    return ("int8", "fp32") if backend.runs_model else ("int8", "fp16")


def fastest(parts: Mapping[Precision, Part], frames: Sequence[Frame]) -> Precision:
    """Time one engine of each precision in alternating blocks, show the table, return the faster.

    Args:
        parts: By precision.
        frames: Real images to cycle through.
    """
    with ExitStack() as stack:
        sessions = {}
        for precision, part in parts.items():
            engine = part.engine
            running = engine.backend(part.product.spec, engine.files[engine.backend.engine_file])
            session = Session(running, part.product.fit)
            sessions[str(precision)] = stack.enter_context(session)
        advance = stack.enter_context(progress.counting("time precisions", CALLS * len(sessions)))
        results = bench_sessions(sessions, frames[:FRAMES], calls=CALLS, advance=advance)
    best = min(parts, key=lambda precision: results[precision].median_net_ms)
    rows = []
    for precision, part in parts.items():
        times = results[precision].percentiles["net_ms"]
        cells = [f"{times[name]:.2f}" for name in ("p50", "p90", "p99")]
        size = f"{len(part.product.model) / 1e6:.1f}"
        rows.append([precision, *cells, size, "kept" if precision == best else ""])
    columns = ["precision", "net p50 ms", "p90 ms", "p99 ms", "MB", ""]
    progress.table("precisions, timed in turn on this machine", columns, rows)
    return best

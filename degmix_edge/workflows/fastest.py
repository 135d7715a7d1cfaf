"""The fastest form of a network on this machine: backends, precisions and threads timed in turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from degmix_edge import backends, progress
from degmix_edge.backends import PLAIN, EngineBackend, EngineOptions
from degmix_edge.bundle.manifest import Form
from degmix_edge.errors import AccuracyError, BackendError, ConfigError
from degmix_edge.quant.recipe import Precision
from degmix_edge.runtime import Session
from degmix_edge.runtime.frames import Frame
from degmix_edge.workflows.bench import Result, bench_sessions
from degmix_edge.workflows.engine import Part

CALLS = 40
"""Timed calls of each form."""
FRAMES = 8
"""Images that are cycled through."""
STEADY = 0.2
"""Rounds of one form that differ by more than this share were disturbed by other programs."""
Kind = tuple[str, Precision]
"""The backend and the precision of a form."""


@dataclass(frozen=True)
class Loss:
    """What a form costs the task that it hurts most.

    Attributes:
        text: The task and what it loses, in words.
        fits: Whether every task is within the budget, if there is one.
    """

    text: str
    fits: bool = True


def candidates(
    name: str, precision: Precision | None = None, options: EngineOptions = PLAIN
) -> dict[Precision, list[type[EngineBackend]]]:
    """Return the backends that are worth building for, by precision.

    Args:
        name: A backend's name, or `auto` for all of this machine.
        precision: The only one that is asked for; None takes all of them.
        options: What is asked of the engine; where `auto` has the choice, a backend that does not
            have it takes no part.

    Raises:
        ConfigError: No engine can run on this machine, so that nothing can be timed.
    """
    chosen = backends.choose(name, to_build=True)
    reason = chosen.unavailable()
    if reason is not None:
        raise ConfigError(
            f"precision 'auto' times the engines, and {chosen.name} cannot run here ({reason}); "
            "give fp32, fp16, bf16 or int8"
        )
    takes = [backend for backend in backends.runnable(name) if _takes(backend, options)]
    if precision is not None:
        # Kernels for the precision first: other backends compute it in a wider one.
        own = [backend for backend in takes if precision in backend.precisions()]
        return {precision: own or [b for b in takes if b.lacks(precision) is None]}
    found: dict[Precision, list[type[EngineBackend]]] = {}
    for backend in takes:
        if reason := backend.lacks("bf16"):
            progress.note(f"bf16 takes no part: {reason}", "forms")
        for each in backend.precisions():
            found.setdefault(each, []).append(backend)
    return found


def _takes(backend: type[EngineBackend], options: EngineOptions) -> bool:
    """Whether the backend has what is asked of an engine; one that does not is named in a note."""
    try:
        backend.refuse_options(options)
    except BackendError as error:
        progress.note(f"{backend.name} takes no part: {error}", "forms")
        return False
    return True


def thread_counts(backend: type[EngineBackend]) -> list[int]:
    """Return the numbers of threads that are worth timing: one, and all cores."""
    return [1] if backend.has_lanes else sorted({1, backends.processors()})


def fastest(
    parts: Mapping[Kind, Part], losses: Mapping[Kind, Loss], frames: Sequence[Frame]
) -> tuple[Kind, tuple[Form, ...]]:
    """Time all forms in alternating blocks, show the table, and choose the fastest that fits.

    Args:
        parts: One engine for each backend and precision.
        losses: What each costs.
        frames: Real images to cycle through.

    Returns:
        The backend and precision of the chosen form, and all forms, the chosen one first.

    Raises:
        AccuracyError: None is within the budget; the message has the losses.
    """
    counts = {kind: thread_counts(part.engine.backend) for kind, part in parts.items()}
    names = {(kind, n): f"{kind[0]} {kind[1]} {n}" for kind, all_n in counts.items() for n in all_n}
    with ExitStack() as stack:
        sessions = {}
        for (kind, threads), name in names.items():
            part, engine = parts[kind], parts[kind].engine
            data = engine.files[engine.backend.engine_file]
            running = engine.backend(part.product.spec, data, threads=threads)
            sessions[name] = stack.enter_context(Session(running, part.product.fit))
        advance = stack.enter_context(progress.counting("time forms", CALLS * len(sessions)))
        results = bench_sessions(sessions, frames[:FRAMES], calls=CALLS, advance=advance)
    found = []
    for (kind, threads), name in names.items():
        engine, loss = parts[kind].engine, losses[kind]
        form = Form(
            backend=kind[0],
            precision=kind[1],
            threads=threads,
            net_ms=round(results[name].median_net_ms, 4),
            size_bytes=len(engine.files[engine.backend.engine_file]),
            worst=loss.text,
            fits=loss.fits,
        )
        found.append((form, results[name]))
    _warn_of_load([result for _, result in found])
    forms = sorted((form for form, _ in found), key=lambda form: (not form.fits, form.net_ms))
    _show(forms, dict(found))
    if not forms[0].fits:
        losing = "; ".join(f"{kind[0]} {kind[1]}: {loss.text}" for kind, loss in losses.items())
        raise AccuracyError(f"no form is within the budget. {losing}. Widen the budget")
    return (forms[0].backend, forms[0].precision), tuple(forms)


def _show(forms: Sequence[Form], results: Mapping[Form, Result]) -> None:
    rows = []
    for index, form in enumerate(forms):
        times = results[form].percentiles["net_ms"]
        cells = [f"{times[name]:.2f}" for name in ("p50", "p90", "p99")]
        fate = "kept" if form.fits and not index else "" if form.fits else "over the budget"
        cells += [f"{form.size_bytes / 1e6:.1f}", form.worst, fate]
        rows.append([form.backend, form.precision, str(form.threads), *cells])
    columns = ["backend", "precision", "threads", "net p50 ms", "p90 ms", "p99 ms", "MB"]
    title = "forms, timed in turn on this machine"
    progress.table(title, [*columns, "worst task", ""], rows)


def _warn_of_load(results: Sequence[Result]) -> None:
    worst = max(results, key=lambda result: result.spread)
    if worst.spread > STEADY:
        progress.warn(
            f"{worst.name}: rounds of the same calls differ by {100 * worst.spread:.0f} %, because "
            "other programs use this processor; measure again on a quiet machine",
            "forms",
        )

"""The whole way on this machine: build, run, time, compare, show."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from degmix_edge import progress
from degmix_edge.bundle.contents import Bundle, open_bundle
from degmix_edge.errors import BundleError
from degmix_edge.files import make_folder
from degmix_edge.progress import Progress, counting, listening, working
from degmix_edge.runtime import Session, load
from degmix_edge.workflows.bench import Result, bench_sessions, machine
from degmix_edge.workflows.build import build
from degmix_edge.workflows.compare import TENSOR_IMAGES
from degmix_edge.workflows.compare_report import panel_of, picture_of
from degmix_edge.workflows.comparison import Comparison, compare_sessions, tensor_differences
from degmix_edge.workflows.demo_report import (
    CALIBRATION,
    CHECKPOINT,
    DATA,
    KEEP_FLOAT,
    Demo,
    write_report,
)
from degmix_edge.workflows.networks import read_network
from degmix_edge.workflows.reference import reference_session
from degmix_edge.workflows.sources import NamedImage, images, photographs

if TYPE_CHECKING:
    import onnx

    from degmix_edge.report.views import Panel

SCENES = {"fp32": 16, "int8": None}
"""FP32 is equal to rounding, tensor by tensor; sixteen scenes are plenty. INT8 takes all."""
SCENES_SHOWN = 3
FAR_M = 6.0
"""Far end of the depth colours in metres, one for all pictures so that they can be compared."""


def demo(
    out: str | Path,
    *,
    scenes: int = 64,
    calls: int = 60,
    fresh: bool = False,
    progress: Progress | None = None,
) -> Demo:
    """Build FP32 and INT8 bundles of `degmix_lite0`, run, time and compare them, write a report.

    Args:
        out: The folder for bundles, report.html, sheet.png and results.json.
        scenes: Held-out synthetic scenes to compare on.
        calls: Calls to time.
        fresh: Build again what an earlier demo left in `out`.
        progress: Called with an `Event` as the demo goes on.

    Raises:
        DegmixError: A part failed. A bundle out of tolerance raises only in `Demo.check`.
    """
    out = Path(out)
    make_folder(out)
    with ExitStack() as stack:
        stack.enter_context(listening(progress))
        network = functools.cache(_export)  # once, and only if a bundle is built
        bundles = {p: _bundle(out, p, fresh, network) for p in ("fp32", "int8")}
        reference = stack.enter_context(reference_session(bundles["int8"], None))
        fit = bundles["int8"].manifest.fit
        specs = {task.name: task for task in bundles["int8"].manifest.network.tasks}
        held_out, photos = images(f"{DATA}:{scenes}", fit, specs=specs), photographs()
        sessions = {p: stack.enter_context(load(b)) for p, b in bundles.items()}
        comparisons = {
            p: _compare(bundles[p], sessions[p], reference, held_out[: SCENES[p]]) for p in bundles
        }
        timed = {"engine int8": sessions["int8"], "engine fp32": sessions["fp32"]}
        timed["PyTorch eager"] = reference
        with counting("bench", calls * len(timed)) as advance:
            pictures = [item.image for item in photos]
            latencies = bench_sessions(timed, pictures, calls=calls, advance=advance)
        shown = {"PyTorch fp32": reference, "engine int8": sessions["int8"]}
        panels = [_panel(item, shown) for item in (*photos, *held_out[:SCENES_SHOWN])]
        found = Demo(
            out, bundles, comparisons, latencies, _values(bundles, comparisons, latencies, scenes)
        )
        write_report(found, panels)
    return found


def _panel(item: NamedImage, sessions: Mapping[str, Session]) -> Panel:
    """One picture with the maps of every session, and its labels where there are some."""
    image, labels = item.load()
    maps = {name: session(image) for name, session in sessions.items()}
    kind = "held-out synthetic scene" if labels else "photograph from scikit-image"
    session = next(iter(sessions.values()))
    picture = picture_of(image, session.fit, session.spec)
    return panel_of(item.name, kind, picture, maps, labels, far_m=FAR_M)


def _bundle(
    out: Path, precision: str, fresh: bool, network: Callable[[], onnx.ModelProto]
) -> Bundle:
    """The bundle of an earlier demo if it is whole and of this checkpoint, else a new one."""
    from degmix_training.checkpoint import load as load_checkpoint
    from degmix_training.checkpoint import locate

    target = out / f"{CHECKPOINT}.{precision}.degmix"
    if target.exists() and not fresh:
        checkpoint = load_checkpoint(locate(CHECKPOINT))
        try:
            opened = open_bundle(target)
            if opened.manifest.network.source.sha256 == checkpoint.sha256:
                progress.note(f"{target}: from an earlier demo (--fresh builds it again)")
                return opened
        except BundleError as error:
            progress.warn(f"{error}; building it again")
    progress.note(f"building {target}")
    options: dict[str, Any] = {"calibration": CALIBRATION, "force": True}
    if precision == "int8":
        options["keep_float"] = KEEP_FLOAT
    return build(network(), target, precision=precision, **options)


def _export() -> onnx.ModelProto:
    """The float network; its metadata names the checkpoint that it is of."""
    with working("export"):
        return read_network(CHECKPOINT).model


def _compare(
    bundle: Bundle, session: Session, reference: Session, held_out: list[NamedImage]
) -> Comparison:
    few = [
        item.feed(bundle.manifest.fit, bundle.manifest.network) for item in held_out[:TENSOR_IMAGES]
    ]
    tensors = tensor_differences(bundle, reference.backend, few)
    with counting(f"compare {bundle.manifest.precision}", len(held_out)) as advance:
        pairs = (item.load() for item in held_out)
        return compare_sessions(session, reference, pairs, tensors, advance=advance)


def _values(
    bundles: dict[str, Bundle],
    comparisons: dict[str, Comparison],
    latencies: dict[str, Result],
    scenes: int,
) -> dict[str, Any]:
    sizes = {p: bundle.size_bytes for p, bundle in bundles.items()}
    eager = latencies["PyTorch eager"].median_net_ms
    return {
        "passed": all(c.passed for c in comparisons.values()),
        "scenes": scenes,
        "size_bytes": sizes,
        "size_ratio": sizes["int8"] / sizes["fp32"],
        "speedup_net": {
            p: eager / latencies[f"engine {p}"].median_net_ms for p in ("int8", "fp32")
        },
        "comparisons": {p: c.values() for p, c in comparisons.items()},
        "latencies": latencies,
        "machine": machine(),
        "versions": bundles["int8"].manifest.versions,
    }

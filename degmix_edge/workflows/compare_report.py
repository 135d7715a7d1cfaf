"""The page of a comparison: an engine's maps beside PyTorch's, with what differs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from degmix_edge.bundle.contents import Bundle
from degmix_edge.files import write_file
from degmix_edge.network import IMAGE, NetworkSpec
from degmix_edge.preprocess import Fit
from degmix_edge.report.charts import Bar, Bars, Group
from degmix_edge.report.gallery import Gallery
from degmix_edge.report.page import Report, Table, render
from degmix_edge.report.views import TO_LABELS, Panel, label_map, view
from degmix_edge.runtime import Maps, Session
from degmix_edge.runtime.frames import Frame, fit_frame
from degmix_edge.tasks import false_colour
from degmix_edge.workflows.bench import Result, machine
from degmix_edge.workflows.comparison import (
    Comparison,
    slice_table,
    task_table,
    tensor_table,
)
from degmix_edge.workflows.comparison_counts import See, TaskResult
from degmix_edge.workflows.sources import NamedImage

LABELS = "labels"
CAMERA_MS = 1000 / 30
"""Time between two frames of a camera at 30 Hz."""


class ComparePage:
    """Collects the pictures of a comparison while it runs, and writes its page.

    Args:
        bundle: What is compared.
        data: Where the images are from.
        names: The names of the images in their order.
    """

    def __init__(self, bundle: Bundle, data: str, names: Sequence[str]) -> None:
        self.bundle, self.data, self.names = bundle, data, names
        self.gallery = Gallery(worst_first=True)

    def watch(self, engine: str, reference: str) -> See:
        """Return what takes each image of a comparison of `engine` with `reference`."""
        names, manifest = iter(self.names), self.bundle.manifest

        def see(frame: Frame, want: Maps, got: Maps, labels: Mapping[str, np.ndarray]) -> None:
            picture = picture_of(frame, manifest.fit, manifest.network)
            maps = {reference: want, engine: got}
            note = "" if labels else "without labels"
            self.gallery.add(panel_of(next(names), note, picture, maps, labels))

        return see

    def write(self, path: Path, compared: Mapping[str, Comparison]) -> None:
        """Write the page of finished comparisons by engine.

        Raises:
            OutputError: `path` cannot be written.
        """
        network, where = self.bundle.manifest.network, machine()
        first = next(iter(compared.values()))
        command = f"degmix-edge compare {self.bundle.path} --data {self.data}"
        tables = [tensor_table(first), task_table(compared, self.data)]
        tables += [slice_table(c) for c in compared.values() if c.is_cut]
        report = Report(
            title=f"{self.bundle.path.name} against {first.against}: {self.data}",
            gallery=self.gallery,
            verdict="; ".join(
                f"{name}: {c.verdict}" if len(compared) > 1 else c.verdict
                for name, c in compared.items()
            ),
            passed=all(c.passed for c in compared.values()),
            charts=(accuracy_charts(compared),),
            tables=tuple(
                Table(title, tuple(columns), tuple(map(tuple, rows)))
                for title, columns, rows in tables
            ),
            facts=(
                ("Network", f"{network.model}, {network.height}x{network.width}"),
                ("Weights", f"{network.source.name} {network.source.sha256[:12]}"),
                ("Images", f"{first.images} of {self.data}"),
                ("Machine", f"{where['cpu']}, {where['cores']} cores, {where['system']}"),
                ("Measured", f"{where['date']}, Python {where['python']}"),
            ),
            commands=(("Again", f"{command} --report {path} --force"),),
        )
        write_file(path, render(report).encode(), force=True)


def panel_of(
    name: str,
    note: str,
    picture: np.ndarray,
    maps: Mapping[str, Maps],
    labels: Mapping[str, np.ndarray],
    *,
    far_m: float | None = None,
) -> Panel:
    """Draw the maps of one image, its labels where there are some, and the difference.

    Args:
        name: The image's name.
        note: A remark beside it.
        picture: The image as the network sees it, uint8 `(H, W, 3)`.
        maps: Maps by who computed them, the reference first.
        labels: Labels by task, of the image's size.
        far_m: Far end of the colours; None takes a round number for each map.
    """
    views = []
    reference = next(iter(maps.values()))
    for task, first in reference.items():
        if first.spec.is_raw:
            continue
        layers = {who: np.asarray(found[task]) for who, found in maps.items()}
        if task in labels:
            seen = first.placement.seen(labels[task])
            layers[LABELS] = label_map(seen, first.spec, first.shape[:2])
        views.append(view(first.spec, layers, far_m))
    return Panel(name, note, picture, tuple(views))


def labelled_panel(item: NamedImage, sessions: Mapping[str, Session]) -> Panel:
    """Draw the labels of an image beside the maps of every session; tasks without one are left out.

    Args:
        item: The image with its labels.
        sessions: Sessions of one input size, by the name that is shown.
    """
    frame, labels = item.load()
    maps = {name: session(frame) for name, session in sessions.items()}
    first, session = next(iter(maps.values())), next(iter(sessions.values()))
    views = []
    for task, label in labels.items():
        if task not in first:
            continue
        spec, shape = first[task].spec, first[task].shape[:2]
        target = label_map(first[task].placement.seen(label), spec, shape)
        layers = {name: np.asarray(found[task]) for name, found in maps.items()}
        views.append(view(spec, {LABELS: target, **layers}, scale=TO_LABELS))
    return Panel(item.name, "", picture_of(frame, session.fit, session.spec), tuple(views))


def picture_of(frame: Frame, fit: Fit, network: NetworkSpec) -> np.ndarray:
    """Return a frame's image as the network sees it; depth and other numbers in false colours."""
    feed, placement = fit_frame(frame, fit, network)
    first = feed[IMAGE][0]
    pixels = first if first.dtype == np.uint8 else false_colour(np.moveaxis(first, 0, -1))
    return placement.crop(pixels)


def latency_chart(latencies: Mapping[str, Result]) -> Group:
    """Stacked bars of the medians of pre, net and post, with the period of a 30 Hz camera."""
    bars = tuple(
        Bar(
            name,
            tuple(
                (part, result.percentiles[f"{part}_ms"]["p50"]) for part in ("pre", "net", "post")
            ),
            f"{result.percentiles['total_ms']['p50']:.1f} ms",
        )
        for name, result in latencies.items()
    )
    marks = ((CAMERA_MS, f"{CAMERA_MS:.1f} ms, a camera at 30 Hz"),)
    chart = Bars("Median of one call [ms]", bars, marks)
    return Group("Latency", "Shorter is better. The number is the median of whole calls.", (chart,))


def accuracy_charts(compared: Mapping[str, Comparison]) -> Group:
    """One chart for each task: the metric of the reference and of every engine."""
    first = next(iter(compared.values()))
    charts = []
    for task, reference in first.tasks.items():
        results = {name: c.tasks[task] for name, c in compared.items()}
        charts.append(_task_chart(reference, first.against, results))
    labelled = any(t.reference is not None for t in first.tasks.values())
    note = (
        f"Against the labels of {first.images} images; lower is better where the arrow points down."
        if labelled
        else f"There are no labels; {first.against}'s maps take their place."
    )
    return Group("Accuracy", note, tuple(charts))


def _task_chart(task: TaskResult, against: str, results: Mapping[str, TaskResult]) -> Bars:
    from degmix_edge import metrics

    arrow = "↑" if metrics.find(task.metric).higher_is_better else "↓"
    unit = f" [{task.unit}]" if task.unit else ""
    title = f"{task.task}: {task.metric}{unit} {arrow}"
    if task.reference is None:
        bars = [_bar(name, r.agreement) for name, r in results.items()]
        return Bars(title, tuple(bars), note=f"on {against}'s maps")
    bars = [_bar(against, task.reference, tone=2)]
    bars += [_bar(name, r.value) for name, r in results.items()]
    drops = ", ".join(
        f"{name} is {abs(100 * r.drop):.2f} % {'worse' if r.drop > 0 else 'better'}"
        for name, r in results.items()
        if r.drop is not None
    )
    return Bars(title, tuple(bars), note=drops)


def _bar(name: str, value: float | None, tone: int = 0) -> Bar:
    if value is None or not np.isfinite(value):
        return Bar(name, (("", 0.0),), "not known", tone)
    return Bar(name, (("", value),), f"{value:.3f}", tone)

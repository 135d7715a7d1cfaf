"""The page of a run: curves, scores, and predictions on a few validation samples."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from lightning.pytorch.loggers import TensorBoardLogger
from torch import nn

from degmix_edge import metrics
from degmix_edge.files import write_file
from degmix_edge.report.charts import Axis, Group, Plot, Point, Series
from degmix_edge.report.gallery import Gallery
from degmix_edge.report.page import Report, Table, render
from degmix_edge.report.views import TO_LABELS, Panel, label_map, view
from degmix_training.data import Sample
from degmix_training.evaluate import network_predictor
from degmix_training.judge import Judge

PAGE = "report.html"
SAMPLES = 3
"""Validation samples whose predictions are drawn."""
CURVE_POINTS = 300
"""Most points of a loss curve; longer ones are averaged in equal parts."""


class RunPage:
    """Writes `report.html` into a run's folder at each validation, and images for TensorBoard.

    Args:
        judge: It has the data, the module and the folder.
    """

    def __init__(self, judge: Judge) -> None:
        self.judge, self.module, self.out = judge, judge.module, judge.out

    @cached_property
    def samples(self) -> list[Sample]:
        """The first validation samples."""
        val = self.judge.batches.val
        return [val[index] for index in range(min(SAMPLES, len(val)))]

    def write(
        self, network: nn.Module, history: Sequence[Mapping[str, Any]], loggers: Iterable[Any]
    ) -> None:
        """Draw what `network` predicts, and write the page.

        Args:
            network: The network in eval mode.
            history: Step, gain and scores of each validation so far.
            loggers: The trainer's; TensorBoard's gets the pictures too.

        Raises:
            OutputError: The page cannot be written.
        """
        panels = self._panels(network)
        step = int(history[-1]["step"])
        for logger in loggers:
            if isinstance(logger, TensorBoardLogger):
                _add_images(logger.experiment, panels, step)
        write_file(self.out / PAGE, self._page(panels, history).encode(), force=True)

    def _panels(self, network: nn.Module) -> list[Panel]:
        specs, module = self.module.specs, self.module
        predict = network_predictor(network, specs, module.config, module.device)
        panels = []
        for sample in self.samples:
            maps = predict([sample])[0]
            views = []
            for task, spec in specs.items():
                layers = {"prediction": maps[task]}
                if task in sample.labels:
                    label = label_map(sample.labels[task], spec, maps[task].shape[:2])
                    layers = {"labels": label, **layers}
                views.append(view(spec, layers, scale=TO_LABELS))
            panels.append(Panel(sample.name, "validation sample", sample.image, tuple(views)))
        return panels

    def _page(self, panels: Sequence[Panel], history: Sequence[Mapping[str, Any]]) -> str:
        config, specs = self.module.config, self.module.specs
        last, best = history[-1], max(history, key=lambda row: float(row["gain"]))
        scores = ", ".join(f"{task} {last[task]:.3f}" for task in specs)
        columns = ("step", "mean gain [%]", *(_title(task, s.metric) for task, s in specs.items()))
        rows = tuple(
            (str(row["step"]), f"{row['gain']:+.2f}", *(f"{row[task]:.4g}" for task in specs))
            for row in history
        )
        return render(
            Report(
                title=f"{config.model} on {config.data.name}: step {last['step']} of "
                f"{config.steps}",
                gallery=Gallery(panels),
                verdict=f"Step {last['step']}: {scores}. The best step is {best['step']}, with a "
                f"mean gain of {best['gain']:+.1f} % over the best constant predictions.",
                passed=None,
                charts=(self._scores(history), *self._losses()),
                tables=(Table("Validations", columns, rows),),
                facts=(
                    ("Size", f"{config.height}x{config.width}"),
                    ("Batch", f"{config.batch_size} images"),
                    ("Optimizer", f"{config.optim.name}, learning rate {config.optim.lr:g}"),
                    ("Folder", str(self.out)),
                ),
            )
        )

    def _scores(self, history: Sequence[Mapping[str, Any]]) -> Group:
        charts = []
        for task, spec in self.module.specs.items():
            points = tuple(
                Point(row["step"], row[task], f"step {row['step']}: {row[task]:.4g}")
                for row in history
            )
            constant = self.judge.constants[task]
            marks = ((constant, "best constant"),) if np.isfinite(constant) else ()
            title = _title(task, spec.metric)
            axis = Axis(title.partition(": ")[2].rstrip(" ↑↓"))
            plot = Plot(title, Axis("step"), axis, (Series("", points, "line"),), marks)
            charts.append(plot)
        return Group("Scores on the validation split", "", tuple(charts))

    def _losses(self) -> list[Group]:
        curves = _curves(self.out / "log" / "metrics.csv")
        charts = tuple(
            Plot(
                name.removeprefix("loss/"),
                Axis("step"),
                Axis("loss"),
                (Series("", _thinned(points), "line", tone=1),),
            )
            for name, points in curves.items()
        )
        note = "Of the batches since the run was last started."
        return [Group("Training losses", note, charts)] if charts else []


def _title(task: str, metric: str) -> str:
    found = metrics.find(metric)
    arrow = "↑" if found.higher_is_better else "↓"
    return f"{task}: {found.name}{f' [{found.unit}]' if found.unit else ''} {arrow}"


def _curves(path: Path) -> dict[str, list[Point]]:
    """The losses of a CSV file of Lightning, the total first."""
    if not path.exists():
        return {}
    curves: dict[str, list[Point]] = {"loss": []}
    with path.open() as file:
        for row in csv.DictReader(file):
            for name, text in row.items():
                if name and text and (name == "loss" or name.startswith("loss/")):
                    point = Point(float(row["step"]), float(text))
                    curves.setdefault(name, []).append(point)
    return {name: points for name, points in curves.items() if points}


def _thinned(points: Sequence[Point]) -> tuple[Point, ...]:
    parts = np.array_split(np.array([(p.x, p.y) for p in points]), min(CURVE_POINTS, len(points)))
    means = (part.mean(0) for part in parts)
    return tuple(Point(float(x), float(y), f"step {x:.0f}: {y:.4g}") for x, y in means)


def _add_images(writer: Any, panels: Sequence[Panel], step: int) -> None:
    """One strip for each sample and task: the image and every layer, side by side."""
    for index, panel in enumerate(panels):
        for one in panel.views:
            strip = np.concatenate([panel.image, *one.layers.values()], axis=1)
            writer.add_image(f"{one.task.name}/{index}", strip, step, dataformats="HWC")

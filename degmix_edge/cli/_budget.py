"""`--budget`: find the recipe, say what was found, and write the report."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from degmix_edge.cli._output import Output

if TYPE_CHECKING:
    import onnx
    from degmix_calibration.budget import Limit
    from degmix_calibration.search import Choice
    from degmix_calibration.sensitivity import Layer, Sensitivity
    from degmix_calibration.trial import Example, Trials

    from degmix_edge.network import NetworkSpec
    from degmix_edge.quant.ranges import Ranges
    from degmix_edge.quant.recipe import Recipe

EXAMPLES = "synthetic:16"


def options(function: Callable[..., Any]) -> Callable[..., Any]:
    """`--budget --examples --device --min-int8 --workers --report`."""
    for option in reversed(
        [
            click.option(
                "--budget",
                metavar="LIMITS",
                help="What each task may lose: 'semseg=-0.5pt,depth=+1%,normals=+0.3deg', or 1% "
                "for all. INT8 only; finds the recipe that saves most inside it.",
            ),
            click.option(
                "--examples",
                default=EXAMPLES,
                show_default=True,
                help="Images that the budget is measured on: nyud:DIR:64, synthetic:16, or a "
                "folder (then the float network's maps are the labels).",
            ),
            click.option(
                "--device",
                default="cpu",
                show_default=True,
                help="Target whose savings count: orin-agx, orin-nano, thor, rtx4090, h200, or cpu "
                "(measured here).",
            ),
            click.option(
                "--min-int8",
                type=click.FloatRange(0, 100),
                default=0.0,
                help="Percent of the MACs that must be INT8.",
            ),
            click.option(
                "--workers",
                type=click.IntRange(1),
                default=min(8, os.cpu_count() or 1),
                show_default=True,
                help="Processes that measure layers.",
            ),
            click.option(
                "--report",
                type=click.Path(path_type=Path),
                help="Page of the search. [default: OUT.budget.html]",
            ),
        ]
    ):
        function = option(function)
    return function


@dataclass(frozen=True)
class Request:
    """What was asked for on the command line."""

    budget: str
    examples: str
    device: str
    min_int8: float
    workers: int
    report: Path
    state: Path


def request(out: Path, options: Mapping[str, Any], spec: NetworkSpec) -> Request | None:
    """The request behind the options, checked before long work; None without `--budget`.

    Raises:
        ConfigError: A limit, a device, a precision or examples that do not fit.
    """
    from degmix_calibration import budget

    from degmix_edge import devices
    from degmix_edge.cli._sources import check_images
    from degmix_edge.errors import ConfigError

    if not options["budget"]:
        return None
    if options["precision"] != "int8":
        raise ConfigError(f"--budget is for --precision int8, not {options['precision']}")
    budget.parse(options["budget"], spec)
    devices.find(options["device"])
    check_images(options["examples"])
    return Request(
        options["budget"],
        options["examples"],
        options["device"],
        options["min_int8"],
        options["workers"],
        options["report"] or Path(f"{out}.budget.html"),
        Path(f"{out}.sensitivity.jsonl"),
    )


@dataclass
class Refiner:
    """Called by a build when ranges are there: from the rules' recipe to the budget's.

    Attributes:
        result: What `--json` prints, after the call.
    """

    output: Output
    asked: Request
    result: dict[str, Any] | None = None

    def __call__(
        self, model: onnx.ModelProto, spec: NetworkSpec, recipe: Recipe, ranges: Ranges
    ) -> Recipe:
        """The recipe inside the budget.

        Raises:
            AccuracyError: No recipe with enough INT8 is inside it; the closest is in the report.
        """
        from degmix_calibration import budget
        from degmix_calibration.search import order, search
        from degmix_calibration.sensitivity import layers, measure
        from degmix_calibration.trial import Trials

        from degmix_edge.graph_cost import costs

        asked, output = self.asked, self.output
        limits = budget.parse(asked.budget, spec)
        examples = _examples(output, asked.examples, spec)
        trials = Trials(model, spec, ranges, examples, lowered=asked.device == "cpu")
        allowed = {t.name: limits[t.name].allowed(trials.value(t)) for t in spec.tasks}
        macs = {cost.node: cost.macs for cost in costs(model)}
        found = layers(recipe, macs, _savings(asked.device, model, recipe, trials))
        with output.progress("measure layers", len(found)) as advance:
            measured = measure(
                trials,
                recipe,
                found,
                state=asked.state,
                workers=asked.workers,
                advance=advance,
            )
        ordered = order(found, measured, allowed)
        reasons = _reasons(found, measured, allowed)
        choice = search(trials, recipe, ordered, limits, reasons=reasons, say=output.say)
        share = 100 * sum(x.macs for x in choice.kept) / max(sum(macs.values()), 1)
        self._tell(trials, limits, choice, share)
        from degmix_edge.cli._budget_report import write

        write(asked, trials, limits, allowed, (found, measured, choice), share)
        output.say(f"report: {asked.report}")
        self.result = _result(choice, share, limits, asked)
        _check(choice, share, asked)
        asked.state.unlink(missing_ok=True)
        chosen: Recipe = choice.recipe
        return chosen

    def _tell(
        self, trials: Trials, limits: Mapping[str, Limit], choice: Choice, share: float
    ) -> None:
        rows = []
        for task in trials.spec.tasks:
            damage = choice.damage[task.name]
            loss = "-" if damage.loss is None else f"{damage.loss:+.3f}"
            unit = limits[task.name].metric.unit
            rows.append(
                [
                    task.name,
                    f"{task.metric} [{unit}]",
                    f"{trials.value(task):.3f}",
                    loss,
                    f"{damage.distance:.3f}",
                    limits[task.name].text,
                    f"{100 * choice.use[task.name]:.0f} %",
                ]
            )
        columns = ["task", "metric", "float", "worse by", "from float maps", "budget", "used"]
        self.output.table(f"INT8 inside the budget, {len(trials.examples)} images", columns, rows)
        self.output.say(
            f"{len(choice.kept)} layers in INT8 with {share:.1f} % of the MACs, saving "
            f"{choice.saving_ms:.2f} ms on {self.asked.device}; {choice.worst} decides"
        )


def _check(choice: Choice, share: float, asked: Request) -> None:
    from degmix_edge.errors import AccuracyError

    if choice.kept and choice.fits and share >= asked.min_int8:
        return
    why = (
        f"only {share:.1f} % of the MACs fit, --min-int8 asks for {asked.min_int8:g} %"
        if choice.kept and choice.fits
        else "no layer can be INT8 inside it"
    )
    closest = choice.closest
    shown = (
        f"The closest recipe with more has {len(closest.kept)} layers in INT8 and puts "
        f"{closest.worst} at {100 * closest.use[closest.worst]:.0f} % of its budget. "
        if closest is not None
        else ""
    )
    raise AccuracyError(
        f"--budget {asked.budget!r}: {why}. {shown}Widen the budget of {choice.worst}, or look at "
        f"{asked.report}"
    )


def _examples(output: Output, source: str, spec: NetworkSpec) -> list[Example]:
    from degmix_calibration.trial import Example

    from degmix_edge.cli._sources import images
    from degmix_edge.preprocess import Fit

    fit = Fit(height=spec.height, width=spec.width)
    specs = {task.name: task for task in spec.tasks}
    found = images(source, fit, "val", specs, output.warn)
    return [Example.of(item.name, *item.load(), fit) for item in found]


def _savings(
    device: str, model: onnx.ModelProto, recipe: Recipe, trials: Trials
) -> dict[str, float]:
    """Milliseconds by node: measured for the CPU backend, a roofline's for other targets."""
    from degmix_edge import devices
    from degmix_edge.graph_cost import costs

    if device != "cpu":
        target = devices.find(device)
        return {cost.node: target.saving_ms(cost) for cost in costs(model)}
    from degmix_calibration.timing import savings_ms

    measured: dict[str, float] = savings_ms(trials, recipe)
    return measured


def _reasons(
    found: Sequence[Layer], measured: Sensitivity, allowed: Mapping[str, float]
) -> dict[str, str]:
    reasons = {}
    for layer in found:
        damage = measured[layer.name]
        worst = max(allowed, key=lambda t: damage[t].distance / (allowed[t] or 1e-12))
        text = f"alone it moves {worst} by {damage[worst].distance:.3g}"
        if layer.saving_ms <= 0:
            text = "INT8 saves no time here"
        reasons.update(dict.fromkeys(layer.nodes, f"budget: {text}"))
    return reasons


def _result(
    choice: Choice, share: float, limits: Mapping[str, Limit], asked: Request
) -> dict[str, Any]:
    return {
        "int8_macs_percent": share,
        "int8_layers": [layer.name for layer in choice.kept],
        "saving_ms": choice.saving_ms,
        "device": asked.device,
        "worst": choice.worst,
        "fits": choice.fits,
        "trials": choice.trials,
        "tasks": {
            task: {"damage": choice.damage[task], "budget": limits[task].text, "used": use}
            for task, use in choice.use.items()
        },
        "report": asked.report,
    }

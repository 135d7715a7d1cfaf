"""INT8 within an accuracy budget per task: find the recipe, write the report."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from degmix_edge import progress
from degmix_edge.errors import AccuracyError, ConfigError
from degmix_edge.files import write_file
from degmix_edge.graph import roofline
from degmix_edge.network import NetworkSpec
from degmix_edge.preprocess import Fit
from degmix_edge.report.page import check_renderer
from degmix_edge.workflows.calibration import as_named
from degmix_edge.workflows.fastest import Loss
from degmix_edge.workflows.sources import check_images, images

if TYPE_CHECKING:
    import onnx
    from degmix_calibration.search import Findings
    from degmix_calibration.trial import Example

    from degmix_edge.quant.ranges import Ranges
    from degmix_edge.quant.recipe import Recipe
    from degmix_edge.workflows.engine import EngineFiles, Product

EXAMPLES = "synthetic:16"


@dataclass(frozen=True)
class Request:
    """What a budget search is asked for.

    Attributes:
        budget: Limits by task, as in `semseg=-0.5pt,depth=+1%`.
        examples: What the budget is measured on: a source string or an iterable of images.
        device: The target whose savings count.
        min_int8: Percent of the multiply-adds that must be INT8.
        workers: Processes that measure layers.
        report: Where the page is written; None writes none.
        state: A file from which an interrupted search resumes; None keeps nothing.
        backend: The CPU backend whose engines are tried, for the device `cpu`.
        address: A Ray cluster that measures layers; None uses processes.
    """

    budget: str
    examples: str | Iterable[Any]
    device: str
    min_int8: float
    workers: int
    report: Path | None
    state: Path | None
    backend: str = "onnxruntime"
    address: str | None = None

    def check(self, spec: NetworkSpec) -> None:
        """Complain before long work of a limit, a device or examples that do not fit.

        Raises:
            ConfigError, InputError: Says which.
            BackendError: The report cannot be written without Jinja2.
        """
        if self.report is not None:
            check_renderer()
        from degmix_calibration import limits

        limits.parse(self.budget, spec)
        roofline.find(self.device)
        if isinstance(self.examples, str):
            check_images(self.examples)


@dataclass(frozen=True)
class Budget:
    """A recipe inside a budget.

    Attributes:
        recipe: The recipe.
        findings: Everything that the search measured.
        report: The page that shows it; None where none was asked for.
    """

    recipe: Recipe
    findings: Findings
    report: Path | None

    def values(self) -> dict[str, Any]:
        """The result as plain values."""
        choice, search = self.findings.choice, self.findings.search
        return {
            "int8_macs_percent": self.findings.int8_macs_percent,
            "int8_layers": [layer.name for layer in choice.int8],
            "bf16_layers": [layer.module for layer in choice.bf16],
            "saving_ms": choice.saving_ms,
            "device": search.device,
            "worst": choice.worst,
            "fits": choice.fits,
            "trials": choice.trials,
            "tasks": {
                task: {
                    "damage": choice.damage[task],
                    "budget": search.limits[task].text,
                    "used": use,
                }
                for task, use in choice.use.items()
            },
            "report": self.report,
        }


def search_budget(
    model: onnx.ModelProto, spec: NetworkSpec, recipe: Recipe, ranges: Ranges | None, asked: Request
) -> Budget:
    """The recipe that saves most inside the budget; its page is written in any case.

    Args:
        model: The deployed float graph.
        spec: Its promises.
        recipe: What the rules allow in a lower precision.
        ranges: Ranges of the graph's tensors; None where nothing may be INT8.
        asked: The budget, and how to search.

    Raises:
        AccuracyError: No recipe with enough INT8 is inside it; the closest is in the report.
    """
    from degmix_calibration import limits
    from degmix_calibration.report import budget_page
    from degmix_calibration.search import BudgetSearch
    from degmix_calibration.trial import Trials

    examples = _examples(asked.examples, spec)
    trials = Trials(
        model, spec, ranges, examples, lowered=asked.device == "cpu", backend=asked.backend
    )
    findings = BudgetSearch(
        trials,
        recipe,
        limits.parse(asked.budget, spec),
        device=asked.device,
        min_int8=asked.min_int8,
        workers=asked.workers,
        address=asked.address,
        state=asked.state,
    ).run()
    budget = Budget(findings.choice.recipe, findings, asked.report)
    named = asked.examples if isinstance(asked.examples, str) else "images of the caller's"
    if asked.report is not None:
        write_file(asked.report, budget_page(findings, named).encode(), force=True)
    _show(budget)
    try:
        findings.check()
    except AccuracyError as error:
        page = f", or look at {asked.report}" if asked.report else ""
        raise AccuracyError(f"--budget {asked.budget!r}: {error}{page}") from None
    if asked.state is not None:
        asked.state.unlink(missing_ok=True)
    return budget


def loss(engine: EngineFiles, product: Product, deployed: onnx.ModelProto, asked: Request) -> Loss:
    """Return what an engine costs the task that uses most of its budget.

    Args:
        engine: The engine, which runs here.
        product: What it was made of.
        deployed: The float graph, whose maps and scores it is compared with.
        asked: The budget, and what it is measured on.
    """
    from degmix_calibration import limits
    from degmix_calibration.search import shares
    from degmix_calibration.trial import Trials

    examples = _examples(asked.examples, product.spec)
    trials = Trials(deployed, product.spec, None, examples)
    with engine.backend(product.spec, engine.files[engine.backend.engine_file]) as running:
        maps = [trials.cut(one, running.infer(one.feed)) for one in examples]
    use = shares(trials, trials.damage(maps), limits.parse(asked.budget, product.spec))
    worst = max(use, key=lambda task: use[task])
    return Loss(f"{worst} {100 * use[worst]:.0f} % of its budget", use[worst] <= 1)


def _show(budget: Budget) -> None:
    from degmix_calibration.report import COLUMNS, task_rows

    findings, choice = budget.findings, budget.findings.choice
    count = len(findings.search.trials.examples)
    progress.table(f"INT8 inside the budget, {count} images", COLUMNS, task_rows(findings))
    progress.note(
        f"{choice.text()}, {findings.int8_macs_percent:.1f} % of the MACs in INT8, "
        f"saving {choice.saving_ms:.2f} ms on {findings.search.device}; "
        f"{choice.worst} decides"
    )
    if budget.report is not None:
        progress.note(f"report: {budget.report}")


def request(
    options: Mapping[str, Any], out: Path | None, examples: Iterable[Any] | None = None
) -> Request | None:
    """The request behind a build's options, or None where no budget is given.

    Raises:
        ConfigError: A budget for a precision that costs no accuracy, or next to none.
    """
    if not options["budget"]:
        return None
    if options["precision"] not in ("int8", "bf16", "auto"):
        raise ConfigError(f"--budget is for --precision int8 or bf16, not {options['precision']}")
    own = "openvino" if options["precision"] == "bf16" else options["backend"]
    return Request(
        options["budget"],
        options["examples"] if examples is None else examples,
        options["device"],
        options["min_int8"],
        options["workers"],
        options["report"] or (Path(f"{out}.budget.html") if out else None),
        Path(f"{out}.sensitivity.jsonl") if out else None,
        "openvino" if own == "openvino" else "onnxruntime",
        options["address"],
    )


def _examples(source: str | Iterable[Any], spec: NetworkSpec) -> list[Example]:
    from degmix_calibration.trial import Example

    fit = Fit(height=spec.height, width=spec.width)
    specs = {task.name: task for task in spec.tasks}
    if isinstance(source, str):
        named = images(source, fit, "val", specs, network=spec)
    else:
        named = as_named(source, spec)
    return [Example.of(item.name, *item.load(), fit, spec) for item in named]

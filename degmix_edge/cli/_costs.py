"""What `inspect` says of costs: those of a model by name, and of tasks at their own rates."""

from __future__ import annotations

from typing import Any

from degmix_edge.cli._output import Output


def print_rates(
    output: Output, thing: str | None, text: str, model: str | None, options: dict[str, Any]
) -> None:
    """Print the share of each task of a checkpoint, bundle or model, and what the rates cost."""
    from degmix_edge.workflows.models import random_checkpoint
    from degmix_edge.workflows.networks import task_names
    from degmix_edge.workflows.rates import rate_cost, rate_line, rate_table, rates_of

    rates, network = rates_of(text), thing
    if model is not None:
        options["tasks"] = task_names(options["tasks"], model)
        network = random_checkpoint(model, options.pop("size"), **options)
    found = rate_cost(network, rates)
    output.table(*rate_table(found))
    output.say(rate_line(found))
    output.result({"split": found.split, "rates": found.rates, "cost": found.cost})


def print_model(output: Output, model: str, options: dict[str, Any]) -> None:
    """Print what a model by name costs as it is trained, and as it is exported."""
    from degmix_edge.workflows.models import cost_table, cost_values, model_cost
    from degmix_edge.workflows.networks import task_names

    options["tasks"] = task_names(options["tasks"], model)
    cost = model_cost(model, options.pop("size"), **options)
    output.table(*cost_table(cost))
    output.say("GMAC: billions of multiply-adds an image, attention and deformable ones included")
    output.result(cost_values(cost))

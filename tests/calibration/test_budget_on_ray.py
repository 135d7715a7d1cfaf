"""The layers that a Ray cluster measures for the budget search."""

import dataclasses

import pytest
from degmix_calibration import limits as budget
from degmix_calibration.search import BudgetSearch
from degmix_calibration.sensitivity import restrict
from test_budget import parts  # noqa: F401

pytest.importorskip("ray")
pytestmark = [pytest.mark.ray, pytest.mark.slow(file_seconds=20)]


def test_a_search_on_ray_gives_the_recipe_of_a_serial_one(parts):  # noqa: F811
    trials, recipe, found = parts
    few = restrict(recipe, found[:: len(found) // 5], {})
    single = dataclasses.replace(trials, threads=1, examples=trials.examples[:2], reference=[])
    limits = budget.parse("depth=1%,normals=1%", trials.spec)
    search = BudgetSearch(single, few, limits, device="orin-agx")
    serial = search.run()
    spread = dataclasses.replace(search, address="local").run()
    assert spread.measured == serial.measured
    assert list(spread.measured) == list(serial.measured)
    assert len(spread.measured) >= 5
    assert spread.choice.recipe == serial.choice.recipe

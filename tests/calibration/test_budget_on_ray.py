"""The budget search whose layers a Ray cluster measures."""

import dataclasses

import pytest
from degmix_calibration import limits as budget
from degmix_calibration.search import BudgetSearch
from test_budget import parts  # noqa: F401

pytest.importorskip("ray")
pytestmark = pytest.mark.slow(file_seconds=25)


def test_a_search_on_ray_gives_the_recipe_of_a_serial_one(parts):  # noqa: F811
    trials, recipe, found = parts
    single = dataclasses.replace(trials, threads=1)
    limits = budget.parse("depth=3%,normals=3%", trials.spec)
    search = BudgetSearch(single, recipe, limits, device="orin-agx")
    serial = search.run()
    spread = dataclasses.replace(search, workers=2, address="local").run()
    assert spread.measured == serial.measured
    assert list(spread.measured) == [layer.name for layer in found]
    assert spread.choice.recipe == serial.choice.recipe
    assert 0 < len(serial.choice.kept) < len(found)

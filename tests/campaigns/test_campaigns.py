"""A short slice of every campaign; `make campaign` runs them large."""

import shutil
import warnings

import campaign
import mutations
import pytest
from faults import faults
from outcomes import run_cases
from races import race

pytestmark = pytest.mark.slow(file_seconds=45)
SLICE = {
    "damaged bundles": 60,
    "hostile bundles": 12,
    "damaged sizes": 60,
    "hostile sizes": 16,
    "manifest bits": 200,
    "onnx": 40,
    "images": 80,
    "settings": 60,
    "command lines": 80,
}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A bundle, its ONNX, and a folder for what the cases write."""
    folder = tmp_path_factory.mktemp("campaigns")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return *campaign.small_bundle(folder), folder


@pytest.mark.parametrize("name", SLICE)
def test_bad_input_is_refused_by_errors_of_ours(made, name, tmp_path):
    bundle, model, _ = made
    ((title, case, seeds),) = campaign.campaigns(bundle, model, tmp_path, {name: SLICE[name]})
    found = run_cases(title, case, seeds)
    assert found.failures == []
    assert found.counts["refused"] > 0


def test_the_runner_finds_what_is_wrong():
    def case(seed):
        if seed == 0:
            raise KeyError("x")
        if seed == 1:
            return "a changed byte"
        if seed == 2:
            bytearray(1200 << 20)[::4096] = b"x" * (1200 << 8)
        if seed == 3:
            import os

            os._exit(9)
        return "harmless"

    found = run_cases("wrong", case, range(5))
    assert [seed for seed, _ in found.failures] == [0, 1, 2, 3]
    assert found.counts == {"foreign": 2, "accepted": 1, "memory": 1, "harmless": 1}


@pytest.mark.parametrize(("name", "every"), [("replace", 15), ("save", 9), ("checkpoint", 1)])
def test_a_fault_leaves_the_old_or_the_new(made, tmp_path, name, every):
    operation = campaign.operations(*made[:2], tmp_path)[name]
    found = list(faults(operation, every))
    assert [fault for fault in found if fault.problem] == []
    assert len(found) >= 8


def test_two_writers_have_one_winner_and_readers_see_a_whole_bundle(made, tmp_path):
    target = tmp_path / "robot.degmix"
    shutil.copytree(made[0], target)
    races = race(target, rounds=20, readers=1)
    assert races.passed, races
    assert races.opens > 20


def test_mutations_depend_on_the_seed_alone(made, tmp_path):
    import random

    data = bytes(range(200))
    first, again, other = (mutations.changed_bytes(data, random.Random(s)) for s in (5, 5, 6))
    assert first == again != other

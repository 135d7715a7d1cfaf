"""Schedules over hours of virtual time: rates are held, budgets are kept, nothing is random."""

import math
import random

import pytest

from degmix_edge.errors import ConfigError
from degmix_edge.runtime.costs import CostModel
from degmix_edge.runtime.schedule import Schedule

SHARES = {"trunk": 0.3, "depth": 0.2, "semseg": 0.2, "normals": 0.2, "edge": 0.1}
RATES = {"depth": 30.0, "semseg": 10.0, "normals": 5.0, "edge": None}


def simulate(schedule, cost, *, fps=30.0, seconds=3600, jitter=0.0, seed=0, change=None):
    """Times and tasks of every frame of a camera, and what each cost in milliseconds."""
    dice, frames = random.Random(seed), []
    for index in range(int(fps * seconds)):
        now = index / fps + dice.uniform(-jitter, jitter) / fps
        if change:
            change(index, schedule)
        tasks = schedule.choose(now, cost)
        frames.append((now, tasks, cost(tasks) if tasks else 0.0))
    return frames


def whole(tasks):
    """Milliseconds of a set of tasks of a network that costs 30 ms."""
    return 30 * (SHARES["trunk"] + sum(SHARES[task] for task in tasks))


def achieved(frames, task):
    return sum(task in tasks for _, tasks, _ in frames) / (frames[-1][0] - frames[0][0])


@pytest.mark.parametrize("jitter", [0.0, 0.1, 0.24])
@pytest.mark.parametrize("fps", [30.0, 29.97, 60.0, 15.0])
def test_every_rate_is_held_for_an_hour(fps: float, jitter: float):
    frames = simulate(Schedule(RATES), whole, fps=fps, jitter=jitter)
    for task, rate in RATES.items():
        expected = fps if rate is None else min(rate, fps)
        assert achieved(frames, task) == pytest.approx(expected, rel=0.01), task


@pytest.mark.parametrize("rate", [1.0, 7.0, 20.0, 23.0, 29.0])
def test_rates_that_do_not_divide_the_cameras_are_held_in_the_mean(rate: float):
    frames = simulate(Schedule({"depth": None, "semseg": rate}), whole, jitter=0.1)
    assert achieved(frames, "semseg") == pytest.approx(rate, rel=0.02)


def test_slow_tasks_do_not_share_a_frame_where_they_need_not():
    frames = simulate(Schedule(RATES | {"edge": 5.0}), whole, seconds=60)[1:]
    assert max(cost for _, _, cost in frames) < 0.75 * 30
    assert all("depth" in tasks for _, tasks, _ in frames)


def test_a_budget_is_kept_and_the_urgent_task_comes_first():
    rates = {"depth": 30.0, "semseg": 10.0, "normals": 10.0, "edge": 10.0}
    budget = whole(("depth", "semseg"))
    frames = simulate(Schedule(rates, budget_ms=budget), whole)
    assert max(cost for _, _, cost in frames) <= budget
    for task, rate in rates.items():
        assert achieved(frames, task) == pytest.approx(rate, rel=0.02), task


def test_an_overload_is_shared_and_nothing_starves():
    rates = dict.fromkeys(("depth", "semseg", "normals", "edge"), 30.0)
    schedule = Schedule(rates, budget_ms=whole(("depth", "semseg")))
    frames = simulate(schedule, whole)
    for task in rates:
        assert achieved(frames, task) > 9, task
    assert not schedule.starved(frames[-1][0])


def test_a_budget_that_nothing_fits_runs_one_task_at_a_time():
    schedule = Schedule(dict.fromkeys(SHARES.keys() - {"trunk"}, 30.0), budget_ms=1.0)
    frames = simulate(schedule, whole, seconds=600)
    assert {len(tasks) for _, tasks, _ in frames} == {1}
    assert all(achieved(frames, task) > 7 for task in schedule.rates)


def test_priorities_decide_between_equal_deadlines():
    rates = {"depth": 30.0, "semseg": 30.0}
    schedule = Schedule(rates, priorities={"semseg": 1}, budget_ms=whole(("depth",)))
    assert schedule.choose(0.0, whole) == ("semseg",)
    schedule = Schedule(rates, priorities={"depth": 1}, budget_ms=whole(("depth",)))
    assert schedule.choose(0.0, whole) == ("depth",)


def test_starved_tasks_are_named_with_their_wait():
    names = [f"task{index}" for index in range(8)]
    schedule = Schedule(dict.fromkeys(names, 30.0), budget_ms=1.0)
    frames = simulate(schedule, lambda tasks: 2.0 * len(tasks), seconds=10)
    starved = schedule.starved(frames[-1][0])
    assert starved
    assert all(3 / 30 <= wait <= 8 / 30 for wait in starved.values())
    assert starved.keys().isdisjoint(frames[-1][1])


def test_a_task_that_does_not_fit_beside_another_has_its_turns():
    schedule = Schedule({"depth": None, "semseg": 10.0}, budget_ms=9.0)

    def only_depth(tasks):
        return 8.0 if tuple(tasks) == ("depth",) else 99.0

    chosen = [schedule.choose(index / 30, only_depth) for index in range(300)]
    assert chosen[0] == ("depth",)
    # Once its deadline is the earliest it runs, and then depth beside it costs nothing more.
    assert ("depth", "semseg") in chosen[1:]


def test_a_rate_changes_within_one_frame():
    schedule = Schedule({"depth": None, "semseg": 1.0})
    seen = {}

    def change(index, schedule):
        if index == 300:
            schedule.set_rate("semseg", 30.0)
        if index == 600:
            schedule.set_rate("semseg", 0.0)

    frames = simulate(schedule, whole, seconds=30, change=change)
    seen = [("semseg" in tasks) for _, tasks, _ in frames]
    assert seen[300:600] == [True] * 300
    assert not any(seen[600:])
    assert sum(seen[:300]) in (10, 11)


def test_the_same_arguments_give_the_same_frames():
    first, second = (simulate(Schedule(RATES), whole, jitter=0.2, seconds=60) for _ in range(2))
    assert first == second


def test_a_clock_that_jumps_back_starts_again():
    schedule = Schedule({"depth": 1.0})
    assert schedule.choose(1000.0) == ("depth",)
    assert schedule.choose(1000.1) == ()
    assert schedule.choose(5.0) == ("depth",)
    assert schedule.choose(5.1) == ()


@pytest.mark.parametrize("rate", [-1.0, math.nan, math.inf, 1001.0])
def test_a_rate_that_is_none_is_refused(rate: float):
    with pytest.raises(ConfigError, match=f"rates: depth got {rate}, expected 0"):
        Schedule({"depth": rate})
    schedule = Schedule({"depth": 1.0})
    with pytest.raises(ConfigError, match="rates: depth got"):
        schedule.set_rate("depth", rate)
    assert schedule.rates == {"depth": 1.0}


@pytest.mark.parametrize("budget", [0.0, -1.0, math.nan, math.inf])
def test_a_budget_that_is_none_is_refused(budget: float):
    with pytest.raises(ConfigError, match=f"budget_ms: got {budget}"):
        Schedule({"depth": 1.0}, budget_ms=budget)


def test_an_unknown_task_is_refused_with_the_nearest_name():
    with pytest.raises(ConfigError, match="Did you mean 'depth'"):
        Schedule({"depth": 1.0}, priorities={"dept": 1})
    with pytest.raises(ConfigError, match="Did you mean 'depth'"):
        Schedule({"depth": 1.0}).set_rate("dept", 1.0)


def test_costs_are_learned_and_sets_that_never_ran_are_predicted():
    costs = CostModel(SHARES)
    assert costs(("depth",)) == 0
    for _ in range(50):
        costs.learn(("depth", "semseg"), whole(("depth", "semseg")))
    assert costs(("semseg", "depth")) == pytest.approx(whole(("depth", "semseg")))
    assert costs(("normals",)) == pytest.approx(whole(("normals",)))


def test_a_network_in_one_part_costs_the_same_whatever_runs():
    costs = CostModel(None)
    costs.learn(("depth",), 20.0)
    assert costs(("depth", "semseg")) == 20.0


def test_a_task_that_seems_to_cost_less_than_nothing_is_not_free():
    """Whoever ran alone beside another program was slow, and a second task would not be faster."""
    schedule = Schedule(dict.fromkeys("ab", None), budget_ms=5)
    noisy = {1: 50.0, 2: 30.0}
    assert len(schedule.choose(0.0, lambda tasks: noisy[len(tasks)])) == 1
    assert len(schedule.choose(0.1, lambda tasks: 30.0)) == 2  # a network in one part

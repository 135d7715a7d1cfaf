"""The plan for 10^9 images: the simulation obeys arithmetic, and the page has its tables."""

import dataclasses
import json
import math
from pathlib import Path

import pytest
from scale_plan import (
    BEGIN,
    END,
    PAGE,
    Cluster,
    Plan,
    assumptions,
    changed,
    costs_of,
    expected,
    markdown,
    measured,
    most_workers,
)

FIGURES = json.loads((Path(__file__).parent / "scale_figures.json").read_text())
CALM = Plan(images=4e6, per_shard=2000, workers=64, per_node=16, node_days=1e9, crashes=0, poison=0)
CALM = dataclasses.replace(CALM, slow=0, spread=0)


def run(figures=FIGURES, seed=0, **changes):
    plan = dataclasses.replace(CALM, **changes)
    return Cluster(figures, plan, seed).run(), plan


def work_s(plan):
    return plan.shards * costs_of(FIGURES, plan).seconds(plan)


def test_undisturbed_workers_are_never_idle_before_the_end():
    outcome, plan = run()
    shard_s = costs_of(FIGURES, plan).seconds(plan)
    least = FIGURES["start_s"] + work_s(plan) / plan.workers
    assert 0.99 * least < outcome.wall_s < 1.01 * least + shard_s
    assert outcome.tail_s < 1.2 * shard_s
    assert (outcome.lost_s, outcome.failures, outcome.retries) == (0, 0, 0)
    assert outcome.wall_s == pytest.approx(expected(FIGURES, plan).wall_s, rel=0.02)


@pytest.mark.parametrize("limit", ["driver", "store", "disk", "disk GB/s"])
def test_a_full_limit_decides_alone(limit):
    shared = costs_of(FIGURES, CALM)
    slowest = 10 * work_s(CALM) / CALM.workers / CALM.shards
    figures, changes = json.loads(json.dumps(FIGURES)), {}
    if limit == "driver":
        figures["ray"]["block_s"] = slowest
    elif limit == "store":
        changes = {"store_gets": shared.gets / slowest}
    elif limit == "disk":
        changes = {"disk_ops": shared.disk_ops / slowest}
    else:
        changes = {"disk_gb": shared.disk_bytes / slowest / 1e9}
    outcome, plan = run(figures, **changes)
    assert outcome.wall_s == pytest.approx(CALM.shards * slowest, rel=0.03)
    assert outcome.busy[limit] > 0.97
    model = expected(figures, plan)
    assert model.limit == limit
    assert model.wall_s == pytest.approx(outcome.wall_s, rel=0.03)
    assert most_workers(figures, plan)[limit] == pytest.approx(plan.workers / 10, rel=0.01)


def test_what_fails_is_done_again_and_costs_time():
    calm, plan = run()
    up_s = calm.wall_s / 4
    outcome, plan = run(node_days=up_s / 86400, repair_s=20.0)  # a machine fails some four times
    mean = plan.nodes * outcome.wall_s / (up_s + plan.repair_s)
    assert abs(outcome.failures - mean) < 5 * math.sqrt(mean)
    assert outcome.retries > outcome.failures  # each takes the shards of 16 workers
    assert outcome.wall_s > calm.wall_s + outcome.lost_s / plan.workers
    dying, plan = run(poison=100.0)
    share = 1 - math.exp(-100 * plan.per_shard / 1e6)
    assert dying.retries == pytest.approx(share * plan.shards, rel=0.2)
    assert dying.wall_s == pytest.approx(expected(FIGURES, plan).wall_s, rel=0.05)


def test_slow_images_make_the_tail_longer():
    calm, _ = run()
    slow, plan = run(slow=20.0, slow_s=20.0)
    added = (slow.wall_s - slow.tail_s - calm.wall_s + calm.tail_s) * plan.workers / plan.images
    assert added == pytest.approx(costs_of(FIGURES, plan).slow_s, rel=0.5)  # its variance is large
    assert slow.tail_s > calm.tail_s


def test_parameters_are_changed_by_name():
    plan = changed(Plan(), ["workers=8", "core_hour=0.5"])
    assert (plan.workers, plan.core_hour) == (8, 0.5)
    with pytest.raises(SystemExit, match="expected NAME=VALUE of images, per_shard"):
        changed(Plan(), ["cores=8"])
    names = [row[0].strip("`") for row in assumptions(Plan())[1][1:]]
    assert names == [field.name for field in dataclasses.fields(Plan)]


def test_the_page_has_the_tables_of_the_figures():
    page = PAGE.read_text()
    shown = page.partition(BEGIN)[2].partition(END)[0]
    for title, (first, *rows) in (measured(FIGURES, Plan()), assumptions(Plan())):
        assert f"**{title}**" in shown
        for row in (first, *rows):
            assert f"| {' | '.join(row)} |" in shown, "run scale_plan.py with --write"
    small = markdown(FIGURES, dataclasses.replace(CALM, images=1e6))
    assert small.count("\n**") == shown.count("\n**") - 1

"""Seeds of a zoo: which trainings there are, and the means and deviations of their rows."""

import dataclasses
import math
import statistics

import pytest
from degmix_training.zoo import ZooConfig, zoo_file

from degmix_edge import config
from degmix_edge.errors import ConfigError
from degmix_edge.workflows.zoo.plan import claim_folder, load_zoo, parse_seeds
from degmix_edge.workflows.zoo.result import Baseline, Elsewhere, ZooResult, ZooRow
from degmix_edge.workflows.zoo.seeds import baselines_over_seeds, over_seeds
from degmix_edge.workflows.zoo.tables import (
    accuracy_table,
    csv_text,
    elsewhere_tables,
    seeds_tables,
)

MIOU, DEPTH = [40.0, 43.0, 41.0], [0.5, 0.7, 0.6]


def row(seed, **changes):
    values = {
        "name": "degmix",
        "model": "degmix",
        "backbone": "b",
        "params": 10,
        "step": 160,
        "gmac": {"trained": 1.0, "fp32": 1.0, "int8": 1.0},
        "values": {"semseg": MIOU[seed], "depth": DEPTH[seed]},
        "int8": {"semseg": MIOU[seed] - 1, "depth": DEPTH[seed]},
        "drop": {"semseg": 0.02, "depth": 0.0},
        "size_bytes": {"fp32": 2, "int8": 1},
        "flips": {},
        "delta_m": {"fp32": float(seed), "int8": seed - 0.5},
        "seeds": (seed,),
    }
    return ZooRow(**(values | changes))


@pytest.fixture(scope="module")
def smoke():
    return config.load(ZooConfig, zoo_file("smoke"))


def test_seeds_are_counted_or_given():
    assert parse_seeds("3", 5) == parse_seeds(3, 5) == (5, 6, 7)
    assert parse_seeds("7, 0", 5) == parse_seeds([7, 0], 5) == (7, 0)
    assert parse_seeds("9,", 5) == (9,)
    for wrong in ("0", 0, -2, "", ",", "1,1", [2, -1], []):
        with pytest.raises(ConfigError, match="expected at least one, each once and none below 0"):
            parse_seeds(wrong, 0)
    for wrong in ("x", "1,-2", "1.5"):
        with pytest.raises(ConfigError, match="expected a number of seeds, or seeds as in 0,1,2"):
            parse_seeds(wrong, 0)
    with pytest.raises(ConfigError, match="expected each one once"):
        load_zoo("smoke", (), ["seeds=[1,1]"], None, None)


def test_every_network_is_trained_with_every_seed(smoke):
    once = smoke.trainings()
    assert list(once) == [*smoke.references(), *smoke.entries]
    assert {settings.seed for settings in once.values()} == {0}
    some = smoke.model_copy(update={"seeds": (4, 0)}).trainings()
    assert len(some) == 2 * len(once)
    first = list(some)[: len(once)]
    assert first == [f"{name}/seed-4" for name in once]
    assert list(some)[len(once) :] == list(once)  # the folders that one seed has
    for name, settings in once.items():
        assert some[name] == settings
        assert some[f"{name}/seed-4"] == settings.model_copy(update={"seed": 4})


def test_seeds_are_added_to_a_folder_and_stay(smoke, tmp_path):
    claim_folder(smoke, tmp_path, force=False)
    for seeds, kept in (((), ()), ((0, 1), (0, 1)), ((5,), (0, 1, 5)), ((), (0, 1, 5))):
        asked = smoke.model_copy(update={"seeds": seeds})
        claim_folder(asked, tmp_path, force=False)
        assert config.load(ZooConfig, tmp_path / "zoo.yaml").all_seeds == (kept or (0,))


def test_a_checkpoint_takes_the_place_of_one_training_alone(smoke):
    from degmix_edge.workflows.zoo.plan import check_given

    two = smoke.model_copy(update={"seeds": (0, 1)})
    with pytest.raises(ConfigError, match="takes the place of one training, got 2 seeds"):
        check_given(two, {"degmix": "x.safetensors"})


def test_the_row_of_a_network_has_means_and_deviations():
    rows = [row(seed, remarks=["noted"] if seed == 1 else []) for seed in range(3)]
    mean = over_seeds(rows)
    assert mean.seeds == (0, 1, 2)
    assert mean.values["semseg"] == pytest.approx(statistics.mean(MIOU))
    assert mean.std["values"]["semseg"] == pytest.approx(statistics.stdev(MIOU))
    assert mean.std["int8"]["depth"] == pytest.approx(statistics.stdev(DEPTH))
    assert mean.delta_m == pytest.approx({"fp32": 1.0, "int8": 0.5})
    assert mean.deviation("int8") == pytest.approx(1.0)
    assert mean.remarks == ["seed 1: noted"]
    assert (mean.params, mean.gmac, mean.size_bytes) == (10, rows[0].gmac, {"fp32": 2, "int8": 1})
    alone = over_seeds(rows[1:2])
    assert dataclasses.replace(alone, latency_ms=rows[1].latency_ms) == rows[1]
    assert alone.std == {}
    assert alone.deviation("int8") is None


def test_a_number_that_one_seed_lacks_has_no_mean():
    broken = row(1, values={"semseg": math.nan, "depth": 0.7}, delta_m={"fp32": 1.0})
    mean = over_seeds([row(0), broken])
    assert math.isnan(mean.values["semseg"])
    assert math.isnan(mean.std["values"]["semseg"])
    assert mean.delta_m == {"fp32": 0.5}
    assert mean.rank == float("-inf")


def test_a_training_that_asha_stopped_counts_in_no_mean():
    stopped = row(1, stopped_at=40, remarks=["ASHA stopped it at step 40 of 160"])
    mean = over_seeds([row(0), stopped, row(2)])
    assert mean.seeds == (0, 2)
    assert mean.stopped_at == 0
    assert mean.values["semseg"] == pytest.approx(40.5)
    assert mean.remarks == ["seed 1: ASHA stopped it at step 40 of 160"]
    alone = over_seeds([stopped, row(2, stopped_at=40)])
    assert alone.seeds == (1, 2)
    assert alone.stopped_at == 40


def test_baselines_have_means_and_deviations():
    each = {s: {"semseg": Baseline(MIOU[s], "single-semseg", seeds=(s,))} for s in range(3)}
    found = baselines_over_seeds(each)["semseg"]
    assert found.value == pytest.approx(statistics.mean(MIOU))
    assert found.std == pytest.approx(statistics.stdev(MIOU))
    assert (found.of, found.seeds) == ("single-semseg", (0, 1, 2))
    assert baselines_over_seeds({4: each[0]})["semseg"] == Baseline(40.0, "single-semseg", 0, (4,))


def test_tables_show_deviations_and_what_was_stopped(smoke, tmp_path):
    also = Elsewhere(45, {"semseg": 30.0, "depth": 0.9}, {"semseg": 12.0}, {"fp32": -3.0})
    rows = [
        row(s, also={"synthetic_shifted:45": also}, stopped_at=80 if s == 2 else 0)
        for s in range(3)
    ]
    of = {"semseg": Baseline(41.0, "single-semseg", 1.5, (0, 1, 2))}
    zoo = smoke.model_copy(update={"seeds": (0, 1, 2), "also": ("synthetic_shifted:45",)})
    result = ZooResult(
        zoo, tmp_path, (over_seeds(rows),), tuple(rows), of, {"synthetic_shifted:45": of}
    )
    table = accuracy_table(result)
    cells = dict(zip(table.columns, table.rows[1], strict=True))
    assert cells["seeds"] == "2"
    assert cells["delta_m [%]"] == "+0.00 ± 0.71"
    assert cells["semseg miou [%]"] == "40.500 ± 2.121 (-2.0 %)"
    last = dict(zip(table.columns, table.rows[-1], strict=True))
    assert (last["network"], last["seeds"]) == ("compared with", "3")
    assert last["semseg miou [%]"] == "41.000 ± 1.500"
    assert last["depth rmse [m]"] == "-"
    (shifted,) = elsewhere_tables(result)
    cells = dict(zip(shifted.columns, shifted.rows[0], strict=True))
    assert cells["delta_m [%]"] == "-3.00 ± 0.00"
    assert cells["semseg ece [%]"] == "12.000 ± 0.000"
    (every,) = seeds_tables(result)
    assert [cells[:2] for cells in every.rows] == [
        ("degmix", "0"),
        ("degmix", "1"),
        ("degmix (stopped at step 80 of 160)", "2"),
    ]
    header, line = csv_text(result).splitlines()
    numbers = dict(zip(header.split(","), line.split(","), strict=True))
    assert float(numbers["semseg_int8_std"]) == pytest.approx(statistics.stdev([39, 42]))
    assert float(numbers["delta_m_int8_std"]) == pytest.approx(statistics.stdev([-0.5, 0.5]))
    assert numbers["seeds"] == "2"
    assert float(numbers["semseg_ece on synthetic_shifted:45"]) == 12

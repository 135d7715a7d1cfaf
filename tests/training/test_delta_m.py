"""delta_m by hand; the published rows."""

import pytest
from degmix_training import published
from degmix_training.delta_m import delta_m

from degmix_edge.errors import ConfigError

METRICS = {"semseg": "miou", "depth": "rmse", "edge": "ods_f"}


def test_delta_m_by_hand():
    values = {"semseg": 44.0, "depth": 0.54, "edge": 77.0}
    baselines = {"semseg": (40.0, "a"), "depth": (0.6, "b"), "edge": (77.0, "c")}
    found = delta_m(values, baselines, METRICS)
    assert [round(g.gain, 6) for g in found.tasks] == [10.0, 10.0, 0.0]
    assert [g.sign for g in found.tasks] == [1, -1, 1]
    assert [g.source for g in found.tasks] == ["a", "b", "c"]
    assert found.delta_m == pytest.approx(20 / 3)


@pytest.mark.parametrize("baselines", [{}, {"depth": (0.0, "x")}, {"depth": (float("nan"), "x")}])
def test_baselines_that_measure_nothing(baselines):
    with pytest.raises(ConfigError, match="task 'depth' has baseline .*--task depth"):
        delta_m({"depth": 0.5}, baselines, METRICS)


def test_published_rows():
    family = [row for row in published.rows() if row.model in ("demt", "demtg", "degmix")]
    assert len(family) == 17
    assert {row.source for row in family} == {published.LABEL}
    assert all(row.source for row in published.rows())
    assert list(published.columns("nyud")) == ["semseg", "depth", "normals", "edge"]
    row = published.find("nyud", "demtg", "swin_tiny_patch4_window7_224")
    assert row.values["depth"] == ("rmse", 0.5660)
    assert (
        published.find("pascal_context", "demt", "hrnet_w18_small_v2").values["human_parts"][1]
        == 57.93
    )
    # Its README's Swin rows are DeMTG's.
    assert published.find("nyud", "degmix", "swin_tiny_patch4_window7_224") is None
    for row in published.rows():
        assert 30 < row.values["semseg"][1] < 90
        assert 12 < row.values.get("normals", ("", 15.0))[1] < 22

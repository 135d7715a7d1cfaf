"""What a page draws of a task: differences with their legends, labels as maps, ticks of charts."""

import numpy as np
import pytest
from conftest import task_specs

from degmix_edge.report.charts import Axis, Bar, Bars, Plot, Point, Series, nice_ticks
from degmix_edge.report.views import ABOVE, BELOW, CHANGED, EQUAL, difference, label_map, view
from degmix_edge.tasks import find

SPECS = task_specs()


def test_classes_that_differ_are_bright_and_void_does_not_count():
    want = np.array([[0, 1, 255, 3]], np.uint8)
    got = np.array([[0, 2, 1, 3]], np.uint8)
    found = difference(got, want, SPECS["semseg"], 1.0)
    assert tuple(found.picture[0, 1]) == CHANGED
    assert tuple(found.picture[0, 2]) == (0, 0, 0)
    assert found.picture[0, 3].max() < 80
    assert found.share == pytest.approx(1 / 3)
    assert found.text == "33.33 % of the pixels have another class"


def test_depth_has_a_sign_and_metres():
    want = np.array([[1.0, 1.0, 1.0, np.nan]], np.float32)
    got = np.array([[0.4, 1.0, 1.6, 1.0]], np.float32)
    found = difference(got, want, SPECS["depth"], 6.0, scale=2.0)
    expected = [BELOW, EQUAL, ABOVE, (0, 0, 0)]
    assert [tuple(p) for p in found.picture[0]] == expected
    assert found.legend.ticks == ("-0.6", "0", "0.6")
    assert found.legend.title.endswith("[m]")
    assert found.text == "mean 0.4, largest 0.6 m"


def test_normals_differ_by_an_angle():
    want = np.array([[[0, 0, -1], [0, 0, -1], [np.nan] * 3]], np.float32)
    got = np.array([[[0, 0, -1], [0, -1, 0], [0, 0, -1]]], np.float32)
    found = difference(got, want, SPECS["normals"], 1.0)
    assert found.text == "mean 45, largest 90 degrees"
    assert tuple(found.picture[0, 0]) == EQUAL
    assert found.picture[0, 1].min() > 190
    assert tuple(found.picture[0, 2]) == (0, 0, 0)


@pytest.mark.parametrize("name", ["flow", "embedding", "heatmap", "uncertainty", "log_depth"])
def test_every_kind_of_map_has_a_view(name):
    spec = find(name).spec()
    if name in ("embedding", "heatmap"):
        spec = spec.model_copy(update={"num_channels": 4})
    shape = spec.map_spec(6, 8).shape[1:]
    first = np.random.default_rng(0).uniform(0.1, 1, shape).astype(np.float32)
    shown = view(spec, {"one": first, "two": first * np.float32(0.9)})
    assert shown.difference.picture.shape == (6, 8, 3)
    assert 0 <= shown.difference.share <= 1
    drawn = shown.legend
    assert drawn.stops or drawn.disc is not None or drawn.chips or drawn.note


def test_the_legend_has_the_classes_that_occur_and_a_round_end_of_depth():
    semseg = np.array([[0, 0, 0, 2]], np.uint8)
    chips = view(SPECS["semseg"], {"one": semseg}).legend.chips
    assert [(c.name, c.remark) for c in chips] == [
        (SPECS["semseg"].classes[0], "75 %"),
        (SPECS["semseg"].classes[2], "25 %"),
    ]
    assert chips[1].colour == SPECS["semseg"].palette[2]
    depth = np.full((4, 4), 3.4, np.float32)
    assert view(SPECS["depth"], {"one": depth}).legend.ticks == ("0", "2", "4")
    assert view(SPECS["depth"], {"one": depth}, 6.0).legend.ticks == ("0", "3", "6")


def test_the_sphere_has_the_colours_of_the_map():
    up = np.array([[[0, -1, 0]]], np.float32)
    shown = view(SPECS["normals"], {"one": up})
    disc = shown.legend.disc
    assert np.abs(disc[1, 48].astype(int) - shown.layers["one"][0, 0]).max() < 40
    assert tuple(disc[0, 0]) == (0, 0, 0)  # outside the circle


def test_labels_become_maps():
    depth = np.array([[0.0, 2.0], [3.0, 4.0]], np.float32)
    small = label_map(depth, SPECS["depth"], (4, 4))
    assert small.shape == (4, 4)
    assert np.isnan(small[0, 0])
    assert small[3, 3] == 4
    edge = label_map(np.array([[0, 1, 255]], np.uint8), SPECS["edge"], (1, 3))
    assert edge[0, :2].tolist() == [0, 1]
    assert np.isnan(edge[0, 2])
    normals = label_map(np.zeros((1, 1, 3), np.float32), SPECS["normals"], (1, 1))
    assert np.isnan(normals).all()
    semseg = label_map(np.array([[255, 3]], np.int64), SPECS["semseg"], (1, 2))
    assert semseg.dtype == np.uint8


@pytest.mark.parametrize(
    "ends", [(0, 1), (0, 33.3), (0.2, 0.21), (-5, 12), (0, 1181), (1e-9, 4e-9)]
)
def test_ticks_are_round_inside_the_axis_and_few(ends):
    ticks = nice_ticks(*ends)
    assert 2 <= len(ticks) <= 8
    assert all(ends[0] - 1e-9 <= t <= ends[1] + 1e-9 for t in ticks)
    steps = np.diff(ticks)
    assert np.allclose(steps, steps[0])
    assert f"{steps[0]:.3e}"[0] in "125"


def test_bars_stay_on_their_axis():
    chart = Bars("ms", (Bar("a", (("pre", 10.0), ("net", 30.0)), ""),), ((33.3, "30 Hz"),))
    assert chart.percent(40) <= 100
    assert chart.percent(33.3) == pytest.approx(100 * 33.3 / float(chart.ticks[-1][1]), abs=0.01)
    assert Bars("empty", (Bar("a", (("", 0.0),), ""),)).percent(0) == 0


def test_error_bars_stay_on_the_axes():
    chart = Bars("m", (Bar("a", (("", 8.0),), "", error=3.0), Bar("b", (("", 2.0),), "")))
    assert float(chart.ticks[-1][1]) >= 11
    assert chart.percent(11) <= 100
    points = (Point(1, 5.0, error=2.0), Point(2, 1.0))
    plot = Plot("", Axis("x"), Axis("y"), (Series("", points),))
    (drawn,) = plot.drawn
    first, second = drawn.points
    assert first.error == pytest.approx((second.y - first.y) / 2)  # 2 of the 4 between them
    assert plot.top <= first.y - first.error
    assert second.error == 0


def test_points_lie_inside_the_plot_where_their_values_are():
    points = (Point(1, 0.0), Point(2, 1181.0), Point(3, float("inf")), Point(4, 11.81))
    plot = Plot("", Axis("x"), Axis("y", log=True), (Series("", points),), ((100, ""),), floor=0.01)
    (drawn,) = plot.drawn
    assert len(drawn.points) == 3
    for point in drawn.points:
        assert plot.left <= point.x <= plot.right
        assert plot.top <= point.y <= plot.bottom
    places = dict((text, y) for y, text in plot.y_ticks)
    assert set(places) == {"0.01", "1", "100", "10000"}
    (mark,) = plot.drawn_marks
    decade = (plot.bottom - plot.top) / 6
    assert drawn.points[0].y == plot.bottom  # at the floor
    assert drawn.points[2].y - drawn.points[1].y == pytest.approx(2 * decade)
    assert mark[0] == pytest.approx(plot.bottom - 4 * decade)

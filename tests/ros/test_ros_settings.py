"""Values of the node's parameters that are refused, and what the message says."""

import pytest

from degmix_edge.errors import ConfigError
from degmix_edge.ros.settings import EVERY_FRAME, Live, Settings, problem


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"bundle": ""}, "no bundle is given"),
        ({"image_transport": "compress"}, "Did you mean 'compressed'"),
        ({"input_reliability": "sure"}, "auto, reliable, best_effort"),
        ({"output_reliability": "auto"}, "output_reliability"),
        ({"size": "448"}, "height x width"),
    ],
)
def test_a_setting_that_does_not_exist_is_refused(changes, text):
    settings = Settings(**{"bundle": "robot.degmix", **changes})
    with pytest.raises(ConfigError) as error:
        settings.check()
    assert text in str(error.value)


def test_settings_become_arguments_of_load():
    settings = Settings(bundle="robot.degmix", size="448x672", threads=2)
    settings.check()
    assert settings.loading == {"backend": "auto", "threads": 2, "size": (448, 672)}
    assert Settings().loading == {"backend": "auto", "threads": None, "size": None}


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("tasks.depth.rate_hz", (0, 0.5, 30, 1000.0), (-1, 1000.5, float("nan"), "30", True, None)),
        ("tasks.depth.v2.rate_hz", (3,), (float("inf"),)),
        ("tasks.depth.priority", (-3, 0, 7.0), (0.5, "high", True)),
        ("tasks.depth.stride", (1, 2, 32), (0, 33, 1.5, "2", True)),
        ("budget_ms", (0, 12.5, 40), (-1, float("nan"), float("inf"), "all")),
        ("max_age_ms", (0, 100), (-1, "old")),
        ("use_sim_time", (True, False), ()),
    ],
)
def test_live_values_are_checked(name, good, bad):
    assert [problem(name, value) for value in good] == [""] * len(good)
    for value in bad:
        assert problem(name, value).startswith(f"{name}: got {value}"), value


def test_live_values_are_taken_by_task():
    live = Live(rate_hz={"depth.v2": EVERY_FRAME})
    assert live.rate("depth.v2") is None
    assert live.take("tasks.depth.v2.rate_hz", 10)
    assert live.rate("depth.v2") == 10.0
    assert live.take("budget_ms", 12)
    assert live.budget_ms == 12.0
    assert not live.take("tasks.nonesuch.rate_hz", 10)
    assert not live.take("use_sim_time", True)

"""Registry, settings, tensors, errors."""

import numpy as np
import pytest
from pydantic import Field

from degmix_edge import config, errors, registry, tasks
from degmix_edge.errors import ConfigError, DegmixError, ShapeError
from degmix_edge.tensors import TensorSpec, check


class Inner(config.Settings):
    rate: float = Field(0.5, gt=0)


class Outer(config.Settings):
    name: str = "a"
    inner: Inner = Inner()


def test_registry_names_are_files_without_underscore():
    assert registry.names("degmix_edge.metrics") == [
        *("ece", "edge_f", "epe", "max_f", "mean_angle", "mean_error", "miou", "ods_f", "rmse")
    ]


@pytest.mark.parametrize(("asked", "near"), [("normal", "normals"), ("dept", "depth")])
def test_an_unknown_name_has_the_nearest_one(asked: str, near: str):
    with pytest.raises(ConfigError, match=f"no task '{asked}'.*Did you mean '{near}'"):
        tasks.find(asked)


def test_an_underscore_file_is_no_entry():
    with pytest.raises(ConfigError, match="no task '_base'"):
        tasks.find("_base")


def test_settings_round_trip(tmp_path):
    path = tmp_path / "a.yaml"
    path.write_text(config.dump(Outer(name="b", inner=Inner(rate=2))))
    assert config.load(Outer, path) == Outer(name="b", inner=Inner(rate=2))


def test_overrides_are_typed_and_do_not_touch_the_original(tmp_path):
    values = {"inner": {"rate": 1}}
    assert config.override(values, ["inner.rate=3e-2", "name=c"]) == {
        "inner": {"rate": "3e-2"},
        "name": "c",
    }
    assert values == {"inner": {"rate": 1}}
    switched_off = {"inner": None}
    assert config.override(switched_off, ["inner.rate=2"]) == {"inner": {"rate": 2}}
    path = tmp_path / "a.yaml"
    path.write_text("version: 1\n")
    assert config.load(Outer, path, ["inner.rate=3e-2"]).inner.rate == 0.03


@pytest.mark.parametrize(
    ("text", "overrides", "match"),
    [
        ("name: a\nnam: b\n", [], "no setting 'nam'.*Did you mean 'name'"),
        (
            "name: a\n",
            ["inner.rat=1"],
            "no setting 'inner.rat'. Have: inner.rate. Did you mean 'inner.rate'",
        ),
        ("inner: {rate: -1}\n", [], r"inner.rate: .*greater than 0.*got -1"),
        ("version: 99\n", [], "version 99"),
        ("- 1\n", [], "expected a mapping"),
        ("a: [\n", [], "not readable as YAML"),
        ("name: a\n", ["name"], "expected a.b=value"),
        ("name: a\n", ["name.x=1"], "is a value, not a group"),
    ],
)
def test_what_does_not_fit_says_so(tmp_path, text, overrides, match):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=match):
        config.load(Outer, path, overrides)


def test_a_missing_config_file(tmp_path):
    with pytest.raises(ConfigError, match="no such config file"):
        config.load(Outer, tmp_path / "none.yaml")


def test_settings_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        Outer().name = "x"


def test_check_returns_the_array_itself_and_allows_any_size():
    spec = TensorSpec(name="x", dtype="float32", shape=(1, None), unit="m")
    array = np.zeros((1, 7), np.float32)
    assert check(array, spec) is array
    assert str(spec) == "x float32 (1, *) [m]"


@pytest.mark.parametrize(
    "bad", [np.zeros((1, 7)), np.zeros((2, 7), np.float32), np.zeros(7, np.float32), [1.0]]
)
def test_check_says_what_it_got_and_expected(bad):
    spec = TensorSpec(name="x", dtype="float32", shape=(1, None))
    with pytest.raises(ShapeError, match=r"x: got .*expected"):
        check(bad, spec)


def test_exit_codes_are_distinct_and_leave_shell_codes_alone():
    kinds = [k for k in vars(errors).values() if isinstance(k, type) and k is not DegmixError]
    codes = [k.exit_code for k in kinds if issubclass(k, DegmixError)]
    assert len(set(codes)) == len(codes)
    assert all(2 < code < 126 for code in codes)

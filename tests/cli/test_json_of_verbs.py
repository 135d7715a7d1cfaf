"""What programs read from the verbs stays as it is."""

import json

import pytest
from json_of_verbs import EXPECTED, collect


def same(found, expected, where: str) -> None:
    """Equal, but for rounding: another processor's INT8 kernels score a little differently."""
    assert type(found) is type(expected), where
    if isinstance(expected, dict):
        assert list(found) == list(expected), where
        for key in expected:
            same(found[key], expected[key], f"{where}.{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for index, value in enumerate(expected):
            same(found[index], value, f"{where}[{index}]")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=0.1, abs=0.05), where
    else:
        assert found == expected, where


@pytest.mark.slow(file_seconds=35)
def test_every_verb_prints_the_json_that_it_printed_before(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found, expected = collect(), json.loads(EXPECTED.read_text())
    assert list(found) == list(expected)
    for name in expected:
        same(found[name], expected[name], name)

"""Bundles that come with the package: opened by name, whole, and small."""

import os
from pathlib import Path

import numpy as np
import pytest

import degmix_edge
from degmix_edge.bundle import ready
from degmix_edge.bundle.contents import open_bundle
from degmix_edge.cli import invoke
from degmix_edge.errors import BundleError
from degmix_edge.workflows.verify import verify

pytestmark = pytest.mark.slow(file_seconds=5)


def test_a_name_opens_it_where_there_is_no_such_path(tmp_path, monkeypatch, bundles):
    monkeypatch.chdir(tmp_path)
    assert ready.names() == ["degmix_tiny"]
    path = ready.FOLDER / "degmix_tiny.degmix"
    for name in ("degmix_tiny", "degmix_tiny.degmix"):
        assert open_bundle(Path(name)).path == path
    with degmix_edge.load("degmix_tiny") as session:
        maps = session(np.full((48, 64, 3), 90, np.uint8))
    assert maps["depth"].shape == (192, 256)
    with pytest.raises(BundleError, match=r"no such bundle. Did you mean degmix_tiny\?"):
        degmix_edge.load("degmix_tin")
    with pytest.raises(BundleError, match="no such bundle. Its folder other does not exist"):
        degmix_edge.load("./other/degmix_tiny")
    os.symlink(bundles["fp32"].path, tmp_path / "degmix_tiny")
    assert open_bundle(Path("degmix_tiny")).digest == bundles["fp32"].digest


def test_verbs_take_its_name(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    assert invoke(["verify", "degmix_tiny"]) == 0
    assert invoke(["inspect", "degmix_tiny.degmix"]) == 0
    assert "weights.bin" in capfd.readouterr().err
    assert os.listdir() == []


def test_it_gives_its_golden_maps_and_is_small():
    bundle = open_bundle(ready.FOLDER / "degmix_tiny.degmix")
    assert bundle.manifest.precision == "int8"
    assert bundle.size_bytes < 3_200_000
    assert verify(bundle).passed


def test_bench_takes_the_golden_image_where_there_are_no_photographs(monkeypatch, capfd):
    monkeypatch.setattr("degmix_edge.workflows.bench.find_spec", lambda name: None)
    assert invoke(["bench", "degmix_tiny", "--calls", "3", "--threads", "1"]) == 0
    said = capfd.readouterr().err
    assert "no photographs without scikit-image; taking the bundle's golden image" in said
    assert "engine int8" in said

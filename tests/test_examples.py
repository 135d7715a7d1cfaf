"""The examples run, in order, in one empty folder, and print what they are about."""

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "examples"
PROGRAMS = {
    "01_load_and_run": r"nearest \d.*\nmost of the picture is \w+",
    "02_folder_to_maps": r"(photos/\w+\.png: \d+ files\n){3}depth at the centre: \d+\.\d+ m",
    "03_torch_module": r"mine.degmix int8 \('floor', 'wall', 'door'\)",
    "04_own_onnx": r"depth \(\d+, \d+\) float32 in m",
    "05_own_calibration": r"over 8 frames(.|\n)*the same model from saved ranges: True",
    "06_own_metric": r"PyTorch \d+\.\d+ m, engine \d+\.\d+ m",
    "08_budget_search": r"decides\nsemseg: budget semseg=-2pt, \d+% of it used\ndepth:",
    "09_threads_and_futures": r"(\w+: \d+\.\d ms, equal maps: True\n){3}",
    "10_overlay_video": r"overlay.gif: 12 frames of \(640, 360\)",
    "11_stream": r"frame 39: (.|\n)*40 frames: \d+ delivered, \d+ dropped",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("examples")


def test_every_example_is_here_and_short():
    programs = sorted(ROOT.glob("[0-9]*.py"))
    assert [path.stem for path in programs] == list(PROGRAMS)
    for path in (*programs, *ROOT.glob("07_own_task/*.py")):
        assert len(path.read_text().splitlines()) <= 40, path
        assert path.name in (ROOT / "README.md").read_text() or path.parent != ROOT, path


@pytest.mark.slow(file_seconds=50)
@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("name", PROGRAMS)
def test_it_runs(name, folder, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    runpy.run_path(str(ROOT / f"{name}.py"), run_name="__main__")
    assert re.search(PROGRAMS[name], capsys.readouterr().out)


@pytest.mark.slow
def test_a_task_in_a_package_of_ones_own(folder):
    source, target = ROOT / "07_own_task", folder / "site"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*pip, "--target", target, source], check=True, capture_output=True)
    done = subprocess.run(
        [sys.executable, source / "use.py"],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(target)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "lane" in done.stdout
    assert "classes: background, left, right" in done.stdout
    agreement = re.search(r"engine on network: lane_f (\d+\.\d+) %", done.stdout)
    assert agreement
    assert 99 < float(agreement[1]) <= 100
    assert (folder / "lane.png").stat().st_size > 1000

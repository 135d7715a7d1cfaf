"""Real packages, installed beside ours: `tiny` adds one entry of every kind, `broken` bad ones."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from degmix_edge import metrics, tasks
from degmix_edge.bundle.contents import open_bundle
from degmix_edge.errors import ConfigError
from degmix_edge.runtime import load

pytestmark = pytest.mark.slow

HERE = Path(__file__).parent


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A folder for `PYTHONPATH` by package. The sources are copied: a build writes beside them."""
    folder = tmp_path_factory.mktemp("installed")
    for name in ("tiny", "broken"):
        source = shutil.copytree(HERE / name, folder / "source" / name)
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps"]
        install += ["--no-build-isolation", "--target", str(folder / name), str(source)]
        done = subprocess.run(install, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return {name: folder / name for name in ("tiny", "broken")}


def python(*arguments: str | Path, path: list[Path]) -> subprocess.CompletedProcess[str]:
    """A child process that has the packages of the folders `path`."""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, path)), "COLUMNS": "100"}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=env)


def answers(*program: str | Path, path: list[Path]) -> tuple[dict, list[str]]:
    """The JSON that a program prints, and the warnings of its process."""
    done = python(*program, path=path)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), [
        line.partition("Warning: ")[2] for line in done.stderr.splitlines() if "Warning" in line
    ]


@pytest.fixture(scope="module")
def core(installed, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What `use_core.py` found, and the bundle that it wrote."""
    folder = tmp_path_factory.mktemp("core")
    found, warned = answers(HERE / "use_core.py", folder, path=[installed["tiny"]])
    assert warned == []
    return found | {"bundle": folder / "lane.degmix"}


@pytest.fixture(scope="module")
def desk(installed, tmp_path_factory: pytest.TempPathFactory) -> dict:
    """What `use_training.py` found."""
    folder = tmp_path_factory.mktemp("desk")
    found, warned = answers(HERE / "use_training.py", folder, path=[installed["tiny"]])
    assert warned == []
    return found


def test_names_come_from_metadata_alone(core):
    assert "lane" in core["tasks"]
    assert "depth" in core["tasks"]
    assert core["tasks"] == sorted(core["tasks"])
    assert core["modules_after_names"] == []


def test_a_misspelt_name_is_near_an_entry_point(core):
    have = ", ".join(sorted([*OURS, "lane"]))
    assert core["misspelt"] == f"no task 'lanes'. Have: {have}. Did you mean 'lane'?"


def test_a_task_has_its_own_palette_decode_and_metric(core):
    assert core["spec"]["palette"] == [[0, 0, 0], [255, 200, 0], [0, 90, 255]]
    assert core["spec"]["decode"] == "argmax"
    assert core["spec"]["classes"] == ["background", "left", "right"]
    assert core["colours"] == [[0, 0, 0], [255, 200, 0], [0, 90, 255], [0, 0, 0]]
    assert core["score"] == 50.0
    assert core["foreign_onnx"]["tasks"][0] == core["spec"]


def test_an_observer_chooses_ranges(core):
    assert "half" in core["observers"]
    assert core["ranges"]["observer"] == "half"
    amax = {name: found["amax"] for name, found in core["ranges"]["tensors"].items()}
    assert amax == {name: value / 2 for name, value in core["largest"].items()}
    assert all(value > 0 for value in amax.values())


def test_a_backend_is_found_with_its_hyphen(core):
    assert core["backend"] == "lane-cpu"
    assert core["backend_maps"] == [1, 1, 0, 0]


def test_a_bundle_runs_where_the_package_is_installed(core):
    assert core["maps"]["classes"] == ["background", "left", "right"]
    assert 1 < len(np.unique(core["maps"]["values"]))


def test_a_bundle_runs_where_the_package_is_missing(core):
    """The manifest has all that running needs; only scoring needs the metric's package."""
    with pytest.raises(ConfigError, match="no task 'lane'"):
        tasks.find("lane")
    spec = open_bundle(core["bundle"]).manifest.network
    assert spec.task("lane").model_dump(mode="json") == core["spec"]
    assert spec.keep(["lane"]) == spec
    image = np.load(core["bundle"].parent / "image.npy")
    with pytest.warns(UserWarning, match="has no engine for onnxruntime"):
        session = load(core["bundle"], backend="onnxruntime")
    with session:
        lane = session(image)["lane"]
    assert np.array_equal(lane, core["maps"]["values"])
    assert {tuple(colour) for colour in lane.colour().reshape(-1, 3)} <= set(spec.tasks[0].palette)
    with pytest.raises(
        ConfigError,
        match=r"no metric 'lane_f'.*If another package defines this metric, install that package",
    ):
        metrics.find(spec.task("lane").metric)


def test_a_data_set_is_opened_and_gives_a_task_its_classes(desk):
    assert {"lanes", "nyud", "synthetic"} <= set(desk["data"])
    assert desk["is_rendered"] == {"lanes": True, "synthetic": True, "nyud": False, "folder": False}
    assert desk["sample"] == {"name": "street 1", "shape": [6, 12, 3], "labels": [0, 1, 2]}
    assert desk["classes_of"] == ["lanes", ["background", "left", "right"]]


def test_a_data_set_that_is_installed_changes_no_default(desk):
    assert desk["default"] == "nyud"


def test_a_model_is_made_exported_and_loaded_again(desk):
    assert desk["outputs"] == {"lane": [1, 3, 6, 12]}
    assert desk["onnx_outputs"] == ["lane"]
    assert desk["reloaded"]


def test_an_importer_reads_its_checkpoints_and_ours_still_refuse_others(desk):
    assert desk["imported"] == {"model": "lane_net", "data": "lanes", "kernel": 5, "fates": 2}
    assert "keys marking.weight and marking.bias" in desk["refused"]
    assert "demt (Lightning checkpoints of DeMT" in desk["refused"]
    assert "got keys other.weight" in desk["refused"]


def test_a_verb_is_in_the_help_and_runs(installed):
    shown = python("-m", "degmix_edge", "--help", path=[installed["tiny"]])
    assert shown.returncode == 0, shown.stderr
    assert "lane-verb" in shown.stdout
    assert "Say how many lanes there are." in shown.stdout
    done = python("-m", "degmix_edge", "lane-verb", "--times", "3", path=[installed["tiny"]])
    assert (done.returncode, done.stdout) == (0, "6 lanes\n"), done.stderr


def test_a_verb_that_cannot_be_imported_leaves_the_others(installed):
    path = [installed["broken"]]
    shown = python("-m", "degmix_edge", "--help", path=path)
    assert shown.returncode == 0, shown.stderr
    assert "doctor" in shown.stdout
    done = python("-m", "degmix_edge", "fog-verb", path=path)
    assert done.returncode == ConfigError.exit_code, done.stderr
    assert "libfog.so.3 is missing" in done.stderr
    assert "broken-lanes" in done.stderr


def test_no_metadata_is_read_before_a_registry_is_asked(installed):
    code = (
        "import sys, degmix_edge, degmix_edge.registry; print('importlib.metadata' in sys.modules)"
    )
    assert python("-c", code, path=[installed["tiny"]]).stdout == "False\n"


def test_the_help_asks_for_the_verbs_alone_and_once(installed):
    code = """
import importlib.metadata as metadata
asked, true = [], metadata.entry_points
def entry_points(**parameters):
    asked.append(parameters.get("group"))
    return true(**parameters)
metadata.entry_points = entry_points
from degmix_edge import cli, registry
assert cli.invoke(["--help"]) == 0
registry.names("degmix_edge.cli")
print([group for group in asked if str(group).startswith("degmix_edge")])
"""
    shown = python("-c", code, path=[installed["tiny"]])
    assert shown.stdout.splitlines()[-1] == "['degmix_edge.verbs']", shown.stderr


BAD_INPUT = """
import json, sys
from degmix_edge import backends, metrics, registry, tasks
from degmix_edge.errors import ConfigError
def said(find, name):
    try:
        find(name)
    except ConfigError as error:
        return str(error)
found = {
    "before": tasks.names(),
    "imported": [name for name in sys.modules if name.startswith("broken_lanes.")],
    "ours": [tasks.find("depth").name, backends.find("tensorrt-rtx").__module__],
    "fog": said(tasks.find, "fog"),
    "again": said(tasks.find, "fog"),
    "rain": said(tasks.find, "rain"),
    "fog_f": said(metrics.find, "fog_f"),
    "rain_f": said(metrics.find, "rain_f"),
    "hidden": said(tasks.find, "_hidden"),
    "near": said(tasks.find, "fogg"),
    "after": [tasks.names(), tasks.names()][0],
    "modules": [name for name, _ in registry.modules("degmix_edge.tasks")],
}
print(json.dumps(found))
"""
FOG = (
    "package 'broken-lanes', entry point 'fog' (broken_lanes.fog) of group 'degmix_edge.tasks': "
    "cannot be used: ImportError: libfog.so.3 is missing"
)
OURS = sorted(path.stem for path in Path(tasks.__file__).parent.glob("[!_]*.py"))


@pytest.fixture(scope="module")
def bad(installed) -> tuple[dict, list[str]]:
    return answers("-c", BAD_INPUT, path=[installed["broken"]])


def test_a_broken_entry_is_listed_until_it_has_failed(bad):
    found, _ = bad
    assert found["before"] == sorted([*OURS, "fog", "rain"])
    assert found["imported"] == []
    assert found["after"] == OURS
    assert found["modules"] == OURS


def test_a_broken_entry_that_is_asked_for_names_its_package_and_the_error(bad):
    found, _ = bad
    assert found["fog"] == found["again"] == FOG + "; repair or uninstall that package"
    assert "TASK calls itself 'drizzle', expected 'rain'" in found["rain"]
    assert "module broken_lanes.rain has no Metric, expected of a metric" in found["fog_f"]
    assert "its value names an object, expected a module" in found["rain_f"]
    assert all("package 'broken-lanes'" in found[name] for name in ("rain", "fog_f", "rain_f"))


def test_entries_that_are_hidden_or_misspelt_do_not_exist(bad):
    found, _ = bad
    assert "no task '_hidden'" in found["hidden"]
    assert found["near"].startswith("no task 'fogg'. Have: confidence, depth, edge,")


def test_our_files_win_and_every_warning_comes_once(bad):
    found, warned = bad
    assert found["ours"] == ["depth", "degmix_edge.backends.tensorrt_rtx"]
    taken = "degmix-edge already has that name; it is left out"
    assert sorted(warned) == sorted(
        [
            f"package 'broken-lanes', entry point 'depth' (broken_lanes.fog) of group "
            f"'degmix_edge.tasks': {taken}",
            f"package 'broken-lanes', entry point 'tensorrt-rtx' (broken_lanes.fog) of group "
            f"'degmix_edge.backends': {taken}",
            f"{FOG}; it is left out",
            next(text for text in warned if "'drizzle'" in text),
        ]
    )


def test_broken_data_sets_and_importers_leave_ours(installed, tmp_path):
    found, warned = answers(HERE / "use_ours.py", tmp_path, path=[installed["broken"]])
    assert found["classes_of"] == "nyud"
    assert "libfog.so.3 is missing" in found["fog"]
    assert "none of the authors' checkpoints" in found["refused"]
    assert len(warned) == 2
    assert all("libfog.so.3 is missing; it is left out" in text for text in warned)

"""The ament package: what it installs, and what its files name."""

import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import yaml
from rig import interpreter

from degmix_edge import __version__
from degmix_edge.ros.settings import Live, Settings
from degmix_edge.ros.shared_memory import (
    OLD_VARIABLE,
    PROFILE,
    VARIABLE,
    profile_variable,
    use_profile,
)

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "ros"
NAME = "degmix_edge_ros"


def test_the_manifest_is_that_of_an_ament_python_package():
    root = ElementTree.parse(PACKAGE / "package.xml").getroot()
    assert root.attrib["format"] == "3"
    assert root.findtext("name") == NAME
    assert root.findtext("export/build_type") == "ament_python"
    assert root.findtext("version") == __version__
    assert f'version="{__version__}"' in (PACKAGE / "setup.py").read_text()
    needed = {one.text for one in root.findall("exec_depend")}
    assert {"rclpy", "sensor_msgs", "diagnostic_msgs", "vision_msgs", "launch_ros"} <= needed


@pytest.mark.slow(file_seconds=8)
def test_it_installs_what_ament_looks_for(tmp_path):
    shutil.copytree(PACKAGE, tmp_path / "source")
    command = [sys.executable, "setup.py", "-q"]
    command += ["install_data", "--install-dir", str(tmp_path / "base")]
    command += ["install_lib", "--install-dir", str(tmp_path / "base" / "lib")]
    done = subprocess.run(
        command, cwd=tmp_path / "source", capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    base = tmp_path / "base"
    share = base / "share"
    assert (share / "ament_index" / "resource_index" / "packages" / NAME).is_file()
    for name in ("package.xml", "launch/maps.launch.py", "config/maps.yaml"):
        assert (share / NAME / name).read_text() == (PACKAGE / name).read_text()
    assert (base / "lib" / NAME / "maps.py").is_file()


@pytest.mark.slow(file_seconds=8)
def test_its_program_is_the_node():
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{PACKAGE}"}
    command = [interpreter(), "-m", f"{NAME}.maps", "--ros-args", "-p", "backend:=auto"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 3, done.stderr
    assert "no bundle is given" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_file_of_parameters_has_the_defaults():
    values = yaml.safe_load((PACKAGE / "config" / "maps.yaml").read_text())["/**"][
        "ros__parameters"
    ]
    defaults = {**vars(Settings()), "budget_ms": Live().budget_ms}
    defaults["max_age_ms"] = Live().max_age_ms
    for name, value in values.items():
        assert value == defaults[name], name
        assert type(value) is type(defaults[name]), f"{name}: ROS refuses another type"


@pytest.mark.parametrize(
    ("distribution", "variable"),
    [
        ("humble", OLD_VARIABLE),
        ("jazzy", OLD_VARIABLE),
        ("kilted", VARIABLE),
        ("lyrical", VARIABLE),
    ],
)
def test_each_distribution_finds_the_profile(monkeypatch, distribution, variable):
    for name in (VARIABLE, OLD_VARIABLE):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("ROS_DISTRO", distribution)
    assert profile_variable() == variable
    use_profile()
    assert os.environ.pop(variable) == str(PROFILE)
    monkeypatch.setenv(OLD_VARIABLE, "own.xml")
    use_profile()
    assert (os.environ[OLD_VARIABLE], VARIABLE in os.environ) == ("own.xml", False)


def test_the_profile_has_room_for_maps():
    space = "{http://www.eprosima.com}"
    root = ElementTree.parse(PROFILE).getroot()
    kinds = {one.text for one in root.iter(f"{space}type")}
    assert kinds == {"SHM", "UDPv4"}
    (size,) = (int(one.text) for one in root.iter(f"{space}segment_size"))
    assert size >= 8 * 640 * 480 * 12, "eight maps of normals in flight"

"""The doctor: what boards, cameras, ROS, keys and caches are, and one line for what is missing."""

import json
import os
from importlib import metadata

import numpy as np
import pytest
from jetson_files import write_files

from degmix_edge import pixel_library
from degmix_edge.backends import _kernels
from degmix_edge.errors import ConfigError
from degmix_edge.workflows import doctor, doctor_system
from degmix_edge.workflows.board import Board, Clock, read_board
from degmix_edge.workflows.doctor import examine, guess_role
from degmix_edge.workflows.doctor_system import (
    cache_check,
    camera_check,
    clocks_check,
    memory_check,
    power_check,
    ros_check,
    signing_check,
    swap_check,
    system_checks,
)


@pytest.fixture
def orin(tmp_path):
    return write_files(tmp_path, "orin")


@pytest.fixture
def installed(monkeypatch):
    """The packages of a robot; a test adds others."""
    versions = {"onnxruntime": "1.32"}

    def version(name):
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(doctor.metadata, "version", version)
    return versions


def write(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


# Boards


def test_an_orin_is_examined(orin):
    checks = {check.name: check for check in system_checks(orin)}
    board = checks["board"]
    assert board.found == "NVIDIA Jetson AGX Orin Developer Kit, L4T 36.4.3, JetPack 6.2"
    assert checks["power mode"].found == "MODE_50W"
    assert checks["power mode"].advice.startswith("sudo nvpmodel -m 0,")
    assert checks["clocks"].advice.startswith("sudo jetson_clocks")
    assert "gpu 612 MHz (306 to 1300)" in checks["clocks"].found
    assert "cpu0 2202 MHz (locked)" in checks["clocks"].found
    assert checks["swap"].status == "ok"
    assert checks["memory"].found == "65.9 GB, 49.4 GB free"
    assert checks["ros"].advice == "source /opt/ros/humble/setup.bash"
    assert checks["cameras"].found == "none"


def test_a_thor_at_full_power(tmp_path):
    root = write_files(tmp_path, "thor")
    (root / "etc/nvpmodel.conf").write_text("< POWER_MODEL ID=0 NAME=MAXN >")
    checks = {check.name: check for check in system_checks(root)}
    assert checks["power mode"] == doctor_system.Check("power mode", "ok", "MAXN")
    assert checks["clocks"].status == "ok"
    assert "gpu-gpc-0 1575 MHz (locked)" in checks["clocks"].found
    assert checks["memory"].found == checks["swap"].found == "not known"


def test_a_desktop_is_asked_for_nothing_of_a_jetson(tmp_path):
    write(tmp_path / "sys/class/dmi/id/product_name", "NUC13\n")
    checks = {check.name: check for check in system_checks(tmp_path)}
    assert checks["board"].found == "NUC13; no Jetson"
    assert "power mode" not in checks
    assert "swap" not in checks
    assert checks["clocks"].status == "ok"


def test_an_old_jetpack(tmp_path):
    write(tmp_path / "etc/nv_tegra_release", "# R35 (release), REVISION: 4.1,")
    check = doctor_system.board_check(read_board(tmp_path))
    assert (check.status, check.found) == ("note", "not known, L4T 35.4.1, JetPack 5.x")
    assert "6.2" in check.advice


def test_a_power_mode_that_is_not_known(orin):
    (orin / "var/lib/nvpmodel/status").unlink()
    check = power_check(read_board(orin), orin)
    assert (check.found, check.advice) == ("not known", "sudo nvpmodel -q")


def test_a_processor_that_saves_power():
    board = Board(clocks={"cpu0": Clock(800, 800, 3600, "powersave")})
    check = clocks_check(board)
    assert check.status == "note"
    assert check.advice.startswith("sudo cpupower frequency-set -g performance")


@pytest.mark.parametrize(
    ("total_kb", "swap_kb", "status"),
    [(7_800_000, 0, "note"), (7_800_000, 4_000_000, "ok"), (64_000_000, 0, "ok")],
)
def test_swap_is_advised_on_small_boards(tmp_path, total_kb, swap_kb, status):
    write(tmp_path / "proc/meminfo", f"MemTotal: {total_kb} kB\nSwapTotal: {swap_kb} kB\n")
    check = swap_check(tmp_path)
    assert check.status == status
    assert ("sudo swapon" in check.advice) == (status == "note")


def test_a_full_memory(tmp_path):
    write(tmp_path / "proc/meminfo", "MemTotal: 8000000 kB\nMemAvailable: 300000 kB\n")
    check = memory_check(tmp_path)
    assert (check.status, check.found) == ("missing", "8.2 GB, 0.3 GB free")
    assert "systemctl isolate multi-user" in check.advice


# Cameras, ROS, cache, keys


def test_cameras_and_those_that_this_user_may_not_open(tmp_path):
    for number, index, name in ((0, 0, "vi-output, imx219 9-0010"), (1, 1, "x"), (10, 0, "UVC")):
        folder = tmp_path / f"sys/class/video4linux/video{number}"
        write(folder / "name", name + "\n")
        write(folder / "index", f"{index}\n")
        write(tmp_path / f"dev/video{number}", "")
    check = camera_check(tmp_path)
    assert check.status == "ok"
    assert check.found == "/dev/video0 (vi-output, imx219 9-0010); /dev/video10 (UVC)"
    (tmp_path / "dev/video10").unlink()  # also what a container without the device sees
    check = camera_check(tmp_path)
    assert check.status == "missing"
    assert check.found.endswith("may not be opened: /dev/video10")
    assert check.advice.startswith("sudo usermod -aG video")


def test_ros_distributions(tmp_path):
    def found(environment, has_rclpy):
        check = ros_check(tmp_path, environment, has_rclpy)
        return check.status, check.found, check.advice

    assert found({}, False)[:2] == ("note", "no ROS 2")
    (tmp_path / "opt/ros/noetic").mkdir(parents=True)
    assert found({}, False)[:2] == ("note", "no ROS 2")
    (tmp_path / "opt/ros/jazzy").mkdir()
    expected = ("note", "ROS 2 jazzy, not sourced", "source /opt/ros/jazzy/setup.bash")
    assert found({}, False) == expected
    status, text, advice = found({"ROS_DISTRO": "jazzy"}, False)
    assert (status, text) == ("missing", "ROS 2 jazzy, rclpy cannot be imported")
    assert "--system-site-packages" in advice
    assert found({"ROS_DISTRO": "jazzy"}, True)[0] == "ok"
    assert found({}, True)[0] == "ok"  # wheels need no sourcing


def test_the_cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("DEGMIX_CACHE", str(folder / "deeper"))
    assert cache_check().found.startswith(f"{folder}/deeper: 0 files, 0.0 MB")
    write(folder / "deeper/engines/a.plan", "x" * 2_500_000)
    check = cache_check()
    assert check.status == "ok"
    assert check.found.startswith(f"{folder}/deeper: 1 files, 2.5 MB, ")
    file = tmp_path / "file"
    file.write_text("")
    monkeypatch.setenv("DEGMIX_CACHE", str(file / "below"))
    check = cache_check()
    assert check.status == "missing"
    assert "DEGMIX_CACHE" in check.advice


def test_signatures(tmp_path, monkeypatch):
    for name in ("DEGMIX_TRUST", "DEGMIX_KEYS", "DEGMIX_NOT_BEFORE", "DEGMIX_IDENTITY"):
        monkeypatch.delenv(name, raising=False)
    assert signing_check().status == "note"
    monkeypatch.setenv("DEGMIX_TRUST", "nobody")
    assert signing_check().advice == "trust: got 'nobody', expected any or signed"
    monkeypatch.setenv("DEGMIX_TRUST", "signed")
    assert signing_check().found == "asked for, and there is no key"
    monkeypatch.setenv("DEGMIX_KEYS", str(tmp_path / "no.pem"))
    assert signing_check().found == "asked for, and a key cannot be read"
    from degmix_edge.bundle.keys import make_key

    _, public = make_key(tmp_path / "fleet")
    monkeypatch.setenv("DEGMIX_KEYS", str(public))
    check = signing_check()
    assert (check.status, check.found) == ("ok", "asked for: 1 keys, 0 authorities")


# Roles


def test_a_robot_is_not_told_to_install_what_trains(installed):
    checks = examine("robot")
    advice = "\n".join(check.advice for check in checks)
    for extra in ("train", "export", "demo", "build", "compare"):
        assert f"degmix-edge[{extra}]" not in advice, extra
    by_name = {check.name: check for check in checks}
    assert by_name["train"].status == by_name["build"].status == "note"
    assert "the role robot does without" in by_name["export"].found
    assert by_name["role"].found == "robot, by --role"
    assert "degmix-edge[bags]" in by_name["bags"].advice
    missing = {check.name for check in examine("train") if check.status == "missing"}
    assert missing >= {"train", "export", "demo", "build", "compare"}
    missing = {check.name for check in examine("build") if check.status == "missing"}
    assert missing >= {"export", "build", "compare"}
    assert not missing & {"train", "demo"}


def test_a_role_is_guessed_by_what_is_installed(installed):
    assert guess_role() == "robot"
    assert any(c.found.startswith("robot, by what is installed") for c in examine())
    installed["onnxscript"] = "0.7"
    assert guess_role() == "build"
    installed["lightning"] = "2.5"
    assert guess_role() == "train"
    with pytest.raises(ConfigError, match="no role 'robots'.* Did you mean 'robot'"):
        examine("robots")


def test_the_command_line(cli):
    code, out, err = cli("doctor", "--role", "robot", "--json")
    assert code == 0, err
    checks = {check["name"]: check for check in json.loads(out)["checks"]}
    expected = {"python", "role", "board", "memory", "clocks", "cameras", "ros", "cache"}
    expected |= {"signatures", "disk", "cuda kernels", "cpu operators", "cpu pictures"}
    assert expected <= checks.keys()
    assert all(set(c) == {"name", "status", "found", "advice"} for c in checks.values())
    assert all("\n" not in check["advice"] for check in checks.values())
    assert all(check["advice"] for check in checks.values() if check["status"] == "missing")
    code, _, err = cli("doctor", "--role", "pilot")
    assert code == 3
    assert "Have: robot, build, train" in err


# Libraries


def test_the_library_of_pictures(tmp_path, monkeypatch):
    monkeypatch.setenv(pixel_library.VARIABLE, "none")
    check = doctor._cpu_pictures()
    assert (check.status, check.found) == ("note", "not built; numpy and Pillow do its work")
    assert "install a wheel for this machine" in check.advice
    broken = tmp_path / "broken.so"
    broken.write_text("no library")
    monkeypatch.setenv(pixel_library.VARIABLE, str(broken))
    assert doctor._cpu_pictures().status == "missing"
    monkeypatch.setattr(pixel_library, "resize", lambda *a: np.full((2, 2, 3), 6, np.uint8))
    check = doctor._cpu_pictures()
    assert (check.status, "gave other bytes" in check.found) == ("missing", True)
    monkeypatch.setattr(pixel_library, "resize", lambda *a: np.full((2, 2, 3), 7, np.uint8))
    assert doctor._cpu_pictures().status == "ok"


def test_kernels_that_cannot_be_used(tmp_path, monkeypatch):
    monkeypatch.setattr(doctor, "_has_card", lambda: True)
    monkeypatch.setenv(_kernels.VARIABLE, "none")
    assert doctor._kernel_library().advice.startswith("make plugin")
    monkeypatch.setenv(_kernels.VARIABLE, str(tmp_path / "none.so"))
    assert "no such file" in doctor._kernel_library().advice
    damaged = tmp_path / "libdegmix_kernels.so"
    damaged.write_bytes(os.urandom(64))
    monkeypatch.setenv(_kernels.VARIABLE, str(damaged))
    check = doctor._kernel_library()
    assert check.status == "missing"
    assert "no library of our kernels" in check.advice


@pytest.mark.slow
def test_kernels_test_themselves(emulated, monkeypatch):
    path = emulated / "libdegmix_kernels_emulated.so"
    monkeypatch.setenv(_kernels.VARIABLE, str(path))
    check = doctor._kernel_library()
    assert (check.status, check.found) == ("ok", f"{path.name}, self-test passed")

"""Watts, degrees and clocks of boards: right where files say them, and never a made-up zero."""

import threading
import time

import numpy as np
import pytest
from jetson_files import write_files

from degmix_edge.workflows.board import Board, read_board
from degmix_edge.workflows.telemetry import (
    Meter,
    Sample,
    Sampler,
    memory_slope,
    read_sample,
    total_w,
)


def usage(samples):
    meter = Meter()
    for sample in samples:
        meter.add(sample)
    return meter.usage()


def test_an_orin(tmp_path):
    root = write_files(tmp_path, "orin")
    board = read_board(root)
    assert (board.model, board.l4t) == ("NVIDIA Jetson AGX Orin Developer Kit", "36.4.3")
    assert (board.jetpack, board.power_mode) == ("6.2", "MODE_50W")
    assert board.is_jetson
    assert set(board.clocks) == {"gpu", "cpu0"}
    gpu, cpu = board.clocks["gpu"], board.clocks["cpu0"]
    assert (gpu.now_mhz, gpu.min_mhz, gpu.max_mhz) == (612, 306, 1300.5)
    assert gpu.governor == "nvhost_podgov"
    assert not gpu.is_locked
    assert cpu.is_locked
    assert cpu.governor == "schedutil"
    sample = read_sample(root)
    assert sample.rails_w == pytest.approx(
        {
            "VDD_GPU_SOC": 19.048 * 0.248,
            "VDD_CPU_CV": 19.056 * 0.12,
            "VIN_SYS_5V0": 5.04 * 0.76,
            "VDDQ_VDD2_1V8AO": 5.032 * 0.1,
        }
    )
    # The memory's rail hangs below VIN_SYS_5V0 and would count twice.
    assert sample.total_w == pytest.approx(19.048 * 0.248 + 19.056 * 0.12 + 5.04 * 0.76)
    assert sample.temperatures_c == {"cpu": 48.5, "gpu": -2.0}
    assert sample.clocks_mhz == {"gpu": 612, "cpu0": 2201.6}
    assert sample.gpu_percent == 43.7
    assert sample.over_current == 28
    assert sample.host_ticks == (150, 1000)
    assert sample.host_memory_percent == pytest.approx(25)


def test_a_thor(tmp_path):
    root = write_files(tmp_path, "thor")
    board = read_board(root)
    assert (board.l4t, board.jetpack) == ("39.2.0", "7.2-b100")
    assert board.power_mode == "mode 0"  # it has no table of names
    assert set(board.clocks) == {"gpu-gpc-0", "emc"}
    assert board.clocks["gpu-gpc-0"].is_locked
    assert not board.clocks["emc"].is_locked
    sample = read_sample(root)
    assert sample.rails_w["VIN"] == 41.25
    assert sample.rails_w["VDD_CPU_SOC_MSS"] == pytest.approx(6.5)
    assert sample.total_w == 41.25
    assert sample.over_current is None


def test_a_machine_that_says_nothing(tmp_path):
    assert read_board(tmp_path) == Board()
    sample = read_sample(tmp_path)
    assert sample == Sample(sample.at_ns, cpu_s=sample.cpu_s)
    assert sample.total_w is None
    used = usage([sample, read_sample(tmp_path)])
    assert used.rails_w == used.temperatures_c == used.clocks_mhz == {}
    for name in ("total_w", "rss_mb", "host_cpu_percent", "over_current_events", "gpu_percent"):
        assert getattr(used, name) is None, name
    assert used.rss_slope_mb_per_hour is None
    assert used.other_percent is None


@pytest.mark.parametrize(
    ("release", "jetpack"),
    [
        ("# R36 (release), REVISION: 3.0,", "6.0"),
        ("# R36 (release), REVISION: 4.0,", "6.1"),
        ("# R36 (release), REVISION: 4.7,", "6.x"),
        ("# R35 (release), REVISION: 6.0,", "5.x"),
        ("# R38 (release), REVISION: 2.1,", "7.0"),
        ("something else", None),
    ],
)
def test_a_jetpack_by_its_l4t(tmp_path, release, jetpack):
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/nv_tegra_release").write_text(release)
    assert read_board(tmp_path).jetpack == jetpack


def test_damaged_files_are_not_known(tmp_path):
    root = write_files(tmp_path, "orin")
    (root / "sys/class/hwmon/hwmon3/curr1_input").write_text("")
    (root / "sys/class/devfreq/17000000.gpu/cur_freq").write_text("fast")
    (root / "proc/stat").write_text("cpu")
    (root / "proc/meminfo").write_text("MemTotal:")
    (root / "var/lib/nvpmodel/status").write_text("??")
    sample = read_sample(root)
    assert "VDD_GPU_SOC" not in sample.rails_w
    assert sample.total_w is None  # a part of the sum is missing
    assert "gpu" not in sample.clocks_mhz
    assert sample.host_ticks is None
    assert sample.host_memory_percent is None
    assert read_board(root).power_mode is None


def test_a_total_is_never_guessed():
    assert total_w({"VDD_IN": 7.0, "VDD_CPU_GPU_CV": 3.0, "VDD_SOC": 2.0}) == 7.0
    assert total_w({"VDD_CPU_GPU_CV": 3.0, "VDD_SOC": 2.0}) is None
    assert total_w({}) is None


def test_a_run_of_samples():
    def sample(second):
        return Sample(
            at_ns=second * 10**9,
            rails_w={"VDD_IN": 5.0 + second % 2},
            clocks_mhz={"gpu": 1300 if second < 5 else 600, "cpu0": 2201},
            over_current=second // 4,
            host_ticks=(60 * second, 100 * second),
            rss_bytes=100_000_000 + 1_000 * second,
            cpu_s=0.5 * second,
        )

    used = usage([sample(second) for second in range(11)])
    assert used.seconds == 10
    assert used.cpu_percent == pytest.approx(50)
    assert used.host_cpu_percent.mean == pytest.approx(60)
    assert used.total_w.max == 6
    assert used.total_w.mean == pytest.approx(60 / 11)
    assert used.total_w.std == pytest.approx(np.std([5, 6] * 5 + [5]))
    assert used.over_current_events == 2
    assert used.moved_clocks == ("gpu",)
    assert used.rss_slope_mb_per_hour == pytest.approx(3.6)
    assert used.rss_slope_error == pytest.approx(0, abs=1e-6)


def test_the_slope_of_the_memory_leaves_the_warm_up_out():
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 20_000, 600)
    seconds = np.arange(600)
    sizes = 2e8 + 3e3 * seconds + noise + np.where(seconds > 60, 5e7, 0)
    slope, error = memory_slope(seconds * 10**9, sizes)
    assert 0 < error < 0.1 * slope
    assert abs(slope - 3e3 * 3600 / 1e6) < 4 * error
    assert memory_slope([1, 2, 3], [4, 5, 6]) == (None, None)


def test_the_sampler_measures_this_process_and_ends():
    with Sampler(interval_s=0.05) as sampler:
        end = time.process_time() + 0.2
        while time.process_time() < end:
            pass
    assert not sampler.is_alive()
    assert not [t for t in threading.enumerate() if t.name == "degmix-telemetry"]
    used = sampler.usage()
    assert used.seconds > 0.15
    assert used.cpu_percent > 5
    assert used.rss_mb.min > 20
    assert used.host_memory_percent.max <= 100

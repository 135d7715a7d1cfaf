"""The library of pictures on other processors, which qemu-user emulates: the bytes are the same."""

import shutil
import subprocess
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[2] / "plugins" / "pixels"
COMPILER = shutil.which("g++")
PROGRAM = """#include "pixels.h"
#include <cstdio>
#include <vector>
int main() {
    uint32_t state = 1;
    auto noise = [&state](size_t count) {
        std::vector<uint8_t> bytes(count);
        for (auto& byte : bytes) byte = (state = state * 1664525 + 1013904223) >> 24;
        return bytes;
    };
    degmix::Packing const kinds[] = {degmix::Packing::kBGR, degmix::Packing::kNV12,
        degmix::Packing::kYUYV, degmix::Packing::kUYVY};
    int64_t const sizes[][4] = {{2, 2, 5, 7}, {14, 38, 6, 11}, {60, 80, 24, 32}, {30, 62, 64, 96}};
    for (auto const [h, w, height, width] : sizes) {
        for (auto const kind : kinds) {
            auto const frame = noise(3 * h * w);
            std::vector<uint8_t> rgb(3 * h * w), out(3 * height * width);
            if (!degmix::toRgb(frame.data(), kind, h, w, rgb.data())) return 1;
            if (!degmix::resizeRgb({rgb.data(), 3 * w, h, w}, height, width, out.data())) return 1;
            std::fwrite(rgb.data(), 1, rgb.size(), stdout);
            std::fwrite(out.data(), 1, out.size(), stdout);
        }
    }
}
"""
pytestmark = [
    pytest.mark.slow(file_seconds=5),
    pytest.mark.skipif(COMPILER is None, reason="no C++ compiler"),
]


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    """The program for this machine, and what it writes."""
    folder = tmp_path_factory.mktemp("pixels")
    binary = compiled(folder, COMPILER)
    return binary, subprocess.run([binary], check=True, capture_output=True).stdout


def compiled(folder, compiler):
    program, binary = folder / "program.cpp", folder / "program"
    program.write_text(PROGRAM)
    sources = [program, *(SOURCE / f"{name}.cpp" for name in ("colours", "resize"))]
    flags = ["-std=c++17", "-O3", "-static", f"-I{SOURCE}"]
    subprocess.run([compiler, *flags, *sources, "-o", binary], check=True)
    return binary


def test_an_arm_processor_gives_the_same_bytes(here, tmp_path):
    compiler, emulator = shutil.which("aarch64-linux-gnu-g++"), shutil.which("qemu-aarch64")
    if compiler is None or emulator is None:
        pytest.skip("needs g++-aarch64-linux-gnu and qemu-user")
    binary = compiled(tmp_path, compiler)
    there = subprocess.run([emulator, binary], check=True, capture_output=True).stdout
    assert len(there) > 100_000
    assert there == here[1]


@pytest.mark.parametrize("processor", ["qemu64", "Haswell"])
def test_an_older_processor_gives_the_same_bytes(here, processor):
    """The first has no AVX: an instruction that it lacks would end the program."""
    emulator = shutil.which("qemu-x86_64")
    if emulator is None:
        pytest.skip("needs qemu-user")
    binary, expected = here
    command = [emulator, "-cpu", processor, binary]
    assert subprocess.run(command, check=True, capture_output=True).stdout == expected

"""The TensorRT plugin: driven by the mini host, taken by NVIDIA's registry, built by nvcc."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from native_build import INTERFACE, ROOT, configure

from degmix_edge import ops, registry
from degmix_edge.nvidia.trt import load as trt_load
from degmix_edge.ops import deform_conv2d, deform_offsets, deform_sample

sys.path.insert(0, str(ROOT / "plugins" / "tools"))
import sass  # noqa: E402
import time_model  # noqa: E402

pytestmark = pytest.mark.slow(file_seconds=45)

CREATORS = {
    (deform_sample.OP, ops.DOMAIN),
    (deform_sample.OP, ops.INT8_DOMAIN),
    (deform_sample.AT_OP, ops.DOMAIN),
    (deform_sample.AT_OP, ops.INT8_DOMAIN),
    (deform_offsets.OP, ops.DOMAIN),
    (deform_conv2d.OP, ops.DOMAIN),
    (deform_conv2d.OP, ops.INT8_DOMAIN),
    (deform_conv2d.OP, ops.INT8_OUT_DOMAIN),
}
LISTED = """
import json, sys
from degmix_edge.nvidia.trt import load as trt_load
from degmix_edge.ops import deform_conv2d, deform_offsets, deform_sample
module = trt_load.import_tensorrt("tensorrt-rtx")
logger = module.Logger(module.Logger.ERROR)
registry = module.get_plugin_registry()
assert registry.load_library(sys.argv[1]) is not None
found = [c for c in registry.all_creators if c.name.startswith("Degmix")]
print(json.dumps([[c.name, c.plugin_namespace, [f.name for f in c.field_names]] for c in found]))
"""


def symbols(library: Path, *options: str) -> list[str]:
    output = subprocess.run(
        ["nm", "-D", *options, str(library)], capture_output=True, text=True, check=True
    ).stdout
    return [line.split()[-1] for line in output.splitlines()]


def test_the_mini_host_drives_every_operator(emulated):
    command = [emulated / "degmix_mini_host_emulated", emulated / "libdegmix_trt_emulated.so"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 creators, 0 failures" in done.stdout
    assert done.stdout.count("tactic 0: error") == 16
    assert not done.stderr


SLOW = """
#include <cuda_runtime.h>
#include <unistd.h>

inline cudaError_t slowly(int* value, cudaDeviceAttr attribute, int device)
{
    usleep(5000);
    return cudaDeviceGetAttribute(value, attribute, device);
}

#define cudaDeviceGetAttribute slowly
"""
RACE = """
#include "common/launch.h"
#include <cstdlib>
#include <thread>
#include <vector>

int main()
{
    std::vector<std::thread> threads;
    for (int i = 0; i < 8; ++i)
    {
        threads.emplace_back(
            []
            {
                degmix::DeviceLimits limits{};
                if (degmix::deviceLimits(limits) != cudaSuccess || limits.multiprocessors != 132)
                {
                    std::abort();
                }
            });
    }
    for (std::thread& thread : threads)
    {
        thread.join();
    }
}
"""


def test_the_limits_of_a_card_are_read_by_many_threads(tmp_path):
    """ThreadSanitizer finds two that write the same. A slow driver lets all of them in."""
    compiler = shutil.which("c++") or pytest.skip("no C++ compiler")
    plugins = ROOT / "plugins"
    sources = [tmp_path / "race.cpp", plugins / "common" / "launch.cpp"]
    sources[0].write_text(RACE)
    (tmp_path / "slow.h").write_text(SLOW)
    sources.append(plugins / "emulation" / "emulation.cpp")
    command = [compiler, "-std=c++17", "-fsanitize=thread", "-g", "-DDEGMIX_EMULATED"]
    command += [
        "-include",
        tmp_path / "slow.h",
        f"-I{plugins / 'emulation'}",
        f"-I{plugins}",
        *sources,
        "-o",
        tmp_path / "race",
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    if "cannot find" in done.stderr and "tsan" in done.stderr:
        pytest.skip("no ThreadSanitizer")
    assert done.returncode == 0, done.stderr
    done = subprocess.run([tmp_path / "race"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_is_no_plugin_library(emulated):
    host = emulated / "degmix_mini_host_emulated"
    for library, reason in (("/nowhere.so", "cannot open"), ("libdegmix_kernels_emulated.so", "")):
        done = subprocess.run([host, emulated / library], capture_output=True, text=True)
        assert done.returncode == 2
        assert (reason or "has no getCreators") in done.stderr


def test_nothing_of_tensorrt_is_needed_and_only_entry_points_are_exported(emulated):
    library = emulated / "libdegmix_trt_emulated.so"
    undefined = symbols(library, "--undefined-only")
    assert not [name for name in undefined if "nvinfer" in name or "Registry" in name]
    exported = set(symbols(library, "--defined-only"))
    assert {"getCreators", "setLoggerFinder", "degmix_tensorrt_major"} <= exported
    assert all(n.startswith("degmix_") or n in {"getCreators", "setLoggerFinder"} for n in exported)


@pytest.mark.skipif(
    trt_load.unavailable("tensorrt-rtx") is not None, reason="no TensorRT-RTX for this platform"
)
def test_nvidias_registry_lists_the_creators(emulated):
    library = str(emulated / "libdegmix_trt_emulated.so")
    done = subprocess.run([sys.executable, "-c", LISTED, library], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    listed = {(name, space): fields for name, space, fields in json.loads(done.stdout)}
    assert set(listed) == CREATORS
    # A creator reads what the operator's function body declares, and nothing that it lacks.
    bodies = {(f.name, f.domain): set(f.attribute) for f in ops.functions()}
    optional = {"items", "activation", "sigmoid_mask", "value_scale", "output_scale"}
    for key, fields in listed.items():
        assert set(fields) - optional <= bodies[key]
        assert bodies[key] - {"plugin_version", "plugin_namespace"} <= set(fields)


def test_both_halves_of_an_operator_are_there():
    folders = {p.parent.name for p in (ROOT / "plugins").glob("*/*_plugin.cpp")}
    assert folders == set(registry.names(ops.__name__))
    for folder in folders:
        assert (ROOT / "plugins" / folder / "README.md").exists()


def test_what_is_left_out_is_said(tmp_path):
    said = configure(tmp_path, "-DDEGMIX_CPU_OPS=OFF", "-DDEGMIX_CUDA=OFF")
    assert "no TensorRT plugin: NvInferRuntime.h was not found in TENSORRT_ROOT" in said
    assert "sudo apt install tensorrt-dev" in said
    said = configure(tmp_path, f"-DTENSORRT_ROOT={INTERFACE}")  # the same folder, after mending
    assert "TensorRT 10 headers in" in said


def test_kept_times_are_those_of_the_kernels_that_were_measured(tmp_path):
    """A builder's timing cache knows our kernels by a digest of their sources."""
    plugins = tmp_path / "plugins"
    shutil.copytree(ROOT / "plugins", plugins)

    def digest() -> str:
        options = ("-DDEGMIX_CUDA=OFF", "-DDEGMIX_CPU_OPS=OFF", "-DDEGMIX_EMULATION=ON")
        where = f"-DTENSORRT_ROOT={INTERFACE}"
        command = ["cmake", "-S", plugins, "-B", tmp_path / "build", *options, where]
        command.append("-DCMAKE_EXPORT_COMPILE_COMMANDS=ON")
        subprocess.run(command, check=True, capture_output=True)
        commands = (tmp_path / "build" / "compile_commands.json").read_text()
        (found,) = set(re.findall(r"DEGMIX_KERNELS_DIGEST=\W*(\w{16})", commands))
        return found

    first = digest()
    assert digest() == first
    with (plugins / "deform_sample" / "deform_sample.cuh").open("a") as file:
        file.write("// another kernel\n")
    assert digest() != first


def test_an_old_tensorrt_is_refused(tmp_path):
    old = tmp_path / "old"
    old.mkdir()
    (old / "NvInferRuntime.h").write_text("")
    (old / "NvInferVersion.h").write_text("#define NV_TENSORRT_MAJOR 8 //!< major\n")
    with pytest.raises(AssertionError) as refused:
        configure(tmp_path / "build", "-DDEGMIX_CUDA=OFF", f"-DTENSORRT_ROOT={old}")
    said = " ".join(str(refused.value).split())
    assert "has no IPluginV3; expected 10.3 or later" in said


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Everything by nvcc for Orin, and what it printed; no architecture has other sources."""
    folder = tmp_path_factory.mktemp("nvcc")
    said = configure(
        folder,
        "-DDEGMIX_CPU_OPS=OFF",
        "-DDEGMIX_CUDA_ARCHITECTURES=87-real",
        f"-DTENSORRT_ROOT={INTERFACE}",
    )
    assert "kernels for 87-real" in said
    done = subprocess.run(["cmake", "--build", str(folder)], capture_output=True, text=True)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    return folder, output


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
def test_nvcc_compiles_without_warnings_or_spills(compiled):
    folder, output = compiled
    assert not re.search(r"\bwarning\b", output), output
    kernels = re.findall(r"Compiling entry function '(\w+)' for 'sm_(\d+)'", output)
    assert len(kernels) == 48
    assert set(re.findall(r"(\d+) bytes spill", output)) == {"0"}
    assert "libnvinfer" not in " ".join(symbols(folder / "libdegmix_trt10.so"))
    assert (folder / "libdegmix_kernels.so").stat().st_size <= MOST_BYTES


@pytest.fixture(scope="module")
def for_turing(tmp_path_factory):
    """The kernels by nvcc for Turing alone, and what it printed."""
    folder = tmp_path_factory.mktemp("turing")
    configure(folder, "-DDEGMIX_CPU_OPS=OFF", "-DDEGMIX_CUDA_ARCHITECTURES=75-real")
    command = ["cmake", "--build", str(folder), "--target", "degmix_kernels"]
    done = subprocess.run(command, capture_output=True, text=True)
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    return folder / "libdegmix_kernels.so", output


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
def test_every_kernel_compiles_for_turing(for_turing):
    """It has smaller products and no asynchronous copies; nothing is kept in local memory."""
    library, output = for_turing
    assert not re.search(r"\bwarning\b", output), output
    assert set(re.findall(r"(\d+) bytes spill", output)) == {"0"}
    found = {kernel.name: kernel for kernel in sass.kernels(library)}
    assert len(found) == 48
    assert library.stat().st_size <= MOST_BYTES
    assert {kernel.architecture for kernel in found.values()} == {"sm_75"}
    assert not [name for name, kernel in found.items() if kernel.stack]
    for name, depth in (("fp16, 64, 128", 8), ("int8, 64, 128", 16)):
        kernel = found[f"deformConv2dKernel<{name}, true>"]
        # A warp has 32 x 32 of a tile, and a step 128 bytes of channels.
        assert kernel.main.macs == 32 * 32 * (64 if depth == 8 else 128)
        rows = 16 if depth == 8 else 8
        assert kernel.main.parts["tensor"] == kernel.main.macs // (rows * 8 * depth)
        assert "LDGSTS.128" not in kernel.main.widths
    for name, most in MOST.items():
        kernel = found[name]
        assert kernel.main.instructions / kernel.samples <= MOST_ON_TURING * most, name


MOST_ON_TURING = 1.05
"""Turing may take so many times the instructions of Orin for a sample."""

MOST_BYTES = 1_370_000
"""Of the library for one architecture, where CUDA's runtime has 1.08 MB: so 4 MB for all ten."""

MOST = {
    "deformSampleKernel<fp16, fp16, shared, 2>": 43,
    "deformSampleKernel<fp16, fp32, shared, 2>": 41,
    "deformSampleKernel<fp32, fp16, shared, 2>": 40,
    "deformSampleKernel<fp32, fp32, shared, 2>": 39,
    "deformSampleKernel<int8, fp16, shared, 2>": 43,
    "deformSampleKernel<int8, fp32, shared, 2>": 41,
    "deformSampleKernel<fp16, fp32, shared, 1>": 52,
    "deformSampleKernel<fp16, fp16, direct, 1>": 98,
    "deformSampleKernel<fp16, fp16, compact, 2>": 45,
    "deformSampleKernel<fp16, fp32, compact, 2>": 43,
    "deformSampleKernel<int8, fp16, compact, 2>": 45,
    "deformSampleKernel<int8, fp32, compact, 2>": 44,
    "deformSampleKernel<fp16, fp32, compact, 1>": 52,
}
"""Instructions a value that a kernel stores, at most, on Orin."""

MOST_A_STEP = {
    "deformConv2dKernel<fp16, 128, 256, true>": 390,
    "deformConv2dKernel<fp16, 128, 128, true>": 305,
    "deformConv2dKernel<fp16, 64, 128, true>": 200,
    "deformConv2dKernel<fp16, 128, 64, true>": 250,
    "deformConv2dKernel<int8, 128, 256, true>": 1630,
    "deformConv2dKernel<int8, 64, 128, true>": 820,
}
"""Instructions that each of eight warps may have in a step of 128 bytes of channels, on Orin."""

VECTORS = {"LDG.128", "LDGSTS.128", "LDS.32", "LDS.64", "LDS.128", "LDSM.128", "STS.128"}
"""What a step may read and write memory with."""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
def test_machine_code_stays_within_its_bounds(compiled):
    """Counted by NVIDIA's disassembler: instructions, divisions, local memory, vectors."""
    found = {kernel.name: kernel for kernel in sass.kernels(compiled[0] / "libdegmix_kernels.so")}
    assert len(found) == 48
    for name, most in MOST.items():
        kernel = found[name]
        assert kernel.samples == 4, name
        assert kernel.main.instructions / kernel.samples <= most, name
        assert not sum(loop.divisions for loop in kernel.loops), name
    for format_of_frames in range(4):
        kernel = found[f"fitImageKernel<{format_of_frames}>"]
        assert not sum(loop.divisions for loop in kernel.loops)
        assert any("STG.128" in loop.widths for loop in kernel.loops)
    shared = found["deformSampleKernel<fp16, fp16, shared, 2>"]
    assert shared.registers <= 80  # two blocks of 384 threads on a multiprocessor
    (copy,) = [
        loop for loop in shared.loops if "STS.128" in loop.widths and "LDG.128" in loop.widths
    ]
    assert copy.instructions <= 6 * 8  # eight words a turn
    compact = found["deformSampleKernel<fp16, fp16, compact, 2>"]
    assert compact.registers <= 80
    (compact_copy,) = [loop for loop in compact.loops if {"STS.128", "LDG.128"} <= set(loop.widths)]
    assert compact_copy.instructions < copy.instructions
    offsets = found["deformOffsetsKernel<8>"]
    assert offsets.instructions <= 1000  # most of them before the loop over channels
    assert offsets.registers <= 80  # three blocks of 256 threads
    assert offsets.main.macs == 16 * 32 * 96  # channels, pixels and depth of a warp's turn
    assert offsets.samples == 16
    assert offsets.main.instructions / offsets.samples <= 8
    for name, most in MOST_A_STEP.items():
        kernel = found[name]
        assert kernel.main.parts["tensor"] >= 32, name
        assert kernel.main.instructions <= most, name
        assert not sum(loop.divisions for loop in kernel.loops), name
        is_large = "128, 128," in name or "128, 256," in name  # one block a multiprocessor
        assert kernel.registers <= (255 if is_large else 128), name
        assert set(kernel.main.widths) <= VECTORS, name
    assert not [name for name, kernel in found.items() if kernel.stack]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
def test_the_time_model_reads_what_was_compiled(compiled):
    """Every case of the model finds its kernel, and each unit that the kernel uses has a bound."""
    found = time_model.predictions([compiled[0] / "libdegmix_kernels.so"])
    assert set(found) == {("Orin AGX 64 GB", place) for place in range(len(time_model.CASES))}
    for place, case in enumerate(time_model.CASES):
        one = found["Orin AGX 64 GB", place]
        has_product = case.operator != "deform_sample"
        assert (one.bounds["tensor cores"] > 0) == has_product, case
        assert all(one.bounds[name] > 0 for name in ("issue", "memory units", "bytes")), case
        assert 8 <= one.warps <= 48, case
    # The memory of an Orin bounds the sampling of large maps.
    assert found["Orin AGX 64 GB", 0].limit == "bytes"


def test_the_benchmark_of_layouts_checks_its_cases(emulated, tmp_path):
    """All that it does but timing; blocks that ask for more than they use sample the same."""
    target = "degmix_kernels_padded_emulated"
    built = subprocess.run(
        ["cmake", "--build", str(emulated), "--target", target], capture_output=True, text=True
    )
    assert built.returncode == 0, built.stdout + built.stderr
    assert "warning" not in built.stdout + built.stderr, built.stdout
    command = [sys.executable, str(ROOT / "plugins" / "bench" / "layouts.py")]
    command += ["--emulated", str(emulated / f"lib{target}.so")]
    command += ["--json", str(tmp_path / "rows.json")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [row["case"] for row in rows] == [
        "layouts 8x10x12, 2 tasks",
        "layouts 2x224x288, 1 tasks",
    ]
    assert all(row["ok"] and row["error"] < 5e-4 for row in rows)


def test_the_gpu_benchmark_checks_its_cases(emulated, tmp_path):
    """All that it does but timing: packing, peers, errors, the table."""
    command = [sys.executable, str(ROOT / "plugins" / "bench" / "gpu.py")]
    library = emulated / "libdegmix_kernels_emulated.so"
    command += ["--emulated", str(library), "--json", str(tmp_path / "rows.json")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert len(rows) == 13
    assert all(row["ok"] and row["error"] < 5e-4 for row in rows)
    assert {row["offsets"] for row in rows} >= {"zero", "net-init", "gauss 30 px", "trained"}

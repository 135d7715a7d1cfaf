"""Both bindings of CUDA's driver do the same, over one stand-in for the driver."""

import json
import os
import re
import subprocess
import sys
import threading
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import real_pycuda
from conftest import shared
from stand_in_card import LIBRARY, STAND_INS, a_card, compile_stand_in

from degmix_edge.errors import CudaError
from degmix_edge.nvidia import cuda
from degmix_edge.workflows import doctor

ROOT = Path(__file__).parents[2]
ASKED = "DEGMIX_TEST_PYCUDA"


@pytest.fixture
def card(binding, monkeypatch):
    with a_card(binding, monkeypatch) as card:
        yield card


@pytest.fixture
def device(card):
    device = cuda.Device()
    yield device
    device.close()


def test_what_a_card_is(card, device, binding):
    card.integrated = True
    other = cuda.Device()
    other.close()
    assert str(device.info) == "Stand-in (sm_87)"
    assert (device.info.driver, device.info.memory_bytes) == (13000, 1 << 30)
    assert (device.info.integrated, other.info.integrated) == (False, True)
    assert device.free_bytes() == 1 << 29
    package, version = device.driver.name.split()
    assert package == {"pycuda": "pycuda", "cuda.bindings": "cuda-bindings"}[binding]
    assert version[0].isdigit()
    if LIBRARY in os.environ:
        assert "pycuda._driver" in sys.modules  # PyCUDA itself


@pytest.mark.parametrize("integrated", [False, True])
def test_copies_of_a_buffer_run_in_the_order_of_the_stream(card, integrated):
    card.integrated = integrated
    device = cuda.Device()
    first, second = (cuda.Buffer(device, (2, 3), np.float16) for _ in range(2))
    first.host[...], second.host[...] = np.arange(6).reshape(2, 3), -1
    with device.current() as driver:
        stream, before = driver.stream(), card.uploads
        begin, end = driver.event(), driver.event()
        begin.record(stream)
        first.upload(stream)
        second.copy_from(first.pointer, stream)
        second.download(stream)
        end.record(stream)
        np.testing.assert_array_equal(second.host, -1)  # asynchronous
        stream.synchronize()
        np.testing.assert_array_equal(second.host, np.arange(6).reshape(2, 3))
        assert end.milliseconds_since(begin) > 0
        assert cuda.device_of(first.pointer) == 0
        assert card.uploads == before + (0 if integrated else 1)
        for thing in (begin, end, stream, begin):  # a second time does nothing
            thing.close()
    for thing in (first, second, second, device, device):
        thing.close()


def test_a_graph_is_recorded_and_launched(card, device):
    buffer = cuda.Buffer(device, (4,), np.float32)
    result = cuda.Buffer(device, (4,), np.float32)
    with device.current() as driver:
        stream = driver.stream()

        def enqueue():
            buffer.upload(stream)
            result.copy_from(buffer.pointer, stream)
            result.download(stream)

        graph = cuda.Graph.record(driver, stream, enqueue)
        for value in (1, 2):
            buffer.host[...], result.host[...] = value, 0
            stream.synchronize()
            assert not result.host.any()  # nothing runs before the launch
            graph.launch(stream)
            stream.synchronize()
            np.testing.assert_array_equal(result.host, value)
        graph.close()
        graph.close()
        stream.close()
    buffer.close()
    result.close()


def test_a_capture_that_fails_leaves_the_stream_as_it_was(card, device):
    with device.current() as driver:
        stream = driver.stream()
        with pytest.raises(ValueError, match="mine"):
            cuda.Graph.record(driver, stream, lambda: (_ for _ in ()).throw(ValueError("mine")))
        with pytest.raises(CudaError, match="not permitted when stream is capturing"):
            cuda.Graph.record(driver, stream, stream.synchronize)

        def hide():
            with pytest.raises(driver.error):
                stream.synchronize()

        reason = "recording a CUDA graph: cuStreamEndCapture failed: .* error during capture"
        with pytest.raises(CudaError, match=reason):
            cuda.Graph.record(driver, stream, hide)
        card.instantiate_status = 2
        with pytest.raises(CudaError, match="out of memory; close other programs or use fewer"):
            cuda.Graph.record(driver, stream, lambda: None)
        card.instantiate_status = 0
        cuda.Graph.record(driver, stream, lambda: None).close()
        stream.synchronize()
        stream.close()


def test_a_context_is_current_in_the_block_and_the_one_before_it_afterwards(card):
    outer, inner = cuda.Device(), cuda.Device()
    with outer.current():
        with inner.current():
            assert card.depth() >= 1
        assert card.current()
        outer.free_bytes()
    assert card.depth() == 0
    threads_saw = []

    def end():
        inner.close()
        threads_saw.append(card.depth())

    thread = threading.Thread(target=end)
    thread.start()
    thread.join()
    outer.close()
    assert threads_saw == [0]
    assert (card.contexts, card.depth()) == (0, 0)
    with pytest.raises(CudaError, match="Stand-in .*: used after it was closed"):
        inner.free_bytes()


def test_a_context_of_another_library_stays_current(card):
    """One that torch has made current: no binding knows it."""
    device = cuda.Device()
    primary = 0xC0FFEE
    card.library.cuCtxPushCurrent_v2(primary)
    device.close()
    assert (card.depth(), card.current()) == (1, primary)
    card.library.cuCtxPopCurrent_v2(None)


def test_a_context_of_the_users_own_is_current_again(monkeypatch):
    """One that the user has pushed with PyCUDA, which counts its own pushes."""
    with a_card("pycuda", monkeypatch) as card:
        from pycuda import driver

        outer = driver.Device(0).retain_primary_context()
        outer.push()
        before = (card.depth(), card.current())
        cuda.Device().close()
        assert (card.depth(), card.current()) == before
        driver.mem_get_info()
        outer.pop()  # PyCUDA knows it too
        assert card.depth() == 0
        outer.detach()
        card.library.cuCtxPopCurrent_v2(None)  # PyCUDA's detach leaves it on the driver's stack


def test_memory_that_is_no_device_memory(card, device):
    with device.current() as driver:
        memory = driver.memory(100)
        assert memory.pointer % 256 == 0
        assert cuda.device_of(memory.pointer + 99) == 0
        memory.close()
        with pytest.raises(CudaError, match="which is no device memory.*was it freed"):
            cuda.device_of(memory.pointer)


def test_memory_that_is_page_locked(card, device):
    """The driver knows its own, and nothing of numpy's."""
    with device.current() as driver:
        memory, bare = driver.host_memory((6, 4), np.uint8, False), np.zeros((6, 4), np.uint8)
        assert cuda.is_page_locked(memory.array)
        assert cuda.is_page_locked(memory.array[3:])
        assert not cuda.is_page_locked(bare)
        device_memory = driver.memory(24)
        assert not driver.is_page_locked(device_memory.pointer)
        device_memory.close()
        memory.close()


def test_out_of_memory_gives_back_what_there_was(card, device):
    with pytest.raises(CudaError, match=r"a buffer of uint8 .1073741824,.: .*out"):
        cuda.Buffer(device, (1 << 30,), "uint8")
    assert card.allocations == 0


def test_a_device_that_is_not_there(card):
    with pytest.raises(CudaError, match="device 3: there are 1, numbered from 0"):
        cuda.Device(3)
    with pytest.raises(CudaError, match="device -1: there are 1"):
        cuda.Device(-1)


def test_no_device(card):
    card.devices = 0
    cuda.load_driver.cache_clear()
    assert "no CUDA device: is the driver loaded (nvidia-smi)" in cuda.unavailable()
    with pytest.raises(CudaError, match="no CUDA device"):
        cuda.Device()


def test_a_driver_older_than_the_toolkit(card, binding):
    card.driver = 12060
    cuda.load_driver.cache_clear()
    package = binding.replace(".", "-")
    said = rf"the driver supports CUDA 12, {package} [\d.]+ is made for CUDA 13: update"
    with pytest.raises(CudaError, match=f"{said} the driver, or install a {package} that is made"):
        cuda.Device()


def test_doctor_says_which_binding_is_used(card, binding, monkeypatch):
    monkeypatch.setattr(doctor.shutil, "which", lambda name: name)
    check = doctor._gpu()
    assert (check.name, check.status) == ("gpu", "ok")
    package = re.escape(binding.replace(".", "-"))
    assert re.search(rf"Stand-in \(sm_87\), driver 13000, {package} [\d.]+, 0.5 GB", check.found)
    versions = {"cuda-bindings": "13.5", "onnx": "1", "onnx-graphsurgeon": "1"}

    def version(name):
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(doctor.metadata, "version", version)
    assert doctor._role("tensorrt").found.startswith("cuda-bindings 13.5, onnx 1,")
    versions["pycuda"] = "2026.1"
    assert doctor._role("tensorrt").found.startswith("pycuda 2026.1, onnx 1,")
    del versions["pycuda"], versions["cuda-bindings"]
    assert doctor._role("tensorrt").found.endswith("no tensorrt, no pycuda or cuda-bindings")


def test_neither_binding(monkeypatch):
    monkeypatch.setattr(cuda, "find_spec", lambda name: None)
    cuda.load_driver.cache_clear()
    said = cuda.unavailable()
    assert "neither pycuda nor cuda-bindings is installed" in said
    assert "pip install 'degmix-edge[tensorrt]'" in said
    assert "'degmix-edge[tensorrt-wheels]'" in said


def test_pycuda_comes_first_and_then_cuda_bindings(monkeypatch):
    installed = {"pycuda", "cuda", "cuda.bindings"}
    files = []

    def load(name):
        files.append(name)
        raise ImportError("libcuda.so.1: cannot open shared object file")

    monkeypatch.setattr(cuda, "find_spec", lambda name: name if name in installed else None)
    monkeypatch.setattr(
        cuda, "import_module", lambda name: type("Module", (), {"Driver": lambda: load(name)})
    )
    cuda.load_driver.cache_clear()
    assert "pycuda does not load (libcuda.so.1: cannot open" in cuda.unavailable()
    installed.remove("pycuda")
    assert "cuda.bindings does not load (libcuda.so.1" in cuda.unavailable()
    assert "libcuda.so.1 comes with NVIDIA's driver" in cuda.unavailable()
    assert [name.rpartition(".")[2] for name in files[:2]] == ["pycuda_driver", "bindings_driver"]


@pytest.mark.slow
def test_pycuda_itself_does_the_same(tmp_path):
    """Every test above with the real PyCUDA, which is compiled for it in two minutes."""
    if LIBRARY in os.environ:
        pytest.skip("this is that run")
    if ASKED not in os.environ:
        pytest.skip(f"compiles PyCUDA: set {ASKED}=1")
    folder = shared("pycuda", real_pycuda.build)
    environment = {**os.environ, LIBRARY: str(folder / "libcuda.so.1")}
    paths = [str(folder / "site"), os.environ.get("PYTHONPATH", "")]
    environment["PYTHONPATH"] = os.pathsep.join(paths)
    command = [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-n0", __file__]
    command += ["-k", "pycuda or context_of_the_users_own", "--basetemp", str(tmp_path / "base")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


LANES = ROOT / "plugins" / "bench" / "lanes.py"
BROKEN = """
import runpy, sys
sys.argv = sys.argv[1:]
sys.path.insert(0, str(__import__("pathlib").Path(sys.argv[0]).parent))
from degmix_edge.nvidia import cuda
cuda.Buffer.close = lambda self: None
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def checks_of_lanes(command, emulated, tmp_path, binding="cuda.bindings"):
    """The report of `plugins/bench/lanes.py` in a dry run, and its exit code."""
    report, library = tmp_path / "lanes.json", tmp_path / "libcuda.so.1"
    compile_stand_in(library)
    options = ["--stand-in", library, "--json", report]
    options += ["--library", emulated / "libdegmix_kernels_emulated.so"]
    paths = [str(ROOT)] + ([str(STAND_INS)] if binding == "pycuda" else [])
    done = subprocess.run(
        [sys.executable, *command, *options],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
    )
    return done.returncode, json.loads(report.read_text()), done.stdout + done.stderr


@pytest.mark.slow(file_seconds=30)
def test_the_script_for_a_card_in_a_dry_run(binding, emulated, tmp_path):
    """The script for a card, with a stand-in for the card and for torch."""
    code, report, text = checks_of_lanes([LANES], emulated, tmp_path, binding)
    assert code == 0, text
    assert report["facts"]["binding"].startswith(binding.replace(".", "-"))
    assert len(report["checks"]) == 14
    assert all(check["ok"] for check in report["checks"])
    assert text.count("\nok ") + text.startswith("ok ") == 14


@pytest.mark.slow(file_seconds=30)
def test_memory_that_lanes_lose_fails_the_checks(emulated, tmp_path):
    code, report, text = checks_of_lanes(["-c", BROKEN, LANES], emulated, tmp_path)
    assert code == 1, text
    failed = {check["name"]: check["detail"] for check in report["checks"] if not check["ok"]}
    assert list(failed) == ["closed by another thread"], text
    assert "bytes are lost in 6 sessions" in failed["closed by another thread"]

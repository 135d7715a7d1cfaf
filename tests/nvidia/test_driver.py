"""Both bindings of CUDA's driver do the same, over one stand-in for the driver."""

import threading
from pathlib import Path

import numpy as np
import pytest
from stand_in_card import a_card

from degmix_edge.errors import CudaError
from degmix_edge.nvidia import cuda

ROOT = Path(__file__).parents[2]


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
        assert driver.STACK.contexts == [outer]
        outer.pop()
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

"""One conformance test over every backend, and that they agree."""

import time
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata

import numpy as np
import onnx_graphsurgeon as gs
import pytest
from onnx.helper import make_opsetid

from degmix_edge import backends
from degmix_edge.backends import openvino
from degmix_edge.backends.onnx_reference import Backend as OnnxReference
from degmix_edge.backends.onnxruntime import Backend as OnnxRuntime
from degmix_edge.backends.openvino import SINGLE
from degmix_edge.backends.openvino import Backend as OpenVino
from degmix_edge.backends.torch_eager import Backend as TorchEager
from degmix_edge.bundle.contents import recipe_and_ranges
from degmix_edge.errors import BackendError, ConfigError, ShapeError
from degmix_edge.graph.model import append, constant, to_model
from degmix_edge.network import IMAGE
from degmix_edge.quant.recipe import Placement, Recipe
from degmix_edge.runtime.session import engine_bytes


def openvino_engine(bundle):
    """What it builds of the bundle's model.onnx and recipe."""
    return OpenVino.build(bundle.onnx(), *recipe_and_ranges(bundle))[OpenVino.engine_file]


@pytest.fixture
def make(bundles, loaded, exported):
    """A backend by name, for the same FP32 network."""
    spec = bundles["fp32"].manifest.network

    def make(name: str):
        if name == "torch_eager":
            return TorchEager(spec, loaded.network)
        if name == "onnx_reference":
            return OnnxReference(spec, exported[0].SerializeToString())
        if name == "openvino":
            return OpenVino(spec, openvino_engine(bundles["fp32"]))
        return backends.find(name)(spec, engine_bytes(bundles["fp32"], OnnxRuntime))

    return make


RUNNING = [name for name in backends.names() if backends.find(name).unavailable() is None]
assert {"onnxruntime", "openvino", "onnx_reference", "torch_eager"} <= set(RUNNING)


@pytest.fixture(params=RUNNING)
def backend(request, make):
    return make(request.param)


def test_maps_are_what_the_spec_says(backend, pictures):
    with backend:
        maps = backend.infer({IMAGE: pictures[0][None]})
    for task in backend.spec.tasks:
        want = task.map_spec(backend.spec.height, backend.spec.width)
        assert maps[task.name].shape == want.shape
        assert str(maps[task.name].dtype) == want.dtype


def test_it_is_deterministic_and_can_be_activated_again(backend, pictures):
    with backend:
        first = backend.infer({IMAGE: pictures[1][None]})
        second = backend.infer({IMAGE: pictures[1][None]})
    with backend:
        third = backend.infer({IMAGE: pictures[1][None]})
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])
        np.testing.assert_array_equal(first[name], third[name])


def test_what_it_returned_is_the_callers(backend, pictures):
    with backend:
        first = backend.infer({IMAGE: pictures[0][None]})
        kept = {name: array.copy() for name, array in first.items()}
        backend.infer({IMAGE: pictures[1][None]})
    for name in first:
        np.testing.assert_array_equal(first[name], kept[name])


def test_it_refuses_other_images(backend, pictures):
    image = pictures[0][None]
    with backend:
        for bad in (image.astype(np.float32), image[:, 1:], image[0], np.repeat(image, 2, 0)):
            with pytest.raises(ShapeError, match="image: got .*expected image uint8"):
                backend.infer({IMAGE: bad})


def test_it_must_be_active(backend, pictures):
    with pytest.raises(BackendError, match="not active; use it inside `with`"):
        backend.infer({IMAGE: pictures[0][None]})
    with backend:
        pass
    backend.__exit__(None, None, None)  # a second time does nothing
    with pytest.raises(BackendError):
        backend.infer({IMAGE: pictures[0][None]})


@pytest.mark.parametrize("name", ["onnxruntime", "openvino", "onnx_reference"])
def test_they_agree(make, pictures, name):
    with make("torch_eager") as torch_eager, make(name) as engine:
        for picture in pictures:
            want, got = (
                torch_eager.infer({IMAGE: picture[None]}),
                engine.infer({IMAGE: picture[None]}),
            )
            for name, values in want.items():
                if values.dtype == np.uint8:
                    assert np.mean(values == got[name]) >= 0.999
                else:
                    np.testing.assert_allclose(got[name], values, rtol=1e-3, atol=1e-3)


def test_an_engine_that_is_no_model(bundles):
    with pytest.raises(BackendError, match=r"onnxruntime \d"):
        OnnxRuntime(bundles["fp32"].manifest.network, b"nonsense").__enter__()


def test_choosing():
    assert backends.choose("auto") is OnnxRuntime
    assert backends.choose("auto", built=["openvino"]) is OpenVino
    assert backends.runnable("auto") == [OnnxRuntime, OpenVino]
    assert backends.runnable("openvino") == [OpenVino]
    with pytest.raises(ConfigError, match="Did you mean 'onnxruntime'"):
        backends.choose("onnxruntim")
    with pytest.raises(ConfigError, match="'torch_eager' builds no engines"):
        backends.choose("torch_eager")


def test_an_old_onnxruntime_is_explained(monkeypatch):
    monkeypatch.setattr(OnnxRuntime, "version", classmethod(lambda cls: "1.24.4"))
    with pytest.raises(BackendError, match=r"1.24.4 has no DeformConv, expected at least 1.25"):
        backends.choose("onnxruntime")
    assert backends.choose("auto") is OpenVino  # which runs here, too


@pytest.fixture
def slow_network(bundles):
    """A backend of OpenVINO's on a graph that takes about a second a call."""
    spec = bundles["fp32"].manifest.network
    sides = (1, 32, spec.height * 8, spec.width * 8)
    graph = gs.Graph(opset=20)
    taken = gs.Variable(IMAGE, np.uint8, (1, spec.height, spec.width, 3))
    graph.inputs = [taken]
    last = append(graph, "Cast", [taken], "float", np.float32, to=1)
    last = append(graph, "Transpose", [last], "first", np.float32, perm=[0, 3, 1, 2])
    last.shape = [1, 3, spec.height, spec.width]
    scale = constant("scale", [1, 1, 8, 8])
    last = append(graph, "Resize", [last, gs.Variable.empty(), scale], "large", np.float32)
    rng = np.random.default_rng(0)
    for index, taken_channels in enumerate([3] + [32] * 20):
        kernel = rng.normal(size=(32, taken_channels, 3, 3)) / 32
        inputs = [last, constant(f"kernel{index}", kernel)]
        last = append(graph, "Conv", inputs, f"conv{index}", np.float32, pads=[1] * 4)
    last.shape = list(sides)
    last.name = spec.task_names[0]
    graph.outputs = [last]
    model = to_model(graph, {}).SerializeToString()
    engine = OpenVino.build(model, Recipe(precision="fp32"), None)[OpenVino.engine_file]
    return OpenVino(spec, engine, threads=1)


def test_openvino_ends_a_call(slow_network, pictures):
    feed = {IMAGE: pictures[0][None]}
    with slow_network as running:
        start = time.perf_counter()
        running.infer(feed)
        whole_s = time.perf_counter() - start
        running.timeout_s = whole_s / 10
        start = time.perf_counter()
        with pytest.raises(BackendError, match=r"no result after .* s, this session's timeout"):
            running.infer(feed)
        assert time.perf_counter() - start < whole_s / 2
        running.timeout_s = None
        with ThreadPoolExecutor(1) as pool:
            call = pool.submit(running.infer, feed)
            time.sleep(whole_s / 5)
            running.cancel()
            with pytest.raises(BackendError, match="the call was cancelled"):
                call.result()
        running.infer(feed)  # another call works


def test_openvino_runs_several_images_at_once(make, pictures):
    with make("openvino") as running:
        alone = [running.infer({IMAGE: picture[None]}) for picture in pictures]
        with ThreadPoolExecutor(4) as pool:
            together = list(pool.map(lambda p: running.infer({IMAGE: p[None]}), pictures * 3))
    for index, maps in enumerate(together):
        for name, values in alone[index % len(pictures)].items():
            np.testing.assert_array_equal(maps[name], values)


def test_openvino_says_what_it_lacks(bundles, monkeypatch):
    spec = bundles["fp32"].manifest.network
    with pytest.raises(BackendError, match="the engine is none of this backend's"):
        OpenVino(spec, b"nonsense").__enter__()
    with pytest.raises(BackendError, match=r"openvino \d+\.\d+\.\d+: .*blob|openvino \d"):
        OpenVino(spec, SINGLE + b"nonsense").__enter__()
    graph = gs.Graph(opset=20, import_domains=[make_opsetid("", 20), make_opsetid("own", 1)])
    taken = gs.Variable(IMAGE, np.float32, (1, 4))
    graph.inputs, graph.outputs = [taken], [gs.Variable("y", np.float32, (1, 4))]
    graph.nodes.append(gs.Node("Strange", "s", {}, [taken], graph.outputs, domain="own"))
    model = gs.export_onnx(graph).SerializeToString()
    with pytest.raises(BackendError, match=r"has no own.Strange; write a pass that lowers it"):
        OpenVino.build(model, Recipe(precision="fp32"), None)
    place = Placement(node="n", op="Conv", precision="bf16", reason="constant weights")
    half = Recipe(precision="bf16", placements=(place,))
    monkeypatch.setattr(openvino, "capabilities", lambda: frozenset({"FP32", "INT8"}))
    with pytest.raises(BackendError, match="this CPU .* has no bfloat16 arithmetic"):
        OpenVino.build(bundles["fp32"].onnx(), half, None)
    assert OpenVino.precisions() == ("int8", "fp32")
    monkeypatch.setattr(OpenVino, "version", classmethod(lambda cls: "2024.6.0"))
    with pytest.raises(BackendError, match=r"openvino 2024.6.0 is too old, expected at least"):
        backends.choose("openvino")

    def nothing(cls):
        raise metadata.PackageNotFoundError("openvino")

    monkeypatch.setattr(OpenVino, "version", classmethod(nothing))
    with pytest.raises(BackendError, match=r"pip install 'degmix-edge\[openvino\]'"):
        backends.choose("openvino")

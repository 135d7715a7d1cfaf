"""One conformance test over every backend, and that they agree."""

import numpy as np
import pytest

from degmix_edge import backends
from degmix_edge.backends.onnx_reference import Backend as OnnxReference
from degmix_edge.backends.onnxruntime import Backend as OnnxRuntime
from degmix_edge.backends.torch_eager import Backend as TorchEager
from degmix_edge.errors import BackendError, ConfigError, ShapeError
from degmix_edge.network import IMAGE
from degmix_edge.runtime.session import engine_bytes


@pytest.fixture
def make(bundles, loaded, exported):
    """A backend by name, for the same FP32 network."""
    spec = bundles["fp32"].manifest.network

    def make(name: str):
        if name == "torch_eager":
            return TorchEager(spec, loaded.network)
        if name == "onnx_reference":
            return OnnxReference(spec, exported[0].SerializeToString())
        return backends.find(name)(spec, engine_bytes(bundles["fp32"], OnnxRuntime))

    return make


RUNNING = [name for name in backends.names() if backends.find(name).unavailable() is None]
assert {"onnxruntime", "onnx_reference", "torch_eager"} <= set(RUNNING)


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


@pytest.mark.parametrize("name", ["onnxruntime", "onnx_reference"])
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
    with pytest.raises(ConfigError, match="Did you mean 'onnxruntime'"):
        backends.choose("onnxruntim")
    with pytest.raises(ConfigError, match="'torch_eager' builds no engines"):
        backends.choose("torch_eager")


def test_an_old_onnxruntime_is_explained(monkeypatch):
    monkeypatch.setattr(OnnxRuntime, "version", classmethod(lambda cls: "1.24.4"))
    with pytest.raises(BackendError, match=r"1.24.4 has no DeformConv, expected at least 1.25"):
        backends.choose("auto")

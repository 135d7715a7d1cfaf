"""Which engine runs where the bundle's own was built for another version or another machine."""

import warnings

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from degmix_edge.backends import openvino
from degmix_edge.backends.onnxruntime import Backend
from degmix_edge.bundle.contents import open_bundle
from degmix_edge.errors import BackendError, DegmixWarning
from degmix_edge.runtime import engine_cache, load
from degmix_edge.runtime.engine_cache import engine_bytes
from degmix_edge.workflows.build import build

pytestmark = pytest.mark.slow(file_seconds=20)


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DEGMIX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "engines"


@pytest.fixture
def newer(monkeypatch):
    """ONNX Runtime, of a version for which nobody has built anything."""
    monkeypatch.setattr(Backend, "version", classmethod(lambda cls: "99.0.0"))


@pytest.fixture
def without_onnx(monkeypatch):
    monkeypatch.setattr(engine_cache, "BUILDING", ("no_package_of_this_name",))


def own_engine(bundle):
    return bundle.read(bundle.manifest.engine("onnxruntime").file)


def silently(bundle, **options):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return engine_bytes(bundle, Backend, **options)


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_an_engine_is_built_once_and_kept(bundles, pictures, cache, newer, precision):
    bundle = bundles[precision]
    says = (
        r"(?s)built for +running on\n +onnxruntime .*99\.0\.0.*another one was built, and kept in"
    )
    with pytest.warns(UserWarning, match=says):
        built = engine_bytes(bundle, Backend)
    assert built == own_engine(bundle)  # the same passes, by the same ONNX Runtime
    assert {path.suffix for path in cache.iterdir()} == {".onnx", ".sha256"}
    assert silently(bundle) == built
    assert silently(bundle, rebuild=False) == built
    with load(bundle.path) as session:
        assert session.backend.engine == built


def test_a_changed_file_in_the_cache_is_not_used(bundles, cache, newer):
    with pytest.warns(UserWarning, match="another one was built"):
        built = engine_bytes(bundles["fp32"], Backend)
    (kept,) = cache.glob("*.onnx")
    kept.write_bytes(built[:-1] + bytes([built[-1] ^ 1]))
    with pytest.warns(UserWarning, match="another one was built"):
        assert engine_bytes(bundles["fp32"], Backend) == built


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_without_onnx_the_engine_runs_if_it_gives_the_golden_maps(
    bundles, cache, newer, without_onnx, precision
):
    bundle = bundles[precision]
    with pytest.warns(UserWarning, match="it gives the golden maps here, so it is used all the"):
        assert engine_bytes(bundle, Backend) == own_engine(bundle)
    assert silently(bundle) == own_engine(bundle)


def with_other_weights(engine):
    """The same engine, whose largest weights are all zero."""
    model = onnx.load_from_string(engine)
    largest = max(len(tensor.raw_data) for tensor in model.graph.initializer)
    for tensor in model.graph.initializer:
        if len(tensor.raw_data) > largest // 20:
            array = np.zeros_like(numpy_helper.to_array(tensor))
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    return model.SerializeToString()


@pytest.mark.parametrize("change", [with_other_weights, lambda engine: b"no graph"])
def test_without_onnx_an_engine_with_other_maps_is_not_used(
    bundles, cache, newer, without_onnx, monkeypatch, change
):
    """As of a version whose kernels differ, or which refuses the graph."""
    bundle = bundles["int8"]
    wrong = change(own_engine(bundle))
    monkeypatch.setattr(engine_cache, "_own", lambda *_: wrong)
    says = (
        r"(?s)99\.0\.0.*: building one needs no_package_of_this_name: "
        r"pip install 'degmix-edge\[build\]'; using model\.onnx, which is slower"
    )
    with pytest.warns(UserWarning, match=says):
        assert engine_bytes(bundle, Backend) == bundle.onnx()
    assert not cache.exists()


def test_an_engine_that_is_wrong_once_it_is_built_is_not_used(bundles, cache, newer, monkeypatch):
    bundle = bundles["int8"]
    wrong = with_other_weights(own_engine(bundle))
    monkeypatch.setattr(Backend, "build", classmethod(lambda cls, *_: {cls.engine_file: wrong}))
    with pytest.warns(UserWarning, match=r"built now gives other maps; using model\.onnx"):
        assert engine_bytes(bundle, Backend) == bundle.onnx()
    assert not cache.exists()


def test_nothing_is_built_where_nobody_asked_for_it(bundles, cache, newer):
    with pytest.warns(UserWarning, match=r"(?s)99\.0\.0.*: using model\.onnx, which is slower"):
        assert engine_bytes(bundles["fp32"], Backend, rebuild=False) == bundles["fp32"].onnx()
    assert not cache.exists()


def test_weights_that_model_and_engine_share(exported, pictures, bundles, tmp_path, cache):
    """The files are those of a bundle that has them inside, and the bundle is much smaller."""
    path = tmp_path / "shared.degmix"
    build(
        exported[0],
        path,
        precision="int8",
        calibration=pictures,
        observer="min_max",
        share_weights=True,
    )
    shared, alone = open_bundle(path), bundles["int8"]
    assert shared.manifest.schema_version == 3
    assert shared.sizes == alone.sizes
    assert shared.onnx() == alone.onnx()
    engine = shared.manifest.engine("onnxruntime").file
    assert shared.onnx(engine) == own_engine(alone)
    assert shared.size_bytes < 0.75 * alone.size_bytes
    with load(path) as session, load(alone.path) as other:
        found, want = session(pictures[0]), other(pictures[0])
    for task in want:
        np.testing.assert_array_equal(found[task], want[task])
    again = build(path, path, force=True)  # built again, it still has them once
    assert again.manifest.schema_version == 3
    assert again.onnx() == alone.onnx()


def test_an_engine_of_openvino_belongs_to_its_processor(bundles, pictures, tmp_path, monkeypatch):
    path = tmp_path / "own.degmix"
    built = build(bundles["fp32"].path, path, backend="openvino")
    monkeypatch.setenv("DEGMIX_CACHE", str(tmp_path / "cache"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with load(built) as session:
            assert session.backend.name == "openvino"
            want = session(pictures[0])
    monkeypatch.setattr(openvino, "instruction_sets", lambda: ("sse4_2", "avx2"))
    with pytest.raises(BackendError, match=r"(?s)its engine does not fit.*built for.*\+avx2"):
        load(built, rebuild=False)
    with (
        pytest.warns(DegmixWarning, match="building one. `degmix-edge build engine"),
        load(built) as session,
    ):
        np.testing.assert_array_equal(session(pictures[0])["semseg"], want["semseg"])
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the cache has it now
        load(built).close()

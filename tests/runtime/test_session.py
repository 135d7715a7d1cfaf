"""Sessions: images of every kind in, task maps out."""

import numpy as np
import pytest
from PIL import Image

import degmix_edge
from degmix_edge.errors import BackendError, BundleError, InputError
from degmix_edge.runtime import Maps, TaskMap


@pytest.fixture
def session(bundles):
    with degmix_edge.load(bundles["fp32"].path) as session:
        yield session


def test_maps_know_what_they_are(session, pictures):
    maps = session(pictures[0])
    assert list(maps) == list(session.spec.task_names)
    assert isinstance(maps["depth"], TaskMap)
    assert isinstance(maps["depth"], np.ndarray)
    assert maps["depth"].unit == "m"
    assert maps["semseg"].classes[0] == "wall"
    assert maps["semseg"].dtype == np.uint8
    assert maps["normals"].shape == (*maps["depth"].shape, 3)
    assert maps["depth"][:4].task == "depth"  # slices keep it
    assert maps["depth"].colour().shape == (*maps["depth"].shape, 3)


def test_letterbox_is_cut_off_and_maps_fit_the_image(session):
    tall = np.full((200, 100, 3), 90, np.uint8)
    maps = session(tall)
    height, width = session.spec.height, session.spec.width
    assert maps["depth"].shape == (height, height // 2)
    assert height // 2 < width
    for name, array in maps.items():
        assert array.at_image_size().shape[:2] == (200, 100), name
    lengths = np.linalg.norm(maps["normals"].at_image_size(), axis=-1)
    np.testing.assert_allclose(lengths, 1, atol=1e-3)
    assert maps["semseg"].at_image_size().dtype == np.uint8


def test_latency_adds_up(session, pictures):
    assert session.latency is None
    session(pictures[0])
    latency = session.latency
    assert latency.total_ms == latency.pre_ms + latency.net_ms + latency.post_ms
    assert latency.net_ms > 0


def test_run_takes_paths_pillow_and_arrays(session, pictures, tmp_path):
    path = tmp_path / "a.png"
    Image.fromarray(pictures[0]).save(path)
    results = list(session.run([path, str(path), Image.fromarray(pictures[0]), pictures[0]]))
    for maps in results[1:]:
        np.testing.assert_array_equal(maps["semseg"], results[0]["semseg"])


@pytest.mark.parametrize("bad", ["none.png", np.zeros((5, 5, 3), np.uint16), 3])
def test_a_bad_image_does_not_break_the_session(session, pictures, bad):
    with pytest.raises(InputError):
        session(bad)
    assert isinstance(session(pictures[0]), Maps)


def test_an_unknown_task_has_the_list(session, pictures):
    with pytest.raises(KeyError, match=r"no task 'flow'.*Have: semseg"):
        session(pictures[0])["flow"]


def test_a_closed_session_says_so(bundles, pictures):
    session = degmix_edge.load(bundles["fp32"].path)
    session.close()
    session.close()
    with pytest.raises(BackendError, match="not active"):
        session(pictures[0])


def test_an_engine_of_another_version_falls_back_and_says_so(bundles, pictures, monkeypatch):
    from degmix_edge.backends.onnxruntime import Backend

    with degmix_edge.load(bundles["fp32"].path) as session:
        want = session(pictures[0])
    monkeypatch.setattr(Backend, "version", classmethod(lambda cls: "99.0.0"))
    with pytest.warns(UserWarning, match=r"(?s)built for +running on\n +onnxruntime .*99.0.0"):
        session = degmix_edge.load(bundles["fp32"].path)
    with session:
        got = session(pictures[0])
    np.testing.assert_allclose(got["depth"], want["depth"], atol=1e-4)


def test_no_bundle(tmp_path):
    with pytest.raises(BundleError, match="no such bundle"):
        degmix_edge.load(tmp_path / "none.degmix")


def test_all_precisions_run(bundles, pictures):
    for bundle in bundles.values():
        with degmix_edge.load(bundle) as session:
            maps = session(pictures[2])
        assert all(np.isfinite(array).all() for array in maps.values())

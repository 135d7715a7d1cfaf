"""Sessions: images of every kind in, task maps out."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

import degmix_edge
from degmix_edge import camera
from degmix_edge.errors import BackendError, BundleError, ConfigError, InputError
from degmix_edge.network import IMAGE
from degmix_edge.runtime import Maps, Session, TaskMap
from degmix_edge.workflows.build import build
from degmix_edge.workflows.run import run_images


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


def test_a_cropping_bundle_sees_the_middle_and_says_what_it_did_not_see(exported, tmp_path):
    tall = np.random.default_rng(0).integers(0, 256, (200, 100, 3), np.uint8)
    bundle = build(exported[0], tmp_path / "crop.degmix", precision="fp32", mode="crop")
    with degmix_edge.load(bundle.path) as session:
        maps, middle = session(tall), session(tall[66:133])  # 67 rows: 100 columns of 96 x 64
    for name, array in maps.items():
        assert array.placement.window == (66, 0, 67, 100), name
        np.testing.assert_array_equal(array, middle[name])
        whole = array.at_image_size()
        assert whole.shape[:2] == (200, 100), name
        seen, unseen = whole[66:133], np.concatenate([whole[:66], whole[133:]])
        np.testing.assert_array_equal(seen, middle[name].at_image_size())
        assert (unseen == 255 if name in ("semseg", "human_parts") else np.isnan(unseen)).all()
        over = array.overlay(tall, 0.5)
        np.testing.assert_array_equal(over[:66], tall[:66])
        np.testing.assert_array_equal(over[66:133], middle[name].overlay(tall[66:133], 0.5))
    files = maps.save(tmp_path, native=True)
    assert all(
        (np.asarray(Image.open(path))[:66] == 0).all() for path in files if "depth" in path.name
    )
    run = run_images(bundle, [save_image(tall, tmp_path)], tmp_path / "maps", native=True)
    pictures = [path for path in run.images[0].files if path.suffix == ".png"]
    assert len(pictures) == 6
    for path in pictures:
        assert (np.asarray(Image.open(path))[:66] == 0).all(), path
        assert (np.asarray(Image.open(path))[66:133] > 0).any(), path


def save_image(pixels, folder):
    Image.fromarray(pixels).save(folder / "tall.png")
    return folder / "tall.png"


def test_latency_adds_up(session, pictures):
    assert session.latency is None
    session(pictures[0])
    latency = session.latency
    assert latency.total_ms == latency.pre_ms + latency.net_ms + latency.post_ms
    assert latency.net_ms > 0


def test_maps_carry_the_latency_of_their_call(session, pictures):
    first = session(pictures[0])
    kept = first.latency
    assert kept is session.latency
    second = session(pictures[1])
    assert second.latency is session.latency
    assert first.latency is kept
    assert second.latency is not kept
    assert [maps.latency is session.latency for maps in session.run(pictures[:3])] == [True] * 3
    assert session.submit(pictures[0]).result().latency is session.latency


def test_maps_that_no_session_computed_have_no_latency():
    assert Maps().latency is None


MEASURED = "mean"
"""A stage that says which image was measured."""


@pytest.fixture
def measured(session, monkeypatch):
    """The backend measures each image by its mean. `meeting` holds calls until all are inside."""
    backend, infer = session.backend, session.backend.infer
    assert backend.is_concurrent
    meetings = []

    def measuring(feed):
        for meeting in meetings:
            meeting.wait(timeout=60)
        backend._mine.stages = {MEASURED: float(feed[IMAGE].mean())}
        maps = infer(feed)
        for meeting in meetings:
            meeting.wait(timeout=60)
        return maps

    monkeypatch.setattr(backend, "infer", measuring)
    return session, meetings


def test_threads_get_the_latency_of_their_own_image(measured, pictures):
    session, meetings = measured
    meetings.append(threading.Barrier(2))  # both images are under way at the same time
    got = {0: [], 1: []}

    def camera(index):
        for _ in range(5):
            got[index].append(session(pictures[index]).latency)

    threads = [threading.Thread(target=camera, args=(index,)) for index in got]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pictures[0].mean() != pictures[1].mean()
    for index, latencies in got.items():
        assert [latency.stages[MEASURED] for latency in latencies] == [pictures[index].mean()] * 5
    assert len({id(latency) for latencies in got.values() for latency in latencies}) == 10
    assert session.latency in (got[0][-1], got[1][-1])


def test_a_slow_image_is_not_billed_to_a_fast_one(session, pictures, tmp_path):
    path = tmp_path / "large.png"
    noise = np.random.default_rng(0).integers(0, 256, (3000, 2000, 3), np.uint8)
    Image.fromarray(noise).save(path, compress_level=1)
    with ThreadPoolExecutor(2) as pool:
        large = pool.submit(lambda: [session(path).latency for _ in range(3)])
        small = pool.submit(lambda: [session(pictures[0]).latency for _ in range(30)])
        slow = min(latency.pre_ms for latency in large.result())
        fast = sorted(latency.pre_ms for latency in small.result())[15]
    assert slow > 10 * fast


def test_what_is_submitted_has_its_own_latency(measured, pictures):
    session, _ = measured
    futures = [session.submit(picture) for picture in pictures]
    for picture, future in zip(pictures, futures, strict=True):
        assert future.result().latency.stages == {MEASURED: picture.mean()}


def test_a_latency_does_not_change_with_the_backends_next_call(session, pictures, monkeypatch):
    stages = {"gpu_ms": 1.0}  # a backend may reuse its dict
    session.backend._mine.stages = stages
    latency = session(pictures[0]).latency
    stages["gpu_ms"] = 2.0
    assert latency.stages == {"gpu_ms": 1.0}


def shared(bundle, workers):
    """A session that runs that many images at once, as one of a GPU with lanes does."""
    with degmix_edge.load(bundle.path) as lone:
        backend, fit = lone.backend, lone.fit
    return Session(backend, fit, bundle, workers=workers)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("kind", [list, tuple])
def test_several_images_give_a_list_in_their_order(bundles, pictures, tmp_path, kind, workers):
    path = tmp_path / "a.png"
    Image.fromarray(pictures[3]).save(path)
    images = kind([pictures[0], Image.fromarray(pictures[1]), str(path), path, pictures[2][:30]])
    with shared(bundles["fp32"], workers) as session:
        want = [session(image) for image in images]
        got = session(images)
        assert type(got) is list
        assert session.latency is got[-1].latency
        assert len({id(maps.latency) for maps in got}) == len(images)
    for a, b in zip(got, want, strict=True):
        assert isinstance(a, Maps)
        assert a["depth"].placement == b["depth"].placement
        for task in b:
            np.testing.assert_array_equal(a[task], b[task])
    assert (got[0]["depth"] != got[1]["depth"]).any()


def test_several_images_run_at_once_where_the_backend_can(bundles, pictures, monkeypatch):
    with shared(bundles["fp32"], 3) as session:
        infer, meeting = session.backend.infer, threading.Barrier(3)
        monkeypatch.setattr(
            session.backend, "infer", lambda image: (meeting.wait(timeout=60), infer(image))[1]
        )
        assert len(session(pictures[:3])) == 3  # one after the other would never meet


def test_a_backend_that_cannot_runs_them_one_after_the_other(bundles, pictures, monkeypatch):
    from degmix_edge.backends.onnxruntime import Backend

    monkeypatch.setattr(Backend, "is_concurrent", False)
    with shared(bundles["fp32"], 3) as session:
        infer, threads = session.backend.infer, []

        def watched(image):
            threads.append(threading.current_thread())
            return infer(image)

        monkeypatch.setattr(session.backend, "infer", watched)
        assert len(session(pictures[:3])) == 3
        assert threads == [threading.current_thread()] * 3


def test_no_images_give_an_empty_list(session):
    assert session([]) == []
    assert session(()) == []
    assert session.latency is None


def test_an_array_is_one_image(session, pictures):
    assert isinstance(session(pictures[0]), Maps)
    with pytest.raises(InputError, match=r"of a batch give one image"):
        session(np.stack(pictures[:2]))


@pytest.mark.parametrize("workers", [1, 3])
def test_a_bad_image_among_several_is_named(bundles, pictures, workers):
    with shared(bundles["fp32"], workers) as session:
        with pytest.raises(InputError, match=r"images\[1\]: image: got uint16 .*expected a uint8"):
            session([pictures[0], pictures[1].astype(np.uint16), pictures[2]])
        with pytest.raises(InputError, match=r"images\[0\]: image: got list"):
            session([[pictures[0]]])
        with pytest.raises(InputError, match=r"images\[1\]: none\.png: no such file"):
            session((pictures[0], "none.png"))
        assert len(session(pictures[:2])) == 2
    with pytest.raises(BackendError):
        session(pictures[:2])


def test_submit_and_run_take_single_images(session, pictures):
    with pytest.raises(InputError, match="image: got list, expected a path"):
        session.submit(pictures[:2]).result()
    with pytest.raises(InputError, match="image: is no image in a format that Pillow reads"):
        session(b"a.png")


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


@pytest.mark.parametrize("kind", camera.FORMATS)
def test_arrays_of_every_format_without_a_gpu(bundles, pictures, tmp_path, kind):
    """The arrays are converted; files and Pillow's images say themselves what they are."""
    rng = np.random.default_rng(3)
    shapes = {"nv12": (96, 90), "yuyv": (64, 90, 2), "uyvy": (64, 90, 2), "grey": (64, 90)}
    shapes |= dict.fromkeys(camera.BAYER, (64, 90))
    frame = rng.integers(60, 200, shapes.get(kind, (64, 90, 3)), np.uint8)
    rgb = camera.to_rgb(frame, kind)
    Image.fromarray(rgb).save(tmp_path / "frame.png")
    with degmix_edge.load(bundles["fp32"].path) as session:
        want = session(rgb)["depth"]
    with degmix_edge.load(bundles["fp32"].path, format=kind) as session:
        assert (session.format, session.fits_on) == (kind, "cpu")
        for image in (frame, {IMAGE: frame}, tmp_path / "frame.png", Image.fromarray(rgb)):
            np.testing.assert_array_equal(session(image)["depth"], want)


def test_a_format_that_is_not_that_of_the_array(bundles, pictures):
    with degmix_edge.load(bundles["fp32"].path, format="nv12") as session:
        with pytest.raises(InputError, match=r"got uint8 \(64, 96, 3\), expected nv12 as a uint8"):
            session(pictures[0])
        with pytest.raises(InputError, match=r"images\[1\]: image: got uint8 \(7, 8\), expected"):
            session([np.zeros((6, 8), np.uint8), np.zeros((7, 8), np.uint8)])
    with pytest.raises(ConfigError, match="format: got 'yuv', expected one of rgb, bgr, nv12"):
        degmix_edge.load(bundles["fp32"].path, format="yuv")


class OnDevice:
    """An array that says it is in a GPU's memory."""

    shape, dtype = (64, 96, 3), np.dtype(np.uint8)

    def __dlpack_device__(self):
        return (2, 0)


def test_an_array_of_a_gpu_needs_a_session_on_it(session):
    with pytest.raises(InputError, match="got OnDevice in a GPU's memory, .* backend tensorrt"):
        session(OnDevice())

"""Frames of cameras through a session on a card: they cross the bus once, and give the same maps.

The card is a stand-in, on which our kernel runs emulated when the stream comes to it.
"""

import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import numpy as np
import onnx
import pytest
import test_tensorrt
from conftest import HEIGHT, WIDTH, shared_file
from stand_in_card import compile_kernels

from degmix_edge import backends
from degmix_edge.camera import FORMATS, KERNEL_FORMATS, to_rgb
from degmix_edge.errors import BackendError, ConfigError, CudaError, InputError
from degmix_edge.network import IMAGE, InputSpec, NetworkSpec, Source
from degmix_edge.nvidia import cuda
from degmix_edge.nvidia.arrays import DLPACK_CUDA, DeviceArray
from degmix_edge.preprocess import Fit, fit_image
from degmix_edge.runtime import Session, load
from degmix_edge.tasks import TaskSpec

pytestmark = pytest.mark.slow
card, made, on_device = test_tensorrt.card, test_tensorrt.made, test_tensorrt.on_device


@pytest.fixture
def fitting(made, emulated, monkeypatch):
    """The bundle, on a card with our kernels."""
    library = emulated / "libdegmix_kernels_emulated.so"
    path = shared_file("libdegmix_kernels.stand_in.so", lambda path: compile_kernels(path, library))
    monkeypatch.setenv("DEGMIX_KERNELS", str(path))
    return made


def frame_of(kind, seed=0, size=(90, 160)):
    """A camera's frame with smooth colours and noise."""
    height, width = size
    rng = np.random.default_rng(seed)
    shape = {"nv12": (height * 3 // 2, width), "yuyv": (height, width, 2)}
    shape = shape.get(kind, (height, width, 3))
    slope = np.linspace(40, 200, shape[1]).reshape(1, -1, *[1] * (len(shape) - 2))
    return (slope + rng.integers(-40, 50, shape)).astype(np.uint8)


def images_of(monkeypatch):
    """What engines run on from now on."""
    import tensorrt as stand_in

    monkeypatch.setattr(stand_in, "IMAGES", [])
    return stand_in.IMAGES


@pytest.mark.parametrize("kind", KERNEL_FORMATS)
def test_a_frame_crosses_the_bus_once_as_the_camera_wrote_it(card, fitting, monkeypatch, kind):
    frame = frame_of(kind)
    with load(fitting, format=kind) as session:
        assert session.fits_on == "gpu"
        images, before = images_of(monkeypatch), (card.uploads, card.fits, card.launches)
        maps = session(frame)
        after = (card.uploads, card.fits, card.launches)
        assert [b - a for a, b in zip(before, after, strict=True)] == [1, 1, 1]
        stages = ["copy_in_ms", "fit_ms", "gpu_ms", "copy_out_ms"]
        assert list(session.latency.stages) == stages
        expected, _ = fit_image(to_rgb(frame, kind), session.fit)
        assert np.abs(images[0][0].astype(int) - expected).max() <= 1
        assert maps["depth"].shape == (54, 96)
    monkeypatch.setenv("DEGMIX_KERNELS", "none")
    with load(fitting, format=kind) as session:
        assert session.fits_on == "cpu"
        by_cpu = session(frame)
        assert list(session.latency.stages) == ["copy_in_ms", "gpu_ms", "copy_out_ms"]
    for task in by_cpu:
        np.testing.assert_array_equal(maps[task], by_cpu[task])


@pytest.mark.parametrize("kind", sorted({*FORMATS} - {*KERNEL_FORMATS}))
def test_formats_that_the_kernel_does_not_know_are_converted_by_the_processor(
    card, fitting, on_device, monkeypatch, kind
):
    shape = (90, 160, 2) if kind == "uyvy" else (90, 160)
    frame = np.random.default_rng(3).integers(0, 256, shape, np.uint8)
    with load(fitting, format=kind) as session:
        assert session.fits_on == "cpu"
        images = images_of(monkeypatch)
        session(frame)
        expected, _ = fit_image(to_rgb(frame, kind), session.fit)
        np.testing.assert_array_equal(images[0][0], expected)
        view = on_device(frame)
        view.shape = frame.shape
        with pytest.raises(InputError, match=f"got {kind} in a GPU's memory, where"):
            session(view)


def test_frames_of_any_size_one_after_the_other(card, fitting, monkeypatch):
    """The lane's memory grows and stays; grey and RGBA take the processor's way."""
    sizes = [(31, 45), (200, 33), (HEIGHT, WIDTH), (64, 64)]
    frames = [frame_of("rgb", seed, size) for seed, size in enumerate(sizes)]
    frames += [frames[0][..., 0], np.dstack([frames[1], np.full((200, 33), 200, np.uint8)])]
    with load(fitting) as session:
        images, allocated = images_of(monkeypatch), []
        for frame in frames * 2:
            session(frame)
            allocated.append(card.allocated)
        for frame, image in zip(frames * 2, images, strict=True):
            expected, _ = fit_image(frame, session.fit)
            # Pillow begins along columns where that is cheaper, and rounds in between.
            assert np.abs(image[0].astype(int) - expected).max() <= 1
    assert len(set(allocated[1:])) == 1  # the second frame is the largest


def test_frames_in_page_locked_memory_are_not_copied_on_the_host(card, fitting, monkeypatch):
    device = cuda.Device()
    with load(fitting, format="nv12") as session:
        frame = frame_of("nv12")
        want = session(frame)["depth"]
        with device.current() as driver:
            memory = driver.host_memory(frame.shape, frame.dtype, False)
            memory.array[...] = frame
            assert cuda.is_page_locked(memory.array)
            assert not cuda.is_page_locked(frame)
        lane = session.backend._lanes.lanes[0]
        lane.frames._buffer.host[:] = 99
        uploads = card.uploads
        np.testing.assert_array_equal(session(memory.array)["depth"], want)
        assert card.uploads == uploads + 1
        assert (lane.frames._buffer.host == 99).all()
        with device.current():
            memory.close()
    device.close()


class Pitched(DeviceArray):
    """An array whose rows have gaps, by the CUDA array interface."""

    def __init__(self, array, shape, strides):
        super().__init__(array.pointer, shape, array.dtype, (DLPACK_CUDA, 0), array)
        self.strides = strides

    @property
    def __cuda_array_interface__(self):
        return {**super().__cuda_array_interface__, "strides": self.strides}


def by_interface(view):
    return SimpleNamespace(__cuda_array_interface__=view.__cuda_array_interface__)


@pytest.mark.parametrize("kind", KERNEL_FORMATS)
def test_frames_on_the_device_do_not_move(card, fitting, on_device, kind):
    frame = frame_of(kind)
    with load(fitting, format=kind) as session:
        want, uploads = session(frame)["depth"], card.uploads + 1  # of `on_device`
        view = on_device(frame, offset=3)
        view.shape = frame.shape
        for image in (view, by_interface(view)):
            np.testing.assert_array_equal(session(image)["depth"], want)
        rows = frame.reshape(len(frame), -1)
        gaps = on_device(np.pad(rows, ((0, 0), (0, 7))))
        packed = view.dtype.itemsize * np.array(frame.strides)
        strides = (rows.shape[1] + 7, *packed[1:].tolist())
        image = by_interface(Pitched(gaps, frame.shape, strides))
        np.testing.assert_array_equal(session(image)["depth"], want)
        assert card.uploads == uploads + 1  # of the one with gaps


def stereo() -> tuple[NetworkSpec, bytes]:
    """A network that gives back two pictures of two sizes and a depth, in batches of two."""
    shapes = {IMAGE: (2, 48, 64, 3), "right": (2, 24, 32, 3), "range": (2, 1, 48, 64)}
    nodes, inputs, outputs = [], [], []
    for name, shape in shapes.items():
        kind = onnx.TensorProto.FLOAT if name == "range" else onnx.TensorProto.UINT8
        inputs.append(onnx.helper.make_tensor_value_info(name, kind, shape))
        outputs.append(onnx.helper.make_tensor_value_info(f"{name}_out", 1, shape))
        nodes.append(onnx.helper.make_node("Cast", [name], [f"{name}_out"], to=1))
    graph = onnx.helper.make_graph(nodes, "stereo", inputs, outputs)
    opsets = [onnx.helper.make_opsetid("", 20)]
    model = onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10)
    colours = {"mean": (0.5,) * 3, "std": (0.2,) * 3}
    of_map = {"mean": (0.0,), "std": (1.0,)}
    spec = NetworkSpec(
        model="stereo",
        height=48,
        width=64,
        batch=2,
        inputs=(
            InputSpec(name="right", kind="image", shape=(2, 3, 24, 32), **colours),
            InputSpec(name="range", kind="map", shape=shapes["range"], **of_map),
        ),
        tasks=[
            TaskSpec(
                name=f"{name}_out", decode="raw", num_channels=1, unit="", metric="mean_error",
                shape=shape, dtype="float32",
            )
            for name, shape in shapes.items()
        ],
        source=Source(name="stereo", sha256="0" * 64),
    )  # fmt: skip
    return spec, b"stand-in plan" + model.SerializeToString()


@pytest.mark.parametrize("count", [1, 2, 3])
def test_pairs_of_pictures_in_batches(card, fitting, count):
    """Each picture of a frame crosses the bus once; other inputs go as they did."""
    spec, plan = stereo()
    pairs = []
    for seed in range(count):
        depth = np.full((70 + 2 * seed, 90), 1.5 + seed, np.float32)
        size = {"size": depth.shape}
        pictures = {
            IMAGE: frame_of("yuyv", seed, **size),
            "right": frame_of("yuyv", 9 + seed, **size),
        }
        pairs.append({**pictures, "range": depth})
    fit = Fit(height=48, width=64)
    small = Fit(height=24, width=32)
    with Session(backends.find("tensorrt")(spec, plan), fit, format="yuyv") as session:
        assert session.fits_on == "gpu"
        before = (card.uploads, card.fits)
        found = session(pairs)
        calls = -(-count // 2)
        after = (card.uploads, card.fits)
        assert [b - a for a, b in zip(before, after, strict=True)] == [2 * count + calls, 2 * count]
        for maps, pair in zip(found, pairs, strict=True):
            for name, own in ((IMAGE, fit), ("right", small)):
                expected, _ = fit_image(to_rgb(pair[name], "yuyv"), own)
                np.testing.assert_array_equal(maps[f"{name}_out"].reshape(expected.shape), expected)
            assert maps["range_out"].max() == pair["range"].max()
        with pytest.raises(InputError, match="range: is 70x92 .* and the image 70x90"):
            session(pairs[0] | {"range": np.ones((70, 92))})
        with pytest.raises(InputError, match="right: image: got uint8 .70, 92., expected yuyv"):
            session(pairs[0] | {"right": np.ones((70, 92), np.uint8)})


def test_several_lanes_and_threads(fitting):
    frames = [frame_of("nv12", seed, (60 + 2 * seed, 80)) for seed in range(6)]
    with load(fitting, format="nv12") as session:
        serial = [session(frame)["depth"] for frame in frames]
    with load(fitting, format="nv12", threads=3) as session, ThreadPoolExecutor(6) as pool:
        for got, want in zip(pool.map(session, frames), serial, strict=True):
            np.testing.assert_array_equal(got["depth"], want)
        for got, want in zip(session(frames), serial, strict=True):
            np.testing.assert_array_equal(got["depth"], want)


def test_mapped_memory_needs_no_copy(card, fitting):
    frame = frame_of("yuyv")
    with load(fitting, format="yuyv") as session:
        want = session(frame)["depth"]
    card.integrated = True
    uploads = card.uploads
    with load(fitting, format="yuyv") as session:
        np.testing.assert_array_equal(session(frame)["depth"], want)
    assert card.uploads == uploads


def test_frames_that_are_refused(card, fitting, on_device, monkeypatch):
    with load(fitting, format="nv12") as session:
        want = session(frame_of("nv12"))["depth"]
        for shape in ((91, 160), (90, 160, 3), (135, 161)):
            with pytest.raises(InputError, match=r"image: got uint8 \(\d+, .*expected nv12 as a"):
                session(np.zeros(shape, np.uint8))
        odd = on_device(np.zeros((10, 10), np.uint8))
        with pytest.raises(InputError, match=r"got uint8 \(1, 10, 10\), expected nv12 as a uint8"):
            session(odd)
        view = on_device(frame_of("nv12"))
        view.shape = view.shape[1:]
        elsewhere = DeviceArray(view.pointer, view.shape, np.uint8, (DLPACK_CUDA, 1), view)
        with pytest.raises(CudaError, match="on device 1, the engine runs on device 0"):
            session(elsewhere)
        card.elsewhere = view.pointer
        with pytest.raises(CudaError, match="on device 1, the engine runs on device 0"):
            session(by_interface(view))
        card.elsewhere = 0
        columns = by_interface(Pitched(view, (60, 80), (320, 2)))
        with pytest.raises(CudaError, match="with strides .320, 2.: make it contiguous first"):
            session(columns)
        long = on_device(np.zeros((3, 20000), np.uint8))
        long.shape = (3, 20000)
        with pytest.raises(InputError, match="got 2x20000 .*refuses: a side: expected 1 to 16384"):
            session(long)
        assert session(np.zeros((3, 20000), np.uint8))["depth"].shape == (1, 96)  # by the CPU
        view._owner.close()
        with pytest.raises(CudaError, match="which is no device memory.*was it freed"):
            session(view)
        np.testing.assert_array_equal(session(frame_of("nv12"))["depth"], want)
    monkeypatch.setenv("DEGMIX_KERNELS", "none")
    with load(fitting) as session:
        view = on_device(frame_of("rgb"))
        with pytest.raises(InputError, match="got DeviceArray in a GPU's memory, .*make plugin"):
            session(view)
    with pytest.raises(ConfigError, match="format: got 'nv21', expected one of rgb, bgr, nv12"):
        load(fitting, format="nv21")


def test_a_kernel_that_does_not_run_leaves_the_work_to_the_processor(
    card, fitting, monkeypatch, tmp_path
):
    frame = frame_of("bgr")
    with load(fitting, format="bgr") as session:
        want = session(frame)["depth"]
    junk = tmp_path / "libdegmix_kernels.so"
    junk.write_bytes(b"junk")
    card.kernel_status = 209
    for path, reason in ((None, "no kernel image is available"), (junk, "no library of our")):
        if path is not None:
            monkeypatch.setenv("DEGMIX_KERNELS", str(path))
        with pytest.warns(UserWarning, match=f"frames are fitted on the CPU: .*{reason}"):
            session = load(fitting, format="bgr")
        with session, warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            assert session.fits_on == "cpu"
            np.testing.assert_array_equal(session(frame)["depth"], want)
    monkeypatch.setenv("DEGMIX_KERNELS", str(tmp_path / "gone.so"))
    with pytest.raises(ConfigError, match=r"DEGMIX_KERNELS=.*gone\.so: no such file"):
        load(fitting)


def test_a_kernel_that_fails_in_service_is_an_error_and_the_next_frame_is_right(card, fitting):
    frame = frame_of("rgb")
    with load(fitting) as session:
        want = session(frame)["depth"]
        card.kernel_status = 209
        with pytest.raises(CudaError, match="a frame is not fitted: no kernel image"):
            session(frame)
        card.kernel_status = 0
        np.testing.assert_array_equal(session(frame)["depth"], want)


def test_no_memory_for_a_frame(card, fitting):
    with load(fitting) as session:
        want = session(frame_of("rgb"))["depth"]
        card.fails_from = card.allocated + 1
        with pytest.raises(CudaError, match="a buffer of .*uint8.*out of memory; close other"):
            session(frame_of("rgb", size=(300, 300)))
        card.fails_from = 0
        np.testing.assert_array_equal(session(frame_of("rgb"))["depth"], want)


def test_a_pickled_session_keeps_its_format(fitting):
    with load(fitting, format="yuyv") as session:
        want = session(frame_of("yuyv"))["depth"]
        with pickle.loads(pickle.dumps(session)) as other:
            assert other.format == "yuyv"
            np.testing.assert_array_equal(other(frame_of("yuyv"))["depth"], want)


def test_a_backend_that_fits_no_frames_says_so(fitting):
    frame = frame_of("nv12")
    with load(fitting, format="nv12") as session:
        want = session(frame)["depth"]
    with pytest.warns(UserWarning, match="no engine for onnxruntime"):
        session = load(fitting, backend="onnxruntime", format="nv12")
    with session:
        assert session.fits_on == "cpu"
        np.testing.assert_allclose(session(frame)["depth"], want, rtol=1e-4, atol=1e-5)
        with pytest.raises(BackendError, match="takes images of the network's size, and no raw"):
            session.backend.infer({}, {IMAGE: [object()]})

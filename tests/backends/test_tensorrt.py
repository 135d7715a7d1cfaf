"""The TensorRT backend over stand-ins of CUDA's driver and TensorRT, through each binding."""

import json
import os
import shutil
import sys
import threading
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import shared
from stand_in_card import STAND_INS, a_card

from degmix_edge import backends, config, ops
from degmix_edge.backends import EngineOptions
from degmix_edge.bundle.contents import open_bundle
from degmix_edge.cli import invoke
from degmix_edge.errors import (
    BackendError,
    BuildError,
    ConfigError,
    CudaError,
    GraphError,
    ShapeError,
)
from degmix_edge.graph.model import to_graph
from degmix_edge.network import IMAGE
from degmix_edge.nvidia import arrays as device_array
from degmix_edge.nvidia import cuda
from degmix_edge.nvidia.arrays import DLPACK_CPU, DLPACK_CUDA, DeviceArray
from degmix_edge.nvidia.trt import build as trt_build
from degmix_edge.nvidia.trt import load as trt_load
from degmix_edge.nvidia.worker import build_in_child
from degmix_edge.passes.forms import deploy_model, lower_for_tensorrt, quantize_model
from degmix_edge.quant.recipe import Recipe
from degmix_edge.quant.rules import choose
from degmix_edge.runtime import load
from degmix_edge.workflows import doctor
from degmix_edge.workflows.build import build

pytestmark = pytest.mark.slow


@pytest.fixture
def card(binding, monkeypatch, tmp_path):
    """TensorRT and a card, as far as our own code can tell; what was made and not given back."""
    path = f"{STAND_INS}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    monkeypatch.setenv("PYTHONPATH", path)  # of the builder's process
    monkeypatch.setenv("DEGMIX_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("DEGMIX_TRT_PLUGIN", "none")
    monkeypatch.setenv("DEGMIX_KERNELS", "none")
    with a_card(binding, monkeypatch) as card:
        import tensorrt as stand_in

        stand_in.COUNTS.clear()
        tensorrt = backends.find("tensorrt")
        monkeypatch.setattr(tensorrt, "version", classmethod(lambda cls: "10.3.0"))
        yield card
        left = +stand_in.COUNTS
        del sys.modules["tensorrt"]
        trt_load._LOGGERS.clear()
        assert not left, f"made and not given back: {left}"


@pytest.fixture
def made(card, binding, exported, pictures, tmp_path):
    """A bundle with a TensorRT engine: a copy of the one that each binding builds once."""

    def make(target):
        events = []
        build(
            exported[0],
            target,
            precision="fp32",
            backend="tensorrt",
            golden_image=pictures[0],
            progress=events.append,
        )
        steps = [(e.done, e.total) for e in events if e.name == "Building"]
        assert steps == [(i, 4) for i in (1, 2, 3, 4, 4)]
        detail = next(e.detail for e in events if e.name == "golden check")
        assert "engine against model.onnx" in detail

    whole = shared(f"card.{binding}.degmix", make)
    return open_bundle(shutil.copytree(whole, tmp_path / "robot.degmix"))


def want(bundle, picture):
    with backends.find("onnxruntime")(
        bundle.manifest.network, bundle.file("model.onnx").read_bytes()
    ) as runs:
        return runs.infer({IMAGE: picture[None]})


def test_a_session_gives_the_maps(made, card, pictures):
    with load(made, backend="auto") as session:  # a card is the best there is
        assert session.backend.name == "tensorrt"
        for picture in pictures[:4]:
            maps, expected = session(picture), want(made, picture)
            for task in maps:
                np.testing.assert_allclose(maps[task], expected[task][0], rtol=1e-4, atol=1e-5)
        assert set(session.latency.stages) == {"copy_in_ms", "gpu_ms", "copy_out_ms"}
    assert card.launches >= 4  # as a graph, after warming up
    with pytest.raises(BackendError, match="not active"):
        session(pictures[0])
    with pytest.raises(BackendError, match="the session is closed"):
        session.submit(pictures[0])
    session.close()


def test_mapped_memory_on_an_integrated_card(made, card, pictures):
    card.integrated = True
    before = card.uploads
    with load(made) as session:
        np.testing.assert_allclose(
            session(pictures[1])["depth"], want(made, pictures[1])["depth"][0], rtol=1e-4, atol=1e-5
        )
    assert card.uploads == before


def test_eight_threads_give_what_one_gives(made, pictures):
    with load(made, threads=1) as session:
        serial = [session(picture) for picture in pictures]
    with load(made, threads=3) as session, ThreadPoolExecutor(8) as pool:
        together = list(pool.map(session, pictures * 3))
        futures = [session.submit(picture) for picture in pictures]
        later = [future.result() for future in futures]
        assert threading.active_count() > 3
    for found in (together[: len(serial)], together[-len(serial) :], later):
        for a, b in zip(found, serial, strict=True):
            for task in a:
                np.testing.assert_array_equal(a[task], b[task])


def test_a_session_may_end_in_another_thread_than_it_began_in(made, card, pictures):
    """PyCUDA's own `detach` releases nothing there, and leaves the context on a stack."""
    session = load(made)
    assert "depth" in session(pictures[0])
    depths = []

    def end():
        session.close()
        depths.append(card.depth())

    thread = threading.Thread(target=end)
    thread.start()
    thread.join()
    assert depths == [0]
    assert not card.leaks()


def test_out_of_memory_in_the_second_lane(made, card):
    per_lane = 1 + len(made.manifest.outputs)
    card.fails_from = card.allocated + per_lane + 2
    with pytest.raises(CudaError, match="out of memory; close other programs or use fewer lanes"):
        load(made, threads=2)
    assert card.allocated == card.fails_from
    assert not card.leaks()


@pytest.mark.parametrize("broken", ["enqueue", "instantiate"])
def test_an_engine_that_cannot_be_captured_runs_without_a_graph(made, card, pictures, broken):
    import tensorrt as stand_in

    if broken == "enqueue":
        stand_in.CAPTURE_FAILS.append("a layer synchronises the stream")
        reason = "without a CUDA graph.*does not run: ERROR: a layer synchronises the stream"
    else:
        card.instantiate_status = 2
        reason = "without a CUDA graph.*cuGraphInstantiate.* failed: out of memory"
    before = card.launches
    with pytest.warns(UserWarning, match=reason):
        session = load(made)
    with session, warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # said once
        for picture in pictures[:4]:
            expected = want(made, picture)["depth"][0]
            np.testing.assert_allclose(session(picture)["depth"], expected, rtol=1e-4, atol=1e-5)
    assert card.launches == before


class Dlpack:
    """An array of another library, which orders its work before the stream that is asked for."""

    def __init__(self, view):
        self.view, self.streams = view, []

    def __dlpack_device__(self):
        return self.view.__dlpack_device__()

    def __dlpack__(self, *, stream):
        self.streams.append(stream)
        return self.view.__dlpack__(stream=stream)


class Torch(Dlpack):
    """One with a CUDA array interface too, which names no stream."""

    @property
    def __cuda_array_interface__(self):
        return self.view.__cuda_array_interface__


class Interface:
    """One with a CUDA array interface alone."""

    def __init__(self, view, stream):
        self.__cuda_array_interface__ = {**view.__cuda_array_interface__, "stream": stream}


@pytest.fixture
def on_device(card, pictures):
    """A function that puts a picture on the device, so many bytes into its memory."""
    device, buffers = cuda.Device(), []

    def put(picture, offset=0):
        buffer = cuda.Buffer(device, (picture.nbytes + offset,), np.uint8)
        buffers.append(buffer)
        buffer.host[offset:] = picture.reshape(-1)
        with device.current() as driver:
            stream = driver.stream()
            buffer.upload(stream)
            stream.synchronize()
            stream.close()
        where, shape = (DLPACK_CUDA, 0), (1, *picture.shape)
        return DeviceArray(buffer.pointer + offset, shape, np.uint8, where, buffer)

    yield put
    for buffer in buffers:
        if buffer.pointer:
            buffer.close()
    device.close()


def depth_of(maps):
    """The stand-in's device memory is the host's: numpy may look."""
    depth = maps["depth"]
    assert depth.__cuda_array_interface__["data"][0] == depth.pointer
    host = DeviceArray(depth.pointer, depth.shape, depth.dtype, (DLPACK_CPU, 0), depth)
    return np.from_dlpack(host).copy()


def test_images_and_maps_that_stay_on_the_device(made, card, pictures, on_device):
    with load(made) as session:
        graphs = card.executables
        for index in range(6):  # each at another address, some of which TensorRT would not take
            view = on_device(pictures[index], offset=3 * index)
            expected = want(made, pictures[index])["depth"]
            got = depth_of(session.backend.infer_device(view))
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
        assert card.executables == graphs  # nothing is captured in service
        assert not device_array._HANDED_OUT  # nothing is kept for capsules that are gone


def test_what_still_writes_an_image_on_the_device_is_waited_for(made, card, pictures, on_device):
    with load(made) as session:
        view = on_device(pictures[0])
        expected = want(made, pictures[0])["depth"]
        for kind in (Dlpack, Torch):
            image = kind(view)
            got = depth_of(session.backend.infer_device(image))
            assert image.streams == [session.backend._lanes.lanes[0].stream.handle]
            np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
        assert card.waited == session.backend._lanes.lanes[0].stream.handle  # ordered by themselves
        session.backend.infer_device(Interface(view, 7))
        assert card.defaults == 1


def test_images_that_cannot_be_read(made, card, pictures, on_device):
    with load(made) as session:
        infer = session.backend.infer_device
        with pytest.raises(BackendError, match="got ndarray on the device, expected uint8"):
            infer(pictures[0])
        with pytest.raises(BackendError, match=r"got uint8 \(1, 8, 8, 3\) on the device"):
            infer(on_device(pictures[0][:8, :8].copy()))
        view = on_device(pictures[0])
        elsewhere = DeviceArray(view.pointer, view.shape, np.uint8, (2, 1), view)
        with pytest.raises(CudaError, match="on device 1, the engine runs on device 0"):
            infer(elsewhere)
        card.elsewhere = view.pointer  # an interface does not tell: the driver does
        with pytest.raises(CudaError, match="on device 1, the engine runs on device 0"):
            infer(Interface(view, None))
        card.elsewhere = 0
        view._owner.close()
        for image in (view, Interface(view, None)):
            with pytest.raises(CudaError, match="which is no device memory.*was it freed"):
                infer(image)


def test_maps_of_bool_leave_by_dlpack():
    flags = np.array([[True, False]])
    view = DeviceArray(flags.ctypes.data, flags.shape, flags.dtype, (DLPACK_CPU, 0), flags)
    np.testing.assert_array_equal(np.from_dlpack(view), flags)


def test_an_engine_of_another_card_is_shown_and_built_again(made, card, pictures):
    card.capability = 90
    with pytest.raises(BackendError) as refused:
        load(made, rebuild=False)
    said = str(refused.value)
    assert "built for" in said
    assert "running on" in said
    assert "Stand-in (sm_87)" in said
    assert "Stand-in (sm_90)" in said
    assert "degmix-edge build engine" in said
    with pytest.warns(UserWarning, match="building one"), load(made) as session:
        first = session(pictures[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        with load(made) as session:  # from the cache
            np.testing.assert_array_equal(session(pictures[0])["depth"], first["depth"])
    (kept,) = (Path(os.environ["DEGMIX_CACHE"]) / "engines").glob("*.plan")
    kept.write_bytes(kept.read_bytes() + b"x")  # a plan is code: it must be what was put there
    with pytest.warns(UserWarning, match="building one"), load(made) as session:
        assert "depth" in session(pictures[0])


def test_a_damaged_plan_and_one_of_another_version(made, pictures):
    file = made.path / "engines" / "tensorrt" / "engine.plan"
    spec = made.manifest.network
    with pytest.raises(BackendError, match="refuses the engine .*magic tag does not match"):
        backends.find("tensorrt")(spec, b"nonsense").__enter__()
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(Exception, match=r"engine\.plan' was changed"):
        load(made.path)


def test_forms_are_timed_and_one_is_kept(card, exported, pictures, tmp_path, emulated_plugin):
    plugin = emulated_plugin
    tensorrt = backends.find("tensorrt")
    model, spec, _ = deploy_model(*exported)
    recipe = choose(to_graph(model), spec, "fp16")
    lowered = quantize_model(model, recipe.model_copy(update={"precision": "fp32"}), None, spec)
    import tensorrt as stand_in

    asked = EngineOptions(feeds=tuple({IMAGE: picture[None]} for picture in pictures[:2]))
    files = tensorrt.build(lowered.SerializeToString(), recipe, None, asked)
    # Timed on images of the user's: a blank one has all offsets side by side.
    shown = {image.tobytes() for image in stand_in.IMAGES}
    assert shown == {picture.tobytes() for picture in pictures[:2]}
    said = json.loads(files["layers.json"])
    assert set(said["milliseconds"]) == {"offsets", "plugin", "builtin"}
    assert said["dcn"] in said["milliseconds"]
    assert not said["refused"]
    only = tensorrt.build(
        lowered.SerializeToString(), recipe, None, EngineOptions(dcn="gridsample")
    )
    assert json.loads(only["layers.json"])["dcn"] == "gridsample"
    assert doctor._plugin().found.startswith(plugin.name)
    timing = list((tmp_path / "cache" / "timing").iterdir())
    assert [p.suffix for p in timing] == [".timing"]


def test_a_form_that_cannot_be_built_is_said(card, exported, emulated_plugin, monkeypatch):
    model, spec, _ = deploy_model(*exported)
    recipe = choose(to_graph(model), spec, "fp16")

    def lower(data, recipe, form):
        if form == "offsets":
            raise GraphError("channels: expected a multiple of 16")
        return lower_for_tensorrt(data, recipe, form)

    monkeypatch.setattr("degmix_edge.passes.forms.lower_for_tensorrt", lower)
    said = "--dcn (plugin|builtin) is used, as others cannot be built. offsets: channels: expected"
    with pytest.warns(UserWarning, match=said):
        files = backends.find("tensorrt").build(model.SerializeToString(), recipe, None)
    assert set(json.loads(files["layers.json"])["refused"]) == {"offsets"}


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_our_offsets_are_in_the_engine_that_a_build_makes(
    card, exported, pictures, tmp_path, emulated_plugin, precision
):
    """From the network to the plan: nothing between may hide the mixers from the passes."""
    bundle = tmp_path / "offsets.degmix"
    build(exported[0], bundle, precision=precision, calibration=pictures, observer="min_max")
    model = bundle.joinpath("model.onnx").read_bytes()
    recipe = config.load(Recipe, bundle / "recipe.yaml")
    files = backends.find("tensorrt").build(model, recipe, None, EngineOptions(dcn="offsets"))
    table = json.loads(files["layers.json"])["layers"]
    plugins = Counter(x["kind"] for x in table)["PLUGIN_V3"]
    plan = files["engine.plan"].removeprefix(b"stand-in plan")
    kinds = Counter(node.op_type for node in onnx.load_from_string(plan).graph.node)
    # Six tasks in one launch of each.
    assert kinds["DegmixDeformOffsets"] == kinds["DegmixDeformSampleAt"] == 1
    assert plugins == 2
    assert not kinds["DegmixDeformSample"]


def test_a_parser_that_passes_over_the_plugin_is_found(card, exported, emulated_plugin):
    """As those of TensorRT 10.0 to 10.6 do, where the model has functions of these names."""
    model, spec, _ = deploy_model(*exported)
    recipe = choose(to_graph(model), spec, "fp32")
    lowered = onnx.load_from_string(lower_for_tensorrt(model.SerializeToString(), recipe, "plugin"))
    options = trt_build.BuilderOptions(workspace_bytes=1 << 28, plugin=str(emulated_plugin))
    build_in_child("tensorrt", lowered.SerializeToString(), options)
    with pytest.raises(BuildError, match="does not run 6 of 6 operators with our plugin, 'mixers"):
        build_in_child("tensorrt", ops.attach(lowered).SerializeToString(), options)


@pytest.fixture
def emulated_plugin(tmp_path, monkeypatch):
    """A library with a plugin's entry points."""
    import shutil
    import subprocess

    compiler = shutil.which("cc") or pytest.skip("no C compiler")
    source, library = tmp_path / "p.c", tmp_path / "libdegmix_trt10.so"
    source.write_text(
        "int degmix_tensorrt_major(void) { return 10; }\n"
        "void* getCreators(int* count) { *count = 5; return 0; }\n"
    )
    subprocess.run([compiler, "-shared", "-fPIC", source, "-o", library], check=True)
    monkeypatch.setenv("DEGMIX_TRT_PLUGIN", str(library))
    return library


def test_mistakes(card, exported, monkeypatch, tmp_path):
    tensorrt = backends.find("tensorrt")
    model, spec, _ = deploy_model(*exported)
    recipe = choose(to_graph(model), spec, "fp32")
    data = model.SerializeToString()
    with pytest.raises(ConfigError, match="no form of deformable convolutions 'plugn'"):
        tensorrt.build(data, recipe, None, EngineOptions(dcn="plugn"))
    with pytest.raises(BackendError, match="--dcn plugin: our plugin library is not in"):
        tensorrt.build(data, recipe, None, EngineOptions(dcn="plugin"))
    with pytest.raises(BuildError, match="DLA core 0: this device has 0"):
        tensorrt.build(data, recipe, None, EngineOptions(dla_core=0))
    with pytest.raises(BackendError, match="onnxruntime: has no --dcn, --dla-core"):
        backends.find("onnxruntime").build(
            data, recipe, None, EngineOptions(dcn="plugin", dla_core=1)
        )
    monkeypatch.setenv("DEGMIX_TRT_PLUGIN", str(tmp_path / "gone.so"))
    with pytest.raises(ConfigError, match=r"gone\.so: no such file"):
        tensorrt.build(data, recipe, None)
    with pytest.raises(CudaError, match="device 3: there are 1"):
        cuda.Device(3)
    device = cuda.Device()
    with pytest.raises(CudaError, match="out of memory; close other programs or use fewer lanes"):
        cuda.Buffer(device, (1 << 30,), np.uint8)
    device.close()
    with pytest.raises(CudaError, match="used after it was closed"):
        device.free_bytes()


def test_a_plugin_of_another_major_version(card, tmp_path, emulated_plugin, monkeypatch):
    import tensorrt as stand_in

    monkeypatch.setattr(stand_in, "__version__", "11.4.0")
    with pytest.raises(BackendError, match="built for TensorRT 10, running TensorRT 11.4.0"):
        trt_load.register("tensorrt", emulated_plugin)
    junk = tmp_path / "junk.so"
    junk.write_bytes(b"junk")
    with pytest.raises(BackendError, match="no plugin library of ours for this machine"):
        trt_load.register("tensorrt", junk)
    with pytest.raises(BackendError, match="no such plugin library; `make plugin` builds it"):
        trt_load.register("tensorrt", tmp_path / "none.so")


def test_engines_side_by_side_with_pytorch(made, checkpoint_path, capfd):
    """PyTorch, ONNX Runtime and TensorRT in one table."""
    capfd.readouterr()
    backends_asked = ("--backend", "onnxruntime,tensorrt", "--json")
    code = invoke(
        ["compare", str(made.path), str(checkpoint_path), "--data", "synthetic:2", *backends_asked]
    )
    out, err = capfd.readouterr()
    assert code == 0, err
    assert set(json.loads(out)["engines"]) == {"onnxruntime", "tensorrt"}
    header = next(line for line in err.splitlines() if line.startswith("task "))
    assert header.split()[:4] == ["task", "metric", "PyTorch", "onnxruntime"]
    assert "tensorrt" in header


def dynamic_model() -> bytes:
    x = onnx.helper.make_tensor_value_info("x", 1, ["batch", 2])
    node = onnx.helper.make_node("Relu", ["x"], ["y"], name="r")
    y = onnx.helper.make_tensor_value_info("y", 1, ["batch", 2])
    graph = onnx.helper.make_graph([node], "g", [x], [y])
    opsets = [onnx.helper.make_opsetid("", 20)]
    return onnx.helper.make_model(graph, opset_imports=opsets).SerializeToString()


def test_profiles_of_sizes_that_are_not_fixed(card):
    shapes = ((1, 2), (4, 2), (8, 2))
    space = {"workspace_bytes": 1 << 28}
    built = trt_build.build_plan(
        "tensorrt", dynamic_model(), trt_build.BuilderOptions(profile={"x": shapes}, **space)
    )
    assert built.plan
    with pytest.raises(ShapeError, match=r"'x' \(-1, 2\) has sizes that are not known: give its"):
        trt_build.build_plan("tensorrt", dynamic_model(), trt_build.BuilderOptions(**space))
    options = trt_build.BuilderOptions(profile={"x": shapes, "z": shapes}, **space)
    with pytest.raises(ShapeError, match="shapes for z: no such input"):
        trt_build.build_plan("tensorrt", dynamic_model(), options)


def test_fp8_is_refused_by_a_card_without_it(card):
    with pytest.raises(BackendError, match=r"sm_87.*has no kernels for FP8, which need .*sm_89"):
        backends.find("tensorrt").build(b"", Recipe(precision="fp8"), None)

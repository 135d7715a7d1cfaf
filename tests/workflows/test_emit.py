"""Emitting a bundle: each target's files are what that target reads, and programs give our maps."""

from __future__ import annotations

import ast
import configparser
import importlib.util
import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import ModuleType

import numpy as np
import onnx
import onnxruntime
import PIL.Image
import pytest
import yaml
from conftest import HEIGHT, WIDTH
from google.protobuf import text_format

from degmix_edge import ort
from degmix_edge.bundle.contents import Bundle
from degmix_edge.bundle.contract import contract
from degmix_edge.bundle.manifest import MODEL, Engine
from degmix_edge.bundle.writing import claim, write_bundle
from degmix_edge.errors import BundleError, ConfigError, OutputError
from degmix_edge.preprocess import Fit, fit_image
from degmix_edge.runtime import load
from degmix_edge.workflows.build import build
from degmix_edge.workflows.emit import emit, targets

TARGETS = ["cpp", "deepstream", "isaac", "python", "triton"]
HOSTILE = ('"', "'''", '"""', "\\", "a\nb", "*/", "??/", "${X}", "# ; x: y")
HOSTILE += ("\u202egnp.exe", "", "Straße", "%s\x00\x1b[2J", "\\\n// x", "@CONTRACT@")
PLAN = b"a plan"


def changed(opened: Bundle, folder: Path, engine: Engine | None = None, **changes) -> Bundle:
    """A copy of a bundle whose manifest says something else."""
    files = {name: opened.read(name) for name in opened.manifest.files}
    manifest = opened.manifest.model_copy(update=changes)
    if engine:
        files[engine.file] = PLAN
        manifest = manifest.model_copy(update={"engines": (*manifest.engines, engine)})
    return write_bundle(claim(folder, force=False), manifest, files)


@pytest.fixture(scope="session")
def full(exported, pictures, tmp_path_factory) -> Bundle:
    """A bundle with every kind of output: all tasks and their raw logits."""
    path = tmp_path_factory.mktemp("full") / "full v1.degmix"
    return build(exported[0], path, precision="fp32", raw_logits=True)


@pytest.fixture(scope="session")
def hostile(full, tmp_path_factory) -> Bundle:
    """The same bundle with class names, a unit and a model's name that try to break out."""
    network = full.manifest.network
    semseg, *others = network.tasks
    assert semseg.name == "semseg"
    classes = (HOSTILE * len(semseg.classes))[: len(semseg.classes)]
    semseg = semseg.model_copy(update={"classes": classes, "unit": 'x"\n*/ \\'})
    network = network.model_copy(
        update={"model": "evil\n\"'''\\", "tasks": (semseg, *others)},
    )
    maps = tuple(task.map_spec(HEIGHT, WIDTH) for task in network.tasks)
    outputs = (*maps, *full.manifest.outputs[len(maps) :])
    folder = tmp_path_factory.mktemp("hostile") / "a $(b) 'c'.degmix"
    return changed(full, folder, network=network, outputs=outputs)


@pytest.fixture(scope="session")
def with_plan(full, tmp_path_factory) -> Bundle:
    """The same bundle with a TensorRT plan, which no program here opens."""
    engine = Engine(
        backend="tensorrt",
        file="engines/tensorrt/engine.plan",
        key="0" * 64,
        version="10.13.0",
        device="Orin, driver 1, degmix plugin",
    )
    return changed(full, tmp_path_factory.mktemp("plan") / "orin.degmix", engine)


@pytest.fixture(scope="session")
def photo(tmp_path_factory) -> Path:
    import skimage.data

    path = tmp_path_factory.mktemp("photo") / "coffee.png"
    wide = skimage.data.coffee()[60:297]  # padded above and below, and turned, on both sides
    PIL.Image.fromarray(wide).save(path)
    return path


def expected(opened: Bundle, path: Path) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """What ONNX Runtime makes of model.onnx and an image file, uncut, and the input."""
    pixels, _ = fit_image(path, opened.manifest.fit)
    session = ort.cpu_session(opened.read(MODEL))
    names = [output.name for output in session.get_outputs()]
    arrays = session.run(None, {"image": pixels[None]})
    return dict(zip(names, arrays, strict=True)), pixels


def tree(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


# The contract


def test_the_contract_is_that_of_the_model(full, photo):
    agreed = contract(full.manifest)
    session = ort.cpu_session(full.read(MODEL))
    types = {"tensor(uint8)": "uint8", "tensor(float)": "float32"}
    for ours, theirs in (
        (agreed.inputs, session.get_inputs()),
        (agreed.outputs, session.get_outputs()),
    ):
        assert [(t.name, t.dtype, list(t.shape)) for t in ours] == [
            (t.name, types[t.type], t.shape) for t in theirs
        ]
    arrays, _ = expected(full, photo)
    assert len(arrays) == 12
    for output in agreed.outputs:
        low, high = output.range
        values = arrays[output.name]
        assert len(output.layout) == values.ndim
        assert low is None or values.min() >= low
        assert high is None or values.max() <= high
    semseg = full.manifest.network.tasks[0]
    assert agreed.outputs[0].classes == dict(enumerate(semseg.classes))
    assert agreed.outputs[6].kind == "logits"
    assert agreed.outputs[6].classes == agreed.outputs[0].classes


def test_inspect_prints_the_contract(full, cli):
    code, out, err = cli("inspect", full.path, "--json")
    assert code == 0, err
    values = json.loads(out)["contract"]
    assert values["inputs"][0]["layout"] == "NHWC"
    assert values["inputs"][0]["color"] == "RGB"
    assert values["inputs"][0]["range"] == [0, 255]
    assert values["inputs"][0]["fit"]["mode"] == "letterbox"
    names = {str(i): name for i, name in enumerate(full.manifest.network.tasks[0].classes)}
    assert values["outputs"][0]["classes"] == names
    _, _, err = cli("inspect", full.path)
    text = " ".join(err.split())
    for phrase in (
        f"input: image uint8 (1, {HEIGHT}, {WIDTH}, 3)",
        "layout NHWC, colours RGB, values 0 to 255",
        "Normalisation is inside the graph",
        f"{WIDTH} x {HEIGHT} pixels (width x height)",
        "fill the rest with RGB (124, 116, 104)",
        f"output: depth float32 (1, {HEIGHT}, {WIDTH}) [m]",
        "it is z, not the length of the ray",
        ", ".join(f"{i} {name}" for i, name in names.items()),
    ):
        assert phrase in text, phrase


def test_inspect_and_emit_need_no_heavy_package(full, tmp_path):
    """Neither torch nor onnx; both also run where ONNX Runtime is missing."""
    program = (
        "import sys\n"
        "for name in ('torch', 'onnx', 'onnx_graphsurgeon', 'onnxruntime', 'scipy', 'skimage'):\n"
        "    sys.modules[name] = None\n"
        "from degmix_edge.cli import invoke\n"
        "bundle, out = sys.argv[1:]\n"
        "codes = [invoke(['inspect', bundle, '-q'])]\n"
        f"for target in {TARGETS}:\n"
        "    codes.append(invoke(['emit', target, bundle, '--out', out + target, '-q']))\n"
        "sys.exit(max(codes))\n"
    )
    command = [sys.executable, "-c", program, str(full.path), str(tmp_path / "out_")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(list(tmp_path.iterdir())) == len(TARGETS)


# Triton


@pytest.fixture(scope="session")
def schema() -> ModuleType:
    """Triton's own schema. The package's `__init__` would import a gRPC client."""
    path = metadata.distribution("tritonclient").locate_file(
        "tritonclient/grpc/model_config_pb2.py"
    )
    spec = importlib.util.spec_from_file_location("model_config_pb2", str(path))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def parsed(schema: ModuleType, path: Path):
    return text_format.Parse(path.read_text(), schema.ModelConfig())


@pytest.mark.parametrize("name", ["full", "hostile"])
def test_triton_reads_the_configuration(request, name, schema, tmp_path):
    opened = request.getfixturevalue(name)
    emitted = emit("triton", opened, tmp_path / "repository")
    model = emitted.name
    files = tree(emitted.out)
    assert set(files) == set(emitted.files)
    config = parsed(schema, emitted.out / model / "config.pbtxt")
    assert (config.name, config.backend, config.max_batch_size) == (model, "onnxruntime", 0)
    assert files[f"{model}/1/model.onnx"] == opened.read(MODEL)
    graph = onnx.load_from_string(opened.read(MODEL)).graph
    types = {onnx.TensorProto.UINT8: "TYPE_UINT8", onnx.TensorProto.FLOAT: "TYPE_FP32"}
    for ours, theirs in ((config.input, graph.input), (config.output, graph.output)):
        assert [(t.name, schema.DataType.Name(t.data_type), list(t.dims)) for t in ours] == [
            (
                value.name,
                types[value.type.tensor_type.elem_type],
                [side.dim_value for side in value.type.tensor_type.shape.dim],
            )
            for value in theirs
        ]
    labelled = {output.name: output.label_filename for output in config.output}
    assert labelled["semseg"] == "labels_semseg.txt"
    assert labelled["depth"] == labelled["semseg_logits"] == ""
    lines = files[f"{model}/labels_semseg.txt"].decode().split("\n")
    classes = opened.manifest.network.tasks[0].classes
    assert len(lines) == len(classes) + 1
    assert all(line.strip() for line in lines[:-1])
    if name == "full":
        assert lines == [*classes, ""]


def test_triton_prefers_the_plan(with_plan, schema, tmp_path):
    emitted = emit("triton", with_plan, tmp_path / "repository")
    files = tree(emitted.out)
    assert files["orin/1/model.plan"] == PLAN
    assert "orin/1/model.onnx" not in files
    assert parsed(schema, emitted.out / "orin" / "config.pbtxt").backend == "tensorrt"
    assert "plugins=/path/to/libdegmix_trt" in files["orin/config.pbtxt"].decode()


# Isaac ROS

PUBLISHED = {
    *("model_file_path", "engine_file_path", "custom_plugin_lib", "force_engine_update"),
    *("input_tensor_names", "input_binding_names", "input_tensor_formats"),
    *("output_tensor_names", "output_binding_names", "output_tensor_formats"),
    *("verbose", "max_workspace_size", "dla_core", "max_batch_size", "enable_fp16"),
    "relaxed_dimension_check",
}
"""Parameters of TensorRTNode in the documentation of Isaac ROS."""


@pytest.mark.parametrize("name", ["full", "hostile", "with_plan"])
def test_isaac_gets_parameters_that_its_node_has(request, name, tmp_path):
    opened = request.getfixturevalue(name)
    emitted = emit("isaac", opened, tmp_path / "isaac")
    text = (emitted.out / f"{emitted.name}.yaml").read_text()
    values = yaml.safe_load(text)
    assert list(values) == ["tensor_rt_node"]
    parameters = values["tensor_rt_node"]["ros__parameters"]
    assert set(parameters) <= PUBLISHED
    tensors = [output.name for output in opened.manifest.outputs]
    assert parameters["output_tensor_names"] == parameters["output_binding_names"] == tensors
    assert parameters["input_tensor_names"] == parameters["input_binding_names"] == ["image"]
    assert parameters["enable_fp16"] is parameters["force_engine_update"] is False
    assert (emitted.out / parameters["model_file_path"]).read_bytes() == opened.read(MODEL)
    assert (emitted.out / parameters["engine_file_path"]).exists() is (name == "with_plan")
    flat = " ".join(text.replace("#", " ").split())
    assert "DnnImageEncoderNode cannot make this tensor" in flat
    assert ("trtexec --onnx=model.onnx" in flat) is (name != "with_plan")


ENCODER = {
    "letterbox": (
        "enable_padding: true",
        "keep_aspect_ratio: true",
        "the encoder fills with black",
    ),
    "stretch": ("enable_padding: true", "keep_aspect_ratio: false"),
    "crop": ("enable_padding: true", "keep_aspect_ratio: false", "proportions 96:64"),
}


@pytest.mark.parametrize("mode", ENCODER)
def test_isaac_says_how_an_image_is_fitted(full, mode, tmp_path):
    fit = Fit(height=HEIGHT, width=WIDTH, mode=mode)
    out = emit("isaac", changed(full, tmp_path / "robot.degmix", fit=fit), tmp_path / "isaac").out
    flat = " ".join((out / "robot.yaml").read_text().replace("#", " ").split())
    for words in ENCODER[mode]:
        assert words in flat
    assert ("the encoder fills with black" in flat) is (mode == "letterbox")
    assert ("A CropNode" in flat) is (mode == "crop")


# DeepStream


@pytest.mark.parametrize("mode", ENCODER)
def test_deepstream_says_how_an_image_is_fitted(full, mode, tmp_path):
    fit = Fit(height=HEIGHT, width=WIDTH, mode=mode)
    opened = changed(full, tmp_path / "robot.degmix", fit=fit)
    path = emit("deepstream", opened, tmp_path / "out").out / "config_infer_primary_robot.txt"
    values = properties(path)
    assert values["maintain-aspect-ratio"] == str(int(mode == "letterbox"))
    flat = " ".join(path.read_text().replace("#", " ").split())
    assert ("Gst-nvinfer cannot crop" in flat) is (mode == "crop")
    assert ("src-crop=LEFT:TOP:WIDTH:HEIGHT" in flat) is (mode == "crop")


def properties(path: Path) -> dict[str, str]:
    """The group `property` of a key file, as GLib reads it: whole lines are comments."""
    parser = configparser.RawConfigParser(delimiters=("=",), comment_prefixes=("#",), strict=True)
    parser.read_string(path.read_text())
    assert parser.sections() == ["property"]
    return dict(parser["property"])


@pytest.mark.parametrize("name", ["full", "hostile", "with_plan"])
def test_deepstream_gets_the_tensors_and_the_truth_about_uint8(request, name, tmp_path):
    opened = request.getfixturevalue(name)
    emitted = emit("deepstream", opened, tmp_path / "deepstream")
    path = emitted.out / f"config_infer_primary_{emitted.name}.txt"
    values = properties(path)
    assert values["network-type"] == "100"
    assert values["output-tensor-meta"] == values["input-tensor-from-meta"] == "1"
    assert values["infer-dims"] == f"{HEIGHT};{WIDTH};3"
    assert (values["network-input-order"], values["model-color-format"]) == ("1", "0")
    assert values["output-blob-names"].split(";") == [t.name for t in opened.manifest.outputs]
    assert (emitted.out / values["onnx-file"]).read_bytes() == opened.read(MODEL)
    assert (emitted.out / values["model-engine-file"]).exists() is (name == "with_plan")
    lines = (emitted.out / values["labelfile-path"]).read_text().splitlines()
    assert len(lines) == len(opened.manifest.network.tasks[0].classes)
    assert not any(";" in line or not line.strip() for line in lines)
    flat = " ".join(path.read_text().replace("#", " ").split())
    assert "Gst-nvinfer cannot fill it by itself" in flat
    assert f"network-input-shape=1;{HEIGHT};{WIDTH};3" in flat


# Python


def run_script(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", str(folder / "run.py"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def written_contract(path: Path) -> dict:
    """The constant CONTRACT of a script."""
    assigned = [node for node in ast.parse(path.read_text()).body if isinstance(node, ast.Assign)]
    (node,) = (node for node in assigned if ast.unparse(node.targets[0]) == "CONTRACT")
    return ast.literal_eval(node.value)


@pytest.mark.slow(file_seconds=40)
@pytest.mark.parametrize("mode", ["letterbox", "stretch", "crop"])
def test_the_script_gives_the_maps_of_the_model(full, photo, mode, tmp_path):
    fit = Fit(height=HEIGHT, width=WIDTH, mode=mode)
    opened = changed(full, tmp_path / "robot.degmix", fit=fit)
    out = emit("python", opened, tmp_path / "app").out
    assert "degmix_edge" not in (out / "run.py").read_text()
    done = run_script(out, photo, "--out", tmp_path / "maps")
    assert done.returncode == 0, done.stderr
    arrays, _ = expected(opened, photo)
    _, placement = fit_image(photo, fit)
    assert (placement.top > 0) is (mode == "letterbox")
    found = dict(np.load(tmp_path / "maps" / "coffee.npz"))
    assert list(found) == list(arrays)
    for name, array in arrays.items():
        whole = np.moveaxis(array[0], 0, -1) if name.endswith("_logits") else array[0]
        cut = placement.crop(whole)
        cut = np.moveaxis(cut, -1, 0) if name.endswith("_logits") else cut
        np.testing.assert_array_equal(found[name], cut, name)
    with load(opened) as session:
        maps = session(photo)
    maps.save(tmp_path, "ours")
    for name, array in maps.items():
        if array.dtype == np.uint8:
            assert np.mean(found[name] == array) > 0.999
        else:
            np.testing.assert_allclose(found[name], array, atol=1e-3)
        ours, theirs = (
            PIL.Image.open(path)
            for path in (tmp_path / f"ours.{name}.png", tmp_path / "maps" / f"coffee.{name}.png")
        )
        assert (ours.mode, ours.size, ours.getpalette()) == (
            theirs.mode,
            theirs.size,
            theirs.getpalette(),
        )
        difference = np.abs(np.asarray(ours, np.int32) - np.asarray(theirs, np.int32))
        assert array.dtype == np.uint8 or difference.max() <= 1


@pytest.mark.slow
def test_the_script_reads_upright_and_transparent_pictures_as_a_session_does(
    bundles, photo, tmp_path
):
    opened = bundles["int8"]
    out = emit("python", opened, tmp_path / "app").out
    image = PIL.Image.open(photo)
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    turned, clear = tmp_path / "turned.jpg", tmp_path / "clear.png"
    image.save(turned, exif=exif)
    image.putalpha(PIL.Image.linear_gradient("L").resize(image.size))
    image.save(clear)
    done = run_script(out, turned, clear, "--out", tmp_path / "maps")
    assert done.returncode == 0, done.stderr
    for path in (turned, clear):
        arrays, _ = expected(opened, path)
        _, placement = fit_image(path, opened.manifest.fit)
        found = np.load(tmp_path / "maps" / f"{path.stem}.npz")["depth"]
        np.testing.assert_array_equal(found, placement.crop(arrays["depth"][0]))


def test_the_script_says_which_image_it_cannot_read(full, tmp_path):
    out = emit("python", full, tmp_path / "app").out
    deep = tmp_path / "deep.png"
    PIL.Image.fromarray(np.zeros((4, 4), np.uint16)).save(deep)
    for path in (deep, tmp_path / "nothing.png", out / "run.py"):
        done = run_script(out, path, "--out", tmp_path / "maps")
        assert done.returncode == 1
        assert str(path) in done.stderr
        assert "Traceback" not in done.stderr


def test_the_scripts_contract_survives_any_name(hostile, tmp_path):
    out = emit("python", hostile, tmp_path / "app").out
    values = written_contract(out / "run.py")
    network = hostile.manifest.network
    assert values["model"]["network"] == network.model
    assert values["outputs"][0]["unit"] == network.tasks[0].unit
    assert tuple(values["outputs"][0]["classes"].values()) == network.tasks[0].classes
    assert [output["name"] for output in values["outputs"]] == [
        tensor.name for tensor in hostile.manifest.outputs
    ]
    assert run_script(out, "--help").returncode == 0


# C++


@pytest.fixture(scope="session")
def runtime(tmp_path_factory) -> list[str]:
    """Options of cmake: the official headers, and the library of the installed wheel."""
    root = Path(os.environ.get("ONNXRUNTIME_ROOT", "/usr"))
    header = "onnxruntime_cxx_api.h"
    if not any((root / "include" / sub / header).exists() for sub in ("", "onnxruntime")):
        pytest.skip(
            f"no {header} in {root}/include: set ONNXRUNTIME_ROOT to a release of ONNX Runtime, "
            "or install libonnxruntime-dev (Debian 13)"
        )
    (library,) = Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*")
    folder = tmp_path_factory.mktemp("ort")
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (folder / name).symlink_to(library)
    return [f"-DONNXRUNTIME_ROOT={root}", f"-DONNXRUNTIME_LIBRARY={folder}/libonnxruntime.so"]


def compiled(folder: Path, options: list[str]) -> Path:
    """The program of an emitted folder, built without a warning."""
    output = folder.parent / f"build_{folder.name}"
    commands = [
        ["cmake", "-S", str(folder), "-B", str(output), *options],
        ["cmake", "--build", str(output)],
    ]
    for command in commands:
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        assert "warning" not in (done.stdout + done.stderr).lower(), done.stdout + done.stderr
    return output / "run_model"


def pnm(path: Path) -> np.ndarray:
    """The pixels of a binary PGM or PPM; 16-bit ones are big-endian."""
    magic, width, height, white = path.read_bytes().split(None, 4)[:4]
    shape = (int(height), int(width), 3) if magic == b"P6" else (int(height), int(width))
    dtype = np.dtype(">u2") if int(white) > 255 else np.dtype("u1")
    size = int(np.prod(shape)) * dtype.itemsize
    return np.frombuffer(path.read_bytes()[-size:], dtype).reshape(shape)


@pytest.mark.slow
def test_the_cpp_program_gives_the_maps_of_the_model(runtime, full, photo, tmp_path):
    out = emit("cpp", full, tmp_path / "app").out
    program = compiled(out, runtime)
    arrays, pixels = expected(full, photo)
    image, maps = tmp_path / "image.ppm", tmp_path / "maps"
    image.write_bytes(b"P6\n# comment\n%d %d\n255\n" % (WIDTH, HEIGHT) + pixels.tobytes())
    maps.mkdir()
    done = subprocess.run([program, out / MODEL, image, maps], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "depth [m]: Depth in metres" in done.stdout
    for name, array in arrays.items():
        assert (maps / f"{name}.raw").read_bytes() == array.tobytes(), name
    emit("python", full, tmp_path / "script")
    PIL.Image.fromarray(pixels).save(tmp_path / "image.png")
    script = run_script(tmp_path / "script", tmp_path / "image.png", "--out", tmp_path / "other")
    assert script.returncode == 0, script.stderr
    for task in full.manifest.network.task_names:
        (picture,) = [p for p in (maps / f"{task}.pgm", maps / f"{task}.ppm") if p.exists()]
        theirs = np.asarray(PIL.Image.open(tmp_path / "other" / f"image.{task}.png"))
        np.testing.assert_array_equal(pnm(picture), theirs, task)
    for bad, message in (
        (b"P6\n2 2\n255\n" + bytes(12), f"expected {WIDTH} x {HEIGHT}"),
        (image.read_bytes()[:-1], "is cut off"),
        (b"P3\n1 1\n255\n0 0 0\n", "is no binary PPM"),
    ):
        image.write_bytes(bad)
        done = subprocess.run([program, out / MODEL, image, maps], capture_output=True, text=True)
        assert done.returncode == 1
        assert message in done.stderr


@pytest.mark.slow
def test_hostile_names_stay_strings_in_cpp(runtime, hostile, photo, tmp_path):
    out = emit("cpp", hostile, tmp_path / "app").out
    program = compiled(out, runtime)
    _, pixels = expected(hostile, photo)
    image = tmp_path / "image.ppm"
    image.write_bytes(b"P6\n%d %d\n255\n" % (WIDTH, HEIGHT) + pixels.tobytes())
    done = subprocess.run([program, out / MODEL, image, tmp_path], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    semseg = np.fromfile(tmp_path / "semseg.raw", np.uint8)
    classes = hostile.manifest.network.tasks[0].classes
    listed = done.stdout.split("semseg [")[1].split("human_parts [")[0]
    for index in np.unique(semseg):
        name = "".join(c if c.isprintable() else " " for c in classes[index])
        assert f"  {index} {name}: " in listed


# Writing


def test_the_targets_are_the_files():
    assert targets() == TARGETS


@pytest.mark.parametrize("target", TARGETS)
def test_a_folder_is_written_whole_and_replaced_only_when_asked(full, target, tmp_path):
    out = tmp_path / "out"
    first = tree(emit(target, full.path, out).out)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    with pytest.raises(OutputError, match="exists; give --force"):
        emit(target, full.path, out)
    (out / "mine.txt").write_text("mine")
    with pytest.raises(OutputError, match="holds 'mine.txt'.*would be lost"):
        emit(target, full.path, out, force=True)
    assert tree(out) == {**first, "mine.txt": b"mine"}
    (out / "mine.txt").unlink()
    next(path for path in out.rglob("*") if path.is_file()).write_text("damaged")
    emit(target, full.path, out, force=True)
    assert tree(out) == first


def test_mistakes_leave_nothing(full, tmp_path):
    with pytest.raises(ConfigError, match=r"no target 'tritn'.*Did you mean 'triton'\?"):
        emit("tritn", full.path, tmp_path / "out")
    with pytest.raises(ConfigError, match="no target '_base'"):
        emit("_base", full.path, tmp_path / "out")
    with pytest.raises(BundleError, match="no such bundle"):
        emit("triton", tmp_path / "nothing.degmix", tmp_path / "out")
    with pytest.raises(OutputError, match="no such folder; make it first"):
        emit("triton", full.path, tmp_path / "missing" / "out")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputError, match="is a file, so --force does not replace it"):
        emit("triton", full.path, tmp_path / "out", force=True)
    assert (tmp_path / "out").read_text() == "a file"


def test_a_changed_bundle_is_not_emitted(full, tmp_path):
    copy = changed(full, tmp_path / "copy.degmix").path
    data = bytearray((copy / MODEL).read_bytes())
    data[-1] ^= 1
    (copy / MODEL).write_bytes(data)
    with pytest.raises(BundleError, match="was changed"):
        emit("python", copy, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_line_lists_what_it_wrote(full, cli):
    code, out, err = cli("emit", "triton", full.path, "--out", "repository", "--json")
    assert code == 0, err
    values = json.loads(out)
    assert values["target"] == "triton"
    assert values["name"] == "full_v1"
    assert "full_v1/config.pbtxt" in values["files"]
    assert all((Path("repository") / name).is_file() for name in values["files"])
    assert "repository/full_v1/1/model.onnx: written" in err
    assert cli("emit", "triton", full.path, "--out", "repository")[0] == 12
    assert cli("emit", "tritn", full.path, "--out", "x")[0] == 3
    assert cli("emit", "triton", "nothing.degmix", "--out", "x")[0] == 9
    assert cli("emit", "triton", full.path)[0] == 2

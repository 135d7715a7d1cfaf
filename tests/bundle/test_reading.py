"""What is read from a bundle: once, bounded, no links; and that it agrees with itself."""

import io
import json
import os
import shutil
import subprocess
import zipfile

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from degmix_edge.bundle import reading
from degmix_edge.bundle.contents import open_bundle
from degmix_edge.bundle.golden import unpack
from degmix_edge.bundle.manifest import digest_line
from degmix_edge.errors import BackendError, BundleError, ConfigError, GraphError, InputError
from degmix_edge.files import sha256
from degmix_edge.graph.self_contained import check_self_contained
from degmix_edge.limits import limits
from degmix_edge.preprocess import Fit, fit_image
from degmix_edge.runtime import load
from degmix_edge.workflows.verify import verify


@pytest.fixture
def copy(bundles, tmp_path):
    target = tmp_path / "robot.degmix"
    shutil.copytree(bundles["fp32"].path, target)
    return target


def rewrite(path, contents=(), **values):
    """Change files and manifest, with all hashes right."""
    manifest = json.loads((path / "manifest.json").read_text()) | values
    for name, data in dict(contents).items():
        (path / name).write_bytes(data)
        manifest["files"][name] = sha256(data)
    text = json.dumps(manifest).encode()
    (path / "manifest.json").write_bytes(text)
    (path / "manifest.sha256").write_bytes(digest_line(sha256(text)))


def test_sha256sum_checks_the_manifest(copy):
    done = subprocess.run(["sha256sum", "-c", "manifest.sha256"], cwd=copy, capture_output=True)
    assert done.returncode == 0
    (copy / "manifest.sha256").unlink()
    with pytest.raises(BundleError, match="manifest.sha256 is missing; copy the bundle again"):
        open_bundle(copy)


def test_every_file_is_read_once(copy, monkeypatch, pictures):
    seen = []
    real = reading.read_file

    def watched(folder, name, **options):
        seen.append(name)
        return real(folder, name, **options)

    monkeypatch.setattr("degmix_edge.bundle.contents.read_file", watched)
    with load(copy) as session:
        session(pictures[0])
    assert sorted(seen) == sorted(set(seen))
    assert "engines/onnxruntime/engine.onnx" in seen


def test_what_was_hashed_is_what_is_read(copy):
    opened = open_bundle(copy)
    want = opened.read("model.onnx")
    (copy / "model.onnx").write_bytes(b"another")
    assert opened.read("model.onnx") == want
    opened.release()
    with pytest.raises(BundleError, match="'model.onnx' was changed"):
        opened.read("model.onnx")


@pytest.mark.parametrize(
    ("put", "message"),
    [
        (lambda path: os.mkfifo(path), "is no regular file"),
        (lambda path: path.symlink_to("/dev/zero"), "is or lies behind a link"),
        (lambda path: path.symlink_to(path.name), "is or lies behind a link"),
        (lambda path: path.mkdir(), "is no regular file"),
    ],
)
@pytest.mark.parametrize("name", ["manifest.json", "model.onnx"])
def test_only_regular_files_are_read(copy, name, put, message):
    (copy / name).unlink()
    put(copy / name)
    with pytest.raises(BundleError, match=message):
        open_bundle(copy)


def test_a_folder_behind_a_link_is_not_read(copy, tmp_path):
    (copy / "engines").rename(tmp_path / "outside")
    (copy / "engines").symlink_to(tmp_path / "outside")
    with pytest.raises(BundleError, match="is or lies behind a link"):
        open_bundle(copy)


@pytest.mark.parametrize("name", ["a\0b", "x" * 300, "\ud800", "../x", "/etc/passwd", "a//b", "."])
def test_names_that_no_file_can_have(copy, name):
    files = json.loads((copy / "manifest.json").read_text())["files"]
    rewrite(copy, files=files | {name: "0" * 64})
    with pytest.raises(BundleError, match="manifest.json: files"):
        open_bundle(copy)


def test_sizes_are_bounded_before_they_are_read(copy, monkeypatch):
    size = (copy / "model.onnx").stat().st_size
    monkeypatch.setenv("DEGMIX_LIMITS", "file_bytes=1000")
    with pytest.raises(BundleError, match=r"file_bytes [\d,]+, expected at most 1,000; if that"):
        open_bundle(copy)
    monkeypatch.setenv("DEGMIX_LIMITS", f" file_bytes={10 * size} , text_bytes=99999999")
    open_bundle(copy)
    assert limits().text_bytes == 99999999
    for text, message in (("files=3", "no limit 'files'"), ("side=-1", "expected side=N")):
        monkeypatch.setenv("DEGMIX_LIMITS", text)
        with pytest.raises(ConfigError, match=f"DEGMIX_LIMITS: .*{message}"):
            open_bundle(copy)


def test_json_is_bounded(copy):
    for data, message in (
        (b"[" * 100_000, "nested too deeply"),
        (b'{"a": ' * 80 + b"1" + b"}" * 80, "nested too deeply"),
        (b'{"a": NaN}', "the number NaN"),
        (b"\xff", "cannot be read"),
    ):
        (copy / "manifest.json").write_bytes(data)
        (copy / "manifest.sha256").write_bytes(digest_line(sha256(data)))
        with pytest.raises(BundleError, match=message):
            open_bundle(copy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["fit"].update(height=32), "fit is 32x96, the network takes 64x96"),
        (lambda m: m["fit"].update(height=30000), "expected at most 8192; see DEGMIX_LIMITS"),
        (lambda m: m["network"].update(tasks=[]), "network.tasks"),
        (lambda m: m["network"].update(std=[0, 1, 1]), "network.std.0"),
        (lambda m: m["network"]["tasks"].reverse(), "outputs .*, the network gives depth"),
        (lambda m: m["network"]["tasks"][0].update(name="../x"), "network.tasks.0.name"),
        (lambda m: m["network"]["tasks"][0].update(num_channels=9), "9 channels for 10 classes"),
        (lambda m: m["inputs"][0].update(dtype="float32"), "inputs image float32"),
        (lambda m: m["files"].pop("golden.npz"), "files has no 'golden.npz'"),
        (lambda m: m["engines"][0].update(file="engines/x"), "files has no 'engines/x'"),
        (lambda m: m.update(precision="int4"), "precision"),
        (lambda m: m.update(created="yesterday"), "created"),
    ],
)
def test_a_manifest_agrees_with_itself(copy, change, message):
    manifest = json.loads((copy / "manifest.json").read_text())
    change(manifest)
    rewrite(copy, **manifest)
    with pytest.raises(BundleError, match=message):
        open_bundle(copy)


def test_an_engine_of_other_tensors_is_found_before_a_frame(copy):
    name = "engines/onnxruntime/engine.onnx"
    model = onnx.load(copy / name)
    model.graph.output[0].name = "other"
    for node in model.graph.node:
        node.output[:] = ["other" if o == "semseg" else o for o in node.output]
        node.input[:] = ["other" if i == "semseg" else i for i in node.input]
    rewrite(copy, {name: model.SerializeToString()})
    with pytest.raises(BackendError, match="the onnxruntime engine has other uint8 .*no 'other'"):
        load(copy)


def test_golden_arrays_have_the_sizes_of_the_network(copy, bundles):
    spec = bundles["fp32"].manifest.network
    good = (copy / "golden.npz").read_bytes()
    unpack(good, spec, copy)
    with np.load(io.BytesIO(good)) as file:
        arrays = dict(file)

    def packed(arrays):
        buffer = io.BytesIO()
        np.savez_compressed(buffer, **arrays)
        return buffer.getvalue()

    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as file:
        for name in arrays:
            file.writestr(f"{name}.npy", bytes(100 << 20 if name == "image" else 10))
    for data, message in (
        (b"", "not a zip file"),
        (packed({}), "holds"),
        (packed(arrays | {"more": arrays["image"]}), "holds"),
        (packed(arrays | {"image": arrays["image"][:1]}), "image: .* bytes, expected"),
        (packed(arrays | {"image": arrays["image"].astype(np.int8)}), "image: int8"),
        (bomb.getvalue(), "image: 104857600 bytes, expected"),
        (good[: len(good) // 2], ""),
    ):
        with pytest.raises(BundleError, match=f"its golden file cannot be read: .*{message}"):
            unpack(data, spec, copy)
    rewrite(copy, {"golden.npz": b""})
    with pytest.raises(BundleError, match="its golden file cannot be read"):
        verify(copy)


def external(model):
    weight = model.graph.initializer[0]
    weight.ClearField("raw_data")
    weight.data_location = TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="etc/passwd")


def endless(model):
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"])],
        "body",
        [helper.make_tensor_value_info("i", 7, []), helper.make_tensor_value_info("go", 9, [])],
        [helper.make_tensor_value_info("on", 9, [])],
    )
    model.graph.node.append(helper.make_node("Loop", ["", ""], ["x"], name="round", body=body))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (external, "a tensor lies in another file"),
        (endless, "Loop at node 'round': it may never end"),
    ],
)
@pytest.mark.parametrize("name", ["model.onnx", "engines/onnxruntime/engine.onnx"])
def test_a_model_reads_nothing_but_itself_and_ends(copy, change, message, name, monkeypatch):
    model = onnx.load(copy / name)
    change(model)
    rewrite(copy, {name: model.SerializeToString()})
    monkeypatch.chdir("/")  # where ONNX Runtime would look for etc/passwd
    with pytest.raises(GraphError, match=message):
        load(copy)  # a changed model.onnx runs itself, as the engine does not belong to it any more


def test_the_walk_over_the_bytes_knows_every_place_of_a_tensor(exported):
    good = exported[0].SerializeToString()
    check_self_contained(good, "good.onnx")
    tensor = TensorProto(name="t", dims=[1], data_type=1, data_location=1)
    tensor.external_data.add(key="location", value="x")
    nodes = [
        helper.make_node("Constant", [], ["c"], value=tensor),
        helper.make_node("X", [], ["y"], many=[tensor, tensor]),
    ]
    for node in nodes:
        model = helper.make_model(helper.make_graph([node], "g", [], []))
        with pytest.raises(GraphError, match="a tensor lies in another file"):
            check_self_contained(model.SerializeToString(), "m.onnx")
    with pytest.raises(GraphError, match="not a readable ONNX model"):
        check_self_contained(good[: len(good) // 2], "cut.onnx")


def test_an_image_has_a_limit_of_its_own(tmp_path, monkeypatch):
    import PIL.Image

    path = tmp_path / "large.png"
    PIL.Image.new("RGB", (400, 300)).save(path)
    fit = Fit(height=64, width=96)
    fit_image(path, fit)
    monkeypatch.setenv("DEGMIX_LIMITS", "image_pixels=100000")
    with pytest.raises(InputError, match="image_pixels 120,000, expected at most 100,000"):
        fit_image(path, fit)
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(InputError, match="is no regular file"):
        fit_image(tmp_path / "pipe.png", fit)
    for odd in (np.zeros((4, 4, 3), object), np.zeros((4, 4, 3), "S3"), np.zeros((4, 4), "i4,f4")):
        with pytest.raises(InputError, match="which are no numbers"):
            fit_image(odd, fit)

"""A bundle for several sizes of image: each is what a bundle of its own would be."""

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from conftest import SIZES

from degmix_edge.bundle.contents import open_bundle
from degmix_edge.bundle.golden import pack, unpack
from degmix_edge.bundle.keys import make_key
from degmix_edge.bundle.manifest import digest_line
from degmix_edge.bundle.signing import sign
from degmix_edge.bundle.writing import claim
from degmix_edge.errors import BundleError, ConfigError, GraphError, OutputError
from degmix_edge.files import sha256
from degmix_edge.runtime import load
from degmix_edge.workflows.emit import emit
from degmix_edge.workflows.engine import rebuild
from degmix_edge.workflows.verify import verify

SECOND = SIZES[1]
OF_EACH = {"model.96x160.onnx", "golden.96x160.npz", "ranges.96x160.json"}
OF_EACH |= {"engines/onnxruntime/96x160/engine.onnx"}


@pytest.fixture
def copy(sizes_bundle, tmp_path) -> Path:
    target = tmp_path / "robot.degmix"
    shutil.copytree(sizes_bundle.path, target)
    return target


def edit(path: Path, **values) -> None:
    """Change the manifest as somebody who knows that it has a hash."""
    manifest = json.loads((path / "manifest.json").read_text())
    text = json.dumps(manifest | values).encode()
    (path / "manifest.json").write_bytes(text)
    (path / "manifest.sha256").write_bytes(digest_line(sha256(text)))


def replace(path: Path, name: str, data: bytes) -> None:
    """Change a file as somebody who writes its new hash too."""
    (path / name).write_bytes(data)
    files = json.loads((path / "manifest.json").read_text())["files"]
    edit(path, files=files | {name: sha256(data)})


def test_the_manifest_lists_each_size_and_the_weights_once(sizes_bundle, bundles):
    manifest = sizes_bundle.manifest
    assert manifest.schema_version == 3
    assert sizes_bundle.sizes == manifest.all_sizes == SIZES
    assert set(manifest.files) == {*bundles["int8"].manifest.files, "weights.bin", *OF_EACH}
    second = sizes_bundle.at(SECOND).manifest
    assert str(second.inputs[0]) == "image uint8 (1, 96, 160, 3)"
    assert second.fit.size == (second.network.height, second.network.width) == SECOND
    assert second.engine("onnxruntime").file == "engines/onnxruntime/96x160/engine.onnx"
    assert second.all_sizes == (SECOND,)
    assert sizes_bundle.at(None) is sizes_bundle


def test_a_bundle_with_one_size_stays_what_it_was(bundles, second_size):
    for bundle in (*bundles.values(), second_size):
        values = json.loads((bundle.path / "manifest.json").read_text())
        assert values["schema_version"] == 2
        assert "sizes" not in values
        assert "weights.bin" not in values["files"]
        assert bundle.onnx() == bundle.read("model.onnx")


def contents(engine: bytes) -> dict:
    """What an engine holds: ONNX Runtime writes its domains and weights in no fixed order.

    It also writes domains that no node has, but that something in the same process registered.
    """
    model = onnx.load_from_string(engine)
    used = {node.domain for node in model.graph.node}
    opsets = {opset.domain: opset.version for opset in model.opset_import}
    return {
        "opsets": {domain: opsets[domain] for domain in used},
        "weights": {w.name: w.SerializeToString() for w in model.graph.initializer},
        "nodes": [node.SerializeToString(deterministic=True) for node in model.graph.node],
        "tensors": [v.SerializeToString() for v in (*model.graph.input, *model.graph.output)],
    }


def test_each_size_is_what_a_bundle_of_its_own_would_be(sizes_bundle, second_size, pictures):
    """Byte for byte, from the graph to the maps; the engine as ONNX Runtime wrote it."""
    second = sizes_bundle.at(SECOND)
    assert second.onnx("model.onnx") == second_size.read("model.onnx")
    engine = second.onnx(second.manifest.engines[0].file)
    assert contents(engine) == contents(second_size.read("engines/onnxruntime/engine.onnx"))
    for name in ("ranges.json", "golden.npz", "recipe.yaml"):
        assert second.read(name) == second_size.read(name)
    with load(sizes_bundle.path, size=SECOND) as ours, load(second_size.path) as theirs:
        maps, expected = ours(pictures[0]), theirs(pictures[0])
        assert maps["semseg"].shape == (96, 144)  # without the padding of the other shape
        for name in expected:
            assert np.array_equal(maps[name], expected[name])
    with load(sizes_bundle.path) as first:
        assert first(pictures[0])["semseg"].shape == SIZES[0]


def test_two_sizes_take_less_room_than_one(sizes_bundle, second_size):
    """The weights lie once for two graphs and two engines, where one bundle has them twice."""
    assert sizes_bundle.size_bytes < 1.05 * second_size.size_bytes


def test_a_size_that_is_not_there_says_which_are(sizes_bundle, bundles, cli):
    for size in ((80, 128), (96, 161), (160, 96)):
        with pytest.raises(ConfigError, match=f"no size {size[0]}x{size[1]}, it has 64x96, 96x160"):
            load(sizes_bundle.path, size=size)
    with pytest.raises(ConfigError, match="it has 64x96; give one of these, into which images of"):
        load(bundles["int8"].path, size=(96, 160))
    code, _, err = cli("run", sizes_bundle.path, "photo.jpg", "--size", "80x128")
    assert code == ConfigError.exit_code
    assert "--size 80x128 too" in " ".join(err.split())


def test_a_session_of_a_size_is_pickled_with_it(sizes_bundle, pictures):
    with load(sizes_bundle.path, size=SECOND) as session:
        again = pickle.loads(pickle.dumps(session))
    with again:
        assert again.spec.width == SECOND[1]
        assert again(pictures[0])["depth"].shape == (96, 144)


def test_other_programs_read_the_models_in_the_folder(sizes_bundle):
    for name in ("model.onnx", "model.96x160.onnx"):
        path = sizes_bundle.path / name
        onnx.checker.check_model(str(path))
        assert len(onnx.load(path).graph.node) > 100


def test_weights_elsewhere_are_never_read(copy, tmp_path, monkeypatch, pictures):
    """Not those in the working folder, nor those that are put into the bundle after it was read."""
    with load(copy, size=SECOND) as session:
        expected = session(pictures[0])
    opened = open_bundle(copy)
    (tmp_path / "weights.bin").write_bytes(bytes(10_000_000))
    (copy / "weights.bin").write_bytes(bytes(10_000_000))
    monkeypatch.chdir(tmp_path)
    with load(opened, size=SECOND) as session:
        maps = session(pictures[0])
    assert all(np.array_equal(maps[name], expected[name]) for name in expected)
    with pytest.raises(BundleError, match=r"'weights.bin' was changed"):
        open_bundle(copy)


@pytest.mark.parametrize("name", sorted({*OF_EACH, "weights.bin"}))
def test_one_changed_byte_and_a_missing_file_are_found(copy, name):
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(BundleError, match=f"'{name}' was changed: SHA-256"):
        open_bundle(copy)
    (copy / name).unlink()
    with pytest.raises(BundleError, match=f"'{name}' is missing"):
        open_bundle(copy)


def test_weights_that_are_too_short_or_others_are_refused(copy):
    """By somebody who writes all hashes anew."""
    weights = (copy / "weights.bin").read_bytes()
    replace(copy, "weights.bin", weights[: len(weights) // 2])
    message = "model.96x160.onnx: a tensor at .* bytes; copy the bundle again"
    with pytest.raises(GraphError, match=message):
        load(copy, size=SECOND)


def test_a_model_that_refers_to_another_file_is_refused(copy, tmp_path):
    model = onnx.load(copy / "model.96x160.onnx", load_external_data=False)
    (tmp_path / "secret").write_bytes(bytes(10_000))
    for tensor in model.graph.initializer:
        for pair in tensor.external_data:
            if pair.key == "location":
                pair.value = "../secret"
    replace(copy, "model.96x160.onnx", model.SerializeToString())
    with pytest.raises(GraphError, match=r"lies in '../secret', expected all in weights.bin"):
        load(copy, size=SECOND)


def test_an_engine_of_other_weights_is_not_used(copy, pictures):
    """The key of an engine says its weights: else other weights would change it unnoticed."""
    weights = bytearray((copy / "weights.bin").read_bytes())
    weights[-1] ^= 1
    replace(copy, "weights.bin", bytes(weights))
    with pytest.warns(UserWarning, match="its engine is of another model.onnx"):
        load(copy).close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: {"schema_version": 2}, "schema 2 with 2 sizes and weights.bin"),
        (
            lambda m: {
                "sizes": [],
                "files": {n: h for n, h in m["files"].items() if "bin" not in n},
            },
            "schema 3 with 1 sizes",
        ),
        (lambda m: {"sizes": [], "schema_version": 2}, "schema 2 with 1 sizes and weights.bin"),
        (lambda m: {"sizes": m["sizes"] * 2}, "sizes has the same size twice"),
        (lambda m: {"sizes": [{k: m[k] for k in m["sizes"][0]}]}, "sizes has the same size twice"),
        (
            lambda m: {"files": {k: v for k, v in m["files"].items() if k != "weights.bin"}},
            "files has no 'weights.bin'",
        ),
        (
            lambda m: {"files": {k: v for k, v in m["files"].items() if "golden.96" not in k}},
            "files has no 'golden.96x160.npz'",
        ),
        (lambda m: {"sizes": [m["sizes"][0] | {"fit": m["fit"]}]}, "same size twice"),
        (lambda m: {"sizes": [m["sizes"][0] | {"inputs": m["inputs"]}]}, "the network takes image"),
        (lambda m: {"sizes": [m["sizes"][0] | {"outputs": []}]}, "outputs none, the network gives"),
        (
            lambda m: {"sizes": [m["sizes"][0] | {"network": m["network"]}]},
            "fit is 96x160, the network takes 64x96",
        ),
        (lambda m: {"sizes": [m["sizes"][0] | {"more": 1}]}, "sizes.0.more"),
        (lambda m: {"sizes": m["sizes"] * 64}, "sizes: .* at most 63 items"),
    ],
)
def test_a_manifest_whose_sizes_do_not_fit(copy, change, message):
    edit(copy, **change(json.loads((copy / "manifest.json").read_text())))
    with pytest.raises(BundleError, match=message):
        open_bundle(copy)


def test_other_tasks_at_another_size(copy):
    manifest = json.loads((copy / "manifest.json").read_text())
    (second,) = manifest["sizes"]
    second["network"]["tasks"] = second["network"]["tasks"][:1]
    second["outputs"] = second["outputs"][:1]
    edit(copy, sizes=[second])
    with pytest.raises(BundleError, match="sizes has other tasks than the first size"):
        open_bundle(copy)


def test_verify_runs_the_golden_image_of_every_size(copy, cli):
    found = verify(copy)
    assert found.passed
    assert list(found.sizes) == ["64x96", "96x160"]
    code, out, err = cli("verify", copy, "--json")
    assert code == 0, err
    assert "golden image, 96x160: semseg" in err
    assert list(json.loads(out)["sizes"]) == ["64x96", "96x160"]
    second = open_bundle(copy).at(SECOND)
    image, maps = unpack(second.read("golden.npz"), second.manifest.network, copy)
    replace(copy, "golden.96x160.npz", pack(image, maps | {"depth": maps["depth"][:, ::-1]}))
    found = verify(copy)
    assert found.sizes["64x96"].passed
    assert not found.passed
    assert cli("verify", copy)[0] == 13


def test_a_signature_is_over_all_sizes(copy, tmp_path, pictures):
    private, public = make_key(tmp_path / "fleet")
    sign(open_bundle(copy), private)
    with load(copy, size=SECOND, keys=[public]) as session:
        assert session(pictures[0])
    replace(copy, "golden.96x160.npz", (copy / "golden.npz").read_bytes())
    with pytest.raises(BundleError, match=r"manifest.sig: is of another bundle"):
        load(copy, size=SECOND, keys=[public])


def test_engines_of_all_sizes_are_built_again(sizes_bundle, tmp_path):
    again = rebuild(sizes_bundle, target=tmp_path / "again.degmix")
    assert again.sizes == SIZES
    ours, theirs = again.manifest, sizes_bundle.manifest
    assert ours.files.keys() == theirs.files.keys()
    for name in ours.files:
        if not name.startswith(("engines/", "weights.bin", "card.md")):
            assert ours.files[name] == theirs.files[name], name
    for size in SIZES:
        built, before = again.at(size), sizes_bundle.at(size)
        assert built.onnx("model.onnx") == before.onnx("model.onnx")
        engines = [one.onnx(one.manifest.engines[0].file) for one in (built, before)]
        assert contents(engines[0]) == contents(engines[1])
    assert verify(again.path).passed


def test_force_replaces_such_a_bundle_only_without_other_files(copy):
    claim(copy, force=True)
    (copy / "engines" / "onnxruntime" / "96x160" / "mine.txt").write_text("x")
    with pytest.raises(OutputError, match=r"96x160/mine.txt', which is not of the bundle"):
        claim(copy, force=True)


def test_emit_writes_one_size_with_its_weights_inside(sizes_bundle, second_size, tmp_path):
    emit("python", sizes_bundle.path, tmp_path / "second", size=SECOND)
    assert (tmp_path / "second" / "model.onnx").read_bytes() == second_size.read("model.onnx")
    emit("python", sizes_bundle.path, tmp_path / "first")
    first = onnx.load(tmp_path / "first" / "model.onnx")
    assert [d.dim_value for d in first.graph.input[0].type.tensor_type.shape.dim] == [1, 64, 96, 3]
    with pytest.raises(ConfigError, match="has no size 1x1"):
        emit("python", sizes_bundle.path, tmp_path / "none", size=(1, 1))


def test_a_robot_without_onnx_or_torch_runs_every_size(sizes_bundle):
    code = """
import sys
for name in ("onnx", "onnx_graphsurgeon", "torch", "polygraphy"):
    sys.modules[name] = None
import numpy as np
from degmix_edge.runtime import load
for size in (None, (64, 96), (96, 160)):
    with load(sys.argv[1], size=size) as session:
        print(session(np.zeros((50, 70, 3), np.uint8))["semseg"].shape)
"""
    command = [sys.executable, "-W", "error", "-c", code, str(sizes_bundle.path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["(64, 90)", "(64, 90)", "(96, 134)"]

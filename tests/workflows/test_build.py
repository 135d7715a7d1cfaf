"""Building: what a build refuses, and that its parts agree."""

import numpy as np
import onnx
import pytest

from degmix_edge.backends.onnxruntime import Backend
from degmix_edge.bundle.contents import open_bundle
from degmix_edge.bundle.golden import differences, unpack
from degmix_edge.bundle.manifest import GOLDEN, MODEL
from degmix_edge.errors import BuildError, ConfigError, GraphError, OutputError
from degmix_edge.graph.model import read_model
from degmix_edge.graph.spec import network_spec as infer_spec
from degmix_edge.passes.forms import deploy_model
from degmix_edge.runtime import load
from degmix_edge.workflows.build import build
from degmix_edge.workflows.options import Options


def weights(model: onnx.ModelProto, name: str, change) -> onnx.ModelProto:
    changed = onnx.ModelProto()
    changed.CopyFrom(model)
    tensor = next(t for t in changed.graph.initializer if t.name == name)
    values = onnx.numpy_helper.to_array(tensor).copy()
    change(values)
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, name))
    return changed


def test_int8_is_smaller_and_gives_nearly_the_same_maps(bundles, pictures):
    assert (
        bundles["int8"].file(MODEL).stat().st_size
        < 0.6 * bundles["fp32"].file(MODEL).stat().st_size
    )
    assert (
        bundles["fp16"].file(MODEL).stat().st_size
        < 0.75 * bundles["fp32"].file(MODEL).stat().st_size
    )
    with load(bundles["fp32"]) as full, load(bundles["fp16"]) as half:
        for picture in pictures:
            want, got = full(picture), half(picture)
            assert np.mean(want["semseg"] == got["semseg"]) > 0.98


def test_golden_maps_are_what_the_engine_gives(bundles):
    for opened in bundles.values():
        image, want = unpack(opened.read(GOLDEN), opened.manifest.network, opened.path)
        with load(opened) as session:
            found = differences(session.spec, want, session.backend.infer(image))
        assert found.passed
        assert max(found.by_task.values()) < 0.005


def test_golden_finds_another_map(bundles):
    opened = bundles["fp32"]
    _, want = unpack(opened.read(GOLDEN), opened.manifest.network, opened.path)
    got = {**want, "depth": want["depth"] + 0.1 * np.ptp(want["depth"])}
    assert not differences(opened.manifest.network, want, got).passed
    got = {**want, "depth": want["depth"] * np.nan}
    assert not differences(opened.manifest.network, want, got).passed


def test_tasks_are_pruned_and_keep_their_values(exported, bundles, pictures, tmp_path):
    options = Options(precision="fp32", tasks=("depth", "semseg"), raw_logits=True)
    pruned = build(exported[0], tmp_path / "p.degmix", options=options, golden_image=pictures[0])
    manifest = pruned.manifest
    assert manifest.network.task_names == ("semseg", "depth")
    assert [t.name for t in manifest.outputs] == [
        "semseg",
        "depth",
        "semseg_logits",
        "depth_logits",
    ]
    with load(pruned) as few, load(bundles["fp32"]) as all_tasks:
        want, got = all_tasks(pictures[1]), few(pictures[1])
    assert list(got) == ["semseg", "depth"]
    np.testing.assert_allclose(got["depth"], want["depth"], atol=1e-4)


def test_an_unknown_task_has_the_nearest(exported, tmp_path):
    with pytest.raises(ConfigError, match="Did you mean 'depth'"):
        build(exported[0], tmp_path / "x", precision="fp32", tasks=("dept",))


def test_int8_without_calibration(exported, pictures, tmp_path):
    with pytest.raises(ConfigError, match="--precision int8 needs --calib DIR"):
        build(exported[0], tmp_path / "x", precision="int8", golden_image=pictures[0])


def test_a_nan_is_found_at_its_node_though_argmax_hides_it(exported, pictures, tmp_path):
    model, _ = exported

    def poison(values):
        values[0, 0, 0, 0] = np.nan

    broken = weights(model, "heads.semseg.3.weight", poison)
    with pytest.raises(
        BuildError, match=r"first node that makes one is 'heads.semseg.3/Conv'.*weights"
    ):
        build(broken, tmp_path / "x.degmix", precision="fp32", golden_image=pictures[0])
    assert list(tmp_path.iterdir()) == []


def test_an_engine_that_differs_is_refused(exported, pictures, tmp_path, monkeypatch):
    model, _ = exported

    def wrong(cls, product, recipe, ranges, options, progress):
        def louder(values):
            values *= 3

        broken = weights(onnx.load_from_string(product), "heads.depth.3.weight", louder)
        return {cls.engine_file: broken.SerializeToString()}

    monkeypatch.setattr(Backend, "build", classmethod(wrong))
    with pytest.raises(BuildError, match="engine differs from model.onnx"):
        build(model, tmp_path / "x.degmix", precision="fp32", golden_image=pictures[0])
    assert list(tmp_path.iterdir()) == []


def test_an_existing_target_fails_before_any_work(exported, bundles):
    events = []
    with pytest.raises(OutputError):
        build(exported[0], bundles["fp32"].path, precision="fp32", progress=events.append)
    assert events == []


def test_an_engine_can_be_built_again(bundles, tmp_path):
    import shutil

    copy = tmp_path / "copy.degmix"
    shutil.copytree(bundles["int8"].path, copy)
    rebuilt = build(copy, copy)
    old, new = bundles["int8"].manifest, rebuilt.manifest
    assert new.files[MODEL] == old.files[MODEL]
    assert new.engines[0].key == old.engines[0].key
    assert open_bundle(copy).manifest == new


def test_an_onnx_without_metadata_is_known_by_its_outputs(onnx_path, tmp_path):
    model = read_model(onnx_path)
    del model.metadata_props[:]
    path = tmp_path / "mine.onnx"
    path.write_bytes(model.SerializeToString())
    spec = infer_spec(model, path)
    assert spec.task_names == ("semseg", "human_parts", "saliency", "normals", "edge", "depth")
    assert spec.task("semseg").classes[1] == "class 1"
    assert (spec.height, spec.width) == (64, 96)


def rename(model: onnx.ModelProto, old: str, new: str) -> None:
    for node in model.graph.node:
        node.output[:] = [new if name == old else name for name in node.output]
    next(output for output in model.graph.output if output.name == old).name = new


def test_an_onnx_of_other_outputs_is_refused(onnx_path, tmp_path):
    model = read_model(onnx_path)
    del model.metadata_props[:]
    rename(model, "edge", "logits")
    with pytest.raises(GraphError, match="no known tasks.*first unknown: 'logits'"):
        infer_spec(model, onnx_path)


def test_a_finished_graph_is_no_source(bundles, pictures, tmp_path):
    path = bundles["fp32"].file(MODEL)
    model = read_model(path)
    again, spec, _ = deploy_model(model, infer_spec(model, path))
    assert len(again.graph.node) == len(model.graph.node)  # nothing to do, and nothing done twice

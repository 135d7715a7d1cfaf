"""Values that would run, and give nonsense or never end, are refused with what was expected."""

import json
import os
import shutil
from pathlib import Path

import onnx
import pytest
from conftest import task_specs
from degmix_calibration import limits
from degmix_training.config import TrainConfig, preset
from degmix_training.fit import fit
from degmix_training.processes import Machine
from PIL import Image
from pydantic import ValidationError

import degmix_edge
from degmix_edge import config, tasks
from degmix_edge.bundle.contents import open_bundle
from degmix_edge.errors import BundleError, ConfigError, GraphError, InputError, OutputError
from degmix_edge.graph.model import read_model
from degmix_edge.graph.spec import network_spec
from degmix_edge.network import NetworkSpec, Source
from degmix_edge.workflows.bench import bench_sessions
from degmix_edge.workflows.comparison import compare_sessions
from degmix_edge.workflows.run import run_images


@pytest.mark.parametrize("text", ["steps={", "steps=2026-02-31", "a=[1", "a=\t"])
def test_a_setting_that_is_not_yaml(text):
    with pytest.raises(ConfigError, match="the value is not YAML"):
        config.override({}, [text])


@pytest.mark.parametrize("threads", [0, -1, 5000])
def test_threads(bundles, threads):
    with pytest.raises(ConfigError, match=f"threads: got {threads}, expected 1 to 1024"):
        degmix_edge.load(bundles["fp32"], threads=threads)


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf")])
def test_a_rate(bundles, pictures, rate):
    with degmix_edge.load(bundles["fp32"]) as session, pytest.raises(ConfigError, match="rate"):
        bench_sessions({"a": session}, pictures, calls=1, rate=rate)


@pytest.mark.parametrize("options", [{"max_drop": float("nan")}, {"max_disagreement": -0.1}])
def test_tolerances(bundles, options):
    with degmix_edge.load(bundles["fp32"]) as session:
        with pytest.raises(ConfigError, match=f"{next(iter(options))} .*at least 0"):
            compare_sessions(session, session, [], **options)


@pytest.mark.parametrize("text", ["1%,2%", "depth=1%,depth=2%", "1%,depth=1%,2%"])
def test_a_budget_with_two_amounts(text):
    spec = NetworkSpec(
        model="m",
        height=8,
        width=8,
        tasks=tuple(task_specs(("semseg", "depth")).values()),
        source=Source(name="s", sha256="0"),
    )
    with pytest.raises(ConfigError, match="says two amounts for (all tasks|depth); give one"):
        limits.parse(text, spec)
    assert limits.parse("1%,depth=2%", spec)["depth"].amount == 2


@pytest.mark.parametrize("name", ["devices", "nodes", "workers"])
def test_a_machine(name):
    with pytest.raises(ConfigError, match=f"{name}: got -1, expected at least"):
        Machine(**{name: -1})


@pytest.mark.parametrize("version", ["1", True, 1.0, 0, -5])
def test_a_schema_version_that_is_no_number_of_ours(bundles, tmp_path, version):
    copy = tmp_path / "x.degmix"
    shutil.copytree(bundles["fp32"].path, copy)
    values = json.loads((copy / "manifest.json").read_text()) | {"schema_version": version}
    (copy / "manifest.json").write_text(json.dumps(values))
    with pytest.raises(BundleError, match="schema_version"):
        open_bundle(copy)


def test_two_images_of_one_name(bundles, pictures, tmp_path):
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        Image.fromarray(pictures[0]).save(tmp_path / folder / "x.png")
    paths = [tmp_path / "a", tmp_path / "b"]
    with pytest.raises(OutputError, match=r"a/x.png and .*b/x.png would both write x.npz"):
        run_images(bundles["fp32"], paths, tmp_path / "maps")
    assert not (tmp_path / "maps").exists()
    assert len(run_images(bundles["fp32"], paths).images) == 2  # nothing is written: no clash


def test_an_image_that_cannot_be_read_is_set_aside(cli, bundles, pictures, tmp_path):
    for name in ("a", "c"):
        Image.fromarray(pictures[0]).save(tmp_path / f"{name}.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:100])
    out, bundle = tmp_path / "maps", bundles["fp32"].path
    code, printed, said = cli("run", bundle, tmp_path, "--out", out, "--json")
    assert code == InputError.exit_code
    found = json.loads(printed)
    assert [Path(image["image"]).name for image in found["images"]] == ["a.png", "c.png"]
    assert [Path(image["image"]).name for image in found["bad"]] == ["b.png"]
    assert found["bad"][0]["reason"].split(":")[0] in said
    assert {path.stem for path in out.glob("*.npz")} == {"a", "c"}
    with pytest.raises(InputError, match=r"b\.png"):
        run_images(bundle, [tmp_path / "b.png"])


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("optim.lr=.inf", "optim.lr: .*finite"),
        ("optim.lr=.nan", "optim.lr: .*finite"),
        ("optim.weight_decay=.inf", "optim.weight_decay: .*finite"),
        ("loss_weights.depth=.nan", "loss_weights.depth: .*finite"),
        ("loss_weights.depth=-1", "loss_weights.depth: .*greater than or equal to 0"),
        ("height=100000", "height: .*expected at most 8192"),
        ("mean=[.nan, 0, 0]", "mean.0: .*finite"),
    ],
)
def test_settings_that_cannot_train(setting, message):
    with pytest.raises(ConfigError, match=message):
        config.load(TrainConfig, preset("degmix_tiny"), [setting])


def test_a_weight_of_no_task(tmp_path):
    settings = config.load(TrainConfig, preset("degmix_tiny"), ["loss_weights.lane=2"])
    with pytest.raises(ConfigError, match="loss_weights: 'lane' is no task of this run: semseg"):
        fit(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "text",
    ["a: &x [1]\nb: *x", "[" * 200, "a: {" * 100, "\x00", "- 1", "2026-13-45", "!!python/name:os"],
)
def test_yaml_that_is_refused(tmp_path, text):
    path = tmp_path / "a.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"a\.yaml: (not readable as YAML|got )"):
        config.load(TrainConfig, path)


def test_a_class_map_has_at_most_65535_classes():
    """The last label of two bytes is that of pixels that are not scored."""
    names = tuple(f"class {i}" for i in range(65536))
    with pytest.raises(ValidationError, match="65536 classes, expected at most 65535"):
        tasks.find("semseg").spec(names)
    widths = {count: tasks.find("semseg").spec(names[:count]) for count in (256, 257, 65535)}
    dtypes = [spec.map_spec(4, 6).dtype for spec in widths.values()]
    assert dtypes == ["uint8", "uint16", "uint16"]


def test_weights_in_other_files_are_part_of_the_source(tmp_path, exported):
    model = onnx.ModelProto()
    model.CopyFrom(exported[0])
    del model.metadata_props[:]
    hashes = []
    for add in (0, 1):
        raw = bytearray(model.graph.initializer[0].raw_data)
        raw[0] ^= add
        model.graph.initializer[0].raw_data = bytes(raw)
        copy = onnx.ModelProto()
        copy.CopyFrom(model)
        onnx.save(copy, tmp_path / "m.onnx", save_as_external_data=True, location="m.data")
        hashes.append((tmp_path / "m.onnx").read_bytes())
        found = network_spec(read_model(tmp_path / "m.onnx"), tmp_path / "m.onnx")
        hashes.append(found.source.sha256)
        (tmp_path / "m.data").unlink()
    assert hashes[0] == hashes[2]
    assert hashes[1] != hashes[3]
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(GraphError, match="is no regular file, expected an .onnx file"):
        read_model(tmp_path / "pipe.onnx")


@pytest.mark.parametrize(
    "changes", [{"precision": "fp16"}, {"tasks": ("depth",), "mode": "stretch"}]
)
def test_a_rebuilt_bundle_keeps_what_it_is(bundles, tmp_path, changes):
    names = ", ".join(sorted(changes))
    with pytest.raises(ConfigError, match=f"is a bundle, .* model.onnx; leave out {names}, or"):
        degmix_edge.build(bundles["fp32"].path, tmp_path / "x.degmix", **changes)
    assert not (tmp_path / "x.degmix").exists()

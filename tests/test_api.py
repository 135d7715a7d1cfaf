"""The public API: names, lazy imports, mistakes, progress, interruptions."""

import pydoc
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch

import degmix_edge
from degmix_edge.errors import ConfigError, GraphError, OutputError
from degmix_edge.progress import Event, counting, listening, note, warn
from degmix_edge.workflows.build import Build
from degmix_edge.workflows.options import Options

pytestmark = pytest.mark.slow


def test_help_shows_every_public_name_with_a_line():
    text = pydoc.render_doc(degmix_edge, renderer=pydoc.plaintext)
    for name in degmix_edge.__all__:
        if name != "__version__":
            assert any(line.strip().startswith(f"{name} ") for line in text.splitlines()), name


def test_every_public_name_is_there_and_documented():
    for name in degmix_edge.__all__:
        value = getattr(degmix_edge, name)
        assert isinstance(value, str) or value.__doc__, name
    assert set(degmix_edge.__all__) <= set(dir(degmix_edge))


def test_a_misspelt_name_has_the_nearest():
    with pytest.raises(AttributeError, match="no attribute 'quantise'. Did you mean 'quantize'"):
        degmix_edge.quantise  # noqa: B018


def test_importing_it_is_quick_and_loads_nothing_heavy():
    code = (
        "import time; start = time.process_time(); import degmix_edge, sys; "
        "spent = time.process_time() - start; "
        "heavy = ('numpy', 'torch', 'onnx', 'pydantic', 'PIL'); "
        "print([m for m in heavy if m in sys.modules], spent)"
    )
    runs = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for _ in range(3)
    ]
    found = [run.stdout.rsplit(" ", 1) for run in runs]
    assert {loaded for loaded, _ in found} == {"[]"}
    # Processor time, so that other work on the machine does not count.
    assert min(float(seconds) for _, seconds in found) < 0.06


@pytest.mark.parametrize("thing", [42, np.zeros(3), ["degmix_tiny"], object()])
def test_what_is_no_network_is_refused(thing, tmp_path):
    with pytest.raises(ConfigError, match=r"network: got .*, expected a short name"):
        degmix_edge.build(thing, tmp_path / "x", precision="fp32")
    assert list(tmp_path.iterdir()) == []


def test_a_module_needs_its_size(tmp_path):
    with pytest.raises(ConfigError, match=r"Conv2d: a torch module .*give size=\(height, width\)"):
        degmix_edge.build(torch.nn.Conv2d(3, 3, 1), tmp_path / "x", precision="fp32")


def test_a_module_must_give_logits_by_task(tmp_path):
    with pytest.raises(GraphError, match="Conv2d: returns output, expected a dictionary"):
        degmix_edge.build(torch.nn.Conv2d(3, 3, 1), tmp_path / "x", precision="fp32", size=(8, 8))


class Lanes(torch.nn.Module):
    def __init__(self, channels=3):
        super().__init__()
        self.layers = torch.nn.Conv2d(3, channels, 3, padding=1)

    def forward(self, image):
        return {"semseg": self.layers(image)}


def test_a_module_becomes_a_bundle_that_gives_its_maps(tmp_path, pictures):
    torch.manual_seed(0)
    module = Lanes()
    names = ["road", "left", "right"]
    bundle = degmix_edge.build(
        module,
        tmp_path / "x.degmix",
        precision="fp32",
        size=pictures[0].shape[:2],
        classes={"semseg": names},
    )
    assert bundle.manifest.network.task("semseg").classes == tuple(names)
    with degmix_edge.load(bundle) as session:
        maps = session(pictures[1])
    from degmix_edge.preprocess import normalise

    with torch.no_grad():
        logits = module(torch.from_numpy(normalise(pictures[1][None])))["semseg"]
    assert np.mean(np.asarray(maps["semseg"]) == logits.argmax(1).numpy()) > 0.999


def test_class_names_must_fit_the_channels(tmp_path):
    with pytest.raises(
        ConfigError, match="'semseg': output semseg .* has 4 channels, argmax takes 2"
    ):
        degmix_edge.build(
            Lanes(4), tmp_path / "x", precision="fp32", size=(32, 32), classes={"semseg": "ab"}
        )


def test_an_option_that_does_not_exist_has_the_nearest(exported, tmp_path):
    with pytest.raises(ConfigError, match="no setting 'precison'.*Did you mean 'precision'"):
        degmix_edge.build(exported[0], tmp_path / "x", precison="fp32")
    with pytest.raises(ConfigError, match="calibration_count"):
        degmix_edge.build(exported[0], tmp_path / "x", precision="fp32", calibration_count=-1)


@pytest.mark.parametrize("stage", ["passes", "calibrate", "quantize", "engine", "write"])
@pytest.mark.parametrize("error", [RuntimeError("from the listener"), KeyboardInterrupt()])
def test_a_listener_that_raises_ends_the_build_cleanly(exported, pictures, tmp_path, stage, error):
    def listener(event: Event) -> None:
        if event.name == stage and event.kind == "finished":
            raise error

    target = tmp_path / "x.degmix"
    with pytest.raises(type(error)):
        degmix_edge.build(
            exported[0],
            target,
            calibration=pictures[:2],
            observer="min_max",
            progress=listener,
        )
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left == (["x.degmix"] if stage == "write" else [])  # what is written is whole
    if stage == "write":
        degmix_edge.verify(target)


def test_stages_can_be_stopped_after_and_resumed_from(exported, pictures, tmp_path):
    options = Options(observer="min_max")
    build = Build(exported[0], options, tmp_path / "x.degmix", calibration=pictures[:4])
    build.run(until="calibrate")
    assert [stage.name for stage in build.clock.stages][-1] == "calibrate"
    ranges = build.ranges
    bundle = build.run().bundle
    assert build.ranges is ranges
    assert bundle.manifest.precision == "int8"
    with pytest.raises(ConfigError, match="stage 'quantise': expected one of export"):
        build.run(until="quantise")


def test_quantize_and_build_make_the_same_model(exported, pictures, tmp_path, bundles):
    found = degmix_edge.quantize(
        exported[0], tmp_path / "q.onnx", calibration=pictures, observer="min_max"
    )
    assert found.model == bundles["int8"].file("model.onnx").read_bytes()
    assert found.nodes["int8"] > 0
    assert {path.name for path in found.files} >= {"q.onnx", "q.onnx.recipe.yaml"}
    onnx.checker.check_model(onnx.load(tmp_path / "q.onnx"))
    again = degmix_edge.quantize(exported[0], ranges=tmp_path / "q.onnx.ranges.json")
    assert again.model == found.model
    assert again.files == ()
    with pytest.raises(OutputError, match="exists"):
        degmix_edge.quantize(exported[0], tmp_path / "q.onnx", calibration=pictures)


def test_events_go_to_the_nearest_listener():
    outer, inner = [], []
    with listening(outer.append):
        note("to the outer one")
        with listening(inner.append), counting("work", 2) as advance:
            advance(1)
            advance(1)
        with listening(None):
            warn("also to the outer one")
    assert [event.kind for event in outer] == ["note", "warning"]
    assert [(e.kind, e.done, e.total) for e in inner] == [
        ("step", 0, 2),
        ("step", 1, 2),
        ("step", 2, 2),
        ("finished", 2, 2),
    ]


def test_a_warning_that_nobody_listens_to_is_a_python_warning():
    with pytest.warns(UserWarning, match="look at this"):
        warn("look at this")


def test_a_float_build_looks_at_one_image_and_warns_of_no_ranges(exported, pictures, tmp_path):
    def frames():
        yield "front", pictures[1]
        raise AssertionError("a float build needs no second image")

    events = []
    degmix_edge.build(
        exported[0],
        tmp_path / "x.degmix",
        precision="fp32",
        calibration=frames(),
        progress=events.append,
    )
    detail = next(event.detail for event in events if event.name == "images")
    assert detail == "0 for calibration, golden image front"
    assert not [event for event in events if event.kind == "warning"]

"""`precision="auto"`: every form is built and timed, and the fastest in a budget is kept."""

import dataclasses

import numpy as np
import pytest

from degmix_edge import backends, load
from degmix_edge.backends import EngineOptions, openvino
from degmix_edge.bundle.contents import open_bundle, recipe_and_ranges
from degmix_edge.errors import AccuracyError, BackendError, ConfigError
from degmix_edge.progress import listening
from degmix_edge.workflows import build as building
from degmix_edge.workflows import fastest
from degmix_edge.workflows.bench import Result
from degmix_edge.workflows.build import build, check_build
from degmix_edge.workflows.describe import bundle_lines, describe
from degmix_edge.workflows.fastest import candidates
from degmix_edge.workflows.options import Options
from degmix_edge.workflows.quantize import quantize

pytestmark = pytest.mark.slow(file_seconds=35)
TASKS = ("semseg", "depth")


def heard(exported, target, pictures, **changes):
    """Build with `auto`; the bundle, the table of forms, the notes and the warnings."""
    events = []
    bundle = build(
        exported[0],
        target,
        precision="auto",
        calibration=pictures,
        progress=events.append,
        **changes,
    )
    (table,) = [event.rows for event in events if event.kind == "table" and "timed" in event.detail]
    return bundle, table[1:], [event.detail for event in events if event.kind == "note"]


def test_the_fastest_form_is_kept(exported, pictures, tmp_path, monkeypatch):
    reads = []
    read = building.read_network
    monkeypatch.setattr(building, "read_network", lambda *a, **k: reads.append(a) or read(*a, **k))
    bundle, rows, _ = heard(exported, tmp_path / "a.degmix", iter(pictures), tasks=TASKS)
    assert len(reads) == 1
    here = candidates("auto")
    assert {(row[0], row[1]) for row in rows} == {(b.name, p) for p in here for b in here[p]}
    assert {int(row[2]) for row in rows} == set(fastest.thread_counts(backends.find("openvino")))
    manifest = open_bundle(tmp_path / "a.degmix").manifest
    assert [row[-1] for row in rows] == ["kept"] + [""] * (len(rows) - 1)
    times = [form.net_ms for form in manifest.forms]
    assert times == sorted(times)
    assert times[0] > 0
    for row, form in zip(rows, manifest.forms, strict=True):
        assert list(row[:4]) == [
            form.backend,
            form.precision,
            str(form.threads),
            f"{form.net_ms:.2f}",
        ]
        assert row[7] == form.worst
        assert form.worst.split()[0] in TASKS
    first = manifest.forms[0]
    assert [engine.backend for engine in manifest.engines] == [first.backend]
    assert manifest.precision == first.precision
    assert manifest.network.task_names == TASKS
    assert [path.name for path in tmp_path.iterdir()] == ["a.degmix"]
    with load(bundle) as session:  # the backend of the bundle's own engine, without a warning
        assert session.backend.name == first.backend
        assert session(pictures[0])["depth"].shape == pictures[0].shape[:2]


@pytest.fixture(scope="module")
def fixed(exported, tmp_path_factory):
    """FP32 of every backend: the bundle of the fastest, and the table of forms."""
    events = []
    target = tmp_path_factory.mktemp("fixed") / "fp32.degmix"
    bundle = build(
        exported[0],
        target,
        precision="fp32",
        backend="auto",
        tasks=TASKS,
        progress=events.append,
    )
    (table,) = [event.rows for event in events if event.kind == "table"]
    return bundle, table[1:]


def test_auto_tries_every_backend_of_a_fixed_precision(fixed):
    bundle, rows = fixed
    here = {backend.name for backend in backends.runnable("auto")}
    assert len(here) > 1
    assert {(row[0], row[1]) for row in rows} == {(name, "fp32") for name in here}
    assert [row[-1] for row in rows] == ["kept"] + [""] * (len(rows) - 1)
    assert bundle.manifest.precision == "fp32"
    first = bundle.manifest.forms[0]
    assert [engine.backend for engine in bundle.manifest.engines] == [first.backend]
    assert first.net_ms == min(form.net_ms for form in bundle.manifest.forms)


def test_a_session_has_as_many_threads_as_were_fastest(fixed, monkeypatch):
    bundle, _ = fixed
    fast, *others = bundle.manifest.forms
    own = [fast.model_copy(update={"threads": 2}), fast.model_copy(update={"threads": 1})]

    def threads(forms, **given):
        opened = open_bundle(bundle.path)
        opened.manifest = opened.manifest.model_copy(update={"forms": tuple(forms)})
        with load(opened, **given) as session:
            return session.backend.threads

    monkeypatch.setattr(backends, "processors", lambda: 4)
    assert threads(own) == 2
    assert threads(own[::-1]) == 1
    assert threads(own, threads=3) == 3
    assert threads([]) is None
    others = [form for form in others if form.backend != fast.backend]
    assert threads(others) is None  # they say nothing of this backend
    assert threads([one.model_copy(update={"precision": "int8"}) for one in own]) is None
    monkeypatch.setattr(backends, "processors", lambda: 1)
    assert threads(own) == 1  # this process may not use two


def test_inspect_says_which_form_is_the_fastest(fixed):
    bundle, _ = fixed
    (line,) = [line for line in bundle_lines(describe(bundle.path)) if "the fastest of" in line]
    first, *others = bundle.manifest.forms
    assert f"{first.backend} fp32 with {first.threads} thread" in line
    assert f"{first.net_ms:.2f} ms a call" in line
    assert all(f"{form.net_ms:.2f} ms" in line for form in others)


def test_backends_that_take_part(capfd):
    assert [b.name for b in candidates("auto", "fp32")["fp32"]] == ["onnxruntime", "openvino"]
    assert [b.name for b in candidates("auto", "fp16")["fp16"]] == ["onnxruntime", "openvino"]
    events = []
    with listening(events.append):
        split = candidates("auto", "fp32", EngineOptions(split=True))
    assert [backend.name for backend in split["fp32"]] == ["onnxruntime"]
    assert [e.detail for e in events if e.detail.startswith("openvino takes no part: ")]


def test_auto_is_measured_where_it_is_asked_for():
    assert not Options().is_measured
    assert not Options(backend="openvino").is_measured
    assert Options(backend="auto").is_measured
    assert Options(precision="auto", backend="openvino").is_measured


def test_a_precision_outside_its_budget_takes_no_part(exported, bundles, pictures, tmp_path):
    recipe, _ = recipe_and_ranges(bundles["int8"])
    weighted = sorted(recipe.nodes("int8"))
    bundle, rows, notes = heard(
        exported,
        tmp_path / "b.degmix",
        pictures,
        budget="1%",
        min_int8=99,  # which cannot be, because all layers but one stay as they are
        keep_float=tuple(weighted[1:]),
        examples=pictures[:1],
        device="orin-agx",  # whose savings are not measured
    )
    assert "int8" not in {row[1] for row in rows}
    assert bundle.manifest.precision != "int8"
    assert any(note.startswith("int8 takes no part: ") for note in notes)
    assert all("% of its budget" in form.worst for form in bundle.manifest.forms)
    assert all(form.fits for form in bundle.manifest.forms if form.precision == "fp32")


def test_a_fixed_precision_outside_its_budget_is_refused(exported, pictures, bundles, tmp_path):
    weighted = sorted(recipe_and_ranges(bundles["int8"])[0].nodes("int8"))
    with pytest.raises(AccuracyError, match="--budget '1%': "):
        build(
            exported[0],
            tmp_path / "e.degmix",
            backend="auto",
            precision="int8",
            calibration=pictures[:2],
            budget="1%",
            min_int8=99,
            keep_float=tuple(weighted[1:]),
            examples=pictures[:1],
            device="orin-agx",
        )
    assert not (tmp_path / "e.degmix").exists()


def test_a_tolerance_that_no_form_meets(exported, bundles, monkeypatch):
    part = dataclasses.make_dataclass("Part", ["engine", "product"])
    bundle = bundles["fp32"]
    backend = backends.find("onnxruntime")
    data = bundle.onnx(bundle.manifest.engine("onnxruntime").file)
    engine = building.EngineFiles(backend, {backend.engine_file: data})
    product = building.Product(
        bundle.onnx(), bundle.manifest.network, *[None] * 2, bundle.manifest.fit
    )
    parts = {("onnxruntime", "fp32"): part(engine, product)}
    losses = {("onnxruntime", "fp32"): fastest.Loss("depth 140 % of its budget", False)}
    image = np.zeros((64, 96, 3), np.uint8)
    monkeypatch.setattr(fastest, "CALLS", 10)
    with pytest.raises(AccuracyError, match="no form is within the budget. onnxruntime fp32: dep"):
        fastest.fastest(parts, losses, [image])


def test_rounds_that_disagree_are_said(capfd):
    calm = Result("calm", 20, {}, (10.0, 11.0))
    with pytest.warns(UserWarning, match="loaded: rounds of the same calls differ by 30 %"):
        fastest._warn_of_load([calm, Result("loaded", 20, {}, (10.0, 13.0))])
    fastest._warn_of_load([calm])


def test_a_machine_without_bfloat16_has_other_forms(monkeypatch):
    assert ("bf16" in candidates("openvino")) == openvino.has_bf16()
    monkeypatch.setattr(openvino, "capabilities", lambda: frozenset({"FP32", "INT8"}))
    assert set(candidates("auto")) == {"int8", "fp32"}


def test_what_auto_cannot_do(exported, pictures, tmp_path):
    model, target = exported[0], tmp_path / "c.degmix"
    with pytest.raises(ConfigError, match="--precision auto needs --calib DIR"):
        build(model, target, precision="auto")
    check_build(model, target, Options(precision="auto", calibration="synthetic:8"))
    with pytest.raises(ConfigError, match="is for `build engine`, which times engines"):
        quantize(model, precision="auto", calibration=pictures)
    assert list(tmp_path.iterdir()) == []


def test_engines_that_cannot_run_here_cannot_be_timed():
    if backends.find("tensorrt-rtx").unavailable() is None:
        pytest.skip("TensorRT-RTX runs here")
    with pytest.raises(ConfigError, match="times the engines, and tensorrt_rtx cannot run here"):
        candidates("tensorrt-rtx")
    assert [b.name for b in candidates("onnxruntime")["fp32"]] == ["onnxruntime"]


def test_bfloat16_is_refused_where_there_is_none(exported, tmp_path, monkeypatch):
    model = exported[0]
    check_build(model, tmp_path / "d.degmix", Options(precision="bf16"))
    monkeypatch.setattr(openvino, "capabilities", lambda: frozenset({"FP32", "INT8"}))
    for backend in ("auto", "openvino"):
        with pytest.raises(BackendError, match="has no bfloat16 arithmetic.*use fp32 or int8"):
            build(model, tmp_path / "d.degmix", precision="bf16", backend=backend)
    with pytest.raises(BackendError, match="tensorrt_rtx: builds no bfloat16 engines; use"):
        build(model, tmp_path / "d.degmix", precision="bf16", backend="tensorrt-rtx")
    assert list(tmp_path.iterdir()) == []

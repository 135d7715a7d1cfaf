"""`precision="auto"`: both precisions are built and timed here, and the faster one is kept."""

import pytest

from degmix_edge import backends
from degmix_edge.bundle.contents import recipe_and_ranges
from degmix_edge.errors import ConfigError
from degmix_edge.workflows.build import build, check_build
from degmix_edge.workflows.fastest import candidates
from degmix_edge.workflows.options import Options
from degmix_edge.workflows.quantize import quantize

pytestmark = pytest.mark.slow(file_seconds=25)


def heard(exported, target, pictures, **changes):
    """Build with `auto`; the bundle, the table of precisions, and the notes."""
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
    return bundle, table, [event.detail for event in events if event.kind == "note"]


def test_the_faster_precision_is_kept(exported, pictures, tmp_path):
    bundle, table, _ = heard(
        exported, tmp_path / "a.degmix", iter(pictures), tasks=("depth", "semseg")
    )
    rows = {row[0]: row[1:] for row in table[1:]}
    assert set(rows) == {"int8", "fp32"}
    medians = {name: float(cells[0]) for name, cells in rows.items()}
    kept = [name for name, cells in rows.items() if cells[-1] == "kept"]
    assert kept == [bundle.manifest.precision]
    assert medians[kept[0]] == min(medians.values()) > 0
    assert bundle.manifest.network.task_names == ("semseg", "depth")
    assert [path.name for path in tmp_path.iterdir()] == ["a.degmix"]


def test_a_precision_outside_its_budget_takes_no_part(exported, bundles, pictures, tmp_path):
    recipe, _ = recipe_and_ranges(bundles["int8"])
    weighted = sorted(recipe.nodes("int8"))
    bundle, table, notes = heard(
        exported,
        tmp_path / "b.degmix",
        pictures,
        budget="1%",
        min_int8=99,  # which cannot be, because all layers but one stay as they are
        keep_float=tuple(weighted[1:]),
        examples=pictures[:1],
        device="orin-agx",  # whose savings are not measured
    )
    assert [row[0] for row in table[1:]] == ["fp32"]
    assert bundle.manifest.precision == "fp32"
    assert any(note.startswith("int8 takes no part: ") for note in notes)


def test_what_auto_cannot_do(exported, pictures, tmp_path):
    model, target = exported[0], tmp_path / "c.degmix"
    with pytest.raises(ConfigError, match="--precision auto needs --calib DIR"):
        build(model, target, precision="auto")
    check_build(model, target, Options(precision="auto", calibration="synthetic:8"))
    with pytest.raises(ConfigError, match="is for `build engine`, which times engines"):
        quantize(model, precision="auto", calibration=pictures)
    assert list(tmp_path.iterdir()) == []


def test_engines_that_cannot_run_here_cannot_be_timed():
    backend = backends.find("tensorrt-rtx")
    if backend.unavailable() is None:
        pytest.skip("TensorRT-RTX runs here")
    with pytest.raises(ConfigError, match="times the engines, and tensorrt_rtx cannot run here"):
        candidates(backend)
    assert candidates(backends.find("onnxruntime")) == ("int8", "fp32")

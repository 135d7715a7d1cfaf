"""A short slice of the corpus; `make corpus` runs it large."""

import json
import os
import time

import corpus
import numpy as np
import pytest
from corpus import Case, cases, others, run_case, summary, table
from measure import LIMIT, Row, difference, measure
from networks import NETWORKS

pytestmark = pytest.mark.slow(file_seconds=15)
SLICE = [
    (Case("mobilenetv3_small_050+head", "unfolded", 12), {"fold_batchnorm", "merge_convs"}),
    (Case("efficientvit_b0+head", "torchscript", 11), {"hoist_pointwise", "merge_convs"}),
    (Case("lraspp_mobilenet_v3_large", "torchscript", 13), {"fold_constants"}),
    (Case("vit_tiny_patch16_224", "dynamo", 18), set()),
]


@pytest.mark.parametrize(("case", "expected"), SLICE, ids=lambda x: getattr(x, "stem", ""))
def test_passes_are_exact(case, expected, tmp_path):
    row = Row(case.network, case.exporter, case.opset)
    for _ in measure(row, tmp_path / "x.onnx", quick=True, compared=False):
        pass
    assert row.problems == []
    assert row.stage == "end"
    assert row.worst <= LIMIT
    done = row.rewrites | {name: form["rewrites"] for name, form in row.forms.items()}
    assert all(done[name] > 0 for name in expected)
    assert row.macs_after > 0


def test_every_architecture_is_exported_by_both_exporters():
    made = cases()
    assert len(NETWORKS) >= 40
    for exporter in ("torchscript", "dynamo"):
        assert {case.network for case in made if case.exporter == exporter} == set(NETWORKS)
    assert {case.opset for case in made} == set(range(11, 22))


@pytest.mark.parametrize(
    ("end", "problem"),
    [
        (lambda: os._exit(9), "start: the process ended with 9; last words"),
        (lambda: time.sleep(60), "start: over 1 s; last words"),
        (lambda: bytearray(corpus.MEMORY_BYTES), "start: the process ended with 1; MemoryError"),
    ],
)
def test_the_crash_of_a_case_is_a_row(monkeypatch, tmp_path, end, problem):
    def crash(row, path, *, quick):
        yield
        os.write(1, b"last words\n")
        end()

    monkeypatch.setattr(corpus, "measure", crash)
    monkeypatch.setattr(corpus, "SECONDS", 1)
    case = Case("unet_resnet18", "dynamo", 18)
    row = run_case(case, tmp_path, quick=True)
    assert row.problems == [problem]
    kept = json.loads((tmp_path / "rows" / f"{case.stem}.json").read_text())
    assert Row(**kept) == row
    assert f"- unet_resnet18, dynamo, opset 18: {problem}" in summary([row])
    assert problem in table([row])


def test_differences_are_relative_and_unlike_outputs_are_wrong():
    wanted = {"a": np.float32([100, 0]), "b": np.int64([1, 2])}
    assert difference([wanted], [wanted]) == 0
    near = wanted | {"a": np.float32([100, 0.1])}
    assert difference([wanted], [near]) == pytest.approx(1e-3)
    for other in (
        wanted | {"b": np.int64([1, 2, 3])},
        wanted | {"a": np.float64([100, 0])},
        wanted | {"a": np.float32([100, np.nan])},
        {"b": wanted["b"]},
    ):
        assert difference([wanted], [other]) == float("inf")


def test_other_optimizers_are_compared_by_files_that_they_get_right():
    good = {"nodes": 5, "difference": 0.0, "problem": "", "seconds": 1.0}
    bad = {"nodes": 0, "difference": None, "problem": "ValueError: x", "seconds": 2.0}
    row = Row("net", "dynamo", 18, nodes_before=9, others={"a": good, "b": bad})
    lines = others([row]).splitlines()
    assert lines[2] == "| a | 1 | 1 | 9 | 5 | 1 |  |"
    assert lines[3] == "| b | 1 | 0 | 0 | 0 | 2 | net (dynamo, 18): ValueError: x |"

"""The campaign of growing cost: memory of a child process, resuming, and what is drawn."""

import json

import growth
import numpy as np
import pytest
from peak_memory import peak_mib

from degmix_edge.bundle.golden import unpack
from degmix_edge.bundle.manifest import GOLDEN

pytestmark = pytest.mark.slow(file_seconds=4)


def test_the_peak_is_that_of_the_child_alone(bundles):
    bundle = bundles["fp32"]
    spec, engine = bundle.manifest.network, bundle.manifest.engine("onnxruntime")
    feed, _ = unpack(bundle.read(GOLDEN), spec, bundle.path)
    ours = np.ones(100 << 20, np.float32)  # 400 MiB, which no child may count
    small = peak_mib(spec, "onnxruntime", bundle.onnx(engine.file), feed, 1)
    assert 20 < small < 400
    del ours
    with pytest.raises(ChildProcessError, match="openvino: .*none of this backend's"):
        peak_mib(spec, "openvino", b"no engine", feed, 1)


def test_finished_cells_are_kept_and_drawn(tmp_path, monkeypatch):
    cells = {}
    for shape in {shape for shapes in growth.AXES.values() for shape in shapes}:
        for threads in growth.THREADS:
            row = {"ms": 10.0 * shape.tasks * shape.batch, "peak_mib": 99.0, "spread": 0.25}
            cells[f"{shape.key}, threads {threads}"] = {"forms": {"onnxruntime fp32": row}}
    path = tmp_path / "net.json"
    path.write_text(json.dumps({"network": "net", "cells": cells}))
    monkeypatch.setattr(growth, "built", lambda *a: pytest.fail("a finished cell is built again"))
    results = growth.fill("net", [*growth.AXES], 1, path)
    assert results["cells"] == cells
    text = growth.table(results)
    assert text.count("| tasks | ") == len(growth.THREADS) * len(growth.TASKS)
    assert "| batch | 8 | 480.0 (99) |" in text
    assert "| pixels | 4 | 60.0 (99) |" in text
    assert "differ by up to 25 %" in text
    growth.plot(results, tmp_path / "net.svg")
    drawn = (tmp_path / "net.svg").read_text()
    assert "onnxruntime fp32" in drawn
    assert len(drawn) < 100_000

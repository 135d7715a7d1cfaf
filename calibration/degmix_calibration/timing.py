"""What INT8 saves on ONNX Runtime's CPU backend, measured node by node on this machine."""

from __future__ import annotations

import json
import re
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime

from degmix_edge.network import IMAGE

RUNS = 5
_SUFFIX = re.compile(r"(_nchwc|_token_\d+|_kernel_time|/MatMulAddFusion.*|/quantized.*)$")


def node_ms(model: bytes, image: np.ndarray, threads: int | None = None) -> dict[str, float]:
    """Milliseconds of each node of a graph, by the node's own name.

    ONNX Runtime fuses an activation into the convolution before it and gives the whole the
    activation's name: it is counted for the convolution.

    Args:
        model: ONNX bytes, as the backend runs them.
        image: uint8 `(1, H, W, 3)`.
        threads: Of the session; None leaves it to ONNX Runtime.
    """
    taken: dict[str, list[float]] = defaultdict(list)
    for event in _profile(model, image, threads):
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            taken[_plain(event["name"])].append(event["dur"] / 1e3)
    owners = _owners(onnx.load_from_string(model))
    found: dict[str, float] = defaultdict(float)
    for name, times in taken.items():
        found[owners.get(name, name)] += float(np.median(times))
    return dict(found)


def _profile(model: bytes, image: np.ndarray, threads: int | None) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        options = onnxruntime.SessionOptions()
        options.enable_profiling, options.log_severity_level = True, 3
        options.profile_file_prefix = str(Path(folder) / "profile")
        if threads is not None:
            options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )
        for _ in range(RUNS):
            session.run(None, {IMAGE: image})
        events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_text())
        return events


def _plain(name: str) -> str:
    while (shorter := _SUFFIX.sub("", name)) != name:
        name = shorter
    return name


def _owners(model: onnx.ModelProto) -> dict[str, str]:
    """An activation's name to that of the weighted node before it."""
    makers = {out: node for node in model.graph.node for out in node.output}
    owners = {}
    for node in model.graph.node:
        before = makers.get(node.input[0]) if node.input else None
        if node.op_type in ("Relu", "Clip", "HardSwish") and before is not None:
            owners[node.name] = before.name
    return owners

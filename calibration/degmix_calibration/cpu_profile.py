"""The time that a lower precision saves on a CPU backend, measured here for each node."""

from __future__ import annotations

import json
import re
import tempfile
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from degmix_calibration.trial import Trials
from degmix_edge.backends import openvino
from degmix_edge.ort import cpu_session, filled
from degmix_edge.quant.recipe import Recipe

RUNS = 5
_SUFFIX = re.compile(r"(_nchwc|_token_\d+|_kernel_time|/MatMulAddFusion.*|/quantized.*)$")


def savings_ms(trials: Trials, recipe: Recipe) -> dict[str, float]:
    """Return the milliseconds that the precisions of a recipe save, by node.

    The graph under `recipe` is compared with the float graph.
    """
    feed, owners = trials.examples[0].feed, _owners(trials.model)
    engines = [trials.engine(each) for each in (Recipe(precision="fp32"), recipe)]
    if trials.backend == "openvino":
        before, after = (openvino.node_ms(engine, feed, trials.threads) for engine in engines)
    else:
        before, after = (node_ms(engine, feed, owners, trials.threads) for engine in engines)
    return {name: before.get(name, 0.0) - after.get(name, 0.0) for name in {*before, *after}}


def node_ms(
    model: bytes,
    feed: Mapping[str, np.ndarray],
    owners: dict[str, str],
    threads: int | None = None,
) -> dict[str, float]:
    """Return the milliseconds of each node of a graph, by the node's name.

    ONNX Runtime fuses an activation into the convolution before it and gives the fused node the
    activation's name. Its time is counted for the convolution.

    Args:
        model: ONNX bytes in the form that the backend runs.
        feed: Its inputs by name.
        owners: For the name of an activation, the node for which its time is counted.
        threads: Number of threads of the session; None leaves it to ONNX Runtime.
    """
    taken: dict[str, list[float]] = defaultdict(list)
    for event in _profile(model, feed, threads):
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            taken[_plain(event["name"])].append(event["dur"] / 1e3)
    by_node: dict[str, float] = defaultdict(float)
    for name, times in taken.items():
        by_node[owners.get(name, name)] += float(np.median(times))
    return dict(by_node)


def _profile(
    model: bytes, feed: Mapping[str, np.ndarray], threads: int | None
) -> list[dict[str, Any]]:
    with tempfile.TemporaryDirectory() as folder:
        prefix = Path(folder) / "profile"
        session = cpu_session(model, num_threads=threads, profile_prefix=prefix)
        for _ in range(RUNS):
            session.run(None, filled(session, feed))
        events: list[dict[str, Any]] = json.loads(Path(session.end_profiling()).read_text())
        return events


def _plain(name: str) -> str:
    while (shorter := _SUFFIX.sub("", name)) != name:
        name = shorter
    return name


def _owners(model: onnx.ModelProto) -> dict[str, str]:
    """Map the name of each activation to the name of the node before it."""
    makers = {out: node for node in model.graph.node for out in node.output}
    owners = {}
    for node in model.graph.node:
        before = makers.get(node.input[0]) if node.input else None
        if node.op_type in ("Relu", "Clip", "HardSwish") and before is not None:
            owners[node.name] = before.name
    return owners

"""A network as users would run it on a CPU without this project: the peers of `cpu_forms.py`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import openvino

from degmix_edge.network import NetworkSpec
from degmix_edge.ort import cpu_session
from degmix_edge.preprocess import normalise

Feed = Mapping[str, np.ndarray]
Call = Callable[[Feed], object]
DEFAULT: dict[str, Any] = {"NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": 1}


def peer_calls(
    plain: bytes, lowered: bytes, ours: bytes, spec: NetworkSpec, feeds: Sequence[Feed]
) -> dict[str, Call]:
    """Return calls by name; each takes the feed of a backend.

    Args:
        plain: PyTorch's export: normalised floats in, logits out.
        lowered: The same without DeformConv, which OpenVINO cannot read.
        ours: Our FP32 graph for OpenVINO, which takes bytes and gives maps.
        spec: How the network's images are normalised.
        feeds: Images by which NNCF calibrates.
    """
    session = cpu_session(plain, num_threads=1)
    (image,) = [i.name for i in session.get_inputs()]

    def floats(feed: Feed) -> np.ndarray:
        (pixels,) = feed.values()
        return normalise(pixels, spec.mean, spec.std, spec.color)

    made = {id(feed): {image: floats(feed)} for feed in feeds}  # not a part of a peer's time
    graph = openvino.Core().read_model(lowered)
    as_floats = [made[id(feed)] for feed in feeds]
    compiled = {
        "OpenVINO FP32, plain export": (graph, "f32"),
        "OpenVINO by default, plain export": (graph, None),
        "NNCF INT8, plain export": (_nncf(graph, as_floats), None),
    }
    calls: dict[str, Call] = {
        "ONNX Runtime FP32, plain export": lambda feed: session.run(None, made[id(feed)])
    }
    for name, (model, hint) in compiled.items():
        run = _compiled(model, hint)
        calls[name] = lambda feed, run=run: run(made[id(feed)])
    calls["NNCF INT8, our graph"] = _compiled(_nncf(openvino.Core().read_model(ours), feeds), None)
    return calls


def _compiled(model: openvino.Model, hint: str | None) -> Call:
    """A call of one thread. Without a hint, OpenVINO computes in bfloat16 where the CPU can."""
    settings = DEFAULT if hint is None else {**DEFAULT, "INFERENCE_PRECISION_HINT": hint}
    request = openvino.Core().compile_model(model, "CPU", settings).create_infer_request()
    return lambda feed: request.infer(dict(feed))


def _nncf(model: openvino.Model, feeds: Sequence[Feed]) -> openvino.Model:
    import nncf

    return nncf.quantize(model.clone(), nncf.Dataset(list(feeds), dict))

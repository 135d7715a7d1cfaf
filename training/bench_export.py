"""What folds, operators and INT8 give on ONNX Runtime's CPU backend, against PyTorch eager.

    python training/bench_export.py demtg --backbone swin_tiny_patch4_window7_224 --size 448x672

Random weights. All forms take the same bytes and give the same maps; rounds of each in turn in one
process, medians of `--runs` calls. `--profile FORM` prints where its time goes.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch
from degmix_calibration.collect import collect
from degmix_training.export import export_checkpoint, network_spec

from degmix_edge.backends import _cpu_ops
from degmix_edge.backends.onnxruntime import Backend
from degmix_edge.backends.torch_eager import Backend as Eager
from degmix_edge.graph.model import to_graph
from degmix_edge.network import IMAGE
from degmix_edge.ort import cpu_session
from degmix_edge.passes.forms import deploy_model, quantize_model
from degmix_edge.quant.recipe import Recipe
from degmix_edge.quant.rules import choose
from degmix_edge.quant.sites import observed_tensors
from degmix_edge.workflows.models import parse_size, random_checkpoint

WARM, TIMED = 3, 2
"""Calls of a form a round: untimed (the second one still grows its memory), then timed."""
FP32 = Recipe(precision="fp32")


def forms(arguments: argparse.Namespace) -> tuple[dict[str, bytes], Any, Any]:
    """ONNX bytes by name, the PyTorch network, and the spec."""
    loaded = random_checkpoint(
        arguments.model,
        parse_size(arguments.size),
        tasks=arguments.tasks.split(","),
        backbone=arguments.backbone,
    )
    spec = network_spec(loaded)
    plain, _, _ = deploy_model(export_checkpoint(loaded, ()), spec)
    folded, spec, _ = deploy_model(export_checkpoint(loaded), spec)
    recipe = choose(to_graph(folded), spec, "int8")
    rng = np.random.default_rng(0)
    shape = (spec.height, spec.width, 3)
    images = [(str(i), {IMAGE: rng.integers(0, 256, (1, *shape), np.uint8)}) for i in range(2)]
    ranges = collect(folded, observed_tensors(to_graph(folded), recipe), images, "min_max")
    int8 = quantize_model(folded, recipe, ranges, spec).SerializeToString()
    found = {
        "plain export": plain.SerializeToString(),
        "folds and passes": folded.SerializeToString(),
    }
    engine = Backend.engine_file
    if _cpu_ops.library() is not None:
        float_engine = Backend.build(found["folds and passes"], FP32, None)
        found["with the sampling operator"] = float_engine[engine]
    found["INT8"] = Backend.build(int8, recipe, ranges)[engine]
    return found, loaded.network, spec


def profile(model: bytes, image: np.ndarray, threads: int) -> Counter[str]:
    """Milliseconds by operator."""
    session = cpu_session(
        model,
        num_threads=threads,
        operators=_cpu_ops.library(),
        profile_prefix=Path(tempfile.gettempdir()) / "bench_export",
    )
    for _ in range(3):
        session.run(None, {IMAGE: image})
    path = Path(session.end_profiling())
    events = json.loads(path.read_text())
    path.unlink()
    taken: Counter[str] = Counter()
    for event in events:
        if event.get("cat") == "Node" and event["name"].endswith("_kernel_time"):
            taken[event["args"]["op_name"]] += event["dur"] / 3e3
    return taken


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--backbone", default="swin_tiny_patch4_window7_224")
    parser.add_argument("--size", default="448x672")
    parser.add_argument("--tasks", default="semseg,depth,normals,edge")
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--profile", action="append", default=[])
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    found, network, spec = forms(arguments)
    image = np.random.default_rng(1).integers(0, 256, (1, spec.height, spec.width, 3), np.uint8)
    for name in arguments.profile:
        taken = profile(found[name], image, arguments.threads)
        print(name, sum(taken.values()), taken.most_common(14))
    # One form lives at a time: two pools of spinning threads would take each other's cores.
    times: dict[str, list[float]] = {"PyTorch eager": [], **{name: [] for name in found}}
    for _ in range(arguments.runs // TIMED):
        for name, taken in times.items():
            if name == "PyTorch eager":
                backend: Any = Eager(spec, network)
            else:
                backend = Backend(spec, found[name], threads=arguments.threads)
            with backend:
                for _ in range(WARM):
                    backend.infer({IMAGE: image})
                for _ in range(TIMED):
                    start = time.perf_counter()
                    backend.infer({IMAGE: image})
                    taken.append(1e3 * (time.perf_counter() - start))
    plain = float(np.median(times["plain export"]))
    for name, taken in times.items():
        median = float(np.median(taken))
        print(f"{name:<28}{median:9.1f} ms   {plain / median:5.2f} x the plain export")


if __name__ == "__main__":
    main()

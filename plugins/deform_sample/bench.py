"""Time the operator against ONNX Runtime's own DeformConv: `python plugins/deform_sample/bench.py`.

One process, the same tensors, rounds of either in turn, medians. Only one session lives at a time:
two pools of spinning threads would take each other's cores. Needs `make cpu-ops`.
"""

from __future__ import annotations

import time

import numpy as np
import onnx_graphsurgeon as gs
import onnxruntime

from degmix_edge.backends import _cpu_ops
from degmix_edge.graph.model import constant, to_model
from degmix_edge.passes._base import apply
from degmix_edge.passes.lower_deform_sample import LowerDeformSample

ROUNDS, RUNS, THREADS = 3, 9, 2
CASES = ((256, 112, 144), (256, 128, 128), (256, 28, 36))


def graph(channels: int, height: int, width: int) -> gs.Graph:
    """DeMT's deformable convolution: 1x1, an offset pair a channel."""
    rng = np.random.default_rng(0)
    x = gs.Variable("x", np.float32, [1, channels, height, width])
    offset = gs.Variable("offset", np.float32, [1, 2 * channels, height, width])
    y = gs.Variable("y", np.float32, [1, channels, height, width])
    weight = constant("w", rng.normal(size=(channels, channels, 1, 1)) / channels**0.5)
    inputs = [x, weight, offset, constant("b", np.zeros(channels))]
    attrs = {"offset_group": channels, "kernel_shape": [1, 1]}
    return gs.Graph([gs.Node("DeformConv", "d", attrs, inputs, [y])], [x, offset], [y], opset=20)


def timed(model: bytes, feeds: dict[str, np.ndarray]) -> tuple[list[float], np.ndarray]:
    """Milliseconds of each run, and the result."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = THREADS, 3
    options.register_custom_ops_library(str(_cpu_ops.library()))
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    taken = []
    for _ in range(RUNS):
        start = time.perf_counter()
        (result,) = session.run(None, feeds)
        taken.append(1e3 * (time.perf_counter() - start))
    return taken[2:], result


def main() -> None:
    """Print one line a case."""
    path = _cpu_ops.library()
    assert path is not None, "make cpu-ops first"
    isa = _cpu_ops.instruction_set(path)
    print(f"onnxruntime {onnxruntime.__version__}, {isa}, {THREADS} threads, medians")
    print(f"{'map':>12} {'offsets':>11} {'DeformConv':>11} {'ours':>8} {'ratio':>6} {'error':>8}")
    for case in CASES:
        theirs, rng = graph(*case), np.random.default_rng(1)
        ours = theirs.copy()
        apply(ours, [LowerDeformSample()])
        models = [to_model(g, {}).SerializeToString() for g in (theirs, ours)]
        shape = (1, 2 * case[0], *case[1:])
        slopes = rng.normal(size=(1, shape[1], 1, 1))
        kinds = {
            "gauss 2 px": 2 * rng.normal(size=shape),
            "net, 28 px": 0.7 * slopes * np.linspace(-60, 60, case[2]) + np.zeros(shape),
        }
        for kind, offset in kinds.items():
            feeds = {"x": rng.normal(size=(1, *case)), "offset": offset}
            feeds = {k: np.ascontiguousarray(v, np.float32) for k, v in feeds.items()}
            runs = [[timed(model, feeds) for model in models] for _ in range(ROUNDS)]
            a, b = (float(np.median([t for r in runs for t in r[i][0]])) for i in (0, 1))
            want, got = (runs[0][i][1] for i in (0, 1))
            gap = np.abs(got - want).max() / np.abs(want).max()
            size = f"{case[1]}x{case[2]}x{case[0]}"
            print(f"{size:>12} {kind:>11} {a:8.2f} ms {b:5.2f} ms {a / b:6.2f} {gap:8.1e}")


if __name__ == "__main__":
    main()

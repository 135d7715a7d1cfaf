"""The only module that creates ONNX Runtime sessions."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from degmix_edge.errors import BackendError
from degmix_edge.quant.qparams import FP8_SUFFIX
from degmix_edge.tensors import fill

Optimization = Literal["none", "basic", "extended", "all"]
"""How far ONNX Runtime rewrites a graph before it runs it.

`none` runs the nodes of the file, so that every tensor exists; the result of `extended` is portable
between processors.
"""
_LEVELS = {
    "none": "ORT_DISABLE_ALL",
    "basic": "ORT_ENABLE_BASIC",
    "extended": "ORT_ENABLE_EXTENDED",
    "all": "ORT_ENABLE_ALL",
}


def cpu_session(
    model: bytes,
    *,
    optimization: Optimization = "all",
    num_threads: int | None = None,
    operators: Path | None = None,
    optimized_model: Path | None = None,
    profile_prefix: Path | None = None,
    memory_arena: bool = True,
    log_severity: int = 3,
) -> Any:
    """Return an `onnxruntime.InferenceSession` on the CPU.

    Args:
        model: ONNX bytes.
        optimization: How far ONNX Runtime rewrites the graph.
        num_threads: Number of threads of one call; None leaves it to ONNX Runtime.
        operators: A library of custom operators to load into the session.
        optimized_model: File to write the graph to after optimization.
        profile_prefix: If given, the time of every node is recorded in a file with this prefix.
        memory_arena: Whether to keep memory between calls. Without it a call needs less memory at
            its peak.
        log_severity: Lowest level of the messages to print: 3 is errors, 4 is fatal errors.

    Raises:
        BackendError: ONNX Runtime refuses the model; has the first line of its message.
    """
    import onnxruntime

    if FP8_SUFFIX.encode() in model and optimization != "none":
        # Extended fusions of ONNX Runtime 1.32 give other maps where a graph has FP8 values.
        optimization = "basic"
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = getattr(
        onnxruntime.GraphOptimizationLevel, _LEVELS[optimization]
    )
    options.log_severity_level = log_severity
    options.enable_cpu_mem_arena = memory_arena
    if num_threads is not None:
        options.intra_op_num_threads = num_threads
    if operators is not None:
        with errors():
            options.register_custom_ops_library(str(operators))
    if optimized_model is not None:
        options.optimized_model_filepath = str(optimized_model)
    if profile_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile_prefix)
    with errors():
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def filled(session: Any, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return what the session takes of `feed`; the last image is repeated to fill its batch."""
    inputs = session.get_inputs()
    return {i.name: fill(feed[i.name], i.shape[0]) if i.shape else feed[i.name] for i in inputs}


@contextlib.contextmanager
def errors() -> Iterator[None]:
    """Turn what ONNX Runtime raises inside the block into a BackendError.

    Its errors share no base class, and their messages have many lines.
    """
    import onnxruntime

    try:
        yield
    except MemoryError:  # who can do with less memory wants to know it
        raise
    except Exception as error:
        first = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BackendError(f"onnxruntime {onnxruntime.__version__}: {first}") from error

"""Run plans: engines, execution contexts, and what the builder made of each layer."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from degmix_edge.errors import BackendError, ShapeError
from degmix_edge.nvidia.trt.load import (
    Flavour,
    Log,
    import_tensorrt,
    logger_for,
    member_name,
    register,
)

ALLOW_CODE = "DEGMIX_ALLOW_ENGINE_CODE"
"""Set to 1 to load version-compatible plans: they hold libraries."""


@dataclass(frozen=True)
class Binding:
    """An input or output of an engine; a size of -1 is not fixed."""

    name: str
    is_input: bool
    dtype: str
    shape: tuple[int, ...]


class Engine:
    """A plan, ready to make execution contexts. The device's context is current in every call.

    Args:
        flavour: Whose plan it is.
        plan: Its bytes. They are executable: verify where they come from first.
        plugin: Our library, where the plan has nodes of ours.

    Raises:
        BackendError: The plan is of another version or card, or damaged; has TensorRT's own text.
    """

    def __init__(self, flavour: Flavour, plan: bytes, plugin: Path | None = None) -> None:
        trt = import_tensorrt(flavour)
        log = Log()
        runtime = trt.Runtime(logger_for(trt, log))
        if os.environ.get(ALLOW_CODE) == "1":
            # A version-compatible plan holds its own runtime and plugins, as machine code.
            runtime.engine_host_code_allowed = True
        if plugin is not None:
            register(flavour, plugin)
        engine = runtime.deserialize_cuda_engine(plan)
        if engine is None:
            raise BackendError(
                f"{flavour} {trt.__version__} refuses the engine ({len(plan)} bytes): {log.errors}"
            )
        self._trt, self._log, self._runtime, self._engine = trt, log, runtime, engine
        inputs = trt.TensorIOMode.INPUT
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        self.bindings = tuple(
            Binding(
                name,
                engine.get_tensor_mode(name) == inputs,
                member_name(engine.get_tensor_dtype(name)),
                tuple(engine.get_tensor_shape(name)),
            )
            for name in names
        )

    def context(self) -> Context:
        """A new execution context: one a thread."""
        engine = self._engine
        context = engine.create_execution_context()
        if context is None:
            raise BackendError(f"no execution context: out of GPU memory? {self._log.errors}")
        return Context(context, self._log)

    def close(self) -> None:
        """Destroy the engine, whose contexts are closed. A second time does nothing."""
        self._engine = self._runtime = None

    def layers(self) -> list[dict[str, object]]:
        """Layers as they were built: name, kind, tactic, and the modules that went into each."""
        trt, engine = self._trt, self._engine
        inspector = engine.create_engine_inspector()
        text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
        return inspected(str(text))


def inspected(text: str) -> list[dict[str, object]]:
    """The inspector's JSON as rows; a fused layer lists every module that it holds.

    Nodes are named `module.path/Op`. TensorRT writes them into each layer's metadata, or strings
    their names together with ` + `.
    """
    rows: list[dict[str, object]] = []
    for layer in json.loads(text).get("Layers", []):
        entry = layer if isinstance(layer, dict) else {"Name": layer}
        name = str(entry.get("Name", "?"))
        nodes = re.findall(r"\[ONNX Layer: ([^\]]+)\]", str(entry.get("Metadata", "")))
        nodes = nodes or [part.strip() for part in name.split(" + ")]
        modules = dict.fromkeys(node.partition("/")[0] for node in nodes if "/" in node)
        rows.append(
            {
                "name": name,
                "kind": entry.get("LayerType", ""),
                "tactic": entry.get("TacticName", ""),
                "modules": list(modules),
            }
        )
    return rows


class Context:
    """An execution context: addresses are set once, then it is enqueued again and again."""

    def __init__(self, context: Any, log: Log) -> None:
        self._context, self._log = context, log

    def close(self) -> None:
        """Destroy it. A second time does nothing."""
        self._context = None

    def set_shape(self, name: str, shape: tuple[int, ...]) -> None:
        """Set the shape of an input whose sizes are not fixed.

        Raises:
            ShapeError: It lies outside the engine's profile.
        """
        context = self._context
        if not context.set_input_shape(name, shape):
            raise ShapeError(f"{name} {shape}: outside the engine's profile. {self._log.errors}")

    def set_address(self, name: str, pointer: int) -> None:
        """Where a tensor lies on the device."""
        context = self._context
        if not context.set_tensor_address(name, pointer):
            raise BackendError(f"{name}: address refused. {self._log.errors}")

    def enqueue(self, stream: int) -> None:
        """Run on a stream, asynchronously.

        Raises:
            BackendError: TensorRT refused; has its own text.
        """
        context = self._context
        if not context.execute_async_v3(stream):
            raise BackendError(f"the engine does not run: {self._log.errors}")

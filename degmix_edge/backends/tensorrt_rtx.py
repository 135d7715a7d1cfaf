"""TensorRT-RTX: engines for GeForce and RTX cards, built on any x86 machine without one.

The builder compiles for every card that it knows; the card's driver finishes the work when the plan
is loaded. Deformable convolutions are lowered to GridSample, which it has a kernel for.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import metadata
from typing import TYPE_CHECKING

import numpy as np

from degmix_edge.backends._base import PLAIN, EngineBackend, EngineOptions, Progress
from degmix_edge.errors import BackendError
from degmix_edge.nvidia.trt import build as trt_build
from degmix_edge.nvidia.trt import load as trt_load
from degmix_edge.quant.ranges import Ranges

if TYPE_CHECKING:
    from degmix_edge.quant.recipe import Recipe

BINDINGS = "tensorrt_rtx_cu13_bindings"
NOT_RUN = (
    "its engines are built here and run by TensorRT-RTX itself on the card, from the bundle's "
    "engine.plan; with --backend onnxruntime the bundle's model.onnx runs on the CPU"
)


class Backend(EngineBackend):
    """Builds engines for GeForce and RTX cards; it does not run them."""

    name = "tensorrt_rtx"
    engine_file = "engine.plan"

    @classmethod
    def unavailable(cls) -> str | None:
        return NOT_RUN

    @classmethod
    def cannot_build(cls) -> str | None:
        return trt_load.unavailable("tensorrt-rtx")

    @classmethod
    def version(cls) -> str:
        return metadata.version(BINDINGS)

    @classmethod
    def device(cls) -> str:
        """A plan is for all cards that this version knows."""
        return "rtx-cards"

    @classmethod
    def build(
        cls,
        model: bytes,
        recipe: Recipe,
        ranges: Ranges | None,
        options: EngineOptions = PLAIN,
        progress: Progress | None = None,
    ) -> dict[str, bytes]:
        """Build the plan, and `layers.json` with the parsed layers beside it."""
        from degmix_edge.nvidia.worker import build_in_child
        from degmix_edge.passes.forms import lower_for_tensorrt

        cls.refuse_options(options)
        built = build_in_child(
            "tensorrt-rtx", lower_for_tensorrt(model, recipe), trt_build.BuilderOptions(), progress
        )
        layers = json.dumps(
            {"version": built.version, "layers": trt_build.layer_table(built.layers)}
        )
        return {cls.engine_file: built.plan, "layers.json": layers.encode()}

    def _activate(self) -> None:
        raise BackendError(f"{self.name}: {NOT_RUN}")

    def _infer(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        raise BackendError(f"{self.name}: {NOT_RUN}")

    def _deactivate(self) -> None:
        """Nothing was activated."""

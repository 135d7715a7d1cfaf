"""TensorRT-RTX: engines for GeForce and RTX cards, built on any x86 machine without one.

The builder compiles for every card that it knows; the card's driver finishes the work when the plan
is loaded. Deformable convolutions are lowered to GridSample, which it has a kernel for, or run in
our plugin where that is asked for: whoever loads such a plan loads the plugin library first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib import metadata
from typing import TYPE_CHECKING

import numpy as np

from degmix_edge.backends._base import PLAIN, EngineBackend, EngineOptions, Progress
from degmix_edge.backends._trt_plugin import needed as plugin_library
from degmix_edge.errors import BackendError
from degmix_edge.nvidia.trt import build as trt_build
from degmix_edge.nvidia.trt import load as trt_load
from degmix_edge.quant.ranges import Ranges

if TYPE_CHECKING:
    from degmix_edge.passes.pipeline import Dcn
    from degmix_edge.quant.recipe import Recipe

PLUGIN_MAJOR = "10"
"""TensorRT's major version whose plugin interface TensorRT-RTX 1 has."""
FORMS: tuple[Dcn, ...] = ("plugin", "offsets", "gridsample")
"""Ways of deformable convolutions that it has; it lacks an importer of its own."""
FP8_CARDS = ("SM89", "SM120")
"""The cards with kernels for FP8, Ada and Blackwell; an engine for all cards has none."""
BINDINGS = "tensorrt_rtx_cu13_bindings"
NOT_RUN = (
    "its engines are built here and run by TensorRT-RTX itself on the card, from the bundle's "
    "engine.plan; with --backend onnxruntime the bundle's model.onnx runs on the CPU"
)


class Backend(EngineBackend):
    """Builds engines for GeForce and RTX cards; it does not run them."""

    name = "tensorrt_rtx"
    engine_file = "engine.plan"
    takes_fp8 = True
    takes_options = ("dcn",)

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
        """Build the plan, and `layers.json` with the parsed layers beside it.

        `auto` is the form that needs no plugin, as nothing can be timed without a card.
        """
        from degmix_edge.nvidia.worker import build_in_child
        from degmix_edge.passes.forms import lower_for_tensorrt
        from degmix_edge.passes.pipeline import NEED_PLUGIN, check_form

        cls.refuse_options(options)
        cls.refuse_recipe(recipe)
        form: Dcn = "gridsample" if options.dcn == "auto" else check_form(options.dcn, FORMS)
        plugin = plugin_library(PLUGIN_MAJOR, form) if form in NEED_PLUGIN else None
        lowered = lower_for_tensorrt(model, recipe, form)
        cards = FP8_CARDS if recipe.precision == "fp8" else ()
        values = trt_build.BuilderOptions(
            plugin=None if plugin is None else str(plugin), compute_capabilities=cards
        )
        built = build_in_child("tensorrt-rtx", lowered, values, progress)
        layers = json.dumps(
            {
                "version": built.version,
                "dcn": form,
                "layers": trt_build.layer_table(built.layers),
            }
        )
        return {cls.engine_file: built.plan, "layers.json": layers.encode()}

    def _activate(self) -> None:
        raise BackendError(f"{self.name}: {NOT_RUN}")

    def _infer(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        raise BackendError(f"{self.name}: {NOT_RUN}")

    def _deactivate(self) -> None:
        """Nothing was activated."""

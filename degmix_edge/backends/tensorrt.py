"""TensorRT: engines for the card in this machine, from Orin to Hopper."""

from __future__ import annotations

import functools
import json
import re
import statistics
import warnings
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from degmix_edge.backends import _kernels, _trt_plugin
from degmix_edge.backends._base import (
    PLAIN,
    REQUESTS,
    EngineBackend,
    EngineOptions,
    Progress,
    RawFrames,
)
from degmix_edge.camera import RawFrame
from degmix_edge.config import cache_folder
from degmix_edge.errors import BackendError, BuildError, DegmixError, DegmixWarning, GraphError
from degmix_edge.network import IMAGE, NetworkSpec
from degmix_edge.nvidia import cuda
from degmix_edge.nvidia.arrays import DeviceArray
from degmix_edge.nvidia.frames import FitKernel
from degmix_edge.nvidia.lanes import DTYPES, Lanes
from degmix_edge.nvidia.trt import build as trt_build
from degmix_edge.nvidia.trt import engine as trt_engine
from degmix_edge.nvidia.trt import load as trt_load
from degmix_edge.quant.ranges import Ranges
from degmix_edge.tensors import TensorSpec, fill

if TYPE_CHECKING:
    from degmix_edge.passes.pipeline import Dcn
    from degmix_edge.quant.recipe import Recipe

PACKAGES = ("tensorrt", "tensorrt-cu13", "tensorrt-cu12")
FP8_MAJOR, FP8_CAPABILITY = 10, 89
"""The first TensorRT and compute capability with kernels for FP8 convolutions."""
TIMED_CALLS = 50
"""Timed calls of each form of the deformable convolutions, before one is chosen."""


class Backend(EngineBackend):
    """Runs a plan on the card and with the TensorRT version that it was built for.

    Args:
        spec: The network.
        engine: What `build` returned.
        threads: Lanes; None is one.
        device_index: Which card.
    """

    name = "tensorrt"
    engine_file = "engine.plan"
    runs_model = False
    has_lanes = True
    takes_fp8 = True
    takes_options = tuple(name for name in REQUESTS if name != "split")
    is_concurrent = True

    def __init__(
        self,
        spec: NetworkSpec,
        engine: bytes,
        *,
        threads: int | None = None,
        device_index: int = 0,
    ) -> None:
        super().__init__(spec, engine, threads=threads)
        self.device_index = device_index

    @classmethod
    def unavailable(cls) -> str | None:
        return trt_load.unavailable("tensorrt") or cuda.unavailable()

    @classmethod
    def version(cls) -> str:
        for package in PACKAGES:
            try:
                return metadata.version(package)
            except metadata.PackageNotFoundError:
                continue
        return str(trt_load.import_tensorrt("tensorrt").__version__)  # a Jetson's has no metadata

    @classmethod
    def device(cls) -> str:
        """Card, compute capability, driver, and whether our plugin is there."""
        card = cuda.Device()
        card.close()
        plugin = _trt_plugin.library(cls.major())
        return f"{card.info}, driver {card.info.driver}" + (", degmix plugin" if plugin else "")

    @classmethod
    def build(
        cls,
        model: bytes,
        recipe: Recipe,
        ranges: Ranges | None,
        options: EngineOptions = PLAIN,
        progress: Progress | None = None,
    ) -> dict[str, bytes]:
        """Build the plan for this card, as `EngineBackend.build` describes.

        Where more than one form of the deformable convolutions can be built, each is, and the
        fastest on this card is kept. `layers.json` has the parsed layers, the layers as built with
        their modules, the form, and what each form took.
        """
        if recipe.precision == "fp8":
            cls._refuse_fp8_here()
        # Building needs onnx; a robot that only runs does not have it.
        from degmix_edge.passes.forms import lower_for_tensorrt

        cls.refuse_recipe(recipe)
        plugin = _trt_plugin.library(cls.major())
        found: dict[str, tuple[float, list[dict[str, object]], trt_build.Built]] = {}
        refused: dict[str, str] = {}
        forms = _forms(options.dcn, recipe, plugin)
        for form in forms:
            try:
                built = cls._built(
                    lower_for_tensorrt(model, recipe, form), plugin, options, progress
                )
            except (BackendError, BuildError, GraphError) as error:
                refused[form] = str(error)
                continue
            feeds = options.feeds if len(forms) > 1 else None
            found[form] = (*cls._try(built.plan, feeds), built)
        if not found:
            raise BuildError("; ".join(f"{form}: {why}" for form, why in refused.items()))
        fastest = min(found, key=lambda name: found[name][0])
        if refused:
            why = "; ".join(f"{form}: {reason}" for form, reason in refused.items())
            warnings.warn(
                f"--dcn {fastest} is used, as others cannot be built. {why}",
                category=DegmixWarning,
                stacklevel=2,
            )
        _, inspected, built = found[fastest]
        said = {
            "version": built.version,
            "dcn": fastest,
            "milliseconds": {name: round(entry[0], 4) for name, entry in found.items()},
            "refused": refused,
            "layers": trt_build.layer_table(built.layers),
            "built": inspected,
        }
        return {cls.engine_file: built.plan, "layers.json": json.dumps(said).encode()}

    @classmethod
    def _refuse_fp8_here(cls) -> None:
        """Check that the card and the library compute FP8.

        Raises:
            BackendError: One does not.
        """
        card = cuda.Device()
        info = card.info
        card.close()
        if int(cls.major()) < FP8_MAJOR or info.compute_capability < FP8_CAPABILITY:
            raise BackendError(
                f"{cls.name} {cls.version()} on {info}: has no kernels for FP8, which need "
                f"TensorRT {FP8_MAJOR} and a card since sm_{FP8_CAPABILITY}; build with "
                "--precision int8"
            )

    @classmethod
    def _built(
        cls, lowered: bytes, plugin: Path | None, options: EngineOptions, progress: Progress | None
    ) -> trt_build.Built:
        from degmix_edge.nvidia.worker import build_in_child

        card = cuda.Device()
        try:
            free, what = card.free_bytes(), f"{card.info.name}-{card.info.driver}"
        finally:
            card.close()
        name = re.sub(r"[^\w.-]+", "-", f"{cls.version()}-{what}.timing")
        return build_in_child(
            "tensorrt",
            lowered,
            trt_build.BuilderOptions(
                workspace_bytes=free // 2,
                plugin=None if plugin is None else str(plugin),
                timing_cache=str(cache_folder() / "timing" / name),
                version_compatible=options.version_compatible,
                hardware_compatible=options.hardware_compatible,
                dla_core=options.dla_core,
            ),
            progress,
        )

    @classmethod
    def _try(
        cls, plan: bytes, feeds: tuple[Mapping[str, np.ndarray], ...] | None
    ) -> tuple[float, list[dict[str, object]]]:
        """Median milliseconds of a call on the device, as a graph, and the layers as built.

        Offsets of a blank image lie side by side, which flatters some forms. Without `feeds`, the
        calls get noise; None does not time.
        """
        load = functools.partial(cls._load, plan)
        with Lanes(0, load, 0 if feeds is None else 1) as lanes:
            assert lanes.engine is not None
            with lanes.device.current():
                layers = lanes.engine.layers()
            if feeds is None:
                return 0.0, layers
            with lanes.take() as lane:
                blank = lane.zeros()
                image = blank[IMAGE]
                noise = np.random.default_rng(0).integers(0, 256, image.shape).astype(image.dtype)
                given = [
                    {name: fill(array, len(blank[name])) for name, array in feed.items()}
                    for feed in feeds or (blank | {IMAGE: noise},)
                ]
                lane.warm_up(given[0])
                times = []
                for index in range(TIMED_CALLS):
                    lane.run(given[index % len(given)])
                    times.append(lane.stages["gpu_ms"])
            return statistics.median(times), layers

    @classmethod
    def major(cls) -> str:
        """The major version of the library, such as '10'."""
        return cls.version().partition(".")[0]

    @classmethod
    def _load(cls, plan: bytes) -> trt_engine.Engine:
        return trt_engine.Engine("tensorrt", plan, _trt_plugin.library(cls.major()))

    def _activate(self) -> None:
        load = functools.partial(self._load, self.engine)
        self._lanes = Lanes(self.device_index, load, self.threads or 1)
        try:
            for lane in self._lanes.lanes:
                lane.warm_up(lane.zeros())
            self.fits_frames = self._can_fit_frames()
        except BaseException:
            self._lanes.close()
            raise

    def _can_fit_frames(self) -> bool:
        """Whether our kernel is here and fits a first frame on every lane.

        Raises:
            ConfigError: The environment names a library that is not there.
        """
        path = _kernels.library()
        inputs = (self.spec.image, *self.spec.inputs)
        names = {one.name for one in inputs if one.kind == "image"}
        images = {spec.name: (spec.dtype, spec.shape) for spec in self.spec.input_specs}
        found = {
            tensor.name: (tensor.dtype, tensor.shape) for tensor in self.engine_tensors() or ()
        }
        if path is None or not names or any(found.get(n) != images[n] for n in names):
            return False
        area = (0, 0, 2, 2)
        black = RawFrame(np.zeros((2, 2, 3), np.uint8), "rgb", (2, 2), area, area, (0, 0, 0))
        try:
            kernel = FitKernel(path)
            for lane in self._lanes.lanes:
                lane.fit_frames(kernel)
                rest = {n: zeros for n, zeros in lane.zeros().items() if n not in names}
                lane.run(rest, {name: [black] for name in names})
        except DegmixError as error:
            warnings.warn(f"frames are fitted on the CPU: {error}", DegmixWarning, stacklevel=2)
            return False
        return True

    def engine_tensors(self) -> tuple[TensorSpec, ...] | None:
        if self._lanes.engine is None:
            return None
        return tuple(
            TensorSpec(name=b.name, dtype=DTYPES[b.dtype], shape=b.shape)
            for b in self._lanes.engine.bindings
        )

    def _infer(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        return self._infer_frames(feed, {})

    def _infer_frames(
        self, feed: Mapping[str, np.ndarray], frames: RawFrames
    ) -> dict[str, np.ndarray]:
        with self._lanes.take() as lane:
            maps = lane.run(feed, frames)
            self._mine.stages = lane.stages
            return {name: maps[name].copy() for name in maps}

    def infer_device(self, image: Any) -> dict[str, DeviceArray]:
        """Maps that stay on the device, of an image that is there already.

        The image is copied to the lane's own memory, on the device. The maps are overwritten by the
        next call on the same lane, so use it with one lane.

        Args:
            image: uint8 RGB `(N, H, W, 3)` at the network's size, contiguous, with DLPack or
                `__cuda_array_interface__`. Its writer is waited for where the array tells of it;
                one with the interface alone, and no stream in it, must be done.

        Raises:
            CudaError: It is on another device, not contiguous, or freed.
            BackendError: It is no such image, or the network takes more than an image.
        """
        if not self.active:
            raise BackendError(f"{self.name}: not active; use it inside `with`")
        if self.spec.inputs:
            others = ", ".join(one.name for one in self.spec.inputs)
            raise BackendError(f"{self.name}: takes {others} too; give all from the host (`infer`)")
        want = (tuple(self.spec.image_spec.shape), self.spec.image_spec.dtype)
        with self._lanes.take() as lane:
            found = lane.foreign(image)
            if found is None or (found.shape, found.dtype) != want:
                got = type(image).__name__ if found is None else f"{found.dtype} {found.shape}"
                raise BackendError(
                    f"{self.name}: got {got} on the device, expected {want[1]} {want[0]}"
                )
            return lane.run_device(IMAGE, found, self)

    def _deactivate(self) -> None:
        self.fits_frames = False
        self._lanes.close()


def _forms(asked: str, recipe: Recipe, plugin: Path | None) -> tuple[Dcn, ...]:
    """What is worth building.

    Raises:
        ConfigError: No such form.
        BackendError: It needs the plugin, which is not there.
    """
    from degmix_edge.passes.pipeline import NEED_PLUGIN, check_form

    if asked == "auto":
        if plugin is None:
            return ("builtin",)
        offsets: tuple[Dcn, ...] = ("offsets",) if recipe.precision != "fp32" else ()
        return (*offsets, "plugin", "builtin")
    form = check_form(asked)
    if form in NEED_PLUGIN and plugin is None:
        _trt_plugin.needed(Backend.major(), form)
    return (form,)

"""What a build is asked for: settings that Python, the command line and a YAML file share."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from degmix_edge import config
from degmix_edge.backends import REQUESTS, EngineOptions
from degmix_edge.bundle.manifest import MOST_SIZES
from degmix_edge.errors import ConfigError
from degmix_edge.graph.spec_file import OtherEntry, SpecFile, read_spec
from degmix_edge.limits import Side
from degmix_edge.network import MOST_IMAGES, Finite, InputColor, InputKind, Positive
from degmix_edge.preprocess import Byte, FitMode
from degmix_edge.quant.recipe import Precision
from degmix_edge.workflows.budget import EXAMPLES
from degmix_edge.workflows.calibration import COUNT, OBSERVER

TARGET = Path("robot.degmix")
Source = str | Path | Iterable[Any] | None
"""Images: the name of a source, or the images themselves."""


class Options(config.Settings):
    """What a build is asked for. A YAML file for `build engine -c` has these keys.

    Attributes:
        precision: fp32, fp16, bf16 or int8, or fp8 for cards that compute it; auto builds every
            form that this machine can run, of each backend and precision, times them in turn, and
            keeps the fastest that the budget allows.
        calibration: Images to calibrate INT8 with: a folder, `nyud:DIR`, `synthetic:64`.
        calibration_count: How many to take of a larger folder, those that differ most; 0 takes all.
        ranges: A ranges.json to use instead of calibrating.
        observer: How a range is chosen: min_max, percentile, entropy or mse. If it is not given,
            fp8 takes min_max, as its steps grow with the values.
        tasks: Tasks to keep; empty keeps all.
        keep_float: Names of nodes that stay fp32 besides those that the rules keep.
        raw_logits: Keep the logits as outputs beside the maps.
        share_weights: Write weights that model.onnx and the engine share once, into weights.bin.
            Several sizes always do.
        mode: How images of another aspect ratio are fitted.
        pad: RGB colour around images of another aspect ratio; None is the mean of ImageNet. Around
            depth or other numbers, a value in their unit; None is 0.
        spec: A spec.yaml that describes an ONNX file or a torch module; the following fields
            replace its own.
        size: Height and width in pixels of the input of a checkpoint, a torch module, or a foreign
            ONNX file whose axes are dynamic. Several pairs make a bundle for all these sizes.
        batch: How many images one call computes; None is what an ONNX file says, and 1 elsewhere.
        mean, std: How a foreign ONNX file or torch module wants its input, by channel.
        scale: The value of white before the mean is subtracted: 1 or 255. Depth and other numbers
            are multiplied by it.
        color: Order of its channels: rgb, bgr or grey; or depth, or other for any other numbers.
        inputs: The kind of each input of an ONNX file or torch module beside the image: image, map,
            intrinsics, tensor or state.
        outputs: The kind of task of each output of an ONNX file or torch module that is not called
            after it.
        backend: An engine backend's name, or `auto`, which builds the engine of every backend that
            this machine can run, times them in turn, and keeps the fastest that the budget allows.
            If it is not given, and no precision is `auto` either, nothing is timed: the engine is
            TensorRT's where it runs, and ONNX Runtime's elsewhere.
        dcn: TensorRT: the form of deformable convolutions.
        version_compatible: TensorRT: the engine runs with later minor versions too.
        hardware_compatible: TensorRT: the engine runs on every card since Ampere.
        dla_core: TensorRT on Orin: experimental.
        split: ONNX Runtime: a call can run any subset of the tasks. Only of a checkpoint of DeMT,
            DeMTG or DeGMix, with a batch of 1.
        budget: What each task may lose, as in `semseg=-0.5pt,depth=+1%`, or `1%` for all.
        examples: Images that the budget is measured on.
        device: Target whose savings count for the budget; `cpu` is measured on this machine.
        min_int8: Percent of the multiply-adds that must be INT8.
        workers: Processes that measure layers for a budget. A script that asks for more than one
            must be guarded by `if __name__ == "__main__"`, as multiprocessing needs it.
        address: A Ray cluster that measures layers for a budget, as `label` takes it.
        report: Page of the budget search; None writes it beside the result.
    """

    precision: Literal["fp32", "fp16", "bf16", "int8", "fp8", "auto"] = "int8"
    calibration: str | None = None
    calibration_count: Annotated[int, Field(ge=0)] = COUNT
    ranges: Path | None = None
    observer: str = OBSERVER
    tasks: tuple[str, ...] = ()
    keep_float: tuple[str, ...] = ()
    raw_logits: bool = False
    share_weights: bool = False
    mode: FitMode = "letterbox"
    pad: tuple[Byte, Byte, Byte] | Finite | None = None
    spec: Path | None = None
    size: tuple[Side, Side] | tuple[tuple[Side, Side], ...] | None = None
    batch: Annotated[int, Field(ge=1, le=MOST_IMAGES)] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    scale: Positive | None = None
    color: InputColor | None = None
    inputs: dict[str, InputKind] = {}
    outputs: dict[str, str] = {}
    backend: str = "auto"
    dcn: str = "auto"
    version_compatible: bool = False
    hardware_compatible: bool = False
    dla_core: Annotated[int | None, Field(ge=0)] = None
    split: bool = False
    budget: str | None = None
    examples: str = EXAMPLES
    device: str = "cpu"
    min_int8: Annotated[float, Field(ge=0, le=100)] = 0.0
    workers: Annotated[int, Field(ge=1)] = 1
    address: str | None = None
    report: Path | None = None

    @model_validator(mode="after")
    def _with_each_size_once(self) -> Options:
        count = len(self.sizes)
        if self.size == () or len(set(self.sizes)) < count or count > MOST_SIZES:
            raise ValueError(f"size {self.size}, expected 1 to {MOST_SIZES} that differ")
        return self

    def describe(self, embedded: SpecFile | None = None) -> SpecFile:
        """What the user says of a foreign network: the spec, and the fields that replace its own.

        Args:
            embedded: The spec inside the ONNX file, which counts where `spec` is not given.

        Raises:
            ConfigError: The spec cannot be read, or a field does not fit.
        """
        base = read_spec(self.spec) if self.spec else embedded or SpecFile()
        names = ("mean", "std", "scale", "color", "pad")
        fields = {name: getattr(self, name) for name in names}
        fields["height"], fields["width"] = next(iter(self.sizes), (None, None))
        fit = self.mode if "mode" in self.model_fields_set else None
        inputs = base.inputs | {n: OtherEntry(kind=kind) for n, kind in self.inputs.items()}
        more = {"outputs": base.outputs | self.outputs, "inputs": inputs}
        return base.with_input(**fields, fit=fit).model_copy(update=more)

    @property
    def sizes(self) -> tuple[tuple[int, int], ...]:
        """Every height and width that is asked for, the first one first."""
        one_or_more: Any = self.size or ()
        is_pair = bool(one_or_more) and isinstance(one_or_more[0], int)
        return (one_or_more,) if is_pair else one_or_more

    @property
    def is_measured(self) -> bool:
        """Whether several forms are built and timed: `auto` was asked for by name."""
        asks_backends = "backend" in self.model_fields_set and self.backend == "auto"
        return asks_backends or self.precision == "auto"

    @property
    def range_observer(self) -> str:
        """The observer that was asked for, or the one that suits the precision."""
        is_given = "observer" in self.model_fields_set
        return "min_max" if self.precision == "fp8" and not is_given else self.observer

    def precision_of(self, what: str) -> Precision:
        """Return the precision, where there is place for one.

        Args:
            what: The thing that has one precision, for the message.

        Raises:
            ConfigError: It is `auto`.
        """
        if self.precision == "auto":
            raise ConfigError(
                f"precision 'auto': is for `build engine`, which times engines, and {what} has "
                "none; give fp32, fp16, bf16, int8 or fp8"
            )
        return self.precision

    def check_one_size(self, what: str) -> None:
        """Check that no more than one size is asked for, where there is place for one.

        Args:
            what: The thing that has one size, for the message.

        Raises:
            ConfigError: There are several.
        """
        if len(self.sizes) > 1:
            raise ConfigError(
                f"size: got {len(self.sizes)} sizes, and {what} has one; give --size once. "
                "A bundle of `build engine` can have several"
            )

    @property
    def engine(self) -> EngineOptions:
        """What is asked of the backend's engine."""
        return EngineOptions(**{name: getattr(self, name) for name in REQUESTS})


def make_options(
    options: Options | None,
    calibration: object,
    examples: object,
    changes: Mapping[str, Any],
) -> Options:
    """`options` with `changes` and with sources that are strings.

    Raises:
        ConfigError: A field that does not exist, or a value that does not fit.
    """
    values = {} if options is None else options.model_dump(exclude_unset=True)
    values |= changes
    if isinstance(calibration, str | Path):
        values["calibration"] = str(calibration)
    if isinstance(examples, str | Path):
        values["examples"] = str(examples)
    return config.parse(Options, values, "options")

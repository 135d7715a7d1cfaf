"""How the losses of several tasks become one: fixed weights, or weights that the run finds itself.

Each is a module that takes the tasks' losses, already times `loss_weights`, and gives their sum.
What it learns is part of the run's state, so a resumed run continues with it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor, nn

from degmix_edge.errors import ConfigError
from degmix_edge.tasks import DECODES, TaskSpec

Mean = Callable[[Tensor], Tensor]
"""The mean of a tensor over all processes of the job."""
LEAST = 0.01
"""Smallest weight that GradNorm may give a task."""


class Balance(nn.Module, ABC):
    """Adds the losses of `tasks`."""

    def __init__(self, tasks: Sequence[str]) -> None:
        super().__init__()
        self.tasks = tuple(tasks)

    @abstractmethod
    def forward(self, losses: Mapping[str, Tensor], mean: Mean, step: int) -> Tensor:
        """Return the balanced sum.

        Args:
            losses: One number for each task.
            mean: Takes the mean over all processes.
            step: The number of the step, from 0.
        """

    def weights(self) -> dict[str, float]:
        """Return the factor of each task's loss, for the log; empty where they are fixed."""
        return {}

    def stacked(self, losses: Mapping[str, Tensor]) -> Tensor:
        """Return the losses in the order of `tasks`."""
        return torch.stack([losses[task] for task in self.tasks])

    def named(self, values: Tensor) -> dict[str, float]:
        """Return one number for each task."""
        return dict(zip(self.tasks, values.tolist(), strict=True))


class Fixed(Balance):
    """The plain sum: `loss_weights` alone decide."""

    def forward(self, losses: Mapping[str, Tensor], mean: Mean, step: int) -> Tensor:
        return self.stacked(losses).sum()


class Uncertainty(Balance):
    """Homoscedastic uncertainty: each task has a learned variance.

    Kendall, Gal and Cipolla, "Multi-Task Learning Using Uncertainty to Weigh Losses", CVPR 2018
    (arXiv 1705.07115), equation 10, with `s = log(variance)` learned as the authors advise: a
    regression counts `exp(-s) / 2 * loss + s / 2`, a classification `exp(-s) * loss + s / 2`.
    """

    def __init__(self, specs: Mapping[str, TaskSpec]) -> None:
        super().__init__(tuple(specs))
        halves = [0.5 if DECODES[s.decode].is_regression else 1.0 for s in specs.values()]
        self.register_buffer("factor", torch.tensor(halves), persistent=False)
        self.log_variance = nn.Parameter(torch.zeros(len(halves)))

    def forward(self, losses: Mapping[str, Tensor], mean: Mean, step: int) -> Tensor:
        weights = self.factor * (-self.log_variance).exp()
        return (weights * self.stacked(losses)).sum() + self.log_variance.sum() / 2

    def weights(self) -> dict[str, float]:
        return self.named(self.factor * (-self.log_variance.detach()).exp())


class Dwa(Balance):
    """Dynamic weight average: tasks whose loss falls slowly get more weight.

    Liu, Johns and Davison, "End-to-End Multi-Task Learning with Attention", CVPR 2019
    (arXiv 1803.10704), equation 7: weights are `T softmax(r / temperature)` with the ratio `r` of
    the mean losses of the last two epochs. The first two epochs have equal weights.

    Args:
        tasks: The tasks.
        period: Steps of an epoch.
        temperature: How equal the weights are; published: 2.
    """

    def __init__(self, tasks: Sequence[str], period: int, temperature: float = 2.0) -> None:
        super().__init__(tasks)
        self.period, self.temperature = max(1, period), temperature
        self.register_buffer("sums", torch.zeros(len(tasks)))
        self.register_buffer("means", torch.zeros(2, len(tasks)))  # the epoch before last, the last
        self.register_buffer("epochs", torch.zeros((), dtype=torch.long))

    def forward(self, losses: Mapping[str, Tensor], mean: Mean, step: int) -> Tensor:
        stacked = self.stacked(losses)
        total = (self._weights() * stacked).sum()
        self.sums += mean(stacked.detach())
        if (step + 1) % self.period == 0:
            self.means.copy_(torch.stack((self.means[1], self.sums / self.period)))
            self.sums.zero_()
            self.epochs += 1
        return total

    def _weights(self) -> Tensor:
        if self.epochs < 2:
            return torch.ones_like(self.sums)
        ratio = self.means[1] / self.means[0].clamp(min=1e-12)
        return len(self.tasks) * (ratio / self.temperature).softmax(0)

    def weights(self) -> dict[str, float]:
        return self.named(self._weights())


class Gradnorm(Balance):
    """Gradient normalisation: tasks get gradients of one size at the last shared layer.

    Chen et al., "GradNorm", ICML 2018 (arXiv 1711.02257), algorithm 1: the norm of each task's
    weighted gradient moves to the mean norm times the task's relative training rate to the power
    `alpha`. The gradient of the weights is divided by the mean norm here, so that `lr` does not
    depend on the size of the losses. It costs one partial backward pass a task.

    Args:
        tasks: The tasks.
        shared: The parameter of the last shared layer.
        alpha: Strength of the pull to equal training rates; published: 1.5 for dense prediction.
        lr: Learning rate of the weights; published: 0.025.
    """

    def __init__(
        self, tasks: Sequence[str], shared: nn.Parameter, alpha: float = 1.5, lr: float = 0.025
    ) -> None:
        super().__init__(tasks)
        self.shared, self.alpha, self.lr = [shared], alpha, lr  # in a list: it is the network's
        self.register_buffer("factors", torch.ones(len(tasks)))
        self.register_buffer("first", torch.zeros(len(tasks)))

    def forward(self, losses: Mapping[str, Tensor], mean: Mean, step: int) -> Tensor:
        stacked = self.stacked(losses)
        total = (self.factors.clone() * stacked).sum()
        if torch.isfinite(stacked).all():
            self._update(stacked, mean)
        return total

    def _update(self, losses: Tensor, mean: Mean) -> None:
        found = [
            torch.autograd.grad(loss, self.shared, retain_graph=True, allow_unused=True)[0]
            if loss.requires_grad
            else None
            for loss in losses
        ]
        zero = losses.new_zeros(())
        norms = mean(torch.stack([zero if g is None else g.detach().norm() for g in found]))
        now = mean(losses.detach())
        if not self.first.any():
            self.first.copy_(now)
        ratios = now / self.first.clamp(min=1e-12)
        rates = ratios / ratios.mean().clamp(min=1e-12)
        weighted = self.factors * norms
        middle = weighted.mean().clamp(min=1e-12)
        pull = (weighted - middle * rates**self.alpha).sign() * norms / middle
        moved = (self.factors - self.lr * pull).clamp(min=LEAST)
        self.factors.copy_(moved * len(self.tasks) / moved.sum())

    def weights(self) -> dict[str, float]:
        return self.named(self.factors)


def make_balance(
    name: str, specs: Mapping[str, TaskSpec], network: nn.Module, period: int
) -> Balance:
    """Return the balance called `name`.

    Args:
        name: `fixed`, `uncertainty`, `gradnorm` or `dwa`.
        specs: The tasks.
        network: The network, whose backbone is what the tasks share.
        period: Steps of an epoch.

    Raises:
        ConfigError: GradNorm is asked for a frozen backbone, which has no gradient.
    """
    if name == "uncertainty":
        return Uncertainty(specs)
    if name == "dwa":
        return Dwa(tuple(specs), period)
    if name == "gradnorm":
        backbone: nn.Module = network.backbone  # type: ignore[assignment]
        shared = [p for p in backbone.parameters() if p.requires_grad and p.ndim > 1]
        if not shared:
            raise ConfigError(
                "balance: gradnorm compares gradients at the backbone, which is frozen; leave out "
                "freeze_backbone, or take uncertainty or dwa"
            )
        return Gradnorm(tuple(specs), shared[-1])
    return Fixed(tuple(specs))

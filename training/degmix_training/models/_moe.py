"""A mixture of experts in place of a transformer's MLP: each token chooses its own, for each task.

    p = softmax(x W_task),   y = sum over the K largest p_e of p_e f_e(x)      not divided again
    f_e = Linear(GELU(Linear(x))), d wide: K = 4 of them cost what the MLP they replace costs

After Liang et al., "M3ViT", NeurIPS 2022 (arXiv 2210.14793). The experts lie side by side in two
matrices. In an exported graph every expert is computed and those not chosen are masked, which is
static; on the CPU the pass `lower_moe` gathers tokens.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from degmix_edge.config import Settings


class MoeSettings(Settings):
    """Sizes of every mixture in a network; the defaults are the published ones.

    Attributes:
        experts: Number of experts in each mixture.
        top_k: Number of experts that a token uses.
        expert_dim: Hidden units of an expert; None is the tokens' width.
        router: `multi_gate` has a W for each task (the paper's best), `task_conditioned` one W over
            the token and an embedding of the task, `single` one W for all tasks.
        noise: Standard deviation of what training adds to the routers' scores, times the number of
            experts; the published runs have none.
        kept_experts: Number of experts left in each mixture once `experts.prune` has removed some.
        fade: Share of training at its end over which routers fade out: each task ends with the
            same K experts for every token, which is an ordinary MLP. 0 keeps routers.
    """

    experts: int = Field(16, ge=2)
    top_k: int = Field(4, ge=1)
    expert_dim: int | None = Field(None, gt=0)
    router: Literal["single", "multi_gate", "task_conditioned"] = "multi_gate"
    noise: float = Field(0.0, ge=0)
    kept_experts: tuple[int, ...] | None = None
    fade: float = Field(0.0, ge=0, lt=1)

    @model_validator(mode="after")
    def _enough_experts(self) -> MoeSettings:
        if self.experts < self.top_k:
            raise ValueError(f"{self.experts} experts, expected at least top_k = {self.top_k}")
        left = min(self.kept_experts or (self.experts,))
        if left < self.top_k:
            raise ValueError(f"{left} experts left, expected at least top_k = {self.top_k}")
        return self


class Router(nn.Module):
    """Tokens `(R, N, L, d)` to probabilities `(T, N, L, E)`; R is 1, or T once tasks have rows.

    `single` has T = 1. Always FP32: in 16 bits one token in a thousand chooses other experts.
    """

    EMBEDDING = 64

    def __init__(self, dim: int, settings: MoeSettings, tasks: int) -> None:
        super().__init__()
        self.noise = settings.noise / settings.experts
        count = tasks if settings.router == "multi_gate" else 1
        self.weight = nn.Parameter(torch.empty(count, dim, settings.experts))
        nn.init.trunc_normal_(self.weight, std=dim**-0.5)
        self.embed = None
        if settings.router == "task_conditioned":
            self.register_buffer("one_hot", torch.eye(tasks), persistent=False)
            self.embed = nn.Sequential(
                nn.Linear(tasks, self.EMBEDDING),
                nn.ReLU(),
                nn.Linear(self.EMBEDDING, self.EMBEDDING),
                nn.Linear(self.EMBEDDING, settings.experts, bias=False),
            )

    def forward(self, x: Tensor) -> Tensor:
        kind = x.device.type
        if torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind):
            with torch.autocast(kind, enabled=False):
                return self._probabilities(x.float())
        return self._probabilities(x)

    def _probabilities(self, x: Tensor) -> Tensor:
        rows, images, tokens, dim = x.shape
        scores = x.reshape(rows, images * tokens, dim) @ self.weight  # one product a task
        if self.embed is not None:
            scores = scores + self.embed(self.one_hot).unsqueeze(1)
        if self.training and self.noise:
            scores = scores + self.noise * torch.randn_like(scores)
        return scores.softmax(-1).unflatten(1, (images, tokens))

    def keep(self, indices: list[int]) -> None:
        """Drop all tasks except those at `indices`."""
        if self.embed is not None:
            self.one_hot = self.one_hot[indices]
        elif len(self.weight) > 1:
            self.weight.data = self.weight.data[indices]


class Mixture(nn.Module):
    """Tokens `(R, N, L, d)` to `(T, N, L, d)`, by the experts that `Router` chooses for each.

    Attributes:
        uneven: How unevenly experts were used in the last training step: the squared coefficients
            of variation of their gates and of their numbers of tokens, summed over tasks.
    """

    def __init__(
        self, dim: int, settings: MoeSettings, tasks: int, kept: int | None = None
    ) -> None:
        super().__init__()
        self.experts = settings.experts if kept is None else kept
        self.top_k, self.fade = settings.top_k, settings.fade
        hidden = settings.expert_dim or dim
        self.router = Router(dim, settings, tasks)
        self.expand = nn.Linear(dim, self.experts * hidden)
        self.contract = nn.Linear(self.experts * hidden, dim, bias=False)
        self.bias = nn.Parameter(torch.zeros(self.experts, dim))
        nn.init.uniform_(self.contract.weight, -(hidden**-0.5), hidden**-0.5)
        rows = tasks if settings.router != "single" else 1
        self.register_buffer("usage", torch.full((rows, self.experts), 1 / self.experts))
        self.pruned = kept is not None
        if self.pruned:  # which of the router's experts are left, and for which tasks
            self.register_buffer("kept", torch.arange(self.experts))
            self.register_buffer("allowed", torch.ones(rows, self.experts))
        self.register_buffer("faded", torch.tensor(0.0))
        self.uneven: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        gates = self.gates(self.router(x))
        if torch.compiler.is_compiling() or x.device.type == "meta":
            return self.masked(x, gates.to(x.dtype))
        return self.gathered(x, gates.to(x.dtype))

    def gates(self, probabilities: Tensor) -> Tensor:
        """The K largest of the probabilities `(T, N, L, E)`, and zero elsewhere."""
        if self.pruned:  # after the softmax: a token of kept experts keeps its very numbers
            probabilities = probabilities.index_select(-1, self.kept)
            probabilities = probabilities * self.allowed[:, None, None]
        kept = probabilities.topk(self.top_k, dim=-1)
        gates = torch.zeros_like(probabilities).scatter(-1, kept.indices, kept.values)
        if self.training:
            importance = gates.sum((1, 2))
            load = (gates > 0).to(gates.dtype).sum((1, 2))
            self.uneven = (_variation(importance) + _variation(load)).sum()
            if self.fade:
                self.usage.lerp_(gates.detach().mean((1, 2)), 0.01)
        if self.fade:
            gates = torch.lerp(gates, self.fixed_gates()[:, None, None], self.faded)
        return gates

    def fixed_gates(self) -> Tensor:
        """What routers fade to, `(T, E)`: the K most used experts share the sum of all gates."""
        kept = self.usage.topk(self.top_k, dim=-1)
        values = kept.values / kept.values.sum(-1, True) * self.usage.sum(-1, True)
        return torch.zeros_like(self.usage).scatter(-1, kept.indices, values)

    def advance(self, progress: float) -> None:
        """Fade the routers out over the last share of training; `progress` goes from 0 to 1."""
        if self.fade:
            self.faded.fill_(min(1.0, max(0.0, (progress - 1 + self.fade) / self.fade / 0.9)))

    def masked(self, x: Tensor, gates: Tensor) -> Tensor:
        """Every expert for every token, and a mask: two large products, all shapes static.

        Exact, since the second layer is linear. Tasks that share their tokens share the first one.
        """
        tasks, images, tokens, experts = gates.shape
        hidden = F.gelu(self.expand(x)).unflatten(-1, (experts, -1))  # R N L E h
        chosen = (hidden * gates.unsqueeze(-1)).flatten(-2)  # T N L (E h)
        return self.contract(chosen) + gates @ self.bias

    def gathered(self, x: Tensor, gates: Tensor) -> Tensor:
        """Each expert for its own tokens: the fewest products; shapes depend on the image."""
        tasks, images, tokens, experts = gates.shape
        flat, shares = x.reshape(-1, x.shape[-1]), gates.reshape(-1, experts)
        out = flat.new_zeros(len(shares), flat.shape[1])
        first = self.expand.weight.chunk(experts)
        biases = self.expand.bias.chunk(experts)
        second = self.contract.weight.chunk(experts, dim=1)
        for expert in range(experts):
            rows = shares[:, expert].nonzero().squeeze(1)
            # Tasks that share their tokens read the same rows.
            hidden = F.gelu(F.linear(flat[rows % len(flat)], first[expert], biases[expert]))
            result = F.linear(hidden, second[expert]) + self.bias[expert]
            out = out.index_add(0, rows, (result * shares[rows, expert, None]).to(out.dtype))
        return out.view(tasks, images, tokens, -1)

    def keep(self, indices: list[int]) -> None:
        """Drop all tasks except those at `indices`."""
        self.router.keep(indices)
        if len(self.usage) > 1:
            self.usage = self.usage[indices]
            if self.pruned:
                self.allowed = self.allowed[indices]


class FixedExperts(nn.Module):
    """A mixture whose router has faded out: `(R, N, L, d)` to `(T, N, L, d)`, one MLP a task.

    A task's MLP has its K experts side by side.
    """

    def __init__(self, mixture: Mixture) -> None:
        super().__init__()
        gates = mixture.fixed_gates()  # T E
        chosen = gates.topk(mixture.top_k, dim=-1).indices.sort(-1).values  # T K
        first = mixture.expand.weight.detach().unflatten(0, (mixture.experts, -1))  # E h d
        biases = mixture.expand.bias.detach().unflatten(0, (mixture.experts, -1))
        second = mixture.contract.weight.detach().T.unflatten(0, (mixture.experts, -1))  # E h d
        second = second * gates.unsqueeze(-1).unsqueeze(-1)  # T E h d
        rows = torch.arange(len(gates)).unsqueeze(1)
        self.expand = nn.Parameter(first[chosen].flatten(1, 2).transpose(1, 2).contiguous())
        self.expand_bias = nn.Parameter(biases[chosen].flatten(1).unsqueeze(1))  # T 1 Kh
        self.contract = nn.Parameter(second[rows, chosen].flatten(1, 2).contiguous())  # T Kh d
        self.bias = nn.Parameter((gates @ mixture.bias.detach()).unsqueeze(1))

    def forward(self, x: Tensor) -> Tensor:
        rows, images, tokens, dim = x.shape
        x = x.reshape(rows, images * tokens, dim)
        hidden = F.gelu(x @ self.expand + self.expand_bias)
        return (hidden @ self.contract + self.bias).view(-1, images, tokens, dim)


def _variation(x: Tensor) -> Tensor:
    """The squared coefficient of variation of a sample over the last axis, the experts."""
    return x.var(-1) / (x.mean(-1).square() + 1e-10)

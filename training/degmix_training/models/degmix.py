"""DeGMix: DeMTG on patches, with softmax-free queries over all tokens.

Xu et al., arXiv 2308.05721 v5 (2025), and the public DeGMix code: a 4x4 patch embedding puts the
head at stride 16, and the query has no softmax, so `(Q K^T) V` is computed as `Q (K^T V)`: the
same, without the `hw x T hw` matrix.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field
from torch import Tensor, nn

from degmix_edge.tasks import TaskSpec
from degmix_training.models._decoder import Decoder, DecoderConfig
from degmix_training.models._folded import TOKEN_FOLDS


class Config(DecoderConfig):
    """Sizes of DeGMix. The defaults are the published ones, but for the backbone."""

    patch_size: int = Field(4, gt=0)


class TokenQuery(nn.Module):
    """One task's query over all tokens of all tasks: `(N, L, d), (N, T L, d) -> (N, L, d)`."""

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.norm_q, self.norm_k, self.norm_v = (nn.LayerNorm(dim) for _ in range(3))
        self.to_q, self.to_k, self.to_v = (nn.Linear(dim, dim, bias=False) for _ in range(3))
        self.project = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)
        self.out_norm = nn.LayerNorm(dim)

    def forward(self, task: Tensor, fused: Tensor) -> Tensor:
        q = self._heads(self.to_q(self.norm_q(task)))  # N heads L hd
        k = self._heads(self.to_k(self.norm_k(fused)))  # N heads TL hd
        v = self._heads(self.to_v(self.norm_v(fused)))
        scale = q.shape[-1] ** -0.5
        attended = (q * scale) @ (k.transpose(-2, -1) @ v)  # N heads L hd
        attended = attended.transpose(1, 2).flatten(2)
        return task + self.out_norm(self.out(self.project(attended)))

    def _heads(self, tokens: Tensor) -> Tensor:
        n, length, dim = tokens.shape
        return tokens.view(n, length, self.num_heads, dim // self.num_heads).transpose(1, 2)


class Model(Decoder):
    """DeGMix for the given tasks: `(N, 3, H, W) -> {task: (N, C, H, W) logits}`."""

    own_folds = TOKEN_FOLDS

    def __init__(
        self, config: Config, tasks: Mapping[str, TaskSpec], *, pretrained: bool = False
    ) -> None:
        super().__init__(
            config,
            tasks,
            TokenQuery,
            patch=config.patch_size,
            gated=True,
            pretrained=pretrained,
        )

"""DeMT: deformable mixers, task interaction, and a query of every pixel over the tasks.

Xu et al., "DeMT: Deformable Mixer Transformer for Multi-Task Learning of Dense Prediction", AAAI
2023 (arXiv 2301.03461). Mixer x1, 4 heads, no gate, all at stride 4.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import Field
from torch import Tensor, nn

from degmix_edge.tasks import TaskSpec
from degmix_training.models._decoder import Decoder, DecoderConfig
from degmix_training.models._folded import PIXEL_FOLDS


class Config(DecoderConfig):
    """Sizes of DeMT. The defaults are the published ones, but for the backbone."""

    depth: int = Field(1, gt=0)
    num_heads: int = Field(4, gt=0)


class PixelQuery(nn.Module):
    """One task's query, at each pixel over the T tasks' fused tokens there; residual.

    `(N, L, d), (N, T L, d) -> (N, L, d)`. The public code's attention takes its first axis for the
    sequence: for one image the keys of a pixel are the same pixel of each task. The keys have no
    bias: softmax does not see it.
    """

    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.to_q, self.to_v = nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.to_k = nn.Linear(dim, dim, bias=False)
        self.project = nn.Linear(dim, dim)
        self.out = nn.Linear(dim, dim)
        self.out_norm = nn.LayerNorm(dim)

    def forward(self, task: Tensor, fused: Tensor) -> Tensor:
        n, length, dim = task.shape
        heads = (self.num_heads, dim // self.num_heads)
        q = self.to_q(task).view(n, length, 1, *heads)
        k = self.to_k(fused).view(n, -1, length, *heads).transpose(1, 2)  # N L T heads hd
        v = self.to_v(fused).view(n, -1, length, *heads).transpose(1, 2)
        scores = (q * k).sum(-1, keepdim=True) * heads[1] ** -0.5  # N L T heads 1
        attended = (scores.softmax(dim=2) * v).sum(2).flatten(2)
        return task + self.out_norm(self.out(self.project(attended)))


class Model(Decoder):
    """DeMT for the given tasks: `(N, 3, H, W) -> {task: (N, C, H, W) logits}`."""

    own_folds = PIXEL_FOLDS

    def __init__(
        self, config: DecoderConfig, tasks: Mapping[str, TaskSpec], *, pretrained: bool = False
    ) -> None:
        super().__init__(config, tasks, PixelQuery, patch=1, gated=False, pretrained=pretrained)

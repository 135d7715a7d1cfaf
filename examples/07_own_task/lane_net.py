"""A network with one output, named after the task."""

import torch
from torch import nn


class Lanes(nn.Module):
    """Image `(N, 3, H, W)`, normalised as on ImageNet, to logits `(N, 3, H / 2, W / 2)`."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 8, 5, 2, 2), nn.ReLU(), nn.Conv2d(8, 3, 1))

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Logits by task."""
        return {"lane": self.layers(image)}

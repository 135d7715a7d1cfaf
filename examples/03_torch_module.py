"""Build a bundle from your own torch module: it gives logits by task."""

import skimage.data
import torch
from torch import nn

import degmix_edge


class TwoTasks(nn.Module):
    """One small backbone, one head a task; logits at the input's size."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            *(nn.Conv2d(3, 16, 3, padding=1), nn.ReLU()),
            *(nn.Conv2d(16, 16, 3, padding=1), nn.ReLU()),
        )
        self.heads = nn.ModuleDict({"semseg": nn.Conv2d(16, 3, 1), "depth": nn.Conv2d(16, 1, 1)})

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Image `(N, 3, H, W)`, normalised as ImageNet's, to `{task: (N, C, H, W)}`."""
        features = self.backbone(image)
        return {task: head(features) for task, head in self.heads.items()}


torch.manual_seed(0)
bundle = degmix_edge.build(
    TwoTasks(),
    "mine.degmix",
    size=(96, 128),
    classes={"semseg": ["floor", "wall", "door"]},
    calibration=[skimage.data.coffee(), skimage.data.chelsea()],
    force=True,
)
print(bundle.path, bundle.manifest.precision, bundle.manifest.network.task("semseg").classes)

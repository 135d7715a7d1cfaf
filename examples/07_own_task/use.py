"""Use a task of another package, after `pip install ./examples/07_own_task`."""

import skimage.data
import torch
from PIL import Image
from torch import nn

import degmix_edge
from degmix_edge import tasks


class Lanes(nn.Module):
    """A network with one output, named after the task."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Conv2d(3, 3, 5, padding=2)

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Image `(N, 3, H, W)` to logits `(N, 3, H, W)`."""
        return {"lane": self.layers(image)}


print("tasks:", ", ".join(tasks.names()))
torch.manual_seed(0)
degmix_edge.build(Lanes(), "lane.degmix", size=(96, 128), precision="fp32", force=True)
with degmix_edge.load("lane.degmix") as session:
    lane = session(skimage.data.coffee())["lane"]
Image.fromarray(lane.overlay(skimage.data.coffee())).save("lane.png")
print("classes:", ", ".join(lane.classes))

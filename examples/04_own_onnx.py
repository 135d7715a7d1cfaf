"""Build a bundle from an ONNX file of your own: its outputs are logits, named after tasks."""

import skimage.data
import torch
from torch import nn

import degmix_edge


class Depth(nn.Module):
    """Anything that PyTorch can export."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 1, 1)
        )

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Image `(N, 3, H, W)` to depth `(N, 1, H, W)` in metres."""
        return self.layers(image)


names = {"input_names": ["image"], "output_names": ["depth"]}
example = torch.zeros(1, 3, 96, 128)
torch.onnx.export(Depth().eval(), (example,), "mine.onnx", dynamo=True, verbose=False, **names)

imagenet = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "color": "rgb"}
degmix_edge.build("mine.onnx", "depth.degmix", precision="fp16", **imagenet, force=True)
with degmix_edge.load("depth.degmix") as session:
    depth = session(skimage.data.coffee())["depth"]
print(f"depth {depth.shape} {depth.dtype} in {depth.unit}")

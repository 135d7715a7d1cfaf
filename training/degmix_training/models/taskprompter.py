"""TaskPrompter: a token of each task among those of the image, whose attention makes its features.

Ye and Xu, "TaskPrompter: Spatial-Channel Multi-Task Prompting for Dense Scene Understanding", ICLR
2023. A vision transformer on [prompts, patches], with one prompt a task; in every block

    prompts += attention + Linear(Linear(LayerNorm(prompts)))       the inner one has L pixels

At four depths, with s_t a prompt's raw attention scores to the pixels, for each head, and c_t the
products of its L numbers with each channel of the pixels, for each window of the image:

    S_t = Conv1x1(x + s_t x)         each head scales its share of the channels
    C_t = Conv1x1(x + c_t x)         each channel is scaled in every window
    F_t = Conv1x1(GELU(BN(Conv3x3(Conv1x1([S_t, C_t])))))
    F_t = sum_u r_tu F_u             weights from the scores between prompts; PASCAL-Context only
    logits_t = head_t(resize(sum of F_t over the depths))           at stride 4
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import reduce
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from degmix_edge.errors import ShapeError
from degmix_edge.tasks import TaskSpec
from degmix_training.backbone import PLAIN_DEPTHS, PLAIN_STRIDE, drop_class_token, plain_transformer
from degmix_training.models._network import Head, HeadSettings, Network, resize


class Config(HeadSettings):
    """Sizes of TaskPrompter; the defaults are those of PASCAL-Context with ViT-L.

    Attributes:
        backbone: A plain vision transformer by its timm name.
        height, width: Input size in pixels. A prompt has one number for each patch, so a network
            has one size; training fills them in.
        blocks, dim, num_heads: Sizes of the transformer; None is the backbone's.
        windows: Windows along each side of the image, for the scores of channels.
        features: Channels of each of a task's two maps at a depth.
        head_width: Channels of a task's map from there on.
        reweigh: Whether a task's map is a weighted sum of those of all tasks.
        drop_path: How often training leaves out the last block; the rate rises from 0 at the first.
    """

    backbone: str = "vit_large_patch16_384"
    height: int = Field(gt=0)
    width: int = Field(gt=0)
    blocks: int | None = Field(None, ge=4)
    dim: int | None = Field(None, gt=0)
    num_heads: int | None = Field(None, gt=0)
    windows: int = Field(1, gt=0)
    features: int = Field(300, gt=0)
    head_width: int = Field(350, gt=0)
    reweigh: bool = True
    drop_path: float = Field(0.0, ge=0, lt=1)


class Depth(NamedTuple):
    """What one depth gives of T tasks.

    Attributes:
        x: The pixels `(N, C, h, w)`.
        to_pixels: Scores of prompts to pixels, `(N, heads, T, h, w)`.
        to_channels: Scores of prompts to channels, `(N, windows * windows, T, C)`.
        to_tasks: Scores of prompts to prompts, `(N, heads, T, T)`.
    """

    x: Tensor
    to_pixels: Tensor
    to_channels: Tensor
    to_tasks: Tensor


class PromptedTransformer(nn.Module):
    """`(N, 3, H, W)` of one size to what four depths give."""

    def __init__(self, config: Config, tasks: int, *, pretrained: bool) -> None:
        super().__init__()
        self.name = config.backbone
        self.windows = config.windows
        self.multiple = PLAIN_STRIDE * config.windows
        side_h, side_w = (s + -s % self.multiple for s in (config.height, config.width))
        self.grid = (side_h // PLAIN_STRIDE, side_w // PLAIN_STRIDE)
        sizes = {"depth": config.blocks, "embed_dim": config.dim, "num_heads": config.num_heads}
        options = {key: value for key, value in sizes.items() if value is not None}
        options |= {"img_size": (side_h, side_w), "drop_path_rate": config.drop_path}
        self.network = plain_transformer(config.backbone, options, pretrained)
        drop_class_token(self.network)
        dim, count = self.network.embed_dim, len(self.network.blocks)
        self.channels = [dim] * len(PLAIN_DEPTHS)
        self.last = [round(share * count) - 1 for share in PLAIN_DEPTHS]
        pixels = self.grid[0] * self.grid[1]
        self.spread = nn.ModuleList(nn.Linear(dim, pixels) for _ in range(count))
        # Nothing reads the prompts behind the last block.
        self.gather = nn.ModuleList(nn.Linear(pixels, dim) for _ in range(count - 1))
        for layer in (*self.spread, *self.gather):
            nn.init.trunc_normal_(layer.weight, std=0.02)
            nn.init.zeros_(layer.bias)
        self.prompts = nn.Parameter(nn.init.trunc_normal_(torch.empty(tasks, dim), 1.0, 1.0))

    def forward(self, image: Tensor) -> list[Depth]:
        net = self.network
        x = net.patch_embed.proj(image).flatten(2).transpose(1, 2) + net.pos_embed
        tokens = torch.cat((self.prompts.expand(len(x), -1, -1), x), dim=1)
        depths = []
        for index in range(len(net.blocks)):
            tokens, scores = self._block(index, tokens)
            if scores is not None:
                is_last = index == len(net.blocks) - 1
                x = net.norm(tokens) if is_last else tokens[:, len(self.prompts) :]
                depths.append(Depth(x.transpose(1, 2).unflatten(2, self.grid), *scores))
        return depths

    def _block(self, index: int, tokens: Tensor) -> tuple[Tensor, tuple[Tensor, ...] | None]:
        """Apply one block to tokens `(N, T + L, C)`; the last one drops the prompts.

        Returns:
            Tokens, and the scores of `Depth` in its order if a depth ends here.
        """
        block, count = self.network.blocks[index], len(self.prompts)
        normed = block.norm1(tokens)
        qkv = block.attn.qkv(normed).unflatten(2, (3, block.attn.num_heads, -1))
        q, k, v = qkv.permute(2, 0, 3, 1, 4).unbind(0)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        attended = block.attn.proj(attended)
        numbers = self.spread[index](normed[:, :count])
        if index < len(self.gather):
            prompts = attended[:, :count] + self.gather[index](numbers)
            attended = torch.cat((prompts, attended[:, count:]), dim=1)
        else:
            tokens, attended = tokens[:, count:], attended[:, count:]
        tokens = tokens + block.drop_path1(attended)
        tokens = tokens + block.drop_path2(block.mlp(block.norm2(tokens)))
        if index not in self.last:
            return tokens, None
        scores = q[:, :, :count] @ k.transpose(2, 3)
        to_pixels = scores[..., count:].unflatten(3, self.grid)
        to_channels = self._windows(numbers) @ self._windows(normed[:, count:].mT).mT
        return tokens, (to_pixels, to_channels, scores[..., :count])

    def _windows(self, x: Tensor) -> Tensor:
        """Part `(N, K, L)`, with a number for each pixel, into windows: `(N, W, K, L / W)`."""
        side = self.windows
        x = x.unflatten(2, (side, self.grid[0] // side, side, self.grid[1] // side))
        return x.permute(0, 2, 4, 1, 3, 5).flatten(4).flatten(1, 2)


class TaskFeatures(nn.Module):
    """What one depth gives to maps `(N, head_width, h, w)` of all tasks."""

    def __init__(self, config: Config, channels: int, heads: int, tasks: list[str]) -> None:
        super().__init__()
        features, width = config.features, config.head_width
        self.windows = config.windows
        self.by_pixel = nn.ModuleDict({t: nn.Conv2d(channels, features, 1) for t in tasks})
        self.by_channel = nn.ModuleDict({t: nn.Conv2d(channels, features, 1) for t in tasks})
        self.fuse = nn.ModuleDict(
            {
                t: nn.Sequential(
                    nn.Conv2d(2 * features, width, 1),
                    nn.Conv2d(width, width, 3, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.GELU(),
                    nn.Conv2d(width, width, 1),
                )
                for t in tasks
            }
        )
        self.reweigh = nn.ModuleDict(
            {
                t: nn.Sequential(nn.Conv2d(heads, heads, 1), nn.GELU(), nn.Conv2d(heads, 1, 1))
                for t in (tasks if config.reweigh else ())
            }
        )

    def forward(self, depth: Depth) -> list[Tensor]:
        """Compute each task's map, in the tasks' order."""
        x = depth.x
        by_head = x.unflatten(1, (depth.to_pixels.shape[1], -1))
        by_window = x.unflatten(3, (self.windows, -1)).unflatten(2, (self.windows, -1))
        maps = []
        for index, (task, fuse) in enumerate(self.fuse.items()):
            to_pixels = depth.to_pixels[:, :, index].unsqueeze(2)
            of_pixels = x + (by_head * to_pixels).flatten(1, 2)
            # (N, W, C) to (N, C, windows, 1, windows, 1)
            scales = depth.to_channels[:, :, index].mT.unflatten(2, (self.windows, 1, -1, 1))
            of_channels = x + (by_window * scales).flatten(4).flatten(2, 3)
            both = (self.by_pixel[task](of_pixels), self.by_channel[task](of_channels))
            maps.append(fuse(torch.cat(both, dim=1)))
        if not self.reweigh:
            return maps
        weighted = []
        for index, layers in enumerate(self.reweigh.values()):
            weights = layers(depth.to_tasks[:, :, index : index + 1]).split(1, dim=3)
            terms = [weight * m for weight, m in zip(weights, maps, strict=True)]
            weighted.append(reduce(torch.add, terms))
        return weighted


class Model(Network):
    """TaskPrompter for the given tasks: `(N, 3, H, W) -> {task: (N, C, H, W) logits}`."""

    def __init__(
        self, config: Config, tasks: Mapping[str, TaskSpec], *, pretrained: bool = False
    ) -> None:
        super().__init__()
        self.config = config
        self.backbone = PromptedTransformer(config, len(tasks), pretrained=pretrained)
        channels, heads = self.backbone.channels, self.backbone.network.blocks[0].attn.num_heads
        self.depths = nn.ModuleList(TaskFeatures(config, c, heads, list(tasks)) for c in channels)
        width = config.head_width
        self.heads = nn.ModuleDict(
            {
                t: Head(width, width, s.num_channels, config.partially_dynamic, nn.GELU)
                for t, s in tasks.items()
            }
        )

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Compute the logits of all tasks.

        Raises:
            ShapeError: The image has another size than the prompts' numbers.
        """
        height, width = image.shape[-2:]
        if (height, width) != (self.config.height, self.config.width):
            raise ShapeError(
                f"taskprompter: image of {height}x{width}, expected {self.config.height}x"
                f"{self.config.width}: its prompts have one number a patch, which another size "
                f"does not have. Train it at that size"
            )
        below, right = (-side % self.backbone.multiple for side in (height, width))
        image = F.pad(image, (0, right, 0, below)) if below or right else image
        rows, columns = self.backbone.grid
        by_depth = [
            layers(depth) for layers, depth in zip(self.depths, self.backbone(image), strict=True)
        ]
        outputs = {}
        for (task, head), maps in zip(self.heads.items(), zip(*by_depth, strict=True), strict=True):
            large = resize(reduce(torch.add, maps), (4 * rows, 4 * columns))
            outputs[task] = resize(head(large), image.shape[-2:])[..., :height, :width]
        return outputs

"""DenseMTL under the names of its public code, slow and obvious.

ResNet-50 and pyramid pooling are torchvision's, the rest is written from the description in words
and formulas; attention is a loop over pixels.
"""

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models import resnet50
from torchvision.models.segmentation.deeplabv3 import ASPPConv, ASPPPooling

WIDTHS = (4, 6, 6, 8, 8)
"""Of levels 0 to 4."""
SKIPS = (64, 256, 512, 1024)
DOWN = 4


def named(**parts):
    """A module with these children."""
    holder = nn.Module()
    for name, part in parts.items():
        holder.add_module(name, part)
    return holder


def cbr(channels, dim):
    return nn.Sequential(nn.Conv2d(channels, dim, 1, bias=False), nn.BatchNorm2d(dim), nn.ReLU())


def padded(channels, dim):
    """Its weights are `block.0.conv.*`."""
    return named(block=nn.Sequential(named(conv=nn.Conv2d(channels, dim, 3))))


def run_padded(part, x):
    return F.elu(part.block[0].conv(F.pad(x, (1, 1, 1, 1), mode="reflect")))


class PublicDenseMTL(nn.Module):
    """`order` gives by task the tasks that it reads, in the order of a set."""

    def __init__(self, tasks, order):
        super().__init__()
        self.order = order
        trunk = resnet50(replace_stride_with_dilation=[False, False, True])
        trunk.avgpool, trunk.fc = nn.Identity(), nn.Identity()
        self.backbone = named(encoder=trunk)
        self.heads = nn.ModuleDict({t: self._head(channels) for t, channels in tasks.items()})
        dim = WIDTHS[1]
        self.m = nn.ModuleDict()
        for t in tasks:
            parts = {}
            for s in order[t]:
                conv = nn.Conv2d(dim, dim, 3, padding=1)
                parts[f"extract_{s}"] = nn.Sequential(conv, nn.ReLU())
                gates = [nn.Conv2d(dim, dim // 2, 3, padding=1, bias=False) for _ in range(2)]
                gate = nn.Sequential(gates[0], nn.Sigmoid())
                parts[f"SA_{s}"] = named(attention=gate, conv=gates[1])
                three = {f"conv_{letter}": cbr(dim, dim) for letter in "bcd"}
                parts[f"SxTAM_{s}"] = named(**three)
                alpha = nn.Parameter(torch.randn(1, dim, 1, 1))
                parts[f"SxTAM_{s}"].register_parameter("alpha", alpha)
                parts[f"proj_{s}"] = cbr(dim + dim // 2, dim)
            parts["post"] = cbr(dim * (len(tasks) - 1), dim)
            self.m[t] = nn.ModuleDict({"1": nn.ModuleDict(parts)})
        # The public code keeps every weight once more, by task.
        self.params = nn.ModuleDict({t: nn.ModuleList([self.heads[t], self.m[t]]) for t in tasks})

    @staticmethod
    def _head(channels):
        width = WIDTHS[4]
        pools = [cbr(2048, width), *(ASPPConv(2048, width, rate) for rate in (6, 12, 18))]
        pools.append(ASPPPooling(2048, width))
        project = nn.Sequential(*cbr(5 * width, width), nn.Dropout(0.5))
        parts = [named(convs=nn.ModuleList(pools), project=project)]
        for level in (4, 3, 2, 1, 0):
            if level < 4:
                parts.append(padded(WIDTHS[level + 1], WIDTHS[level]))
            if level:
                parts.append(nn.Identity())  # a projection of the skip, unused
            skip = SKIPS[level - 1] if level else 0
            parts.append(padded(WIDTHS[level] + skip, WIDTHS[level]))
        parts += [nn.Conv2d(WIDTHS[level], channels, 1) for level in (0, 1)]
        return named(decoder=nn.ModuleList(parts))

    def forward(self, rgb):
        """`rgb` in [0, 1], `(N, 3, H, W)` with sides that 32 divides, to logits by task."""
        net = self.backbone.encoder
        maps = [net.relu(net.bn1(net.conv1((rgb - 0.45) / 0.225)))]
        x = net.maxpool(maps[0])
        for layer in (net.layer1, net.layer2, net.layer3, net.layer4):
            x = layer(x)
            maps.append(x)
        features = {t: self._decode(t, maps, maps[4], (4, 3, 2, 1)) for t in self.heads}
        logits = {}
        for t in self.heads:
            given = [self._give(t, s, features[t], features[s]) for s in self.order[t]]
            mixed = features[t] + self.m[t]["1"]["post"](torch.cat(given, 1))
            full = self._decode(t, maps, mixed, (0,))
            logits[t] = self.heads[t].decoder[14](full)
        return logits

    def _decode(self, task, maps, x, levels):
        parts = self.heads[task].decoder
        for level in levels:
            first, second = {4: (0, 2), 3: (3, 5), 2: (6, 8), 1: (9, 11), 0: (12, 13)}[level]
            if level == 4:
                pool = parts[first]
                x = pool.project(torch.cat([branch(x) for branch in pool.convs], 1))
            else:
                x = run_padded(parts[first], x)
            if level == 0 or maps[level - 1].shape[-1] > x.shape[-1]:
                x = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
            if level:
                x = torch.cat((x, maps[level - 1]), 1)
            x = run_padded(parts[second], x)
        return x

    def _give(self, t, s, mine, other):
        parts = self.m[t]["1"]
        offered = parts[f"extract_{s}"](other)
        gate = parts[f"SA_{s}"]
        own = gate.conv(offered) * gate.attention(offered)
        cross = parts[f"SxTAM_{s}"]
        pooled = F.max_pool2d(offered, DOWN)
        query, key, value = (
            cross.conv_b(mine[..., ::DOWN, ::DOWN]),
            cross.conv_c(pooled),
            cross.conv_d(pooled),
        )
        n, dim, height, width = query.shape
        taken = torch.empty_like(query)
        for y in range(height):
            for x in range(width):
                scores = (query[..., y, x, None, None] * key).sum(1) / dim**0.5  # n, h, w
                weights = scores.flatten(1).softmax(1).view(n, 1, height, width)
                taken[..., y, x] = (weights * value).sum((2, 3))
        taken = taken.repeat_interleave(DOWN, 2).repeat_interleave(DOWN, 3)
        return parts[f"proj_{s}"](torch.cat((own, cross.alpha * taken), 1))


def seen_some_images(tasks, order, size=(64, 96), seed=0):
    """One with random weights, whose batch norms have seen random images."""
    torch.manual_seed(seed)
    network = PublicDenseMTL(tasks, order)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.uniform_(module.bias, -0.5, 0.5)
            module.momentum = None  # the plain mean of all batches
    network.train()
    with torch.no_grad():
        for _ in range(2):
            network(torch.rand(4, 3, *size))
        if "depth" in tasks:  # 65536 / (cm + 1) of some metres
            depth = network.heads["depth"].decoder[14]
            depth.weight.mul_(100)
            depth.bias.fill_(150)
    return network.eval()

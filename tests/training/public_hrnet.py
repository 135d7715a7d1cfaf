"""HRNet as mmsegmentation and the DeMT family's code have it, slow and obvious, in float64.

Modules carry the names of the released files. Enlarging is written out as sums over pixels with
half-pixel centres, so that nothing here depends on an option of an interpolation function.
"""

import torch
from torch import nn

# Blocks of stage 1, then modules, branches' channels and blocks of stages 2 to 4.
W18_SMALL_V2 = (2, ((1, (18, 36)), (3, (18, 36, 72)), (2, (18, 36, 72, 144))), 2)


def conv_bn(channels, outputs, kernel, stride=1):
    conv = nn.Conv2d(channels, outputs, kernel, stride, kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(outputs)]


class Residual(nn.Module):
    """Two 3x3 convolutions, or 1x1, 3x3, 1x1 with four times the channels at the end."""

    def __init__(self, channels, width, bottleneck):
        super().__init__()
        shapes = [(channels, width, 3), (width, width, 3)]
        if bottleneck:
            shapes = [(channels, width, 1), (width, width, 3), (width, 4 * width, 1)]
        for number, shape in enumerate(shapes, 1):
            conv, norm = conv_bn(*shape)
            self.add_module(f"conv{number}", conv)
            self.add_module(f"bn{number}", norm)
        self.count = len(shapes)
        if bottleneck and channels != 4 * width:
            self.downsample = nn.Sequential(*conv_bn(channels, 4 * width, 1))

    def forward(self, x):
        y = x
        for number in range(1, self.count + 1):
            y = getattr(self, f"bn{number}")(getattr(self, f"conv{number}")(y))
            if number < self.count:
                y = y.relu()
        return ((self.downsample(x) if hasattr(self, "downsample") else x) + y).relu()


class Exchange(nn.Module):
    def __init__(self, widths, blocks):
        super().__init__()
        self.branches = nn.ModuleList(
            nn.Sequential(*(Residual(w, w, bottleneck=False) for _ in range(blocks)))
            for w in widths
        )
        self.fuse_layers = nn.ModuleList()
        for i, to in enumerate(widths):
            row = nn.ModuleList()
            for j, of in enumerate(widths):
                if j > i:
                    row.append(nn.Sequential(*conv_bn(of, to, 1)))
                elif j == i:
                    row.append(nn.Identity())
                else:
                    steps = []
                    for step in range(i - j):
                        last = step == i - j - 1
                        layers = conv_bn(of, to if last else of, 3, 2)
                        steps.append(nn.Sequential(*layers, *([] if last else [nn.ReLU()])))
                    row.append(nn.Sequential(*steps))
            self.fuse_layers.append(row)

    def forward(self, maps):
        maps = [branch(m) for branch, m in zip(self.branches, maps, strict=True)]
        fused = []
        for i, own in enumerate(maps):
            total = torch.zeros_like(own)
            for j, m in enumerate(maps):
                m = self.fuse_layers[i][j](m)
                if j > i:
                    m = enlarge(m, [side * 2 ** (j - i) for side in m.shape[-2:]])
                    m = enlarge(m, own.shape[-2:])
                total = total + m
            fused.append(total.relu())
        return fused


class PublicHRNet(nn.Module):
    """An image `(N, 3, H, W)` to the four branches."""

    def __init__(self, sizes):
        super().__init__()
        first, stages, blocks = sizes
        self.conv1, self.bn1 = conv_bn(3, 64, 3, 2)
        self.conv2, self.bn2 = conv_bn(64, 64, 3, 2)
        inner = [Residual(64 if i == 0 else 256, 64, bottleneck=True) for i in range(first)]
        self.layer1 = nn.Sequential(*inner)
        before = (256,)
        for number, (modules, widths) in enumerate(stages, 1):
            start = nn.ModuleList()
            for i, width in enumerate(widths):
                if i < len(before):
                    same = width == before[i]
                    layers = [] if same else [*conv_bn(before[i], width, 3), nn.ReLU()]
                    start.append(nn.Sequential(*layers))
                else:
                    layers = [*conv_bn(before[-1], width, 3, 2), nn.ReLU()]
                    start.append(nn.Sequential(nn.Sequential(*layers)))
            self.add_module(f"transition{number}", start)
            exchanges = [Exchange(widths, blocks) for _ in range(modules)]
            self.add_module(f"stage{number + 1}", nn.Sequential(*exchanges))
            before = widths

    def forward(self, image):
        x = self.bn1(self.conv1(image)).relu()
        x = self.layer1(self.bn2(self.conv2(x)).relu())
        maps = [x]
        for number in (1, 2, 3):
            start = getattr(self, f"transition{number}")
            maps = [layers(maps[min(i, len(maps) - 1)]) for i, layers in enumerate(start)]
            maps = getattr(self, f"stage{number + 1}")(maps)
        return maps


def enlarge(x, size):
    """`(N, C, h, w)` to `(N, C, *size)`, bilinear, pixel centres at a half."""
    for axis, wanted in ((2, size[0]), (3, size[1])):
        have = x.shape[axis]
        matrix = torch.zeros(wanted, have, dtype=x.dtype)
        for target in range(wanted):
            place = max((target + 0.5) * have / wanted - 0.5, 0.0)
            low = min(int(place), have - 1)
            high = min(low + 1, have - 1)
            matrix[target, low] += 1 - (place - low)
            matrix[target, high] += place - low
        x = torch.tensordot(x, matrix, dims=([axis], [1])).movedim(-1, axis)
    return x


def random_hrnet(sizes=W18_SMALL_V2, seed=0):
    """One in float64 with lively weights and statistics, which are exact in float32."""
    torch.manual_seed(seed)
    network = PublicHRNet(sizes)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, std=0.2)
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 1.5)
    return network.double().eval()

"""TaskPrompter's public network, slow and obvious: weights by their public names, task by task."""

import timm
import torch
import torch.nn.functional as F
from degmix_training.references._weights import Weights, gelu

BLOCKS, HEADS, DIM = 12, 3, 192
EPSILON = 1e-6
"""Of the transformer's norms."""


def random_state(tasks, size, features=6, width=8):
    """Weights in float32 under the names of a released file; `tasks` gives channels by name."""
    torch.manual_seed(0)
    pixels = size[0] * size[1] // 256
    vit = timm.create_model("vit_tiny_patch16_384", img_size=size, num_classes=0).state_dict()
    state = {
        f"backbone.{k}": v + 0.1 * v.abs().mean() * torch.randn_like(v) for k, v in vit.items()
    }
    del state["backbone.cls_token"]
    state["backbone.task_prompts"] = 1 + torch.randn(len(tasks), DIM)

    def layer(name, *shape):
        spread = torch.Size(shape[1:]).numel() ** -0.5
        state[f"{name}.weight"] = spread * torch.randn(shape)
        state[f"{name}.bias"] = 0.3 * torch.randn(shape[0])

    def norm(name, channels):
        for leaf in ("weight", "bias", "running_mean", "running_var"):
            state[f"{name}.{leaf}"] = 0.3 * torch.randn(channels)
        for leaf in ("weight", "running_var"):
            state[f"{name}.{leaf}"] = 0.5 + state[f"{name}.{leaf}"].abs()
        state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    for block in range(BLOCKS):
        layer(f"backbone.blocks.{block}.attn.token_trans", pixels, DIM)
        layer(f"backbone.blocks.{block}.attn.token_trans1", DIM, pixels)
    for task, channels in tasks.items():
        for depth in range(4):
            layer(f"backbone.fea_decode_spa.{depth}.{task}.0", features, DIM, 1, 1)
            layer(f"backbone.fea_decode_chan.{depth}.{task}.0", features, DIM, 1, 1)
            layer(f"backbone.fea_fuse.{depth}.{task}.0", width, 2 * features, 1, 1)
            layer(f"backbone.fea_fuse.{depth}.{task}.1", width, width, 3, 3)
            norm(f"backbone.fea_fuse.{depth}.{task}.2", width)
            layer(f"backbone.fea_fuse.{depth}.{task}.4", width, width, 1, 1)
            layer(f"backbone.ctr_attn_conv.{depth}.{task}.0", HEADS, HEADS, 1, 1)
            layer(f"backbone.ctr_attn_conv.{depth}.{task}.2", 1, HEADS, 1, 1)
        layer(f"heads.{task}.mt_proj.0", width, width, 3, 3)
        norm(f"heads.{task}.mt_proj.1", width)
        layer(f"heads.{task}.linear_pred", channels, width, 1, 1)
    return state


@torch.inference_mode()
def outputs(state, tasks, image, windows):
    """Logits `{task: (N, C, H, W)}` in float64 of an image `(N, 3, H, W)`."""
    w = Weights(state, torch.float64)
    x = w.conv("backbone.patch_embed.proj", image, 16)
    grid = x.shape[-2:]
    x = x.flatten(2).transpose(1, 2) + w["backbone.pos_embed"][:, 1:]
    prompts = w["backbone.task_prompts"].expand(len(x), -1, -1)
    total = dict.fromkeys(tasks, 0)
    for number in range(1, BLOCKS + 1):
        x, prompts, scores = one_block(
            w, f"backbone.blocks.{number - 1}", x, prompts, grid, windows
        )
        if number % 3 == 0:
            pixels = w.layer_norm("backbone.norm", x, EPSILON) if number == BLOCKS else x
            pixels = pixels.transpose(1, 2).unflatten(2, grid)
            for task, y in features(w, number // 3 - 1, tasks, pixels, scores).items():
                total[task] = total[task] + y
    logits = {}
    for task, y in total.items():
        y = F.interpolate(y, scale_factor=4, mode="bilinear")
        y = w.batch_norm(f"heads.{task}.mt_proj.1", w.conv(f"heads.{task}.mt_proj.0", y))
        y = w.conv(f"heads.{task}.linear_pred", gelu(y))
        logits[task] = F.interpolate(y, image.shape[-2:], mode="bilinear")
    return logits


def one_block(w, name, x, prompts, grid, windows):
    """One block of pixels `(N, L, C)` and prompts `(N, T, C)`.

    The scores are those of each prompt: to pixels and to prompts, one a head, and to channels, one
    `(N, C)` for each of the windows, row by row.
    """
    tokens = torch.cat((prompts, x), 1)
    normed = w.layer_norm(f"{name}.norm1", tokens, EPSILON)
    count = prompts.shape[1]
    qkv = w.linear(f"{name}.attn.qkv", normed).chunk(3, dim=-1)
    taken, raw = [], []
    for head in range(HEADS):
        q, k, v = (part.chunk(HEADS, dim=-1)[head] for part in qkv)
        raw.append(q @ k.transpose(1, 2))
        taken.append((raw[-1] / q.shape[-1] ** 0.5).softmax(-1) @ v)
    attended = w.linear(f"{name}.attn.proj", torch.cat(taken, -1))
    numbers = w.linear(f"{name}.attn.token_trans", normed[:, :count])
    attended[:, :count] += w.linear(f"{name}.attn.token_trans1", numbers)
    tokens = tokens + attended
    inner = w.linear(f"{name}.mlp.fc1", w.layer_norm(f"{name}.norm2", tokens, EPSILON))
    tokens = tokens + w.linear(f"{name}.mlp.fc2", gelu(inner))
    scores = []
    for task in range(count):
        to_pixels = [r[:, task, count:].unflatten(1, grid) for r in raw]
        to_prompts = [r[:, task, :count] for r in raw]
        product = numbers[:, task, :, None] * normed[:, count:]  # N L C
        product = product.unflatten(1, grid)
        rows = product.chunk(windows, dim=1)
        to_channels = [part.sum((1, 2)) for row in rows for part in row.chunk(windows, dim=2)]
        scores.append((to_pixels, to_channels, to_prompts))
    return tokens[:, count:], tokens[:, :count], scores


def features(w, depth, tasks, x, scores):
    """Maps of all tasks at one depth, of pixels `(N, C, h, w)`."""
    maps = {}
    for task, (to_pixels, to_channels, _) in zip(tasks, scores, strict=True):
        shares = zip(x.chunk(HEADS, dim=1), to_pixels, strict=True)
        of_pixels = x + torch.cat([part * score[:, None] for part, score in shares], 1)
        of_channels = x.clone()
        windows = round(len(to_channels) ** 0.5)
        height, width = (side // windows for side in x.shape[-2:])
        for place, score in enumerate(to_channels):
            top, left = height * (place // windows), width * (place % windows)
            window = (..., slice(top, top + height), slice(left, left + width))
            of_channels[window] += score[:, :, None, None] * x[window]
        both = [
            w.conv(f"backbone.fea_decode_spa.{depth}.{task}.0", of_pixels),
            w.conv(f"backbone.fea_decode_chan.{depth}.{task}.0", of_channels),
        ]
        name = f"backbone.fea_fuse.{depth}.{task}"
        y = w.conv(f"{name}.1", w.conv(f"{name}.0", torch.cat(both, 1)))
        maps[task] = w.conv(f"{name}.4", gelu(w.batch_norm(f"{name}.2", y)))
    mixed = {}
    for task, (_, _, to_prompts) in zip(tasks, scores, strict=True):
        name = f"backbone.ctr_attn_conv.{depth}.{task}"
        heads = torch.stack(to_prompts, 1)[:, :, None]  # N heads 1 T
        weights = w.conv(f"{name}.2", gelu(w.conv(f"{name}.0", heads)))
        terms = zip(weights.unbind(-1), maps.values(), strict=True)
        mixed[task] = sum(weight[..., None] * y for weight, y in terms)
    return mixed

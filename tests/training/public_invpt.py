"""InvPT's public network, slow and obvious: weights by their public names, one task at a time."""

import timm
import torch
import torch.nn.functional as F
from degmix_training.references import vit
from degmix_training.references._weights import Weights

D = "multi_task_decoder"
HEADS = 2


def random_state(tasks, size, features=8, dim=16):
    """Weights in float32 under the names of a released file; `tasks` gives channels by name."""
    torch.manual_seed(0)
    backbone = timm.create_model("vit_tiny_patch16_384", img_size=size, num_classes=0)
    state = {f"backbone.{key}": value for key, value in backbone.state_dict().items()}
    state = {k: v + 0.1 * v.abs().mean() * torch.randn_like(v) for k, v in state.items()}
    shapes = {}

    def layer(name, *shape, bias=True):
        shapes[f"{name}.weight"] = shape
        if bias:
            shapes[f"{name}.bias"] = shape[:1]

    def norm(name, width, batch=False):
        for leaf in ("weight", "bias", *(("running_mean", "running_var") if batch else ())):
            shapes[f"{name}.{leaf}"] = (width,)
        if batch:
            state[f"{name}.num_batches_tracked"] = torch.tensor(7)

    widths = (dim, dim // 2, dim // 4)
    for task, channels in tasks.items():
        layer(f"{D}.intermediate_head.{task}", channels, features, 1, 1)
        layer(f"{D}.invpt.mix_proj.{task}.0", dim, features + channels, 1, 1)
        layer(f"{D}.invpt.mt_proj.{task}.0", dim, dim, 3, 3)
        norm(f"{D}.invpt.mt_proj.{task}.1", dim, batch=True)
        layer(f"heads.{task}.linear_pred", channels, dim, 1, 1)
        for place, width in enumerate((192, features)):
            name = f"{D}.preliminary_decoder.{task}.{place}"
            layer(f"{name}.conv", width, 192, 3, 3, bias=False)
            norm(f"{name}.bn1", width, batch=True)
    shapes[f"{D}.scale_embed.0.weight"] = (192, widths[2], 3, 3)
    shapes[f"{D}.scale_embed.0.bias"] = (widths[2],)
    layer(f"{D}.scale_embed.1", widths[1], 192, 3, 3)
    layer(f"{D}.scale_embed.2", dim, 192, 3, 3)
    norm(f"{D}.invpt.norm_mt", widths[2] * len(tasks))
    for stage, width in enumerate(widths):
        norm(f"{D}.invpt.norm_mts.{stage}", width * len(tasks))
        block = f"{D}.invpt.invpt_stages.{stage}.blocks.0"
        norm(f"{block}.norm1", width)
        norm(f"{block}.norm2", width)
        layer(f"{block}.mlp.fc1", 4 * width, width)
        layer(f"{block}.mlp.fc2", width, 4 * width)
        layer(f"{block}.attn.fuse_attn", HEADS, 2 * HEADS, 1, 1)
        for leaf in ("proj_q", "proj_k", "proj_v", "proj"):
            layer(f"{block}.attn.{leaf}", width, width)
        for index in range(len(tasks)):
            layer(f"{D}.invpt.redu_chan.{stage}.{index}", dim, width, 1, 1)
            layer(f"{block}.attn.conv_proj_q.{index}.conv", width, 1, 3, 3, bias=False)
            norm(f"{block}.attn.conv_proj_q.{index}.bn", width, batch=True)
            for place, channels in ((1, 2 * width), (4, width)) if stage else ():
                up = f"{D}.invpt.invpt_stages.{stage}.patch_embed.{index}.proj"
                layer(f"{up}.{place}", width, channels, 3, 3, bias=False)
                norm(f"{up}.{place + 1}", width, batch=True)
    for name, shape in shapes.items():
        spread = max(1, torch.Size(shape[1:]).numel()) ** -0.5
        state[name] = spread * torch.randn(shape)
        if len(shape) == 1:
            state[name] = 0.3 * state[name] + (0 if name.endswith(("bias", "mean")) else 1.0)
        if name.endswith("running_var"):
            state[name] = state[name].abs() + 0.3
    return state


@torch.inference_mode()
def outputs(state, tasks, image, backbone):
    """Logits and initial predictions `{task: (N, C, H, W)}` in float64 of an image `(N, 3, H, W)`.

    `backbone` gives the settings of the transformer that its weights do not tell.
    """
    own = {k.removeprefix("backbone."): v for k, v in state.items() if k.startswith("backbone.")}
    maps = vit.maps(Weights(own, torch.float64), image, backbone)
    w = Weights(state, torch.float64)
    rows, columns = (side // 2 for side in maps[0].shape[-2:])
    start = bilinear(maps[3], (rows, columns))
    initial, x, total = {}, {}, {}
    for task in tasks:
        y = start
        for place in (0, 1):
            name = f"{D}.preliminary_decoder.{task}.{place}"
            y = w.batch_norm(f"{name}.bn1", w.conv(f"{name}.conv", y)).relu()
        initial[task] = w.conv(f"{D}.intermediate_head.{task}", y)
        x[task] = w.conv(f"{D}.invpt.mix_proj.{task}.0", torch.cat((y, initial[task]), 1))
    skips = [None, w.conv(f"{D}.scale_embed.1", maps[1])]
    kernel, bias = (w[f"{D}.scale_embed.0.{leaf}"] for leaf in ("weight", "bias"))
    skips.append(F.conv_transpose2d(maps[0], kernel, bias, 2, padding=1, output_padding=1))
    scores = None
    for stage, skip in enumerate(skips):
        x, scores = one_stage(w, stage, x, skip, scores)
        normed = w.layer_norm(
            f"{D}.invpt.norm_mts.{stage}", channels_last(torch.cat([*x.values()], 1))
        )
        width = normed.shape[-1] // len(x)
        for index, task in enumerate(tasks):
            y = normed[..., index * width : (index + 1) * width].permute(0, 3, 1, 2)
            y = w.conv(f"{D}.invpt.redu_chan.{stage}.{index}", y) if stage else y
            total[task] = total.get(task, 0) + bilinear(y, (8 * rows, 8 * columns))
    logits = {}
    for task, y in total.items():
        y = w.batch_norm(f"{D}.invpt.mt_proj.{task}.1", w.conv(f"{D}.invpt.mt_proj.{task}.0", y))
        logits[task] = bilinear(w.conv(f"heads.{task}.linear_pred", y.relu()), image.shape[-2:])
    return logits, {task: bilinear(y, image.shape[-2:]) for task, y in initial.items()}


def one_stage(w, stage, x, skip, scores):
    """One up-transformer block; scores are `{task: [one (N, h, w, keys) a head]}`."""
    name = f"{D}.invpt.invpt_stages.{stage}"
    if skip is not None:
        for index, task in enumerate(x):
            y = bilinear(x[task], [2 * side for side in x[task].shape[-2:]])
            for place in (1, 4):
                up = f"{name}.patch_embed.{index}.proj"
                y = w.conv(f"{up}.{place}", y, dilation=2)
                y = w.batch_norm(f"{up}.{place + 1}", y).relu()
            x[task] = y + skip
    name += ".blocks.0"
    normed = {t: w.layer_norm(f"{name}.norm1", channels_last(y)) for t, y in x.items()}
    attended, scores = attention(w, f"{name}.attn", normed, 2 ** (stage + 1), scores)
    for task, y in x.items():
        y = channels_last(y + bilinear(attended[task], y.shape[-2:]))
        inner = F.gelu(w.linear(f"{name}.mlp.fc1", w.layer_norm(f"{name}.norm2", y)))
        x[task] = (y + w.linear(f"{name}.mlp.fc2", inner)).permute(0, 3, 1, 2)
    return x, scores


def attention(w, name, x, pool, before):
    """Maps `(N, h, w, C)` to attended maps `(N, C, h / 2, w / 2)`, and the scores."""
    pooled = [
        F.avg_pool2d(y.permute(0, 3, 1, 2), pool).flatten(2).transpose(1, 2) for y in x.values()
    ]
    keys = w.linear(f"{name}.proj_k", torch.cat(pooled, 1))
    values = w.linear(f"{name}.proj_v", torch.cat(pooled, 1))
    width = keys.shape[-1]
    share = width // HEADS
    attended, scores = {}, {}
    for index, (task, y) in enumerate(x.items()):
        conv = f"{name}.conv_proj_q.{index}"
        kernel = w[f"{conv}.conv.weight"]
        y = F.conv2d(y.permute(0, 3, 1, 2), kernel, stride=2, padding=1, groups=width)
        q = w.linear(f"{name}.proj_q", channels_last(w.batch_norm(f"{conv}.bn", y)))
        parts = [slice(h * share, (h + 1) * share) for h in range(HEADS)]
        found = [torch.einsum("nhwc,nkc->nhwk", q[..., p], keys[..., p]) for p in parts]
        found = [score / width**0.5 for score in found]
        if before is not None:
            for score in before[task]:
                large = bilinear(score.permute(0, 3, 1, 2), q.shape[1:3])
                found.append(channels_last(large))
            mix, bias = w[f"{name}.fuse_attn.weight"], w[f"{name}.fuse_attn.bias"]
            rows = [mix[h].flatten() for h in range(HEADS)]
            found = [
                sum(m * score for m, score in zip(row, found, strict=True)) + bias[h]
                for h, row in enumerate(rows)
            ]
        scores[task] = found
        taken = [
            torch.einsum("nhwk,nkc->nhwc", score.softmax(-1), values[..., p])
            for score, p in zip(found, parts, strict=True)
        ]
        attended[task] = w.linear(f"{name}.proj", torch.cat(taken, -1)).permute(0, 3, 1, 2)
    return attended, scores


def channels_last(x):
    return x.permute(0, 2, 3, 1)


def bilinear(x, size):
    return F.interpolate(x, tuple(size), mode="bilinear", align_corners=False)

"""The authors' heads for one image, slow and obvious, from the description in words and formulas.

Weights are a dictionary with the names of the released checkpoints. Attention is that of torch 1.7:
sequence first, heads regrouped by a plain `view`, so that it attends over the batch axis of its
input.
"""

import numpy as np
import torch
import torch.nn.functional as F


def random_state(
    model, order, tasks, channels, dim=16, depth=2, hidden=6, patch=4, seed=0, plain=None
):
    """A released checkpoint's `head.*` with random weights; `tasks` gives channels by name.

    `plain` is the width of a ViT, whose head has convolutions in place of the patch embedding.
    """
    generator = torch.Generator().manual_seed(seed)
    state = {}

    def put(name, *shape, scale=0.3, offset=0.0):
        noise = torch.randn(*shape, generator=generator, dtype=torch.float64)
        state[f"head.{name}"] = offset + scale * noise

    def linear(name, outputs, inputs, *kernel):
        scale = (inputs * int(np.prod(kernel or 1))) ** -0.5
        put(f"{name}.weight", outputs, inputs, *kernel, scale=scale)
        put(f"{name}.bias", outputs)

    def norm(name, width):
        put(f"{name}.weight", width, offset=1.0)
        put(f"{name}.bias", width)

    def batch_norm(name, width):
        norm(name, width)
        put(f"{name}.running_mean", width)
        state[f"head.{name}.running_var"] = 0.5 + torch.rand(width, generator=generator).double()
        state[f"head.{name}.num_batches_tracked"] = torch.tensor(7)

    def attention(name):
        put(f"{name}.in_proj_weight", 3 * dim, dim, scale=dim**-0.5)
        put(f"{name}.in_proj_bias", 3 * dim)
        linear(f"{name}.out_proj", dim, dim)

    linear("linear1.0", dim, sum(channels))
    norm("linear1.1", dim)
    if plain:
        for branch in (2, 3, 4, 5, 6):
            widths = (plain, 128) if branch < 6 else (4 * 128, dim)
            for place, inputs in ((0, widths[0]), (3, widths[1])):
                name = f"featconv.head{branch}.{place}"
                put(f"{name}.weight", widths[1], inputs, 3, 3, scale=(9 * inputs) ** -0.5)
                batch_norm(f"featconv.head{branch}.{place + 1}", widths[1])
    elif model == "degmix":
        linear("patch_embed.projection", dim, sum(channels), patch, patch)
        norm("patch_embed.norm", dim)
    for t, (task, count) in enumerate(tasks.items()):
        put(f"bottleneck.{task}.conv.weight", hidden, dim, 3, 3, scale=(9 * dim) ** -0.5)
        batch_norm(f"bottleneck.{task}.bn", hidden)
        linear(f"final_logits.{task}", count, hidden, 1, 1)
        for d in range(depth):
            block = f"defor_mixers.{t}.blocks.{d}"
            mix, mix_bn, deform = ("0", "2", "3") if order == "mix_first" else ("1", "3", "0")
            linear(f"{block}.{mix}", dim, dim, 1, 1)
            batch_norm(f"{block}.{mix_bn}", dim)
            linear(f"{block}.{deform}.fn.0", dim, dim, 1, 1)
            state[f"head.{block}.{deform}.fn.0.offset"] = torch.zeros(1, 2 * dim, 1, 1)
            linear(f"{block}.{deform}.fn.0.get_offset.p_conv", 18, dim, 3, 3)
            linear(f"{block}.{deform}.fn.0.get_offset.opt", 2 * dim, 9, 3, 3)
            state[f"head.{block}.{deform}.fn.0.get_offset.opt.weight"] *= 0.2
            batch_norm(f"{block}.{deform}.fn.2", dim)
        linear(f"smlp2.{t}.0", dim, dim)
        norm(f"smlp2.{t}.1", dim)
        if model == "degmix":
            for x in "qkv":
                norm(f"task_querys.{t}.norm_{x}", dim)
                put(f"task_querys.{t}.to_{x}.weight", dim, dim, scale=dim**-0.5)
            linear(f"task_querys.{t}.proj", dim, dim)
        else:
            attention(f"task_querys.{t}")
    attention("task_fusion")
    linear("smlp.0", dim, dim)
    norm("smlp.1", dim)
    if model != "demt":
        gate = "gmlps.gating.0.fn"
        norm(f"{gate}.ln1_0", dim)
        linear(f"{gate}.fc1_0", 2 * dim, dim)
        norm(f"{gate}.sgu_0.ln", dim)
        linear(f"{gate}.sgu_0.proj", dim, dim, 1)
        linear(f"{gate}.fc2_0", dim, dim)
    return state


class PublicHead:
    """`maps (1, C_i, h_i, w_i) -> {task: (1, C, H, W)}` in float64."""

    def __init__(self, model, order, state, tasks, heads):
        self.model, self.order, self.tasks, self.heads = model, order, list(tasks), heads
        self.state = {k.removeprefix("head."): v for k, v in state.items()}

    def __call__(self, maps, size):
        height, width = maps[0].shape[-2:]
        resized = [maps[0]] + [bilinear(m, (height, width)) for m in maps[1:]]
        x = torch.cat(resized, 1)
        if "featconv.head2.0.weight" in self.state:
            x = self.branches(maps).permute(0, 2, 3, 1)
        elif self.model == "degmix":
            weight = self.state["patch_embed.projection.weight"]
            patch = weight.shape[-1]
            x = F.pad(x, (0, -width % patch, 0, -height % patch))
            x = F.conv2d(x, weight, self.state["patch_embed.projection.bias"], stride=patch)
            x = self.layer_norm("patch_embed.norm", x.permute(0, 2, 3, 1))
        else:
            x = self.layer_norm("linear1.1", self.linear("linear1.0", x.permute(0, 2, 3, 1)))
        x = x.permute(0, 3, 1, 2)
        grid = x.shape[-2:]
        mixed = [self.mixer(t, x).flatten(2).transpose(1, 2) for t in range(len(self.tasks))]
        tokens = torch.cat(mixed, 1)
        fused = self.attention("task_fusion", tokens, tokens, tokens)
        fused = self.layer_norm("smlp.1", self.linear("smlp.0", fused))
        logits = {}
        for t, task in enumerate(self.tasks):
            query = self.free_attention if self.model == "degmix" else self.attention
            attended = query(f"task_querys.{t}", mixed[t], fused, fused)
            attended = self.layer_norm(f"smlp2.{t}.1", self.linear(f"smlp2.{t}.0", attended))
            y = mixed[t] + attended
            if self.model != "demt":
                y = self.gate(y)
            y = y.transpose(1, 2).reshape(1, -1, *grid)
            y = F.conv2d(y, self.state[f"bottleneck.{task}.conv.weight"], padding=1)
            y = F.relu(self.batch_norm(f"bottleneck.{task}.bn", y))
            y = self.conv(f"final_logits.{task}", y)
            logits[task] = bilinear(y, size)
        return logits

    def branches(self, maps):
        """Of a ViT: two convolutions a map, each enlarged four times, and two that join them."""
        done = []
        for branch, m in enumerate(maps, 2):
            m = self.two_convolutions(f"featconv.head{branch}", m)
            done.append(bilinear(m, [4 * side for side in m.shape[-2:]]))
        return self.two_convolutions("featconv.head6", torch.cat(done, 1))

    def two_convolutions(self, name, x):
        for place in (0, 3):
            x = F.conv2d(x, self.state[f"{name}.{place}.weight"], padding=1)
            x = F.relu(self.batch_norm(f"{name}.{place + 1}", x))
        return x

    def mixer(self, t, x):
        depth = len(
            [k for k in self.state if k.startswith(f"defor_mixers.{t}.") and "p_conv.b" in k]
        )
        for d in range(depth):
            block = f"defor_mixers.{t}.blocks.{d}"
            if self.order == "mix_first":
                u = self.batch_norm(f"{block}.2", gelu(self.conv(f"{block}.0", x)))
                x = u + self.deform(f"{block}.3.fn", u)
            else:
                u = x + self.deform(f"{block}.0.fn", x)
                x = self.batch_norm(f"{block}.3", gelu(self.conv(f"{block}.1", u)))
        return x

    def deform(self, name, x):
        _, channels, height, width = x.shape
        taps = self.conv(f"{name}.0.get_offset.p_conv", x, padding=1)
        for i in range(9):
            for row in range(height):
                for column in range(width):
                    taps[0, i, row, column] += row + 1 + (i // 3 - 1)
                    taps[0, 9 + i, row, column] += column + 1 + (i % 3 - 1)
        offset = self.conv(f"{name}.0.get_offset.opt", taps, padding=1, groups=2)
        sampled = torch.zeros_like(x)
        for c, row, column in np.ndindex(channels, height, width):
            y = row + float(offset[0, 2 * c, row, column])
            z = column + float(offset[0, 2 * c + 1, row, column])
            top, left = int(np.floor(y)), int(np.floor(z))
            for a in (top, top + 1):
                for b in (left, left + 1):
                    if 0 <= a < height and 0 <= b < width:
                        share = (1 - abs(y - a)) * (1 - abs(z - b))
                        sampled[0, c, row, column] += share * x[0, c, a, b]
        return self.batch_norm(f"{name}.2", gelu(self.conv(f"{name}.0", sampled)))

    def attention(self, name, q, k, v):
        """`(S, N, E)` inputs; `k` may have T times the N of `q`, which the view regroups."""
        width = q.shape[-1]
        weight, bias = self.state[f"{name}.in_proj_weight"], self.state[f"{name}.in_proj_bias"]
        parts = zip((q, k, v), weight.chunk(3), bias.chunk(3), strict=True)
        q, k, v = (x @ w.T + b for x, w, b in parts)
        length, batch, per_head = q.shape[0], q.shape[1], width // self.heads
        q = q.reshape(length, batch * self.heads, per_head).transpose(0, 1)
        k = k.reshape(-1, batch * self.heads, per_head).transpose(0, 1)
        v = v.reshape(-1, batch * self.heads, per_head).transpose(0, 1)
        shares = (q @ k.transpose(1, 2) / per_head**0.5).softmax(-1)
        out = (shares @ v).transpose(0, 1).reshape(length, batch, width)
        return self.linear(f"{name}.out_proj", out)

    def free_attention(self, name, q, k, v):
        """Batch first, all tokens, no softmax."""
        parts = []
        for x, tokens in zip("qkv", (q, k, v), strict=True):
            normed = self.layer_norm(f"{name}.norm_{x}", tokens)
            parts.append(normed @ self.state[f"{name}.to_{x}.weight"].T)
        per_head = q.shape[-1] // self.heads
        heads = []
        for h in range(self.heads):
            q, k, v = (p[..., h * per_head : (h + 1) * per_head] for p in parts)
            heads.append(q @ k.transpose(1, 2) / per_head**0.5 @ v)
        return self.linear(f"{name}.proj", torch.cat(heads, -1))

    def gate(self, y):
        gate = "gmlps.gating.0.fn"
        e = gelu(self.linear(f"{gate}.fc1_0", self.layer_norm(f"{gate}.ln1_0", y)))
        r, g = e.chunk(2, -1)
        weight = self.state[f"{gate}.sgu_0.proj.weight"]
        g = F.conv1d(
            self.layer_norm(f"{gate}.sgu_0.ln", g).transpose(1, 2),
            weight,
            self.state[f"{gate}.sgu_0.proj.bias"],
        ).transpose(1, 2)
        return y + self.linear(f"{gate}.fc2_0", r * g)

    def linear(self, name, x):
        return x @ self.state[f"{name}.weight"].T + self.state[f"{name}.bias"]

    def conv(self, name, x, **options):
        weight, bias = self.state[f"{name}.weight"], self.state[f"{name}.bias"]
        return F.conv2d(x, weight, bias, **options)

    def layer_norm(self, name, x):
        mean = x.mean(-1, keepdim=True)
        spread = ((x - mean) ** 2).mean(-1, keepdim=True)
        x = (x - mean) / (spread + 1e-5).sqrt()
        return x * self.state[f"{name}.weight"] + self.state[f"{name}.bias"]

    def batch_norm(self, name, x):
        shape = (1, -1, 1, 1)
        mean, spread, weight, bias = (
            self.state[f"{name}.{key}"].view(shape)
            for key in ("running_mean", "running_var", "weight", "bias")
        )
        return (x - mean) / (spread + 1e-5).sqrt() * weight + bias


def gelu(x):
    return x * 0.5 * (1 + torch.erf(x / 2**0.5))


def bilinear(x, size):
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def mmseg_swin(backbone):
    """Our Swin backbone's weights under mmsegmentation's names, patch merging in unfold order."""
    state = {}
    for key, value in backbone.state_dict().items():
        name = key.removeprefix("network.")
        if ".downsample." in name:  # (column, row, C) to (C, row, column), a number at a time
            width = value.shape[-1] // 4
            order = [
                (column * 2 + row) * width + c
                for c in range(width)
                for row in range(2)
                for column in range(2)
            ]
            value = value[..., order]
            stage = int(name[len("layers_")])
            name = name.replace(f"layers_{stage}", f"stages.{stage - 1}")
        name = name.replace("layers_", "stages.").replace(
            "patch_embed.proj.", "patch_embed.projection."
        )
        name = name.replace(".attn.", ".attn.w_msa.").replace(".mlp.fc1.", ".ffn.layers.0.0.")
        name = name.replace(".mlp.fc2.", ".ffn.layers.1.").replace("norms.", "norm")
        state[name] = value.clone()
        if name.endswith("relative_position_bias_table"):
            state[name.replace("bias_table", "index")] = torch.zeros(49, 49, dtype=torch.int64)
    return state

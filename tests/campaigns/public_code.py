"""Our networks beside the public research code, both run, in float64 with random weights.

Give clones of the public repositories; each is optional:

    python tests/campaigns/public_code.py --atrc ATRC --m3vit M3ViT --mlore MLoRE --mtl MTL \\
        --mtt MTT

On GitHub, ATRC is brdav/atrc, M3ViT is VITA-Group/M3ViT, MLoRE is YuqiYang213/MLoRE, MTL is
SimonVandenhende/Multi-Task-Learning-PyTorch, and MTT is prismformore/Multi-Task-Transformer, which
also needs the package einops. The old packages that they need (mmcv, timm 0.5) are replaced by the
few names that these files import. Prints the largest difference of each part as a share of its
largest value, and ends with 1 if one is above 1e-12.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import tempfile
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import timm.layers
import torch
import torch.nn.functional as F
import yaml
from degmix_training.authors import import_checkpoint
from degmix_training.backbone import Backbone, PlainPositions
from degmix_training.config import network_config
from degmix_training.models import mlore, padnet
from degmix_training.models._tam import Distillation
from degmix_training.models.m3vit import TaskDecoder
from torch import Tensor, nn
from torchvision.models.resnet import Bottleneck

from degmix_edge import tasks

LIMIT = 1e-12
CHANNELS = {"semseg": 5, "depth": 1, "normals": 3, "edge": 1, "saliency": 2}
NYUD = {"semseg": 40, "depth": 1, "normals": 3, "edge": 1}
PASCAL = {"semseg": 21, "human_parts": 7, "sal": 2, "normals": 3, "edge": 1}
Difference = tuple[str, float]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("atrc", "m3vit", "mlore", "mtl", "mtt"):
        parser.add_argument(f"--{name}", type=Path)
    options = parser.parse_args()
    provide_old_packages()
    differences = []
    for folder, compare in (
        (options.atrc, hrnet),
        (options.m3vit, m3vit_decoder),
        (options.m3vit, distillation),
        (options.mlore, whole_mlore),
        (options.mtl, whole_padnet),
        (options.mtt, whole_invpt),
        (options.mtt, whole_taskprompter),
    ):
        if folder is not None:
            torch.manual_seed(0)
            with torch.inference_mode():
                for what, difference in compare(folder):
                    print(f"{what:<40} {difference:.1e}", flush=True)
                    differences.append(difference)
    sys.exit(any(not difference <= LIMIT for difference in differences))


def provide_old_packages() -> None:
    """Put stand-ins for packages that the public files import where Python finds them."""

    def module(name: str, **names: Any) -> None:
        sys.modules[name] = types.ModuleType(name)
        vars(sys.modules[name]).update(names)

    module("mmcv")
    module("mmcv.cnn", build_norm_layer=lambda config, width: ("bn", nn.BatchNorm2d(width)))
    module("models")
    module("models.decoder_head", BaseDecodeHead=PlainHead)
    module("models.resnet", Bottleneck=Bottleneck)
    module("termcolor", colored=None)
    if importlib.util.find_spec("einops") is None:
        module("einops", rearrange=lambda x, _, h, w: x.transpose(1, 2).unflatten(2, (h, w)))
    module("easydict", EasyDict=Dictionary)
    module("utils")
    module("utils.utils", to_2tuple=lambda x: (x, x))
    helpers = ("build_model_with_cfg", "named_apply", "adapt_input_conv")
    module("timm.models.helpers", **dict.fromkeys(helpers))
    layers = ("Mlp", "DropPath", "trunc_normal_", "lecun_normal_")
    known = {name: getattr(timm.layers, name) for name in layers}
    module("timm.models.layers", PatchEmbed=Patches, **known)
    nn.init.normal = nn.init.normal_
    np.int = int


class Dictionary(dict):
    __getattr__ = dict.__getitem__


class PlainHead(nn.Module):
    def __init__(self, num_classes: int, align_corners: bool = False, **_: Any) -> None:
        super().__init__()
        self.num_classes, self.align_corners = num_classes, align_corners

    def _transform_inputs(self, x: Tensor) -> Tensor:
        return x


class Patches(nn.Module):
    def __init__(self, img_size: Any, patch_size: int, in_chans: int, embed_dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(in_chans, embed_dim, patch_size, patch_size)
        self.num_patches = (img_size[0] // patch_size) * (img_size[1] // patch_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.proj(x).flatten(2).transpose(1, 2)


def public(file: Path) -> Any:
    """Import a file of public code by its path."""
    spec = importlib.util.spec_from_file_location(f"public_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def package(folder: Path) -> Any:
    """Import a folder of public code as a package, and return a function that gives its modules."""
    name = f"public_{folder.parent.name}"
    spec = importlib.util.spec_from_file_location(
        name, folder / "__init__.py", submodule_search_locations=[str(folder)]
    )
    sys.modules[name] = importlib.util.module_from_spec(spec)
    return lambda module: importlib.import_module(f"{name}.{module}")


def lively(network: Any) -> Any:
    """Give norms statistics, scales and shifts away from zero and one; float64, eval mode."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm):
            module.running_mean.normal_(std=0.2)
            module.running_var.uniform_(0.5, 1.5)
        if isinstance(module, nn.BatchNorm2d | nn.SyncBatchNorm | nn.LayerNorm):
            nn.init.uniform_(module.weight, 0.5, 1.0)
            nn.init.normal_(module.bias, std=0.2)
    network.double().eval()
    return network


def difference(ours: Tensor, theirs: Tensor) -> float:
    return float((ours - theirs).abs().max() / theirs.abs().max())


def specs(names: list[str]) -> dict[str, tasks.TaskSpec]:
    return {n: tasks.find(n).spec(tuple("abcde") if n == "semseg" else ()) for n in names}


def copy_conv_norm(ours: nn.Sequential, place: int, conv: nn.Module, norm: nn.Module) -> None:
    """Copy a convolution and the norm behind it; a bias in between has no effect, and is zeroed."""
    conv.bias.zero_()
    ours[place].weight.data.copy_(conv.weight)
    ours[place + 1].load_state_dict(norm.state_dict())


def hrnet(folder: Path) -> Iterator[Difference]:
    code = public(folder / "src/model/backbones/hrnet.py")
    theirs = lively(code.HRNet(code.config_dict["hrnetv2p_w18_small"]))
    ours = Backbone("hrnet_w18_small_v2").double().eval()
    ours.network.load_state_dict(theirs.state_dict())
    for size in ((128, 160), (106, 140), (425, 560)):
        image = torch.randn(1, 3, *size, dtype=torch.float64)
        pairs = zip(ours(image), theirs(image), strict=True)
        yield f"HRNet at {size[0]}x{size[1]}", max(difference(a, b) for a, b in pairs)


def m3vit_decoder(folder: Path) -> Iterator[Difference]:
    code = public(folder / "models/vit_up_head.py")
    options = {"num_conv": 4, "num_upsampe_layer": 4, "num_classes": 5}
    theirs = code.VisionTransformerUpHead(
        (64, 80), embed_dim=384, norm_cfg={}, p={"model_kwargs": {"tam": True}}, **options
    )
    lively(theirs).training = True  # its own flag alone: it then gives what TAM reads
    ours = TaskDecoder(384, network_config("m3vit", {}, (64, 80)), specs(["semseg"])["semseg"])
    ours.double().eval()
    ours.norm.load_state_dict(theirs.norm.state_dict())
    for number, stage in enumerate((*ours.stages, ours.head)):
        names = (f"conv_{number}", f"syncbn_fc_{number}")
        copy_conv_norm(stage, 0, *(getattr(theirs, name) for name in names))
    ours.head[3].load_state_dict(theirs.conv_4.state_dict())
    tokens = torch.randn(2, 1 + 20, 384, dtype=torch.float64)
    want, *features = theirs(tokens)
    levels = ours.levels(tokens[:, 1:], (4, 5))
    got = F.interpolate(ours.logits(levels), (64, 80), mode="bilinear")
    yield "M3ViT decoder, logits", difference(got, want)
    pairs = zip(levels, features, strict=True)
    yield "M3ViT decoder, what TAM reads", max(difference(a, b) for a, b in pairs)


def distillation(folder: Path) -> Iterator[Difference]:
    code = public(folder / "models/models.py")
    for count in (2, 3, 4, 5):
        names = list(CHANNELS)[:count]
        settings = types.SimpleNamespace(TASKS=types.SimpleNamespace(NUM_OUTPUT=CHANNELS))
        theirs = lively(code.TamModule(settings, names, 256))
        ours = Distillation(256, specs(names)).double().eval()
        for place, layers in ((0, theirs.layers0), (3, theirs.layers1)):
            copy_conv_norm(ours.share, place, *layers)
        steps = (theirs.layers2, theirs.encoder0, theirs.encoder1, theirs.decoder0, theirs.decoder1)
        for place, layers in zip((0, 3, 6, 9, 12), steps, strict=True):
            copy_conv_norm(ours.attend, place, *layers)
        for name, side in ours.side.items():
            copy_conv_norm(side, 0, *theirs.layers3[name])
            side[3].load_state_dict(theirs.layers4[name][0].state_dict())
        given = {name: torch.randn(2, 256, 8, 12, dtype=torch.float64) for name in names}
        want, got = theirs(given), ours(given)
        yield f"M3ViT TAM, {count} tasks", max(difference(got[n], want[n]) for n in names)


def whole_mlore(folder: Path) -> Iterator[Difference]:
    code = public(folder / "models/transformers/MLoRE.py")
    names, ranks, size = list(CHANNELS)[:3], (2, 4, 4, 6, 8), (64, 96)
    for mask_first in (False, True):
        p = Dictionary(TASKS=Dictionary(NAMES=names), final_embed_dim=32, rank_list=list(ranks))
        p |= {"spe_rank": 4, "topk": 3, "pre_softmax": mask_first}
        theirs = lively(
            code.MLoRE(p, range(3, 12, 3), img_size=size, patch_size=16, embed_dim=192, num_heads=3)
        )
        heads = nn.ModuleDict({name: code.ConvHead(32, CHANNELS[name]) for name in names})
        lively(heads)
        values = {"backbone": "vit_tiny_patch16_224", "channels": 32, "ranks": ranks}
        values |= {"task_rank": 4, "top_k": 3, "mask_first": mask_first}
        ours = mlore.Model(network_config("mlore", values, size), specs(names)).double().eval()
        fill_mlore(ours, theirs, heads, (size[0] // 16, size[1] // 16))
        image = torch.randn(2, 3, *size, dtype=torch.float64)
        features, routes = theirs(image)
        got = ours(image)
        pairs = [
            (got[n], F.interpolate(heads[n](features[n]), size, mode="bilinear")) for n in names
        ]
        kind = "masked before" if mask_first else "masked after"
        yield f"MLoRE, {kind} the softmax", max(difference(a, b) for a, b in pairs)
        yield f"MLoRE, {kind}, balance", balance_of(ours, routes, image)


def balance_of(ours: Any, routes: dict[str, Any], image: Tensor) -> float:
    """The relative difference of the balance losses, above their epsilon of 1e-10."""
    shares = [s for key in ("route_1_prob", "route_2_prob") for s in routes[key]]
    pooled = [torch.cat(list(by_task.values())).mean(0).flatten() for by_task in shares]
    want = sum(float((x.std() / x.mean()) ** 2) for x in pooled)
    ours.training = True  # its own flag alone: no noise, running statistics
    got = float(ours(image)["@balance"]) / ours.config.balance
    return max(0.0, abs(got - want) / want - 1e-7)


def fill_mlore(ours: Any, theirs: Any, heads: nn.ModuleDict, grid: tuple[int, int]) -> None:
    """Copy the public network's weights into ours, whose position table becomes theirs."""
    vit = ours.backbone.network.model
    assert isinstance(vit, PlainPositions)
    vit.pos_embed = nn.Parameter(theirs.pos_embed[:, 1:].clone())
    vit.patch_embed.grid_size = grid
    vit.patch_embed.proj.load_state_dict(theirs.patch_embed.proj.state_dict())
    vit.blocks.load_state_dict(theirs.blocks.state_dict())
    ours.backbone.last_norm.load_state_dict(theirs.norm.state_dict())
    for project, fuse in zip(ours.project, theirs.fea_fuse, strict=True):
        project.load_state_dict(fuse.state_dict())
    for blocks, *both in zip(ours.depths, theirs.MLoRE_1, theirs.MLoRE_2, strict=True):
        for block, other in zip(blocks, both, strict=True):
            fill_mixture(block, other)
    for name, head in heads.items():
        for layers, conv, norm, last in (
            (ours.weigh[name], *theirs.task_mask[name][:2], theirs.task_mask[name][3]),
            (ours.heads[name], *head.mt_proj[:2], head.linear_pred),
        ):
            copy_conv_norm(layers, 0, conv, norm)
            layers[3].load_state_dict(last.state_dict())


def fill_mixture(ours: Any, theirs: Any) -> None:
    """Copy one block of experts."""
    experts = list(theirs.lora_list_1)
    fill_experts(ours.experts, experts)
    ours.shared.load_state_dict(theirs.share_conv.state_dict())
    for name in ours.enter:
        fill_experts(ours.own[name], [theirs.conv2[name]])
        for mine, other in (
            (ours.enter, theirs.conv1),
            (ours.leave, theirs.conv3),
            (ours.mixture_norm, theirs.bn_all),
            (ours.norm, theirs.bn),
        ):
            mine[name].load_state_dict(other[name].state_dict())
        router, (inner, last) = ours.routers[name], theirs.router_1[name]
        for part, other in (
            (router.pixel, inner.conv1),
            (router.pixel_norm, inner.ln),
            (router.pixel_out, inner.conv3),
            (router.positions, inner.convsp),
            (router.channel_norm, inner.ln_sp),
            (router.channel, inner.conv2),
            (router.out, last),
        ):
            part.weight.data.copy_(other.weight.view_as(part.weight))
            part.bias.data.copy_(other.bias)


def fill_experts(ours: Any, experts: list[Any]) -> None:
    """Copy low-rank experts, which lie side by side in ours."""
    ours.down.weight.data.copy_(torch.cat([e.W.weight for e in experts]))
    ours.down.bias.data.copy_(torch.cat([e.W.bias for e in experts]))
    ours.up.weight.data.copy_(torch.cat([e.M.weight for e in experts], dim=1))
    ours.up_bias.data.copy_(torch.stack([e.M.bias for e in experts]))


def whole_padnet(folder: Path) -> Iterator[Difference]:
    sys.modules["models.layers"] = public(folder / "models/layers.py")
    trunk, code = public(folder / "models/seg_hrnet.py"), public(folder / "models/padnet.py")
    info = yaml.safe_load((folder / "models/model_info/hrnet_w18.yml").read_text())
    names, every = ["semseg", "depth"], ["semseg", "depth", "normals", "edge"]
    p = types.SimpleNamespace(
        TASKS=types.SimpleNamespace(NAMES=names),
        AUXILARY_TASKS=types.SimpleNamespace(NAMES=every, NUM_OUTPUT=CHANNELS),
    )
    widths = [18, 36, 72, 144]
    backbone = nn.Sequential(trunk.HighResolutionNet(info), trunk.HighResolutionFuse(widths, 256))
    theirs = lively(code.PADNet(p, backbone, sum(widths)))
    config = network_config("padnet", {"auxiliary": ("normals", "edge")})
    ours = padnet.Model(config, specs(names)).double().eval()
    ours.backbone.network.load_state_dict(backbone[0].state_dict())
    copy_conv_norm(ours.fuse, 0, *backbone[1].last_layer[:2])
    for name in every:
        initial = theirs.initial_task_prediction_heads
        copy_bottlenecks(ours.features[name], initial.layers[name])
        ours.initial[name].load_state_dict(initial.conv_out[name].state_dict())
    for name in names:
        copy_bottlenecks(ours.heads[name], theirs.heads[name])
        ours.heads[name][2].load_state_dict(theirs.heads[name][2].state_dict())
        for other, gate in ours.distil[name].items():
            block = theirs.multi_modal_distillation.self_attention[name][other]
            gate.attention.load_state_dict(block.attention[0].state_dict())
            gate.message.load_state_dict(block.conv.state_dict())
    image = torch.randn(1, 3, 96, 128, dtype=torch.float64)
    want, got = theirs(image), ours(image)
    yield "PAD-Net", max(difference(got[name], want[name]) for name in names)


def copy_bottlenecks(ours: nn.Sequential, theirs: nn.Sequential) -> None:
    """Copy the first two modules, which are bottlenecks."""
    for mine, other in zip(ours[:2], theirs[:2], strict=True):
        for number in (1, 2, 3):
            place = 3 * (number - 1)
            mine.layers[place].load_state_dict(getattr(other, f"conv{number}").state_dict())
            mine.layers[place + 1].load_state_dict(getattr(other, f"bn{number}").state_dict())
        if other.downsample is not None:
            mine.project.load_state_dict(other.downsample.state_dict())


def whole_invpt(folder: Path) -> Iterator[Difference]:
    modules = package(folder / "InvPT" / "models")
    vit, decoder = modules("transformers.vit"), modules("transformers.transformer_decoder")
    for names, size in ((["semseg", "depth"], (128, 128)), (list(NYUD), (448, 576))):
        p = Dictionary(TASKS=Dictionary(NAMES=names, NUM_OUTPUT=NYUD), backbone_channels=[192] * 4)
        p |= {"embed_dim": 24, "PRED_OUT_NUM_CONSTANT": 8, "mtt_resolution_downsample_rate": 2}
        p.spatial_dim = [[side // 16 for side in size]] * 4
        sizes = {"img_size": size, "patch_size": 16, "embed_dim": 192, "num_heads": 3}
        heads = nn.ModuleDict({name: decoder.MLPHead(32, NYUD[name]) for name in names})
        backbone = vit.VisionTransformer([3, 6, 9], **sizes)
        theirs = lively(modules("transformer_net").TransformerNet(p, backbone, None, heads))
        for layers in theirs.multi_task_decoder.invpt.mt_proj.values():
            layers[0].bias.zero_()  # the import folds it in FP32
        ours = imported(theirs)
        ours.training = True  # its own flag alone: it gives the initial predictions too
        image = torch.randn(2, 3, *size, dtype=torch.float64)
        want, got = theirs(image), ours(image)
        first = want["inter_preds"]
        what = f"InvPT, {len(names)} tasks"
        yield f"{what}, logits", max(difference(got[n], want[n]) for n in names)
        yield f"{what}, initial", max(difference(got[f"{n}@initial"], first[n]) for n in names)


def whole_taskprompter(folder: Path) -> Iterator[Difference]:
    modules = package(folder / "TaskPrompter" / "models")
    code = modules("transformers.taskprompter")
    cases = ((NYUD, (448, 576), 4), (PASCAL, (128, 128), 4), (PASCAL, (128, 128), 1))
    for channels, size, windows in cases:
        names = list(channels)
        p = Dictionary(TASKS=Dictionary(NAMES=names, NUM_OUTPUT=channels), prompt_len=1)
        p |= {"embed_dim": 20, "final_embed_dim": 24, "use_ctr": channels is PASCAL}
        sizes = {"img_size": size, "embed_dim": 192, "num_heads": 3, "chan_nheads": windows**2}
        backbone = code.TaskPrompter(p, range(3, 12, 3), **sizes)
        heads = nn.ModuleDict({name: code.ConvHead(24, channels[name]) for name in names})
        theirs = lively(modules("taskprompter_wrapper").TaskPrompterWrapper(p, backbone, heads))
        for module in (heads, backbone.fea_fuse):
            for name, parameter in module.named_parameters():
                if name.endswith(("mt_proj.0.bias", ".1.bias")):
                    parameter.zero_()  # the import folds it in FP32
        ours = imported(theirs, windows=windows)
        image = torch.randn(2, 3, *size, dtype=torch.float64)
        want, got = theirs(image), ours(image)
        pairs = [(got["saliency" if n == "sal" else n], want[n]) for n in names]
        what = f"TaskPrompter, {len(names)} tasks, {windows}x{windows} windows"
        yield what, max(difference(a, b) for a, b in pairs)


def imported(theirs: nn.Module, **settings: Any) -> Any:
    """Our network of a public network's weights, as `convert` makes it, in float64."""
    state = {key: value.float() for key, value in theirs.state_dict().items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "released.pth.tar"
        torch.save({"model": state}, path)
        return import_checkpoint(path, settings=settings).network.double()


if __name__ == "__main__":
    main()

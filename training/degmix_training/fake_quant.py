"""Fake quantization: a float network that computes on the grid of its INT8 engine.

The grid is that of `degmix_edge.quant.qparams`: symmetric, `amax / 127` rounded to FP16, one scale
for a tensor of activations and one for each output channel of weights. Rounding passes gradients
straight through. Ranges are either learned, by the gradient of the step size (Esser et al.,
"Learned Step Size Quantization", ICLR 2020, arXiv 1902.08153) in the logarithmic domain (Jain et
al., "Trained Quantization Thresholds", MLSys 2020, arXiv 1903.08066), or exponential averages of
what was seen (Jacob et al., CVPR 2018, arXiv 1712.05877).

Weights in front of a batch norm are quantized as the engine has them, with the norm folded in
(Krishnamoorthi, arXiv 1806.08342, section 3.2.2).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.overrides import TorchFunctionMode

from degmix_edge.quant.qparams import LEVELS, SMALLEST
from degmix_training.sites import Sites

LARGEST = float(torch.finfo(torch.float16).max)
ADDITIONS = {"add", "add_", "__add__", "__radd__", "__iadd__"}
"""What torch calls its additions."""
QUANTIZER = "quantizer"
"""The name of the module that `attach` adds to a network."""


def scale_of(amax: Tensor) -> Tensor:
    """Return the FP16 scale that maps `amax` to 127, as float32; its gradient is that of `amax`."""
    scale = (amax.double() / LEVELS).clamp(SMALLEST, LARGEST)
    rounded = scale.detach().half().double()
    return (scale + (rounded - scale).detach()).float()


def on_grid(x: Tensor, scale: Tensor, lowest: int) -> Tensor:
    """Round `x` to the grid of `scale`, with `lowest` and 127 as its ends.

    Gradients pass inside the ends. That of the scale is the one of learned step sizes.
    """
    steps = (x / scale).clamp(lowest, LEVELS)
    return (steps + (steps.round() - steps).detach()) * scale


class WeightGrid(nn.Module):
    """A parametrization that puts a weight on its INT8 grid, one scale for each index of `axis`.

    Args:
        axis: The axis of the output channels.
        norm: The batch norm that the engine folds into this weight, or None.
    """

    def __init__(self, axis: int, norm: nn.Module | None) -> None:
        super().__init__()
        self.axis = axis
        self.norm = [norm]  # in a list, so that it stays a module of the network alone

    def forward(self, weight: Tensor) -> Tensor:
        shape = [1] * weight.ndim
        shape[self.axis] = -1
        factor = self._factor(weight).view(shape)
        folded = (weight.double() * factor).float()
        others = tuple(i for i in range(weight.ndim) if i != self.axis)
        amax = folded.detach().abs().amax(dim=others, keepdim=True)
        return (on_grid(folded, scale_of(amax), -LEVELS) / factor).to(weight.dtype)

    def _factor(self, weight: Tensor) -> Tensor:
        """Return the factor of each channel that the norm applies, in float64."""
        norm: Any = self.norm[0]
        if norm is None:
            return torch.ones(weight.shape[self.axis], dtype=torch.float64, device=weight.device)
        factor = norm.weight.detach().double() / (norm.running_var.double() + norm.eps).sqrt()
        return torch.where(factor == 0, torch.ones_like(factor), factor)


class Quantizer(nn.Module):
    """The ranges of a network's quantized activations, and where they apply.

    Args:
        sites: Where.
        amax: The first range of each tensor.
        ranges: `learned` or `ema`.
        freeze: The share of the training after which ranges stay as they are.
        decay: What an `ema` keeps of its last value at each step.
    """

    def __init__(
        self,
        sites: Sites,
        amax: Mapping[str, float],
        *,
        ranges: Literal["learned", "ema"],
        freeze: float,
        decay: float,
    ) -> None:
        super().__init__()
        self.sites, self.freeze, self.decay = sites, freeze, decay
        self.learned, self.frozen = ranges == "learned", False
        first = torch.zeros(1 + max(sites.tensors.values(), default=-1))
        for tensor, index in sites.tensors.items():
            first[index] = max(float(first[index]), amax[tensor])
        values = first.clamp(min=LEVELS * SMALLEST).log2()
        if self.learned:
            self.log2_amax = nn.Parameter(values)
        else:
            self.register_buffer("log2_amax", values)
        self._calls: Counter[str] = Counter()
        self._owners: list[str] = []
        self._mode: _Additions | None = None

    def advance(self, progress: float) -> None:
        """Freeze the ranges when their share of the training is done."""
        self.frozen = progress >= self.freeze

    def amax(self) -> dict[str, float]:
        """Return the range of each tensor, exactly 127 of its steps."""
        steps = scale_of(self.log2_amax.detach().exp2()) * LEVELS
        return {tensor: float(steps[index]) for tensor, index in self.sites.tensors.items()}

    def forward(self, x: Tensor, tensor: str) -> Tensor:
        """Return `x` on the grid of `tensor`."""
        index = self.sites.tensors[tensor]
        if self.training and not self.learned and not self.frozen:
            self._observe(x.detach(), index)
        log2_amax = self.log2_amax[index]
        if self.learned and log2_amax.requires_grad:
            # The gradient of a step is a sum over all values; this keeps it as large as a weight's.
            share = (x.numel() * LEVELS) ** -0.5
            log2_amax = log2_amax * share + (log2_amax * (1 - share)).detach()
        return on_grid(x.float(), scale_of(log2_amax.exp2()), -LEVELS - 1).to(x.dtype)

    def _observe(self, x: Tensor, index: int) -> None:
        seen = x.abs().amax().float().clamp(min=LEVELS * SMALLEST)
        before = self.log2_amax[index].exp2()
        self.log2_amax[index] = (self.decay * before + (1 - self.decay) * seen).log2()

    def begin(self) -> None:
        """Start a forward pass."""
        self._calls.clear()
        self._owners.clear()
        self.end()
        if self.sites.sums:
            self._mode = _Additions(self)
            self._mode.__enter__()

    def end(self) -> None:
        """End a forward pass, also one that failed."""
        if self._mode is not None:
            self._mode.__exit__(None, None, None)
            self._mode = None

    def enter(self, path: str) -> None:
        """Note that the module `path` runs."""
        self._owners.append(path)

    def leave(self) -> None:
        """Note that the innermost module has run."""
        if self._owners:
            self._owners.pop()

    def read(self, path: str, x: Tensor) -> Tensor:
        """Return what this call of the module `path` reads in place of `x`."""
        tensors = self.sites.inputs[path]
        call = self._calls[path]
        self._calls[path] += 1
        tensor = tensors.get(call)
        return x if tensor is None else self(x, tensor)

    def addends(self, arguments: Sequence[Any]) -> tuple[Any, ...]:
        """Return the operands of an addition, with that on its grid which the engine quantizes."""
        path = self._owners[-1] if self._owners else ""
        key = f"{path}/Add"
        call = self._calls[key]
        self._calls[key] += 1
        site = self.sites.sums.get(path, {}).get(call)
        if site is None:
            return tuple(arguments)
        operand, tensor = site
        return tuple(
            self(value, tensor) if index == operand else value
            for index, value in enumerate(arguments)
        )


class _Additions(TorchFunctionMode):
    """Sends the operands of every addition of tensors through the quantizer."""

    def __init__(self, quantizer: Quantizer) -> None:
        super().__init__()
        self.quantizer = quantizer

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if getattr(func, "__name__", "") in ADDITIONS:
            args = self.quantizer.addends(args)
        return func(*args, **(kwargs or {}))


class _Hook:
    """Calls a method of the quantizer around a module; a copy of the network has copies of both."""

    def __init__(self, quantizer: Quantizer, path: str) -> None:
        self.quantizer, self.path = quantizer, path


class _Begin(_Hook):
    def __call__(self, module: nn.Module, args: Any) -> None:
        self.quantizer.begin()


class _End(_Hook):
    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        self.quantizer.end()


class _Enter(_Hook):
    def __call__(self, module: nn.Module, args: Any) -> None:
        self.quantizer.enter(self.path)


class _Leave(_Hook):
    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        self.quantizer.leave()


class _Read(_Hook):
    def __call__(self, module: nn.Module, args: Any) -> Any:
        first, *rest = args
        return (self.quantizer.read(self.path, first), *rest)


def attach(network: nn.Module, quantizer: Quantizer) -> None:
    """Let `network` compute on the grids of its weights and of `quantizer`, in place."""
    sites = quantizer.sites
    for weight in sites.weights:
        norm = network.get_submodule(weight.norm) if weight.norm else None
        grid = WeightGrid(weight.axis, norm)
        module = network.get_submodule(weight.module)
        parametrize.register_parametrization(module, weight.parameter, grid)
    for path in sites.inputs:
        network.get_submodule(path).register_forward_pre_hook(_Read(quantizer, path))
    if sites.sums:
        for path, module in network.named_modules():
            if path:
                module.register_forward_pre_hook(_Enter(quantizer, path))
                module.register_forward_hook(_Leave(quantizer, path))
    network.register_forward_pre_hook(_Begin(quantizer, ""), prepend=True)
    network.register_forward_hook(_End(quantizer, ""), always_call=True)
    network.add_module(QUANTIZER, quantizer)


def detached_state(network: nn.Module) -> dict[str, Tensor]:
    """Return the weights of a network without its fake quantization, each on its grid.

    An export of these weights comes to the same INT8 values and scales as the training had.
    """
    state = {}
    for key, value in network.state_dict().items():
        if key.startswith(f"{QUANTIZER}."):
            continue
        path, marker, rest = key.partition("parametrizations.")
        if not marker:
            state[key] = value
            continue
        parameter = rest.split(".")[0]
        module = network.get_submodule(path.removesuffix("."))
        state[f"{path}{parameter}"] = getattr(module, parameter).detach()
    return state


def freeze_norms(network: nn.Module) -> None:
    """Let every batch norm use its running statistics, as the engine does."""
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def first_broken(network: nn.Module, run: Callable[[], object]) -> str | None:
    """Return the path of the first module whose output is not finite while `run` runs, or None."""
    broken: list[str] = []

    def watch(path: str) -> Callable[..., None]:
        def look(module: nn.Module, args: Any, output: Any) -> None:
            if not broken and isinstance(output, Tensor) and not torch.isfinite(output).all():
                broken.append(path)

        return look

    leaves = [(p, m) for p, m in network.named_modules() if p and not list(_children(m))]
    handles = [module.register_forward_hook(watch(path)) for path, module in leaves]
    try:
        with torch.no_grad():
            run()
    finally:
        for handle in handles:
            handle.remove()
    return broken[0] if broken else None


def _children(module: nn.Module) -> list[nn.Module]:
    """Return the modules inside one, without the parametrizations of its weights."""
    return [child for name, child in module.named_children() if name != "parametrizations"]

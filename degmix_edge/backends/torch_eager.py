"""PyTorch, eager: the network as it was trained, what every engine is compared with."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from degmix_edge.backends._base import Backend as Base
from degmix_edge.backends.onnx_reference import nearest
from degmix_edge.graph.outputs import named_outputs
from degmix_edge.network import IMAGE, InputSpec, NetworkSpec, as_network_takes
from degmix_edge.preprocess import GREY
from degmix_edge.tasks import TaskSpec, logits_name
from degmix_edge.tasks._decodes import EPSILON

if TYPE_CHECKING:
    import torch


class Backend(Base):
    """Runs a PyTorch module eagerly, as it was trained.

    Args:
        spec: The network's promises.
        network: The module: normalised `(N, 3, H, W)` to `{task: logits}`, or to whatever the
            tasks of `spec` say. Other inputs come by their own names.
        raw_logits: Return the logits too, as `<task>_logits`.
    """

    name = "torch_eager"
    title = "PyTorch"

    def __init__(
        self, spec: NetworkSpec, network: torch.nn.Module, *, raw_logits: bool = False
    ) -> None:
        super().__init__(spec)
        self.network, self.raw_logits = network, raw_logits
        self._is_double = False

    def in_double(self) -> Backend:
        exact = Backend(self.spec, copy.deepcopy(self.network).double(), raw_logits=self.raw_logits)
        exact._is_double = True
        return exact

    @classmethod
    def unavailable(cls) -> str | None:
        if find_spec("torch") is None:
            return "torch is not installed: pip install 'degmix-edge[export]'"
        return None

    def _activate(self) -> None:
        self.network.eval()

    def _infer(self, feed: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        import torch

        with torch.inference_mode():
            named = {one.tensor or one.name: one for one in self.spec.inputs}
            others = {name: self._taken(feed[one.name], one) for name, one in named.items()}
            first = self._taken(feed[IMAGE], self.spec.image)
            outputs = named_outputs(self.network(first, **others))
            logits = {
                task.name: _at_size(_selected(outputs, task), task, self.spec)
                for task in self.spec.tasks
            }
            maps = {t.name: _decode(logits[t.name], t).numpy() for t in self.spec.tasks}
            if self.raw_logits:
                scored = [task.name for task in self.spec.tasks if task.has_logits]
                maps |= {logits_name(name): logits[name].numpy() for name in scored}
        return maps

    def _taken(self, array: np.ndarray, one: InputSpec) -> torch.Tensor:
        found = _taken(array, one)
        return found.double() if self._is_double and found.is_floating_point() else found

    def _deactivate(self) -> None:
        pass


def _normal(image: np.ndarray, spec: InputSpec) -> torch.Tensor:
    """An image as the network takes it: normalised `(N, C, H, W)`."""
    import torch

    mean, std = (torch.tensor(v).view(1, -1, 1, 1) * 255 for v in (spec.mean, spec.std))
    # A copy: torch warns of arrays that it must not write to, such as a decoded JPEG's.
    pixels = torch.from_numpy(image.copy()).permute(0, 3, 1, 2).float()
    if spec.color == "bgr":
        pixels = pixels.flip(1)
    if spec.color == "grey":
        pixels = (pixels * torch.tensor(GREY).view(1, 3, 1, 1)).sum(1, keepdim=True)
    return (pixels - mean) / std


def _taken(array: np.ndarray, one: InputSpec) -> torch.Tensor:
    """What a frame has of an input, as the network takes it."""
    import torch

    if one.kind == "image":
        return _normal(array, one)
    return torch.from_numpy(as_network_takes(array, one).copy())


def _selected(outputs: Mapping[str, torch.Tensor], task: TaskSpec) -> torch.Tensor:
    """The logits `(N, C, h, w)` of a task; a raw output as it is."""
    tensor = outputs[task.output or task.name]
    if task.is_raw:
        return tensor
    if tensor.ndim == 3:
        tensor = tensor[:, None]
    elif task.channels_last:
        tensor = tensor.movedim(-1, 1)
    return tensor if task.channels is None else tensor[:, slice(*task.channels)]


def _at_size(logits: torch.Tensor, task: TaskSpec, spec: NetworkSpec) -> torch.Tensor:
    """Logits at the map's size, as the deployed graph resizes them."""
    import torch

    sides = task.sides(spec.height, spec.width)
    if task.is_raw or tuple(logits.shape[2:]) == sides:
        return logits
    if not task.has_logits:
        rows, columns = (
            torch.from_numpy(nearest(*pair)) for pair in zip(logits.shape[2:], sides, strict=True)
        )
        return logits[:, :, rows[:, None], columns]
    return torch.nn.functional.interpolate(logits, sides, mode="bilinear", align_corners=False)


def _decode(logits: torch.Tensor, task: TaskSpec) -> torch.Tensor:
    """Decode logits as `tasks.decode` does, in torch."""
    import torch

    if task.has_labels:
        labels = logits.argmax(1) if task.decode == "argmax" else logits[:, 0]
        return labels.to(getattr(torch, task.map_spec(1, 1).dtype))
    if task.is_raw:
        return logits
    values = _DECODES[task.decode](logits)
    if task.scale != 1:
        values = values * task.scale
    return values.permute(0, 2, 3, 1).contiguous() if task.components else values[:, 0]


_DECODES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "foreground": lambda x: (x[:, 1:] - x[:, :1]).sigmoid(),
    "sigmoid": lambda x: x.sigmoid(),
    "identity": lambda x: x,
    "clamp": lambda x: x.clamp(min=0),
    "reciprocal": lambda x: 1 / x.clamp(min=EPSILON),
    "exp": lambda x: x.exp(),
    "standard_deviation": lambda x: (0.5 * x).exp(),
    "unit_vector": lambda x: x / x.norm(dim=1, keepdim=True).clamp(min=EPSILON),
}
"""Float decodes, with channels where they were."""

"""PyTorch, eager: the network as it was trained, what every engine is compared with."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np

from degmix_edge.backends._base import Backend as Base
from degmix_edge.network import NetworkSpec
from degmix_edge.tasks import TaskSpec, logits_name
from degmix_edge.tasks._base import EPSILON

if TYPE_CHECKING:
    import torch


class Backend(Base):
    """Runs a PyTorch module eagerly, as it was trained.

    Args:
        spec: The network's promises.
        network: The module: normalised `(N, 3, H, W)` to `{task: logits}`.
        raw_logits: Return the logits too, as `<task>_logits`.
    """

    name = "torch_eager"
    title = "PyTorch"

    def __init__(
        self, spec: NetworkSpec, network: torch.nn.Module, *, raw_logits: bool = False
    ) -> None:
        super().__init__(spec)
        self.network, self.raw_logits = network, raw_logits

    @classmethod
    def unavailable(cls) -> str | None:
        if find_spec("torch") is None:
            return "torch is not installed: pip install 'degmix-edge[export]'"
        return None

    def _activate(self) -> None:
        import torch

        self.network.eval()
        mean, std = (
            torch.tensor(v).view(1, 3, 1, 1) * 255 for v in (self.spec.mean, self.spec.std)
        )
        self._mean, self._std = mean, std

    def _infer(self, image: np.ndarray) -> dict[str, np.ndarray]:
        import torch

        with torch.inference_mode():
            # A copy: torch warns of arrays that it must not write to, such as a decoded JPEG's.
            pixels = torch.from_numpy(image.copy()).permute(0, 3, 1, 2).float()
            if self.spec.color == "bgr":
                pixels = pixels.flip(1)
            logits = self.network((pixels - self._mean) / self._std)
            maps = {t.name: _decode(logits[t.name], t).numpy() for t in self.spec.tasks}
            if self.raw_logits:
                maps |= {logits_name(t): logits[t].numpy() for t in self.spec.task_names}
        return maps

    def _deactivate(self) -> None:
        del self._mean, self._std


def _decode(logits: torch.Tensor, task: TaskSpec) -> torch.Tensor:
    """Decode logits as `tasks.decode` does, in torch."""
    import torch

    if task.decode == "argmax":
        return logits.argmax(1).to(torch.uint8)
    if task.decode == "foreground":
        return torch.sigmoid(logits[:, 1] - logits[:, 0])
    if task.decode == "sigmoid":
        return torch.sigmoid(logits[:, 0])
    if task.decode == "clamp":
        return logits[:, 0].clamp(min=0)
    unit = torch.nn.functional.normalize(logits, dim=1, eps=EPSILON)
    return unit.permute(0, 2, 3, 1).contiguous()

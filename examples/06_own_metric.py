"""Compare an engine with PyTorch by a metric of your own."""

import numpy as np

import degmix_edge
from degmix_edge.metrics import Metric


class FarError(Metric):
    """Mean error of the depth beyond three metres, in metres."""

    name, title, unit, higher_is_better = "far_error", "Far error", "m", False

    def __init__(self, num_channels: int = 1) -> None:
        """Start empty."""
        super().__init__(num_channels)
        self.total, self.count = 0.0, 0

    def _add(self, prediction: np.ndarray, target: np.ndarray) -> None:
        """Count one map `(H, W)` in metres; where the target is 0, the depth is not known."""
        far = target > 3
        self.total += float(np.abs(prediction[far] - target[far]).sum())
        self.count += int(far.sum())

    def compute(self) -> float:
        """The mean over all images, in metres."""
        return self.total / self.count if self.count else float("nan")


found = degmix_edge.compare("robot.degmix", data="synthetic:4", metrics={"depth": FarError})
depth = found.tasks["depth"]
print(f"PyTorch {depth.reference:.3f} m, engine {depth.value:.3f} m, worse by {depth.drop:+.2%}")
print(found.verdict)

"""What one call of a session cost."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Latency:
    """The latency of one call, in milliseconds. Images of a batch share their call.

    Attributes:
        pre_ms: Time to decode, resize and pad the images.
        net_ms: Time of the backend, from the input's bytes to the maps. Where the backend runs one
            image at a time, this includes waiting for the images of other threads.
        post_ms: Time to cut the padding off and to name the maps.
        stages: The parts of `net_ms` in milliseconds, by name, for a backend that measures them,
            such as a GPU's copies and kernels. Empty for every other backend.
    """

    pre_ms: float
    net_ms: float
    post_ms: float
    stages: dict[str, float] = field(default_factory=dict)

    @property
    def total_ms(self) -> float:
        """The sum of `pre_ms`, `net_ms` and `post_ms`."""
        return self.pre_ms + self.net_ms + self.post_ms

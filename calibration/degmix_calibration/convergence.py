"""How ranges settle with more images, which shows whether there were enough of them."""

from __future__ import annotations

import numpy as np

from degmix_edge.quant.ranges import Settled


class Trace:
    """The ranges after 1, 2, 4 ... images, and after all of them."""

    def __init__(self) -> None:
        self.amax: dict[int, dict[str, float]] = {}

    def add(self, count: int, amax: dict[str, float]) -> None:
        """Add the ranges of every tensor after `count` images."""
        self.amax[count] = amax

    def summary(self) -> tuple[Settled, ...]:
        """Return the ranges after each number of images, relative to the final ones."""
        if not self.amax:
            return ()
        final = self.amax[max(self.amax)]
        settled = []
        for count, amax in sorted(self.amax.items()):
            ratios = {
                name: amax[name] / final[name] for name in final if final[name] and name in amax
            }
            if not ratios:
                continue
            low, middle, high = np.percentile(list(ratios.values()), [10, 50, 90])
            worst = max(ratios, key=lambda name: abs(ratios[name] - 1))
            settled.append(
                Settled(
                    images=count,
                    low=float(low),
                    median=float(middle),
                    high=float(high),
                    worst=worst,
                    worst_ratio=float(ratios[worst]),
                )
            )
        return tuple(settled)

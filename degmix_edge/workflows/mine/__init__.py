"""Find the images that are worth most among labels: for calibration, or for annotation."""

from degmix_edge.workflows.mine.run import Mined, mine

__all__ = ["Mined", "mine"]

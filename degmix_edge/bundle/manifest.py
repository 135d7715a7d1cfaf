"""The contents of a bundle's `manifest.json`, and how it is read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError

from degmix_edge.config import Settings
from degmix_edge.errors import BundleError
from degmix_edge.files import sha256
from degmix_edge.network import NetworkSpec
from degmix_edge.preprocess import Fit
from degmix_edge.tensors import TensorSpec

SCHEMA = 1
MANIFEST = "manifest.json"
MODEL = "model.onnx"
GOLDEN = "golden.npz"
RANGES, RECIPE, CARD = "ranges.json", "recipe.yaml", "card.md"


class Engine(Settings):
    """One backend's engine, and what it was built from and for.

    Attributes:
        backend: Entry of `degmix_edge.backends`.
        file: Path of the engine inside the bundle.
        key: SHA-256 over model.onnx, recipe, backend, version and device.
        version: Version of the backend.
        device: The device that the engine was built for.
    """

    backend: str
    file: str
    key: str
    version: str
    device: str


class Manifest(Settings):
    """The contents of `manifest.json`.

    Attributes:
        schema_version: Version of this file's format; a newer one is refused.
        created: Time of creation in UTC, ISO 8601.
        network: Model, tasks (classes, units, palettes) and source checkpoint.
        fit: How an image of any size becomes the input.
        inputs, outputs: Inputs and outputs of model.onnx, which includes the post-processing.
        precision: fp32, fp16 or int8; `recipe.yaml` has the precision of each node.
        engines: Engines in the bundle.
        versions: Versions of the packages that built the bundle.
        files: SHA-256 by path of every file except this one.
    """

    schema_version: Annotated[int, Field(strict=True, ge=1)] = SCHEMA
    created: str
    network: NetworkSpec
    fit: Fit
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    precision: str
    engines: tuple[Engine, ...] = ()
    versions: dict[str, str]
    files: dict[str, str] = {}

    def engine(self, backend: str) -> Engine | None:
        """Return the engine of `backend`, or None if there is none."""
        return next((engine for engine in self.engines if engine.backend == backend), None)


def read_manifest(path: Path) -> Manifest:
    """Read the manifest of the bundle folder at `path`.

    Raises:
        BundleError: There is no bundle, or this version cannot read its manifest.
    """
    if not path.exists():
        raise BundleError(f"{path}: no such bundle")
    if not path.is_dir():
        raise BundleError(f"{path}: is a file, expected a bundle folder; `build engine` makes one")
    try:
        values = json.loads((path / MANIFEST).read_text())
    except FileNotFoundError:
        raise BundleError(
            f"{path}: no {MANIFEST} in it: not a bundle, or an unfinished one"
        ) from None
    except (OSError, ValueError) as error:
        raise BundleError(f"{path}: {MANIFEST} cannot be read: {error}") from None
    schema = values.get("schema_version") if isinstance(values, dict) else None
    if isinstance(schema, int) and schema > SCHEMA:
        raise BundleError(
            f"{path}: schema {schema}, this degmix-edge reads up to {SCHEMA}; update degmix-edge"
        )
    try:
        return Manifest.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise BundleError(f"{path}: {MANIFEST}: {where}: {first['msg']}") from None


def engine_key(model: bytes, recipe: bytes, backend: str, version: str, device: str) -> str:
    """Return one hash of everything that an engine depends on."""
    parts: tuple[Any, ...] = (sha256(model), sha256(recipe), backend, version, device)
    return sha256(json.dumps(parts).encode())

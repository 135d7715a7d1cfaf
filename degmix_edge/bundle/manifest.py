"""The contents of a bundle's `manifest.json`, and the check that they agree with each other."""

from __future__ import annotations

import json
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, ValidationError

from degmix_edge.bundle.reading import parse_json
from degmix_edge.config import Settings
from degmix_edge.errors import BundleError
from degmix_edge.files import sha256
from degmix_edge.network import NetworkSpec
from degmix_edge.preprocess import Fit
from degmix_edge.tensors import TensorSpec

SCHEMA = 2
MANIFEST, DIGEST, SIGNATURE = "manifest.json", "manifest.sha256", "manifest.sig"
MODEL = "model.onnx"
GOLDEN = "golden.npz"
RANGES, RECIPE, CARD = "ranges.json", "recipe.yaml", "card.md"


def _inside(name: str) -> str:
    """Refuse a path that does not stay inside the folder, or that no file can have."""
    parts = name.split("/")
    if any(part in ("", ".", "..") or len(part.encode()) > 255 for part in parts):
        raise ValueError(f"{name!r} is no path inside the bundle")
    if "\0" in name or name in (MANIFEST, DIGEST, SIGNATURE):
        raise ValueError(f"{name!r} cannot be a listed file")
    return name


def _with_zone(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    return text


FileName = Annotated[str, AfterValidator(_inside)]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]


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
    file: FileName
    key: Digest
    version: str
    device: str


class Manifest(Settings):
    """The contents of `manifest.json`.

    Attributes:
        schema_version: Version of this file's format; another one is refused.
        created: Time of creation in UTC, ISO 8601.
        network: Model, tasks (classes, units, palettes) and source checkpoint.
        fit: How an image of any size becomes the input.
        inputs, outputs: Inputs and outputs of model.onnx, which includes the post-processing.
        precision: `recipe.yaml` has the precision of each node.
        engines: Engines in the bundle.
        versions: Versions of the packages that built the bundle.
        files: SHA-256 by path of every file except this one and `manifest.sha256`.
    """

    schema_version: Annotated[int, Field(strict=True, ge=1)] = SCHEMA
    created: Annotated[str, AfterValidator(_with_zone)]
    network: NetworkSpec
    fit: Fit
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    precision: Literal["fp32", "fp16", "int8"]
    engines: tuple[Engine, ...] = ()
    versions: dict[str, str]
    files: dict[FileName, Digest] = {}

    def engine(self, backend: str) -> Engine | None:
        """Return the engine of `backend`, or None if there is none."""
        return next((engine for engine in self.engines if engine.backend == backend), None)


def parse_manifest(data: bytes, where: Path) -> Manifest:
    """Return the manifest in the bytes of a `manifest.json`.

    Raises:
        BundleError: This version cannot read it, or its parts contradict each other.
    """
    values = parse_json(data, f"{where}: {MANIFEST}")
    schema = values.get("schema_version") if isinstance(values, dict) else None
    if type(schema) is int and schema != SCHEMA:
        advice = "update degmix-edge" if schema > SCHEMA else "build the bundle again"
        raise BundleError(f"{where}: schema {schema}, this degmix-edge reads {SCHEMA}; {advice}")
    try:
        manifest = Manifest.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        message = f"{MANIFEST}: {place}: {first['msg']}" if place else f"{MANIFEST}: {first['msg']}"
        raise BundleError(f"{where}: {message}") from None
    if problem := _contradiction(manifest):
        raise BundleError(f"{where}: {MANIFEST}: {problem}")
    return manifest


def _contradiction(manifest: Manifest) -> str | None:
    """What the manifest's parts say differently; None if they agree."""
    network, fit = manifest.network, manifest.fit
    size = network.height, network.width
    if fit.size != size:
        return f"fit is {fit.height}x{fit.width}, the network takes {size[0]}x{size[1]}"
    if manifest.inputs != network.input_specs:
        taken = _names(network.input_specs)
        return f"inputs {_names(manifest.inputs)}, the network takes {taken}"
    maps, logits = network.map_specs, {*network.logits_specs}
    extra = manifest.outputs[len(maps) :]
    if manifest.outputs[: len(maps)] != maps or not logits.issuperset(extra):
        return f"outputs {_names(manifest.outputs)}, the network gives {_names(maps)}"
    needed = [MODEL, RECIPE, GOLDEN, *(engine.file for engine in manifest.engines)]
    missing = [name for name in needed if name not in manifest.files]
    return f"files has no {missing[0]!r}" if missing else None


def _names(tensors: tuple[TensorSpec, ...]) -> str:
    return "; ".join(map(str, tensors)) or "none"


def digest_line(digest: str) -> bytes:
    """Return what `sha256sum manifest.json` prints, so that `sha256sum -c` can check it."""
    return f"{digest}  {MANIFEST}\n".encode()


def engine_key(model: str, recipe: str, backend: str, version: str, device: str) -> str:
    """Return one hash of everything that an engine depends on.

    `model` and `recipe` are the SHA-256 of model.onnx and recipe.yaml, and the others say what
    runs the engine.
    """
    return sha256(json.dumps((model, recipe, backend, version, device)).encode())

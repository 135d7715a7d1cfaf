"""The bundle: a folder that a robot opens.

    robot.degmix/
      manifest.json       what everything is, and the SHA-256 of every other file
      model.onnx          the product: bytes in, maps out, precision inside
      recipe.yaml         each weighted node's precision, and why
      ranges.json         what calibration measured (INT8)
      golden.npz          one image and the maps it must give
      engines/BACKEND/    what a backend made of model.onnx: a cache, never the product
      card.md             the same for people

Written to a hidden folder first, the manifest last, and renamed when complete.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from degmix_edge.config import Settings
from degmix_edge.errors import BundleError, OutputError
from degmix_edge.network import NetworkSpec
from degmix_edge.preprocess import Fit
from degmix_edge.tensors import TensorSpec

SCHEMA = 1
MANIFEST = "manifest.json"
MODEL = "model.onnx"
GOLDEN = "golden.npz"


class Engine(Settings):
    """One backend's artefact, and what it was made of and for.

    Attributes:
        file: Path inside the bundle.
        key: SHA-256 over model.onnx, recipe, backend, version and device.
    """

    backend: str
    file: str
    key: str
    version: str
    device: str


class Manifest(Settings):
    """What `manifest.json` holds.

    Attributes:
        schema_version: Of this file; a newer one is refused.
        created: UTC, ISO 8601.
        network: Model, tasks (classes, units, palettes), source checkpoint.
        fit: How an image of any size becomes the input.
        inputs, outputs: Of model.onnx. Post-processing is inside it.
        precision: fp32, fp16 or int8; `recipe.yaml` has it node by node.
        engines: Artefacts in the bundle.
        versions: Packages that built it.
        files: SHA-256 by path, of every file but this one.
    """

    schema_version: int = SCHEMA
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
        """The artefact of `backend`, if there is one."""
        return next((engine for engine in self.engines if engine.backend == backend), None)


class Bundle:
    """An opened bundle: every file is there and has the hash that the manifest says."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path, self.manifest = path, manifest

    def file(self, name: str) -> Path:
        """The path of file `name`, which the manifest lists.

        Raises:
            BundleError: The manifest does not list it.
        """
        if name not in self.manifest.files:
            raise BundleError(f"{self.path}: has no file {name!r}")
        return self.path / name

    @property
    def size_bytes(self) -> int:
        """Of all files together."""
        return sum(p.stat().st_size for p in self.path.rglob("*") if p.is_file())


def open_bundle(path: Path) -> Bundle:
    """Read and verify the bundle at `path`.

    Raises:
        BundleError: No bundle, a newer schema, a missing or changed file; says which.
    """
    manifest = _manifest(path)
    for name, want in manifest.files.items():
        file = path / name
        if path.resolve() not in file.resolve().parents:
            raise BundleError(f"{path}: file {name!r} lies outside the bundle")
        if not file.is_file():
            raise BundleError(f"{path}: file {name!r} is missing; copy the bundle again, whole")
        got = sha256(file.read_bytes())
        if got != want:
            raise BundleError(
                f"{path}: file {name!r} was changed: SHA-256 {got[:12]}, the manifest says "
                f"{want[:12]}; "
                f"copy or build the bundle again"
            )
    return Bundle(path, manifest)


def _manifest(path: Path) -> Manifest:
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


def check_target(target: Path, *, force: bool) -> None:
    """Fail before long work, not after it.

    Raises:
        OutputError: `target` exists without `force`, or its folder is missing or read-only.
    """
    if target.exists() and not force:
        raise OutputError(f"{target}: exists; give --force to replace it, or another --out")
    if target.exists() and not (target / MANIFEST).exists() and not _empty(target):
        raise OutputError(f"{target}: exists and is no bundle, so --force does not replace it")
    folder = target.absolute().parent
    if not folder.is_dir():
        raise OutputError(f"{target}: folder {folder} does not exist; make it first")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"{target}: folder {folder} is read-only; choose another --out")


def write(target: Path, manifest: Manifest, files: Mapping[str, bytes], *, force: bool) -> Bundle:
    """Write a bundle atomically: `target` is the old one, or none, until the new one is complete.

    Raises:
        OutputError: As `check_target`; or the disk is full.
    """
    check_target(target, force=force)
    manifest = manifest.model_copy(update={"files": {n: sha256(b) for n, b in files.items()}})
    text = json.dumps(manifest.model_dump(mode="json"), indent=1).encode()
    _sweep(target)
    with output_errors(target):
        part = Path(tempfile.mkdtemp(prefix=_prefix(target), dir=target.absolute().parent))
        try:
            for name, data in {**files, MANIFEST: text}.items():
                _write_synced(part / name, data)
            part.chmod(0o755)
            _swap(part, target)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return Bundle(target, manifest)


@contextlib.contextmanager
def output_errors(target: Path) -> Iterator[None]:
    """Turn the operating system's refusals to write into an OutputError that names `target`."""
    try:
        yield
    except OSError as error:
        full = {errno.ENOSPC, errno.EDQUOT}
        advice = "free some space" if error.errno in full else "choose another --out"
        raise OutputError(f"{target}: cannot be written ({error.strerror}); {advice}") from None


def sha256(data: bytes) -> str:
    """Hex digest."""
    return hashlib.sha256(data).hexdigest()


def engine_key(model: bytes, recipe: bytes, backend: str, version: str, device: str) -> str:
    """What an engine depends on, as one hash."""
    parts: tuple[Any, ...] = (sha256(model), sha256(recipe), backend, version, device)
    return sha256(json.dumps(parts).encode())


def _write_synced(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _swap(part: Path, target: Path) -> None:
    """Put `part` in the place of `target`; the old bundle goes only when the new one is there."""
    if not target.exists():
        part.rename(target)
        return
    old = part.with_name(part.name + ".old")
    target.rename(old)
    try:
        part.rename(target)
    except OSError:
        old.rename(target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _prefix(target: Path) -> str:
    return f".{target.name}.part-"


def _sweep(target: Path) -> None:
    """Remove what a killed build left behind."""
    for stale in target.absolute().parent.glob(f"{_prefix(target)}*"):
        shutil.rmtree(stale, ignore_errors=True)


def _empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())

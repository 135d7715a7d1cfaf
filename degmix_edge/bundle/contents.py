"""The bundle, a folder that a robot opens.

    robot.degmix/
      manifest.json       description of the bundle, with the SHA-256 of every other file
      model.onnx          the product: uint8 image in, maps out, precision inside
      recipe.yaml         each weighted node's precision and the reason for it
      ranges.json         the ranges that calibration measured (INT8)
      golden.npz          one image and the maps that it must give
      engines/BACKEND/    the engine that a backend built from model.onnx; only a cache
      card.md             a description for people

A bundle is written to a hidden folder, with the manifest last, and renamed when it is complete.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path

from degmix_edge import config
from degmix_edge.bundle.manifest import MANIFEST, RANGES, RECIPE, Manifest, read_manifest
from degmix_edge.errors import BundleError, OutputError
from degmix_edge.files import check_folder, sha256
from degmix_edge.folders import locked, recover, write_folder
from degmix_edge.quant.ranges import Ranges
from degmix_edge.quant.recipe import Recipe

ATTEMPTS = 50
"""A bundle that is replaced while it is read is read again, at most so often."""


class Bundle:
    """An opened bundle, in which every file exists and has the hash that the manifest states."""

    def __init__(self, path: Path, manifest: Manifest) -> None:
        self.path, self.manifest = path, manifest

    def file(self, name: str) -> Path:
        """Return the path of the file `name`.

        Raises:
            BundleError: The manifest does not list this file.
        """
        if name not in self.manifest.files:
            raise BundleError(f"{self.path}: has no file {name!r}")
        return self.path / name

    @property
    def size_bytes(self) -> int:
        """The total size of all files in the folder, in bytes."""
        return sum(p.stat().st_size for p in self.path.rglob("*") if p.is_file())


def open_bundle(path: Path) -> Bundle:
    """Read and verify the bundle at `path`.

    Raises:
        BundleError: It is not a bundle, its schema is newer, or a file is missing or was changed.
    """
    with contextlib.suppress(OutputError):  # a reader may not be allowed to write there
        recover(path)
    for attempt in range(ATTEMPTS):
        before = _stamp(path)
        try:
            return _verified(path)
        except BundleError:
            if attempt == ATTEMPTS - 1 or _stamp(path) == before:
                raise  # nobody has replaced it meanwhile: it is damaged
    raise AssertionError("the last attempt returns or raises")


def _stamp(path: Path) -> tuple[int, int] | None:
    """What changes when a bundle is replaced."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _verified(path: Path) -> Bundle:
    manifest = read_manifest(path)
    for name, expected in manifest.files.items():
        file = path / name
        if path.resolve() not in file.resolve().parents:
            raise BundleError(f"{path}: file {name!r} lies outside the bundle")
        try:
            got = sha256(file.read_bytes())
        except FileNotFoundError:
            raise BundleError(
                f"{path}: file {name!r} is missing; copy the bundle again, whole"
            ) from None
        except OSError as error:
            raise BundleError(f"{path}: file {name!r} cannot be read: {error.strerror}") from None
        if got != expected:
            raise BundleError(
                f"{path}: file {name!r} was changed: SHA-256 {got[:12]}, the manifest says "
                f"{expected[:12]}; copy or build the bundle again"
            )
    return Bundle(path, manifest)


def check_target(target: Path, *, force: bool) -> None:
    """Check before a long computation that a bundle can be written to `target`.

    Raises:
        OutputError: `target` exists without `force` or is no bundle, or its folder is missing or
            read-only.
    """
    if target.exists() and not force:
        raise OutputError(f"{target}: exists; give --force to replace it, or another --out")
    if target.exists() and not (target / MANIFEST).exists() and not _empty(target):
        raise OutputError(f"{target}: exists and is no bundle, so --force does not replace it")
    check_folder(target.absolute().parent)


def write_bundle(
    target: Path, manifest: Manifest, files: Mapping[str, bytes], *, force: bool
) -> Bundle:
    """Write a bundle atomically: `target` stays the old one, or absent, until it is complete.

    Raises:
        OutputError: `check_target` refuses the target, or the disk is full.
    """
    check_target(target, force=force)
    manifest = manifest.model_copy(update={"files": {n: sha256(b) for n, b in files.items()}})
    text = json.dumps(manifest.model_dump(mode="json"), indent=1).encode()
    with locked(target):
        check_target(target, force=force)  # again: another writer may have been first
        write_folder(target, {**files, MANIFEST: text})  # the manifest is last and completes it
    return Bundle(target, manifest)


def recipe_and_ranges(opened: Bundle) -> tuple[Recipe, Ranges | None]:
    """Return the recipe and the ranges from which an engine is built, besides model.onnx."""
    ranges = None
    if RANGES in opened.manifest.files:
        ranges = Ranges.model_validate_json(opened.file(RANGES).read_text())
    return config.load(Recipe, opened.file(RECIPE)), ranges


def _empty(folder: Path) -> bool:
    return folder.is_dir() and not any(folder.iterdir())

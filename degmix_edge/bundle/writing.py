"""Write a bundle where nobody else wrote one meanwhile, and where nothing but a bundle is lost."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from degmix_edge.bundle.contents import Bundle
from degmix_edge.bundle.manifest import DIGEST, MANIFEST, SIGNATURE, Manifest, digest_line
from degmix_edge.bundle.reading import open_folder, parse_json, read_file
from degmix_edge.errors import BundleError, OutputError
from degmix_edge.files import check_folder, output_errors, sha256
from degmix_edge.folders import locked, write_folder


@dataclass(frozen=True)
class Target:
    """A place for a bundle, claimed by `claim` before the work begins.

    Attributes:
        path: The place.
        force: Whether a bundle that was there may be replaced.
        found: What was there when it was claimed; None if nothing was.
    """

    path: Path
    force: bool
    found: tuple[int, int] | None


def claim(path: Path, *, force: bool) -> Target:
    """Check before a long computation that a bundle can be written to `path`, and remember it.

    Raises:
        OutputError: `path` exists without `force`, is no bundle, or holds files that a bundle does
            not have; or its folder is missing or read-only.
    """
    with output_errors(path):
        if path.exists():
            if not force:
                raise OutputError(f"{path}: exists; give --force to replace it, or another --out")
            _check_replaceable(path)
        check_folder(Path(os.path.realpath(path)).parent)
        return Target(path, force, _identity(path))


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_ctime_ns


def _check_replaceable(path: Path) -> None:
    """Refuse to replace what is not a bundle of ours, or what would take other files with it."""
    if not path.is_dir():
        raise OutputError(f"{path}: is a file, so --force does not replace it")
    found = {p.relative_to(path).as_posix() for p in path.rglob("*") if not p.is_dir()}
    if not found:
        return
    try:
        listed = _files_of_manifest(path)
    except BundleError:
        raise OutputError(
            f"{path}: exists and is no bundle, so --force does not replace it"
        ) from None
    foreign = sorted(found - listed)
    if foreign:
        raise OutputError(
            f"{path}: holds {foreign[0]!r}, which is not of the bundle and would be lost; move it "
            "away, or choose another --out"
        )


def _files_of_manifest(path: Path) -> set[str]:
    """Names of the files of a bundle, which may be damaged or of another schema."""
    with open_folder(path) as folder:
        try:
            data = read_file(folder, MANIFEST, limit="text_bytes", where=path)
        except FileNotFoundError:
            raise BundleError(f"{path}: no {MANIFEST}") from None
    values = parse_json(data, str(path))
    if not isinstance(values, dict) or not {"schema_version", "network", "files"} <= set(values):
        raise BundleError(f"{path}: {MANIFEST} is not that of a bundle")
    return {MANIFEST, DIGEST, SIGNATURE, *values["files"]}


def _absent(manifest: Manifest) -> dict[str, Any]:
    """The keys that most bundles do not have, so that older releases can read them."""
    absent: dict[str, Any] = {} if manifest.sizes else {"sizes": True}
    if manifest.split is None:
        absent["split"] = True
        absent.setdefault("sizes", {"__all__": {"split"}})
    if not manifest.forms:
        absent["forms"] = True
    return absent


def write_bundle(target: Target, manifest: Manifest, files: Mapping[str, bytes]) -> Bundle:
    """Write a bundle atomically: the target stays the old one, or absent, until it is complete.

    Raises:
        OutputError: Another process wrote there since it was claimed, or the disk is full.
    """
    path = target.path
    manifest = manifest.model_copy(update={"files": {n: sha256(b) for n, b in files.items()}})
    text = json.dumps(
        manifest.model_dump(mode="json", exclude=_absent(manifest)), indent=1
    ).encode()
    digest = sha256(text)
    with locked(path):
        if _identity(path) != target.found:
            raise OutputError(
                f"{path}: another process wrote it meanwhile, and its bundle stays; choose another "
                "--out, or build again"
            )
        claim(path, force=target.force)  # files may have been put into it
        write_folder(path, {**files, MANIFEST: text, DIGEST: digest_line(digest)})
    return Bundle(path, manifest, digest, files)

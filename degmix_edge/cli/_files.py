"""Single files that verbs write: never over another by accident, never half."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from degmix_edge.bundle import output_errors
from degmix_edge.errors import OutputError


def check_file(path: Path, *, force: bool) -> None:
    """Fail before long work.

    Raises:
        OutputError: The file exists without `force`, is a folder, or its folder is missing.
    """
    if path.is_dir():
        raise OutputError(f"{path}: is a folder, expected a file to write")
    if path.exists() and not force:
        raise OutputError(f"{path}: exists; give --force to replace it, or another --out")
    check_folder(path.absolute().parent)


def check_folder(folder: Path) -> None:
    """A folder that files can be written into.

    Raises:
        OutputError: It is missing or read-only.
    """
    if not folder.is_dir():
        raise OutputError(f"{folder}: no such folder; make it first")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"{folder}: read-only; choose another --out")


def make_folder(folder: Path) -> None:
    """Make `folder` if it is not there.

    Raises:
        OutputError: It cannot be made, or is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder}: is a file, expected a folder")
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)


def write_file(path: Path, data: bytes, *, force: bool) -> None:
    """Write through a temporary file and a rename.

    Raises:
        OutputError: As `check_file`; or the disk is full.
    """
    check_file(path, force=force)
    with output_errors(path):
        handle, part = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.absolute().parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
            Path(part).chmod(0o644)
            Path(part).replace(path)
        finally:
            Path(part).unlink(missing_ok=True)

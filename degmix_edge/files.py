"""Write files and folders atomically; the only module that writes through a rename.

A new version is written next to its target, synced to disk and renamed over it. A reader sees the
old file or the new one, and a killed process leaves the old one.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from degmix_edge.errors import OutputError


def sha256(data: bytes) -> str:
    """Return the SHA-256 of `data` as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


@contextlib.contextmanager
def output_errors(target: Path) -> Iterator[None]:
    """Turn an OSError inside the block into an OutputError that names `target`."""
    try:
        yield
    except OSError as error:
        full = {errno.ENOSPC, errno.EDQUOT}
        advice = "free some space" if error.errno in full else "choose another --out"
        raise OutputError(f"{target}: cannot be written ({error.strerror}); {advice}") from None


def check_file(path: Path, *, force: bool) -> None:
    """Check before a long computation that `path` can be written.

    Raises:
        OutputError: The file exists without `force`, is a folder, or its folder is missing.
    """
    if path.is_dir():
        raise OutputError(f"{path}: is a folder, expected a file to write")
    if path.exists() and not force:
        raise OutputError(f"{path}: exists; give --force to replace it, or another --out")
    check_folder(path.absolute().parent)


def check_folder(folder: Path) -> None:
    """Check that files can be written into `folder`.

    Raises:
        OutputError: The folder is missing or read-only.
    """
    if not folder.is_dir():
        raise OutputError(f"{folder}: no such folder; make it first")
    if not os.access(folder, os.W_OK):
        raise OutputError(f"{folder}: read-only; choose another --out")


def make_folder(folder: Path) -> None:
    """Make `folder` and its parents if they do not exist.

    Raises:
        OutputError: The folder cannot be made, or `folder` is a file.
    """
    if folder.exists() and not folder.is_dir():
        raise OutputError(f"{folder}: is a file, expected a folder")
    with output_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)


def write_file(path: Path, data: bytes, *, force: bool) -> None:
    """Write `data` to `path`, which afterwards has all of `data` or its old content.

    Raises:
        OutputError: `check_file` refuses the path, or the disk is full.
    """
    check_file(path, force=force)
    with output_errors(path):
        handle, part = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.absolute().parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                _sync(file.fileno())
            Path(part).chmod(0o644)
            Path(part).replace(path)
        finally:
            Path(part).unlink(missing_ok=True)


@contextlib.contextmanager
def whole_file(path: Path, *, mine: bool = True) -> Iterator[Path]:
    """Yield a temporary path, whose file becomes `path` at the end of the block.

    This is for libraries that write a file by its name. If the block raises, the temporary file is
    removed and `path` keeps its old content.

    Args:
        path: The file to write or replace.
        mine: Whether this process writes it. When several processes take part, one of them writes,
            and the others must not touch its file.

    Raises:
        OutputError: The disk is full, or the folder cannot be written to.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part{path.suffix}")
    try:
        yield part
        if mine:
            with part.open("rb") as file:
                _sync(file.fileno())
            part.replace(path)
    except (OSError, RuntimeError) as error:
        if not _is_disk_error(error):
            raise
        full = getattr(error, "errno", None) == errno.ENOSPC or "space" in str(error).lower()
        raise OutputError(
            f"{path}: cannot be written ({error}); "
            + ("the disk is full: free some space" if full else "check space and permissions")
            + ", then --resume. What was saved before is whole"
        ) from None
    except Exception as error:
        if type(error).__name__ != "SafetensorError":  # safetensors is not imported here
            raise
        raise OutputError(
            f"{path}: cannot be written ({error}); check space and permissions, then --resume. "
            "What was saved before is whole"
        ) from None
    finally:  # also after a signal, which can arrive at any line
        if mine:
            part.unlink(missing_ok=True)


def write_folder(target: Path, files: Mapping[str, bytes]) -> None:
    """Write the folder `target` with `files`, in the given order.

    `target` stays the old folder, or absent, until the new one is complete. Temporary folders of
    killed writers are removed.

    Args:
        target: The folder to write or replace.
        files: Contents by path inside the folder.

    Raises:
        OutputError: The folder cannot be written, or the disk is full.
    """
    prefix = f".{target.name}.part-"
    for stale in target.absolute().parent.glob(f"{prefix}*"):
        shutil.rmtree(stale, ignore_errors=True)
    with output_errors(target):
        part = Path(tempfile.mkdtemp(prefix=prefix, dir=target.absolute().parent))
        try:
            for name, data in files.items():
                _write_synced(part / name, data)
            part.chmod(0o755)
            _swap(part, target)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def _write_synced(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(data)
        _sync(file.fileno())


def _sync(descriptor: int) -> None:
    os.fsync(descriptor)


def _swap(part: Path, target: Path) -> None:
    """Replace `target` by `part`; the old folder is deleted only after the new one is in place."""
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


def _is_disk_error(error: Exception) -> bool:
    """Return whether writing failed; torch's writer has no exception class of its own for that."""
    if isinstance(error, OSError):
        return True
    return bool(re.search("PytorchStream|unexpected pos", str(error)))

"""Write files atomically; the only module that renames files.

A new version is written next to its target, synced to disk and renamed over it. A reader sees the
old file or the new one, and a killed process leaves the old one.
"""

from __future__ import annotations

import contextlib
import difflib
import errno
import hashlib
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

from degmix_edge.errors import OutputError


def sha256(data: bytes) -> str:
    """Return the SHA-256 of `data` as 64 hexadecimal digits."""
    return hashlib.sha256(data).hexdigest()


def hint_of(path: Path, names: Iterable[str] = ()) -> str:
    """Return what to look for where nothing is at `path`: the nearest name, if one is near.

    Args:
        path: The path.
        names: Names that stand for paths, beside those in the path's own folder.
    """
    folder = path.parent
    if not folder.is_dir():
        return f" Its folder {folder} does not exist either: check the path."
    try:
        have = {name: str(folder / name) for name in os.listdir(folder)}
    except OSError:  # a folder that one may enter and not list
        have = {}
    have.update((name, name) for name in names)
    near = difflib.get_close_matches(path.name, sorted(have), n=1, cutoff=0.5)
    if near:
        return f" Did you mean {have[near[0]]}?"
    return f" Check the path; {folder.absolute()} exists."


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
    with output_errors(path):
        if path.is_dir():
            raise OutputError(f"{path}: is a folder, expected a file to write")
        if path.exists() and not force:
            raise OutputError(f"{path}: exists; give --force to replace it, or another --out")
    check_folder(path.absolute().parent)


def check_folder(folder: Path) -> None:
    """Check that files can be written into `folder`, by writing one that nobody sees.

    Permissions alone do not say it: root may write anywhere, but not on a read-only disk.

    Raises:
        OutputError: The folder is missing, or nothing can be written into it.
    """
    with output_errors(folder):
        if not folder.is_dir():
            raise OutputError(f"{folder}: no such folder; make it first")
        with tempfile.TemporaryFile(dir=folder):
            pass


def make_folder(folder: Path) -> None:
    """Make `folder` and its parents if they do not exist.

    Raises:
        OutputError: The folder cannot be made, or `folder` is a file.
    """
    with output_errors(folder):
        if folder.exists() and not folder.is_dir():
            raise OutputError(f"{folder}: is a file, expected a folder")
        folder.mkdir(parents=True, exist_ok=True)


def write_file(path: Path, data: bytes, *, force: bool, mode: int = 0o644) -> None:
    """Write `data` to `path`, which afterwards has all of `data` or its old content.

    Args:
        path: The file.
        data: Its new content.
        force: Replace a file that is there.
        mode: The permissions that the file gets.

    Raises:
        OutputError: `check_file` refuses the path, or the disk is full.
    """
    check_file(path, force=force)
    with output_errors(path):
        handle, part = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.absolute().parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            Path(part).chmod(mode)
            Path(part).replace(path)
        finally:
            remove(Path(part))


def remove(path: Path) -> None:
    """Remove a file if it is there; what cannot be removed stays, and the next writer meets it."""
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)


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
                os.fsync(file.fileno())
            part.replace(path)
    except (OSError, RuntimeError) as error:
        if not _is_disk_error(error):
            raise
        full = getattr(error, "errno", None) == errno.ENOSPC or "space" in str(error).lower()
        raise OutputError(
            f"{path}: cannot be written ({error}); "
            + ("the disk is full: free some space" if full else "check space and permissions")
            + ". What was saved before is whole"
        ) from None
    except Exception as error:
        if type(error).__name__ != "SafetensorError":  # safetensors is not imported here
            raise
        raise OutputError(
            f"{path}: cannot be written ({error}); check space and permissions. What was saved "
            "before is whole"
        ) from None
    finally:  # also after a signal, which can arrive at any line
        if mine:
            remove(part)


def _is_disk_error(error: Exception) -> bool:
    """Return whether writing failed; torch's writer has no exception class of its own for that."""
    if isinstance(error, OSError):
        return True
    return bool(re.search("PytorchStream|unexpected pos", str(error)))

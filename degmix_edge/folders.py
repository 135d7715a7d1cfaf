"""Replace a whole folder at once, as a database replaces a page: locked, synced, exchanged.

One writer at a time holds the lock of a target. It writes a staging folder beside the target, syncs
every file and folder to disk, and exchanges the two names in one system call. A reader sees the old
folder or the new one; a killed writer leaves the old one, and the next writer removes the rest.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from degmix_edge.files import output_errors, remove

_AT_FDCWD = -100
_RENAME_EXCHANGE = 2
_UNSUPPORTED = {errno.ENOSYS, errno.EINVAL, errno.ENOTSUP}


def write_folder(target: Path, files: Mapping[str, bytes]) -> None:
    """Write the folder `target` with `files`, in the given order.

    The caller holds `locked(target)`.

    Args:
        target: The folder to write or replace. Of a link, the folder behind it is replaced.
        files: Contents by path inside the folder.

    Raises:
        OutputError: The folder cannot be written, or the disk is full.
    """
    with output_errors(target):
        place = Path(os.path.realpath(target))
        _recover(place)
        part = _staging(place)
        shutil.rmtree(part, ignore_errors=True)  # of a killed writer: nobody else has the lock
        try:
            part.mkdir(mode=0o755)
            for name, data in files.items():
                _write_synced(part / name, data)
            for folder, _, _ in os.walk(part):
                _sync_folder(Path(folder))
            _put_in_place(part, place)
            _sync_folder(place.parent)
        finally:
            shutil.rmtree(part, ignore_errors=True)  # the old folder, once the names are exchanged


@contextlib.contextmanager
def locked(target: Path) -> Iterator[None]:
    """Hold the lock of `target` for the block; another process that holds it is waited for.

    Raises:
        OutputError: The folder of `target` cannot be written.
    """
    with output_errors(target):
        place = Path(os.path.realpath(target))
        lock = place.with_name(f".{place.name}.lock")
        descriptor = _open_locked(lock)
    try:
        yield
    finally:
        remove(lock)  # while it is held: who waits for it looks again
        with output_errors(target):
            os.close(descriptor)


def recover(target: Path) -> None:
    """Put an old folder back whose writer was killed in the middle of replacing it.

    This can only be needed where the system cannot exchange two names in one call.
    """
    with output_errors(target):
        place = Path(os.path.realpath(target))
        if not place.exists() and _old(place).is_dir():
            with locked(target):
                _recover(place)


def is_there(target: Path) -> bool:
    """Return whether there is a folder at `target`, or there was one that is being replaced."""
    place = Path(os.path.realpath(target))
    return place.exists() or _old(place).is_dir()


def _recover(place: Path) -> None:
    old = _old(place)
    if old.is_dir() and not place.exists():
        old.rename(place)
    elif old.is_dir():
        shutil.rmtree(old, ignore_errors=True)


def _open_locked(lock: Path) -> int:
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        with contextlib.suppress(FileNotFoundError):
            if os.fstat(descriptor).st_ino == lock.stat().st_ino:
                return descriptor
        os.close(descriptor)  # its holder has removed it: what we locked is no longer the lock


def _put_in_place(part: Path, target: Path) -> None:
    if not target.exists():
        part.rename(target)
    elif not _exchange(part, target):
        old = _old(target)
        target.rename(old)
        try:
            part.rename(target)
        except OSError:
            old.rename(target)
            raise
        shutil.rmtree(old, ignore_errors=True)


def _exchange(a: Path, b: Path) -> bool:
    """Exchange two names in one system call; False where the system or the disk cannot."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    names = (_AT_FDCWD, os.fsencode(a), _AT_FDCWD, os.fsencode(b))
    if rename(*names, ctypes.c_uint(_RENAME_EXCHANGE)) == 0:
        return True
    code = ctypes.get_errno()
    if code in _UNSUPPORTED:
        return False
    raise OSError(code, os.strerror(code), str(b))


def _staging(target: Path) -> Path:
    return target.with_name(f".{target.name}.part")


def _old(target: Path) -> Path:
    return target.with_name(f".{target.name}.old")


def _write_synced(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Read the files of a folder that nobody has checked yet: once, bounded, through one handle.

All paths are taken from an open handle of the folder, so that a folder which is replaced meanwhile
is read to its end. Links are not followed, and only regular files are read.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from degmix_edge.bundle import ready
from degmix_edge.errors import BundleError
from degmix_edge.files import hint_of
from degmix_edge.limits import check_limit, limits

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK  # a FIFO would block


@contextlib.contextmanager
def open_folder(path: Path) -> Iterator[int]:
    """Open the folder at `path`, which may be a link, for the block.

    Raises:
        BundleError: There is no folder at `path`.
    """
    try:
        handle = os.open(path, _FOLDER)
    except FileNotFoundError:
        names = ready.names() if len(path.parts) == 1 else ()
        raise BundleError(f"{path}: no such bundle.{hint_of(path, names)}") from None
    except NotADirectoryError:
        raise BundleError(
            f"{path}: is a file, expected a bundle folder; `build engine` makes one"
        ) from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise BundleError(f"{path}: cannot be opened: {error}") from None
    try:
        yield handle
    finally:
        os.close(handle)


def read_file(folder: int, name: str, *, limit: str, where: Path) -> bytes:
    """Return the bytes of the file `name` of an open folder.

    Args:
        folder: The handle of the folder.
        name: A relative path with `/`, which stays inside the folder.
        limit: Name of the limit of its size, a field of `Limits`.
        where: The folder's path, for error messages.

    Raises:
        FileNotFoundError: There is no such file.
        BundleError: It is a link or no regular file, it is too large, or it cannot be read.
    """
    *parents, last = name.split("/")
    handles = [folder]
    try:
        for parent in parents:
            handles.append(os.open(parent, _FOLDER | os.O_NOFOLLOW, dir_fd=handles[-1]))
        file = os.open(last, _FILE, dir_fd=handles[-1])
        handles.append(file)
        status = os.fstat(file)
        if not stat.S_ISREG(status.st_mode):
            raise BundleError(f"{where}: {name!r} is no regular file")
        check_limit(limit, status.st_size, f"{where}: {name!r}", BundleError)
        with os.fdopen(file, "rb", closefd=False) as stream:
            return stream.read(status.st_size)  # no more, if somebody still writes to it
    except FileNotFoundError:
        raise
    except OSError as error:
        is_link = error.errno in (errno.ELOOP, errno.ENOTDIR)
        reason = "is or lies behind a link, expected a file" if is_link else error.strerror
        raise BundleError(f"{where}: {name!r}: {reason}") from None
    finally:
        for handle in handles[1:]:
            os.close(handle)


def parse_json(data: bytes, where: str) -> Any:
    """Return the values of a JSON file.

    Raises:
        BundleError: It is not JSON, is nested too deeply, or has a number that is not finite.
    """

    def refuse(text: str) -> None:
        raise ValueError(f"the number {text}")

    try:
        values = json.loads(data, parse_constant=refuse)
        _check_depth(values, limits().depth)
    except (ValueError, RecursionError) as error:
        reason = str(error) if isinstance(error, ValueError) else "nested too deeply"
        raise BundleError(f"{where}: cannot be read: {reason}") from None
    return values


def _check_depth(values: Any, left: int) -> None:
    if left == 0:
        raise ValueError("nested too deeply")
    items = values.values() if isinstance(values, dict) else values
    if isinstance(items, list) or isinstance(values, dict):
        for item in items:
            _check_depth(item, left - 1)

"""Files that are whole or not there."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from degmix_edge.errors import OutputError


@contextmanager
def whole_file(path: Path, *, mine: bool = True) -> Iterator[Path]:
    """A path to write to that becomes `path` at the end; nothing is left of one that failed.

    Args:
        path: What the file will be called.
        mine: This process writes it. Where several take part, one of them does, and the others must
            not touch its file.

    Raises:
        OutputError: The disk is full, or the folder cannot be written to.
    """
    part = path.with_name(path.name + ".part")
    try:
        yield part
        if mine:
            part.replace(path)
    except (OSError, SafetensorError, RuntimeError) as error:
        # torch's writer has no class of its own for this.
        if type(error) is RuntimeError and not re.search(
            "PytorchStream|unexpected pos", str(error)
        ):
            raise
        full = getattr(error, "errno", None) == errno.ENOSPC or "space" in str(error).lower()
        raise OutputError(
            f"{path}: cannot be written ({error}); "
            + ("the disk is full: free some space" if full else "check space and permissions")
            + ", then --resume. What was saved before is whole"
        ) from None
    finally:  # a signal may come at any line
        if mine:
            part.unlink(missing_ok=True)

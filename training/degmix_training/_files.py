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
def whole_file(path: Path) -> Iterator[Path]:
    """A path to write to that becomes `path` at the end; nothing is left of one that failed.

    Raises:
        OutputError: The disk is full, or the folder cannot be written to.
    """
    part = path.with_name(path.name + ".part")
    try:
        yield part
        if part.exists():  # only the first process writes
            part.replace(path)
    except (OSError, SafetensorError, RuntimeError) as error:
        part.unlink(missing_ok=True)
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

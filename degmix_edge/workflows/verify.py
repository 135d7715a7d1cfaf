"""Check a bundle: every file's hash, and its golden image on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from degmix_edge.bundle.contents import Bundle, open_bundle
from degmix_edge.bundle.golden import Differences, differences, unpack
from degmix_edge.bundle.manifest import GOLDEN
from degmix_edge.runtime import load


@dataclass(frozen=True)
class Verification:
    """What was verified.

    Attributes:
        files: How many files have the hashes that the manifest says.
        golden: How far the maps of the golden image are from those at build time.
    """

    files: int
    golden: Differences

    @property
    def passed(self) -> bool:
        """Whether the engine gives here what it gave where it was built."""
        return self.golden.passed


def verify(bundle: str | Path | Bundle, *, backend: str = "auto") -> Verification:
    """Check every file's hash, then run the golden image and compare with the golden maps.

    Args:
        bundle: The bundle, or its folder.
        backend: `auto`, or a backend's name.

    Raises:
        BundleError: The bundle is incomplete or was changed; says which file.
        BackendError: The backend cannot run here.
    """
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(Path(bundle))
    image, expected = unpack(opened.file(GOLDEN).read_bytes(), opened.path)
    with load(opened, backend=backend) as session:
        found = differences(session.spec, expected, session.backend.infer(image[None]))
    return Verification(len(opened.manifest.files), found)

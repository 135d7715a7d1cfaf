"""Check a bundle: every file's hash, and its golden image on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from degmix_edge.bundle.contents import Bundle, open_bundle
from degmix_edge.bundle.golden import Differences, differences, unpack
from degmix_edge.bundle.manifest import GOLDEN, size_text
from degmix_edge.bundle.signing import policy
from degmix_edge.errors import AccuracyError
from degmix_edge.report.text import Readable
from degmix_edge.runtime import load


@dataclass(frozen=True)
class Verification(Readable):
    """What was verified.

    Attributes:
        bundle: The folder.
        files: How many files have the hashes that the manifest says.
        signer: Name of the key that signed the bundle; None where no signature was asked for.
        golden: How far the maps of the golden image are from those at build time.
        sizes: The same for every size of image that the bundle has, by `448x672`; `golden` is that
            of the first.
    """

    bundle: Path
    files: int
    signer: str | None
    golden: Differences
    sizes: dict[str, Differences]

    @property
    def passed(self) -> bool:
        """Whether the engines give here what they gave where they were built."""
        return all(differences.passed for differences in self.sizes.values())

    def text(self) -> Iterator[str]:
        """Yield what was checked, and how far the golden images' maps are off."""
        yield f"{self.files} files have the hashes that the manifest says"
        yield f"signed by key {self.signer}" if self.signer else "no signature was asked for"
        for size, golden in self.sizes.items():
            at = f", {size}" if len(self.sizes) > 1 else ""
            yield f"golden image{at}: {golden.text}"

    def check(self) -> None:
        """Fail where an engine gives other maps here.

        Raises:
            AccuracyError: Says how far they are off.
        """
        if not self.passed:
            bad = "; ".join(golden.text for golden in self.sizes.values() if not golden.passed)
            raise AccuracyError(
                f"{self.bundle}: gives other maps here than where it was built: {bad}"
            )


def verify(
    bundle: str | Path | Bundle,
    *,
    backend: str = "auto",
    keys: Sequence[str | Path] = (),
    identity: str | None = None,
    not_before: str | None = None,
) -> Verification:
    """Check every hash and the signature, then run the golden image of each size.

    Args:
        bundle: The bundle, or its folder.
        backend: `auto`, or a backend's name.
        keys: Public keys, one of which must have signed it; none takes `$DEGMIX_KEYS`, and asks for
            a signature only where `$DEGMIX_TRUST` is `signed`. With an `identity`, the certificates
            of authorities.
        identity: For whom an authority must have certified the key that signed.
        not_before: The earliest time of its build, in ISO 8601.

    Raises:
        BundleError: The bundle is incomplete, was changed, or is not signed by one of the keys.
        BackendError: The backend cannot run here.
    """
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(Path(bundle))
    sizes = [opened.at(size) for size in opened.sizes]
    golden = [unpack(one.read(GOLDEN), one.manifest.network, one.path) for one in sizes]
    wanted = policy(None, keys, identity, not_before)
    signer = wanted.check(opened)
    found = {}
    for one, (feed, expected) in zip(sizes, golden, strict=True):
        with load(one, backend=backend, **vars(wanted)) as session:
            maps = session.backend.infer(feed)
        found[size_text(one.manifest.fit.size)] = differences(session.spec, expected, maps)
    count, first = len(opened.manifest.files), next(iter(found.values()))
    return Verification(opened.path, count, signer, first, found)

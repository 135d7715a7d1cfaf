"""What a run of `label` is: all that decides the bytes of its output, and where that goes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, get_args

from degmix_edge._version import __version__
from degmix_edge.backends import choose
from degmix_edge.bundle.contents import Bundle, open_same
from degmix_edge.errors import ConfigError, OutputError
from degmix_edge.extras import missing_package
from degmix_edge.files import make_folder, remove, sha256, write_file
from degmix_edge.workflows.label.pieces import Piece

Format = Literal["parquet", "webdataset"]
FORMATS: tuple[str, ...] = get_args(Format)
STAGE = "label"
"""What the progress calls a run."""
MANIFEST = "manifest.json"
LABELS, BAD, LATENCY, MAPS, RECEIPTS, ATTEMPTS = (
    *("labels", "bad", "latency", "maps", "receipts", "attempts"),
)
"""Folders of an output. The latencies are apart, because no two runs measure the same."""
IMAGE_TIMEOUT_S = 300.0
"""How long an image may take, if nobody says: far longer than any that is not stuck."""
LIBRARIES = ("numpy", "pillow", "pyarrow")
"""Packages whose versions decide the bytes of the output, beside the backend's."""


@dataclass(frozen=True)
class Job:
    """One run, as its workers get it.

    Attributes:
        source: The source of images.
        bundle: The bundle's folder.
        digest: The digest of the bundle when the run began; a worker refuses any other.
        out: The folder of the output, which every worker must see.
        backend: The name of a backend, not `auto`.
        tasks: Tasks whose maps are kept.
        size: Height and width of a bundle with several sizes.
        threads: CPU threads of a worker.
        native: Maps have each image's own size.
        format: Whether maps go into columns of the Parquet files, or into tar files.
        topic: The topic with the images, of a recording with several.
        per_shard: Images of a shard.
        plan: A digest of the pieces.
        versions: The software, by name.
        image_timeout_s: Seconds after which an image is set aside; 0 waits for ever.
    """

    source: str
    bundle: str
    digest: str
    out: str
    backend: str
    tasks: tuple[str, ...]
    size: tuple[int, int] | None
    threads: int
    native: bool
    format: Format
    topic: str | None
    per_shard: int
    plan: str
    versions: dict[str, str]
    image_timeout_s: float = IMAGE_TIMEOUT_S

    @property
    def decides(self) -> dict[str, Any]:
        """What decides the bytes of the output, as plain values."""
        values = asdict(self)
        # The same files may be elsewhere now, and the rest of a run may get more patience.
        for name in ("bundle", "out", "image_timeout_s"):
            values.pop(name)
        plain: dict[str, Any] = json.loads(json.dumps(values))
        return plain

    def open(self) -> Bundle:
        """Open the bundle.

        Raises:
            BundleError: It is another one than when the run began, or it cannot be opened.
        """
        return open_same(Path(self.bundle), self.digest)

    def to_json(self) -> str:
        """Return the job as text."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Job:
        """Return the job that `to_json` wrote."""
        values = json.loads(text)
        size = values["size"]
        values |= {"tasks": tuple(values["tasks"]), "size": None if size is None else tuple(size)}
        return cls(**values)

    def path(self, folder: str, number: int, ending: str = ".parquet") -> Path:
        """Return the path of a shard's file in one of the output's folders."""
        return Path(self.out) / folder / f"part-{number:05}{ending}"


def digest_of(pieces: Sequence[Piece]) -> str:
    """Return the SHA-256 of all pieces, which is another one if the source has changed."""
    return sha256("\n".join(piece.to_json() for piece in pieces).encode())


def versions_here(backend: str) -> dict[str, str]:
    """Return the versions of everything that decides the bytes of the output.

    Raises:
        BackendError: The backend cannot run here.
        ConfigError: There is no such backend, or a package is missing.
    """
    chosen = choose(backend)
    return {**packages_here(), chosen.name: chosen.version()}


def packages_here() -> dict[str, str]:
    """Return the versions of degmix-edge and of `LIBRARIES`.

    Raises:
        ConfigError: A package is missing.
    """
    try:
        own = {name: metadata.version(name) for name in LIBRARIES}
    except metadata.PackageNotFoundError as error:
        raise missing_package(error.name, "label", ConfigError, "scale") from None
    return {"degmix-edge": __version__, **own}


def begin(job: Job, *, force: bool) -> bool:
    """Make the output's folders, or find those of the same run; return whether it was resumed.

    Args:
        job: The run.
        force: Begin anew in a folder of another run, whose files are removed.

    Raises:
        OutputError: The folder is one of another run, or holds other files.
    """
    out = Path(job.out)
    make_folder(out)
    old = read_manifest(out)
    if old is not None and old.get("run") != job.decides:
        if not force:
            raise OutputError(f"{out}: {_difference(old, job)}; choose another --out, or --force")
        _clear(out)
        old = None
    elif old is None and (other := next(iter(sorted(out.iterdir())), None)) is not None:
        raise OutputError(
            f"{out}: has {other.name} and is no output of label; choose another --out"
        )
    for name in (LABELS, BAD, LATENCY, RECEIPTS, ATTEMPTS, *([MAPS] * (job.format != "parquet"))):
        make_folder(out / name)
    remove_parts(out)
    if old is None:
        write_manifest(job, {"complete": False})
    return old is not None


def remove_parts(out: Path) -> None:
    """Remove what workers have left that were killed while they wrote; nobody may write now."""
    for path in out.glob("*/.*.part*"):
        remove(path)


def read_manifest(out: Path) -> dict[str, Any] | None:
    """Return what the manifest of an output says, or None where there is none.

    Raises:
        OutputError: It cannot be read.
    """
    try:
        values: dict[str, Any] = json.loads((out / MANIFEST).read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise OutputError(f"{out / MANIFEST}: cannot be read: {error}; remove the folder") from None
    return values


def write_manifest(job: Job, state: dict[str, Any]) -> None:
    """Write the manifest: what decides the output, and what there is of it."""
    values = {"kind": "degmix-edge labels", "version": 1, "run": job.decides, **state}
    data = (json.dumps(values, indent=2) + "\n").encode()
    write_file(Path(job.out) / MANIFEST, data, force=True)


def _difference(old: dict[str, Any], job: Job) -> str:
    theirs, ours = old.get("run", {}), job.decides
    names = [name for name in ours if theirs.get(name) != ours[name]]
    name = next((n for n in names if n != "plan"), "plan")
    if name == "plan":
        return f"the images of {job.source} are not those that this output was begun with"
    return f"is the output of another run: {name} {theirs.get(name)!r}, this one {ours[name]!r}"


def _clear(out: Path) -> None:
    for name in (RECEIPTS, LABELS, BAD, LATENCY, MAPS, ATTEMPTS):
        for path in (out / name).glob("*part-*"):
            remove(path)
    remove(out / MANIFEST)

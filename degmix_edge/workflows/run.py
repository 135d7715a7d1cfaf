"""Run a bundle over images and write maps to disk."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from degmix_edge.bundle.contents import Bundle, open_bundle
from degmix_edge.errors import OutputError
from degmix_edge.network import IMAGE, NetworkSpec
from degmix_edge.preprocess import list_images
from degmix_edge.progress import Progress, counting, listening
from degmix_edge.runtime import load
from degmix_edge.runtime.frames import Frame, endings_of
from degmix_edge.sinks.folder import write_pictures
from degmix_edge.workflows.frame_folders import frame_paths, needed_inputs
from degmix_edge.workflows.networks import task_names


@dataclass(frozen=True)
class ImageRun:
    """One image that ran: what the call cost in milliseconds, and the files that were written."""

    image: Path
    total_ms: float
    net_ms: float
    files: list[Path]


@dataclass(frozen=True)
class Run:
    """Images that ran, and the tasks whose maps were written."""

    tasks: tuple[str, ...]
    images: list[ImageRun]


def run_images(
    bundle: str | Path | Bundle,
    images: Iterable[str | Path],
    out: str | Path | None = None,
    *,
    tasks: str | Sequence[str] = (),
    native: bool = False,
    size: tuple[int, int] | None = None,
    backend: str = "auto",
    threads: int | None = None,
    force: bool = False,
    progress: Progress | None = None,
) -> Run:
    """Run a bundle over image files and folders.

    For every image, `OUT/NAME.npz` gets the arrays of all tasks, and `OUT/NAME.TASK.png` colours to
    look at.

    Args:
        bundle: The bundle, or its folder.
        images: Files, and folders that are searched for images; of a network that takes more than
            an image, folders of frames (`frame_folders.frame_paths`).
        out: Where maps are written; None writes nothing.
        tasks: Tasks to write; none is all.
        native: Write maps at each image's own size instead of the network's.
        size: Height and width of a bundle that has several sizes; None takes its first.
        backend: `auto`, or a backend's name.
        threads: CPU threads; None takes all cores.
        force: Replace maps that are in `out`.
        progress: Called with an `Event` after each image.

    Raises:
        BundleError, BackendError: The bundle cannot be opened or run.
        ConfigError: The bundle has no such task or size.
        InputError: An image cannot be read.
        OutputError: `out` cannot be written or has maps of an earlier run, or two images would
            write the same files.
    """
    wanted = task_names(tasks)
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(Path(bundle))
    found = [f for image in map(Path, images) for f in _frames_of(image, opened.manifest.network)]
    if out:
        _check_names(Path(out), [path for path, _ in found], force=force)
    results = []
    with listening(progress), load(opened, size=size, backend=backend, threads=threads) as session:
        for name in wanted:
            session.spec.task(name)
        names = wanted or session.spec.task_names
        with counting("run", len(found)) as advance:
            for path, frame in found:
                maps = session(frame)
                latency = maps.latency
                assert latency is not None  # a call came back
                chosen = {n: maps[n] for n in names}
                written = write_pictures(Path(out), path.stem, chosen, native=native) if out else []
                results.append(ImageRun(path, latency.total_ms, latency.net_ms, written))
                advance(1)
    return Run(names, results)


def _check_names(out: Path, paths: Sequence[Path], *, force: bool) -> None:
    """Two images of one name, or two runs into one folder, would write the same files.

    Raises:
        OutputError: Names both images, or the file that is there.
    """
    first: dict[str, Path] = {}
    for path in paths:
        written = out / f"{path.stem}.npz"
        if not force and written.exists():
            raise OutputError(f"{written}: exists; give --force to replace it, or another --out")
        other = first.setdefault(path.stem, path)
        if other != path:
            raise OutputError(
                f"{out}: {other} and {path} would both write {path.stem}.npz; run them into two "
                "folders, or rename one"
            )


def _frames_of(image: Path, network: NetworkSpec) -> list[tuple[Path, Frame]]:
    """The frames of a file or a folder, each with the path of its image."""
    if needed_inputs(network):
        return [(files[IMAGE], files) for files in frame_paths(image, network).values()]
    endings = endings_of(network)
    return [(path, path) for path in (list_images(image, endings) if image.is_dir() else [image])]

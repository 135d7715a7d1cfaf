"""Run a bundle over images and write maps to disk, or over whatever else a user names."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from degmix_edge import capture, registry, sinks
from degmix_edge.bundle.contents import Bundle, open_bundle
from degmix_edge.capture._base import Replay
from degmix_edge.errors import ConfigError, InputError, OutputError
from degmix_edge.network import IMAGE, NetworkSpec
from degmix_edge.preprocess import list_images
from degmix_edge.progress import Progress, counting, listening, warn
from degmix_edge.registry import unknown
from degmix_edge.report.text import Readable, TextTable
from degmix_edge.runtime import Maps, load
from degmix_edge.runtime.frames import Frame, endings_of
from degmix_edge.sinks import SinkOptions
from degmix_edge.sinks.folder import write_pictures
from degmix_edge.workflows.frame_folders import frame_paths, needed_inputs
from degmix_edge.workflows.networks import task_names
from degmix_edge.workflows.record import Recording, parse_rates, record_stream

STREAM_ONLY = {
    "view_rate": "--view-rate",
    "rate": "--rate",
    "fast": "--fast and --timed",
    "topic": "--topic",
    "duration_s": "--duration",
    "with_image": "--with-image",
}
"""Arguments of `run_stream` that `run_images` lacks, as the command line calls them."""


@dataclass(frozen=True)
class ImageRun:
    """One image that ran: what the call cost in milliseconds, and the files that were written."""

    image: Path
    total_ms: float
    net_ms: float
    files: list[Path]


@dataclass(frozen=True)
class BadImage:
    """An image that could not be read, and why."""

    image: Path
    reason: str


@dataclass(frozen=True)
class Run(Readable):
    """Images that ran, and those that could not be read.

    Attributes:
        tasks: Whose maps were written.
        images: What ran.
        written: The folders with the maps.
        bad: What was set aside.
    """

    tasks: tuple[str, ...]
    images: list[ImageRun]
    written: tuple[Path, ...] = ()
    bad: tuple[BadImage, ...] = ()

    @property
    def exit_code(self) -> int:
        """That of an image that cannot be read, if there is one."""
        return InputError.exit_code if self.bad else 0

    @property
    def values(self) -> dict[str, Any]:
        """What programs read."""
        return {"tasks": self.tasks, "images": self.images, "bad": self.bad}

    def text(self) -> Iterator[str | TextTable]:
        """Yield the time of each image, and where its maps are."""
        rows = [[str(i.image), f"{i.total_ms:.1f}", f"{i.net_ms:.1f}"] for i in self.images]
        yield TextTable(", ".join(self.tasks), ["image", "total ms", "net ms"], rows)
        if self.written:
            yield f"maps: {', '.join(map(str, self.written))}"


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
    look at. Among several images, one that cannot be read is set aside with a warning.

    Args:
        bundle: The bundle, or its folder.
        images: Files and folders; of a network that takes more than an image, folders of frames.
        out: Where maps are written; None writes nothing.
        tasks: Tasks to write; none is all.
        native: Write maps at each image's own size instead of the network's.
        size: Height and width of a bundle that has several sizes; None takes its first.
        backend: `auto`, or a backend's name.
        threads: CPU threads; None takes what `load` takes.
        force: Replace maps that are in `out`.
        progress: Called with an `Event` after each image.

    Raises:
        BundleError, BackendError: The bundle cannot be opened or run.
        ConfigError: The bundle has no such task or size.
        InputError: There is one image, and it cannot be read.
        OutputError: `out` cannot be written or has maps of an earlier run, or two images would
            write the same files.
    """
    wanted = task_names(tasks)
    opened = bundle if isinstance(bundle, Bundle) else open_bundle(Path(bundle))
    found = [f for image in map(Path, images) for f in _frames_of(image, opened.manifest.network)]
    if out:
        _check_names(Path(out), [path for path, _ in found], force=force)
    results, bad = list[ImageRun](), list[BadImage]()
    with listening(progress), load(opened, size=size, backend=backend, threads=threads) as session:
        for name in wanted:
            session.spec.task(name)
        names = wanted or session.spec.task_names
        with counting("run", len(found)) as advance:
            for path, frame in found:
                advance(1)
                try:
                    maps = session(frame)
                except InputError as error:
                    if len(found) == 1:
                        raise
                    bad.append(BadImage(path, str(error)))
                    warn(f"set aside: {error}")
                else:
                    results.append(_written(path, maps, names, out, native=native))
    return Run(names, results, (Path(out),) if out else (), tuple(bad))


def run_sources(
    bundle: str | Path | Bundle,
    sources: Sequence[str],
    outputs: Sequence[str] = (),
    *,
    views: Sequence[str] = (),
    **options: Any,
) -> Run | Recording:
    """Run a bundle on whatever a user names: `run_images` for images on a disk, else `run_stream`.

    Frames are a stream if their source is none of images, or if they go into anything but a folder.

    Args:
        bundle: The bundle, or its folder.
        sources: Images and folders, or one source of a stream.
        outputs: A folder, or what a stream is written to.
        views: Live views of a stream.
        options: Further arguments of `run_stream`, of which those of `STREAM_ONLY` may be None;
            without these, they are those of `run_images`.

    Raises:
        ConfigError: An option does not fit the sources, or there are several where one is expected.
        DegmixError: Whatever else `run_images` and `run_stream` raise.
    """
    only = {name: options.pop(name) for name in STREAM_ONLY if name in options}
    given = {name: value for name, value in only.items() if value not in (None, ())}
    is_stream = any(_kinds(sinks.PACKAGE, [*outputs, *views], but="folder")) or any(
        _kinds(capture.PACKAGE, sources, but="images")
    )
    if is_stream and len(sources) > 1:
        raise ConfigError(
            f"sources: got {', '.join(sources)}, expected one for a video, a recording or a view; "
            "run each on its own"
        )
    if is_stream:
        return run_stream(bundle, sources[0], outputs, views=views, **given, **options)
    if given:
        name = STREAM_ONLY[next(iter(given))]
        raise ConfigError(f"{name}: only for videos, recordings and cameras, got images")
    if len(outputs) > 1:
        raise ConfigError(f"--out: got {len(outputs)} folders for images, expected one")
    return run_images(bundle, sources, next(iter(outputs), None), **options)


def run_stream(
    bundle: str | Path | Bundle,
    source: str,
    outputs: Sequence[str] = (),
    *,
    views: Sequence[str] = (),
    tasks: str | Sequence[str] = (),
    native: bool = False,
    force: bool = False,
    with_image: bool = False,
    view_rate: float = SinkOptions.rate_hz,
    rate: Sequence[str] = (),
    fast: bool | None = None,
    **recording: Any,
) -> Recording:
    """Run a bundle on a stream, as `record_stream` does, with the options of the command line.

    Args:
        bundle: The bundle, or its folder.
        source: A camera, a URL or a recording.
        outputs: Paths of what is written.
        views: Names of live views.
        tasks: Tasks to write; none is all.
        native: Write files of single frames at each image's own size.
        force: Replace what is there.
        with_image: Whether a recording has the camera's images too.
        view_rate: Results a second that a view shows.
        rate: Rates of tasks, as in `parse_rates`.
        fast: Whether a recording is read as fast as possible; None is as `record_stream` says.
        recording: Further arguments of `record_stream`.

    Raises:
        ConfigError: There is no such view, or a rate is no number.
        DegmixError: Whatever else `record_stream` raises.
    """
    for view in views:
        if view.partition(":")[0] not in (have := registry.names(sinks.PACKAGE)):
            raise ConfigError(unknown("view", view, have))
    replays: dict[bool | None, Replay | None] = {None: None, True: "fast", False: "timed"}
    return record_stream(
        bundle,
        source,
        [*outputs, *views],
        options=SinkOptions(task_names(tasks), force, with_image, native, view_rate),
        rates=parse_rates(rate),
        replay=replays[fast],
        **recording,
    )


def _written(
    path: Path, maps: Maps, names: Iterable[str], out: str | Path | None, *, native: bool
) -> ImageRun:
    """What a call cost, with its maps written."""
    latency = maps.latency
    assert latency is not None  # a call came back
    chosen = {name: maps[name] for name in names}
    files = write_pictures(Path(out), path.stem, chosen, native=native) if out else []
    return ImageRun(path, latency.total_ms, latency.net_ms, files)


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


def _kinds(package: str, texts: Sequence[str], *, but: str) -> Iterator[bool]:
    """Whether each text is recognised by a kind of `package` other than `but`."""
    for text in texts:
        names = (name for name, module in registry.modules(package) if module.recognises(text))
        yield next(names, but) != but

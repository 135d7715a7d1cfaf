"""Choose images among labels, and write them as a folder that `--calib` takes."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import PIL.Image
from degmix_calibration.image_set import features

from degmix_edge.errors import ConfigError, InputError, OutputError
from degmix_edge.files import make_folder, write_file
from degmix_edge.preprocess import Fit, read_image
from degmix_edge.progress import Progress, counting, listening, warn
from degmix_edge.report.sheet import contact_sheet
from degmix_edge.report.views import Panel, view
from degmix_edge.workflows.label.labeller import DIGITS
from degmix_edge.workflows.label.pieces import find_pieces
from degmix_edge.workflows.label.reading import read_piece
from degmix_edge.workflows.mine.table import Chosen, LabelTable, manifest_bundle
from degmix_edge.workflows.networks import task_names
from degmix_edge.workflows.sources import images

By = Literal["uncertainty", "disagreement", "novelty"]
WAYS: tuple[str, ...] = get_args(By)
K = 500
SHEET = 40
"""Images on the contact sheet: more make a picture that no viewer opens."""
_LIKE = Fit(height=256, width=256)
"""At which size data sets are opened, whose looks are compared."""


@dataclass(frozen=True)
class Mined:
    """What was chosen.

    Attributes:
        out: The folder.
        images: The folder inside it that has the images.
        chosen: What was chosen, the first the most.
        among: How many images there were.
    """

    out: Path
    images: Path
    chosen: tuple[Chosen, ...]
    among: int


def mine(
    labels: str | Path,
    out: str | Path,
    *,
    by: By = "uncertainty",
    k: int = K,
    against: str | Path | None = None,
    calibration: str | Path | None = None,
    tasks: str | Sequence[str] = (),
    force: bool = False,
    progress: Progress | None = None,
) -> Mined:
    """Choose the images of an output of `label` that are worth most, and copy them.

    The folder gets `images/`, which `--calib` takes, `chosen.csv` and a contact sheet.

    Args:
        labels: The output of `label`.
        out: The folder to write.
        by: `uncertainty` takes the largest entropy, `disagreement` the largest difference from the
            labels of another bundle, `novelty` what is farthest from the calibration set and from
            each other.
        k: How many images.
        against: For disagreement, the output of `label` with the other bundle.
        calibration: For novelty, the images to be far from: what a build takes. None begins with
            the most typical image.
        tasks: For uncertainty and disagreement, the tasks that count; none is all.
        force: Replace what is in `out`.
        progress: Called with an `Event` as images are read.

    Raises:
        ConfigError: An option does not fit `by`, or is out of range.
        InputError: The labels or the images cannot be read.
        OutputError: `out` has files, or cannot be written.
    """
    _check(by, k, against, calibration)
    target = Path(out)
    if target.exists() and any(target.iterdir()) and not force:
        raise OutputError(f"{target}: has files; give --force to replace them, or another --out")
    with listening(progress), LabelTable(Path(labels)) as table:
        if not table.is_complete:
            warn(f"{labels}: is not complete; only its finished shards are mined")
        ((among,),) = table.query("SELECT count(*) FROM labels")
        names = _known(task_names(tasks), table)
        if by == "uncertainty":
            chosen = table.most_uncertain(k, names)
        elif by == "disagreement":
            with LabelTable(Path(against or "")) as other:
                chosen = table.most_disputed(other, k, names)
                return _written(target, chosen, [table, other], among)
        else:
            chosen = _novel(table, k, calibration)
        return _written(target, chosen, [table], among)


def _check(by: str, k: int, against: object, calibration: object) -> None:
    if by not in WAYS:
        raise ConfigError(f"by: got {by!r}, expected {', '.join(WAYS)}")
    if k < 1:
        raise ConfigError(f"k: got {k}, expected at least 1 image")
    if (against is None) != (by != "disagreement"):
        raise ConfigError(
            f"against: by {by} got {against}, expected the labels of another bundle for "
            "disagreement, and none else"
        )
    if calibration is not None and by != "novelty":
        raise ConfigError(f"calibration: got {calibration}, expected it only by novelty")


def _known(names: Sequence[str], table: LabelTable) -> Sequence[str]:
    for name in names:
        if name not in table.tasks and f"{name}_entropy" not in table.columns:
            raise ConfigError(
                f"{table.folder}: has no task {name!r}; have {', '.join(table.tasks)}"
            )
    return names


def _novel(table: LabelTable, k: int, calibration: str | Path | None) -> list[Chosen]:
    """Farthest-first traversal (Gonzalez 1985) from the calibration set, over looks."""
    known, points = table.looks()
    old = np.empty((0, points.shape[1]))
    if calibration is not None:
        found = images(str(calibration), _LIKE, split="train")
        with counting("look at the calibration set", len(found)) as advance:
            looks = []
            for item in found:
                looks.append(np.round(features(item.image), DIGITS))  # as labels have them
                advance(1)
        old = np.array(looks)
    whole = np.concatenate([points, old])
    middle, spread = whole.mean(0), whole.std(0) + 1e-9
    points, old = (points - middle) / spread, (old - middle) / spread
    distance = np.full(len(points), np.inf)
    for one in old:
        distance = np.minimum(distance, np.linalg.norm(points - one, axis=1))
    chosen = []
    for number in range(min(k, len(points))):
        is_first = number == 0 and not len(old)
        best = int(np.argmin((points**2).sum(1)) if is_first else np.argmax(distance))
        if distance[best] == 0:
            break  # what is left equals something that is chosen
        score = 0.0 if is_first else float(distance[best])
        name, file, index = known[best]
        chosen.append(Chosen(name, file, index, score))
        distance = np.minimum(distance, np.linalg.norm(points - points[best], axis=1))
    return chosen


def _written(
    out: Path, chosen: Sequence[Chosen], tables: Sequence[LabelTable], among: int
) -> Mined:
    """Copy the images, and write the table and the contact sheet."""
    folder = out / "images"
    make_folder(folder)
    for rest in folder.iterdir():
        rest.unlink()
    digits = len(str(len(chosen)))
    names, panels = {}, {}
    place = {(one.file, one.index): number for number, one in enumerate(chosen)}
    with counting("copy images", len(chosen)) as advance:
        for key, image in _images(place, tables[0].topic):
            number = place[key]
            data, ending = _as_file(image)
            stem = Path(chosen[number].name.replace("#", "-")).stem
            names[number] = f"{number:0{digits}}-{stem}{ending}"
            write_file(folder / names[number], data, force=True)
            if number < SHEET:
                panels[number] = _panel(chosen[number], read_image(image), tables)
            advance(1)
    missing = [one.name for number, one in enumerate(chosen) if number not in names]
    if missing:
        raise InputError(f"{missing[0]}: is no longer in its source; label it again")
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["image", "score", "name", "file", "index"])
    for number, one in enumerate(chosen):
        writer.writerow([names[number], f"{one.score:.6f}", one.name, one.file, one.index])
    buffer = io.BytesIO()
    shown = [panels[number] for number in sorted(panels)]
    contact_sheet(shown).save(buffer, "PNG")
    write_file(out / "sheet.png", buffer.getvalue(), force=True)
    write_file(out / "chosen.csv", text.getvalue().encode(), force=True)
    return Mined(out, folder, tuple(chosen), among)


def _images(
    wanted: Mapping[tuple[str, int], int], topic: str | None
) -> Iterable[tuple[tuple[str, int], Any]]:
    """The images at some places of files; each file is read once, up to its last one."""
    last: dict[str, int] = {}
    for file, index in wanted:
        last[file] = max(index, last.get(file, 0))
    for file, end in last.items():
        for piece in find_pieces(file):
            for item in read_piece(piece, topic):
                if item.index > end:
                    break
                if (file, item.index) in wanted and item.image is not None:
                    yield (file, item.index), item.image


def _as_file(image: bytes | np.ndarray) -> tuple[bytes, str]:
    """The bytes of an image file and its ending; a frame becomes a PNG file."""
    if isinstance(image, bytes):
        with PIL.Image.open(io.BytesIO(image)) as opened:
            kind = (opened.format or "png").lower()
        return image, {"jpeg": ".jpg", "tiff": ".tif"}.get(kind, f".{kind}")
    buffer = io.BytesIO()
    PIL.Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue(), ".png"


def _panel(chosen: Chosen, image: np.ndarray, tables: Sequence[LabelTable]) -> Panel:
    score = f"{chosen.score:.3f}"
    layers: dict[str, dict[str, np.ndarray]] = {}
    for table in tables:
        label = score if len(tables) == 1 else manifest_bundle(table.folder)
        for name, array in table.maps_of(chosen).items():
            layers.setdefault(name, {})[label] = array
    specs = tables[0].tasks
    views = [view(specs[name], maps) for name, maps in layers.items()]
    return Panel(chosen.name, score, image, tuple(views))

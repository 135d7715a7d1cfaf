"""`degmix-edge run`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from degmix_edge.cli._output import Output, verb

if TYPE_CHECKING:
    from degmix_edge.runtime import TaskMap


@click.command()
@click.argument("bundle", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--out", type=click.Path(path_type=Path), help="Write maps here; nothing is written without."
)
@click.option("--tasks", metavar="A,B", help="Write these tasks only.")
@click.option(
    "--native", is_flag=True, help="Maps at each image's own size instead of the network's."
)
@click.option("--backend", default="auto", show_default=True)
@click.option("--threads", type=click.IntRange(1))
@verb
def command(
    output: Output,
    bundle: Path,
    images: tuple[Path, ...],
    out: Path | None,
    tasks: str | None,
    native: bool,
    backend: str,
    threads: int | None,
) -> None:
    """Run BUNDLE on IMAGES (files or folders).

    For every image: OUT/NAME.npz with the arrays of all tasks, and OUT/NAME.TASK.png to look at.
    """
    from degmix_edge.cli._sources import split_tasks
    from degmix_edge.preprocess import list_images
    from degmix_edge.runtime import load

    wanted = split_tasks(tasks)
    paths = [p for image in images for p in (list_images(image) if image.is_dir() else [image])]
    with load(bundle, backend=backend, threads=threads) as session:
        for name in wanted:
            session.spec.task(name)
        names = wanted or session.spec.task_names
        results = []
        with output.progress("run", len(paths)) as advance:
            for path, maps in zip(paths, session.run(paths), strict=True):
                latency = session.latency
                assert latency is not None  # a call came back
                written = _write(out, path, {n: maps[n] for n in names}, native) if out else []
                results.append(
                    {
                        "image": path,
                        "total_ms": latency.total_ms,
                        "net_ms": latency.net_ms,
                        "files": written,
                    }
                )
                advance(1)
    rows = [[str(r["image"]), f"{r['total_ms']:.1f}", f"{r['net_ms']:.1f}"] for r in results]
    output.table(f"{bundle}, {', '.join(names)}", ["image", "total ms", "net ms"], rows)
    if out:
        output.say(f"maps: {out}")
    output.result({"bundle": bundle, "tasks": names, "images": results})


def _write(out: Path, image: Path, maps: Mapping[str, TaskMap], native: bool) -> list[Path]:
    import io

    import numpy as np
    from PIL import Image

    from degmix_edge.cli._files import make_folder, write_file
    from degmix_edge.tasks import colour

    make_folder(out)
    arrays = {n: m.at_image_size() if native else np.asarray(m) for n, m in maps.items()}
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    files = {out / f"{image.stem}.npz": buffer.getvalue()}
    for name, array in arrays.items():
        buffer = io.BytesIO()
        Image.fromarray(colour(array, maps[name].spec)).save(buffer, "PNG")
        files[out / f"{image.stem}.{name}.png"] = buffer.getvalue()
    for path, data in files.items():
        write_file(path, data, force=True)
    return list(files)

"""What NVIDIA's builder makes of every model: `make builder-table`, or this file with model names.

Each model is built by the product, at the tests' size, in each precision and each form of its
deformable convolutions, with TensorRT-RTX and without a GPU. The forms of our plugin need its
library: `libdegmix_trt10.so` beside the package, or what DEGMIX_TRT_PLUGIN names. Where there is
none, one is built for the emulation, as a builder runs no kernel. The table goes to
`build/builder.md`, and its rows to `build/builder.json`.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import conftest
import native_build
from degmix_training import models
from degmix_training.data import synthetic

from degmix_edge.backends import _trt_plugin
from degmix_edge.errors import DegmixError
from degmix_edge.workflows.build import build

FOLDER = Path(__file__).parents[2] / "build"
PRECISIONS = ("fp32", "fp16", "int8")
HEAD = "| model | form | layers | of the plugin | GridSample | plan, MB | build, s |"
"""Three numbers of a cell are of FP32, FP16 and INT8."""


def forms(model: Any) -> tuple[str, ...]:
    """What can be built of a network."""
    deformable = any(node.op_type == "DeformConv" for node in model.graph.node)
    return ("plugin", "offsets", "gridsample") if deformable else ("gridsample",)


def find_plugin(folder: Path) -> None:
    """Let the product find a library of the plugin, built in `folder` where it has none."""
    if _trt_plugin.library("10") is None:
        native_build.build_emulated(folder / "emulated.built")
        library = folder / "emulated" / "libdegmix_trt_emulated.so"
        os.environ[_trt_plugin.VARIABLE] = str(library)


def row(name: str, precision: str, form: str, folder: Path) -> dict[str, Any]:
    """Build one engine, and count its layers."""
    exported = conftest.lively_network(name)[1]
    size = conftest.HEIGHT, conftest.WIDTH
    pictures = [synthetic.render(seed, *size).image for seed in range(3)]
    result: dict[str, Any] = {"model": name, "precision": precision, "form": form}
    start = time.monotonic()
    try:
        made = build(
            exported,
            folder / f"{name}.degmix",
            precision=precision,
            backend="tensorrt-rtx",
            dcn=form,
            calibration=pictures,
            observer="min_max",
            force=True,
        )
    except DegmixError as error:
        return result | {"refused": str(error)}
    engine = made.path / "engines" / "tensorrt_rtx"
    layers = json.loads((engine / "layers.json").read_text())["layers"]
    kinds = Counter(layer["kind"] for layer in layers)
    return result | {
        "layers": len(layers),
        "plugins": kinds["PLUGIN_V3"],
        "grid_samples": kinds["GRID_SAMPLE"],
        "plan_bytes": (engine / "engine.plan").stat().st_size,
        "seconds": round(time.monotonic() - start, 1),
    }


def line(entries: list[dict[str, Any]]) -> str:
    """The row of a model and form in every precision, as markdown."""
    first = entries[0]
    refused = [f"{e['precision']} refused: {e['refused']}" for e in entries if "refused" in e]
    if refused:
        return f"| {first['model']} | {first['form']} | {'; '.join(refused)} |"
    counts = [
        " / ".join(str(entry[key]) for entry in entries)
        for key in ("layers", "plugins", "grid_samples")
    ]
    sizes = " / ".join(f"{entry['plan_bytes'] / 1e6:.1f}" for entry in entries)
    seconds = " / ".join(f"{entry['seconds']:.0f}" for entry in entries)
    return f"| {first['model']} | {first['form']} | {' | '.join(counts)} | {sizes} | {seconds} |"


def main(names: list[str]) -> int:
    """Build, print and write the table; 1 if anything was refused."""
    FOLDER.mkdir(exist_ok=True)
    rows, lines = [], [HEAD, "|---" * 7 + "|"]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        conftest.SHARED[:] = [folder]
        find_plugin(folder)
        print(*lines, sep="\n", flush=True)
        for model in names or models.names():
            for form in forms(conftest.lively_network(model)[1]):
                entries = [row(model, precision, form, folder) for precision in PRECISIONS]
                rows += entries
                lines.append(line(entries))
                print(lines[-1], flush=True)
    (FOLDER / "builder.json").write_text(json.dumps(rows, indent=1))
    (FOLDER / "builder.md").write_text("\n".join(lines) + "\n")
    return int(any("refused" in entry for entry in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""All campaigns, large: `make campaign`, or `python tests/campaigns/campaign.py [NAME ...]`.

Prints a table and the first failures of each campaign, and ends with 1 if there are any.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import mutations
import numpy as np
import skimage.data
import torch
from faults import Operation, faults
from outcomes import HEADER, Outcomes, run_cases
from races import race
from soak import soak

from degmix_edge.bundle.contents import open_bundle
from degmix_edge.bundle.writing import claim, write_bundle
from degmix_edge.errors import DegmixError
from degmix_edge.progress import listening
from degmix_edge.runtime import load
from degmix_edge.workflows.build import build

COUNTS = {
    "damaged bundles": 2000,
    "hostile bundles": 1000,
    "damaged sizes": 1000,
    "hostile sizes": 500,
    "manifest bits": 10**9,
    "onnx": 500,
    "images": 1000,
    "settings": 400,
    "command lines": 500,
}
"""Cases of each campaign when it runs large; `manifest bits` ends with the last bit."""
RACE_ROUNDS, SOAK_CALLS = 500, 30_000
FAULTS = ("build", "replace", "save", "checkpoint")
SHOWN = 5


def campaigns(
    bundle: Path, model: Any, folder: Path, counts: dict[str, int]
) -> Iterator[tuple[str, Callable[[int], str], range]]:
    """Each campaign's name, its case and its seeds."""
    bits, num_bits = mutations.manifest_bits(bundle, folder)
    sizes = two_sizes(bundle.parent) if any(name.endswith("sizes") for name in counts) else bundle
    cases = {
        "damaged bundles": mutations.damaged_bundles(bundle, folder),
        "hostile bundles": mutations.hostile_bundles(bundle, folder),
        "damaged sizes": mutations.damaged_bundles(sizes, folder),
        "hostile sizes": mutations.hostile_bundles(sizes, folder),
        "manifest bits": bits,
        "onnx": mutations.onnx_files(model, folder),
        "images": mutations.images(folder),
        "settings": mutations.settings(folder),
        "command lines": mutations.command_lines(bundle, folder),
    }
    for name, count in counts.items():
        step = max(1, num_bits // count) if name == "manifest bits" else 1
        last = num_bits if name == "manifest bits" else count
        yield name, cases[name], range(0, last, step)


def operations(bundle: Path, model: Any, folder: Path) -> dict[str, Operation]:
    """What writes to disk: a build, the replacement of a bundle, maps, a checkpoint."""
    return {
        "build": _build(model, folder / "build"),
        "replace": _replace(bundle, folder / "replace"),
        "save": _save(bundle, folder / "save"),
        "checkpoint": _checkpoint(folder / "checkpoint"),
    }


def _build(model: Any, folder: Path) -> Operation:
    folder.mkdir()
    target = folder / "robot.degmix"

    def run() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            build(model, target, precision="fp32", force=True)

    return Operation(
        "build", run, run, lambda: _bundle_state(target, None), lambda: _others(target)
    )


def _replace(bundle: Path, folder: Path) -> Operation:
    folder.mkdir()
    target = folder / "robot.degmix"
    opened = open_bundle(bundle)
    files = {name: opened.read(name) for name in opened.manifest.files}

    def write(card: bytes) -> None:
        contents = {**files, "card.md": card}
        write_bundle(claim(target, force=True), opened.manifest, contents)

    return Operation(
        "replace",
        lambda: write(b"old"),
        lambda: write(b"new"),
        lambda: _bundle_state(target, {b"old": "old", b"new": "new"}),
        lambda: _others(target),
    )


def _bundle_state(target: Path, cards: dict[bytes, str] | None) -> str:
    try:
        opened = open_bundle(target)
    except DegmixError as error:
        return str(error)
    return cards.get(opened.read("card.md"), "another card") if cards else "new"


def _others(target: Path) -> list[str]:
    return sorted(p.name for p in target.parent.iterdir() if p != target)


def _save(bundle: Path, folder: Path) -> Operation:
    folder.mkdir()
    with load(bundle) as session:
        maps = session(skimage.data.coffee())

    def state() -> str:
        for path in folder.glob("[!.]*.npz"):
            with np.load(path) as arrays:
                dict(arrays)
        return "new"

    return Operation("save", lambda: None, lambda: maps.save(folder), state)


def _checkpoint(folder: Path) -> Operation:
    from degmix_training import checkpoint

    folder.mkdir()
    path = folder / "best.safetensors"
    loaded = checkpoint.load(checkpoint.locate("degmix_tiny"))
    state_dict = {name: torch.zeros(3) for name in ("a", "b")}

    def write(step: int) -> None:
        card = loaded.card.model_copy(update={"step": step})
        checkpoint.save(path, state_dict, card)

    def state() -> str:
        step = checkpoint.read_card(path).step
        return {1: "old", 2: "new"}.get(step, f"step {step}")

    return Operation("checkpoint", lambda: write(1), lambda: write(2), state)


def run_faults(operation: Operation, every: int = 1) -> Outcomes:
    """Run one operation's faults as a campaign."""
    found = Outcomes(f"faults: {operation.name}")
    for fault in faults(operation, every):
        kind = "foreign" if fault.problem else "refused" if fault.how == "fail" else "harmless"
        found.counts[kind] += 1
        if fault.problem:
            found.failures.append((fault.moment, f"{fault.how}: {fault.problem}"))
    return found


def small_bundle(folder: Path) -> tuple[Path, Any]:
    """An INT8 bundle of the tests' small network, and its float ONNX."""
    from conftest import TASKS, lively_network

    _, model = lively_network("degmix")
    photos = [skimage.data.coffee(), skimage.data.chelsea(), skimage.data.astronaut()] * 3
    target = folder / "robot.degmix"
    build(model, target, precision="int8", calibration=photos, observer="min_max")
    assert set(open_bundle(target).manifest.network.task_names) == set(TASKS)
    return target, model


def two_sizes(folder: Path) -> Path:
    """An INT8 bundle of the same network for two sizes, with its weights in one file."""
    from conftest import HEIGHT, WIDTH, lively_network

    target = folder / "sizes.degmix"
    if not target.exists():
        loaded, _ = lively_network("degmix")
        sizes = ((HEIGHT, WIDTH), (HEIGHT, HEIGHT))
        photos = [skimage.data.coffee(), skimage.data.chelsea(), skimage.data.astronaut()]
        build(loaded, target, size=sizes, calibration=photos, observer="min_max")
    return target


def main() -> int:
    """Run the campaigns that are named, or all."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    names = [*COUNTS, "races", "soak", *(f"faults: {name}" for name in FAULTS)]
    parser.add_argument("names", nargs="*", help=", ".join(names))
    parser.add_argument("--count", type=int, help="cases of each campaign, instead of its own")
    asked = parser.parse_args()
    chosen = asked.names or names
    warnings.simplefilter("ignore")
    results: list[Outcomes] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["DEGMIX_CACHE"] = str(folder / "cache")
        _share(folder)
        bundle, model = small_bundle(folder)
        counts = {n: asked.count or c for n, c in COUNTS.items() if n in chosen}
        for title, case, seeds in campaigns(bundle, model, folder, counts):
            with listening(lambda event: None):
                said = _say(seeds)
                found = _timed(title, partial(run_cases, title, case, seeds, said))
                results.append(found)
        made = operations(bundle, model, folder)
        wanted = [made[title] for title in FAULTS if f"faults: {title}" in chosen]
        results += [_timed(f"faults: {one.name}", partial(run_faults, one)) for one in wanted]
        if "races" in chosen:
            races = race(bundle, RACE_ROUNDS)
            print(f"races: {races}", flush=True)
        if "soak" in chosen:
            print(soak(bundle, SOAK_CALLS), flush=True)
    print(f"\n{HEADER}")
    for found in results:
        print(found.row())
    for found in results:
        kinds = Counter(text for _, text in found.failures)
        for text, count in kinds.most_common(SHOWN):
            seed = next(seed for seed, other in found.failures if other == text)
            print(f"{found.name}: {count} x {text} (first: {seed})")
    return int(not all(found.passed for found in results))


def _share(folder: Path) -> None:
    import conftest

    (folder / "shared").mkdir()
    conftest.SHARED[:] = [folder / "shared"]


def _timed(name: str, run: Callable[[], Outcomes]) -> Outcomes:
    start = time.monotonic()
    found = run()
    print(f"\r{name}: {found.counts.total()} in {time.monotonic() - start:.0f} s", flush=True)
    return found


def _say(seeds: range) -> Callable[[int], None]:
    def said(done: int) -> None:
        if done % 100 == 0 and sys.stdout.isatty():
            print(f"\r{done} of {len(seeds)}", end="", flush=True)

    return said


if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]
    sys.exit(main())

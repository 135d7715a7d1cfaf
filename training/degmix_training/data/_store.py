"""Rendered samples, kept on disk: rendering costs as much as a training step."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np

from degmix_edge.config import cache_folder
from degmix_edge.files import whole_file
from degmix_edge.progress import counting
from degmix_training.data._sample import Sample, Samples

CHUNK = 50
"""Samples a file, so that an interrupted rendering goes on where it stopped."""
RENDERERS = "synthetic _labels _layout _raycast _sample _shading _store _texture _view".split()
"""Files whose code decides what a plain scene is; a varied one has the files of its folder too."""
VARIED = ("synthetic_varied", "synthetic_shifted", "_varied/*")
SMALL = {"depth": np.float16, "normals": np.int8}
"""Storage types: half a millimetre to some at room depths, and a 254th of a unit."""


class Rendered(Samples):
    """Samples by index, loaded from chunks."""

    def __init__(self, chunks: list[dict[str, np.ndarray]], names: list[str]) -> None:
        self.chunks, self.names = chunks, names

    def __len__(self) -> int:
        """Number of samples."""
        return len(self.names)

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]
        """One sample."""
        if not 0 <= index < len(self.names):
            raise IndexError(index)
        chunk = self.chunks[index // CHUNK]
        arrays = {key: values[index % CHUNK] for key, values in chunk.items()}
        image = arrays.pop("image")
        return Sample(
            self.names[index], image, {task: _wide(task, a) for task, a in arrays.items()}
        )


def rendered(name: str, make: Callable[[int], Sample], seeds: range) -> Rendered:
    """Samples `make(seed)`, from the cache where they are there.

    The cache lies in `$DEGMIX_CACHE`, else in `$XDG_CACHE_HOME/degmix-edge`, and knows the code
    that rendered it.
    """
    probe = make(seeds[0])
    size = "x".join(map(str, probe.image.shape[:2]))
    folder = cache_folder() / f"{name}-{size}-{_code_hash(name)}"
    folder.mkdir(parents=True, exist_ok=True)
    starts = range(seeds.start, seeds.stop, CHUNK)
    parts = [range(start, min(start + CHUNK, seeds.stop)) for start in starts]
    missing = [part for part in parts if not _file(folder, part).exists()]
    if len(missing) > 1:
        with ProcessPoolExecutor(max_workers=os.cpu_count()) as pool:
            done = pool.map(_render, [make] * len(missing), [folder] * len(missing), missing)
            with counting(f"render {name}", len(missing)) as advance:
                for _ in done:
                    advance(1)
    elif missing:
        _render(make, folder, missing[0])
    chunks = [dict(np.load(_file(folder, part))) for part in parts]
    return Rendered(chunks, [str(name) for chunk in chunks for name in chunk.pop("name")])


def _render(make: Callable[[int], Sample], folder: Path, seeds: range) -> None:
    samples = [make(seed) for seed in seeds]
    arrays = {"image": np.stack([s.image for s in samples])}
    arrays["name"] = np.array([s.name for s in samples])
    for task in samples[0].labels:
        arrays[task] = np.stack([_narrow(task, s.labels[task]) for s in samples])
    with whole_file(_file(folder, seeds)) as part:
        np.savez(part, **arrays)  # type: ignore[arg-type]


def _file(folder: Path, seeds: range) -> Path:
    return folder / f"{seeds.start}-{seeds.stop}.npz"


def _narrow(task: str, label: np.ndarray) -> np.ndarray:
    if task == "normals":
        return np.rint(label * 127).astype(np.int8)
    return label.astype(SMALL.get(task, label.dtype))


def _wide(task: str, label: np.ndarray) -> np.ndarray:
    if task == "normals":
        vectors = label.astype(np.float32)
        length = np.sqrt(np.sum(vectors**2, axis=-1, keepdims=True))
        return vectors / np.maximum(length, 1)  # zero is invalid and stays zero
    return label.astype(np.float32) if task == "depth" else label


def _code_hash(name: str) -> str:
    digest = hashlib.sha256()
    for stem in (*RENDERERS, *(VARIED if not name.startswith("synthetic-") else ())):
        for path in sorted(Path(__file__).parent.glob(f"{stem}.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]

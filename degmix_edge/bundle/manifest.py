"""The contents of a bundle's `manifest.json`, and the check that they agree with each other."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, Field, ValidationError

from degmix_edge.bundle.reading import parse_json
from degmix_edge.config import Settings
from degmix_edge.errors import BundleError
from degmix_edge.files import sha256
from degmix_edge.network import NetworkSpec
from degmix_edge.preprocess import Fit
from degmix_edge.quant.recipe import Precision
from degmix_edge.tensors import TensorSpec

SCHEMA, SCHEMA_OF_SIZES = 2, 3
"""The format of a bundle whose ONNX files have their weights inside, which has one size of image,
and of one with a file of weights, which may have several."""
MANIFEST, DIGEST, SIGNATURE = "manifest.json", "manifest.sha256", "manifest.sig"
MODEL = "model.onnx"
GOLDEN = "golden.npz"
RANGES, RECIPE, CARD = "ranges.json", "recipe.yaml", "card.md"
WEIGHTS = "weights.bin"
TRUNK = "trunk"
"""The part of a network that runs whatever the tasks are, by its name among the shares."""
REFRESH_OF_PLACES, REFRESH_OF_SUMS = 3, 30
"""Calls after which a task that does not run makes its state anew, for states with a value for each
place in the image and for sums over the image; `docs/task_rates.md` has what older ones cost."""
MOST_SIZES = 64
"""In one bundle; a robot switches between two or three."""
OF_ONE_SIZE = (MODEL, GOLDEN, RANGES)
"""The files that a bundle with several sizes has once for each."""


def _inside(name: str) -> str:
    """Refuse a path that does not stay inside the folder, or that no file can have."""
    parts = name.split("/")
    if any(part in ("", ".", "..") or len(part.encode()) > 255 for part in parts):
        raise ValueError(f"{name!r} is no path inside the bundle")
    if "\0" in name or name in (MANIFEST, DIGEST, SIGNATURE):
        raise ValueError(f"{name!r} cannot be a listed file")
    return name


def _with_zone(text: str) -> str:
    if datetime.fromisoformat(text).tzinfo is None:
        raise ValueError(f"{text!r} has no time zone")
    return text


FileName = Annotated[str, AfterValidator(_inside)]
Digest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Share = Annotated[float, Field(ge=0, le=1)]


class Engine(Settings):
    """One backend's engine, and what it was built from and for.

    Attributes:
        backend: Entry of `degmix_edge.backends`.
        file: Path of the engine inside the bundle.
        key: SHA-256 over model.onnx, its weights, recipe, backend, version and device.
        version: Version of the backend.
        device: The device that the engine was built for.
    """

    backend: str
    file: FileName
    key: Digest
    version: str
    device: str


class Split(Settings):
    """What a manifest says of an engine that runs any subset of its tasks.

    Attributes:
        shares: Fractions of the multiply-adds of a call that runs all tasks: of `trunk`, which
            every call runs, and of each task. Their sum is 1.
        mixers: The part of each task's share by which it makes its state for the other tasks.
        refresh: A task that does not run makes its state anew in every so many calls.
        has_places: A state has a value for each place in the image, which motion makes wrong. Then
            all states are made anew, too, in a call with a task that did not run in the call
            before: that task is exact, and tasks that run in every call use older states.
    """

    shares: dict[str, Share]
    mixers: dict[str, Share]
    refresh: Annotated[int, Field(ge=1)]
    has_places: bool

    def cost(self, rates: Mapping[str, float]) -> float:
        """Return what a frame costs on average, as a fraction of all tasks on every frame.

        Args:
            rates: Runs a second by task. The highest is on every frame, and a task that is not
                there never runs.
        """
        runs = {task: rates.get(task, 0.0) / max(rates.values()) for task in self.mixers}
        # Tasks with pauses run on frames of their own, as a schedule spreads them.
        anew = min(1.0, sum(run for run in runs.values() if run < 1)) if self.has_places else 0.0
        total = self.shares[TRUNK]
        for task, mixer in self.mixers.items():
            total += runs[task] * (self.shares[task] - mixer)
            total += max(runs[task], anew, 1 / self.refresh) * mixer
        return total


def split_with(shares: dict[str, float], mixers: dict[str, float], has_places: bool) -> Split:
    """Return a `Split` with what suits the kind of its states."""
    refresh = REFRESH_OF_PLACES if has_places else REFRESH_OF_SUMS
    return Split(shares=shares, mixers=mixers, refresh=refresh, has_places=has_places)


class Form(Settings):
    """One form of a network that a build measured, in its choice of the fastest.

    Attributes:
        backend: Entry of `degmix_edge.backends`.
        precision: What the recipe was asked for.
        threads: CPU threads of a call.
        net_ms: Median time of a call in milliseconds, on the machine that built the bundle.
        size_bytes: Size of the engine.
        worst: The task that loses most, and what it loses, in words.
        fits: Whether every task is within the budget.
    """

    backend: str
    precision: Precision
    threads: Annotated[int, Field(ge=1)]
    net_ms: float
    size_bytes: int
    worst: str
    fits: bool = True


class SizeEntry(Settings):
    """What a manifest says of another size of image than its first.

    Attributes:
        network, fit, inputs, outputs, engines, split: As in `Manifest`.
    """

    network: NetworkSpec
    fit: Fit
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    engines: tuple[Engine, ...] = ()
    split: Split | None = None


class Manifest(Settings):
    """The contents of `manifest.json`.

    Attributes:
        schema_version: Version of this file's format; another one is refused.
        created: Time of creation in UTC, ISO 8601.
        network: Model, tasks (classes, units, palettes) and source checkpoint.
        fit: How an image of any size becomes the input.
        inputs, outputs: Inputs and outputs of model.onnx, which includes the post-processing.
        precision: `recipe.yaml` has the precision of each node.
        engines: Engines in the bundle.
        split: How engines run any subset of the tasks; None where they always run all.
        forms: What a build that chose the fastest form measured, the chosen form first.
        sizes: The other sizes of a bundle with several; the parts above are of the first.
        versions: Versions of the packages that built the bundle.
        files: SHA-256 by path of every file except this one and `manifest.sha256`.
    """

    schema_version: Annotated[int, Field(strict=True, ge=1)] = SCHEMA
    created: Annotated[str, AfterValidator(_with_zone)]
    network: NetworkSpec
    fit: Fit
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    precision: Precision
    engines: tuple[Engine, ...] = ()
    split: Split | None = None
    forms: tuple[Form, ...] = ()
    sizes: Annotated[tuple[SizeEntry, ...], Field(max_length=MOST_SIZES - 1)] = ()
    versions: dict[str, str]
    files: dict[FileName, Digest] = {}

    @property
    def all_sizes(self) -> tuple[tuple[int, int], ...]:
        """Height and width of every size, the first one first."""
        return tuple(one.fit.size for one in self._entries)

    @property
    def _entries(self) -> tuple[Manifest | SizeEntry, ...]:
        return (self, *self.sizes)

    def at(self, size: tuple[int, int]) -> Manifest:
        """Return the manifest of a bundle with this size alone; `size` is one of `all_sizes`."""
        chosen = dict(zip(self.all_sizes, self._entries, strict=True))[size]
        own = {name: getattr(chosen, name) for name in SizeEntry.model_fields}
        files = dict(self.files)
        if size != self.all_sizes[0]:
            listed = {name: files.get(sized(name, size)) for name in OF_ONE_SIZE}
            files = {n: d for n, d in {**files, **listed}.items() if d is not None}
        return self.model_copy(update={**own, "sizes": (), "files": files})

    def engine(self, backend: str) -> Engine | None:
        """Return the engine of `backend`, or None if there is none."""
        return next((engine for engine in self.engines if engine.backend == backend), None)


def parse_manifest(data: bytes, where: Path) -> Manifest:
    """Return the manifest in the bytes of a `manifest.json`.

    Raises:
        BundleError: This version cannot read it, or its parts contradict each other.
    """
    values = parse_json(data, f"{where}: {MANIFEST}")
    schema = values.get("schema_version") if isinstance(values, dict) else None
    if type(schema) is int and schema not in (SCHEMA, SCHEMA_OF_SIZES):
        advice = "update degmix-edge" if schema > SCHEMA else "build the bundle again"
        known = f"{SCHEMA} and {SCHEMA_OF_SIZES}"
        raise BundleError(f"{where}: schema {schema}, this degmix-edge reads {known}; {advice}")
    try:
        manifest = Manifest.model_validate(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        message = f"{MANIFEST}: {place}: {first['msg']}" if place else f"{MANIFEST}: {first['msg']}"
        raise BundleError(f"{where}: {message}") from None
    for problem in filter(None, (_of_sizes(manifest), *_contradictions(manifest))):
        raise BundleError(f"{where}: {MANIFEST}: {problem}")
    return manifest


def _contradictions(manifest: Manifest) -> Iterator[str | None]:
    """For each size what its parts say differently; None if they agree."""
    yield from (_contradiction(manifest.at(size)) for size in manifest.all_sizes)


def _of_sizes(manifest: Manifest) -> str | None:
    """What is wrong with the list of sizes; None if nothing is."""
    first, *others = manifest.all_sizes
    shares = bool(others) or WEIGHTS in manifest.files
    if (manifest.schema_version == SCHEMA_OF_SIZES) != shares:
        has = f" and {WEIGHTS}" if WEIGHTS in manifest.files else ""
        return f"schema {manifest.schema_version} with {1 + len(others)} sizes{has}"
    if len({first, *others}) <= len(others):
        return "sizes has the same size twice"
    names = manifest.network.task_names
    if any(one.network.task_names != names for one in manifest.sizes):
        return f"sizes has other tasks than the first size, {', '.join(names)}"
    needed = [sized(name, size) for size in others for name in (MODEL, GOLDEN)]
    needed += [WEIGHTS] * bool(others)
    missing = [name for name in needed if name not in manifest.files]
    return f"files has no {missing[0]!r}" if missing else None


def _contradiction(manifest: Manifest) -> str | None:
    """What the manifest's parts say differently; None if they agree."""
    network, fit = manifest.network, manifest.fit
    size = network.height, network.width
    if fit.size != size:
        return f"fit is {fit.height}x{fit.width}, the network takes {size[0]}x{size[1]}"
    if manifest.inputs != network.input_specs:
        taken = _names(network.input_specs)
        return f"inputs {_names(manifest.inputs)}, the network takes {taken}"
    maps, logits = network.map_specs, {*network.logits_specs}
    extra = manifest.outputs[len(maps) :]
    if manifest.outputs[: len(maps)] != maps or not logits.issuperset(extra):
        return f"outputs {_names(manifest.outputs)}, the network gives {_names(maps)}"
    if (split := manifest.split) is not None:
        names = [*network.task_names]
        if [*split.shares] != [TRUNK, *names] or [*split.mixers] != names:
            return f"split has shares of {', '.join(split.shares)}, expected trunk and all tasks"
    needed = [MODEL, RECIPE, GOLDEN, *(engine.file for engine in manifest.engines)]
    missing = [name for name in needed if name not in manifest.files]
    return f"files has no {missing[0]!r}" if missing else None


def _names(tensors: tuple[TensorSpec, ...]) -> str:
    return "; ".join(map(str, tensors)) or "none"


def sized(name: str, size: tuple[int, int]) -> str:
    """Return the name of a file of another size than the first: `model.448x672.onnx`."""
    stem, dot, suffix = name.rpartition(".")
    return f"{stem}.{size_text(size)}{dot}{suffix}"


def size_text(size: tuple[int, int]) -> str:
    """Return a size as people write it: `448x672`, height first."""
    return f"{size[0]}x{size[1]}"


def digest_line(digest: str) -> bytes:
    """Return what `sha256sum manifest.json` prints, so that `sha256sum -c` can check it."""
    return f"{digest}  {MANIFEST}\n".encode()


def engine_key(files: Mapping[str, str], backend: str, version: str, device: str) -> str:
    """Return one hash of everything that an engine depends on.

    `files` are the SHA-256 by name of model.onnx, recipe.yaml and, if there is one, the file with
    the weights. The others say what runs the engine.
    """
    weights = [files[WEIGHTS]] if WEIGHTS in files else []
    parts = (files[MODEL], files[RECIPE], backend, version, device, *weights)
    return sha256(json.dumps(parts).encode())

"""Which engine a session runs: the bundle's own, one from the user's cache, or one built now."""

from __future__ import annotations

import contextlib
import warnings
from importlib.util import find_spec
from pathlib import Path

from degmix_edge.backends import EngineBackend, EngineOptions
from degmix_edge.bundle.contents import Bundle, recipe_and_ranges
from degmix_edge.bundle.golden import unpack
from degmix_edge.bundle.manifest import GOLDEN, MODEL, Engine, engine_key
from degmix_edge.config import cache_folder
from degmix_edge.errors import BackendError, OutputError
from degmix_edge.files import sha256, write_file
from degmix_edge.graph.self_contained import check_self_contained


def engine_bytes(bundle: Bundle, backend: type[EngineBackend], *, rebuild: bool = True) -> bytes:
    """The bundle's engine for `backend` if it was built for what runs here, else a stand-in.

    That is model.onnx where the backend runs it, else an engine that is built now and kept. One
    that runs tasks alone is built too, where the packages for it are there.
    """
    engine = bundle.manifest.engine(backend.name)
    here = (backend.version(), backend.device())
    key = engine_key(bundle.manifest.files, backend.name, *here)
    if engine is not None and engine.key == key:
        if not backend.runs_model:
            return bundle.read(engine.file)
        built = bundle.onnx(engine.file)
        check_self_contained(built, f"{bundle.path}/{engine.file}")
        return built
    model = bundle.onnx()
    check_self_contained(model, f"{bundle.path}/{MODEL}")
    why = _mismatch(backend.name, engine, here)
    again = f"`degmix-edge build engine {bundle.path} --backend {backend.name}` builds it again"
    is_split = bundle.manifest.split is not None and "split" in backend.takes_options
    if backend.runs_model and not (is_split and rebuild and find_spec("onnx_graphsurgeon")):
        warnings.warn(
            f"{bundle.path}: {why}: using {MODEL}, which is slower. {again}", stacklevel=3
        )
        return model
    if not rebuild:
        raise BackendError(f"{bundle.path}: {why}. {again}")
    kept = cache_folder() / "engines" / f"{key}.{'split' if is_split else 'plan'}"
    found = _kept(kept)
    if found is None:
        warnings.warn(f"{bundle.path}: {why}: building one, for minutes. {again}", stacklevel=3)
        found = _build(bundle, backend, model)
        _keep(kept, found)
    return found


def _mismatch(name: str, engine: Engine | None, here: tuple[str, str]) -> str:
    """A table of two columns: what the engine was built for, what runs here."""
    if engine is None:
        return f"has no engine for {name}"
    rows = [("", "built for", "running on"), (name, engine.version, here[0])]
    rows += [("device", engine.device, here[1])]
    widths = [max(len(row[i]) for row in rows) for i in range(3)]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
    if (engine.version, engine.device) == here:
        return "its engine is of another model.onnx or recipe"
    return "its engine does not fit\n" + "\n".join(f"  {line.rstrip()}" for line in lines) + "\n"


def _build(bundle: Bundle, backend: type[EngineBackend], model: bytes) -> bytes:
    try:
        feed, _ = unpack(bundle.read(GOLDEN), bundle.manifest.network, bundle.path)
        is_split = bundle.manifest.split is not None and "split" in backend.takes_options
        options = EngineOptions(split=is_split, feeds=(feed,))
        return backend.build(model, *recipe_and_ranges(bundle), options)[backend.engine_file]
    except (
        ModuleNotFoundError
    ) as error:  # building needs onnx; a robot that has its engine does not
        raise BackendError(
            f"building an engine needs {error.name}: pip install 'degmix-edge[tensorrt]', or build "
            f"it on another machine with this card"
        ) from None


def _kept(path: Path) -> bytes | None:
    """An engine from the cache, if it is what was put there: a plan is code."""
    try:
        engine, want = path.read_bytes(), path.with_suffix(".sha256").read_text()
    except OSError:
        return None
    return engine if sha256(engine) == want else None


def _keep(path: Path, engine: bytes) -> None:
    with contextlib.suppress(OSError, OutputError):  # without a cache, only time is lost
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, engine, force=True)
        write_file(path.with_suffix(".sha256"), sha256(engine).encode(), force=True)

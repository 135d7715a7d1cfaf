"""Which engine a session runs: the bundle's own, one from the user's cache, or one built now."""

from __future__ import annotations

import contextlib
import warnings
from importlib.util import find_spec
from pathlib import Path

from degmix_edge.backends import EngineBackend, EngineOptions
from degmix_edge.bundle.contents import Bundle, recipe_and_ranges
from degmix_edge.bundle.golden import differences, unpack
from degmix_edge.bundle.manifest import GOLDEN, MODEL, Engine, engine_key
from degmix_edge.config import cache_folder
from degmix_edge.errors import BackendError, DegmixWarning, OutputError
from degmix_edge.files import sha256, write_file
from degmix_edge.graph.self_contained import check_self_contained

BUILDING = ("onnx", "onnx_graphsurgeon")
"""What lowers a graph for a backend; a robot that has its engine needs neither."""


def engine_bytes(bundle: Bundle, backend: type[EngineBackend], *, rebuild: bool = True) -> bytes:
    """The bundle's engine for `backend` if it was built for what runs here, else a stand-in.

    That is an engine of the user's cache. Where there is none, and `rebuild` allows it, it is one
    that is built now and kept. A backend that runs model.onnx also takes the engine of another
    version or device, if it gives the golden maps here, and model.onnx where nothing else is left.
    """
    engine = bundle.manifest.engine(backend.name)
    here = (backend.version(), backend.device())
    key = engine_key(bundle.manifest.files, backend.name, *here)
    if engine is not None and engine.key == key:
        return _own(bundle, backend, engine)
    model = bundle.onnx()
    check_self_contained(model, f"{bundle.path}/{MODEL}")
    ending = ".split" if _is_split(bundle, backend) else ""
    kept = cache_folder() / "engines" / f"{key}{ending}{Path(backend.engine_file).suffix}"
    found = _kept(kept)
    if found is not None:
        return found
    why = f"{bundle.path}: {_mismatch(backend.name, engine, here)}"
    again = f"`degmix-edge build engine {bundle.path} --backend {backend.name}` builds it again"
    if not backend.runs_model:
        if not rebuild:
            raise BackendError(f"{why}. {again}")
        time = ", for minutes" if backend.has_lanes else ""
        warnings.warn(f"{why}: building one{time}. {again}", DegmixWarning, stacklevel=3)
        found = _build(bundle, backend, model)
        _keep(kept, found)
        return found
    found, how = _replaced(bundle, backend, model) if rebuild else (None, "")
    if found is None:
        warnings.warn(
            f"{why}: {how}using {MODEL}, which is slower. {again}",
            category=DegmixWarning,
            stacklevel=3,
        )
        return model
    warnings.warn(f"{why}: {how}, and kept in {kept.parent}. {again}", DegmixWarning, stacklevel=3)
    _keep(kept, found)
    return found


def _is_split(bundle: Bundle, backend: type[EngineBackend]) -> bool:
    """Whether the bundle's engines for this backend run any subset of its tasks."""
    return bundle.manifest.split is not None and "split" in backend.takes_options


def _own(bundle: Bundle, backend: type[EngineBackend], engine: Engine) -> bytes:
    """The engine that is in the bundle."""
    if not backend.runs_model:
        return bundle.read(engine.file)
    built = bundle.onnx(engine.file)
    check_self_contained(built, f"{bundle.path}/{engine.file}")
    return built


def _replaced(
    bundle: Bundle, backend: type[EngineBackend], model: bytes
) -> tuple[bytes | None, str]:
    """An engine that gives the golden maps here, of a backend that runs model.onnx; and what it is.

    Where there is none, the words say what to install or what went wrong.
    """
    missing = [name for name in BUILDING if find_spec(name) is None]
    if not missing:
        try:
            built = _build(bundle, backend, model)
            if _gives_golden_maps(bundle, backend, built):
                return built, "another one was built"
            problem = "one that was built now gives other maps"
        except Exception as error:  # onnx raises nearly anything on a graph that nobody exported
            problem = f"none can be built ({error})"
        return None, f"{problem}; "
    engine = bundle.manifest.engine(backend.name)
    if engine is not None and engine.key == engine_key(
        bundle.manifest.files, backend.name, engine.version, engine.device
    ):
        own = _own(bundle, backend, engine)
        with contextlib.suppress(BackendError):
            if _gives_golden_maps(bundle, backend, own):
                return own, "it gives the golden maps here, so it is used all the same"
    return None, f"building one needs {missing[0]}: pip install 'degmix-edge[build]'; "


def _gives_golden_maps(bundle: Bundle, backend: type[EngineBackend], engine: bytes) -> bool:
    spec = bundle.manifest.network
    feed, expected = unpack(bundle.read(GOLDEN), spec, bundle.path)
    with backend(spec, engine) as running:
        return differences(spec, expected, running.infer(feed)).passed


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
        options = EngineOptions(split=_is_split(bundle, backend), feeds=(feed,))
        return backend.build(model, *recipe_and_ranges(bundle), options)[backend.engine_file]
    except (
        ModuleNotFoundError
    ) as error:  # building needs onnx; a robot that has its engine does not
        raise BackendError(
            f"building an engine needs {error.name}: pip install 'degmix-edge[build]', or build "
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

"""degmix-edge: multi-task dense prediction from PyTorch to a robot.

>>> import degmix_edge
>>> degmix_edge.build("degmix_tiny", "robot.degmix", calibration="photos/")
>>> with degmix_edge.load("robot.degmix") as session:
...     maps = session("kitchen.jpg")

build     Build a bundle from a checkpoint, an ONNX file or a torch module.
quantize  Quantize a network to ONNX, without building an engine.
export    Export a network as float ONNX with exact folds and passes.
load      Open a bundle as a session that runs images.
stream    Open a bundle and cameras: the newest maps, each task at its own rate.
serve     Serve a bundle over HTTP: images in, maps out, on Ray Serve.
compare   Compare a bundle's engine with PyTorch, task by task.
bench     Time a bundle: percentiles of every part of a call.
evaluate  Score a checkpoint in PyTorch by the papers' metrics.
verify    Check a bundle's hashes and its golden image.
Session   An open bundle: `session(image)` gives maps.
Bundle    A verified bundle on disk.
Options   Everything that a build can be asked for.
Recipe    Each weighted node's precision, and why.
Ranges    What calibration measured.
errors    The exceptions, each with its exit code.

`degmix_edge.workflows` has the rest: the zoo, pruning, converting, describing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from degmix_edge._version import __version__

if TYPE_CHECKING:
    from degmix_edge import errors
    from degmix_edge.bundle.contents import Bundle
    from degmix_edge.quant.ranges import Ranges
    from degmix_edge.quant.recipe import Recipe
    from degmix_edge.runtime import Session, load
    from degmix_edge.runtime.stream import stream
    from degmix_edge.workflows.bench import bench
    from degmix_edge.workflows.build import build
    from degmix_edge.workflows.compare import compare
    from degmix_edge.workflows.evaluate import evaluate
    from degmix_edge.workflows.export import export
    from degmix_edge.workflows.options import Options
    from degmix_edge.workflows.quantize import quantize
    from degmix_edge.workflows.serve.run import serve
    from degmix_edge.workflows.verify import verify

_HOMES = {
    "build": "workflows.build",
    "quantize": "workflows.quantize",
    "export": "workflows.export",
    "load": "runtime",
    "stream": "runtime.stream",
    "serve": "workflows.serve.run",
    "compare": "workflows.compare",
    "bench": "workflows.bench",
    "evaluate": "workflows.evaluate",
    "verify": "workflows.verify",
    "Session": "runtime",
    "Bundle": "bundle.contents",
    "Options": "workflows.options",
    "Recipe": "quant.recipe",
    "Ranges": "quant.ranges",
}
"""Where the public names live: each module is imported when its name is first used."""

__all__ = [
    "Bundle",
    "Options",
    "Ranges",
    "Recipe",
    "Session",
    "__version__",
    "bench",
    "build",
    "compare",
    "errors",
    "evaluate",
    "export",
    "load",
    "quantize",
    "serve",
    "stream",
    "verify",
]


def __getattr__(name: str) -> Any:
    # `import degmix_edge` stays free of numpy and pydantic: `degmix-edge --help` imports it.
    if name == "errors":
        return import_module("degmix_edge.errors")
    if name in _HOMES:
        value = getattr(import_module(f"degmix_edge.{_HOMES[name]}"), name)
        globals()[name] = value
        return value
    import difflib

    near = difflib.get_close_matches(name, __all__, n=1, cutoff=0.5)
    hint = f". Did you mean {near[0]!r}?" if near else f". Have: {', '.join(__all__)}"
    raise AttributeError(f"module 'degmix_edge' has no attribute {name!r}{hint}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})

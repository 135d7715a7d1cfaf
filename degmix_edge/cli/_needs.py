"""Which extra brings a package that a verb could not import: the smallest one that is enough."""

from __future__ import annotations

from degmix_edge.errors import BackendError

EXTRAS = {
    "onnxruntime": "cpu",
    "openvino": "openvino",
    "torch": "export",
    "torchvision": "export",
    "timm": "export",
    "safetensors": "export",
    "onnx": "build",
    "onnxscript": "export",
    "onnx_graphsurgeon": "build",
    "polygraphy": "compare",
    "jinja2": "compare",
    "cryptography": "sign",
    "lightning": "train",
    "tensorboard": "train",
    "scipy": "train",
    "skimage": "demo",
    "aiohttp": "serve",
    "duckdb": "scale",
    "fsspec": "scale",
    "pyarrow": "scale",
    "ray": "scale",
}
OF_VERBS = {"demo": "demo", "export": "export", "prune": "export", "train": "train"}
"""Verbs that need a whole role: the extra of one package would lack the next one."""


def missing_package(error: ModuleNotFoundError, verb: str) -> BackendError:
    """The error for a package that `verb` lacks. One that we do not know is a bug: raised again."""
    package = (error.name or "").split(".")[0]
    if package not in EXTRAS:
        raise error
    return BackendError(
        f"this verb needs {package}, which is not installed: "
        f"pip install 'degmix-edge[{OF_VERBS.get(verb, EXTRAS[package])}]'"
    )

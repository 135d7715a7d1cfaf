"""Which extra brings a package that could not be imported: the smallest one that is enough."""

from __future__ import annotations

from typing import TypeVar

from degmix_edge.errors import DegmixError

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


E = TypeVar("E", bound=DegmixError)


def missing_package(package: str | None, what: str, kind: type[E], extra: str | None = None) -> E:
    """The error for a package that is not installed.

    Args:
        package: Its name, as `import` takes it; None is a name that Python did not say.
        what: What needs it, which begins the message.
        kind: The exception.
        extra: The extra to install; None is the smallest that has the package.
    """
    extra = extra or EXTRAS[package or ""]
    return kind(
        f"{what} needs {package}, which is not installed: pip install 'degmix-edge[{extra}]'"
    )

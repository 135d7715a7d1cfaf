"""Which extra brings a package that a verb could not import: the smallest one that is enough."""

from __future__ import annotations

from degmix_edge.errors import BackendError

EXTRAS = {
    "onnxruntime": "cpu",
    "torch": "export",
    "torchvision": "export",
    "timm": "export",
    "safetensors": "export",
    "onnx": "build",
    "onnxscript": "export",
    "onnx_graphsurgeon": "build",
    "polygraphy": "compare",
    "cryptography": "sign",
    "lightning": "train",
    "tensorboard": "train",
    "scipy": "train",
    "skimage": "demo",
}


def missing_package(error: ModuleNotFoundError) -> BackendError:
    """The error for a missing package. One that we do not know is a bug: raised again."""
    package = (error.name or "").split(".")[0]
    if package not in EXTRAS:
        raise error
    return BackendError(
        f"this verb needs {package}, which is not installed: "
        f"pip install 'degmix-edge[{EXTRAS[package]}]'"
    )

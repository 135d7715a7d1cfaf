"""One Python script that runs model.onnx with numpy, onnxruntime and Pillow only.

The template is a whole program; only its constant CONTRACT is filled in, as a Python literal.
"""

from __future__ import annotations

import textwrap
from typing import Any

from degmix_edge.bundle.manifest import MODEL
from degmix_edge.workflows.emit._base import Emission, pieces, template

SHORT = 72
"""Values of fewer characters stay on the line of their name."""


def render(source: Emission) -> dict[str, bytes]:
    """Return run.py and model.onnx."""
    source.check_one_image("python")
    script = template("run.py.txt").replace("@CONTRACT@", _literal(_values(source)))
    return {"run.py": script.encode(), MODEL: source.model}


def _literal(value: Any, indent: str = "") -> str:
    """Return Python source of plain values, a line for each entry of what does not fit one line."""
    inner = indent + "    "
    if len(repr(value)) < SHORT:
        return repr(value)
    if isinstance(value, str):
        return "\n".join(["(", *(inner + repr(piece) for piece in pieces(value)), indent + ")"])
    if isinstance(value, dict):
        entries = [f"{key!r}: {_literal(entry, inner)}," for key, entry in value.items()]
        return "\n".join(["{", *(inner + entry for entry in entries), indent + "}"])
    if all(isinstance(entry, dict) for entry in value):
        entries = [_literal(entry, inner) + "," for entry in value]
        return "\n".join(["[", *(inner + entry for entry in entries), indent + "]"])
    numbers = textwrap.fill(repr(value)[1:-1], 98, initial_indent=inner, subsequent_indent=inner)
    return f"[\n{numbers},\n{indent}]"


def _values(source: Emission) -> dict[str, Any]:
    """The contract as plain values."""
    network, image = source.manifest.network, source.image
    palettes = {task.name: list(task.palette) for task in network.tasks}
    return {
        "model": {
            "name": source.name,
            "network": network.model,
            "precision": source.manifest.precision,
            "built": source.manifest.created,
        },
        "input": {
            "name": image.name,
            "dtype": image.dtype,
            "shape": tuple(image.shape),
            "layout": image.layout,
            "color": image.color,
            "range": image.range,
            "fit": {"mode": source.manifest.fit.mode, "pad": source.manifest.fit.pad},
        },
        "outputs": [
            {
                "name": output.name,
                "dtype": output.dtype,
                "shape": tuple(output.shape),
                "layout": output.layout,
                "unit": output.unit,
                "range": output.range,
                "kind": output.kind,
                "stride": output.stride,
                "meaning": output.meaning,
                "classes": output.classes,
                "palette": palettes[output.task] if output.kind == "class" else [],
            }
            for output in source.contract.outputs
        ],
    }

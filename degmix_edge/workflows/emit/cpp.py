"""A C++ program that runs model.onnx with ONNX Runtime's C++ API, and its CMake file.

The template is a whole program; only the block of constants is filled in, as string and number
literals. No text of the manifest becomes code or a comment.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from degmix_edge.bundle.contract import Output, one_line
from degmix_edge.bundle.manifest import MODEL
from degmix_edge.workflows.emit._base import Emission, c_string, pieces, template

KINDS = {
    "class": "kCLASS",
    "probability": "kPROBABILITY",
    "measure": "kMEASURE",
    "vector": "kVECTOR",
    "numbers": "kRAW",
    "logits": "kRAW",
}
"""How main.cpp writes each kind of output."""
TYPES = {"float16": "FLOAT16", "float32": "FLOAT", "float64": "DOUBLE"}
"""ONNX Runtime's words for dtypes whose names it does not just spell in capitals."""


def render(source: Emission) -> dict[str, bytes]:
    """Return main.cpp, CMakeLists.txt and model.onnx."""
    source.check_one_image("cpp")
    program = template("main.cpp").replace("// @CONTRACT@", _constants(source))
    return {
        "main.cpp": program.encode(),
        "CMakeLists.txt": template("CMakeLists.txt").encode(),
        MODEL: source.model,
    }


def _constants(source: Emission) -> str:
    image, manifest = source.image, source.manifest
    _, height, width, _ = image.shape
    about = f"{source.name}: {manifest.network.model}, {manifest.precision}, {manifest.created}"
    lines = [
        f"constexpr char const* kABOUT = {c_string(one_line(about))};",
        f"constexpr char const* kINPUT = {c_string(image.name)};",
        f"constexpr int64_t kHEIGHT = {height};",
        f"constexpr int64_t kWIDTH = {width};",
        "// How an image of another size becomes the input.",
        f"constexpr char const* kFIT\n    = {_text(image.meaning, 4)};",
        "",
        "// Name, type, kind, shape, unit, meaning of a value, and names of classes by index.",
        "std::vector<Output> const kOUTPUTS = {",
        *(_output(output) for output in source.contract.outputs),
        "};",
    ]
    return "\n".join(lines)


def _output(output: Output) -> str:
    shape = ", ".join(map(str, output.shape))
    dtype = TYPES.get(output.dtype, output.dtype.upper())
    size = np.dtype(output.dtype).itemsize
    # Two bytes a pixel are no picture that every viewer shows with its classes.
    kind = KINDS["numbers" if output.dtype == "uint16" else output.kind]
    classes = _packed([c_string(one_line(name)) for name in output.classes.values()], 12)
    return "\n".join(
        [
            f"    {{{c_string(output.name)}, ONNX_TENSOR_ELEMENT_DATA_TYPE_{dtype}, {size}, "
            f"Kind::{kind}, {{{shape}}}, {c_string(one_line(output.unit))},",
            f"        {_text(output.meaning, 8)},",
            f"        {{{classes}}}}},",
        ]
    )


def _text(text: str, indent: int) -> str:
    """Return a string as literals on lines of their own, which C++ joins."""
    return ("\n" + " " * indent).join(map(c_string, pieces(text)))


def _packed(literals: Sequence[str], indent: int) -> str:
    """Return literals with commas, as many on a line as fit."""
    lines: list[str] = []
    for literal in literals:
        if lines and len(lines[-1]) + len(literal) < 96:
            lines[-1] += f" {literal},"
        else:
            lines.append(" " * indent + literal + ",")
    return "".join("\n" + line for line in lines)

"""What every target is made from, and how text of a manifest is quoted in generated files.

Task names are word characters, dots and dashes. Class names, units and the model's name are free
text, which must not end a string, a comment or a line.
"""

from __future__ import annotations

import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

from degmix_edge.bundle.contents import Bundle
from degmix_edge.bundle.contract import Contract, Input, Output, contract, contract_lines, one_line
from degmix_edge.bundle.manifest import MODEL, Engine, Manifest
from degmix_edge.errors import ConfigError

PLAN_BACKEND = "tensorrt"
"""The backend whose engine is a plan that programs with TensorRT load."""
PLAN = "engine.plan"
_TEMPLATES = Path(__file__).with_name("templates")


@dataclass(frozen=True)
class Emission:
    """What a target is made from.

    Attributes:
        name: The bundle's name as letters, digits, `_` and `-`.
        manifest: What the bundle says of itself.
        contract: What its model takes and gives.
        model: The bytes of model.onnx, which is standard ONNX, with all weights inside.
        plan: The bytes of the bundle's TensorRT plan; None if it has none.
        engine: For what the plan was built; None if there is none.
    """

    name: str
    manifest: Manifest
    contract: Contract
    model: bytes
    plan: bytes | None
    engine: Engine | None

    @property
    def image(self) -> Input:
        """The image."""
        return self.contract.inputs[0]

    def check_one_image(self, target: str) -> None:
        """Check that a call takes a single picture and nothing else.

        Raises:
            ConfigError: It takes more.
        """
        taken = self.contract.inputs
        if self.manifest.network.takes_map:
            raise ConfigError(
                f"emit {target}: {self.name} takes {self.manifest.network.color} and no picture, "
                f"and the files for {target} give one; `emit triton` describes the input, and "
                "`degmix_edge.load` takes it"
            )
        if len(taken) == 1 and self.manifest.network.batch == 1:
            return
        what = ", ".join(one.name for one in taken[1:]) or f"{taken[0].shape[0]} images"
        raise ConfigError(
            f"emit {target}: one call of {self.name} takes {what}, and the files for {target} give "
            "one image; `emit triton` describes every input, and `degmix_edge.load` takes them all"
        )

    @property
    def has_plugin(self) -> bool:
        """Whether the plan was built where our TensorRT plugin was, so that it may need it."""
        return self.engine is not None and "degmix plugin" in self.engine.device

    @property
    def models(self) -> dict[str, bytes]:
        """The model files by name: model.onnx, and the plan if there is one."""
        return {MODEL: self.model} | ({PLAN: self.plan} if self.plan is not None else {})


def emission(opened: Bundle) -> Emission:
    """Return what targets need of a bundle.

    Raises:
        BundleError: A file of the bundle is no longer what was opened.
        GraphError: A weight of its model.onnx is not in the bundle.
    """
    manifest = opened.manifest
    engine = manifest.engine(PLAN_BACKEND)
    return Emission(
        name=re.sub(r"[^A-Za-z0-9_-]", "_", opened.path.resolve().stem) or "model",
        manifest=manifest,
        contract=contract(manifest),
        model=opened.onnx(),
        plan=opened.read(engine.file) if engine else None,
        engine=engine,
    )


def template(name: str) -> str:
    """Return the text of a template."""
    return (_TEMPLATES / name).read_text(encoding="utf-8")


def heading(source: Emission) -> list[str]:
    """Return lines for the comment at the top of a file: the model, and all of its contract."""
    manifest = source.manifest
    return [
        f"{source.name}: {manifest.network.model}, {manifest.precision}, built {manifest.created}",
        "Written by `degmix-edge emit`.",
        "",
        *contract_lines(source.contract),
    ]


def commented(lines: list[str], mark: str = "#") -> str:
    """Return lines as a block comment of at most 100 columns; each is made printable."""
    block = []
    for line in map(one_line, lines):
        indent = " " * (len(line) - len(line.lstrip()))
        block += textwrap.wrap(line, 98, subsequent_indent=indent, break_on_hyphens=False) or [""]
    return "".join(f"{mark} {line}".rstrip() + "\n" for line in block)


def pieces(text: str) -> list[str]:
    """Return `text` cut between words into pieces of about 80 characters; joined they are it."""
    return re.findall(r".{1,80}(?:\s+|\Z)|\s*\S+\s*", text, re.DOTALL) or [text]


def c_string(text: str) -> str:
    r"""Return `text` as a string literal of C++ and of protobuf's text format, quotes included.

    What cannot be printed becomes octal bytes of UTF-8. A question mark is written `\?`, because
    older compilers read `??/` as a backslash.
    """
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(character: str) -> str:
    if character in '"\\?':
        return "\\" + character
    if character.isprintable():
        return character
    return "".join(f"\\{byte:03o}" for byte in character.encode())


def label_file(output: Output) -> str:
    """Return the name of the file with an output's class names."""
    return f"labels_{output.name}.txt"


def labels(output: Output, *, separator: str = "") -> bytes:
    """Return class names one a line, so that the line number less one is the index.

    Args:
        output: The output with the classes.
        separator: A character that the program gives a meaning; spaces replace it.
    """
    names = [one_line(name).strip() or f"class {i}" for i, name in output.classes.items()]
    if separator:
        names = [name.replace(separator, " ") for name in names]
    return "".join(f"{name}\n" for name in names).encode()


def class_maps(source: Emission) -> list[Output]:
    """Return the outputs whose values are class indices and have names."""
    return [o for o in source.contract.outputs if o.kind == "class" and o.classes]

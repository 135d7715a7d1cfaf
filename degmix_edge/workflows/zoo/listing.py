"""The zoos and the models that there are, read from files: this needs neither PyTorch nor a model.

A model's file imports PyTorch, so its docstring is read without running the file.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path

import degmix_training
import yaml

from degmix_edge.registry import KINDS
from degmix_edge.report.text import TextTable

FOLDER = Path(degmix_training.__file__).parent


@dataclass(frozen=True)
class ZooOutline:
    """A zoo of the package.

    Attributes:
        name: What `zoo` takes.
        height, width: Size of the networks' input in pixels.
        steps: Training steps of each network.
        entries: Names of the networks.
    """

    name: str
    height: int
    width: int
    steps: int
    entries: tuple[str, ...]


def list_models() -> dict[str, str]:
    """The first line of each model's docstring, by the model's name.

    Models of other distributions come from their entry points.
    """
    files = {path.stem: path for path in (FOLDER / "models").glob("[!_]*.py")}
    lines = {name: _first_line(path) for name, path in files.items()}
    for entry in entry_points(group=KINDS["degmix_training.models"].group):
        lines.setdefault(entry.name, _foreign_line(entry.value))
    return dict(sorted(lines.items()))


def list_zoos() -> list[ZooOutline]:
    """The zoos of the package, by name."""
    return [_outline(path) for path in sorted((FOLDER / "configs" / "zoo").glob("*.yaml"))]


def zoo_tables() -> Iterator[TextTable]:
    """Yield the models and the zoos, one row each."""
    models = [[name, line] for name, line in list_models().items()]
    yield TextTable("models", ["model", "what it is"], models)
    zoos = [
        [zoo.name, f"{zoo.height}x{zoo.width}", str(zoo.steps), ", ".join(zoo.entries)]
        for zoo in list_zoos()
    ]
    yield TextTable("zoos", ["zoo", "size", "steps", "networks"], zoos)


def _outline(path: Path) -> ZooOutline:
    values = yaml.safe_load(path.read_text())
    size = (values["train"]["height"], values["train"]["width"])
    return ZooOutline(path.stem, *size, values["train"]["steps"], tuple(values["entries"]))


def _first_line(path: Path) -> str:
    text = ast.get_docstring(ast.parse(path.read_text())) or ""
    return text.partition("\n")[0]


def _foreign_line(module: str) -> str:
    try:
        spec = find_spec(module)
        return _first_line(Path(spec.origin)) if spec and spec.origin else ""
    except (ImportError, OSError, SyntaxError, ValueError):
        return ""  # whoever uses the model hears what is wrong with its package

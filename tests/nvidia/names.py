"""Collect every TensorRT name and keyword that a source file uses, without importing it.

`trt` is the module, by convention of `degmix_edge/nvidia/trt/`. A variable that is made by a
TensorRT call must be in `KINDS`, so that what is called on it can be looked up: nothing escapes.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass

KINDS = {
    "builder": "Builder",
    "network": "INetworkDefinition",
    "parser": "OnnxParser",
    "config": "IBuilderConfig",
    "layer": "ILayer",
    "tensor": "ITensor",
    "error": "ParserError",
    "plan": "IHostMemory",
    "logger": "ILogger",
    "capability": "ComputeCapability",
    "pool": "MemoryPoolType",
    "profile": "IOptimizationProfile",
    "cache": "ITimingCache",
    "registry": "IPluginRegistry",
    "creator": "",
    "runtime": "Runtime",
    "engine": "ICudaEngine",
    "context": "IExecutionContext",
    "inspector": "EngineInspector",
    "names": "",
    "text": "",
    "outputs": "",
    "flags": "",
    "have": "",
    "reason": "",
    "found": "",
    "node": "",
}
"""Variables of TensorRT's types by name; an empty type is plain Python."""


@dataclass(frozen=True)
class Use:
    """A dotted name, the keywords of its call, its line, and whether `hasattr` guards it."""

    name: str
    keywords: tuple[str, ...]
    line: int
    guarded: bool


def uses(source: str) -> list[Use]:
    """Every use in `source`; raises AssertionError on a variable that is in no table."""
    tree = ast.parse(source)
    walker = _Walker()
    walker.visit(tree)
    return walker.found


class _Walker(ast.NodeVisitor):
    def __init__(self) -> None:
        self.found: list[Use] = []
        self.guards: list[str] = []

    def visit_If(self, node: ast.If) -> None:  # noqa: N802
        guards = list(_hasattr(node.test))
        self.visit(node.test)
        self.guards += guards
        for child in node.body:
            self.visit(child)
        del self.guards[len(self.guards) - len(guards) :]
        for child in node.orelse:
            self.visit(child)

    def visit_Call(self, node: ast.Call) -> None:  # noqa: N802
        name = _name(node.func)
        if name:
            self._add(name, tuple(k.arg for k in node.keywords if k.arg), node.lineno)
            for child in (*node.args, *(k.value for k in node.keywords)):
                self.visit(child)
        else:
            self.generic_visit(node)

    def visit_Attribute(self, node: ast.Attribute) -> None:  # noqa: N802
        name = _name(node)
        if name:
            self._add(name, (), node.lineno)
        else:
            self.generic_visit(node)

    def visit_Assign(self, node: ast.Assign) -> None:  # noqa: N802
        if isinstance(node.value, ast.Call) and _name(node.value.func):
            for target in node.targets:
                if isinstance(target, ast.Name):
                    where = f"line {node.lineno}: {target.id!r} is made by TensorRT"
                    assert target.id in KINDS, f"{where}; give it a type in KINDS"
        self.generic_visit(node)

    def _add(self, name: str, keywords: tuple[str, ...], line: int) -> None:
        guarded = any(name == g or name.startswith(f"{g}.") for g in self.guards)
        self.found.append(Use(name, keywords, line, guarded))


def _name(node: ast.expr) -> str:
    """`Builder.create_network` for `trt.Builder.create_network` and `builder.create_network`."""
    parts: list[str] = []
    while isinstance(node, ast.Attribute):
        parts.append(node.attr)
        node = node.value
    if not isinstance(node, ast.Name) or not parts:
        return ""
    if node.id == "trt":
        return ".".join(reversed(parts))
    kind = KINDS.get(node.id)
    return ".".join([kind, *reversed(parts)]) if kind else ""


def _hasattr(test: ast.expr) -> Iterator[str]:
    """Names that `hasattr(...)` in a condition promises."""
    for node in ast.walk(test):
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "hasattr":
            owner, attribute = node.args
            assert isinstance(attribute, ast.Constant)
            assert isinstance(owner, ast.Name)
            kind = KINDS.get(owner.id, "")
            yield attribute.value if owner.id == "trt" else f"{kind}.{attribute.value}"


OURS = {"__version__", "__name__"}


def missing(found: list[Use], survey: dict[str, str]) -> list[str]:
    """What a version lacks: names that are not there, keywords that a signature does not have."""
    problems = []
    for use in found:
        if use.guarded or use.name in OURS or use.name.endswith(("__members__", ".__init__")):
            continue
        if use.name not in survey:
            problems.append(f"line {use.line}: no {use.name}")
            continue
        signature = survey.get(f"{use.name}.__init__") or survey[use.name]
        problems += [
            f"line {use.line}: {use.name} has no keyword {keyword!r}"
            for keyword in use.keywords
            if not re.search(rf"\b{keyword}\s*:", signature)
        ]
    return problems

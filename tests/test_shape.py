"""Sizes that keep a file readable in one sitting, and docstrings that say something.

Each test lists every place that breaks its rule.
"""

import ast
import importlib
import inspect
import re
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from test_layers import FILES, SCRIPTS, TREES

from degmix_edge import registry

ROOT = Path(__file__).parents[1]
FUNCTION_LINES = 60
POSITIONAL = 5
VERB_LINES = 120
LINES_A_VERB = 80
"""On average, with the files that the verbs share."""
FRAGMENTS = ("Of ", "See ", "As ")
"""How a docstring begins that is no sentence about its own object."""

ENTRY = re.compile(r"^ +[*\w][*\w, ]*: (?:Of|See|That) .*", re.MULTILINE)
"""A parameter, an attribute or an error that is described by half a sentence."""

Function = (ast.FunctionDef, ast.AsyncFunctionDef)
PACKAGES = sorted(
    path
    for folder in ("degmix_edge", "training", "calibration")
    for path in (ROOT / folder).rglob("*.py")
)
CODE = sorted({*PACKAGES, *SCRIPTS})
COMMAND_LINE = sorted((ROOT / "degmix_edge" / "cli").rglob("*.py"))


def definitions(tree: ast.AST, owner: ast.AST | None = None) -> Iterator[tuple]:
    """Every function and class with what it is defined in: a class, a function or None."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, (*Function, ast.ClassDef)):
            yield node, owner
            yield from definitions(node, node)
        else:
            yield from definitions(node, owner)


def num_lines(function: ast.FunctionDef) -> int:
    """From `def` to the last line, docstring included; decorators do not count."""
    return function.end_lineno - function.lineno + 1


def num_positional(function: ast.FunctionDef, owner: ast.AST | None) -> int:
    """Parameters that can be passed by position, without `self` or `cls`."""
    decorators = {ast.unparse(decorator) for decorator in function.decorator_list}
    is_bound = isinstance(owner, ast.ClassDef) and "staticmethod" not in decorators
    return len(function.args.posonlyargs) + len(function.args.args) - is_bound


def long_functions(tree: ast.Module) -> Iterator[tuple[ast.AST, str]]:
    for node, _ in definitions(tree):
        if isinstance(node, Function) and num_lines(node) > FUNCTION_LINES:
            yield node, f"{num_lines(node)} lines, expected at most {FUNCTION_LINES}"


def wide_functions(tree: ast.Module) -> Iterator[tuple[ast.AST, str]]:
    for node, owner in definitions(tree):
        if isinstance(node, Function) and (count := num_positional(node, owner)) > POSITIONAL:
            yield node, f"{count} positional parameters, expected at most {POSITIONAL}"


def fragments(tree: ast.Module) -> Iterator[tuple[ast.AST, str]]:
    for node in (tree, *(node for node, _ in definitions(tree))):
        text = ast.get_docstring(node) or ""
        if text.startswith(FRAGMENTS):
            yield node, f"{text.splitlines()[0]!r}, expected a sentence"
        for entry in ENTRY.findall(text):
            yield node, f"{entry!r}, expected what it is"


def undocumented_in_script(tree: ast.Module) -> Iterator[tuple[ast.AST, str]]:
    """Public definitions of a script, which overrides nothing."""
    for node, owner in definitions(tree):
        is_inner = isinstance(owner, Function)
        if not is_inner and not node.name.startswith("_") and not ast.get_docstring(node):
            yield node, "no docstring"


def undocumented(module: ModuleType) -> Iterator[str]:
    """Public functions, classes and methods without a docstring of their own or of a base's."""
    for name, value in vars(module).items():
        is_own = getattr(value, "__module__", None) == module.__name__
        if name.startswith("_") or not is_own:
            continue
        if (inspect.isclass(value) or inspect.isfunction(value)) and not value.__doc__:
            yield name
        if inspect.isclass(value):
            yield from (f"{name}.{method}" for method in undocumented_methods(value))


def undocumented_methods(owner: type) -> Iterator[str]:
    for name, value in vars(owner).items():
        function = getattr(value, "__func__", getattr(value, "fget", value))
        is_written_here = getattr(function, "__module__", None) == owner.__module__
        if name.startswith("_") or not inspect.isfunction(function) or not is_written_here:
            continue
        # `getdoc` looks for the docstring of the method that this one overrides.
        if not inspect.getdoc(getattr(owner, name)):
            yield name


def places(paths: list[Path], rule: Callable[[ast.Module], Iterator[tuple]]) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{getattr(node, 'lineno', 1)}: {getattr(node, 'name', '')}: {why}"
        for path in paths
        for node, why in rule(ast.parse(path.read_text()))
    ]


@pytest.mark.parametrize(
    ("paths", "rule"),
    [
        (CODE, long_functions),
        (CODE, wide_functions),
        (PACKAGES, fragments),
        (SCRIPTS, undocumented_in_script),
    ],
    ids=["long functions", "wide functions", "fragments", "undocumented in scripts"],
)
def test_no_place_breaks_the_rule(paths: list[Path], rule: Callable):
    broken = places(paths, rule)
    assert not broken, "\n".join(["", *broken])


def test_every_test_file_has_a_name_of_its_own():
    """Else pytest imports one of two, and spawned processes the other."""
    names = Counter(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert [name for name, count in names.items() if count > 1] == []


def test_the_command_line_is_thin():
    lines = {path.name: len(path.read_text().splitlines()) for path in COMMAND_LINE}
    broken = [f"{name}: {count} lines" for name, count in lines.items() if count > VERB_LINES]
    assert not broken, f"expected at most {VERB_LINES} lines: {', '.join(broken)}"
    verbs = registry.names("degmix_edge.cli")
    assert sum(lines.values()) <= LINES_A_VERB * len(verbs)


# Importing `__main__` would run the command line.
@pytest.mark.parametrize("name", [name for name in FILES if not name.endswith("__main__")])
def test_what_is_public_is_documented(name: str):
    """An override needs no docstring if what it overrides has one."""
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] in TREES:
            raise
        pytest.skip(f"{error.name} is not installed")
    assert not list(undocumented(module))


class Base:
    """A base with a documented method, a property and a method without a docstring."""

    def documented(self):
        """A sentence."""

    @property
    def size(self):
        """A sentence."""

    def bare(self): ...


class Derived(Base):
    def documented(self): ...

    @property
    def size(self): ...

    @classmethod
    def new(cls): ...

    def bare(self): ...

    def _private(self): ...


def test_an_override_needs_no_docstring():
    assert list(undocumented_methods(Base)) == ["bare"]
    assert list(undocumented_methods(Derived)) == ["new", "bare"]
    module = ModuleType(__name__)
    vars(module).update(Derived=Derived, Path=Path, places=places, _hidden=Derived)
    assert list(undocumented(module)) == ["Derived", "Derived.new", "Derived.bare", "places"]


def test_the_rules_find_what_breaks_them():
    body = "\n".join(f"        x{i} = {i}" for i in range(60))
    tree = ast.parse(
        "class A:\n"
        '    """Of a class."""\n'
        "    @property\n"
        f"    def long(self):\n{body}\n"
        "    def wide(self, a, b, /, c, d, e, f, *, g): ...\n"
        "    def narrow(self, a, b, /, c, d, e, *, f): ...\n"
        "    @staticmethod\n"
        "    def static(a, b, c, d, e, f):\n"
        '        """As a fragment."""\n'
        "def outer(a, b, c, d, e):\n"
        '    """Offer a sentence."""\n'
        "    if a:\n"
        "        def inner(a, b, c, d, e, f): ...\n"
    )
    assert [(n.name, why) for n, why in long_functions(tree)] == [
        ("long", "61 lines, expected at most 60")
    ]
    assert [n.name for n, _ in wide_functions(tree)] == ["wide", "static", "inner"]
    assert [n.name for n, _ in fragments(tree)] == ["A", "static"]
    assert len(list(fragments(ast.parse('"""See it."""')))) == 1

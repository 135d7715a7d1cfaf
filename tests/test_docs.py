"""The documentation builds without warnings, and what it names exists.

`python tests/test_docs.py` writes docs/bundle.schema.json anew.
"""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import click
import pytest
import yaml

import degmix_edge
from degmix_edge import config, errors, registry, tasks
from degmix_edge.bundle.manifest import Manifest
from degmix_edge.cli import GROUPS, verbs
from degmix_edge.cli._input_options import joined
from degmix_edge.graph.spec_file import SpecFile
from degmix_edge.workflows.build_file import BuildFile
from degmix_edge.workflows.serve import ServeOptions

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
TEXTS = [*PAGES, *(ROOT / f"{name}.md" for name in ("README", "CHANGELOG", "CONTRIBUTING"))]
SCHEMA = DOCS / "bundle.schema.json"
FENCE = re.compile(r"^( *)```([^\n]*)\n(.*?)^ *```$", re.DOTALL | re.MULTILINE)
SNIPPET = re.compile(r'^--8<-- "([^"]+)"$', re.MULTILINE)
TREES = {
    "degmix_edge": ROOT / "degmix_edge",
    "degmix_training": ROOT / "training" / "degmix_training",
    "degmix_calibration": ROOT / "calibration" / "degmix_calibration",
}
OTHER_PROGRAMS = {"--system-site-packages", "--plugins", "--emulated", "--ros-args"}
"""Options of pip's venv, of polygraphy, of plugins/bench/gpu.py and of ROS."""


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def page(name: str) -> str:
    return (DOCS / name).read_text()


def table(text: str, first: str) -> list[list[str]]:
    """Cells of all rows below headers that begin with `first`."""
    found = re.findall(rf"^\| {re.escape(first)} \|.*\n\|[-| ]+\|\n((?:\|.*\n)+)", text, re.M)
    assert found, f"no table of {first}"
    return [
        [cell.strip() for cell in row.strip("|").split(" | ")]
        for row in "".join(found).splitlines()
    ]


def codes(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


# The site


def pages_of(nav: object) -> Iterator[str]:
    if isinstance(nav, str):
        yield nav
        return
    for entry in nav.values() if isinstance(nav, dict) else nav:
        yield from pages_of(entry)


def test_every_page_is_in_the_navigation():
    settings = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
    found = list(pages_of(settings["nav"]))
    assert sorted(found) == [str(path.relative_to(DOCS)) for path in PAGES]
    assert len(found) == len(set(found))


@pytest.mark.slow
def test_the_site_builds_without_warnings_and_network(tmp_path):
    nowhere = dict.fromkeys(("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", tmp_path / "site"],
        cwd=ROOT,
        env={**os.environ, **nowhere, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    built = sorted((tmp_path / "site").rglob("*.html"))
    assert len(built) == len(PAGES) + 1  # and 404.html
    loads = r'<(?:script|img|iframe)\b[^>]*\bsrc="(?:https?:)?//[^"]*'
    loads += r'|<link\b(?=[^>]*(?:stylesheet|icon|preconnect))[^>]*href="(?:https?:)?//[^"]*'
    for path in built:
        assert not re.findall(loads, path.read_text()), path
    for path in (tmp_path / "site").rglob("*.css"):
        assert not re.findall(r"(?:url\(|@import )['\"]?(?:https?:)?//", path.read_text()), path
    text = (tmp_path / "site" / "api" / "index.html").read_text()
    for name in set(degmix_edge.__all__) - {"__version__", "errors"}:
        assert f'id="degmix_edge.{name}"' in text, name


def test_the_api_reference_has_every_public_name():
    named = re.findall(r"^::: degmix_edge\.(\w+)$", page("api/index.md"), re.M)
    assert sorted(named) == sorted(set(degmix_edge.__all__) - {"__version__", "errors"})
    for path in (DOCS / "api").glob("*.md"):
        for name in re.findall(r"^::: (\S+)$", path.read_text(), re.M):
            assert exists(name), f"{name_of(path)}: {name}"


# Tables that the code decides


def schemas() -> dict[Path, str]:
    models = {"bundle": Manifest, "spec": SpecFile}
    return {
        DOCS / f"{name}.schema.json": json.dumps(model.model_json_schema(), indent=2) + "\n"
        for name, model in models.items()
    }


def test_the_schemas_are_those_of_the_code():
    for path, text in schemas().items():
        assert path.read_text() == text, "python tests/test_docs.py writes it anew"
    keys = {key for row in table(page("bundle.md"), "key") for key in codes(row[0])}
    assert set(Manifest.model_fields) <= keys


def exceptions(base: type[errors.DegmixError]) -> Iterator[type[errors.DegmixError]]:
    yield base
    for derived in base.__subclasses__():
        if derived.__module__ == errors.__name__:
            yield from exceptions(derived)


def test_the_exit_codes_are_those_of_the_exceptions():
    rows = table(page("errors.md"), "exit code")
    expected = {str(e.exit_code): e.__name__ for e in exceptions(errors.DegmixError)}
    expected |= dict.fromkeys(("0", str(click.UsageError.exit_code), str(errors.INTERRUPTED)), "-")
    assert {row[0]: row[1].strip("`") for row in rows} == expected
    assert len(rows) == len(expected)


def test_the_configuration_file_has_the_keys_and_defaults_of_a_build():
    rows = {codes(key)[0]: default for key, default, *_ in table(page("configuration.md"), "key")}
    assert set(rows) == {"version", *BuildFile.model_fields}
    defaults = BuildFile().model_dump(mode="json")
    for key, text in rows.items():
        if text.startswith("`") and key != "version":
            assert yaml.safe_load(text.strip("`")) == defaults[key], key
    assert [key for key, text in rows.items() if not text.startswith("`")] == ["workers"]
    (example,) = re.findall(r"```yaml\n(.*?)```", page("configuration.md"), re.DOTALL)
    values = yaml.safe_load(example)
    assert values.pop("version") == config.VERSION
    assert BuildFile.model_validate(values).network == values["network"]


def test_the_options_of_a_server_are_those_of_the_code():
    rows = {codes(key)[0]: default for key, default, _ in table(page("configuration.md"), "option")}
    assert {name: yaml.safe_load(text.strip("`")) for name, text in rows.items()} == (
        ServeOptions().model_dump(mode="json")
    )


def test_the_kinds_are_those_of_the_registry():
    rows = table(page("extending.md"), "kind")
    found = {row[0]: (codes(row[2])[0], tuple(codes(row[3]))) for row in rows}
    assert found == {kind.word: (kind.group, kind.defines) for kind in registry.KINDS.values()}
    for row in rows:
        assert (ROOT / codes(row[1])[0]).is_dir(), row


def test_the_tasks_are_those_of_the_package():
    rows = table(page("own-network.md"), "task")
    assert sorted(codes(row[0])[0] for row in rows) == tasks.names()
    for name, _, channels, _, unit, metric in rows:
        task = tasks.find(codes(name)[0])
        assert codes(metric)[0] == task.metric
        assert task.unit.startswith(unit.strip("-"))
        assert task.num_channels is None or channels == str(task.num_channels)


def test_every_pass_is_described():
    text = page("graph.md") + page("zoo.md")
    for name in registry.names("degmix_edge.passes"):
        assert name in ("pipeline", "forms") or f"`{name}`" in text, name


def test_every_environment_variable_is_described():
    sources = "\n".join(p.read_text() for tree in TREES.values() for p in tree.rglob("*.py"))
    for name in set(re.findall(r"\bDEGMIX_[A-Z_]+\b", sources)):
        assert f"`{name}`" in page("robot.md"), name


# Python


def expanded(code: str) -> str:
    return SNIPPET.sub(lambda match: (ROOT / match[1]).read_text(), code)


PYTHON = [
    pytest.param(expanded(code), "no-run" in info, id=f"{name_of(path)}-{number}")
    for path in TEXTS
    for number, (_, info, code) in enumerate(FENCE.findall(path.read_text()))
    if info.split()[:1] == ["python"]
]


def test_there_are_python_blocks():
    assert len(PYTHON) > 15
    assert sum(param.values[1] for param in PYTHON) == 1


@pytest.mark.parametrize(("code", "no_run"), PYTHON)
def test_python_blocks_compile_and_name_what_exists(code: str, no_run: bool):
    tree = ast.parse(code)
    if not no_run:
        compile(tree, "documentation", "exec")
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in TREES:
            for alias in node.names:
                assert exists(f"{node.module}.{alias.name}"), f"{node.module}.{alias.name}"
        elif isinstance(node, ast.Call) and ast.unparse(node.func).startswith("degmix_edge."):
            function = ast.unparse(node.func).removeprefix("degmix_edge.")
            taken = keywords(function)
            for keyword in node.keywords:
                assert keyword.arg in taken, f"{function}({keyword.arg}=)"


def keywords(name: str) -> set[str]:
    """What public name `name` takes by keyword; fields of `Options` where it takes changes."""
    function = public(name)
    if isinstance(function, ast.ClassDef):
        return set(degmix_edge.Options.model_fields)
    arguments = function.args
    names = {a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)}
    options = ServeOptions if name == "serve" else degmix_edge.Options
    return names | (set(options.model_fields) if arguments.kwarg else set())


def public(name: str) -> ast.FunctionDef | ast.ClassDef:
    assert name in degmix_edge.__all__, name
    file = module_file(f"degmix_edge.{degmix_edge._HOMES[name]}")
    if file.name == "__init__.py":
        file = file.with_name("session.py")
    return next(node for node in tree_of(file).body if getattr(node, "name", "") == name)


@cache
def tree_of(file: Path) -> ast.Module:
    return ast.parse(file.read_text())


def module_file(name: str) -> Path | None:
    top, *rest = name.split(".")
    path = TREES[top].joinpath(*rest)
    for file in (path.with_suffix(".py"), path / "__init__.py"):
        if file.is_file():
            return file
    return None


def exists(name: str) -> bool:
    """Whether the dotted name is a module of ours, or something that one defines or imports."""
    parts = name.split(".")
    if parts[0] == "degmix_edge" and len(parts) > 1 and parts[1] in degmix_edge._HOMES:
        return len(parts) == 2 or module_file(name) is not None or exists_below(parts)
    return exists_below(parts)


def exists_below(parts: list[str]) -> bool:
    for length in range(len(parts), 0, -1):
        file = module_file(".".join(parts[:length]))
        if file is not None:
            rest = parts[length:]
            return len(rest) <= 2 and (not rest or rest[0] in defined(tree_of(file)))
    return False


def defined(tree: ast.Module) -> set[str]:
    names = set()
    for node in tree.body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            names |= {alias.asname or alias.name for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)}
        else:
            names.add(getattr(node, "name", ""))
    return names


def test_dotted_names_exist():
    groups = {kind.group for kind in registry.KINDS.values()}
    for path in TEXTS:
        text = FENCE.sub("", path.read_text())
        if path.name == "CHANGELOG.md":  # the first column of its tables holds old names
            text = re.sub(r"^\| .*? \|", "|", text, flags=re.M)
            text = text.replace("`degmix_edge.build.build`", "")
        for name in re.findall(r"`(degmix_(?:edge|training|calibration)(?:\.\w+)+)\b", text):
            assert name in groups or exists(name), f"{name_of(path)}: {name}"


def test_a_name_that_does_not_exist_is_found():
    assert exists("degmix_edge.build")
    assert exists("degmix_edge.workflows.build.Build")
    assert exists("degmix_edge.errors.DegmixError")
    assert not exists("degmix_edge.trt.register")
    assert not exists("degmix_edge.workflows.build.Nonesuch")
    assert "budget" in keywords("quantize")
    assert "budget" not in keywords("load")


# Commands


def commands(text: str) -> Iterator[str]:
    """What is written as a command, in blocks and in a line of text."""
    for _, info, code in FENCE.findall(text):
        if info.split()[:1] not in (["python"], ["json"], ["yaml"], ["toml"]):
            yield from typed(code)
    rest = FENCE.sub("", text)
    yield from typed("\n".join(re.findall(r"^ {4}.*$", rest, re.M)))
    rest = re.sub(r"^ {4}.*$", "", rest, flags=re.M)
    context = click.Context(verbs)
    for code in codes(rest):
        first = code.split()[0] if code.split() else ""
        if first == "degmix-edge":
            yield code.partition(" ")[2]
        elif first in verbs.list_commands(context) and " --" in code:
            yield code


def typed(code: str) -> Iterator[str]:
    for line in code.replace("\\\n", " ").splitlines():
        found = re.match(r"\s*(?:degmix-edge|(?:torchrun|python)\b.*-m degmix_edge) (.*)", line)
        if found:
            yield found[1]


COMMANDS = [
    pytest.param(" ".join(command.split()), id=f"{path.name}: {' '.join(command.split())}"[:90])
    for path in TEXTS
    for command in commands(path.read_text())
]


def check(command: str) -> None:
    """Fail where the command has a verb, an option or a choice that does not exist."""
    words = shlex.split(command, comments=True)
    ends = [i for i, word in enumerate(words) if word in (">", ">>", "|", ";", "&&")]
    words = joined([word for word in words[: ends[0] if ends else None] if word != "..."])
    if not words or words[0].isupper() or words[0].startswith("-"):
        assert all(word in ("--help", "--version", "VERB") for word in words), words
        return
    context = click.Context(verbs)
    verb = verbs.get_command(context, words.pop(0))
    assert verb is not None, "no such verb"
    if isinstance(verb, click.Group) and words:
        verb = verb.get_command(context, words.pop(0))
        assert verb is not None, "no such verb"
    context = click.Context(verb, **verb.context_settings)
    values, rest, _ = verb.make_parser(context).parse_args(words)
    assert not rest, f"{rest} too much"
    for parameter in verb.params:
        value = values.get(parameter.name)
        if isinstance(parameter.type, click.Choice) and isinstance(value, str):
            assert value in parameter.type.choices, value


def test_there_are_commands():
    assert len(COMMANDS) > 80


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_exist(command: str):
    check(command)


@pytest.mark.parametrize(
    "command",
    [
        "nonesuch engine x",
        "build nonesuch x",
        "build engine x --nonesuch int8",
        "build engine x --precision int4",
        "run a.degmix --out",
        "verify a.degmix b.degmix",
        "--nonesuch",
    ],
)
def test_a_command_that_does_not_exist_is_found(command: str):
    with pytest.raises((AssertionError, click.UsageError)):
        check(command)


def options_of(verb: str) -> set[str]:
    command = verbs.get_command(click.Context(verbs), verb.split()[0])
    for name in verb.split()[1:]:
        command = command.commands[name]
    inner = command.commands.values() if isinstance(command, click.Group) else [command]
    return {
        o for c in inner for p in c.params for o in (*p.opts, *p.secondary_opts, "--help", "-h")
    }


def test_options_exist():
    names = verbs.list_commands(click.Context(verbs))
    known = set().union(*map(options_of, names)) | OTHER_PROGRAMS
    for path in TEXTS:
        for line in FENCE.sub("", path.read_text()).splitlines():
            first, _, rest = line.removeprefix("| ").partition(" | ")
            own = [c for c in codes(first) if c.split()[0] in names] if line[:2] == "| " else []
            have = set().union(*map(options_of, own)) if own else known
            for code in codes(rest if own else line):
                if code.startswith("--"):
                    assert code.split()[0] in have, f"{name_of(path)}: {code} in {line!r}"


def test_every_verb_is_on_its_page_in_its_group():
    sections = re.split(r"^## (.*)\n", page("command-line.md"), flags=re.M)
    found = dict(zip(sections[1::2], sections[2::2], strict=True))
    for name, module in registry.modules("degmix_edge.cli"):
        headings = re.findall(r"^### (.*)$", found[module.GROUP], re.M)
        assert name in [heading.split()[0] for heading in headings], name
    assert [title for title in found if title in GROUPS] == list(GROUPS)


if __name__ == "__main__":
    for path, text in schemas().items():
        path.write_text(text)

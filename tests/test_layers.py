"""Arrows between files only point down, and no files form a circle.

Every import is walked: those inside functions too, and those of scripts outside the packages.
"""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TREES = {
    "degmix_edge": ROOT / "degmix_edge",
    "degmix_training": ROOT / "training" / "degmix_training",
    "degmix_calibration": ROOT / "calibration" / "degmix_calibration",
}
LAYERS = [
    {"_version", "errors", "extras", "registry", "limits", "config", "tensors", "files", "folders"}
    | {"progress", "libraries", "pixel_library", "cluster"},
    {"camera", "capture", "preprocess", "network", "tasks", "metrics", "ops"},
    {"ort", "nvidia", "graph", "quant", "bundle"},
    {"passes"},
    {"backends"},
    {"runtime", "report", "sinks", "ros"},
    {"degmix_training", "degmix_calibration"},
    {"workflows"},
    {"terminal"},
    {"cli", "__main__"},
]
TRAINING = 6
# The package's own __init__ forwards the public names, lazily.
EXEMPT = {"degmix_edge/__init__.py"}


def layer(module: str) -> int | None:
    """Layer of a dotted module of ours; None for the package itself."""
    top, _, rest = module.partition(".")
    name = top if top != "degmix_edge" else rest.split(".")[0]
    if not name:
        return None
    found = [i for i, names in enumerate(LAYERS) if name in names]
    assert found, f"module {module!r} has no layer: give it one in {Path(__file__).name}"
    return found[0]


def imports(path: Path):
    """Modules that a file imports, with the line; `from a.b import c` is both a.b and a.b.c."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            if node.module == "degmix_edge":
                yield from ((f"degmix_edge.{a.name}", node.lineno) for a in node.names)
            else:
                yield node.module, node.lineno
                yield from ((f"{node.module}.{a.name}", node.lineno) for a in node.names)


def module_of(tree: str, path: Path) -> str:
    inside = path.relative_to(TREES[tree]).with_suffix("").parts
    return ".".join((tree, *inside)).removesuffix(".__init__")


FILES = {
    module_of(tree, path): path
    for tree, root in TREES.items()
    for path in sorted(root.rglob("*.py"))
    if str(path.relative_to(ROOT)) not in EXEMPT
}
SCRIPTS = [
    path
    for folder in ("training", "plugins", "examples")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path not in FILES.values()
]


@pytest.mark.parametrize("module", FILES)
def test_arrows_point_down(module: str):
    path, own = FILES[module], layer(module)
    for other, line in imports(path):
        if other.split(".")[0] not in TREES or other == "degmix_edge.__version__":
            continue
        level = layer(other)
        where = f"{path}:{line}: layer {own} imports {other} of layer {level}"
        assert level is None or own is None or level <= own, where
        if own == level == TRAINING:
            assert other.split(".")[0] == module.split(".")[0], where


@pytest.mark.parametrize("module", FILES)
def test_only_the_command_line_knows_click_and_rich(module: str):
    if layer(module) in (None, len(LAYERS) - 1, len(LAYERS) - 2):
        return
    found = [name for name, _ in imports(FILES[module]) if name.split(".")[0] in ("click", "rich")]
    assert not found, f"{FILES[module]}: imports {found[0]} below the command line"


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_scripts_use_what_users_may_use(path: Path):
    for module, line in imports(path):
        where = f"{path}:{line}: {module}"
        assert not module.startswith("degmix_edge.cli"), where


def test_no_files_form_a_circle():
    """An import inside a function counts: it hides a circle, it does not undo it."""
    arrows = {m: {o for o, _ in imports(p) if o in FILES and o != m} for m, p in FILES.items()}
    done: set[str] = set()

    def walk(module: str, above: tuple[str, ...]) -> None:
        if module in above:
            circle = (*above[above.index(module) :], module)
            # A package's __init__ names its own files; they may read what it defines first.
            if not any(a.startswith(f"{b}.") for a in circle for b in circle):
                raise AssertionError(" -> ".join(circle))
            return
        if module not in done:
            for other in sorted(arrows[module]):
                walk(other, (*above, module))
            done.add(module)

    for module in arrows:
        walk(module, ())


def test_an_arrow_that_points_up_is_found(tmp_path: Path):
    (tmp_path / "x.py").write_text("def f():\n    from degmix_edge.cli import main\n")
    found = list(imports(tmp_path / "x.py"))
    assert found == [("degmix_edge.cli", 2), ("degmix_edge.cli.main", 2)]
    assert layer("degmix_edge.cli") > layer("degmix_edge.tasks.depth")


@pytest.mark.parametrize(
    ("pattern", "owner"),
    [
        (r"InferenceSession\(", "degmix_edge/ort.py"),
        (r"os\.(rename|replace)|part\)?\.replace\(", "degmix_edge/files.py"),
        (r"\.rename\(", "degmix_edge/folders.py"),
    ],
)
def test_one_file_does_it(pattern: str, owner: str):
    found = [str(p.relative_to(ROOT)) for p in FILES.values() if re.search(pattern, p.read_text())]
    assert found == [owner]

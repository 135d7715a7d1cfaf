"""Arrows between modules only point down; every import is walked, those inside functions too."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TREES = {
    "degmix_edge": ROOT / "degmix_edge",
    "degmix_training": ROOT / "training" / "degmix_training",
    "degmix_calibration": ROOT / "calibration" / "degmix_calibration",
}
LAYERS = [
    {"_version", "errors", "registry", "config", "tensors"},
    {"preprocess", "tasks", "metrics", "network", "ops", "bundle"},
    {"quant", "cuda", "device_array", "trt"},
    {"passes", "engine", "graph_cost", "devices"},
    {"backends"},
    {
        "runtime",
        "golden",
        "card",
        "foreign",
        "build",
        "compare",
        "bench",
        "doctor",
        "report",
        "routing",
    },
    {"degmix_training", "degmix_calibration"},
    {"cli", "ros", "__main__"},
]
# The package's own __init__ only forwards `load`, lazily.
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
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            if node.module == "degmix_edge":
                yield from ((f"degmix_edge.{a.name}", node.lineno) for a in node.names)
            else:
                yield node.module, node.lineno


FILES = [
    (tree, path)
    for tree, root in TREES.items()
    for path in sorted(root.rglob("*.py"))
    if str(path.relative_to(ROOT)) not in EXEMPT
]


@pytest.mark.parametrize(("tree", "path"), FILES, ids=lambda v: getattr(v, "stem", v))
def test_arrows_point_down(tree: str, path: Path):
    inside = path.relative_to(TREES[tree]).with_suffix("").parts
    own = layer(".".join((tree, *inside)))
    for module, line in imports(path):
        if module.split(".")[0] not in TREES or module == "degmix_edge.__version__":
            continue
        other = layer(module)
        where = f"{path}:{line}: layer {own} imports {module} of layer {other}"
        assert other is None or own is None or other <= own, where
        if tree != "degmix_edge" and module.startswith("degmix_edge"):
            assert other is None or other <= 4, where
        if own == 6 and other == 6:
            assert module.split(".")[0] == tree, where


def test_an_arrow_that_points_up_is_found(tmp_path: Path):
    (tmp_path / "x.py").write_text("def f():\n    from degmix_edge.cli import main\n")
    assert list(imports(tmp_path / "x.py")) == [("degmix_edge.cli", 2)]
    assert layer("degmix_edge.cli") > layer("degmix_edge.tasks.depth")

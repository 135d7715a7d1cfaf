"""Every TensorRT name and keyword that we use exists in every version that we support."""

import re
from pathlib import Path

import bindings
import names
import pytest

import degmix_edge

ROOT = Path(degmix_edge.__file__).parent
FILES = sorted((ROOT / "nvidia" / "trt").glob("*.py"))
SOURCE = "\n".join(re.sub(r"^from __future__.*$", "", f.read_text(), flags=re.M) for f in FILES)


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("bindings")


@pytest.fixture(params=bindings.VERSIONS)
def version(request):
    return request.param


def test_only_one_room_imports_it():
    for path in ROOT.rglob("*.py"):
        if path not in FILES:
            text = path.read_text()
            assert "import tensorrt" not in text, path
            assert 'import_module("tensorrt' not in text, path


def test_what_we_use_is_found():
    found = {use.name for use in names.uses(SOURCE)}
    assert {
        "Builder.create_network",
        "NetworkDefinitionCreationFlag.STRONGLY_TYPED",
        "OnnxParser.get_error",
        "ParserError.node_name",
        "IBuilderConfig.builder_optimization_level",
        "ILayer.get_output",
        "ITensor.dtype",
    } <= found


def test_every_name_is_there(version, root):
    survey = bindings.survey(version, root)
    assert len(survey) > 1000
    assert names.missing(names.uses(SOURCE), survey) == []


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("config.set_flag(trt.BuilderFlag.INT8)", "no BuilderFlag.INT8"),
        ("x = trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH", "EXPLICIT_BATCH"),
        ("config.int8_calibrator = None", "no IBuilderConfig.int8_calibrator"),
        ("parser.parse(model=b'', flags=1)", "has no keyword 'flags'"),
        ("builder.platform_has_fast_int8", "no Builder.platform_has_fast_int8"),
    ],
)
def test_a_removed_name_is_found(line, problem, root):
    source = SOURCE + f"\n\ndef f(trt, config, parser, builder):\n    {line}\n"
    problems = names.missing(names.uses(source), bindings.survey("11.4", root))
    assert len(problems) == 1
    assert problem in problems[0]


def test_a_guard_excuses_what_it_names_only(root):
    guarded = "def f(config):\n    if hasattr(config, 'int8_calibrator'):\n        config."
    survey = bindings.survey("11.4", root)
    assert names.missing(names.uses(guarded + "int8_calibrator = None\n"), survey) == []
    assert names.missing(names.uses(guarded + "algorithm_selector = None\n"), survey) != []


def test_a_variable_that_nobody_knows_is_refused():
    with pytest.raises(AssertionError, match="'thing' is made by TensorRT"):
        names.uses("thing = builder.create_network()\n")


CALL = """
import os
from degmix_edge.errors import BackendError
from degmix_edge.nvidia.trt import build as trt_build
try:
    options = trt_build.BuilderOptions(workspace_bytes=1, optimization_level=3)
    trt_build.build_plan("tensorrt", b"", options)
except BackendError as error:
    print("BackendError:", error, flush=True)
os._exit(0)
"""


def test_our_code_runs_up_to_the_first_native_call(version, root):
    text = bindings.run(version, root, CALL, str(ROOT.parent))
    assert text.startswith(f"BackendError: tensorrt {version}")
    assert "gives no builder" in text

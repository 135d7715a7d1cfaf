"""NVIDIA's own Python bindings of several TensorRT versions, importable on a CPU.

The bindings' wheels are on the package registry, the libraries that they load are not. Three
libraries of our own take their place, with the few C functions that the bindings look for, all
returning null: names, signatures and enums are then real, and nothing can be built.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import zipfile
from functools import lru_cache
from pathlib import Path

import pytest

VERSIONS = {
    "10.3": "tensorrt-cu12-bindings==10.3.0",
    "10.13": "tensorrt-cu13-bindings==10.13.3.9",
    "10.16": "tensorrt-cu13-bindings==10.16.1.11",
    "11.4": "tensorrt-cu13-bindings==11.4.0.106",
}
FUNCTIONS = (
    *("createInferBuilder_INTERNAL", "createInferRuntime_INTERNAL"),
    *("createInferRefitter_INTERNAL", "createNvOnnxParser_INTERNAL"),
    *("createNvOnnxParserRefitter_INTERNAL", "getNvOnnxParserVersion", "initLibNvInferPlugins"),
    *("getPluginRegistry", "getBuilderPluginRegistry"),
)
LIBRARIES = ("nvinfer", "nvinfer_plugin", "nvonnxparser")


def folder(version: str, root: Path) -> Path:
    """A folder for PYTHONPATH whose `tensorrt` is that version's; made in `root` once.

    Skips where there is no compiler or no registry to be reached.
    """
    target = root / version
    if (target / "tensorrt").exists():
        return target
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler for the stub libraries")
    target.mkdir(parents=True)
    wheel = _download(VERSIONS[version], target)
    with zipfile.ZipFile(wheel) as file:
        file.extractall(target)
    package = next(p for p in target.iterdir() if p.name.endswith("_bindings"))
    source = target / "stub.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in FUNCTIONS))
    for stem in LIBRARIES:
        name = f"lib{stem}.so.{version.split('.')[0]}"
        command = [compiler, "-shared", "-fPIC", f"-Wl,-soname,{name}", str(source)]
        subprocess.run([*command, "-o", str(target / name)], check=True)
    package.rename(target / "tensorrt")
    return target


def _download(requirement: str, target: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    done = subprocess.run(
        [*command, "--dest", str(target), requirement], capture_output=True, text=True
    )
    if done.returncode:
        unreachable = ("Network is unreachable", "Temporary failure in name", "Connection refused")
        if any(text in done.stderr for text in unreachable):
            pytest.skip("no package registry can be reached")
        raise AssertionError(f"{requirement}: {done.stderr}")
    return next(target.glob("*.whl"))


def run(version: str, root: Path, code: str, *paths: str) -> str:
    """What `code` prints under that version."""
    where = folder(version, root)
    environment = {**os.environ, "LD_LIBRARY_PATH": str(where)}
    environment["PYTHONPATH"] = os.pathsep.join([str(where), *paths])
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True
    )
    # 10.3 crashes when the interpreter ends; what it printed before that is whole.
    assert done.stdout, done.stderr
    return done.stdout


SURVEY = """
import inspect, json, tensorrt as trt
found = {}
for name in dir(trt):
    member = getattr(trt, name)
    found[name] = getattr(member, "__doc__", None) or ""
    if inspect.isclass(member):
        for part in dir(member):
            if not part.startswith("_"):
                doc = getattr(getattr(member, part), "__doc__", None)
                found[f"{name}.{part}"] = doc if isinstance(doc, str) else ""
        found[f"{name}.__init__"] = getattr(member.__init__, "__doc__", None) or ""
        nested = [n for n in dir(member) if inspect.isclass(getattr(member, n))]
        for inner in [n for n in nested if not n.startswith("_")]:
            for part in dir(getattr(member, inner)):
                found[f"{name}.{inner}.{part}"] = ""
print(json.dumps(found), flush=True)
import os; os._exit(0)
"""


@lru_cache
def survey(version: str, root: Path) -> dict[str, str]:
    """Every public name of that version, dotted, and its docstring, which has its signature."""
    values: dict[str, str] = json.loads(run(version, root, SURVEY))
    return values

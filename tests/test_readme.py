"""The README runs: its commands in an empty folder, its Python, its links."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from degmix_edge.cli import verbs

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """An empty folder with a photograph, as a newcomer has it."""
    import skimage.data

    folder = tmp_path_factory.mktemp("newcomer")
    Image.fromarray(skimage.data.coffee()).save(folder / "photo.jpg")
    bin_ = folder / "bin"
    bin_.mkdir()
    (bin_ / "degmix-edge").write_text(f'#!/bin/sh\nexec {sys.executable} -m degmix_edge "$@"\n')
    (bin_ / "degmix-edge").chmod(0o755)
    return folder


@pytest.mark.slow(file_seconds=160)
def test_its_commands_and_python_run(folder):
    path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
    (script,) = blocks("sh")
    commands = script.strip().splitlines()
    assert len(commands) == 5
    for command in commands:
        done = subprocess.run(
            command,
            shell=True,
            cwd=folder,
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, (command, done.stderr)
    (code,) = blocks("python")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert " m (" in done.stdout


@pytest.mark.slow
def test_the_demo_writes_its_report(tmp_path):
    command = [sys.executable, "-m", "degmix_edge", "demo", "--out", tmp_path / "demo"]
    command += ["--scenes", "16", "--calls", "10"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = sorted(path.name for path in (tmp_path / "demo").iterdir())
    assert names == [
        "degmix_tiny.fp32.degmix",
        "degmix_tiny.int8.degmix",
        "report.html",
        "results.json",
        "sheet.png",
    ]
    page = (tmp_path / "demo" / "report.html").read_text()
    assert page.count("<img") == 5 * 13 + 3 * 19
    command[-4:] = ["--scenes", "1", "--calls", "1"]
    again = subprocess.run(command, capture_output=True, text=True)
    assert again.stderr.count("from an earlier demo") == 2


def test_it_knows_every_verb_file_and_target():
    context = verbs.make_context("degmix-edge", ["doctor"])
    for verb in verbs.list_commands(context):
        assert f"`{verb}" in README, verb
    for name in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / name).exists(), name
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`?make ([\w-]+)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target

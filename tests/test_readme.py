"""The README runs: its commands in an empty folder, its Python, its links."""

import re
import shlex
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from PIL import Image

from degmix_edge import __version__
from degmix_edge.cli import invoke, verbs

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty folder with a photograph, as a newcomer has it; tests run in it."""
    import skimage.data

    Image.fromarray(skimage.data.coffee()).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow(file_seconds=35)
def test_its_commands_and_python_run(folder, capfd):
    (script,) = blocks("sh")
    commands = [shlex.split(command) for command in script.strip().splitlines()]
    assert len(commands) == 5
    for program, *arguments in commands:
        assert program == "degmix-edge"
        if arguments[0] == "bench":  # by itself it times a hundred calls
            arguments += ["--calls", "5"]
        assert invoke(arguments) == 0, (arguments, capfd.readouterr().err)
    (code,) = blocks("python")
    with warnings.catch_warnings():
        warnings.filterwarnings("error", module="degmix|__main__")
        exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})
    assert " m (" in capfd.readouterr().out


def test_its_program_is_installed():
    program = Path(sys.executable).with_name("degmix-edge")
    done = subprocess.run([program, "--version"], capture_output=True, text=True)
    assert done.stdout == f"degmix-edge, version {__version__}\n", done.stderr


def test_it_knows_every_verb_file_and_target():
    context = verbs.make_context("degmix-edge", ["doctor"])
    for verb in verbs.list_commands(context):
        assert f"`{verb}" in README, verb
    for name in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / name).exists(), name
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"`?make ([\w-]+)", README):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target

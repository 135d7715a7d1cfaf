"""What reaches a terminal, the end of a process, and paths that no file can have."""

import json
import shutil
import signal
import subprocess
import sys
import warnings

import pytest
from PIL import Image

from degmix_edge.bundle.card import card_text
from degmix_edge.bundle.contents import recipe_and_ranges
from degmix_edge.bundle.manifest import digest_line
from degmix_edge.files import sha256
from degmix_edge.progress import Clock, counting, note, table, warn
from degmix_edge.report.text import Doubt, TextTable
from degmix_edge.terminal import shown
from degmix_edge.terminal.output import Output
from degmix_edge.terminal.plain import plain
from degmix_edge.workflows.describe import describe
from degmix_edge.workflows.verify import verify


def test_control_characters_are_shown_and_do_nothing():
    assert plain("a\x1b[2Jb\r\x07\x9b\u202ec\x7f") == r"a\x1b[2Jb\r\x07\x9b\u202ec\x7f"
    assert plain("two\nlines\tand é 漢") == "two\nlines\tand é 漢"


def test_every_way_to_print_is_safe(capfd, tmp_path):
    evil = "\x1b]0;owned\x07\x1b[31m"
    output = Output(as_json=False, log=tmp_path / "log.txt")
    output.say(evil)
    output.warn(evil)
    output.error(evil)
    output.table(evil, ["a", "b"], [[evil, evil]])
    output.close()
    out, err = capfd.readouterr()
    assert out == ""
    assert err.count("x1b]0;owned") == 6
    for text in (err, (tmp_path / "log.txt").read_text()):
        assert "\x1b" not in text
        assert "\x07" not in text


def test_names_in_a_bundle_do_not_reach_the_terminal(cli, bundles, tmp_path):
    bundle = tmp_path / "robot.degmix"
    shutil.copytree(bundles["fp32"].path, bundle)
    manifest = json.loads((bundle / "manifest.json").read_text())
    manifest["network"]["tasks"][0]["classes"][0] = "\x1b[2Jwall"
    manifest["network"]["model"] = "\x1b[31mred"
    text = json.dumps(manifest).encode()
    (bundle / "manifest.json").write_bytes(text)
    (bundle / "manifest.sha256").write_bytes(digest_line(sha256(text)))
    code, _, err = cli("inspect", bundle)
    assert code == 0, err
    assert "\x1b" not in err
    assert r"\x1b[31mred" in err


def test_a_card_is_text_and_no_page(bundles):
    manifest = bundles["fp32"].manifest
    spec = manifest.network.model_copy(update={"model": "a\n# b <img src=x> [c](http://d) `e`"})
    card = card_text(
        manifest.model_copy(update={"network": spec}), recipe_and_ranges(bundles["fp32"])[0]
    )
    first = card.splitlines()[0]
    assert first.startswith(r"# a \# b \<img src=x\> \[c\](http://d) \`e\`, 64x96")


@pytest.mark.parametrize("path", ["", "x" * 300, "a/" + "y" * 256])
@pytest.mark.parametrize("verb", [("run", None, "photo.png", "--out"), ("verify",), ("inspect",)])
def test_paths_that_no_file_can_have(cli, bundles, verb, path):
    arguments = [bundles["fp32"].path if part is None else part for part in verb]
    code, _, err = cli(*arguments, path)
    assert code == 2
    assert "no file can have this name" in err


def test_maps_of_an_earlier_run_need_force(cli, bundles, pictures, tmp_path):
    Image.fromarray(pictures[0]).save(tmp_path / "a.png")
    command = ("run", bundles["fp32"].path, "a.png", "--out", "maps")
    assert cli(*command)[0] == 0
    before = (tmp_path / "maps" / "a.npz").stat().st_mtime_ns
    code, _, err = cli(*command)
    assert code == 12
    assert "a.npz: exists; give --force to replace it, or another --out" in err
    assert (tmp_path / "maps" / "a.npz").stat().st_mtime_ns == before
    assert cli(*command, "--force")[0] == 0


def start(*arguments, **options):
    command = [sys.executable, "-m", "degmix_edge", *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **options)


@pytest.mark.slow
def test_a_full_standard_output_is_an_error_of_ours(bundles):
    with open("/dev/full", "w") as full:
        process = start("inspect", bundles["fp32"].path, "--json", stdout=full)
        err = process.communicate(timeout=60)[1]
    assert process.returncode == 12
    assert "standard output cannot be written (No space left on device)" in err
    assert "Traceback" not in err


@pytest.mark.slow
def test_a_termination_signal_removes_what_was_begun(onnx_path, pictures, tmp_path):
    photos = tmp_path / "photos"
    photos.mkdir()
    for index, picture in enumerate(pictures):
        Image.fromarray(picture).save(photos / f"{index}.png")
    process = start(
        *("build", "engine", onnx_path, "--calib", photos, "--out", tmp_path / "robot.degmix")
    )
    for line in process.stderr:
        if line.startswith("passes"):
            break
    process.send_signal(signal.SIGTERM)
    rest = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + signal.SIGTERM, rest
    assert sorted(p.name for p in tmp_path.iterdir()) == ["photos"]


def test_python_shows_what_verbs_show(bundles, capfd):
    """Notes, warnings, tables and finished stages, on stderr; a library's own warnings are not."""
    with shown():
        note("a note")
        warn("a warning")
        table("title", ["a", "b"], [["1", "2"]])
        with counting("stage", 2) as advance:
            advance(2)
        Clock().finished("work", "what it did")
        warnings.warn("of a library", DeprecationWarning, stacklevel=1)
    out, err = capfd.readouterr()
    assert out == ""
    lines = [line.split() for line in err.splitlines()]
    assert [["a", "note"], ["warning:", "a", "warning"], ["title"], ["a", "b"]] == lines[:4]
    assert lines[4:5] == [["1", "2"]]
    assert lines[-1][0] == "work"
    assert "of a library" not in err


def test_what_ends_the_block_leaves_no_listener(capfd):
    with pytest.raises(KeyError), shown():
        raise KeyError
    note("nobody hears this")
    assert capfd.readouterr().err == ""


def test_results_say_what_verbs_print(bundles, cli):
    found = verify(bundles["int8"])
    code, _, err = cli("verify", bundles["int8"].path)
    assert code == 0
    assert err.splitlines() == [*str(found).splitlines(), "verified"]
    lines = str(describe(bundles["int8"].path)).splitlines()
    code, _, err = cli("inspect", bundles["int8"].path)
    assert [line.split() for line in err.splitlines()] == [line.split() for line in lines]


def test_a_table_in_words_is_aligned():
    assert str(TextTable("title", ["a", "bc"], [["long", "1"]])) == "title\na     bc\nlong   1"


def test_a_verb_that_shows_a_doubt_warns(capfd):
    Output(as_json=False, quiet=True).show(["said", Doubt("doubted")])
    assert capfd.readouterr().err == "warning: doubted\n"


@pytest.mark.parametrize(("path", "code"), [("", 2), (".", 2), ("x" * 300, 2), ("no/log.txt", 12)])
def test_a_log_that_cannot_be_written_is_refused(cli, path, code):
    assert cli("doctor", "--log-file", path)[0] == code


def test_programs_get_a_result_at_once():
    """A server prints where it is and goes on, so nothing else would empty the buffer of a pipe."""
    code = "import os; from degmix_edge.terminal import Output; "
    code += "Output(True).result({'a': 1}); os._exit(0)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert json.loads(found.stdout) == {"a": 1}

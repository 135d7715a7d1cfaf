"""Bundles: whole or refused, written whole or not at all."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest
from killed_writer import files_of, write_bundle

from degmix_edge import folders
from degmix_edge.bundle import contents
from degmix_edge.bundle.contents import open_bundle
from degmix_edge.bundle.manifest import digest_line
from degmix_edge.bundle.reading import open_folder
from degmix_edge.bundle.writing import claim
from degmix_edge.bundle.writing import write_bundle as write_claimed
from degmix_edge.errors import BundleError, OutputError
from degmix_edge.files import sha256


@pytest.fixture
def copy(bundles, tmp_path) -> Path:
    target = tmp_path / "robot.degmix"
    shutil.copytree(bundles["int8"].path, target)
    return target


def edit(path: Path, **values) -> None:
    """Change the manifest as somebody who knows that it has a hash."""
    manifest = json.loads((path / "manifest.json").read_text())
    text = json.dumps(manifest | values).encode()
    (path / "manifest.json").write_bytes(text)
    (path / "manifest.sha256").write_bytes(digest_line(sha256(text)))


def test_the_manifest_says_everything(bundles):
    manifest = open_bundle(bundles["int8"].path).manifest
    assert manifest.precision == "int8"
    assert str(manifest.inputs[0]) == "image uint8 (1, 64, 96, 3)"
    assert [tensor.name for tensor in manifest.outputs] == list(manifest.network.task_names)
    assert manifest.network.task("semseg").classes[0] == "wall"
    assert len(manifest.network.task("semseg").palette) == 10
    assert manifest.network.source.sha256
    assert set(manifest.files) == {
        "model.onnx",
        "recipe.yaml",
        "ranges.json",
        "golden.npz",
        "card.md",
        "engines/onnxruntime/engine.onnx",
    }
    assert "ranges.json" not in open_bundle(bundles["fp32"].path).manifest.files


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz", "recipe.yaml"])
def test_one_changed_byte_is_found(copy, name):
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(BundleError, match=f"file '{name}' was changed: SHA-256"):
        open_bundle(copy)


def test_a_missing_file_is_named(copy):
    (copy / "engines/onnxruntime/engine.onnx").unlink()
    with pytest.raises(BundleError, match="engine.onnx' is missing; copy the bundle again"):
        open_bundle(copy)


def test_a_newer_schema_is_refused(copy):
    edit(copy, schema_version=4, something_new=1)
    with pytest.raises(BundleError, match="schema 4, this degmix-edge reads 2 and 3; update"):
        open_bundle(copy)


def test_an_older_schema_has_no_hash_of_its_manifest(copy):
    edit(copy, schema_version=1)
    (copy / "manifest.sha256").unlink()
    with pytest.raises(BundleError, match="schema 1, this degmix-edge reads 2 and 3; build the b"):
        open_bundle(copy)


def test_a_manifest_that_does_not_fit_names_the_place(copy):
    edit(copy, fit={"height": -1, "width": 2})
    with pytest.raises(BundleError, match="fit.height"):
        open_bundle(copy)


def test_files_outside_the_bundle_are_not_read(copy):
    edit(copy, files={"../../etc/passwd": "0"})
    with pytest.raises(BundleError, match="is no path inside the bundle"):
        open_bundle(copy)


def test_what_is_no_bundle(tmp_path):
    with pytest.raises(BundleError, match="no manifest.json in it"):
        open_bundle(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(BundleError, match="is a file, expected a bundle folder"):
        open_bundle(tmp_path / "file")


def test_an_existing_target_needs_force_and_must_be_a_bundle(copy, tmp_path):
    with pytest.raises(OutputError, match="exists; give --force"):
        claim(copy, force=False)
    claim(copy, force=True)
    other = tmp_path / "photos"
    other.mkdir()
    (other / "a.jpg").write_text("x")
    with pytest.raises(OutputError, match="is no bundle, so --force does not replace it"):
        claim(other, force=True)
    with pytest.raises(OutputError, match="no such folder; make it first"):
        claim(tmp_path / "none" / "a.degmix", force=False)


def test_force_takes_nothing_with_it_that_is_not_of_a_bundle(copy, tmp_path):
    (copy / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="holds 'notes.txt', which is not of the bundle"):
        claim(copy, force=True)
    (copy / "notes.txt").unlink()
    (copy / "model.onnx").unlink()
    claim(copy, force=True)  # a damaged bundle is still ours
    extension = tmp_path / "extension"
    extension.mkdir()
    (extension / "manifest.json").write_text('{"manifest_version": 3, "name": "a web extension"}')
    with pytest.raises(OutputError, match="is no bundle, so --force does not replace it"):
        claim(extension, force=True)
    with pytest.raises(OutputError, match="is a file, so --force does not replace it"):
        claim(extension / "manifest.json", force=True)


def test_the_second_of_two_builds_is_told(copy, tmp_path):
    manifest, files = open_bundle(copy).manifest, files_of(copy)
    for target in (copy, tmp_path / "new.degmix"):
        first, second = (claim(target, force=True) for _ in range(2))
        write_claimed(first, manifest, files)
        with pytest.raises(OutputError, match="another process wrote it meanwhile, and its bundle"):
            write_claimed(second, manifest, {**files, "card.md": b"second"})
        assert open_bundle(target).read("card.md") == files["card.md"]


def test_a_full_disk_leaves_the_old_bundle(copy, monkeypatch):
    manifest, files = open_bundle(copy).manifest, files_of(copy)
    real = folders._write_synced

    def full(path, data):
        if path.name == "golden.npz":
            raise OSError(28, "No space left on device")
        real(path, data)

    monkeypatch.setattr(folders, "_write_synced", full)
    with pytest.raises(OutputError, match="No space left on device.*free some space"):
        write_bundle(copy, manifest, files, force=True)
    assert open_bundle(copy).manifest == manifest
    assert sorted(p.name for p in copy.parent.iterdir()) == [copy.name]


KILLED = """
import sys, time
from pathlib import Path
from degmix_edge import folders
from degmix_edge.bundle.manifest import digest_line
from degmix_edge.bundle.contents import open_bundle
from degmix_edge.bundle.writing import claim, write_bundle
source, target = map(Path, sys.argv[1:])
opened = open_bundle(source)
files = {name: (source / name).read_bytes() for name in opened.manifest.files}
real = folders._write_synced
def slow(path, data):
    real(path, data)
    print("wrote", path.name, flush=True)
    time.sleep(30 if path.name == "golden.npz" else 0)
folders._write_synced = slow
write_bundle(claim(target, force=True), opened.manifest, files)
"""


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_build_leaves_nothing_that_loads(copy, tmp_path, how):
    target = tmp_path / "new.degmix"
    child = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(copy), str(target)],
        stdout=subprocess.PIPE,
        text=True,
        stderr=subprocess.DEVNULL,
    )
    for line in child.stdout:
        if "golden" in line:
            break
    os.kill(child.pid, how)
    assert child.wait(20) != 0
    assert not target.exists()
    left = sorted(p.name for p in tmp_path.iterdir() if p != copy)
    assert left == ([".new.degmix.lock", ".new.degmix.part"] if how == signal.SIGKILL else [])
    if left:
        with pytest.raises(BundleError, match="unfinished"):
            open_bundle(tmp_path / left[1])
    manifest, files = open_bundle(copy).manifest, files_of(copy)
    write_bundle(target, manifest, files, force=False)  # and the next build sweeps
    assert sorted(p.name for p in tmp_path.iterdir()) == [target.name, copy.name]
    assert time.time() - target.stat().st_mtime < 60


def test_a_link_is_followed_and_stays(copy, tmp_path):
    link = tmp_path / "link.degmix"
    link.symlink_to(copy.name)
    manifest = open_bundle(copy).manifest
    write_bundle(link, manifest, files_of(copy), force=True)
    assert link.is_symlink()
    assert open_bundle(link).manifest == open_bundle(copy).manifest == manifest
    assert sorted(p.name for p in tmp_path.iterdir()) == [link.name, copy.name]


def test_a_name_with_wildcards_touches_no_other_folder(copy, tmp_path):
    other = tmp_path / ".a.degmix.part-1"
    other.mkdir()
    manifest, files = open_bundle(copy).manifest, files_of(copy)
    write_bundle(tmp_path / "[ab].degmix", manifest, files, force=False)
    assert other.is_dir()


@pytest.mark.parametrize("exchange", [True, False])
def test_writers_and_readers_at_the_same_time(copy, tmp_path, monkeypatch, exchange):
    """Every reader sees a whole bundle; a writer that comes second is told so."""
    if not exchange:
        monkeypatch.setattr(folders, "_exchange", lambda a, b: False)
    manifest, files = open_bundle(copy).manifest, files_of(copy)
    variants = [files, {**files, "card.md": b"another card"}]
    errors, opened, stop = [], [], threading.Event()

    def write(variant):
        for _ in range(25):
            try:
                write_bundle(copy, manifest, variant, force=True)
            except OutputError as error:
                if "another process wrote it meanwhile, and its bundle stays" not in str(error):
                    errors.append(error)
            except Exception as error:
                errors.append(error)

    def read():
        while not stop.is_set():
            try:
                opened.append(open_bundle(copy).manifest.files["card.md"])
            except Exception as error:  # a thread that died would see nothing
                errors.append(error)

    writers = [threading.Thread(target=write, args=(v,)) for v in variants]
    readers = [threading.Thread(target=read) for _ in range(2)]
    for thread in (*writers, *readers):
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    for thread in readers:
        thread.join()
    assert errors == []
    assert len(set(opened)) == 2
    assert [p.name for p in tmp_path.iterdir()] == [copy.name]


def test_a_folder_that_gets_the_number_of_the_one_that_was_read(copy, tmp_path, monkeypatch):
    """A system gives the number of a folder that is gone to the next one."""
    spare, gone = tmp_path / "spare", tmp_path / "gone"
    shutil.copytree(copy, spare)
    number, reads, verified, opened = copy.stat().st_ino, [], contents._verified, open_folder

    def read(folder, path):
        reads.append(folder)
        if len(reads) == 1:  # another process replaces it
            copy.rename(gone)
            (gone / "card.md").unlink()
            shutil.copytree(spare, copy)
        return verified(folder, path)

    @contextlib.contextmanager
    def replaced_again(path):
        try:
            with opened(path) as folder:
                yield folder
        except BundleError:
            shutil.rmtree(gone)
            for _ in range(100):
                shutil.rmtree(copy)
                shutil.copytree(spare, copy)
                if copy.stat().st_ino == number:
                    break
            raise

    monkeypatch.setattr(contents, "_verified", read)
    monkeypatch.setattr(contents, "open_folder", replaced_again)
    assert "card.md" in open_bundle(copy).manifest.files
    assert len(reads) == 2


@pytest.fixture
def in_memory(bundles, tmp_path):
    """A copy of a bundle where syncing to disk costs nothing, if the system has such a place."""
    place = "/dev/shm" if os.access("/dev/shm", os.W_OK) else tmp_path
    with tempfile.TemporaryDirectory(dir=place) as folder:
        target = Path(folder) / "robot.degmix"
        shutil.copytree(bundles["int8"].path, target)
        yield target


@pytest.mark.slow(file_seconds=4)
@pytest.mark.parametrize("exchange", [True, False])
def test_a_writer_killed_at_any_system_call_leaves_a_whole_bundle(in_memory, exchange):
    """The old one or the new one opens at once, and the next writer leaves nothing else behind.

    A line of code that makes a system call for each file is tried with the first and the last.
    """
    program = Path(__file__).with_name("killed_writer.py")
    command = [sys.executable, program, in_memory, str(int(exchange))]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["places"] > 100
    assert found["moments"][0] == 1
    assert found["moments"][-1] == found["places"]
    assert found["signals"] == [signal.SIGKILL] * len(found["moments"])
    assert set(found["old"]) == {True, False}
    for moment, names in zip(found["moments"], found["beside"], strict=True):
        assert names == [in_memory.name], moment

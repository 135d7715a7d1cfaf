"""`label` on real sources: equal bytes however it is run, and nothing lost or twice."""

import contextlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

pq = pytest.importorskip("pyarrow.parquet")
pytest.importorskip("fsspec")

from degmix_edge.bundle.ready import located  # noqa: E402
from degmix_edge.errors import (  # noqa: E402
    BackendError,
    BundleError,
    ConfigError,
    InputError,
    OutputError,
)
from degmix_edge.progress import Event  # noqa: E402
from degmix_edge.runtime import load  # noqa: E402
from degmix_edge.workflows.label import label  # noqa: E402
from degmix_edge.workflows.label.job import Job, begin  # noqa: E402
from degmix_edge.workflows.label.labeller import Labeller  # noqa: E402
from degmix_edge.workflows.label.on_ray import compare_machines  # noqa: E402
from degmix_edge.workflows.label.pieces import Piece, find_pieces  # noqa: E402
from degmix_edge.workflows.label.reading import read_piece  # noqa: E402
from degmix_edge.workflows.label.receipts import finish, finished_shards  # noqa: E402
from degmix_edge.workflows.label.run import make_job  # noqa: E402
from degmix_edge.workflows.label.shard import label_piece  # noqa: E402

pytestmark = pytest.mark.slow(file_seconds=25)
BUNDLE = located(Path("degmix_tiny"))
SIZE = (64, 96)
TARS, EACH = 6, 4
IMAGES = TARS * EACH


def picture(number: int) -> np.ndarray:
    rng = np.random.default_rng(number)
    coarse = rng.integers(0, 256, (4, 6, 3), np.uint8)
    return np.asarray(PIL.Image.fromarray(coarse).resize(SIZE[::-1], PIL.Image.Resampling.BICUBIC))


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(picture(number)).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path: Path, numbers) -> None:
    with tarfile.open(path, "w") as archive:
        for number in numbers:
            member = tarfile.TarInfo(f"{number:06}.png")
            content = png(number)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def write_parquet(path: Path, numbers, rows: int = 2) -> None:
    import pyarrow as pa

    values = [{"bytes": png(number), "path": f"{number}.png"} for number in numbers]
    pq.write_table(pa.table({"image": values}), path, row_group_size=rows)


def a_job(source: Path, out: Path, **options) -> tuple[Job, list[Piece]]:
    """A run, its pieces, and its folders made."""
    from degmix_edge.workflows.label.job import digest_of

    pieces = find_pieces(str(source), options.get("per_shard", 512))
    values = {"tasks": ("semseg", "depth"), "backend": "auto", "size": None, "threads": 1}
    values |= {"format": "parquet", "native": False, "topic": None, "per_shard": 512}
    bundle = options.pop("bundle", BUNDLE)
    values |= {**options, "plan": digest_of(pieces)}
    job = make_job(str(source), bundle, out, values)
    begin(job, force=False)
    return job, pieces


def here(source: Path, out: Path, **options):
    """Label in this process, piece after piece; returns the receipts."""
    job, pieces = a_job(source, out, **options)
    with Labeller(job) as labeller:
        receipts = [label_piece(job, n, piece, labeller) for n, piece in enumerate(pieces)]
    finish(job, dict(enumerate(receipts)))
    return receipts


def rows(out: Path, folder: str = "labels") -> list[dict]:
    paths = sorted((out / folder).glob("part-*.parquet"))
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


def same_bytes(a: Path, b: Path) -> None:
    """All files that two runs have in common are equal, and there are no others."""

    def files(out: Path) -> dict[str, bytes]:
        found = [p for p in sorted(out.rglob("*")) if p.is_file()]
        apart = ("latency", "receipts")  # receipts have the sizes of latencies
        names = [str(p.relative_to(out)) for p in found]
        return {
            n: p.read_bytes() for n, p in zip(names, found, strict=True) if not n.startswith(apart)
        }

    assert files(a) == files(b)
    assert [p.name for p in sorted((a / "latency").iterdir())] == [
        p.name for p in sorted((b / "latency").iterdir())
    ]


@pytest.fixture(scope="module")
def tars(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("tars")
    for number in range(TARS):
        write_tar(folder / f"{number:03}.tar", range(EACH * number, EACH * (number + 1)))
    return folder


@pytest.fixture(scope="module")
def serial(tars, tmp_path_factory) -> Path:
    """The output of one worker."""
    out = tmp_path_factory.mktemp("serial") / "out"
    found = label(tars, BUNDLE, out, workers=1, tasks="semseg,depth")
    assert (found.shards, found.images, found.bad, found.resumed) == (TARS, IMAGES, 0, 0)
    return out


# What a row says


def test_a_row_has_what_a_session_gives(serial):
    found = rows(serial)
    assert [row["name"] for row in found] == [
        f"{n // EACH:03}.tar/{n:06}.png" for n in range(IMAGES)
    ]
    schema = pq.read_schema(serial / "labels" / "part-00000.parquet")
    assert json.loads(schema.field("depth").metadata[b"task"])["unit"] == "m"
    assert schema.field("depth").metadata[b"encoding"] == b"png"
    with load(BUNDLE, threads=1) as session:
        for number in (0, 13):
            maps, row = session(png(number)), found[number]
            classes = np.asarray(PIL.Image.open(io.BytesIO(row["semseg"])))
            assert np.array_equal(classes, maps["semseg"])
            depth = np.asarray(PIL.Image.open(io.BytesIO(row["depth"])))
            assert depth.dtype == np.uint16
            assert np.abs(depth / 1000 - np.asarray(maps["depth"])).max() <= 0.0005 + 1e-6
            counts = np.bincount(classes.ravel(), minlength=len(row["semseg_shares"]))
            assert np.allclose(row["semseg_shares"], counts / classes.size, atol=1e-6)
            assert row["depth_mean"] == pytest.approx(float(maps["depth"].mean()), abs=1e-5)
            assert row["brightness"] == pytest.approx(picture(number).mean() / 255, abs=1e-6)


def test_certainty_is_that_of_the_softmax(tars, tmp_path):
    import onnx

    from degmix_edge.bundle.contents import open_bundle
    from degmix_edge.graph.certainty import add_certainty
    from degmix_edge.ort import cpu_session

    opened = open_bundle(BUNDLE)
    engine = opened.onnx("engines/onnxruntime/engine.onnx")
    certain, tasks = add_certainty(engine, opened.manifest.network)
    assert set(tasks) >= {"semseg"}
    with_logits = onnx.load_from_string(certain)
    value = onnx.helper.make_tensor_value_info("semseg_logits", onnx.TensorProto.FLOAT, None)
    with_logits.graph.output.append(value)
    session = cpu_session(with_logits.SerializeToString(), num_threads=1)
    size = opened.manifest.fit.size
    image = np.random.default_rng(0).integers(0, 256, (1, *size, 3), np.uint8)
    names = [output.name for output in session.get_outputs()]
    maps = dict(zip(names, session.run(None, {"image": image}), strict=True))
    logits = maps["semseg_logits"].astype(np.float64)[:, :, ::4, ::4]
    shares = np.exp(logits - logits.max(1, keepdims=True))
    shares /= shares.sum(1, keepdims=True)
    assert np.allclose(maps["semseg_confidence"], shares.max(1), atol=1e-5)
    assert np.allclose(maps["semseg_entropy"], -(shares * np.log(shares)).sum(1), atol=1e-4)
    plain = cpu_session(engine, num_threads=1)
    plain_names = [output.name for output in plain.get_outputs()]
    for name, array in zip(plain_names, plain.run(None, {"image": image}), strict=True):
        assert np.array_equal(array, maps[name]), name


# Equal however it runs


def test_two_workers_write_the_same_bytes(tars, serial, tmp_path):
    events: list[Event] = []
    found = label(
        tars, BUNDLE, tmp_path / "out", workers=2, tasks="semseg,depth", progress=events.append
    )
    assert found.images == IMAGES
    same_bytes(serial, tmp_path / "out")
    steps = [event for event in events if event.name == "label"]
    assert steps[-1].kind == "finished"
    assert [event.done for event in steps if event.kind == "step"] == [0, 1, 2, 3, 4, 5, 6]
    assert "images/s" in steps[3].detail
    assert "left" in steps[3].detail


def killed(arguments: list[str], out: Path, after: int) -> None:
    """Run the verb and kill it and its workers once so many receipts are there."""
    program = "from degmix_edge.cli import main; main()"
    child = subprocess.Popen([sys.executable, "-c", program, *arguments], start_new_session=True)
    deadline = time.monotonic() + 120
    while len(list((out / "receipts").glob("*.json"))) < after and time.monotonic() < deadline:
        assert child.poll() is None, "it ended before it was killed"
        time.sleep(0.01)
    os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def test_a_run_that_was_killed_resumes(tars, serial, tmp_path):
    out = tmp_path / "out"
    arguments = ["label", str(tars), "--bundle", str(BUNDLE), "--out", str(out)]
    arguments += ["--tasks", "semseg,depth", "--workers", "1"]
    killed(arguments, out, after=2)
    before = {p.name: p.stat().st_mtime_ns for p in (out / "labels").glob("part-*.parquet")}
    assert not json.loads((out / "manifest.json").read_text())["complete"]
    found = label(tars, BUNDLE, out, workers=1, tasks="semseg,depth")
    assert 2 <= found.resumed < 6
    assert (found.images, found.bad) == (IMAGES, 0)
    same_bytes(serial, out)
    untouched = [
        n for n, stamp in before.items() if (out / "labels" / n).stat().st_mtime_ns == stamp
    ]
    assert len(untouched) >= 2
    again = label(tars, BUNDLE, out, workers=1, tasks="semseg,depth")
    assert again.resumed == 6
    same_bytes(serial, out)


# Sources


def test_every_kind_of_file_gives_its_images(tmp_path):
    source = tmp_path / "mixed"
    (source / "a").mkdir(parents=True)
    for number in range(3):
        (source / "a" / f"{number}.png").write_bytes(png(number))
    (source / ".hidden.png").write_bytes(png(9))
    (source / "notes.txt").write_text("no image")
    write_tar(source / "b.tar", [3, 4])
    write_parquet(source / "c.parquet", [5, 6, 7])
    pieces = find_pieces(str(source), per_shard=2)
    assert [(piece.kind, piece.images) for piece in pieces] == [
        *[("images", 2), ("images", 1)],
        *[("tar", None), ("parquet", 2), ("parquet", 1)],
    ]
    items = [item for piece in pieces for item in read_piece(piece)]
    assert [item.name for item in items] == [
        *["a/0.png", "a/1.png", "a/2.png", "b.tar/000003.png", "b.tar/000004.png"],
        *["c.parquet#0", "c.parquet#1", "c.parquet#2"],
    ]
    assert [item.image for item in items] == [png(number) for number in range(8)]
    assert [item.index for item in items if item.name.startswith("c")] == [0, 1, 2]
    for piece in pieces:
        assert Piece.from_json(piece.to_json()) == piece
    assert len(find_pieces(f"{source}/*.tar")) == 1
    assert find_pieces(str(source / "a" / "1.png"))[0].files == (str(source / "a" / "1.png"),)


def test_urls_of_fsspec_give_the_same(tmp_path):
    import fsspec

    memory = fsspec.filesystem("memory")
    memory.pipe({"/night/a/0.png": png(0), "/night/a/1.png": png(1)})
    write_tar(tmp_path / "b.tar", [2])
    memory.put(str(tmp_path / "b.tar"), "/night/b.tar")
    try:
        pieces = find_pieces("memory://night")
        items = [item for piece in pieces for item in read_piece(piece)]
        assert [item.name for item in items] == ["a/0.png", "a/1.png", "b.tar/000002.png"]
        assert [item.image for item in items] == [png(0), png(1), png(2)]
        assert [i.name for p in find_pieces("memory://night/*.tar") for i in read_piece(p)] == [
            "b.tar/000002.png"
        ]
    finally:
        memory.rm("/night", recursive=True)


def test_videos_give_their_frames(tmp_path):
    av = pytest.importorskip("av")
    with av.open(str(tmp_path / "v.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=30)
        stream.height, stream.width = SIZE
        stream.pix_fmt = "yuv420p"
        for number in range(5):
            grey = np.full((*SIZE, 3), 40 * number + 20, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(grey, format="rgb24")))
        container.mux(stream.encode())
    (piece,) = find_pieces(str(tmp_path))
    items = list(read_piece(piece))
    assert [round((item.image.mean() - 20) / 40) for item in items] == list(range(5))
    assert [item.name for item in items] == [f"v.mp4#{n}" for n in range(5)]
    assert items[1].stamp_ns == pytest.approx(1e9 / 30, abs=1)


def test_recordings_give_the_images_of_a_topic(tmp_path):
    writer = pytest.importorskip("mcap_ros2.writer")
    pytest.importorskip("rosbags")
    definition = (
        "std_msgs/Header header\nstring format\nuint8[] data\n"
        "================================================================================\n"
        "MSG: std_msgs/Header\nbuiltin_interfaces/Time stamp\nstring frame_id\n"
        "================================================================================\n"
        "MSG: builtin_interfaces/Time\nint32 sec\nuint32 nanosec"
    )
    with (tmp_path / "a.mcap").open("wb") as file:
        out = writer.Writer(file)
        schema = out.register_msgdef("sensor_msgs/msg/CompressedImage", definition)
        for number in range(3):
            header = {"stamp": {"sec": 7, "nanosec": number}, "frame_id": "camera"}
            content = png(number) if number != 1 else b"no picture"
            out.write_message(
                topic="/camera/image/compressed",
                schema=schema,
                message={"header": header, "format": "png", "data": content},
                log_time=number,
                publish_time=number,
            )
        out.finish()
    (piece,) = find_pieces(str(tmp_path / "a.mcap"))
    items = list(read_piece(piece))
    assert [item.name for item in items] == ["a.mcap#0", "a.mcap#1", "a.mcap#2"]
    assert [item.stamp_ns for item in items] == [7_000_000_000, None, 7_000_000_002]
    assert np.array_equal(items[2].image, picture(2))
    assert items[1].image is None
    assert items[1].reason


@pytest.mark.parametrize("source", ["none", "none/", "none/*.png", "memory://none"])
def test_a_source_without_images_is_refused(source, tmp_path):
    text = source if "://" in source else str(tmp_path / source)
    with pytest.raises(InputError, match="no such file or folder"):
        find_pieces(text)


def test_a_folder_of_other_files_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no image")
    with pytest.raises(InputError, match="nothing to label among its 1 files; looked for .jpg"):
        find_pieces(str(tmp_path))


# What is wrong with single images and files


def test_bad_images_are_set_aside_with_the_reason(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    (source / "0.png").write_bytes(png(0))
    (source / "1.png").write_bytes(b"no picture")
    (source / "2.png").write_bytes(png(2)[:200])
    write_tar(source / "3.tar", [3, 4, 5])
    whole = (source / "3.tar").read_bytes()
    (source / "3.tar").write_bytes(whole[: 2 * len(whole) // 5])
    write_parquet(source / "4.parquet", [6])
    (source / "4.parquet").write_bytes((source / "4.parquet").read_bytes()[:-8])
    receipts = here(source, tmp_path / "out")
    assert sum(receipt.images for receipt in receipts) == len(rows(tmp_path / "out"))
    reasons = {row["name"]: row["reason"] for row in rows(tmp_path / "out", "bad")}
    assert "no image in a format" in reasons.pop("1.png")
    assert "cannot be opened" in reasons.pop("2.png")
    assert [name.split("#")[0] for name in reasons] == ["3.tar", "4.parquet"]
    assert all("from here on" in reason for reason in reasons.values())
    assert [row["name"] for row in rows(tmp_path / "out")][0] == "0.png"


def test_a_tar_file_cut_between_two_images_is_noticed(tmp_path):
    write_tar(tmp_path / "a.tar", [0, 1])
    whole = (tmp_path / "a.tar").read_bytes()
    with tarfile.open(tmp_path / "a.tar") as archive:
        second = archive.getmembers()[1].offset
    (tmp_path / "a.tar").write_bytes(whole[:second])
    items = list(read_piece(find_pieces(str(tmp_path / "a.tar"))[0]))
    assert [bool(item.image) for item in items] == [True, False]
    assert "no end mark" in items[1].reason


def test_a_source_of_which_nothing_can_be_labelled_fails(cli, tmp_path):
    """Also when the same command finds all of its shards done."""
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    for number in range(3):
        (source / f"{number}.png").write_bytes(b"no picture" if number else png(0)[:200])
    with tarfile.open(source / "empty.tar", "w"):
        pass
    for _ in range(2):
        code, text, err = cli("label", source, "--bundle", BUNDLE, "--out", out, "--workers", 1)
        assert (code, text) == (4, "")
        assert "all of its 3 images were set aside, 2 of them because:" in err
        assert "no image in a format" in err
    assert json.loads((out / "manifest.json").read_text())["bad"] == 3
    with pytest.raises(InputError, match="there is no image in it, although it became 1 shards"):
        label(source / "empty.tar", BUNDLE, tmp_path / "none", workers=1)


CRASH = """
import os, sys
import degmix_edge.workflows.label.labeller as labeller
read = labeller.read_image
def deadly(image):
    if image == open({bad!r}, "rb").read():
        os.kill(os.getpid(), {signal})
    return read(image)
labeller.read_image = deadly
"""


def test_an_image_that_crashes_the_decoder_is_set_aside(tmp_path, monkeypatch):
    """The decoder of every process of this run dies of one image, as of a bug in a library."""
    source = tmp_path / "in"
    source.mkdir()
    for number in range(1, 4):
        (source / f"{number}.png").write_bytes(png(number))
    crash = CRASH.format(bad=str(source / "2.png"), signal=int(signal.SIGSEGV))
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(crash)
    path = os.pathsep.join([str(tmp_path / "site"), *sys.path])
    monkeypatch.setenv("PYTHONPATH", path)
    events: list[Event] = []
    found = label(
        source, BUNDLE, tmp_path / "out", tasks="semseg", workers=1, progress=events.append
    )
    assert (found.images, found.bad) == (2, 1)
    (row,) = rows(tmp_path / "out", "bad")
    assert row["name"] == "2.png"
    assert row["reason"] == "the process that ran it died (SIGSEGV)"
    assert any("a worker died" in event.detail for event in events)


HANG = CRASH.replace("os.kill(os.getpid(), {signal})", "__import__('time').sleep(1000)")


def test_an_image_on_which_the_decoder_hangs_is_set_aside(cli, tmp_path, monkeypatch):
    source = tmp_path / "in"
    source.mkdir()
    for number in range(1, 4):
        (source / f"{number}.png").write_bytes(png(number))
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(HANG.format(bad=str(source / "2.png")))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "site"), *sys.path]))
    options = ("--tasks", "semseg", "--workers", 1, "--image-timeout", 4, "--json")
    code, text, _ = cli("label", source, "--bundle", BUNDLE, "--out", tmp_path / "out", *options)
    assert code == 0
    found = json.loads(text)
    assert (found["images"], found["bad"]) == (2, 1)
    (row,) = rows(tmp_path / "out", "bad")
    assert (row["name"], row["reason"]) == ("2.png", "it took longer than 4 s")


# What is wrong with a run


def test_the_output_of_another_run_is_refused(serial, tars, tmp_path):
    with pytest.raises(OutputError, match="another run: tasks"):
        label(tars, BUNDLE, serial, tasks="depth", workers=1)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "photo.jpg").write_text("")
    with pytest.raises(OutputError, match=r"has photo.jpg and is no output of label"):
        label(tars, BUNDLE, tmp_path / "other", workers=1)


def test_a_source_that_changed_is_refused(tmp_path):
    source = tmp_path / "in"
    source.mkdir()
    write_tar(source / "0.tar", [0])
    here(source, tmp_path / "out")
    write_tar(source / "1.tar", [1])
    with pytest.raises(OutputError, match="are not those that this output was begun with"):
        a_job(source, tmp_path / "out")


def test_a_shard_of_the_output_that_was_cut_off_is_labelled_again(serial, tars, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(serial, out)
    part = out / "labels" / "part-00003.parquet"
    part.write_bytes(part.read_bytes()[:-20])
    (out / "bad" / "part-00001.parquet").unlink()
    job, pieces = a_job(tars, out)
    with pytest.warns(match="labelled again"):
        done = finished_shards(job, pieces)
    assert sorted(done) == [0, 2, 4, 5]
    with Labeller(job) as labeller:
        for number in (1, 3):
            label_piece(job, number, pieces[number], labeller)
    assert len(finished_shards(job, pieces)) == 6
    assert part.read_bytes() == (serial / "labels" / "part-00003.parquet").read_bytes()


def test_a_bundle_that_was_replaced_is_refused(bundles, tars, tmp_path):
    place = tmp_path / "b.degmix"
    shutil.copytree(bundles["fp32"].path, place)
    job, _ = a_job(tars, tmp_path / "out", bundle=place)
    shutil.rmtree(place)
    shutil.copytree(bundles["int8"].path, place)
    with pytest.raises(BundleError, match="was replaced during the run"):
        Labeller(job)
    with pytest.raises(OutputError, match="another run: digest"):
        a_job(tars, tmp_path / "out", bundle=place)


def test_clocks_that_differ_change_nothing(serial, tars, tmp_path, monkeypatch):
    """A worker's clock is a year ahead, and files are older than the manifest or of tomorrow."""
    ahead, real = 365 * 86400, time.time
    monkeypatch.setattr(time, "time", lambda: real() + ahead)
    here(tars, tmp_path / "out")
    same_bytes(serial, tmp_path / "out")
    for number, path in enumerate(sorted((tmp_path / "out").rglob("part-*"))):
        os.utime(path, (0, 0) if number % 2 else (real() + ahead,) * 2)
    job, pieces = a_job(tars, tmp_path / "out")
    assert len(finished_shards(job, pieces)) == TARS


@contextlib.contextmanager
def small_disk(folder: Path):
    """A disk that is soon full, where this user may make one."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("this user cannot mount a small disk")
    try:
        yield folder / "out"
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_ends_the_run_and_leaves_whole_files(tars, tmp_path):
    with small_disk(tmp_path / "small") as out:
        with pytest.raises(OutputError, match="the disk is full|free some space"):
            here(tars, out)
        receipts = list((out / "receipts").glob("*.json"))
        labels = [p.name for p in (out / "labels").iterdir()]
        assert len(labels) - len(receipts) in (0, 1)
        for name in labels:
            assert pq.read_metadata(out / "labels" / name).num_rows == EACH


@pytest.mark.parametrize(
    ("options", "error", "text"),
    [
        ({"tasks": "depht"}, ConfigError, "Did you mean 'depth'"),
        ({"format": "csv"}, ConfigError, "expected parquet or webdataset"),
        ({"workers": 0}, ConfigError, "workers: got 0"),
        ({"per_shard": 0}, ConfigError, "per_shard: got 0"),
        ({"address": "127.0.0.1:9"}, ConfigError, "nothing answers there"),
        ({"address": "ray://127.0.0.1:9"}, ConfigError, "nothing answers there"),
        ({"address": "http://x"}, ConfigError, "expected local, auto, HOST:PORT"),
    ],
)
def test_wrong_options_are_refused_before_work(options, error, text, tars, tmp_path):
    with pytest.raises(error, match=text):
        label(tars, BUNDLE, tmp_path / "out", **options)
    assert not list((tmp_path / "out").glob("labels/*"))


def test_machines_with_other_versions_are_refused_with_a_table():
    own = {"degmix-edge": "1.0", "numpy": "2.4.6"}
    compare_machines(own, {"a": dict(own), "b": dict(own)})
    from degmix_edge.progress import listening

    events: list[Event] = []
    with listening(events.append), pytest.raises(BackendError, match=r"b: numpy 1\.26, here 2\.4"):
        compare_machines(own, {"a": dict(own), "b": {**own, "numpy": "1.26"}})
    (event,) = events
    assert event.rows[0] == ("machine", "degmix-edge", "numpy", "problem")
    assert event.rows[3] == ("b", "1.0", "1.26", "")


def test_webdataset_has_the_same_maps(serial, tars, tmp_path):
    here(tars, tmp_path / "out", format="webdataset")
    with tarfile.open(tmp_path / "out" / "maps" / "part-00002.tar") as archive:
        names = archive.getnames()
        first = archive.extractfile(names[0]).read()
    assert [name.partition(".")[2] for name in names[:3]] == ["semseg.png", "depth.png", "json"]
    assert len(names) == 3 * EACH
    assert first == rows(serial)[2 * EACH]["semseg"]
    assert "semseg" not in rows(tmp_path / "out")[0]


def test_the_verb_prints_what_it_wrote(cli, tars, serial, tmp_path):
    out = tmp_path / "copy"
    shutil.copytree(serial, out)
    code, text, err = cli(
        *["label", tars, "--bundle", BUNDLE, "--out", out, "--tasks", "semseg,depth", "--json"]
    )
    assert code == 0, err
    values = json.loads(text)
    assert (values["images"], values["bad"], values["resumed"]) == (IMAGES, 0, TARS)
    assert f"{IMAGES} images, 0 set aside, shards: {TARS}" in err

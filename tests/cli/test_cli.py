"""Every verb as people type it: what it prints where, exit codes, and every mistake's message."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from PIL import Image

from degmix_edge.bundle.contents import open_bundle
from degmix_edge.cli import verbs

pytestmark = pytest.mark.slow(file_seconds=45)

VERBS = ["demo", "train", "eval", "export onnx", "quantize", "build engine", "run", "compare"]
VERBS += ["bench", "inspect", "verify", "doctor", "data check", "convert", "zoo", "prune experts"]


@pytest.fixture
def photos(tmp_path, pictures) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for index, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{index}.png")
    return folder


def process(*arguments, **options):
    command = [sys.executable, "-m", "degmix_edge", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, **options)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_and_json(cli, verb):
    code, out, _ = cli(*verb.split(), "--help")
    assert code == 0
    assert "--json" in out


def test_help_lists_verbs_and_exit_codes(cli):
    code, out, _ = cli("--help")
    assert code == 0
    for verb in VERBS:
        assert verb.split()[0] in out
    assert "13 out of tolerance" in out


def test_help_is_quick_and_imports_nothing_heavy():
    code = (
        "import sys, time; from degmix_edge.cli import invoke; invoke(['--help']); "
        "print([m for m in ('torch', 'onnx', 'numpy', 'rich') if m in sys.modules], "
        "time.process_time(), file=sys.stderr)"
    )
    done = [
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        for _ in range(3)
    ]
    found = [run.stderr.rsplit(" ", 1) for run in done]
    assert {loaded for loaded, _ in found} == {"[]"}
    # Processor time of the whole process, so that other work on the machine does not count.
    assert min(float(seconds) for _, seconds in found) < 0.3


def test_an_unknown_verb_and_option(cli):
    code, _, err = cli("buld")
    assert code == 2
    assert "Did you mean 'build'" in err
    code, _, err = cli("run", "--nope")
    assert code == 2
    assert "--nope" in err


def test_build_from_checkpoint_run_verify_inspect(cli, checkpoint_path, photos, tmp_path):
    code, out, err = cli(
        "build", "engine", checkpoint_path, "--calib", photos, "--out", "robot.degmix", "--json"
    )
    assert code == 0, err
    for stage in ("export", "passes", "calibrate", "quantize", "engine", "golden check", "write"):
        assert stage in err
    values = json.loads(out)
    assert values["precision"] == "int8"
    assert [stage["name"] for stage in values["stages"]][0] == "export"

    code, out, err = cli("run", "robot.degmix", photos, photos / "0.png", "--out", "maps", "--json")
    assert code == 0, err
    assert len(json.loads(out)["images"]) == 9
    arrays = np.load(tmp_path / "maps" / "0.npz")
    assert arrays["depth"].shape == (64, 96)
    assert (tmp_path / "maps" / "0.semseg.png").exists()
    code, _, _ = cli("run", "robot.degmix", photos / "0.png", "--tasks", "depth", "--out", "few")
    assert sorted(p.name for p in (tmp_path / "few").iterdir()) == ["0.depth.png", "0.npz"]

    code, out, err = cli("verify", "robot.degmix", "--json")
    assert code == 0, err
    assert json.loads(out)["golden"]["passed"]
    code, out, err = cli("inspect", "robot.degmix", "--nodes", "--json")
    assert code == 0
    assert "makes the offsets" in err
    assert json.loads(out)["manifest"]["precision"] == "int8"

    code, out, err = cli("build", "engine", "robot.degmix")  # for this machine, again
    assert code == 0, err
    assert "golden check" in err


def test_build_from_onnx_with_pruned_tasks(cli, onnx_path):
    code, out, err = cli(
        *("build", "engine", onnx_path, "--precision", "fp16", "--tasks", "semseg,depth"),
        *("--raw-logits", "--out", "few.degmix", "--json"),
    )
    assert code == 0, err
    assert json.loads(out)["tasks"] == ["semseg", "depth"]


def test_export_quantize_and_ranges_again(cli, checkpoint_path, photos, tmp_path):
    code, out, err = cli("export", "onnx", checkpoint_path, "--out", "m.onnx", "--json")
    assert code == 0, err
    assert json.loads(out)["outputs"][0] == "semseg"
    code, out, err = cli("inspect", "m.onnx", "--json")
    assert code == 0
    assert json.loads(out)["operators"]["DeformConv"] == 6
    code, out, err = cli("quantize", "m.onnx", "--calib", photos, "--out", "q.onnx", "--json")
    assert code == 0, err
    assert json.loads(out)["nodes"]["int8"] > 40
    onnx.checker.check_model(onnx.load(tmp_path / "q.onnx"))
    assert (tmp_path / "q.onnx.recipe.yaml").exists()
    code, _, err = cli("quantize", "m.onnx", "--ranges", "q.onnx.ranges.json", "--out", "r.onnx")
    assert code == 0, err
    assert (tmp_path / "r.onnx").read_bytes() == (tmp_path / "q.onnx").read_bytes()


def test_results_of_a_robot_are_compared_on_a_desktop(cli, bundles, checkpoint_path, photos):
    """Saved without PyTorch, loaded instead of an engine: the same comparison exactly."""
    path = bundles["fp32"].path
    code, _, err = cli("compare", path, "--data", photos, "--save-results", "robot.json")
    assert code == 0, err
    assert "--load-results robot.json" in err
    live, loaded = (
        cli("compare", path, checkpoint_path, "--data", photos, "--json", *more)
        for more in ((), ("--load-results", "robot.json"))
    )
    assert live[0] == loaded[0] == 0, loaded[2]
    assert json.loads(live[1])["comparison"] == json.loads(loaded[1])["comparison"]
    assert "onnxruntime, recorded" in loaded[2]
    wrong = ("compare", path, checkpoint_path, "--data", "synthetic:4", "--load-results")
    code, _, err = cli(*wrong, "robot.json")
    assert code == 4
    assert "give the same --data as to --save-results" in err
    code, _, err = cli(*wrong, "none.json")
    assert code == 4
    assert "none.json: no such file; `compare --save-results` writes one" in err
    Path("none.json").write_text("{}")
    code, _, err = cli(*wrong, "none.json")
    assert code == 4
    assert "no results of `compare --save-results`" in err


def test_compare_and_bench(cli, bundles, checkpoint_path, photos):
    path = bundles["fp32"].path
    code, out, err = cli("compare", path, checkpoint_path, "--data", "synthetic:4", "--json")
    assert code == 0, err
    assert json.loads(out)["comparison"]["passed"]
    code, out, err = cli("compare", path, checkpoint_path, "--data", photos)
    assert code == 0, err
    assert "every task is inside its tolerance" in err
    code, out, err = cli(
        *("compare", bundles["int8"].path, checkpoint_path, "--data", photos),
        *("--max-disagreement", "0", "--json"),
    )
    assert code == 13
    assert "AccuracyError" in err
    code, out, err = cli(
        *("bench", path, checkpoint_path, "--data", photos, "--calls", "10"),
        *("--against", "torch", "--json"),
    )
    assert code == 0, err
    assert json.loads(out)["speedup_net"] > 0
    assert "faster than PyTorch eager" in err


def test_eval_and_doctor(cli, checkpoint_path):
    code, out, err = cli("eval", checkpoint_path, "--data", "synthetic:4", "--json")
    assert code == 0, err
    assert set(json.loads(out)["scores"]) >= {"semseg", "depth"}
    code, out, err = cli("doctor", "--json")
    assert code == 0
    assert json.loads(out)["checks"]


SMALL = ("val_every=2", "batch_size=2", "data.train=4", "data.val=2", "height=64", "width=96")
SMALL += ("network.dim=16", "network.backbone=mobilenetv4_conv_small_050")


def test_train_through_the_command_line(cli, tmp_path):
    settings = [part for item in (*SMALL, "steps=2") for part in ("--set", item)]
    code, out, err = cli("train", "degmix_tiny", "--out", "run", *settings, "--json")
    assert code == 0, err
    assert "warning: optim.warmup is 100 of 2 steps" in err
    checkpoint = json.loads(out)["checkpoint"]
    assert (tmp_path / checkpoint).exists()
    code, _, err = cli("train", "degmix_tiny", "--out", "run", *settings)
    assert code == 12
    assert "not empty; give --resume" in err
    code, _, err = cli("inspect", checkpoint)
    assert code == 0
    assert "best constant" in err


def test_an_interrupted_training_can_be_resumed(cli, tmp_path):
    settings = [part for item in SMALL for part in ("--set", item)]
    arguments = ["train", "degmix_tiny", "--out", str(tmp_path / "run"), *settings]
    child = subprocess.Popen(
        [sys.executable, "-m", "degmix_edge", *arguments, "--set", "steps=1000000"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not (tmp_path / "run" / "last.ckpt").exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130, err
    assert "interrupted" in err
    assert not list((tmp_path / "run").glob("*.part"))
    steps = json.loads((tmp_path / "run" / "scores.json").read_text())[-1]["step"] + 4
    code, _, err = cli(*arguments, "--set", f"steps={steps}", "--resume")
    assert code == 0, err
    assert f"step {steps}" in err


def bad_inputs(folder: Path, bundle: Path, checkpoint: Path, model: Path):
    """Mistakes: arguments, exit code, what the message must say."""
    empty, text, cut = folder / "empty.jpg", folder / "text.png", folder / "cut.onnx"
    empty.touch()
    text.write_text("hello")
    cut.write_bytes(model.read_bytes()[:5000])
    (folder / "nothing").mkdir()
    (folder / "cut.safetensors").write_bytes(checkpoint.read_bytes()[:1000])
    (folder / "timm.pth").write_bytes(b"\x80\x02pickle")
    build = ("build", "engine", checkpoint, "--precision", "fp32")
    int8 = ("build", "engine", checkpoint)
    return [
        (("run", bundle, "none.jpg"), 4, "none.jpg: no such file"),
        (("run", bundle, empty), 4, "is empty (0 bytes)"),
        (("run", bundle, text), 4, "no image in a format"),
        (("run", bundle, folder / "nothing"), 4, "no images among its 0 files"),
        (("run", bundle, text, "--tasks", "dept"), 3, "Did you mean 'depth'"),
        ((*build, "--tasks", "semsg"), 3, "Did you mean 'semseg'"),
        ((*build, "--backend", "tensorrtx"), 3, "no backend 'tensorrtx'"),
        ((*int8, "--out", "a.degmix"), 3, "needs --calib DIR"),
        ((*int8, "--calib", "nowhere"), 4, "nowhere: no such folder"),
        ((*int8, "--calib", folder / "nothing"), 4, "no images"),
        ((*int8, "--calib", "synthetc:8"), 3, "Did you mean 'synthetic'"),
        ((*int8, "--calib", "photos", "--observer", "mes"), 3, "Did you mean 'mse'"),
        ((*int8, "--calib", "photos", "--keep-float", "x"), 6, "no weighted node 'x'"),
        ((*build, "--out", bundle), 12, "exists; give --force"),
        ((*build, "--out", folder / "no" / "a.degmix"), 12, "no such folder; make it first"),
        (("build", "engine", "degmix_tny", "--precision", "fp32"), 5, "Did you mean 'degmix_tiny'"),
        (("build", "engine", "x.safetensors"), 5, "no such checkpoint"),
        (
            ("build", "engine", folder / "cut.safetensors", "--precision", "fp32"),
            5,
            "not a safetens",
        ),
        (("build", "engine", folder / "timm.pth", "--precision", "fp32"), 5, "not a safetensors"),
        (("build", "engine", cut, "--precision", "fp32"), 6, "not a readable ONNX model"),
        (("build", "engine", "none.onnx"), 6, "none.onnx: no such file"),
        (("build", "engine", "none.onnx", "--dcn", "plugin"), 10, "onnxruntime: has no --dcn"),
        (("build", "engine", "x", "--backend", "tensorrt"), 10, "tensorrt is not installed"),
        (("verify", folder / "nothing"), 9, "no manifest.json"),
        (("verify", "none.degmix"), 9, "no such bundle"),
        (("compare", bundle, "degmix_tiny"), 5, "is not what"),
        (("compare", bundle), 5, "which is not shipped; give it as NETWORK"),
        (("train", "degmix_tiny", "--set", "stps=3"), 3, "Did you mean 'steps'"),
        (("train", "none.yaml"), 3, "no such config file"),
        (("train", "demtg_tiny", "--task", "semsg"), 3, "Did you mean 'semseg'"),
        (
            ("train", "demtg_tiny", "--set", "network.backbone=resnet81"),
            3,
            "no such model. Did you",
        ),
        (("train", "demtg_tiny", "--pretrained", "none.pth"), 5, "none.pth: no such file"),
        (("train", "nyud_demtg"), 3, "data set 'nyud': needs its folder"),
        (("train", "demtg_tiny", "--data", "nyud"), 3, "--data nyud: expected NAME:DIR"),
        (("train", "demtg_tiny", "--data", f"nyud:{folder / 'no'}"), 4, "no such folder"),
        (("train", "demtg_tiny", "--data", f"nyud:{folder / 'nothing'}"), 4, "no NYUD-v2"),
        (("train", "demtg_tiny", "--out", "/proc/run"), 12, "/proc/run"),
        (("eval", checkpoint, "--data", folder / "nothing"), 4, "give its kind, as in folder:"),
        (("eval", checkpoint, "--data", "nyd:x"), 3, "Did you mean 'nyud'"),
        (("eval", checkpoint, "--data", "nyud"), 3, "needs its folder"),
        (("eval", checkpoint, "--data", "synthetic:none"), 3, "expected a count"),
        (("eval", checkpoint, "--out", folder / "no" / "a.md"), 12, "make it first"),
        (("convert", "none.ckpt", "--out", "a.safetensors"), 5, "none.ckpt: no such file"),
        (("convert", checkpoint, "--out", "a.safetensors"), 5, "none of the authors' checkpoints"),
        (("data", "check", folder / "nothing"), 4, "found nothing"),
        (("inspect", "--model", "degmx"), 3, "Did you mean 'degmix'"),
        (("inspect", "--model", "demt", "--backbone", "swin_tniy"), 3, "Did you mean swin_tiny"),
        (("inspect", "--model", "demt", "--size", "425"), 3, "expected HEIGHTxWIDTH"),
        (
            ("inspect", "--model", "demt", "--tasks", "depth,saliency", "--data", "nyud"),
            3,
            "no data",
        ),
        (("inspect", "--model", "demt", "--set", "dims=3"), 3, "Did you mean 'dim'"),
        (("inspect",), 2, "give a bundle, ONNX file or checkpoint, or --model"),
        (("export", "onnx", checkpoint, "--out", bundle), 12, "is a folder"),
    ]


def test_mistakes_have_clear_messages_and_leave_nothing(
    cli, bundles, checkpoint_path, onnx_path, tmp_path
):
    cases = bad_inputs(tmp_path, bundles["fp32"].path, checkpoint_path, onnx_path)
    before = sorted(tmp_path.rglob("*"))
    for arguments, want, message in cases:
        code, out, err = cli(*arguments, "--json")
        assert (code, message in err) == (want, True), (arguments, code, err)
        assert "Traceback" not in err
        error = json.loads(out)["error"]
        assert error["exit_code"] == want
        assert message in error["message"]
        assert sorted(tmp_path.rglob("*")) == before, arguments


def test_few_calibration_images_are_a_warning(cli, onnx_path, photos):
    for path in sorted(photos.iterdir())[3:]:
        path.unlink()
    code, _, err = cli("build", "engine", onnx_path, "--calib", photos)
    assert code == 0, err
    assert "warning: --calib" in err
    assert "3 images" in err


def test_an_onnx_of_other_outputs(cli, onnx_path, tmp_path):
    model = onnx.load(onnx_path)
    del model.metadata_props[:]
    for node in model.graph.node:
        node.output[:] = ["seg" if name == "semseg" else name for name in node.output]
    model.graph.output[0].name = "seg"
    (tmp_path / "other.onnx").write_bytes(model.SerializeToString())
    wants = ("--mean", 0, 0, 0, "--std", 1, 1, 1, "--color", "rgb")
    code, _, err = cli("build", "engine", "other.onnx", "--precision", "fp32", *wants)
    assert code == 6
    assert "first unknown: 'seg'" in err


def test_a_read_only_target():
    if os.geteuid() == 0:
        # root writes anywhere, but not where the kernel offers no files
        done = process("build", "engine", "degmix_tiny", "--precision", "fp32", "--out", "/proc/a")
    else:
        done = process("build", "engine", "degmix_tiny", "--precision", "fp32", "--out", "/a")
    assert done.returncode == 12, done.stderr
    assert "error: OutputError: /" in done.stderr


def test_a_full_disk(tmp_path, bundles):
    """A real one: a file system of 64 KiB, where the machine lets us make it."""
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(small)], capture_output=True
    )
    target, left = small if mounted.returncode == 0 else Path("/dev/full"), []
    try:
        photo = tmp_path / "a.png"
        Image.fromarray(np.zeros((64, 96, 3), np.uint8)).save(photo)
        done = process("run", bundles["fp32"].path, photo, "--out", target / "maps")
        if mounted.returncode == 0:
            left = [path.name for path in (small / "maps").iterdir()]
    finally:
        if mounted.returncode == 0:
            subprocess.run(["umount", str(small)], check=True)
    assert done.returncode == 12, done.stderr
    assert "error: OutputError" in done.stderr
    assert all(not name.startswith(".") for name in left)


def test_text_goes_to_stderr_without_colour(bundles):
    done = process("inspect", bundles["fp32"].path, env={**os.environ, "NO_COLOR": "1"})
    assert done.returncode == 0
    assert done.stdout == ""
    assert "\x1b" not in done.stderr
    assert "degmix" in done.stderr


@pytest.mark.parametrize(("how", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_an_interrupted_build_leaves_no_bundle(tmp_path, onnx_path, photos, how, code):
    target = tmp_path / "robot.degmix"
    arguments = ["build", "engine", onnx_path, "--calib", photos, "--out", target]
    command = [sys.executable, "-m", "degmix_edge", *map(str, arguments)]
    child = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for line in child.stderr:
        if line.startswith("passes"):
            break
    child.send_signal(how)
    rest = child.stderr.read()
    assert child.wait(30) == code, rest
    assert not target.exists()
    if how == signal.SIGINT:
        assert "interrupted" in rest
        assert "Traceback" not in rest


def test_a_missing_package_says_what_to_install(tmp_path, bundles):
    """A Python in which polygraphy cannot be imported."""
    (tmp_path / "polygraphy.py").write_text("raise ModuleNotFoundError(name='polygraphy')")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    done = process("compare", bundles["fp32"].path, env={**os.environ, "PYTHONPATH": path})
    assert done.returncode == 10
    assert (
        "needs polygraphy, which is not installed: pip install 'degmix-edge[compare]'"
        in done.stderr
    )
    assert process("--help", env={**os.environ, "PYTHONPATH": path}).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "package", "extra"),
    [
        (["inspect", "net.onnx"], "onnx", "build"),
        (["train", "degmix_tiny"], "torch", "train"),  # it needs more than torch
        (["demo"], "polygraphy", "demo"),
    ],
)
def test_the_extra_is_the_smallest_that_is_enough(tmp_path, arguments, package, extra):
    (tmp_path / f"{package}.py").write_text(f"raise ModuleNotFoundError(name='{package}')")
    (tmp_path / "net.onnx").write_bytes(b"")
    path = os.pathsep.join(filter(None, [str(tmp_path), os.environ.get("PYTHONPATH")]))
    done = process(*arguments, env={**os.environ, "PYTHONPATH": path}, cwd=tmp_path)
    assert done.returncode == 10
    needs = f"needs {package}, which is not installed: pip install 'degmix-edge[{extra}]'"
    assert needs in done.stderr


def test_a_changed_bundle(cli, bundles, tmp_path):
    shutil.copytree(bundles["int8"].path, tmp_path / "a.degmix")
    with (tmp_path / "a.degmix" / "model.onnx").open("r+b") as file:
        file.seek(1000)
        byte = file.read(1)
        file.seek(1000)
        file.write(bytes([byte[0] ^ 1]))
    code, _, err = cli("verify", "a.degmix")
    assert code == 9
    assert "'model.onnx' was changed" in err
    assert open_bundle(bundles["int8"].path)


def test_verbs_are_the_files():
    from degmix_edge import registry

    context = verbs.make_context("degmix-edge", ["doctor"])
    assert sorted(verbs.list_commands(context)) == registry.names("degmix_edge.cli")

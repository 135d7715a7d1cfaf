"""The zoo: trained, interrupted, resumed, built, timed, written; and what people type wrong."""

import contextlib
import csv
import io
import json
import re
import shutil
import signal
import subprocess
import sys

import pytest
import yaml
from browser import CHROMIUM, look
from conftest import HEIGHT, SMALL, WIDTH
from degmix_training import models
from degmix_training.checkpoint import read_card
from degmix_training.zoo import ZooConfig, zoo_file
from degmix_training.zoo import zoos as zoo_names
from PIL import Image

from degmix_edge import config
from degmix_edge.cli import invoke
from degmix_edge.report.values import json_text
from degmix_edge.workflows.zoo import zoo
from degmix_edge.workflows.zoo.listing import list_zoos

ZOO = {
    "version": 1,
    "backbone": "test_resnet",  # the smallest of timm with batch norms
    "reference": "baseline",
    "baseline": {"model": "baseline", "network": {"head_channels": 16}},
    "entries": {
        "m3vit": {
            "model": "m3vit",
            "network": dict(SMALL["m3vit"]),
            "loss_weights": {"depth": 2},
            "balance": "uncertainty",
            "steps": 9,
        }
    },
    "train": {
        "tasks": ["depth", "normals"],
        "height": HEIGHT,
        "width": WIDTH,
        "data": {"name": "synthetic", "train": 12, "val": 6, "augment": "light"},
        "optim": {"name": "adamw", "lr": 2e-3},
        "batch_size": 4,
        "steps": 6,
        "val_every": 3,
    },
}
pytestmark = pytest.mark.slow(file_seconds=100)
OPTIONS = ("--calib-count", "4", "--calls", "4")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("zoo")
    (path / "zoo.yaml").write_text(yaml.safe_dump(json.loads(json.dumps(ZOO)), sort_keys=False))
    return path


def typed(folder, *more):
    return ["zoo", str(folder / "zoo.yaml"), "--out", str(folder / "out"), *OPTIONS, *more]


@pytest.fixture(scope="module")
def finished(folder):
    """Interrupted in its first training, then finished by the same command."""
    command = [sys.executable, "-m", "degmix_edge", *typed(folder)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    for line in process.stderr:
        if "step 3/6" in line:
            process.send_signal(signal.SIGINT)
            break
    rest = process.communicate(timeout=120)[1]
    step = read_card(folder / "out" / "baseline" / "run" / "last.safetensors").step
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = invoke(typed(folder, "--json"))
    return (process.returncode, rest, step), (code, out.getvalue(), err.getvalue())


def test_an_interrupted_zoo_goes_on(finished, folder):
    (interrupted, rest, step), (code, _, err) = finished
    assert interrupted == 130, rest
    assert "interrupted" in rest
    assert step == 3
    assert code == 0, err
    assert "m3vit: step 3/9" in err  # its own number of steps
    baseline = [line for line in err.splitlines() if line.strip().startswith("baseline:")]
    assert not any("step 3/6" in line for line in baseline)  # resumed, not started anew


def test_everything_is_written_and_agrees(finished, folder, tmp_path):
    out = folder / "out"
    values = json.loads(finished[1][1])
    assert {n["name"] for n in values["networks"]} == {"m3vit"}
    assert json.loads((out / "zoo.json").read_text())["networks"] == values["networks"]
    with (out / "zoo.csv").open() as file:
        rows = {row["network"]: row for row in csv.DictReader(file)}
    for network in values["networks"]:
        row = rows[network["name"]]
        assert float(row["delta_m_int8"]) == pytest.approx(network["delta_m"]["int8"])
        assert float(row["gmac_int8"]) == pytest.approx(network["gmac"]["int8"])
        assert network["latency_ms"]["onnxruntime"]["int8"] > 0
        assert network["size_bytes"]["int8"] < network["size_bytes"]["fp32"]
        assert network["flips"]["router"] == 0
        card = read_card(out / network["name"] / "run" / "best.safetensors")
        assert network["values"] == {t: s.value for t, s in card.scores.items()}
        over = [t for t, drop in network["drop"].items() if drop > 0.02]
        assert len(over) == sum("INT8 makes" in remark for remark in network["remarks"])
        assert all("layer" in remark for remark in network["remarks"])
    page = (out / "zoo.html").read_text()
    assert page.index('id="pictures"') < page.index("<svg")
    assert 'data-layer="labels"' in page
    assert 'data-layer="m3vit"' in page
    if CHROMIUM:
        assert look(out / "zoo.html", tmp_path).is_well()
    assert "Published figures, nyud" in page
    assert "depth times 2, balanced by uncertainty, 9 steps" in page
    assert "paper, two tasks, one at a time" in page
    with Image.open(out / "zoo.png") as chart:
        assert chart.width > 800


def test_a_finished_zoo_is_not_made_again(finished, folder, capfd):
    out = folder / "out"
    before = {path: path.stat().st_mtime_ns for path in out.glob("*/*.json")}
    weights = {path: path.stat().st_mtime_ns for path in out.glob("*/run/*.safetensors")}
    assert invoke(typed(folder, "--models", "m3vit")) == 0
    assert "trained in" not in capfd.readouterr().err
    assert before == {path: path.stat().st_mtime_ns for path in out.glob("*/*.json")}
    assert weights == {path: path.stat().st_mtime_ns for path in out.glob("*/run/*.safetensors")}


def test_mistakes_are_said_before_any_training(finished, folder, capfd, tmp_path):
    checkpoint = folder / "out" / "baseline" / "run" / "best.safetensors"
    cases = [
        (["--models", "m3vi"], 3, "no zoo entry 'm3vi'.*Did you mean 'm3vit'"),
        (["--set", "train.steps=9"], 12, "holds a zoo with other settings (train)"),
        (
            ["--checkpoint", f"m3vit={checkpoint}"],
            5,
            "is of model baseline, entry 'm3vit' has m3vit",
        ),
        (["--checkpoint", f"x={checkpoint}"], 3, "no zoo entry 'x'"),
        (["--checkpoint", "m3vit"], 3, "expected NAME=FILE"),
        (["--backend", "tensor"], 3, "no backend 'tensor'"),
        (["--set", "entries.m3vit.network.top_k=9"], 3, "expected at least top_k = 9"),
        (["--set", "entries.m3vit.network.experts=1"], 3, "greater than or equal to 2"),
    ]
    for more, code, message in cases:
        got = invoke(typed(folder, *more))
        text = " ".join(capfd.readouterr().err.split())
        assert got == code, text
        for part in message.split(".*"):
            assert part in text
    one = {"model": "padnet", "network": dict(SMALL["padnet"])}
    values = json.loads(json.dumps(ZOO)) | {"entries": {"padnet": one}}
    values["train"]["tasks"] = ["depth"]
    (tmp_path / "one.yaml").write_text(yaml.safe_dump(values))
    assert invoke(["zoo", str(tmp_path / "one.yaml"), "--out", str(tmp_path / "o")]) == 3
    assert "one task depth, expected at least two" in " ".join(capfd.readouterr().err.split())
    assert not (tmp_path / "o").exists()


def test_a_checkpoint_in_the_place_of_training(finished, folder, capfd, tmp_path):
    given = tmp_path / "mine.safetensors"
    shutil.copy(folder / "out" / "m3vit" / "run" / "best.safetensors", given)
    out = tmp_path / "out"
    shutil.copytree(folder / "out", out)
    shutil.rmtree(out / "m3vit" / "run")
    arguments = ["zoo", str(folder / "zoo.yaml"), "--out", str(out), *OPTIONS]
    assert invoke([*arguments, "--checkpoint", f"m3vit={given}"]) == 0
    assert "trained in" not in capfd.readouterr().err
    assert not (out / "m3vit" / "run").exists()
    assert (out / "zoo.csv").exists()


def test_a_zoo_from_python(finished, folder, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(folder / "out", out)
    shutil.rmtree(out / "m3vit" / "run")
    events = []
    options = {"models": ("m3vit",), "calibration_count": 4, "calls": 4}
    result = zoo(folder / "zoo.yaml", out, **options, progress=events.append)
    (row,) = result.networks
    card = read_card(out / "m3vit" / "run" / "best.safetensors")
    assert row.values == {task: score.value for task, score in card.scores.items()}
    assert row.latency_ms["onnxruntime"].keys() == {"fp32", "int8"}
    assert {task: b.of for task, b in result.baselines.items()} == dict.fromkeys(
        ("depth", "normals"), "baseline"
    )
    assert result.latencies["onnxruntime"].keys() == {"m3vit fp32", "m3vit int8"}
    for path in (result.page, result.table, result.chart, result.numbers):
        assert path.parent == out
        assert path.stat().st_mtime > (folder / "out" / path.name).stat().st_mtime
    assert json.loads(json_text(result.values())) == json.loads(result.numbers.read_text())
    assert result.verdict.startswith("best in INT8: m3vit, delta_m ")
    assert result.compared_with == "the multi-task baseline of the same backbone"  # not budget
    training = [event for event in events if event.name == "train 1 networks"]
    steps = [(event.done, event.total) for event in training if event.kind == "step"]
    assert steps == [(done, 9) for done in (0, *range(10))]
    assert any(event.detail.startswith("m3vit loss ") for event in training)
    notes = [event.detail.split("  ")[:2] for event in training if event.kind == "note"]
    assert notes[:3] == [["", f"m3vit: step {step}/9"] for step in (3, 6, 9)]
    assert notes[3][0].startswith("m3vit: trained in ")
    assert [event.kind for event in training].count("finished") == 1
    assert ("bench onnxruntime", "finished") in {(event.name, event.kind) for event in events}


def test_a_training_that_fails_says_why(folder, tmp_path, capfd):
    diverge = ["--set", "train.optim.name=sgd", "--set", "train.optim.lr=1e18"]
    arguments = ["zoo", str(folder / "zoo.yaml"), "--out", str(tmp_path / "o"), *diverge]
    assert invoke([*arguments, "--set", "train.val_every=1"]) == 14
    err = " ".join(capfd.readouterr().err.split())
    assert "TrainingError: baseline: training ended at step " in err
    assert re.search("the loss of|weights are not finite|are no numbers any more", err)
    assert "the same command goes on" in err
    assert "Traceback" not in err


def test_processes_of_torchrun_train_one_network_after_the_other(tmp_path):
    one = {"model": "padnet", "network": dict(SMALL["padnet"])}
    one["network"] |= {"backbone": ZOO["backbone"]}
    values = json.loads(json.dumps(ZOO)) | {"entries": {"padnet": one}}
    values["train"] |= {"steps": 2, "val_every": 2}
    (tmp_path / "zoo.yaml").write_text(yaml.safe_dump(values))
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2"]
    launch += ["--rdzv-backend", "c10d", "--rdzv-endpoint", "localhost:0", "-m", "degmix_edge"]
    options = ["--devices", "2", "--accelerator", "cpu", "--out", "out", *OPTIONS, "--json"]
    command = [*launch, "zoo", "zoo.yaml", *options]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("padnet: trained in") == 1  # one process talks
    (network,) = json.loads(done.stdout)["networks"]
    assert network["step"] == 2


def test_the_list(capfd):
    assert invoke(["zoo", "--list", "--json"]) == 0
    out, err = capfd.readouterr()
    found = json.loads(out)
    assert "TaskExpert-style" in found["models"]["taskexpert"]
    assert len(found["zoos"]["smoke"]) == 9
    assert "96x128    160  degmix, padnet" in err
    names = models.names()
    assert list(found["models"]) == names
    assert found["models"] == {n: models.find(n).__doc__.splitlines()[0] for n in names}
    zoos = {n: config.load(ZooConfig, zoo_file(n)) for n in zoo_names()}
    assert found["zoos"] == {n: list(z.entries) for n, z in zoos.items()}
    outlines = {z.name: (z.height, z.width, z.steps) for z in list_zoos()}
    assert outlines == {n: (z.train.height, z.train.width, z.train.steps) for n, z in zoos.items()}


CORE = """
import sys
absent = "torch torchvision timm lightning safetensors onnx onnxruntime onnx_graphsurgeon"
sys.modules.update(dict.fromkeys([*absent.split(), "polygraphy", "scipy", "skimage"]))
from degmix_edge.cli import invoke
print(invoke(sys.argv[1:]), file=sys.stderr)
"""


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ("zoo --list", "taskexpert"),
        ("train --list", "nyud_demtg"),
        ("zoo --help", "--calib-count"),
        ("train --help", "--pretrained"),
        ("--help", "Train networks the same way"),
    ],
)
def test_lists_and_help_need_no_pytorch(arguments, word):
    command = [sys.executable, "-c", CORE, *arguments.split()]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stderr.splitlines()[-1] == "0", done.stderr
    assert word in done.stdout + done.stderr

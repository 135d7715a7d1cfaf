"""The verbs of training: inspect --model, data check, convert, eval with baselines."""

import json

import pytest
import torch
from conftest import NETWORK, lively, saved, task_specs
from degmix_training import checkpoint, models
from degmix_training.backbone import Backbone
from degmix_training.config import network_config
from degmix_training.data import synthetic
from layouts import LAYOUTS
from public_head import mmseg_swin, random_state

pytestmark = pytest.mark.slow(file_seconds=15)


def test_inspect_counts_a_published_network(cli):
    code, out, err = cli(
        *("inspect", "--model", "demtg", "--backbone", "swin_tiny_patch4_window7_224"),
        *("--size", "425x560", "--tasks", "semseg,depth,normals,edge", "--json"),
    )
    assert code == 0, err
    found = json.loads(out)
    dead = 2 * (256 * 256 + 256) + 4 * 256
    assert (found["params"] + dead) / 1e6 == pytest.approx(33.20, rel=1e-3)
    assert 140e9 < found["macs"] <= 157.1e9
    assert found["exported"]["macs"] < 110e9
    assert found["tasks"] == {"semseg": 40, "depth": 1, "normals": 3, "edge": 1}
    assert "GMAC queries" in err


def small(path, model, tasks, backbone=NETWORK["backbone"]):
    config = {"backbone": backbone}
    specs = task_specs(tasks)
    torch.manual_seed(4)
    network = lively(models.find(model).Model(network_config(model, config), specs))
    return saved(path, model, network, config, specs)


def test_eval_prints_delta_m_against_single_task_networks(cli, checkpoint_path, tmp_path):
    names = ("semseg", "human_parts", "saliency", "normals", "edge", "depth")
    singles = [small(tmp_path / f"{name}.safetensors", "baseline", (name,)) for name in names]
    options = [part for path in singles for part in ("--baseline", path)]
    arguments = ("eval", checkpoint_path, "--data", "synthetic:3", "--out", "t.md", "--json")
    code, out, err = cli(*arguments, *options)
    assert code == 0, err
    found = json.loads(out)
    gains = found["delta_m"]["tasks"]
    assert [g["task"] for g in gains] == list(found["scores"])
    assert {g["task"]: g["sign"] for g in gains}["depth"] == -1
    want = sum(100 * g["sign"] * (g["value"] - g["baseline"]) / g["baseline"] for g in gains) / 6
    assert found["delta_m"]["delta_m"] == pytest.approx(want)
    assert "baseline mobilenetv4" in gains[0]["source"]
    table = (tmp_path / "t.md").read_text()
    assert "| task | sign | value | baseline | gain | baseline is |" in table
    assert "delta_m = " in err
    code, _, err = cli(*arguments, "--force", *options[:2])
    assert code == 3
    assert "has baseline nan (none given)" in err


def test_eval_stands_beside_the_published_row(cli, tmp_path):
    root = LAYOUTS["nyud"](tmp_path / "NYUDv2")
    swin = Backbone("swin_tiny_patch4_window7_224")
    theirs = {"semseg": 40, "depth": 1, "normals": 3, "edge": 1}
    state = random_state("demtg", "mix_first", theirs, swin.channels, dim=16, depth=1)
    state |= {f"backbone.{key}": value for key, value in mmseg_swin(swin).items()}
    state = {k: v.float() if v.is_floating_point() else v for k, v in state.items()}
    torch.save({"state_dict": state}, tmp_path / "released.ckpt")
    code, _, err = cli("convert", "released.ckpt", "--out", "m.safetensors", "--size", "48x64")
    assert code == 0, err
    assert "demtg on swin_tiny_patch4_window7_224, tasks semseg, depth, normals, edge" in err
    assert "mixer order: mix first" in err
    assert "1 keys: a shift pattern" not in err  # four of them, one a task
    assert "4 keys: a shift pattern that no code reads" in err
    code, out, err = cli(
        "eval", "m.safetensors", "--data", f"nyud:{root}", "--ods", "--cache", "ods", "--json"
    )
    assert code == 0, err
    found = json.loads(out)
    assert found["images"] == 2
    assert list(found["scores"]) == ["semseg", "depth", "normals", "edge"]
    assert found["metrics"]["semseg"] == "miou, absent classes zero"
    assert found["metrics"]["edge"] == "ods_f"
    assert found["published"]["source"] == "authors' README"
    assert "authors' README" in err
    assert "47.2" in err
    counted = len(list((tmp_path / "ods").iterdir()))
    compat = ("--ods-compat", "--cache", "ods", "--json")
    code, out, err = cli("eval", "m.safetensors", "--data", f"nyud:{root}", *compat)
    assert code == 0, err
    assert json.loads(out)["metrics"]["edge"] == "ods_f"
    assert len(list((tmp_path / "ods").iterdir())) == 2 * counted  # smoothed maps, other counts


@pytest.fixture(scope="module")
def mine(tmp_path_factory):
    """A checkpoint with few layers."""
    path = tmp_path_factory.mktemp("mine") / "small.safetensors"
    return small(path, "baseline", ("semseg", "depth", "normals"), "test_resnet")


def test_compare_gives_pytorch_what_eval_gives_it(cli, mine, tmp_path):
    loaded = checkpoint.load(mine)
    changed = loaded.card.config.model_copy(update={"mean": (0.4, 0.5, 0.6), "std": (0.3,) * 3})
    card = loaded.card.model_copy(update={"config": changed})
    checkpoint.save(tmp_path / "mine.safetensors", loaded.network.state_dict(), card)
    plain = save_plain(loaded, tmp_path)
    code, _, err = cli("build", "engine", "mine.safetensors", "--precision", "fp32")
    assert code == 0, err
    for size in ((48, 64), (96, 128)):  # padded, and shrunk
        folder = LAYOUTS["folder"](tmp_path / f"robot{size[0]}", size)
        data = ("--data", f"folder:{folder}", "--json")
        scores = json.loads(cli("eval", "mine.safetensors", *data)[1])["scores"]
        code, out, err = cli("compare", "robot.degmix", "mine.safetensors", *data)
        assert code == 0, err
        found = json.loads(out)["comparison"]
        assert found["images"] == 2
        for task in found["tasks"]:
            assert task["reference"] == pytest.approx(scores[task["task"]], rel=1e-4), task
            assert task["drop"] is not None
        other = json.loads(cli("eval", plain, *data)[1])["scores"]
        assert any(v != pytest.approx(scores[t], rel=1e-3) for t, v in other.items())  # mean, std


def save_plain(loaded, folder):
    checkpoint.save(folder / "plain.safetensors", loaded.network.state_dict(), loaded.card)
    return folder / "plain.safetensors"


def test_own_images_and_labels_for_calibration_and_a_budget(cli, mine, tmp_path):
    folder = LAYOUTS["folder"](tmp_path / "robot", (96, 128))
    options = ("--calib", f"folder:{folder}", "--tasks", "depth", "--budget", "depth=900%")
    examples = ("--examples", f"folder:{folder}:1", "--device", "orin-agx", "--workers", "1")
    code, out, err = cli("quantize", mine, *options, *examples, "--out", "q.onnx", "--json")
    assert code == 0, err
    assert "calibrate: 4 in" in err or "4 images" in err
    assert "inside the budget, 1 images" in err
    assert json.loads(out)["budget"]["fits"]


def test_labels_of_other_classes_are_left_out_of_a_comparison(cli, mine, tmp_path):
    folder = LAYOUTS["folder"](tmp_path / "robot")
    (folder / "classes.yaml").write_text("semseg: [floor, wall]\n")
    build = ("build", "engine", mine, "--precision", "fp32")
    assert cli(*build, "--tasks", "semseg,depth")[0] == 0
    data = ("--data", f"folder:{folder}", "--json")
    code, out, err = cli("compare", "robot.degmix", mine, *data)
    assert code == 0, err
    classes = len(synthetic.CLASSES["semseg"])
    assert f"'semseg': the network has {classes} classes" in " ".join(err.split())
    assert "those labels are left out" in " ".join(err.split())
    semseg, depth = json.loads(out)["comparison"]["tasks"]
    assert semseg["reference"] is None
    assert depth["reference"] > 0
    code, _, err = cli("eval", mine, *data)
    assert code == 3
    assert "expected a network trained on it" in err


@pytest.mark.parametrize("name", ["cityscapes", "folder"])
def test_data_check(cli, tmp_path, name):
    root = LAYOUTS[name](tmp_path / name)
    code, out, err = cli("data", "check", root, "--json")
    if name == "folder":
        assert code == 0, err
        assert "nothing is wrong" in err
        rows = json.loads(out)["report"]["rows"]
        assert {(row["split"], row["what"]) for row in rows} >= {
            ("train", "semseg"),
            ("val", "depth"),
        }
        (root / "train/depth/0002.png").unlink()
        (root / "val/semseg/0005.png").write_bytes(b"\x89PNG")
        code, _, err = cli("data", "check", root)
        assert code == 4
        assert "train depth: 3 of 4 files; missing train/images/0002.png" in err
        assert "0005.png: damaged or cut off" in err
    else:
        assert code == 4  # four images are not 2975
        assert "train: its list has 4 ids, Cityscapes has 2975" in err


@pytest.mark.parametrize("name", ["nyud", "folder"])
def test_train_on_files(cli, tmp_path, name):
    root = LAYOUTS[name](tmp_path / name)
    settings = [
        "network.dim=16",
        f"network.backbone={NETWORK['backbone']}",
        "height=32",
        "width=48",
    ]
    settings += ["steps=2", "val_every=2", "batch_size=2", "data.augment=published"]
    code, out, err = cli(
        *("train", "demtg_tiny", "--data", f"{name}:{root}", "--out", "run", "--json"),
        *(part for task in ("semseg", "depth", "normals") for part in ("--task", task)),
        *(part for item in settings for part in ("--set", item)),
    )
    assert code == 0, err
    assert list(json.loads(out)["scores"]) == ["semseg", "depth", "normals"]
    assert (tmp_path / "run/best.safetensors").exists()

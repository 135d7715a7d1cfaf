"""`quantize --budget` and `build engine --budget` as people type them."""

import importlib.util
import json
import re

import onnx
import pytest
from browser import CHROMIUM, look
from conftest import lively_network
from PIL import Image

from degmix_edge import config
from degmix_edge.bundle.contents import open_bundle
from degmix_edge.quant.recipe import Recipe

pytestmark = pytest.mark.slow(file_seconds=15)

TINY = ["--tasks", "normals,depth", "--examples", "frames", "--workers", "1"]


@pytest.fixture(scope="module")
def plain_path(tmp_path_factory):
    """A network with few layers, because each layer is tried alone."""
    path = tmp_path_factory.mktemp("plain") / "plain.onnx"
    onnx.save(lively_network("baseline", backbone="test_resnet")[1], path)
    return path


@pytest.fixture(autouse=True)
def frames(tmp_path, pictures):
    folder = tmp_path / "frames"
    folder.mkdir()
    for index, picture in enumerate(pictures):
        Image.fromarray(picture).save(folder / f"{index}.png")


def test_a_recipe_inside_a_budget(cli, plain_path, tmp_path):
    wide = ["--budget", "normals=+20deg,depth=900%", "--device", "orin-agx"]
    command = ["quantize", plain_path, "--calib", "frames", *TINY, *wide]
    code, out, err = cli(*command, "--out", "q.onnx", "--min-int8", "50", "--json")
    assert code == 0, err
    budget = json.loads(out)["budget"]
    assert budget["fits"]
    assert budget["int8_macs_percent"] >= 50
    assert budget["device"] == "orin-agx"
    assert set(budget["tasks"]) == {"normals", "depth"}
    assert budget["tasks"]["normals"]["budget"] == "normals=+20deg"
    assert "INT8 inside the budget, 8 images" in err
    recipe = config.load(Recipe, tmp_path / "q.onnx.recipe.yaml")
    assert len(recipe.nodes("int8")) >= len(budget["int8_layers"]) > 0
    page = (tmp_path / "q.onnx.budget.html").read_text()
    assert "What each layer costs each task alone" in page
    assert "clipped at" in page
    assert 1 <= page.count("changed most for") <= 2
    assert "Damage against saving" in page
    assert not list(unexplained(page))
    assert not (tmp_path / "q.onnx.sensitivity.jsonl").exists()
    assert (tmp_path / "q.onnx.ranges.svg").exists()


def test_without_jinja_it_fails_before_the_search(cli, plain_path, monkeypatch):
    real = importlib.util.find_spec
    hidden = {"jinja2": None}
    monkeypatch.setattr(
        "degmix_edge.report.page.find_spec", lambda name: hidden.get(name, name) and real(name)
    )
    command = ["quantize", plain_path, "--calib", "frames", *TINY, "--budget", "1%"]
    code, _, err = cli(*command, "--out", "q.onnx")
    assert code != 0
    assert "pip install 'degmix-edge[compare]'" in " ".join(err.split())
    assert "measure layers" not in err


def unexplained(page: str):
    """Yield the rows of the table of layers with a cell above 100 % and no remark."""
    table = page[page.index("What each layer costs each task alone") :].partition("</table>")[0]
    rows = [re.findall(r"<td[^>]*>([^<]*)</td>", row) for row in table.split("<tr")]
    for row in filter(None, rows):
        assert len(row) == 6
        if any(cell == "broken" or float(cell) > 100 for cell in row[1:3]) and not row[-1]:
            yield row


def test_a_budget_that_no_recipe_meets_shows_the_best_and_fails(cli, plain_path, tmp_path):
    none = ["--budget", "normals=0.000001deg,depth=0.000001%", "--device", "orin-agx"]
    command = ["quantize", plain_path, "--calib", "frames", *TINY, *none, "--out", "q.onnx"]
    code, out, err = cli(*command, "--json")
    assert code == 13
    message = json.loads(out)["error"]["message"]
    assert "no layer can have a lower precision inside it. The closest recipe with more" in message
    assert "Widen the budget of" in message
    assert not (tmp_path / "q.onnx").exists()
    page = tmp_path / "q.onnx.budget.html"
    assert not list(unexplained(page.read_text()))
    assert "stays float because of" in page.read_text()  # every layer is above this budget
    if CHROMIUM:
        assert look(page, tmp_path).is_well()
    assert (tmp_path / "q.onnx.sensitivity.jsonl").exists()  # a wider budget needs no new trials
    wide = ["--budget", "normals=20deg,depth=900%", "--device", "orin-agx"]
    again = [*command[:-2], "--out", "q.onnx"]
    again[again.index("--budget") : again.index("--budget") + 4] = wide
    code, _, err = cli(*again)
    assert code == 0, err
    code, _, err = cli(*again, "--force", "--min-int8", "100")
    assert code == 13
    assert "--min-int8 asks for 100 %" in err


def test_a_bundle_inside_a_budget_for_the_cpu(cli, plain_path, tmp_path):
    many = [*TINY[:-1], "2"]
    command = ["build", "engine", plain_path, "--calib", "frames", *many, "--budget", "900%"]
    code, _, err = cli(*command, "--out", "x.degmix")
    assert code == 0, err
    assert open_bundle(tmp_path / "x.degmix").manifest.precision == "int8"
    assert "on cpu" in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--budget", "flow=1%"], "no task 'flow'"),
        (["--budget", "saliency=1%"], "no task 'saliency'"),
        (["--budget", "depth=-1%"], "asks it to become better"),
        (["--budget", "1%", "--device", "orin"], "no device 'orin'. Have: orin-agx"),
        (["--budget", "1%", "--precision", "fp16"], "--budget is for --precision int8"),
        (["--budget", "1%", "--examples", "nothing"], "nothing"),
    ],
)
def test_mistakes_are_found_before_any_work(cli, plain_path, options, message, tmp_path):
    tasks = ["--tasks", "normals,depth"]
    command = ["quantize", plain_path, "--calib", "frames", *tasks, *options, "--out", "q.onnx"]
    code, _, err = cli(*command)
    assert code in (3, 4)
    assert message in err
    assert "calibrate" not in err
    assert not (tmp_path / "q.onnx").exists()

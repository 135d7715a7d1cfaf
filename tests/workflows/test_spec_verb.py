"""`spec init`, `spec check` and `spec embed`, as somebody with a file of their own uses them."""

import json
import shutil

import numpy as np
import onnx
import pytest
import yaml
from PIL import Image
from test_kinds_of_output import SPEC, network, write_spec

import degmix_edge
from degmix_edge.graph.spec_file import SpecFile
from degmix_edge.workflows.options import Options
from degmix_edge.workflows.spec_draft import draft_spec

PLAIN = ("--mean", 0, 0, 0, "--std", 1, 1, 1, "--scale", 255, "--color", "rgb")


@pytest.fixture
def here(tmp_path, monkeypatch, pictures):
    onnx.save(network(), tmp_path / "eyes.onnx")
    write_spec(SPEC, tmp_path)
    Image.fromarray(pictures[0]).save(tmp_path / "photo.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_draft_guesses_what_names_and_shapes_say(here, cli):
    code, out, err = cli("spec", "init", "eyes.onnx", "--json")
    assert code == 0, err
    said = json.loads(out)
    assert said["missing"] == ["input.color", "input.mean", "input.std", "input.scale"]
    text = (here / "eyes.spec.yaml").read_text()
    draft = yaml.safe_load(text)
    draft.pop("version")
    spec = SpecFile.model_validate(draft)
    assert (spec.input.tensor, spec.input.height, spec.input.width) == ("pixels", 48, 64)
    kinds = {entry.output: entry.kind for entry in spec.tasks.values()}
    assert kinds["seg_out"] == "semseg"
    assert kinds["lane_logit"] == "mask"
    assert kinds["disparity"] == "inverse_depth"
    assert kinds["flow_out"] == "flow"
    assert kinds["part_ids"] == "human_parts"
    assert {kinds["boxes"], kinds["best"]} == {"raw"}
    assert spec.tasks["features"].channels_last
    marked = [line for line in text.splitlines() if "# guessed: check it" in line]
    assert len(marked) == len(said["guessed"])


def test_a_draft_builds_once_the_input_is_said(here, cli):
    assert cli("spec", "init", "eyes.onnx")[0] == 0
    command = ("build", "engine", "eyes.onnx", "--precision", "fp32", "--spec", "eyes.spec.yaml")
    code, _, err = cli(*command)
    assert code == 3
    assert "an ONNX file does not say how its input is normalised" in " ".join(err.split())
    code, _, err = cli(*command, *PLAIN)
    assert code == 0, err


def test_a_check_draws_and_doubts(here, cli):
    code, out, err = cli("spec", "check", "eyes.onnx", "photo.png", "--spec", "spec.yaml", "--json")
    assert code == 0, err
    said = json.loads(out)
    assert set(said["maps"]) == set(SPEC["tasks"])
    (doubt,) = said["doubts"]  # its weights are random
    assert "of the inverse depth is not above zero; check its kind" in doubt
    sheet = np.asarray(Image.open("spec.png"))
    assert sheet.shape[1] == 1008
    assert len(np.unique(sheet.reshape(-1, 3), axis=0)) > 500
    wrong = {**SPEC["tasks"], "trust": {"output": "trust", "kind": "confidence"}}
    write_spec({**SPEC, "tasks": wrong}, here)
    command = ("spec", "check", "eyes.onnx", "photo.png", "--spec", "spec.yaml")
    code, _, err = cli(*command)
    assert code == 12  # spec.png is there
    code, _, err = cli(*command, "--force")
    assert code == 0, err
    assert "is 0..1 before its sigmoid; if it is decoded already, decode: identity" in err
    code, out, err = cli(*command, *PLAIN, "--force", "--json")
    assert any("is it one that takes 0..255?" in doubt for doubt in json.loads(out)["doubts"])


def test_what_is_checked_is_what_is_built(here):
    """The maps that a check shows are those of the bundle."""
    from degmix_edge.workflows.spec_check import check_spec

    shown = check_spec("eyes.onnx", "photo.png", spec="spec.yaml").maps
    built = degmix_edge.build("eyes.onnx", "x.degmix", precision="fp32", spec="spec.yaml")
    with degmix_edge.load(built) as session:
        for name, given in session("photo.png").items():
            np.testing.assert_allclose(given, shown[name], rtol=1e-3, atol=1e-4)


def test_an_embedded_spec_is_read(here, cli):
    code, _, err = cli("spec", "embed", "eyes.onnx", "spec.yaml", "--out", "described.onnx")
    assert code == 0, err
    code, _, err = cli("build", "engine", "described.onnx", "--precision", "fp32")
    assert code == 0, err
    code, _, err = cli("compare", "robot.degmix", "described.onnx", "--data", "photos")
    assert code == 0, err
    code, _, err = cli("spec", "init", "described.onnx")
    assert code == 3
    assert "describes itself" in err


def test_mistakes(here, cli):
    shutil.copy("photo.png", "eyes.png")
    cases = [
        (("spec", "init", "eyse.onnx"), "no such file"),
        (("spec", "init", "photo.png"), "not a readable ONNX model"),
        (("spec", "check", "eyes.onnx", "photto.png", "--spec", "spec.yaml"), "Did you mean photo"),
        (("spec", "check", "eyes.onnx", "photo.png", "--spec", "spek.yaml"), "no such config file"),
        (("spec", "embed", "eyes.onnx", "photo.png", "--out", "x.onnx"), "not readable as YAML"),
        (("spec", "embed", "eyes.onnx", "spec.yaml", "--out", "photo.png"), "exists"),
    ]
    for command, message in cases:
        code, _, err = cli(*command)
        assert code not in (0, 1), command
        assert message in " ".join(err.split()), err


def test_dynamic_sizes_are_asked_for(here):
    model = network()
    for dim in model.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_param = "side"
    onnx.save(model, "open.onnx")
    draft = draft_spec("open.onnx")
    assert {"input.height", "input.width"} <= set(draft.missing)


def test_a_typed_size_overrides_that_of_the_spec():
    options = Options(size=(64, 96))
    said = options.describe(SpecFile(input={"height": 48, "width": 64}))
    assert said.input.size == (64, 96)

"""Building one bundle for several sizes of image: from every kind of network, with one recipe."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SIZES, small, task_specs
from degmix_training.untrained import untrained
from foreign_networks import export
from PIL import Image
from torch import nn

from degmix_edge.bundle.contents import open_bundle, recipe_and_ranges
from degmix_edge.errors import BuildError, ConfigError, ShapeError
from degmix_edge.runtime import load
from degmix_edge.workflows.build import Build, build
from degmix_edge.workflows.compare import compare
from degmix_edge.workflows.options import Options
from degmix_edge.workflows.quantize import quantize
from degmix_edge.workflows.spec_check import check_spec

FIRST, SECOND = SIZES
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225), "color": "rgb"}
OUTPUTS = {"seg": "semseg", "dist": "depth", "surf": "normals"}


class Stays(nn.Module):
    """A network with one branch for each of two tasks."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 8, 3, padding=1)
        self.far, self.flat = (nn.Conv2d(8, 8, 3, padding=1) for _ in range(2))
        self.depth, self.normals = nn.Conv2d(8, 1, 1), nn.Conv2d(8, 3, 1)

    def forward(self, image):
        features = self.first(image).relu()
        depth, normals = self.far(features).relu(), self.flat(features).relu()
        return {"depth": self.depth(depth), "normals": self.normals(normals)}


class Grows(Stays):
    """The same with one more layer for larger images."""

    def __init__(self):
        super().__init__()
        self.more = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, image):
        return super().forward(self.more(image) if image.shape[-1] > FIRST[1] else image)


def test_a_file_with_dynamic_axes_has_several_sizes(tmp_path, pictures, cli):
    file = tmp_path / "mine.onnx"
    export(file, dynamo=False, opset=17, dynamic=True)
    said = {"size": SIZES, "outputs": OUTPUTS, **IMAGENET}
    once = iter(pictures)  # images that can be read once
    bundle = build(file, tmp_path / "a.degmix", calibration=once, observer="min_max", **said)
    assert bundle.sizes == SIZES
    counts = [len(recipe_and_ranges(bundle.at(size))[1].images) for size in SIZES]
    assert counts == [len(pictures)] * 2
    ranges = [recipe_and_ranges(bundle.at(size))[1].tensors for size in SIZES]
    assert set(ranges[0]) == set(ranges[1])
    assert ranges[0] != ranges[1]
    exact = build(file, tmp_path / "b.degmix", precision="fp32", **said)
    for size in SIZES:
        found = compare(exact, file, data="synthetic:2", size=size)
        assert found.against == "ONNX"
        assert found.passed, found.verdict
    code, out, err = cli("inspect", bundle.path, "--json")
    assert code == 0, err
    assert list(json.loads(out)["sizes"]) == ["64x96", "96x160"]
    assert "size 96x160:" in err
    assert "input: image uint8 (1, 96, 160, 3)" in err
    assert (bundle.path / "card.md").read_text().startswith("# mine, 64x96, 96x160, int8\n")


def test_a_file_with_a_static_size_has_one(tmp_path, onnx_path, cli):
    export(tmp_path / "mine.onnx", dynamo=False, opset=17, dynamic=False)
    sizes = ("--size", "64x96", "--size", "96x160", "--precision", "fp32")
    said = ("--mean", 0.5, 0.5, 0.5, "--std", 1, 1, 1, "--color", "rgb")
    maps = [item for own, kind in OUTPUTS.items() for item in ("--map", f"{own}={kind}")]
    code, _, err = cli("build", "engine", tmp_path / "mine.onnx", *sizes, *said, *maps)
    assert code == 6
    assert "has the height 64 in its file, and --size is 96x160" in " ".join(err.split())
    code, _, err = cli("build", "engine", onnx_path, *sizes)
    assert code == 3
    assert "takes 64x96, and size is 96x160; leave out size" in " ".join(err.split())
    assert not list(Path().glob("*.degmix"))


def test_a_torch_module_has_several_sizes(tmp_path, pictures):
    torch.manual_seed(0)
    module = Stays().eval()
    bundle = build(module, tmp_path / "a.degmix", size=SIZES, precision="fp16")
    for size in SIZES:
        assert compare(bundle, module, data="synthetic:2", size=size).passed
    with load(bundle, size=SECOND) as session:
        assert np.asarray(session(pictures[0])["depth"]).dtype == np.float32


def test_a_graph_with_other_layers_at_another_size_is_refused(tmp_path, pictures):
    torch.manual_seed(0)
    options = {"calibration": pictures, "observer": "min_max"}
    message = re.escape(
        "Grows: the graph for 96x160 has the Conv 'more/Conv', and that for 64x96 has not"
    )
    with pytest.raises(BuildError, match=message):
        build(Grows().eval(), tmp_path / "a.degmix", size=SIZES, **options)
    with pytest.raises(BuildError, match=message):
        build(Grows().eval(), tmp_path / "a.degmix", size=SIZES[::-1], **options)
    assert list(tmp_path.iterdir()) == []


def test_a_budget_is_searched_once_and_its_recipe_is_for_every_size(tmp_path, pictures):
    torch.manual_seed(0)
    budget = "depth=0.0001%,normals=90%"
    options = Options(size=SIZES, budget=budget, observer="min_max", device="orin-agx")
    images = {"calibration": pictures, "examples": pictures[:2]}
    pipeline = Build(Stays().eval(), options, tmp_path / "a.degmix", **images).run()
    assert [stage.name for stage in pipeline.clock.stages].count("budget") == 1
    assert pipeline.budget.recipe.nodes("int8") == {"flat/Conv"}  # the rules allow far/Conv too
    bundle = open_bundle(tmp_path / "a.degmix")
    for size in SIZES:
        assert recipe_and_ranges(bundle.at(size))[0] == pipeline.budget.recipe
        assert bundle.at(size).onnx().count(b"QuantizeLinear") == 1
    assert {path.name for path in tmp_path.iterdir()} == {"a.degmix", "a.degmix.budget.html"}


def test_a_checkpoint_is_compared_and_timed_at_each_size(cli, sizes_bundle, checkpoint_path):
    path = sizes_bundle.path
    for size, shape in ((), "64x96"), (("--size", "96x160"), "96x160"):
        common = ("--data", "synthetic:2", *size)
        live = cli("compare", path, checkpoint_path, *common, "--max-drop", 50, "--json")
        assert live[0] == 0, live[2]
        assert cli("compare", path, *common, "--save-results", f"{shape}.json")[0] == 0
        saved = ("--load-results", f"{shape}.json", "--max-drop", 50)
        again = cli("compare", path, checkpoint_path, *common, *saved, "--json")
        assert json.loads(again[1])["comparison"] == json.loads(live[1])["comparison"]
    other = cli("compare", path, checkpoint_path, "--data", "synthetic:2", *saved)
    assert other[0] == 4  # the maps of another size
    bench = ("bench", path, checkpoint_path, "--against", "torch", "--calls", 2, "--json")
    code, out, err = cli(*bench, "--size", "96x160", "--data", "synthetic:1")
    assert code == 0, err
    assert json.loads(out)["speedup_net"] > 0


def test_run_writes_maps_of_the_size_that_is_asked_for(cli, sizes_bundle, pictures):
    Image.fromarray(pictures[0]).save("photo.png")
    for size, shape in ((), (64, 96)), (("--size", "96x160"), (96, 144)):
        code, _, err = cli("run", sizes_bundle.path, "photo.png", "--out", f"{shape[0]}", *size)
        assert code == 0, err
        with np.load(f"{shape[0]}/photo.npz") as arrays:
            assert arrays["semseg"].shape == shape


def test_a_checkpoint_of_a_network_for_one_size_says_so(tmp_path):
    known = untrained("mlore", small("mlore"), task_specs(("semseg", "depth")), FIRST)
    with pytest.raises(ShapeError, match="image of 96x160, expected 64x96: its routers have one"):
        build(known, tmp_path / "a.degmix", size=SECOND, precision="fp32")
    assert list(tmp_path.iterdir()) == []


def test_places_for_one_size_refuse_several(tmp_path, onnx_path, pictures, loaded):
    with pytest.raises(ConfigError, match="got 2 sizes, and a quantized ONNX file has one"):
        quantize(loaded, size=SIZES, calibration=pictures)
    with pytest.raises(ConfigError, match="got 2 sizes, and a drawing of what a network sees has"):
        check_spec(onnx_path, pictures[0], size=SIZES)
    ranges = tmp_path / "ranges.json"
    ranges.write_text("{}")
    with pytest.raises(
        ConfigError, match="is of one size, and 2 sizes are asked for; give --calib"
    ):
        build(loaded, tmp_path / "a.degmix", size=SIZES, ranges=ranges)
    many = [(64, 64 + side) for side in range(65)]
    for sizes in ((), (FIRST, FIRST), ((64, 96), (96, 0)), ((64, 96, 3),), many):
        with pytest.raises(ConfigError, match="size"):
            build(loaded, tmp_path / "a.degmix", size=sizes, precision="fp32")


def test_sizes_in_a_build_file(cli):
    Path("robot.yaml").write_text(
        "network: degmix_tiny\nprecision: fp32\nsize: [[64, 96], [96, 160]]\n"
    )
    code, out, err = cli("build", "engine", "-c", "robot.yaml", "--dry-run", "--json")
    assert code == 0, err
    assert json.loads(out)["options"]["size"] == [[64, 96], [96, 160]]
    code, out, err = cli(
        *("build", "engine", "-c", "robot.yaml", "--size", "96x96", "--dry-run", "--json")
    )
    assert code == 0, err
    assert json.loads(out)["options"]["size"] == [96, 96]

"""A bundle of a torch module is compared with the module itself, also by the name of its maker."""

import pytest

import degmix_edge
from degmix_edge.errors import CheckpointError, ConfigError
from degmix_edge.workflows.compare import compare

MODULE = """
import torch
from torch import nn

class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        self.heads = nn.ModuleDict({"semseg": nn.Conv2d(8, 4, 1), "depth": nn.Conv2d(8, 1, 1)})

    def forward(self, image):
        seen = self.stem(image).relu()
        return {name: head(seen) for name, head in self.heads.items()}

def make(seed=0):
    torch.manual_seed(seed)
    return Two()

def other():
    return make(1)

def nothing():
    return "a network"

def broken():
    raise ValueError("no weights here")
"""


@pytest.fixture
def here(tmp_path, monkeypatch, pictures):
    from PIL import Image

    (tmp_path / "net.py").write_text(MODULE)
    (tmp_path / "photos").mkdir()
    for index, picture in enumerate(pictures[:2]):
        Image.fromarray(picture).save(tmp_path / "photos" / f"{index}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def made(name="make"):
    import runpy

    return runpy.run_path("net.py")[name]()


def test_a_module_is_its_own_reference(here, cli):
    """Its logits are half the size: the reference resizes them as the bundle does."""
    degmix_edge.build(made(), "x.degmix", precision="fp32", size=(48, 64))
    for reference in (made(), "net.py:make"):
        found = compare("x.degmix", reference, data="photos", max_disagreement=1e-3)
        assert found.passed, found.verdict
        assert found.against == "PyTorch"
    assert max(t.relative for t in found.tensors if t.equal is None) < 1e-5
    code, _, err = cli("compare", "x.degmix", "net.py:make", "--data", "photos")
    assert code == 0, err
    cases = [
        ("net.py:other", CheckpointError, "net.py:other: is not what .* was built from"),
        ("net.py:nothing", ConfigError, "gives str, expected a torch.nn.Module"),
        ("net.py:broken", ConfigError, "fails with ValueError: no weights here"),
        ("net.py:maek", ConfigError, "net.py: defines no 'maek'"),
        ("nat.py:make", ConfigError, "nat.py: no such file; expected FILE.py:NAME"),
    ]
    for reference, kind, message in cases:
        with pytest.raises(kind, match=message):
            compare("x.degmix", reference, data="photos")

"""One small network for all tests: random weights, but real statistics and no symmetries.

PyTorch and what imports it are imported inside functions: pytest-xdist's own process reads this
file before it starts the workers, which would wait for that.
"""

from __future__ import annotations

import dataclasses
import functools
import gc
import hashlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock
from native_build import emulated, kernels  # noqa: F401
from stand_in_card import binding  # noqa: F401

from degmix_edge.files import whole_file

if TYPE_CHECKING:
    import numpy as np
    import onnx
    import torch
    from degmix_training import checkpoint

# Workers, and all processes that tests start, read the byte code that an earlier one has written,
# whatever the shell asks for: compiling all tests anew takes half of a worker's start.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

HEIGHT, WIDTH = 64, 96
NETWORK = {"backbone": "mobilenetv4_conv_small_050", "dim": 16, "depth": 1, "patch_size": 2}
NETWORK |= {"head_channels": 16}
_BACKBONE = {"backbone": "test_resnet"}
"""The smallest of timm with batch norms: one layer more is one more to export, fold and build.

`degmix` and `baseline` keep a backbone of a robot, with depthwise convolutions.
"""
SMALL = {
    "padnet": {**_BACKBONE, "width": 16},
    "densemtl": {
        **_BACKBONE,
        **{"dilated": False, "widths": (8, 8, 8, 16, 16), "finest": 2, "exchange": 2, "down": 2},
    },
    "m3vit": {
        **{"backbone": "vit_tiny_patch16_224", "blocks": 4, "dim": 24, "num_heads": 3},
        **{"experts": 6, "top_k": 2, "head_width": 16},
    },
    "invpt": {"backbone": "test_resnet", "features": 8, "dim": 16},
    "taskprompter": {
        **{"backbone": "vit_tiny_patch16_224", "blocks": 4, "dim": 24, "num_heads": 3},
        **{"windows": 2, "features": 8, "head_width": 16},
    },
    "taskexpert": {**_BACKBONE, "experts": 3, "width": 16, "gate_hidden": 8},
    "mlore": {
        **_BACKBONE,
        **{"channels": 16, "ranks": (2, 4, 4, 6), "task_rank": 4, "top_k": 2, "blocks": 1},
    },
}
"""Settings of every model that is not of DeMT's family, at the tests' size."""


def small(model: str) -> dict:
    """Settings of `model` for tests."""
    from degmix_training import models

    if model in SMALL:
        return SMALL[model]
    known = models.find(model).Config.model_fields
    own = NETWORK | (_BACKBONE if model in ("demt", "demtg") else {})
    return {k: v for k, v in own.items() if k in known and k != "patch_size"}


def pytest_collection_modifyitems(items):
    """The longest files first: at the end, one worker would wait for the other.

    Those that connect to Ray come last. Ray keeps threads in a process that open sockets later, and
    tests that count what is left behind would find them.
    """
    seconds = dict.fromkeys((item.path for item in items), 0)
    on_ray = {item.path for item in items if item.get_closest_marker("ray")}
    for item in items:
        for mark in item.iter_markers("slow"):
            seconds[item.path] = max(seconds[item.path], mark.kwargs.get("file_seconds", 10))
    items.sort(key=lambda item: (item.path in on_ray, -seconds[item.path]))


def pytest_collection_finish():
    """Collect rarely, and never look at the packages' own objects: that took a seventh of a run."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 20)


@pytest.fixture(scope="session", autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory):
    """Rendered scenes of a test run stay in the test run, and all workers share them."""
    patch = pytest.MonkeyPatch()
    base = tmp_path_factory.getbasetemp()
    whole_run = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    SHARED[:] = [whole_run / "shared"]
    SHARED[0].mkdir(exist_ok=True)
    patch.setenv("DEGMIX_CACHE", str(whole_run / "cache"))
    yield
    patch.undo()


def task_specs(names=("semseg", "human_parts", "saliency", "normals", "edge", "depth")):
    from degmix_training.data import synthetic

    from degmix_edge import tasks

    return {name: tasks.find(name).spec(synthetic.CLASSES[name]) for name in names}


def lively(network: torch.nn.Module, size=(HEIGHT, WIDTH), seed: int = 0) -> torch.nn.Module:
    """Move every parameter off its initial value and give batch norms real statistics."""
    import torch

    torch.manual_seed(seed)
    network.begin(())
    with torch.no_grad():
        for parameter in network.parameters():
            spread = parameter.abs().mean().clamp(min=0.02)
            parameter.add_(0.3 * spread * torch.randn_like(parameter))
        network.train()
        for _ in range(3):
            network(torch.randn(4, 3, *size))
    return network.eval()


def saved(path: Path, model: str, network: torch.nn.Module, config: dict, specs: dict) -> Path:
    """A checkpoint of `network`, at the small size."""
    from degmix_training import checkpoint
    from degmix_training.config import TrainConfig

    settings = TrainConfig(
        model=model, network=config, tasks=tuple(specs), height=HEIGHT, width=WIDTH
    )
    card = checkpoint.Card(
        model=model,
        tasks=tuple(specs.values()),
        height=HEIGHT,
        width=WIDTH,
        config=settings,
        scores={},
        step=0,
        seed=0,
        commit="test",
        versions={},
    )
    checkpoint.save(path, network.state_dict(), card)
    return path


TASKS = ("semseg", "depth", "normals")


def lively_network(model: str, **settings):
    """A checkpoint of the small `model` with `TASKS`, and its float ONNX."""
    loaded = lively_checkpoint(model, **settings)
    return loaded, shared_export(loaded)


def lively_checkpoint(model: str, **settings):
    """A checkpoint of the small `model` with `TASKS`, for tests that need no export of it."""
    return _lively_checkpoint(model, tuple(sorted(settings.items())))


@functools.cache
def _lively_checkpoint(model: str, settings: tuple):
    import torch
    from degmix_training import models
    from degmix_training.config import network_config
    from degmix_training.untrained import untrained

    values = small(model) | {k: dict(v) if isinstance(v, tuple) else v for k, v in settings}
    loaded = untrained(model, values, task_specs(TASKS), (HEIGHT, WIDTH))
    torch.manual_seed(0)
    config = network_config(model, values, (HEIGHT, WIDTH))
    made = lively(models.find(model).Model(config, task_specs(TASKS)))
    return dataclasses.replace(loaded, network=made.requires_grad_(False))


def shared_export(loaded, folds=None, tasks=(), *, batch=1, split=False) -> onnx.ModelProto:
    """What `export_checkpoint` gives: PyTorch's exporter takes seconds, so once a test run.

    The name of the shared file holds everything that decides the result.
    """
    import onnx
    from degmix_training import export

    folds = tuple(loaded.network.folds if folds is None else folds)
    tasks = export.network_spec(loaded, tasks).task_names
    card = loaded.card.model_dump_json()
    parts = (loaded.network, card, loaded.path.name, loaded.sha256, folds, tasks, batch, split)
    digest = hashlib.sha256(repr(parts).encode())
    for key, value in loaded.network.state_dict().items():
        digest.update(key.encode() + value.detach().numpy().tobytes())

    def write(path: Path) -> None:
        onnx.save(by_pytorch()(loaded, folds, tasks, batch=batch, split=split), path)

    return onnx.load(shared_file(f"{digest.hexdigest()}.onnx", write))


@functools.cache
def by_pytorch():
    """The product's own `export_checkpoint`: asked for before `_shared_exports` replaces it."""
    from degmix_training.export import export_checkpoint

    return export_checkpoint


@pytest.fixture(scope="session", autouse=True)
def _shared_exports(_cache):
    """Verbs and workflows export each network once a test run; `real_exports` undoes this."""
    from degmix_training import export

    by_pytorch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "export_checkpoint", shared_export)
        yield


@pytest.fixture(scope="session", autouse=True)
def _threads_that_wait_sleep():
    """Threads of ONNX Runtime sleep while they wait for work; by default they spin.

    Two workers share two processors. The results are the same bits.
    """
    import onnxruntime

    class Asleep(onnxruntime.SessionOptions):
        def __init__(self):
            super().__init__()
            self.add_session_config_entry("session.intra_op.allow_spinning", "0")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(onnxruntime, "SessionOptions", Asleep)
        yield


@pytest.fixture
def real_exports(monkeypatch):
    """Every export of this test is one by PyTorch."""
    from degmix_training import export

    monkeypatch.setattr(export, "export_checkpoint", by_pytorch())


def shared_file(name: str, write) -> Path:
    """A file that `write(path)` makes: written by the first worker that needs it, read by all."""

    def write_whole(path: Path) -> None:
        with whole_file(path) as part:
            write(part)

    return shared(name, write_whole)


def shared(name: str, make) -> Path:
    """What `make(path)` makes whole or not at all: by the first worker that needs it, for all."""
    path = SHARED[0] / name
    with FileLock(f"{path}.lock"):
        if not path.exists():
            make(path)
    return path


SHARED: list[Path] = []
"""A folder that all workers of a test run have."""


@pytest.fixture(scope="session")
def checkpoint_path() -> Path:
    """Shared: two processes need not come to the same last bits, and bundles know their source."""
    import torch
    from degmix_training import models
    from degmix_training.config import network_config

    def write(path: Path) -> None:
        specs = task_specs()
        torch.manual_seed(1)
        network = models.find("degmix").Model(network_config("degmix", NETWORK), specs)
        saved(path, "degmix", lively(network), NETWORK, specs)

    return shared_file("small.safetensors", write)


@pytest.fixture(scope="session")
def loaded(checkpoint_path: Path) -> checkpoint.Checkpoint:
    from degmix_training import checkpoint

    return checkpoint.load(checkpoint_path)


@pytest.fixture(scope="session")
def exported(loaded):
    """Float ONNX and its spec."""
    from degmix_training import export

    return shared_export(loaded), export.network_spec(loaded)


@pytest.fixture(scope="session")
def onnx_path(exported, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "small.onnx"
    path.write_bytes(exported[0].SerializeToString())
    return path


@pytest.fixture(scope="session")
def pictures() -> list[np.ndarray]:
    """Photographs and scenes at the small network's size."""
    import skimage.data
    from degmix_training.data import synthetic

    from degmix_edge.preprocess import Fit, fit_image

    fit = Fit(height=HEIGHT, width=WIDTH)
    photos = [skimage.data.astronaut(), skimage.data.coffee(), skimage.data.chelsea()]
    scenes = [synthetic.render(seed, HEIGHT, WIDTH).image for seed in range(5)]
    return [fit_image(photo, fit)[0] for photo in photos] + scenes


@pytest.fixture(scope="session")
def calibrate(pictures):
    """A build's calibration over the pictures."""
    from degmix_calibration.collect import collect

    from degmix_edge.network import IMAGE

    named = [(f"picture {i}", {IMAGE: picture[None]}) for i, picture in enumerate(pictures)]
    return lambda model, tensors: collect(model, tensors, named, "min_max")


@pytest.fixture(scope="session")
def bundles(exported, pictures):
    """One bundle a precision, by precision."""
    from degmix_edge.bundle.contents import open_bundle
    from degmix_edge.workflows.build import build

    values = {"calibration": pictures, "observer": "min_max"}

    def bundle(precision: str):
        def make(path: Path) -> None:
            build(exported[0], path, precision=precision, **values)

        return open_bundle(shared(f"{precision}.degmix", make))

    return {precision: bundle(precision) for precision in ("fp32", "fp16", "int8")}


@pytest.fixture(scope="session")
def batch_bundle(loaded):
    """A bundle that computes three images at once."""
    from degmix_edge.bundle.contents import open_bundle
    from degmix_edge.workflows.build import build

    def make(path: Path) -> None:
        build(loaded, path, precision="fp32", batch=3)

    return open_bundle(shared("batch.degmix", make))


SIZES = ((HEIGHT, WIDTH), (96, 160))


@pytest.fixture(scope="session")
def sizes_bundle(loaded, pictures):
    """An INT8 bundle of the small network for `SIZES`."""
    from degmix_edge.bundle.contents import open_bundle
    from degmix_edge.workflows.build import build

    def make(path: Path) -> None:
        build(loaded, path, size=SIZES, calibration=pictures, observer="min_max")

    return open_bundle(shared("sizes.degmix", make))


@pytest.fixture(scope="session")
def second_size(loaded, pictures):
    """A bundle of the same network for the second of `SIZES` alone."""
    from degmix_edge.bundle.contents import open_bundle
    from degmix_edge.workflows.build import build

    def make(path: Path) -> None:
        build(loaded, path, size=SIZES[1], calibration=pictures, observer="min_max")

    return open_bundle(shared("second.degmix", make))


@pytest.fixture
def cli(capfd, tmp_path, monkeypatch):
    """Run a command line in an empty folder: exit code, stdout, stderr."""
    from degmix_edge.cli import invoke

    monkeypatch.chdir(tmp_path)

    def run(*arguments):
        capfd.readouterr()
        code = invoke([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return code, out, err

    return run

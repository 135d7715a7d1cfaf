"""Losses by loops, checkpoints, and a real training run that is resumed."""

import json
import signal

import numpy as np
import pytest
import torch
from conftest import HEIGHT, NETWORK, WIDTH
from degmix_training import checkpoint, losses
from degmix_training.config import TrainConfig, preset
from safetensors.torch import save_file

from degmix_edge import config
from degmix_edge.errors import CheckpointError, ConfigError, OutputError

pytestmark = pytest.mark.slow(file_seconds=22)

RNG = np.random.default_rng(0)


def logits(channels: int) -> torch.Tensor:
    return torch.from_numpy(RNG.normal(size=(2, channels, 3, 4)))


def pixels(shape=(2, 3, 4)):
    return np.ndindex(*shape)


def softmax(values):
    powers = np.exp(values - values.max())
    return powers / powers.sum()


def test_cross_entropy():
    x, y = logits(5), torch.from_numpy(RNG.integers(0, 5, (2, 3, 4)))
    y[0, 0, :2] = 255
    want = [
        -np.log(softmax(x[n, :, i, j].numpy())[y[n, i, j]])
        for n, i, j in pixels()
        if y[n, i, j] != 255
    ]
    assert losses.cross_entropy(x, y).item() == pytest.approx(np.mean(want))


def test_balanced_cross_entropy():
    x, y = logits(2), torch.from_numpy((RNG.random((2, 3, 4)) < 0.25).astype(np.uint8))
    y[0, 0, 0] = 255
    valid = [(n, i, j) for n, i, j in pixels() if y[n, i, j] != 255]
    negatives = np.mean([y[p] == 0 for p in valid])
    weight = (1 - negatives, negatives)
    want = [
        -weight[y[n, i, j]] * np.log(softmax(x[n, :, i, j].numpy())[y[n, i, j]])
        for n, i, j in valid
    ]
    assert losses.balanced_cross_entropy(x, y).item() == pytest.approx(np.mean(want))


def test_depth_and_normals():
    x, y = logits(1), torch.from_numpy(RNG.uniform(1, 5, (2, 3, 4)))
    y[1, 2] = 0
    want = [abs(x[n, 0, i, j] - y[n, i, j]).item() for n, i, j in pixels() if y[n, i, j] > 0]
    assert losses.depth_l1(x, y).item() == pytest.approx(np.mean(want))
    x, y = (
        logits(3),
        torch.nn.functional.normalize(torch.from_numpy(RNG.normal(size=(2, 3, 4, 3))), dim=-1),
    )
    y[0, 0, 0] = 0
    want = []
    for n, i, j in pixels():
        if y[n, i, j].abs().sum() > 0:
            unit = x[n, :, i, j] / x[n, :, i, j].norm()
            want.append((unit - y[n, i, j]).abs().sum().item())
    assert losses.normals_l1(x, y).item() == pytest.approx(np.mean(want))


def test_inverse_depth_berhu():
    x, y = logits(1).abs() + 0.1, torch.from_numpy(RNG.uniform(1, 5, (2, 3, 4)))
    y[1, 2] = 0
    gaps = [
        abs(65536 / (100 * x[n, 0, i, j].item() + 1) - 65536 / (100 * y[n, i, j].item() + 1))
        for n, i, j in pixels()
        if y[n, i, j] > 0
    ]
    knee = 0.2 * max(gaps)
    want = [gap if gap <= knee else (gap**2 + knee**2) / (2 * knee) for gap in gaps]
    assert losses.depth_inverse_berhu(x, y).item() == pytest.approx(np.mean(want))
    assert losses.depth_inverse_berhu(y[:, None], y).item() == 0


def test_edge():
    x, y = logits(1), torch.from_numpy((RNG.random((2, 3, 4)) < 0.3).astype(np.uint8))
    y[0, 1, 1] = 255
    want = []
    for n, i, j in pixels():
        p = 1 / (1 + np.exp(-x[n, 0, i, j].item()))
        if y[n, i, j] != 255:
            want.append(-0.9 * np.log(p) if y[n, i, j] else -0.1 * np.log(1 - p))
    assert losses.edge_bce(x, y, 0.9).item() == pytest.approx(np.mean(want))


def test_no_valid_pixel_is_zero_and_not_nan():
    ignored = torch.full((2, 3, 4), 255)
    assert losses.cross_entropy(logits(5), ignored).item() == 0
    assert losses.edge_bce(logits(1), ignored).item() == 0
    assert losses.depth_l1(logits(1), torch.zeros(2, 3, 4)).item() == 0
    assert losses.balanced_cross_entropy(logits(2), ignored).item() == 0
    assert losses.normals_l1(logits(3), torch.zeros(2, 3, 4, 3)).item() == 0


def test_a_checkpoint_comes_back_bit_for_bit(loaded, tmp_path):
    path = tmp_path / "a.safetensors"
    checkpoint.save(path, loaded.network.state_dict(), loaded.card)
    again = checkpoint.load(path)
    assert again.card == loaded.card
    for key, value in loaded.network.state_dict().items():
        assert torch.equal(value, again.network.state_dict()[key]), key
    assert not again.network.training
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.safetensors"]


def refuse(path, match):
    with pytest.raises(CheckpointError, match=match):
        checkpoint.load(path)


def test_checkpoints_that_are_refused(loaded, checkpoint_path, tmp_path):
    bad = tmp_path / "bad.safetensors"
    refuse(tmp_path / "none.safetensors", "not a safetensors checkpoint|no such")
    bad.write_bytes(checkpoint_path.read_bytes()[:50_000])
    refuse(bad, "not a safetensors checkpoint")
    torch.save({"state_dict": {}}, bad)  # a pickle by another name
    refuse(bad, "not a safetensors checkpoint")
    save_file({"weight": torch.zeros(3)}, bad)
    refuse(bad, "these are weights of something else")
    state = loaded.network.state_dict()
    checkpoint.save(bad, {k: v for k, v in state.items() if "gate" not in k}, loaded.card)
    refuse(bad, r"weights are not those of model 'degmix': \d+ missing, 0 extra.*missing gate")
    wider = loaded.card.config.model_copy(update={"network": {**NETWORK, "dim": 32}})
    checkpoint.save(bad, state, loaded.card.model_copy(update={"config": wider}))
    refuse(bad, "of another shape")
    checkpoint.save(bad, state, loaded.card.model_copy(update={"model": "degmx"}))
    refuse(bad, "no model 'degmx'.*Did you mean 'degmix'")


def test_short_names(tmp_path):
    assert checkpoint.locate("degmix_tiny").exists()
    with pytest.raises(CheckpointError, match="Did you mean 'degmix_tiny'"):
        checkpoint.locate("degmix_tny")
    with pytest.raises(CheckpointError, match="none.safetensors: no such checkpoint file"):
        checkpoint.locate("none.safetensors")
    (tmp_path / "best.safetensors").touch()
    with pytest.raises(CheckpointError, match=r"bst.safetensors: .*Did you mean .*/best.safeten"):
        checkpoint.locate(str(tmp_path / "bst.safetensors"))
    with pytest.raises(CheckpointError, match="is a folder, expected a checkpoint"):
        checkpoint.locate(str(tmp_path))


def test_presets_and_settings(tmp_path):
    settings = config.load(TrainConfig, preset("degmix_tiny"))
    assert settings.task_specs()["semseg"].num_channels == 10
    with pytest.raises(ConfigError, match="Did you mean 'degmix_tiny'"):
        preset("degmix_tine")
    with pytest.raises(ConfigError, match="no task 'smell'"):
        config.load(TrainConfig, preset("degmix_tiny"), ["tasks=[smell]"]).task_specs()


SMALL = TrainConfig.model_validate(
    {
        "network": NETWORK,
        "tasks": ["semseg", "depth"],
        "height": HEIGHT,
        "width": WIDTH,
        "data": {"train": 8, "val": 4, "augment": "light"},
        "optim": {"name": "adamw", "lr": 2e-3},
        "batch_size": 2,
        "steps": 6,
        "val_every": 3,
    }
)


def test_training_learns_resumes_and_repeats(tmp_path):
    from degmix_training.fit import fit

    path = fit(SMALL, tmp_path / "a")
    card = checkpoint.read_card(path)
    assert card.step == 6
    assert set(card.scores) == {"semseg", "depth"}
    assert card.scores["depth"].constant > 0
    history = json.loads((tmp_path / "a" / "scores.json").read_text())
    assert [row["step"] for row in history] == [3, 6]
    assert len(list((tmp_path / "a" / "log").glob("metrics.csv"))) == 1

    same = fit(SMALL, tmp_path / "b")
    first, second = (checkpoint.load(p).network.state_dict() for p in (path, same))
    assert all(torch.equal(first[key], second[key]) for key in first)

    longer = SMALL.model_copy(update={"steps": 9})
    assert checkpoint.read_card(fit(longer, tmp_path / "a", resume=True)).step == 9
    with pytest.raises(ConfigError, match="nothing to resume"):
        fit(SMALL, tmp_path / "c", resume=True)


def test_a_run_reports_its_steps_and_its_scores(tmp_path, capfd):
    from degmix_training.fit import fit

    events = []
    path = fit(SMALL, tmp_path / "a", progress=events.append)
    steps = [event for event in events if (event.name, event.kind) == ("train", "step")]
    assert [event.done for event in steps] == [0, 1, 2, 3, 4, 5, 6]
    assert {event.total for event in steps} == {6}
    assert all(float(event.detail.removeprefix("loss ")) > 0 for event in steps[1:])
    notes = [event.detail for event in events if event.kind == "note"]
    assert [text.split()[:2] for text in notes] == [["step", "3/6"], ["step", "6/6"]]
    scores = checkpoint.read_card(path).scores
    assert notes[1] == "step 6/6  " + "  ".join(f"{t} {s.value:.3f}" for t, s in scores.items())
    assert [event.kind for event in events].count("finished") == 1
    end = events[-1]
    assert (end.name, end.kind, end.done, end.total) == ("train", "finished", 6, 6)
    assert end.seconds > 0
    assert "step 3/6" not in "".join(capfd.readouterr())  # who listens prints


class StopError(Exception):
    pass


@pytest.mark.parametrize("error", [StopError, KeyboardInterrupt])
@pytest.mark.parametrize(
    ("kind", "step", "saved"), [("step", 2, 0), ("step", 5, 3), ("note", 6, 3)]
)
def test_a_callback_that_raises_ends_the_run_and_it_can_be_resumed(
    tmp_path, error, kind, step, saved
):
    from degmix_training.fit import fit

    def stop(event):
        at = event.done if kind == "step" else int(event.detail[5:6] or 0)
        if event.name == "train" and event.kind == kind and at == step:
            raise error

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(error):
        fit(SMALL, tmp_path, progress=stop)
    assert signal.getsignal(signal.SIGINT) is handler
    left = {path.name for path in tmp_path.iterdir()}
    names = ("best.safetensors", "last.safetensors", "last.ckpt", "scores.json", "report.html")
    files = set(names) if saved else set()
    assert left == {"config.yaml", "log"} | files
    if saved:
        assert checkpoint.read_card(tmp_path / "last.safetensors").step == saved
        events = []
        fit(SMALL, tmp_path, resume=True, progress=events.append)
        assert [event.done for event in events if event.kind == "step"] == [3, 4, 5, 6]
        assert checkpoint.read_card(tmp_path / "last.safetensors").step == 6


CHANGES = (
    *("network.dim=16", f"network.backbone={NETWORK['backbone']}", f"height={HEIGHT}"),
    *(f"width={WIDTH}", "steps=2", "val_every=1", "batch_size=2", "data.train=4", "data.val=2"),
)


def test_train_from_python(tmp_path):
    from degmix_edge.workflows.training import train

    events = []
    out = tmp_path / "new" / "run"
    options = {"overrides": CHANGES, "tasks": ("depth", "semseg")}
    result = train("degmix_tiny", out, **options, progress=events.append)
    assert (result.checkpoint, result.best) == (out / "last.safetensors", out / "best.safetensors")
    assert result.step == 2
    assert result.best_step in (1, 2)
    assert list(result.scores) == ["depth", "semseg"]
    assert result.card == checkpoint.read_card(out / "last.safetensors")
    assert {event.done for event in events if event.kind == "step"} >= {1, 2}
    with pytest.raises(OutputError, match="not empty; give --resume"):
        train("degmix_tiny", out, **options)
    longer = {**options, "overrides": (*CHANGES, "steps=3")}
    assert train("degmix_tiny", out, **longer, resume=True).step == 3
    assert train("degmix_tiny", out, **options, force=True).step == 2


def test_a_run_that_does_not_begin_leaves_no_folder(tmp_path, monkeypatch):
    from degmix_training import fit as fitting

    from degmix_edge.workflows.training import train

    rendered, batches = [], fitting.Batches
    monkeypatch.setattr(fitting, "Batches", lambda *a: rendered.append(a) or batches(*a))

    bad = (*CHANGES, "network.backbone=resnet81", "data.train=5")
    with pytest.raises(ConfigError, match="resnet81"):
        train("degmix_tiny", tmp_path / "a" / "b", overrides=bad)
    bad = (*CHANGES, "pretrained=none.pth", "data.train=5")
    with pytest.raises(CheckpointError, match=r"none\.pth: no such file"):
        train("degmix_tiny", tmp_path / "a" / "b", overrides=bad)
    assert not rendered, "scenes were rendered before the mistake was found"
    with pytest.raises(ConfigError, match="--data nyud: expected NAME:DIR"):
        train("degmix_tiny", tmp_path / "a", data="nyud")
    assert list(tmp_path.iterdir()) == []


def test_the_list_of_presets(capfd):
    from degmix_training.config import PRESETS

    from degmix_edge.cli import invoke

    assert invoke(["train", "--list", "--json"]) == 0
    out, err = capfd.readouterr()
    listed = json.loads(out)["presets"]
    assert set(listed) == {path.stem for path in PRESETS.glob("*.yaml")}
    for name, values in listed.items():
        settings = config.load(TrainConfig, preset(name))
        size = {"height": settings.height, "width": settings.width}
        assert values == {"model": settings.model, **size, "data": settings.data.name}
        assert name in err
    assert "192x256" in err
    assert invoke(["train"]) == 2
    err = capfd.readouterr().err
    assert (
        "no PRESET_OR_YAML given. Presets: baseline_tiny, cityscapes_demtg, degmix_lite0, " in err
    )


def test_a_task_without_a_weight_is_refused(tmp_path):
    from degmix_training.fit import fit

    with pytest.raises(ConfigError, match="loss_weights: none for depth"):
        fit(SMALL.model_copy(update={"loss_weights": {"semseg": 1.0}}), tmp_path)


def test_every_preset_is_sound():
    from degmix_training.config import PRESETS, network_config

    found = sorted(path.stem for path in PRESETS.glob("*.yaml"))
    assert {"degmix_tiny", "demtg_tiny", "baseline_tiny", "nyud_demtg", "pascal_degmix"} <= set(
        found
    )
    for name in found:
        settings = config.load(TrainConfig, preset(name))
        network_config(settings.model, settings.network, (settings.height, settings.width))
        assert {*settings.tasks, *settings.auxiliary()} <= set(settings.loss_weights)


def test_the_published_recipe_is_the_default():
    optim = TrainConfig().optim
    assert (optim.name, optim.lr, optim.weight_decay, optim.power) == ("sgd", 1e-3, 5e-4, 0.9)
    assert TrainConfig().steps == 40_000
    assert TrainConfig().loss_weights["edge"] == 50


def test_draws_are_the_same_for_any_number_of_processes():
    from degmix_training.batches import Draws

    def take(steps, **options):
        draws = iter(Draws(length=11, batch_size=4, seed=1, **options))
        return [next(draws) for _ in range(steps)]

    alone = take(6)
    assert [epoch for batch in alone for epoch, _ in batch] == [0] * 8 + [1] * 8 + [2] * 8
    for epoch in range(3):
        seen = [i for batch in alone[2 * epoch : 2 * epoch + 2] for _, i in batch]
        assert len(set(seen)) == 8
    assert take(3, first=3) == alone[3:]
    halves = zip(take(6, rank=0, world=2), take(6, rank=1, world=2), strict=True)
    assert [sorted(a + b) for a, b in halves] == [sorted(batch) for batch in alone]


def test_ema_follows_and_is_what_is_kept(tmp_path):
    from degmix_training.fit import fit

    plain = fit(SMALL, tmp_path / "plain")
    optim = SMALL.optim.model_copy(update={"ema": 0.9})
    averaged = SMALL.model_copy(update={"optim": optim})
    path = fit(averaged, tmp_path / "ema")
    a, b = (checkpoint.load(p).network.state_dict() for p in (plain, path))
    key = "heads.depth.3.weight"
    assert not torch.equal(a[key], b[key])
    state = torch.load(tmp_path / "ema" / "last.ckpt", weights_only=True)
    assert torch.equal(state["state_dict"][f"network.{key}"], a[key])  # the same steps underneath
    assert torch.equal(state["ema"][f"module.{key}"], b[key])
    more = averaged.model_copy(update={"steps": 9})
    again = fit(more, tmp_path / "ema", resume=True)
    assert checkpoint.read_card(again).step == 9
    assert not torch.equal(checkpoint.load(again).network.state_dict()[key], b[key])


@pytest.mark.parametrize(
    "change",
    [
        {"precision": "bf16"},
        {"freeze_backbone": True},
        {"model": "baseline", "network": {"backbone": NETWORK["backbone"]}},
        {"data": {"train": 8, "val": 4, "augment": "published"}},
    ],
    ids=lambda c: next(iter(c)),
)
def test_ways_to_train(change, tmp_path):
    from degmix_training.fit import Fit, fit

    settings = TrainConfig.model_validate({**SMALL.model_dump(), **change})
    before = initial_state(Fit, settings)
    after = checkpoint.load(fit(settings, tmp_path / "run")).network.state_dict()
    changed = {k for k, v in after.items() if not torch.equal(v, before[k])}
    assert any(key.startswith("heads.") for key in changed)
    frozen = "freeze_backbone" in change
    assert any(key.startswith("backbone.") for key in changed) != frozen
    assert (tmp_path / "run" / "best.safetensors").exists()
    assert list((tmp_path / "run" / "log").glob("events.out.tfevents.*"))


def initial_state(fit_class, settings):
    import lightning

    lightning.seed_everything(settings.seed, verbose=False)
    return {k: v.clone() for k, v in fit_class(settings).network.state_dict().items()}


def test_offsets_stay_fp32_in_mixed_precision():
    from degmix_training.models._mixer import MixerBlock, MixerConfig

    torch.manual_seed(0)
    block = MixerBlock(8, MixerConfig())
    seen = []
    block.offset.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    with torch.autocast("cpu", torch.bfloat16):
        block(torch.randn(2, 8, 6, 7)).sum().backward()
    assert seen == [torch.float32]


def test_a_loss_that_is_no_number_stops_the_run(tmp_path):
    from degmix_training.fit import fit

    from degmix_edge.errors import TrainingError

    optim = SMALL.optim.model_copy(update={"name": "sgd", "lr": 1e18})
    settings = SMALL.model_copy(update={"optim": optim, "steps": 30, "val_every": 1})
    with pytest.raises(
        TrainingError, match="the loss of|weights are not finite|are no numbers any more"
    ):
        fit(settings, tmp_path)
    for name in ("last", "best"):
        path = tmp_path / f"{name}.safetensors"
        if path.exists():
            for key, value in checkpoint.load(path).network.state_dict().items():
                assert torch.isfinite(value.float()).all(), key


def test_a_loss_that_is_no_number_names_task_and_batch(tmp_path, monkeypatch):
    from degmix_training import fit as fitting

    from degmix_edge.errors import TrainingError

    module = fitting.Fit(SMALL)
    batch = (
        torch.zeros(2, HEIGHT, WIDTH, 3, dtype=torch.uint8),
        {
            "semseg": torch.zeros(2, HEIGHT, WIDTH),
            "depth": torch.full((2, HEIGHT, WIDTH), torch.inf),
        },
        ["scene 4", "scene 9"],
    )
    with pytest.raises(TrainingError, match="loss of depth is inf on the batch scene 4, scene 9"):
        module.training_step(batch, 0)


def test_resuming_with_other_settings_is_refused(tmp_path):
    from degmix_training.fit import fit

    fit(SMALL, tmp_path)
    wider = SMALL.model_copy(update={"network": {**NETWORK, "dim": 32}})
    with pytest.raises(ConfigError, match="cannot resume with other settings: network was .*'dim'"):
        fit(wider, tmp_path, resume=True)
    (tmp_path / "last.ckpt").write_bytes(b"cut off")
    with pytest.raises(CheckpointError, match=r"last\.ckpt: damaged"):
        fit(SMALL.model_copy(update={"steps": 9}), tmp_path, resume=True)


@pytest.mark.parametrize("saved", [False, True])
def test_a_full_disk_says_whether_the_run_can_be_resumed(tmp_path, monkeypatch, saved):
    from degmix_training.callbacks import Keep
    from degmix_training.fit import fit

    if saved:
        fit(SMALL, tmp_path)

    def full(*_):
        raise OutputError("last.ckpt: cannot be written")

    monkeypatch.setattr(Keep, "_keep", full)
    more = SMALL.model_copy(update={"steps": SMALL.steps + 2})
    advice = "go on with --resume" if saved else "nothing can be resumed: start anew"
    with pytest.raises(OutputError, match=f"cannot be written; then {advice}"):
        fit(more, tmp_path, resume=saved)


def test_batches_that_cannot_be(tmp_path):
    from degmix_training.fit import fit

    with pytest.raises(ConfigError, match="8 training samples, expected at least batch_size = 9"):
        fit(SMALL.model_copy(update={"batch_size": 9}), tmp_path)
    with pytest.raises(ConfigError, match="tasks: none given"):
        SMALL.model_copy(update={"tasks": ()}).task_specs()


def test_a_full_disk_leaves_what_was_there(loaded, tmp_path):
    import resource

    path = tmp_path / "a.safetensors"
    checkpoint.save(path, {"x": torch.zeros(3)}, loaded.card)
    before = path.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(OutputError, match=r"a\.safetensors: cannot be written .*is whole"):
            checkpoint.save(path, loaded.network.state_dict(), loaded.card)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]

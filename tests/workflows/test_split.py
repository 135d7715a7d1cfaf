"""Split bundles: any subset of the tasks runs alone, and all of them are the network as it was."""

import json
import shutil
import warnings

import numpy as np
import onnx
import pytest
import torch
from conftest import HEIGHT, TASKS, WIDTH, lively_checkpoint, shared
from degmix_training.cost import task_costs

import degmix_edge
from degmix_edge import build, load
from degmix_edge.backends import TaskCall
from degmix_edge.backends.onnxruntime import Backend
from degmix_edge.bundle.contents import open_bundle, recipe_and_ranges
from degmix_edge.bundle.golden import unpack
from degmix_edge.bundle.manifest import GOLDEN, REFRESH_OF_PLACES, REFRESH_OF_SUMS, TRUNK
from degmix_edge.capture import CapturedFrame
from degmix_edge.errors import BackendError, ConfigError, DegmixError, GraphError
from degmix_edge.passes.forms import lower_for_onnxruntime
from degmix_edge.preprocess import normalise
from degmix_edge.tasks import decode

pytestmark = pytest.mark.slow(file_seconds=45)

KINDS = [("degmix", "fp32"), ("degmix", "int8"), ("demtg", "fp32"), ("demtg", "int8")]
KINDS += [("demt", "fp32"), ("demt", "int8"), ("degmix", "fp16")]

BACKBONE = "test_resnet"
"""The smallest of timm with batch norms: what runs apart comes after it."""


def network(model: str):
    """A checkpoint of the small `model` with three tasks."""
    return lively_checkpoint(model, backbone=BACKBONE)


@pytest.fixture(scope="module")
def split_bundle(pictures):
    """A split bundle of a small network with three tasks, by model and precision."""

    def bundle(model: str, precision: str):
        def make(path):
            values = {"calibration": pictures, "observer": "min_max"}
            build(
                network(model),
                path,
                precision=precision,
                split=True,
                backend="onnxruntime",
                **values,
            )

        return open_bundle(shared(f"split.{model}.{precision}.degmix", make))

    return bundle


@pytest.fixture
def frames(pictures):
    return pictures[3:]


@pytest.mark.parametrize(("model", "precision"), KINDS)
def test_all_tasks_are_bit_for_bit_the_unsplit_graph(split_bundle, pictures, model, precision):
    bundle = split_bundle(model, precision)
    spec = bundle.manifest.network
    whole = Backend.build(bundle.onnx(), *recipe_and_ranges(bundle))[Backend.engine_file]
    split = bundle.onnx(bundle.manifest.engine("onnxruntime").file)
    with Backend(spec, whole) as unsplit, Backend(spec, split) as ours:
        assert ours.is_split
        assert not unsplit.is_split
        assert ours.engine_tensors() == unsplit.engine_tensors()
        for picture in pictures:
            want, got = (one.infer({"image": picture[None]}) for one in (unsplit, ours))
            assert want.keys() == got.keys() == {*TASKS}
            for task in want:
                # FP16 casts are fused differently, one unit in the last place of FP32.
                atol = 1e-6 if precision == "fp16" else 0
                np.testing.assert_allclose(want[task], got[task], 0, atol, err_msg=task)


def test_a_split_bundle_gives_what_a_bundle_without_the_option_gives(
    split_bundle, pictures, tmp_path
):
    """Another export, in which the tokens of all tasks are one tensor."""
    for model in ("degmix", "demtg"):
        plain = build(network(model), tmp_path / model, precision="fp32", backend="onnxruntime")
        assert plain.manifest.split is None
        # Older releases read it: they refuse keys that they do not know.
        assert b'"split"' not in (plain.path / "manifest.json").read_bytes()
        with load(plain) as unsplit, load(split_bundle(model, "fp32")) as ours:
            assert unsplit.shares is None
            for picture in pictures[:4]:
                want, got = unsplit(picture), ours(picture)
                assert np.mean(want["semseg"] != got["semseg"]) < 1e-3
                for task in ("depth", "normals"):
                    scale = np.abs(want[task]).max()
                    assert np.abs(want[task] - got[task]).max() <= 1e-5 * scale, (model, task)


def maps_with_states(network, spec, image, states):
    """What PyTorch gives, where some tasks' states are given and others are computed.

    Args:
        states: By task, what an earlier call left; None computes all.

    Returns:
        Maps and states by task.
    """
    meet, found = network.meet, {}

    def meet_given(own):
        found.update(zip(network.mixers, own, strict=True))
        return meet(tuple((states or found)[task] for task in network.mixers))

    network.meet = meet_given
    planes = normalise(image[None], spec.mean, spec.std)
    with torch.no_grad():
        logits = network(torch.from_numpy(planes))
    network.meet = meet
    return {t.name: decode(logits[t.name].numpy(), t) for t in spec.tasks}, found


@pytest.mark.parametrize("model", ["degmix", "demtg", "demt"])
def test_some_tasks_are_what_pytorch_gives_with_the_others_earlier_states(
    split_bundle, frames, model
):
    folded = network(model).network.fold_for_inference()
    folded.split_tasks()
    bundle = split_bundle(model, "fp32")
    spec = bundle.manifest.network
    with load(bundle) as session:
        sequence = session.sequence()
        first = sequence(frames[0])
        want, before = maps_with_states(folded, spec, frames[0], None)
        np.testing.assert_allclose(first["depth"], want["depth"][0], atol=1e-4)
        fresh, own = maps_with_states(folded, spec, frames[1], None)
        mixed = {task for task, age in sequence.ages.items() if sequence._due.get(task) == 1}
        states = {t: own[t] if t in {"depth", *mixed} else before[t] for t in TASKS}
        want, _ = maps_with_states(folded, spec, frames[1], states)
        maps = sequence(frames[1], tasks=["depth"])
        assert [*maps] == ["depth"]
        np.testing.assert_allclose(maps["depth"], want["depth"][0], atol=1e-4)
        # The states matter, or this would show nothing.
        assert np.abs(fresh["depth"] - want["depth"]).max() > 1e-3


def test_ages_of_states_with_a_place_for_each_pixel_stay_small(split_bundle, frames):
    bundle = split_bundle("demtg", "fp32")
    assert bundle.manifest.split.refresh == REFRESH_OF_PLACES
    with load(bundle) as session:
        sequence = session.sequence()
        assert sequence.ages == {}
        made = []
        for index in range(12):
            maps = sequence(frames[index % 4], tasks=["depth"])
            assert [*maps] == ["depth"]
            ages = sequence.ages
            assert ages["depth"] == 0
            assert max(ages.values()) < REFRESH_OF_PLACES
            made.append({task for task, age in ages.items() if age == 0 and task != "depth"})
        assert made[0] == {"semseg", "normals"}
        assert max(map(len, made[1:])) == 1  # they take turns
        assert {task: sum(task in one for one in made) for task in ("semseg", "normals")} in (
            {"semseg": 4, "normals": 4},
            {"semseg": 4, "normals": 5},
        )


def test_a_task_that_runs_after_a_pause_is_exact(split_bundle, frames):
    """States with places are made anew for it, and sums are not."""
    for model, has_places in (("demtg", True), ("degmix", False)):
        bundle = split_bundle(model, "fp32")
        assert bundle.manifest.split.has_places == has_places
        with load(bundle) as session:
            sequence = session.sequence()
            for frame in frames[:3]:
                sequence(frame, tasks=["depth"])
            maps, whole = sequence(frames[3], tasks=["depth", "semseg"]), session(frames[3])
            ages = {"semseg": 0, "depth": 0, "normals": 0 if has_places else 3}
            assert sequence.ages == ages
            if has_places:
                for task in ("depth", "semseg"):
                    np.testing.assert_array_equal(maps[task], whole[task])
            sequence(frames[4], tasks=["depth", "semseg"])
            # mixers that all ran at once take turns from then on
            assert sequence.ages["normals"] == (0 if has_places else 4)


def test_ages_of_sums_grow_longer_and_begin_anew(split_bundle, frames):
    bundle = split_bundle("degmix", "fp32")
    assert bundle.manifest.split.refresh == REFRESH_OF_SUMS
    with load(bundle) as session:
        sequence, oldest = session.sequence(), 0
        for index in range(2 * REFRESH_OF_SUMS):
            sequence(frames[index % 4], tasks=["depth", *["semseg"] * (index % 3 == 0)])
            assert sequence.ages["semseg"] == index % 3
            oldest = max(oldest, sequence.ages["normals"])
        assert oldest == REFRESH_OF_SUMS - 1
        sequence.reset()
        assert sequence.ages == sequence.states == {}


def test_a_call_without_tasks_runs_all_and_makes_every_state_anew(split_bundle, frames):
    with load(split_bundle("demt", "fp32")) as session:
        sequence = session.sequence()
        for frame in frames[:3]:
            sequence(frame, tasks=["depth"])
        again = sequence(frames[3])
        assert set(sequence.ages.values()) == {0}
        whole = session(frames[3])
        for task in TASKS:
            np.testing.assert_array_equal(again[task], whole[task])
        assert list(sequence(frames[3], tasks=[])) == []
        with pytest.raises(ConfigError, match="depht"):
            sequence(frames[3], tasks=["depht"])


def test_sequences_that_share_a_session_keep_their_own_states(split_bundle, frames):
    with load(split_bundle("demtg", "fp32")) as session:
        alone = session.sequence()
        want = [alone(frame, tasks=["depth"])["depth"] for frame in frames[:4]]
        one, other = session.sequence(), session.sequence()
        for frame, expected in zip(frames[:4], want, strict=True):
            other(frames[4], tasks=["semseg"])
            np.testing.assert_array_equal(one(frame, tasks=["depth"])["depth"], expected)


def test_a_call_that_failed_leaves_the_sequence_as_it_was(split_bundle, frames):
    with load(split_bundle("demtg", "fp32")) as session:
        sequence = session.sequence()
        sequence(frames[0])
        states, ages = dict(sequence.states), dict(sequence.ages)
        with pytest.raises(DegmixError):
            sequence(np.zeros((4, 4), np.float64), tasks=["depth"])
        assert sequence.ages == ages
        assert all(sequence.states[name] is state for name, state in states.items())


def test_an_engine_wants_the_state_of_what_does_not_run(split_bundle):
    bundle = split_bundle("degmix", "fp32")
    feed, _ = unpack(bundle.read(GOLDEN), bundle.manifest.network, bundle.path)
    with (
        load(bundle) as session,
        pytest.raises(BackendError, match=r"no state 'split\.semseg\.0' of the task that does not"),
    ):
        session.backend.infer(feed, call=TaskCall(frozenset({"depth"})))


def test_shares_are_those_of_the_graph_and_of_the_network(split_bundle):
    for model in ("degmix", "demtg", "demt"):
        split = split_bundle(model, "fp32").manifest.split
        counted = task_costs(network(model).network, HEIGHT, WIDTH)
        assert [*split.shares] == [*counted.shares] == [TRUNK, *TASKS]
        assert sum(split.shares.values()) == pytest.approx(1)
        assert (split.refresh, split.has_places) == (counted.refresh, counted.has_places)
        for name, share in split.shares.items():
            assert counted.shares[name] == pytest.approx(share, abs=0.01), name
        for name, share in split.mixers.items():
            assert counted.mixers[name] == pytest.approx(share, abs=0.01), name
            assert share < split.shares[name]
        every = dict.fromkeys(TASKS, 30.0)
        assert split.cost(every) == pytest.approx(1)
        alone = split.shares[TRUNK] + split.shares["depth"]
        others = sum(split.mixers[task] for task in TASKS if task != "depth") / split.refresh
        assert split.cost({"depth": 30}) == pytest.approx(alone + others)
        # semseg runs on every second frame, and where states have places, so do all mixers
        half = split.shares["semseg"]
        half += split.mixers["normals"] if split.has_places else 0
        rest = 0 if split.has_places else split.mixers["normals"] / split.refresh
        assert split.cost({"depth": 4, "semseg": 2}) == pytest.approx(alone + half / 2 + rest)


def test_weights_lie_once(split_bundle):
    for model, precision in KINDS:
        bundle = split_bundle(model, precision)
        split = bundle.onnx(bundle.manifest.engine("onnxruntime").file)
        ranges = recipe_and_ranges(bundle)[1] if precision == "int8" else None
        whole = lower_for_onnxruntime(bundle.onnx(), ranges, operators=False)
        biggest = max(len(t.raw_data) for t in onnx.load_from_string(whole).graph.initializer)
        assert biggest > 4096
        assert len(split) < len(whole) + 200_000, model


def test_the_engine_is_built_again_for_another_release(split_bundle, frames, monkeypatch):
    bundle = split_bundle("degmix", "fp32")
    monkeypatch.setattr(Backend, "version", classmethod(lambda cls: "1.99"))
    with pytest.warns(UserWarning, match="another one was built"):
        session = load(bundle)
    with session:
        assert session.shares is not None
        want = session(frames[0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with load(bundle) as session:  # kept in the cache
            np.testing.assert_array_equal(session(frames[0])["depth"], want["depth"])
    monkeypatch.setattr(Backend, "version", classmethod(lambda cls: "1.98"))
    with pytest.warns(UserWarning, match="every call runs all tasks"):
        session = load(bundle, rebuild=False)
    with session:
        assert session.shares is None
        sequence = session.sequence()
        assert [*sequence(frames[0], tasks=["depth"])] == ["depth"]
        # model.onnx itself, in which ONNX Runtime adds in another order
        np.testing.assert_allclose(session(frames[0])["depth"], want["depth"], atol=1e-6)


def test_verbs_take_a_split_bundle(split_bundle, cli, tmp_path):
    bundle = tmp_path / "split.degmix"
    shutil.copytree(split_bundle("demtg", "int8").path, bundle)
    assert cli("verify", bundle)[0] == 0
    assert cli("build", "engine", bundle, "--out", "again.degmix")[0] == 0
    assert open_bundle(tmp_path / "again.degmix").manifest.split is not None
    assert cli("bench", bundle, "--calls", "2")[0] == 0
    code, _, err = cli("inspect", bundle)
    assert code == 0
    assert "runs any subset of its tasks; shares of a call: trunk " in err
    code, out, err = cli("inspect", bundle, "--rates", "depth=30,semseg=10", "--json")
    assert code == 0
    split = open_bundle(bundle).manifest.split
    assert json.loads(out)["cost"] == pytest.approx(split.cost({"depth": 30, "semseg": 10}))


def test_inspect_says_what_rates_save_before_anything_is_built(cli):
    swin = ["--model", "degmix", "--backbone", "swin_tiny_patch4_window7_224", "--size", "448x672"]
    tasks = ["--tasks", "semseg,depth,normals,edge", "--rates", "depth=30,semseg=10,normals=5"]
    code, _, err = cli("inspect", *swin, *tasks)
    assert code == 0
    assert "at these rates, a frame costs 90 % of all tasks on every frame" in err
    code, _, err = cli("inspect", "degmix_tiny", "--rates", "depth=30,semseg=10,normals=5")
    assert code == 0
    assert "at these rates, a frame costs 57 % of all tasks on every frame" in err
    for rates, message in (
        ("depth=30,smseg=1", "no task 'smseg'"),
        ("depth", "expected TASK=HERTZ"),
        ("depth=nan", "expected runs a second from 0"),
        ("depth=0", "no task runs"),
    ):
        code, _, err = cli("inspect", "degmix_tiny", "--rates", rates)
        assert code == 3
        assert message in err


def test_networks_whose_tasks_cannot_run_apart_are_refused(tmp_path, onnx_path, bundles):
    target, loaded = tmp_path / "out.degmix", network("degmix")

    def refused(error, message, what, **options):
        values = {"precision": "fp32", "backend": "onnxruntime", **options}
        with pytest.raises(error, match=message):
            build(what, target, split=True, **values)
        assert not target.exists()

    refused(ConfigError, r"small\.onnx: cannot be split .* checkpoint of a demt", onnx_path)
    refused(ConfigError, "Linear: cannot be split", torch.nn.Linear(2, 2), size=(32, 32))
    refused(ConfigError, "belongs to one camera, and a call has 2 images", loaded, batch=2)
    refused(GraphError, "has the task depth alone, expected several", loaded, tasks=("depth",))
    refused(
        BackendError, "tensorrt_rtx: has no --split; that is for", loaded, backend="tensorrt-rtx"
    )
    other = lively_checkpoint("padnet")
    refused(ConfigError, "padnet: its tasks cannot run apart; those of demt, demtg", other)
    message = "does not keep .* apart from the other tasks; build from the checkpoint"
    with pytest.raises(GraphError, match=message):
        build(bundles["fp32"].path, target, split=True, backend="onnxruntime")
    assert not target.exists()


def test_pruned_tasks_are_part_of_the_trunk(tmp_path, frames):
    bundle = build(
        network("degmix"), tmp_path / "two", precision="fp32", tasks=("depth", "semseg"), split=True
    )
    split = bundle.manifest.split
    assert [*split.shares] == [TRUNK, "semseg", "depth"]
    assert split.shares["semseg"] == pytest.approx(split.shares["depth"], abs=0.02)
    with load(bundle) as session:
        sequence, want = session.sequence(), session(frames[0])
        for task in ("depth", "semseg"):
            np.testing.assert_array_equal(sequence(frames[0], tasks=[task])[task], want[task])


def test_a_size_of_several_is_split_too(tmp_path, frames):
    sizes = ((HEIGHT, WIDTH), (96, 96))
    bundle = build(network("degmix"), tmp_path / "sizes", precision="fp32", size=sizes, split=True)
    for size in sizes:
        with load(bundle, size=size) as session:
            assert session.shares is not None
            sequence, want = session.sequence(), session(frames[0])
            np.testing.assert_array_equal(
                sequence(frames[0], tasks=["depth"])["depth"], want["depth"]
            )
    manifest = open_bundle(bundle.path).manifest
    assert manifest.split.shares.keys() == manifest.sizes[0].split.shares.keys()


@pytest.mark.parametrize("model", ["degmix", "demtg"])
def test_a_stream_runs_its_tasks_at_their_rates(split_bundle, pictures, model):
    frames = [
        CapturedFrame(pictures[index % len(pictures)], 0, stamp_ns=index * 10**9 // 30)
        for index in range(16)
    ]
    rates = dict(zip(TASKS, (30.0, 10.0, 5.0), strict=False))
    with load(split_bundle(model, "fp32"), threads=1) as session:
        with degmix_edge.stream(session, frames, rates=rates) as stream:
            results = list(stream)
        by_hand = session.sequence()
        for result in results:
            maps = by_hand(frames[result.frame.index].image, tasks=result.fresh)
            assert set(maps) == set(result.fresh)
            for task, array in maps.items():
                np.testing.assert_array_equal(result.maps[task], array, err_msg=task)
    runs = stream.stats.cameras["camera"].runs
    first, second, third = (runs[task] for task in rates)
    assert first == 16
    assert 5 <= second <= 6
    assert 3 <= third <= 4


def test_a_budget_of_a_split_bundle_leaves_tasks_out(split_bundle, pictures):
    with load(split_bundle("demtg", "fp32"), threads=1) as session:
        everything = dict.fromkeys(session.spec.task_names)
        with degmix_edge.stream(session, rates=everything) as stream:
            counts = []
            for index in range(30):
                if index == 10:
                    # No room for two tasks, however fast or busy the machine is.
                    stream.budget_ms = 1e-3
                stream.put(pictures[0], captured_ns=10**9 + index * 33_000_000)
                counts.append(len(stream.read(30).fresh))
    assert counts[:10] == [len(everything)] * 10
    assert counts[10:] == [1] * 20
    ran = stream.stats.cameras["camera"].runs
    assert max(ran.values()) - min(ran.values()) <= 1  # they take turns

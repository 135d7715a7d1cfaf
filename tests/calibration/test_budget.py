"""The recipe inside a per-task budget: limits, layers measured alone, and the search."""

import json
from dataclasses import replace

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from conftest import HEIGHT, WIDTH, task_specs
from degmix_calibration import cpu_profile
from degmix_calibration import limits as budget
from degmix_calibration.report import budget_page
from degmix_calibration.search import BudgetSearch, order, search
from degmix_calibration.sensitivity import layers, measure, restrict
from degmix_calibration.trial import Damage, Example, Trials, pool

from degmix_edge.backends import openvino
from degmix_edge.errors import BackendError, ConfigError
from degmix_edge.graph.cost import costs
from degmix_edge.graph.model import to_graph
from degmix_edge.network import NetworkSpec, Source
from degmix_edge.passes.forms import deploy_model
from degmix_edge.preprocess import Fit
from degmix_edge.quant.rules import choose
from degmix_edge.quant.sites import observed_tensors

pytestmark = pytest.mark.slow

SPEC = NetworkSpec(
    model="m",
    height=8,
    width=8,
    tasks=tuple(task_specs(("semseg", "depth", "normals")).values()),
    source=Source(name="s", sha256="0"),
)


def test_limits_by_hand():
    limits = budget.parse("semseg=-0.5pt, depth=+2%,normals=0.3deg", SPEC)
    assert limits["semseg"].allowed(40.0) == 0.5
    assert limits["depth"].allowed(0.5) == pytest.approx(0.01)
    assert limits["normals"].allowed(20.0) == 0.3
    assert [limit.text for limit in limits.values()] == [
        "semseg=-0.5pt",
        "normals=+0.3deg" if list(limits)[1] == "normals" else "depth=+2%",
        "depth=+2%" if list(limits)[2] == "depth" else "normals=+0.3deg",
    ]


def test_a_task_that_is_not_named_may_lose_one_percent():
    limits = budget.parse("depth=5%", SPEC)
    assert limits["semseg"].allowed(50.0) == 0.5
    assert not limits["semseg"].named
    assert {limit.amount for limit in budget.parse("3%", SPEC).values()} == {3.0}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("flow=1%", "no task 'flow'"),
        ("saliency=1%", "network 'm': no task 'saliency'"),
        ("semseg=+0.5pt", "asks it to become better"),
        ("depth=-1%", "asks it to become better"),
        ("depth=1pt", r"expected % \(of the float value\) or m"),
        ("normals=much", "expected an amount such as 1% or 0.5deg"),
    ],
)
def test_a_wrong_limit_says_what_is_wrong(text, message):
    with pytest.raises(ConfigError, match=message):
        budget.parse(text, SPEC)


@pytest.fixture(scope="module")
def parts(exported, calibrate, pictures):
    """Deployed graph, spec, recipe, ranges and four examples without labels."""
    model, spec, _ = deploy_model(*exported, tasks=("normals", "depth"))
    graph = to_graph(model)
    recipe = choose(graph, spec, "int8")
    fit = Fit(height=HEIGHT, width=WIDTH)
    examples = [Example.of(str(i), p, {}, fit, spec) for i, p in enumerate(pictures[:4])]
    ranges = calibrate(model, observed_tensors(graph, recipe))
    macs = {cost.node: cost.macs for cost in costs(model)}
    found = layers(recipe, macs, dict.fromkeys(macs, 1.0))
    return Trials(model, spec, ranges, examples), recipe, found


def test_layers_are_modules(parts):
    _, recipe, found = parts
    assert sum(len(layer.nodes) for layer in found) == len(
        recipe.nodes("int8") | recipe.nodes("int8_weights")
    )
    gate = next(layer for layer in found if layer.name == "gate.expand")
    assert len(gate.nodes) == 2  # the two tasks' gates have one weight
    assert gate.macs > 0


def test_restricting_keeps_the_rest_float(parts):
    _, recipe, found = parts
    only = restrict(recipe, found[:1], {found[1].nodes[0]: "too dear"})
    assert only.nodes("int8") == set(found[0].nodes)
    reasons = {place.node: place.reason for place in only.placements}
    assert reasons[found[1].nodes[0]] == "too dear"


def test_nothing_quantized_loses_nothing_and_everything_loses_something(parts):
    trials, recipe, _ = parts
    float_damage = trials.score(restrict(recipe, [], {}))
    assert all(abs(d.distance) < 1e-6 and d.loss is None for d in float_damage.values())
    assert all(d.distance > 0 for d in trials.score(recipe).values())


def test_a_measurement_goes_on_where_it_was(parts, tmp_path):
    trials, recipe, found = parts
    state, counted = tmp_path / "state.jsonl", []
    few = found[:3]
    first = measure(trials, recipe, few, state=state, advance=counted.append)
    assert sum(counted) == 3
    lines = state.read_text().splitlines()
    assert len(lines) == 4
    # Interrupted while the third was written: the line is cut short.
    state.write_text("\n".join(lines[:3]) + "\n" + lines[3][:20])
    edited = json.loads(lines[1])
    edited["tasks"]["depth"]["distance"] = 123.0
    state.write_text(state.read_text().replace(lines[1], json.dumps(edited)))
    again = measure(trials, recipe, few, state=state)
    assert again[few[0].name]["depth"].distance == 123.0  # read, not measured again
    assert again[few[2].name] == first[few[2].name]
    # Of other examples: dropped.
    other = Trials(trials.model, trials.spec, trials.ranges, trials.examples[:2])
    assert measure(other, recipe, few, state=state)[few[0].name]["depth"].distance != 123.0


def test_processes_give_the_same_numbers(parts):
    trials, recipe, found = parts
    recipes = [restrict(recipe, [layer], {}) for layer in found[:3]]
    with pool(trials, 2) as each:
        got = dict(each(recipes))
    for index, one in enumerate(recipes):
        for task, damage in trials.score(one).items():
            assert got[index][task].distance == pytest.approx(damage.distance, rel=1e-3, abs=1e-6)


def damaged(model: onnx.ModelProto) -> tuple[onnx.ModelProto, str]:
    """The same function, with a channel a thousand times larger between two convolutions."""
    graph = to_graph(model)
    for relu in graph.nodes:
        before, after = relu.inputs[0].inputs, relu.outputs[0].outputs
        if relu.op == "Relu" and before and before[0].op == "Conv" and len(after) == 1:
            first, second = before[0], after[0]
            if second.op == "Conv" and second.attrs["group"] == 1 and first.attrs["group"] == 1:
                break
    else:
        raise AssertionError("no two convolutions with a Relu between them")
    for index in (1, 2):
        values = first.inputs[index].values.copy()
        values[0] *= 1e3
        first.inputs[index] = gs.Constant(f"damaged.{index}", values)
    values = second.inputs[1].values.copy()
    values[:, 0] /= 1e3
    second.inputs[1] = gs.Constant("damaged.w", values)
    from degmix_edge.graph.model import to_model

    props = {p.key: p.value for p in model.metadata_props}
    return to_model(graph, props), second.name.rpartition("/")[0]


def test_the_search_finds_a_damaged_layer(parts, calibrate):
    trials, recipe, found = parts
    model, broken = damaged(trials.model)
    graph = to_graph(model)
    ranges = calibrate(model, observed_tensors(graph, recipe))
    hurt = Trials(model, trials.spec, ranges, trials.examples)
    for want, got in zip(trials.reference, hurt.reference, strict=True):
        np.testing.assert_allclose(got["depth"], want["depth"], rtol=1e-3, atol=1e-3)
    whole = trials.score(recipe)  # without the damage, all of it in INT8
    limits = budget.parse(
        f"depth={1.5 * whole['depth'].distance:.6f}m,"
        f"normals={1.5 * whole['normals'].distance:.6f}deg",
        trials.spec,
    )
    allowed = {name: limit.allowed(0) for name, limit in limits.items()}
    measured = measure(hurt, recipe, found, workers=2)
    ordered = order(found, measured, allowed)
    assert ordered[-1].name == broken  # the dearest of all
    said = []
    choice = search(hurt, recipe, ordered, limits, reasons={}, say=said.append)
    assert choice.fits
    assert broken not in {layer.name for layer in choice.kept}
    assert len(choice.kept) >= len(found) - 4
    assert choice.closest is not None
    assert not choice.closest.fits
    assert said[0].startswith(f"{len(found)} of {len(found)} layers in INT8")


def test_the_worst_task_decides():
    from degmix_calibration.search import worst_share

    damage = {"depth": Damage(0.02, None), "semseg": Damage(0.1, None)}
    assert worst_share(damage, {"depth": 0.01, "semseg": 1.0}) == pytest.approx(2.0)
    assert worst_share(damage, {"depth": 0.0, "semseg": 1.0}) == float("inf")


@pytest.fixture(scope="module")
def on_openvino(parts):
    """The same trials on OpenVINO's engines, and the layers of both rungs that may be lower."""
    if "bf16" not in openvino.Backend.precisions():
        pytest.skip("this CPU has no bfloat16")
    trials, recipe, found = parts
    values = {name: getattr(trials, name) for name in ("model", "spec", "ranges")}
    examples = trials.examples[:2]
    own = Trials(**values, examples=examples, lowered=True, backend="openvino", threads=1)
    macs = {layer.nodes[0]: layer.macs for layer in found}
    half_ms = {node: 0.5 for layer in found for node in layer.nodes}
    int8_ms = {node: 0.6 for layer in found for node in layer.nodes}
    return own, recipe, layers(recipe, macs, int8_ms, half_ms)


def test_a_module_has_two_rungs(on_openvino):
    _, recipe, found = on_openvino
    half, int8 = ([x for x in found if x.precision == p] for p in ("bf16", "int8"))
    assert {x.module for x in half} <= {x.module for x in int8}
    lower = restrict(recipe, [half[0], half[1], int8[1]], {})
    assert lower.nodes("bf16") == set(half[0].nodes)
    assert lower.nodes("int8") | lower.nodes("int8_weights") == set(int8[1].nodes)
    assert half[1].module == int8[1].module
    nothing = {task: Damage(1.0, None) for task in ("normals", "depth")}
    measured = {layer.name: nothing for layer in found}
    slower = [replace(x, saving_ms=0.4) if x.precision == "int8" else x for x in found]
    ordered = order(slower, measured, {"normals": 1.0, "depth": 1.0})
    assert {x.precision for x in ordered} == {"bf16"} | {
        "int8" for x in int8 if x.module not in {y.module for y in half}
    }


def test_bfloat16_costs_less_than_int8_and_more_than_nothing(on_openvino):
    trials, recipe, found = on_openvino
    by_rung = {p: [x for x in found if x.precision == p] for p in ("bf16", "int8")}
    damage = {p: trials.score(restrict(recipe, kept, {})) for p, kept in by_rung.items()}
    for task in ("normals", "depth"):
        assert 0 < damage["bf16"][task].distance < damage["int8"][task].distance
    none = trials.score(restrict(recipe, [], {}))
    assert all(abs(d.distance) < 1e-4 for d in none.values())


def test_the_search_takes_bfloat16_where_int8_costs_too_much(on_openvino):
    trials, recipe, found = on_openvino
    few = [x for x in found if x.module in {y.module for y in found[:6]}]
    half = [x for x in few if x.precision == "bf16"]
    cost = trials.score(restrict(recipe, half, {}))["depth"].distance
    limits = {
        task: budget.Limit(task, 1.5 * cost if task == "depth" else 1e9, "m", None, True)
        for task in trials.spec.task_names
    }
    ordered = [*half, *(x for x in few if x.precision == "int8")]
    choice = search(trials, recipe, ordered, limits, reasons={})
    assert choice.fits
    assert choice.bf16
    assert {x.module for x in half} == {x.module for x in (*choice.bf16, *choice.int8)}


def test_what_a_backend_cannot_build_is_left_out(on_openvino, monkeypatch):
    """OpenVINO 2026.4.1 cannot build one product of degmix_tiny alone in bfloat16 on a Zen 5."""
    trials, recipe, found = on_openvino
    half = [x for x in found if x.precision == "bf16"][:4]
    build = openvino.Backend.build.__func__

    def fragile(cls, model, recipe, *rest):
        if half[1].nodes[0] in recipe.nodes("bf16"):
            raise BackendError("openvino: object is not initialized")
        return build(cls, model, recipe, *rest)

    monkeypatch.setattr(openvino.Backend, "build", classmethod(fragile))
    limits = {t: budget.Limit(t, 1e9, "m", None, True) for t in trials.spec.task_names}
    measured, said = measure(trials, recipe, half), []
    monkeypatch.undo()
    exact = trials.score(restrict(recipe, [half[1]], {}))
    for task, damage in measured[half[1].name].items():
        assert damage.distance == pytest.approx(exact[task].distance, rel=0.5, abs=1e-3)
    monkeypatch.setattr(openvino.Backend, "build", classmethod(fragile))
    ordered = order(half, measured, dict.fromkeys(trials.spec.task_names, 1.0))
    choice = search(trials, recipe, ordered, limits, reasons={}, say=said.append)
    assert {x.name for x in choice.kept} == {half[0].name, half[2].name, half[3].name}
    assert "4 layers cannot be built together: openvino: object is not initialized" in said


def test_a_page_of_a_float_network(on_openvino):
    """A search for bfloat16 alone has no ranges, and so nothing that is clipped."""
    trials, recipe, found = on_openvino
    floats = replace(trials, ranges=None)
    half = [x for x in found if x.precision == "bf16"][:3]
    asked = restrict(recipe, half, {}).model_copy(update={"precision": "bf16"})
    limits = budget.parse("1%", trials.spec)
    page = budget_page(BudgetSearch(floats, asked, limits, device="cpu").run(), "scenes")
    assert "bfloat16 within a budget" in page
    assert "clipped" not in page


def test_what_nodes_cost_on_openvino(on_openvino):
    trials, recipe, _ = on_openvino
    saved = cpu_profile.savings_ms(trials, recipe)
    assert sum(name in saved for name in recipe.nodes("int8")) > 0.8 * len(recipe.nodes("int8"))

"""Use what the tiny package adds for a robot, and write a bundle with its task: `FOLDER`."""

import json
import sys
import warnings
from pathlib import Path

import numpy as np
import onnx
from degmix_calibration import observers
from degmix_calibration.collect import collect
from onnx import helper, numpy_helper

from degmix_edge import __version__, backends, config, metrics, registry, tasks
from degmix_edge.bundle.manifest import GOLDEN, MODEL, RECIPE, Manifest
from degmix_edge.bundle.writing import claim, write_bundle
from degmix_edge.errors import ConfigError
from degmix_edge.graph.spec import network_spec
from degmix_edge.network import IMAGE, NetworkSpec, Source
from degmix_edge.passes.forms import deploy_model
from degmix_edge.preprocess import Fit
from degmix_edge.quant.recipe import Recipe
from degmix_edge.runtime import load

HEIGHT, WIDTH = 8, 16


def float_network() -> onnx.ModelProto:
    """A convolution of a normalised image to the logits of task `lane`."""
    weight = np.random.default_rng(0).normal(size=(3, 3, 3, 3)).astype(np.float32)
    image, logits = (
        helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1, 3, HEIGHT, WIDTH])
        for name in ("image", "lane")
    )
    conv = helper.make_node("Conv", ["image", "weight"], ["lane"], "conv", pads=[1, 1, 1, 1])
    graph = helper.make_graph(
        [conv], "lanes", [image], [logits], [numpy_helper.from_array(weight, "weight")]
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def misspelt(name: str) -> str:
    """What a name that is no task gets."""
    try:
        tasks.find(name)
    except ConfigError as error:
        return str(error)
    raise AssertionError(name)


def ranges(model: onnx.ModelProto, image: np.ndarray) -> tuple[dict, dict]:
    """What the tiny observer makes of the network's tensors, and what their largest values are."""
    names = [out for node in model.graph.node for out in node.output if node.op_type == "Conv"]
    measured = [
        collect(model, names, [("street", {IMAGE: image[None]})], observer)
        for observer in ("half", "min_max")
    ]
    largest = {name: found.amax for name, found in measured[1].tensors.items()}
    return measured[0].model_dump(mode="json"), largest


def run_lane_cpu(spec: NetworkSpec, image: np.ndarray) -> tuple[str, list[int]]:
    """The tiny backend's name, and every fourth pixel of its first row."""
    backend = backends.find("lane-cpu")
    with backend(spec) as running:
        return backend.name, running.infer({IMAGE: image[None]})["lane"][0, 0, ::4].tolist()


def main(folder: Path) -> None:
    """Print what was found as JSON."""
    found = {
        "tasks": tasks.names(),
        "observers": observers.names(),
        "metrics": metrics.names(),
        "backends": backends.names(),
        "modules_after_names": [name for name in sys.modules if name.startswith("tiny_lanes")],
        "misspelt": misspelt("lanes"),
    }
    task = tasks.find("lane").spec()
    found["spec"] = task.model_dump(mode="json")
    found["colours"] = tasks.colour(np.array([[0, 1, 2, 255]], np.uint8), task)[0].tolist()
    metric = metrics.find(task.metric)(task.num_channels)
    metric.update(np.array([[1, 1, 0, 2]]), np.array([[1, 0, 1, 255]]))
    found["score"] = metric.compute()

    model = float_network()
    found["foreign_onnx"] = network_spec(model, Path("street.onnx"), b"").model_dump(mode="json")
    source = Source(name="street", sha256="0" * 64)
    spec = NetworkSpec(model="lanes", height=HEIGHT, width=WIDTH, tasks=(task,), source=source)
    image = np.random.default_rng(1).integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    deployed, spec, _ = deploy_model(model, spec)
    found["ranges"], found["largest"] = ranges(deployed, image)
    found["backend"], found["backend_maps"] = run_lane_cpu(spec, image)

    manifest = Manifest(
        created="2026-01-01T00:00:00+00:00",
        network=spec,
        fit=Fit(height=HEIGHT, width=WIDTH),
        inputs=(spec.image_spec,),
        outputs=(task.map_spec(HEIGHT, WIDTH),),
        precision="fp32",
        versions={"degmix-edge": __version__},
    )
    files = {
        MODEL: deployed.SerializeToString(),
        RECIPE: config.dump(Recipe(precision="fp32")).encode(),
        GOLDEN: b"",
    }
    write_bundle(claim(folder / "lane.degmix", force=False), manifest, files)
    np.save(folder / "image.npy", image)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*has no engine for")
        with load(folder / "lane.degmix", backend="onnxruntime") as session:
            lane = session(image)["lane"]
    found["maps"] = {"classes": lane.classes, "values": np.asarray(lane).tolist()}
    assert list(registry.modules("degmix_edge.metrics"))[-1][0] == "lane_f"
    print(json.dumps(found))


main(Path(sys.argv[1]))

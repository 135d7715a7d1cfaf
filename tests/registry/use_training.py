"""Use what the tiny package adds to training: `FOLDER`."""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from degmix_training import authors, checkpoint, data, models
from degmix_training.config import TrainConfig, network_config
from degmix_training.export import export_checkpoint
from degmix_training.untrained import untrained
from safetensors.torch import save_file

from degmix_edge import tasks
from degmix_edge.errors import CheckpointError
from degmix_edge.workflows.models import specs

SIZE = (6, 12)


def refused(folder: Path) -> str:
    """What a checkpoint that no importer knows gets."""
    save_file({"other.weight": torch.zeros(1)}, folder / "other.safetensors")
    try:
        authors.import_checkpoint(folder / "other.safetensors")
    except CheckpointError as error:
        return str(error)
    raise AssertionError("it was read")


def main(folder: Path) -> None:
    """Print what was found as JSON."""
    found = {"data": data.names(), "models": models.names(), "importers": authors.names()}
    found["is_rendered"] = {
        name: data.is_rendered(name) for name in ("lanes", "synthetic", "nyud", "folder")
    }
    sample = data.open_data("lanes", None, SIZE).open_split("val", ("lane",))[1]
    found["sample"] = {
        "name": sample.name,
        "shape": sample.image.shape,
        "labels": np.unique(sample.labels["lane"]).tolist(),
    }
    name, chosen = specs(("lane",), None)
    found["classes_of"] = [name, chosen["lane"].classes]
    found["default"] = specs((), None)[0]

    settings = TrainConfig(
        model="lane_net", tasks=("lane",), height=6, width=12, data={"name": "lanes"}
    )
    task_specs = settings.task_specs()
    network = models.find("lane_net").Model(network_config("lane_net", {"kernel": 3}), task_specs)
    outputs = network(torch.zeros(1, 3, *SIZE))
    found["outputs"] = {task: list(logits.shape) for task, logits in outputs.items()}
    made = untrained("lane_net", {"kernel": 3}, task_specs, SIZE)
    found["onnx_outputs"] = [output.name for output in export_checkpoint(made).graph.output]
    checkpoint.save(folder / "lane.safetensors", made.network.state_dict(), made.card)
    again = checkpoint.load(folder / "lane.safetensors")
    image = torch.rand(1, 3, *SIZE)
    found["reloaded"] = torch.equal(again.network(image)["lane"], made.network(image)["lane"])

    weights = {"marking.weight": torch.ones(3, 3, 5, 5), "marking.bias": torch.zeros(3)}
    save_file(weights, folder / "authors.safetensors")
    imported = authors.import_checkpoint(folder / "authors.safetensors")
    assert imported.tasks == {"lane": tasks.find("lane").spec()}
    found["imported"] = {
        "model": imported.model,
        "data": imported.data,
        "kernel": imported.config["kernel"],
        "fates": len(imported.fates),
    }
    found["refused"] = refused(folder)
    print(json.dumps(found))


main(Path(sys.argv[1]))

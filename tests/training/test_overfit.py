"""Eight images are learnt by heart: a network that cannot do that has a fault somewhere."""

import numpy as np
import pytest
from degmix_training import checkpoint, data
from degmix_training.config import TrainConfig
from degmix_training.evaluate import network_predictor, score

SETTINGS = {
    "model": "demtg",
    "network": {
        "backbone": "mobilenetv4_conv_small_050",
        "dim": 32,
        "depth": 1,
        "head_channels": 64,
        "zero_offset_init": True,
    },
    "tasks": ["semseg", "depth"],
    "height": 96,
    "width": 128,
    "data": {"train": 8, "val": 4, "augment": "none"},
    "optim": {"name": "adamw", "lr": 6e-3, "weight_decay": 0, "warmup": 20, "clip_norm": 5.0},
    "loss_weights": {"semseg": 1.0, "depth": 3.0},
    "batch_size": 8,
    "steps": 480,
    "val_every": 480,
}


@pytest.mark.slow(file_seconds=100)
def test_eight_images_are_learnt_by_heart(tmp_path):
    from degmix_training.fit import fit

    settings = TrainConfig.model_validate(SETTINGS)
    loaded = checkpoint.load(fit(settings, tmp_path))
    size = (settings.height, settings.width)
    seen = data.open_split("synthetic", "train", 8, *size)
    found = score(network_predictor(loaded.network, loaded.tasks, settings), seen, loaded.tasks)
    depths = np.stack([sample.labels["depth"] for sample in seen])
    print(found, depths.max() - depths.min())
    assert found["semseg"] > 95
    assert found["depth"] < 0.05 * (depths.max() - depths.min())

"""What a model costs is counted for every model of the registry."""

import pytest
from degmix_training import models

from degmix_edge.workflows.models import model_cost


@pytest.mark.parametrize("model", models.names())
def test_every_model_is_counted(model):
    own = {"m3vit": None, "mlore": None, "taskprompter": None}
    backbone = own.get(model, "mobilenetv4_conv_small_050")
    cost = model_cost(model, (448, 672), tasks=("semseg", "depth"), backbone=backbone)
    assert cost.trained.params > 0
    assert 0 < cost.exported.macs <= cost.trained.macs  # folds save at this size
    assert sum(cost.trained.macs_of.values()) <= cost.trained.macs
    assert cost.values()["tasks"] == {"semseg": 40, "depth": 1}
    (title, columns, rows), _ = cost.text()
    assert title.startswith(f"{model}, 448x672")
    assert all(len(row) == len(columns) for row in rows)

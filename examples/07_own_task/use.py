"""Use another package's task, metric and network, after `pip install ./examples/07_own_task`.

The network is built into a bundle, and the engine is compared with the network by the metric.
"""

import skimage.data
import torch
from lane_net import Lanes
from PIL import Image

import degmix_edge
from degmix_edge import tasks

print("tasks:", ", ".join(tasks.names()))
torch.manual_seed(0)
network = Lanes()
degmix_edge.build(network, "lane.degmix", size=(96, 128), precision="fp16", force=True)
with degmix_edge.load("lane.degmix") as session:
    lane = session(skimage.data.coffee())["lane"]
Image.fromarray(lane.overlay(skimage.data.coffee())).save("lane.png")
print("classes:", ", ".join(lane.classes))
found = degmix_edge.compare("lane.degmix", network, data="photos")
print(f"engine on network: {found.tasks['lane'].metric} {found.tasks['lane'].agreement:.2f} %")

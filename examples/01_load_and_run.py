"""Build a bundle of the shipped network, open it, and run one photograph."""

from pathlib import Path

import skimage.data

import degmix_edge

if not Path("robot.degmix").exists():
    degmix_edge.build("degmix_tiny", "robot.degmix", calibration="synthetic:16")

with degmix_edge.load("robot.degmix") as session:
    maps = session(skimage.data.coffee())  # a path or a Pillow image also does

depth = maps["depth"]
print(f"nearest {depth.min():.2f} {depth.unit}, farthest {depth.max():.2f} {depth.unit}")
classes = maps["semseg"].classes
most = max(range(len(classes)), key=lambda index: (maps["semseg"] == index).sum())
print(f"most of the picture is {classes[most]}; the call took {maps.latency.total_ms:.1f} ms")

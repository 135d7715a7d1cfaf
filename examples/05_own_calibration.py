"""Calibrate INT8 with images from your own loader, and use the ranges again."""

from collections.abc import Iterator

import numpy as np
import skimage.data

import degmix_edge


def frames() -> Iterator[tuple[str, np.ndarray]]:
    """Name and uint8 RGB `(H, W, 3)` of each frame: from a bag, a database, a camera."""
    photo = skimage.data.stereo_motorcycle()[0]
    for left in range(0, 200, 25):
        yield f"frame {left}", np.ascontiguousarray(photo[:, left : left + 500])


found = degmix_edge.quantize("degmix_tiny", "model.int8.onnx", calibration=frames(), force=True)
print(f"{len(found.ranges.tensors)} ranges over {len(found.ranges.images)} frames")
print("nodes by precision:", found.nodes)

again = degmix_edge.quantize("degmix_tiny", ranges="model.int8.onnx.ranges.json")
print("the same model from saved ranges:", again.model == found.model)

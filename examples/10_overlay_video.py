"""An animation of segmentation over a moving view, with its legend beside it."""

from collections.abc import Iterator

import numpy as np
import skimage.data
from PIL import Image

import degmix_edge

HEIGHT, WIDTH = 360, 480


def frames() -> Iterator[np.ndarray]:
    """A camera that moves over a photograph: uint8 RGB `(H, W, 3)`."""
    photo = skimage.data.stereo_motorcycle()[0]
    for left in range(0, 240, 20):
        yield np.ascontiguousarray(photo[:HEIGHT, left : left + WIDTH])


with degmix_edge.load("robot.degmix") as session:
    pictures = []
    for frame in frames():
        semseg = session(frame)["semseg"]
        picture = Image.new("RGB", (WIDTH + 160, HEIGHT), "white")
        picture.paste(Image.fromarray(semseg.overlay(frame, alpha=0.6)))
        picture.paste(Image.fromarray(semseg.legend()), (WIDTH + 8, 8))
        pictures.append(picture)

pictures[0].save("overlay.gif", save_all=True, append_images=pictures[1:], duration=100, loop=0)
print(f"overlay.gif: {len(pictures)} frames of {pictures[0].size}")

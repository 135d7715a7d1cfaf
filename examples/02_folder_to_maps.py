"""Run a folder of images and write maps that other programs can read."""

from pathlib import Path

import skimage.data
from PIL import Image

import degmix_edge

photos = Path("photos")
photos.mkdir(exist_ok=True)
for name in ("astronaut", "coffee", "chelsea"):
    Image.fromarray(getattr(skimage.data, name)()).save(photos / f"{name}.png")

with degmix_edge.load("robot.degmix") as session:
    for path in sorted(photos.glob("*.png")):
        # Class indices as PNG, depth as 16-bit millimetres, all arrays as .npz.
        written = session(path).save("maps", path.stem, native=True)
        print(f"{path}: {len(written)} files")

millimetres = Image.open("maps/coffee.depth.png")
print(f"depth at the centre: {millimetres.getpixel((300, 200)) / 1000:.2f} m")

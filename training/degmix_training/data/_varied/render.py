"""One varied scene: its picture, and its labels from geometry."""

from __future__ import annotations

import numpy as np

from degmix_edge.errors import ConfigError
from degmix_training.data._labels import edges, saliency
from degmix_training.data._varied import film, light
from degmix_training.data._varied.places import Setting, Style, fill
from degmix_training.data._varied.stage import CLASS, Stage
from degmix_training.data._view import Buffers
from degmix_training.data.synthetic import LARGEST, Scene

FARTHEST_M = 20.0
"""Depth is only labelled up to here, and normals and depth of the sky are not."""
SKY_M = 200.0
PLAIN = Style()


def render(seed: int, height: int = 192, width: int = 256, style: Style = PLAIN) -> Scene:
    """Render scene `seed` at `(height, width)` pixels.

    Labels do not depend on whether scikit-image is installed; colours do.

    Raises:
        ConfigError: A side is not between 1 and 4096.
    """
    if not (0 < height <= LARGEST and 0 < width <= LARGEST):
        raise ConfigError(f"scene size {height}x{width}: expected sides from 1 to {LARGEST} pixels")
    stage = Stage(np.random.default_rng((seed, 0)), np.random.default_rng((seed, 1)))
    setting = fill(stage, style, height)
    camera = setting.camera
    directions = light.rays(camera, height, width)
    depth, owner = light.cast(stage.shapes, camera, directions)
    seen = light.look_at(stage.shapes, stage.materials, camera, directions, (depth, owner))
    depth = np.where(owner == light.NOTHING, SKY_M, depth)
    linear = _picture(stage, setting, style, seen, directions, hits=(depth, owner))
    buffers = _buffers(stage, owner, depth, seen)
    normals = seen.normals.T @ camera.turn
    is_sky = owner == light.NOTHING
    # A plane across the view: neighbours in the sky are no step.
    normals[is_sky.ravel()] = (0, 0, -1)
    edge = edges(buffers, normals, camera.focal, (height, width))
    normals[is_sky.ravel()] = 0
    return Scene(
        image=film.develop(stage.look, linear.astype(np.float32)),
        semseg=buffers.semseg.reshape(height, width),
        human_parts=buffers.part.reshape(height, width),
        saliency=saliency(buffers, (height, width)),
        normals=normals.reshape(height, width, 3).astype(np.float32),
        edge=edge,
        depth=np.where(depth > FARTHEST_M, 0, depth).astype(np.float32),
        seed=seed,
        intrinsics=np.array(
            [
                [camera.focal, 0, width / 2 - 0.5],
                [0, camera.focal, height / 2 - 0.5],
                [0, 0, 1],
            ]
        ),
    )


def _picture(
    stage: Stage,
    setting: Setting,
    style: Style,
    seen: light.Seen,
    directions: np.ndarray,
    *,
    hits: tuple[np.ndarray, np.ndarray],
) -> np.ndarray:
    depth, owner = hits
    linear = light.shade(seen, stage.shapes, setting, style, stage.look)
    nothing = owner.ravel() == light.NOTHING
    if nothing.any():
        linear[nothing] = light.sky(directions.reshape(3, -1)[:, nothing], stage.look)
    picture: np.ndarray = linear.reshape(*owner.shape, 3)
    dark = film.occlusion(depth, max(1, min(owner.shape) // 24))
    dark[owner == light.NOTHING] = 1
    return picture * dark[..., None]


def _buffers(stage: Stage, owner: np.ndarray, depth: np.ndarray, seen: light.Seen) -> Buffers:
    table = np.array(
        [[s.what.semseg, s.what.part, s.what.instance, s.what.material] for s in stage.shapes]
        + [[CLASS["sky"], 0, 0, 0]]
    )
    semseg, part, instance, material = table[owner.ravel()].T
    return Buffers(
        depth.ravel(),
        seen.normals.T,
        semseg.astype(np.uint8),
        part.astype(np.uint8),
        instance.astype(np.int32),
        material.astype(np.int32),
    )

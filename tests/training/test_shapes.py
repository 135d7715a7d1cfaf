"""Shapes of the varied scenes against analytic truths: depths, normals, windows, frames."""

import numpy as np
import pytest
from degmix_training.data._varied import furniture, light, nature, people, places, things
from degmix_training.data._varied.materials import solid
from degmix_training.data._varied.stage import SEMSEG_CLASSES, Stage, towards

SIZE = (72, 96)


def stage_of(seed=0):
    return Stage(np.random.default_rng(seed), np.random.default_rng(seed + 1))


def view(stage, *, away=2.0, lift=1.0, turn=0.4, focal_deg=45.0, aim=(0, 0, 0.4)):
    """Depth, owner, points and normals that a camera near the origin sees."""
    pitch = np.arctan2(lift - aim[2], away)
    origin = np.array(aim) + np.array([-away * np.cos(turn), -away * np.sin(turn), lift - aim[2]])
    camera = places.look_from(origin, (turn, pitch, 0.05), focal_deg, SIZE[0])
    rays = light.rays(camera, *SIZE)
    hits = light.cast(stage.shapes, camera, rays)
    return camera, rays, hits, light.look_at(stage.shapes, stage.materials, camera, rays, hits)


def test_a_ball_is_the_ball_of_the_textbook():
    stage = stage_of()
    with stage.object("ball"):
        stage.ellipsoid((0.2, -0.1, 0.4), (0.3, 0.3, 0.3), stage.material())
    camera, rays, (depth, owner), seen = view(stage)
    centre = np.array([0.2, -0.1, 0.4])
    offset = camera.origin - centre
    flat = rays.reshape(3, -1)
    a, b = np.sum(flat**2, axis=0), offset @ flat
    root = b**2 - a * (offset @ offset - 0.09)
    hit = root > 0
    np.testing.assert_array_equal(owner.ravel() == 0, hit)
    expected = (-b[hit] - np.sqrt(root[hit])) / a[hit]
    np.testing.assert_allclose(depth.ravel()[hit], expected, rtol=1e-9)
    normals = (camera.origin[:, None] + expected * flat[:, hit] - centre[:, None]) / 0.3
    np.testing.assert_allclose(seen.normals[:, hit], normals, atol=1e-6)


def test_the_ground_is_a_plane():
    stage = stage_of()
    with stage.object("floor", is_backdrop=True):
        stage.panel((0, 0, 0), (50, 50), stage.material())
    camera, rays, (depth, owner), seen = view(stage)
    expected = -camera.origin[2] / rays[2]
    reach = np.abs(camera.origin[:2, None, None] + expected * rays[:2]).max(axis=0)
    on_ground = (expected > 0) & (reach < 50)
    assert 0.5 < on_ground.mean() < 1
    np.testing.assert_array_equal(owner == 0, on_ground)
    np.testing.assert_allclose(depth[on_ground], expected[on_ground], rtol=1e-12)
    up = seen.normals[:, on_ground.ravel()]
    np.testing.assert_allclose(up, np.broadcast_to([[0], [0], [1]], up.shape))


def implicit(name):
    """A shape, and a function of points `(3, P)` that is zero on it."""
    stage = stage_of()
    cover = stage.material()
    turn = towards(np.array([0.3, 0.2, 1.0]))
    with stage.object("object", (0.1, 0.0, 0.2), turn):
        if name == "cylinder":
            stage.revolved((0, 0, 0), (0.09, 0, 0), (0, 0.5), cover, caps=(False, False))
        elif name == "cone":
            stage.cone((0, 0, 0), (0.4, 0.1), 0.5, cover, caps=(False, False))
        elif name == "bowl":
            stage.revolved((0, 0, 0), (0.01, 0.3, 0), (0, 0.4), cover, caps=(False, False))
        elif name == "vase":
            stage.revolved((0, 0, 0.2), (0.02, 0, 1.5), (-0.2, 0.3), cover, caps=(False, False))
        elif name == "ellipsoid":
            stage.ellipsoid((0, 0, 0.2), (0.3, 0.2, 0.45), cover)
        elif name == "ring":
            stage.ring((0, 0, 0.2), 0.3, 0.1, cover)
        else:
            stage.tube((0, 0, 0), (0, 0, 0.5), (0.25, 0.1), cover)
    shape = stage.shapes[0]

    def value(points):
        x, y, z = shape.local(points)
        if name == "ring":
            return np.hypot(np.hypot(x, y) - 0.3, z) - 0.1
        if name == "tube":
            # The distance to a chain of balls whose radius falls from one end to the other.
            share = np.linspace(0, 1, 20001)[:, None]
            gap = np.sqrt(x**2 + y**2 + (z - 0.5 * share) ** 2) - (0.25 - 0.15 * share)
            return gap.min(axis=0)
        a, b, c = shape.profile
        sx, sy = shape.scale
        return (x / sx) ** 2 + (y / sy) ** 2 - a - b * z - c * z * z

    return stage, value


@pytest.mark.parametrize("name", ["cylinder", "cone", "bowl", "vase", "ellipsoid", "ring", "tube"])
def test_hits_lie_on_the_surface_and_normals_are_its_gradient(name):
    stage, value = implicit(name)
    _, _, (_, owner), seen = view(stage, aim=(0.1, 0, 0.4))
    hit = np.flatnonzero(owner.ravel() == 0)[::7]
    assert len(hit) > 30
    points = seen.points[:, hit]
    np.testing.assert_allclose(value(points), 0, atol=3e-5)
    step = 1e-4
    gradient = np.stack(
        [
            (value(points + step * axis[:, None]) - value(points - step * axis[:, None]))
            for axis in np.eye(3)
        ]
    )
    gradient /= np.sqrt(np.sum(gradient**2, axis=0))
    cosine = np.abs(np.sum(gradient * seen.normals[:, hit], axis=0))
    assert np.quantile(cosine, 0.02) > 0.999


MAKERS = {
    **{f"thing {maker.__name__}": maker for maker in things.OBJECTS},
    **{f"thing {name}": maker for name, maker in things.PLAIN.items()},
    "table": lambda stage, size: furniture.table(stage, (0.5, 0.4), 0.6),
    "chair": lambda stage, size: furniture.chair(stage),
    "sofa": lambda stage, size: furniture.sofa(stage),
    "shelf": lambda stage, size: furniture.shelf(stage),
    "cabinet": lambda stage, size: furniture.cabinet(stage),
    "door": lambda stage, size: furniture.door(stage, 2.0),
    "picture": lambda stage, size: furniture.picture(stage),
    "window": lambda stage, size: furniture.window(stage),
    "plant": nature.plant,
    "tree": lambda stage, size: nature.tree(stage, 1.2),
    "animal": lambda stage, size: nature.animal(stage, 0.5),
    "person": lambda stage, size: people.person(stage, tall=0.9),
    "house": lambda stage, size: places.house(stage),
    "car": lambda stage, size: places.car(stage),
}


@pytest.mark.parametrize("name", MAKERS)
def test_normals_are_those_of_the_depth(name):
    """The cross product of the differences of neighbouring points, where one shape goes on."""
    angles, shown = [], 0
    far = {"house": 9.0, "car": 5.0, "thing shelf": 3.0}.get(name, 2.4)
    for seed in range(4):
        stage = stage_of(10 * seed)
        with stage.object("object"):
            MAKERS[name](stage, 0.35)
        _, _, (_, owner), seen = view(stage, away=far, turn=0.7 * seed)
        points = seen.points.reshape(3, *SIZE)
        normals = seen.normals.reshape(3, *SIZE)
        right = points[:, 1:-1, 2:] - points[:, 1:-1, :-2]
        down = points[:, 2:, 1:-1] - points[:, :-2, 1:-1]
        cross = np.cross(right, down, axis=0)
        cross /= np.maximum(np.sqrt(np.sum(cross**2, axis=0)), 1e-12)
        inside = slice(1, -1)
        smooth = owner[inside, inside] >= 0
        middle = normals[:, inside, inside]
        for rows, columns in (
            (slice(2, None), inside),
            (slice(-2), inside),
            (inside, slice(2, None)),
            (inside, slice(-2)),
        ):
            smooth &= owner[rows, columns] == owner[inside, inside]
            smooth &= np.sum(normals[:, rows, columns] * middle, axis=0) > 0.95
        cosine = np.abs(np.sum(cross * middle, axis=0))
        angles.append(np.rad2deg(np.arccos(np.clip(cosine[smooth], 0, 1))))
        shown += (owner >= 0).sum()
    angles = np.concatenate(angles)
    assert shown > 100
    assert len(angles) > 20
    assert np.median(angles) < 1.0
    assert np.quantile(angles, 0.95) < 6.0


@pytest.mark.parametrize("seed", range(6))
def test_no_window_cuts_a_shape_off(seed):
    """Each shape in its window shows what it shows in the whole image."""
    stage = stage_of(seed)
    setting = places.fill(stage, places.Style(), SIZE[0])
    rays = light.rays(setting.camera, *SIZE)
    depth, owner = light.cast(stage.shapes, setting.camera, rays)
    flat = rays.reshape(3, -1)
    every = np.stack([shape.depths(setting.camera.origin, flat) for shape in stage.shapes])
    np.testing.assert_array_equal(depth.ravel(), every.min(axis=0))
    seen = owner.ravel() >= 0
    np.testing.assert_array_equal(
        np.take_along_axis(every, np.maximum(owner.ravel(), 0)[None], 0)[0][seen],
        depth.ravel()[seen],
    )


def test_an_object_inside_another_stands_in_its_frame():
    stage = stage_of()
    quarter = np.array([[0.0, -1, 0], [1, 0, 0], [0, 0, 1]])
    with stage.object("shelf", (1, 2, 0), quarter):
        outer = stage.instances - 1
        with stage.object("object", (1, 0, 0.5)):
            stage.box((0, 0, 0), (0.1, 0.1, 0.1), stage.material(solid(np.ones(3))))
        stage.box((0, 0, 0), (0.1, 0.1, 0.1), stage.material(solid(np.ones(3))))
    inner, shelf = stage.shapes
    np.testing.assert_allclose(inner.centre, (1, 3, 0.5))
    assert SEMSEG_CLASSES[inner.what.semseg] == "object"
    assert SEMSEG_CLASSES[shelf.what.semseg] == "shelf"
    assert shelf.what.instance == outer != inner.what.instance

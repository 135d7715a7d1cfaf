"""Whole scenes: a furnished room, a table from near, a portrait, a view outdoors.

Each function fills a stage and returns where the camera is and what light there is.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from degmix_training.data._varied import furniture, nature, people
from degmix_training.data._varied.materials import colour, draw, solid
from degmix_training.data._varied.stage import Stage, yaw
from degmix_training.data._varied.things import thing
from degmix_training.data._view import Camera


@dataclass(frozen=True)
class Style:
    """Settings of the renderer.

    Attributes:
        view_deg: Smallest and largest vertical field of view.
        pitch: Lowest and highest pitch of the camera in radians; positive looks down.
        roll: Standard deviation of its roll in radians.
        clutter: Factor on the number of things.
        tint: Largest deviation of a lamp's colour from white.
        chances: How likely a room, a table, a portrait and a view outdoors are.
    """

    view_deg: tuple[float, float] = (42.0, 70.0)
    pitch: tuple[float, float] = (-0.12, 0.42)
    roll: float = 0.04
    clutter: float = 1.0
    tint: float = 0.2
    chances: tuple[float, float, float, float] = (0.52, 0.14, 0.14, 0.2)


@dataclass(frozen=True)
class Setting:
    """The camera and the light of a scene.

    Attributes:
        camera: Where the picture is taken.
        focus: What the shadows are computed around, `(3,)` metres.
        reach: Radius around it in metres.
        lamps: Places `(3,)` of lights with their power; the first one casts shadows.
        is_outdoors: Whether rays that meet nothing see the sky.
        taken: Places on the floor that are not free, with their radius.
    """

    camera: Camera
    focus: np.ndarray
    reach: float
    lamps: list[tuple[np.ndarray, float]]
    is_outdoors: bool = False
    taken: list[tuple[np.ndarray, float]] = field(default_factory=list)


def look_from(
    origin: np.ndarray, angles: tuple[float, float, float], view_deg: float, height: int
) -> Camera:
    """A camera at `origin`; `angles` are yaw, pitch (down is positive) and roll in radians."""
    turn, pitch, roll = angles
    forward = np.array([np.cos(turn) * np.cos(pitch), np.sin(turn) * np.cos(pitch), -np.sin(pitch)])
    right = np.array([np.sin(turn), -np.cos(turn), 0.0])
    down = np.array([-np.cos(turn) * np.sin(pitch), -np.sin(turn) * np.sin(pitch), -np.cos(pitch)])
    c, s = np.cos(roll), np.sin(roll)
    axes = np.stack((c * right + s * down, c * down - s * right, forward), axis=1)
    return Camera(origin, axes, height / 2 / np.tan(np.deg2rad(view_deg) / 2))


def fill(stage: Stage, style: Style, height: int) -> Setting:
    """A scene of a random kind; `height` is the picture's, in pixels."""
    kinds = (room_view, table_view, portrait, outdoors)
    kind = kinds[int(stage.rng.choice(4, p=style.chances))]
    return kind(stage, style, height)


def room_view(stage: Stage, style: Style, height: int) -> Setting:
    """A furnished room from near one of its ends."""
    rng = stage.rng
    size = rng.uniform((3.0, 3.0, 2.3), (8.0, 8.0, 3.4))
    turn = rng.uniform(0, 2 * np.pi)
    ahead = np.array([np.cos(turn), np.sin(turn), 0])
    origin = size / 2 - ahead * size * rng.uniform(0.25, 0.43)
    origin[2] = rng.uniform(0.5, 1.8)
    origin[:2] = np.clip(origin[:2], 0.3, size[:2] - 0.3)
    setting = _setting(stage, style, origin, turn, size, height=height)
    _walls(stage, size)
    _furnish(stage, setting, size, style.clutter)
    return setting


def _setting(
    stage: Stage, style: Style, origin: np.ndarray, turn: float, size: np.ndarray, *, height: int
) -> Setting:
    rng = stage.rng
    angles = (turn, rng.uniform(*style.pitch), rng.normal(0, style.roll))
    camera = look_from(origin, angles, rng.uniform(*style.view_deg), height)
    lamps = []
    for _ in range(int(rng.integers(1, 4))):
        lamp = rng.uniform((0.15, 0.15, 0.75), (0.85, 0.85, 0.97)) * size
        lamps.append((lamp, float(rng.uniform(0.4, 1.2))))
    focus = np.array([size[0] / 2, size[1] / 2, 0.4])
    return Setting(camera, focus, float(np.sqrt(size @ size)) / 2, lamps)


def _walls(stage: Stage, size: np.ndarray) -> None:
    """Six faces, with doors, windows and pictures on the four walls."""
    rng, look = stage.rng, stage.look
    half = size / 2 + 0.02
    wood = ("wood", "grain", "brick", "gravel", "clouds", "marble", "stones")
    with stage.object("floor", is_backdrop=True):
        floor = stage.material(large=True, textures=wood if look.random() < 0.5 else ())
        stage.panel((size[0] / 2, size[1] / 2, 0), (half[0], half[1]), floor)
    with stage.object("ceiling", is_backdrop=True):
        pale = solid(np.clip(colour(look, (0.6, 0.95), 6.0), 0, 1))
        stage.panel((size[0] / 2, size[1] / 2, size[2]), (half[0], half[1]), stage.material(pale))
    paper = draw(look, large=True)
    for index in range(4):
        cover = stage.material(paper if look.random() < 0.8 else draw(look, large=True))
        length, depth = size[1 - index % 2], size[index % 2]
        centre = np.array([size[0] / 2, size[1] / 2, 0]) - yaw(index * np.pi / 2)[:, 0] * depth / 2
        frame = (centre, yaw(index * np.pi / 2))
        with stage.object("wall", *frame, is_backdrop=True):
            upright = np.array([[0, 0, 1.0], [1, 0, 0], [0, 1, 0]])
            stage.panel((0, 0, size[2] / 2), (length / 2 + 0.02, half[2]), cover, upright)
            _hang(stage, length, size[2])
    if rng.random() < 0.35:
        with stage.object("floor", is_backdrop=True):
            rug = rng.uniform(0.5, 1.3, 2)
            at = rng.uniform(0.3, 0.7, 2) * size[:2]
            cloth = stage.material(textures=("cloth", "plaid", "stripes", "clouds"))
            stage.panel((*at, 0.006), (rug[0], rug[1]), cloth, yaw(rng.uniform(0, 3)))


def _hang(stage: Stage, length: float, tall: float) -> None:
    """Fittings of one wall, side by side."""
    rng = stage.rng
    left = -length / 2 + rng.uniform(0.2, 0.8)
    while left < length / 2 - 1.2:
        y = left + 0.6
        kind = rng.random()
        if kind < 0.22:
            with stage.object("door", (0, y, 0), is_backdrop=True):
                furniture.door(stage, min(rng.uniform(1.9, 2.15), tall - 0.15))
        elif kind < 0.42:
            with stage.object("window", (0, y, rng.uniform(1.2, 1.5)), is_backdrop=True):
                furniture.window(stage)
        elif kind < 0.8:
            with stage.object("picture", (0, y, rng.uniform(1.2, 1.8)), is_backdrop=True):
                furniture.picture(stage)
        left += 1.25 + rng.uniform(0, 1.2)


def _free(
    stage: Stage, setting: Setting, size: np.ndarray, radius: float, span: tuple[float, float]
) -> np.ndarray | None:
    """A free spot on the floor, ahead of the camera by a distance within `span`."""
    rng, camera = stage.rng, setting.camera
    ahead, right = camera.turn[:2, 2], camera.turn[:2, 0]
    for _ in range(10):
        far = rng.uniform(*span)
        spot: np.ndarray = camera.origin[:2] + far * ahead + rng.uniform(-0.65, 0.65) * far * right
        clear = all(np.sum((spot - p) ** 2) > (radius + r) ** 2 for p, r in setting.taken)
        if clear and (spot > radius).all() and (spot < size[:2] - radius).all():
            setting.taken.append((spot, radius))
            return spot
    return None


def _furnish(stage: Stage, setting: Setting, size: np.ndarray, clutter: float) -> None:
    rng = stage.rng
    for index in range(4):
        depth = size[index % 2]
        if rng.random() > 0.35:
            continue
        turn = yaw(index * np.pi / 2)
        along = rng.uniform(-0.25, 0.25) * size[1 - index % 2]
        centre = np.array([size[0] / 2, size[1] / 2, 0]) + turn @ (-depth / 2 + 0.02, along, 0)
        if np.sum((centre[:2] - setting.camera.origin[:2]) ** 2) < 1.2:
            continue
        setting.taken.append((centre[:2], 0.6))
        with stage.object("shelf", centre, turn):
            (furniture.shelf if rng.random() < 0.6 else furniture.cabinet)(stage)
    for _ in range(int(rng.choice(4, p=(0.25, 0.4, 0.25, 0.1)))):
        if (spot := _free(stage, setting, size, 0.3, (1.0, 4.5))) is not None:
            with stage.object("person", (*spot, 0), yaw(rng.uniform(0, 2 * np.pi))):
                people.person(stage)
    for _ in range(int(rng.integers(0, 3))):
        if (spot := _free(stage, setting, size, 0.75, (1.3, 4.5))) is not None:
            _table(stage, spot, clutter)
    for _ in range(int(rng.integers(0, 3))):
        if (spot := _free(stage, setting, size, 0.45, (1.2, 4.5))) is not None:
            _seat(stage, spot)
    if rng.random() < 0.25 and (spot := _free(stage, setting, size, 0.3, (0.9, 3.5))) is not None:
        with stage.object("animal", (*spot, 0), yaw(rng.uniform(0, 2 * np.pi))):
            nature.animal(stage, rng.uniform(0.22, 0.6))
    if rng.random() < 0.4 and (spot := _free(stage, setting, size, 0.3, (1.0, 4.5))) is not None:
        with stage.object("plant", (*spot, 0), yaw(rng.uniform(0, 6))):
            nature.plant(stage, rng.uniform(0.25, 0.6))
    for _ in range(int(clutter * rng.integers(1, 5))):
        if (spot := _free(stage, setting, size, 0.33, (0.8, 4.5))) is not None:
            thing(stage, (*spot, 0.0), rng.uniform(0.1, 0.3))


def _table(stage: Stage, spot: np.ndarray, clutter: float) -> None:
    rng = stage.rng
    top, turn = rng.uniform(0.42, 0.8), yaw(rng.uniform(0, np.pi))
    half = (rng.uniform(0.35, 0.8), rng.uniform(0.3, 0.5))
    with stage.object("table", (*spot, 0), turn):
        furniture.table(stage, half, top)
    for _ in range(int(clutter * rng.integers(0, 4))):
        x, y = rng.uniform(-0.6, 0.6, 2) * min(half)
        thing(stage, (spot[0] + x, spot[1] + y, top), rng.uniform(0.05, 0.12), on_table=True)


def _seat(stage: Stage, spot: np.ndarray) -> None:
    """A chair or a sofa, some with a person on it."""
    rng = stage.rng
    turn = yaw(rng.uniform(0, 2 * np.pi))
    with stage.object("chair", (*spot, 0), turn):
        seat = (furniture.chair if rng.random() < 0.65 else furniture.sofa)(stage)
    if rng.random() < 0.35:
        with stage.object("person", (*spot, 0), turn):
            people.person(stage, seat=seat)


def table_view(stage: Stage, style: Style, height: int) -> Setting:
    """A table from near, with cups, plates and other things on it."""
    rng = stage.rng
    size = rng.uniform((3.0, 3.0, 2.3), (5.0, 5.0, 3.0))
    spot = size[:2] * rng.uniform(0.4, 0.6, 2)
    top = rng.uniform(0.6, 0.8)
    turn, pitch = rng.uniform(0, 2 * np.pi), rng.uniform(0.25, 1.25)
    away = rng.uniform(0.4, 0.95)
    back = np.array([np.cos(turn) * np.cos(pitch), np.sin(turn) * np.cos(pitch), -np.sin(pitch)])
    origin = np.array([*spot, top + 0.05]) - away * back
    base = _setting(stage, style, origin, turn, size, height=height)
    angles = (turn, pitch + rng.normal(0, 0.05), rng.normal(0, 1.5 * style.roll))
    camera = look_from(origin, angles, rng.uniform(*style.view_deg), height)
    _walls(stage, size)
    half = (rng.uniform(0.5, 1.0), rng.uniform(0.4, 0.7))
    with stage.object("table", (*spot, 0), yaw(rng.uniform(0, np.pi)), is_backdrop=True):
        furniture.table(stage, half, top)
    taken: list[tuple[np.ndarray, float]] = []
    for _ in range(int(2 + style.clutter * rng.integers(1, 7))):
        place, radius = spot + rng.uniform(-0.38, 0.38, 2), rng.uniform(0.03, 0.085)
        if all(np.sum((place - p) ** 2) > 2.2 * (radius + r) ** 2 for p, r in taken):
            taken.append((place, radius))
            thing(stage, (*place, top), radius, on_table=True)
    return Setting(camera, np.array([*spot, top]), 1.0, base.lamps)


def portrait(stage: Stage, style: Style, height: int) -> Setting:
    """A person's or an animal's head and body from near, in a room or outdoors."""
    rng = stage.rng
    is_outdoors = rng.random() < 0.4
    size = rng.uniform((3.5, 3.5, 2.3), (6.0, 6.0, 3.2))
    spot = np.array([*(size[:2] * rng.uniform(0.35, 0.65, 2)), 0.0])
    turn = rng.uniform(0, 2 * np.pi)
    facing = yaw(turn + np.pi + rng.uniform(-0.8, 0.8))
    if rng.random() < 0.5:
        with stage.object("person", spot, facing):
            head = people.person(stage)
        away = rng.uniform(0.6, 1.9)
    else:
        tall = rng.uniform(0.2, 0.9)
        with stage.object("animal", spot, facing):
            head = nature.animal(stage, tall)
        away = tall * rng.uniform(0.9, 2.6) + 0.15
    lower = rng.uniform(-0.1, 0.35)
    aim = head - np.array([0, 0, rng.uniform(0, 0.25) * away])
    origin = aim - away * yaw(turn) @ (np.cos(lower), 0, -np.sin(lower))
    origin[2] = max(origin[2], 0.08)
    base = _setting(stage, style, origin, turn, size, height=height)
    angles = (
        turn + rng.normal(0, 0.08),
        lower + rng.normal(0, 0.06),
        rng.normal(0, 2 * style.roll),
    )
    camera = look_from(origin, angles, rng.uniform(*style.view_deg), height)
    setting = Setting(camera, head, 1.0, base.lamps, is_outdoors, [(spot[:2], 0.5)])
    if is_outdoors:
        _garden(stage, setting, turn, style)
        return Setting(camera, head, 1.5, [_sun(stage, head)], True)
    _walls(stage, size)
    for _ in range(int(rng.integers(0, 4))):
        if (place := _free(stage, setting, size, 0.4, (away + 0.5, away + 3.0))) is not None:
            thing(stage, (*place, 0.0), rng.uniform(0.15, 0.35))
    if (place := _free(stage, setting, size, 0.6, (away + 0.6, away + 2.5))) is not None:
        with stage.object("shelf", (*place, 0), yaw(turn + np.pi)):
            furniture.shelf(stage)
    return setting


def _sun(stage: Stage, focus: np.ndarray) -> tuple[np.ndarray, float]:
    rng = stage.rng
    angle, tall = rng.uniform(0, 2 * np.pi), rng.uniform(0.35, 1.3)
    up = np.array([np.cos(angle) * np.cos(tall), np.sin(angle) * np.cos(tall), np.sin(tall)])
    return focus + 60 * up, float(rng.uniform(0.3, 1.6))


def outdoors(stage: Stage, style: Style, height: int) -> Setting:
    """A street, a garden or a square."""
    rng = stage.rng
    turn = rng.uniform(0, 2 * np.pi)
    origin = np.array([0, 0, rng.uniform(0.4, 1.9)])
    angles = (turn, rng.uniform(-0.12, 0.3), rng.normal(0, style.roll))
    camera = look_from(origin, angles, rng.uniform(*style.view_deg), height)
    focus = yaw(turn) @ (5.0, 0, 0)
    setting = Setting(camera, focus, 8.0, [_sun(stage, focus)], True)
    _garden(stage, setting, turn, style)

    def spot(low: float, high: float) -> np.ndarray:
        far = rng.uniform(low, high)
        return yaw(turn) @ (far, rng.uniform(-0.6, 0.6) * far, 0)

    for _ in range(int(rng.choice(5, p=(0.3, 0.3, 0.2, 0.1, 0.1)))):
        with stage.object("person", spot(1.8, 9), yaw(rng.uniform(0, 6.3))):
            people.person(stage)
    if rng.random() < 0.35:
        with stage.object("animal", spot(1.5, 7), yaw(rng.uniform(0, 6.3))):
            nature.animal(stage, rng.uniform(0.25, 1.4))
    if rng.random() < 0.3:
        with stage.object("object", spot(4, 10), yaw(rng.uniform(0, 6.3))):
            car(stage)
    if rng.random() < 0.3:
        with stage.object("chair", spot(2, 7), yaw(rng.uniform(0, 6.3))):
            furniture.chair(stage)
    for _ in range(int(style.clutter * rng.integers(1, 6))):
        far = spot(1.2, 7)
        thing(stage, (*far[:2], 0.0), rng.uniform(0.12, 0.4))
    return setting


def _garden(stage: Stage, setting: Setting, turn: float, style: Style) -> None:
    """The ground, houses, a wall or a fence, trees."""
    rng = stage.rng
    with stage.object("floor", is_backdrop=True):
        photographs = ("grass", "gravel", "brick")
        words = photographs if stage.look.random() < 0.75 else ("stones", "clouds", "cloth")
        ground = draw(stage.look, large=True, textures=words)
        cover = replace(ground, size=float(stage.look.uniform(0.6, 2.5)))
        stage.panel((0, 0, 0), (90, 90), stage.material(cover))
    if rng.random() < 0.45:
        with stage.object("floor", is_backdrop=True):
            path = stage.material(large=True)
            place = yaw(turn) @ (0, rng.uniform(-2, 2), 0.01)
            stage.panel(place, (60, rng.uniform(0.5, 1.5)), path, yaw(turn + rng.normal(0, 0.3)))
    for _ in range(int(rng.integers(0, 4))):
        far = rng.uniform(8, 18)
        place = yaw(turn) @ (far, rng.uniform(-0.9, 0.9) * far, 0)
        with stage.object("building", place, yaw(turn + rng.normal(0, 0.4)), is_backdrop=True):
            house(stage)
    for _ in range(int(rng.integers(1, 7))):
        far = rng.uniform(4, 18)
        place = yaw(turn) @ (far, rng.uniform(-0.8, 0.8) * far, 0)
        with stage.object("plant", place, yaw(rng.uniform(0, 6.3))):
            nature.tree(stage, rng.uniform(0.8, 6.0))


def house(stage: Stage) -> None:
    """A house with windows, a door and a flat or a pitched roof; its front is at x = -half."""
    rng, look = stage.rng, stage.look
    half = rng.uniform((1.5, 2.0, 1.5), (4.0, 6.0, 5.0))
    wall = stage.material(large=True, textures=("brick", "clouds") if look.random() < 0.5 else ())
    roof, frame = stage.material(), stage.material(solid(np.full(3, look.uniform(0.1, 0.9))))
    glass = stage.material(solid(np.array([0.3, 0.36, 0.42]) * look.uniform(0.2, 1.8), 0.7))
    stage.box((0, 0, half[2]), half, wall)
    if rng.random() < 0.5:
        for side in (-1, 1):
            lean = np.array([[0.8, 0, 0.6 * side], [0, 1, 0], [-0.6 * side, 0, 0.8]])
            stage.box(
                (side * half[0] / 2, 0, 2 * half[2] + 0.375 * half[0]),
                (0.68 * half[0], half[1] + 0.3, 0.1),
                roof,
                lean,
            )
    floors, count = max(1, round(half[2] / 1.4)), max(1, int(half[1] / 1.0))
    if floors * count > 24:
        count = 24 // floors
    for floor in range(floors):
        for index in range(count):
            y = half[1] * (2 * (index + 0.5) / count - 1)
            at = (-half[0], y, 2.8 * floor + 1.6)
            with stage.object("window", at, is_backdrop=True):
                stage.box((0, 0, 0), (0.05, 0.55, 0.7), frame)
                stage.box((0, 0, 0), (0.051, 0.47, 0.62), glass)
    with stage.object("door", (-half[0], half[1] * rng.uniform(-0.7, 0.7), 0), is_backdrop=True):
        stage.box((0, 0, 1.0), (0.07, 0.5, 1.0), stage.material())


def car(stage: Stage) -> None:
    """A car: a body, a cabin with windows, four wheels."""
    rng, look = stage.rng, stage.look
    paint = stage.material(solid(colour(look, (0.03, 0.9), 1.2), 0.7))
    glass = stage.material(solid(np.full(3, look.uniform(0.03, 0.3)), 0.7))
    dark = stage.material(solid(np.full(3, 0.03)))
    long, wide = rng.uniform(1.7, 2.3), rng.uniform(0.75, 0.9)
    stage.box((0, 0, 0.55), (long, wide, 0.3), paint)
    stage.box((-0.15 * long, 0, 1.1), (0.55 * long, 0.9 * wide, 0.27), glass)
    stage.box((-0.15 * long, 0, 1.4), (0.5 * long, 0.88 * wide, 0.04), paint)
    across = np.array([[1.0, 0, 0], [0, 0, 1.0], [0, -1.0, 0]])
    for x in (-0.62, 0.62):
        for y in (-1, 1):
            stage.cylinder((x * long, y * wide, 0.32), 0.32, 0.11, dark, turn=across)

"""The page stands alone, shows everything, and escapes what users wrote."""

import base64
import hashlib
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from conftest import task_specs
from PIL import Image

from degmix_edge.report.charts import Axis, Bar, Bars, Group, Plot, Point, Series
from degmix_edge.report.gallery import Gallery, map_uri, photo_uri
from degmix_edge.report.page import Report, Table, render
from degmix_edge.report.sheet import CELL_WIDTH, contact_sheet
from degmix_edge.report.views import Panel, view
from degmix_edge.tasks import Task

RNG = np.random.default_rng(0)
SPECS = task_specs(("semseg", "depth", "normals"))
VOID = {"meta", "img", "br", "link", "input", "hr", "path", "circle", "rect"}
NASTY = "<script>alert('x')</script>\"'&"


class Page(HTMLParser):
    """Checks that tags balance; collects links, pictures and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open, self.links, self.pictures, self.text, self.scripts = [], [], [], [], []
        self.feed(html)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.links += [attrs[key] for key in ("href", "src") if key in attrs]
        if tag == "img":
            self.pictures.append(attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag in VOID, tag

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        (self.scripts if "script" in self.open else self.text).append(data)


def maps(seed: int = 0, size=(24, 32)) -> dict:
    rng = np.random.default_rng(seed)
    normals = rng.normal(size=(*size, 3)).astype(np.float32)
    return {
        "semseg": rng.integers(0, 10, size, np.uint8),
        "depth": rng.uniform(0.5, 4, size).astype(np.float32),
        "normals": normals / np.linalg.norm(normals, axis=-1, keepdims=True),
    }


def panel(name: str = "a room", seed: int = 0, noise: float = 0.1, specs=SPECS) -> Panel:
    first, second = maps(seed), maps(seed)
    second["depth"] = second["depth"] + np.float32(noise)
    views = tuple(
        view(spec, {"PyTorch": first[task], "engine": second[task]}) for task, spec in specs.items()
    )
    return Panel(name, "a note", RNG.integers(0, 255, (24, 32, 3), np.uint8), views)


CHARTS = (
    Group(
        "times",
        "shorter is better",
        (
            Bars("ms", (Bar("ours", (("pre", 3.0), ("net", 20.0)), "23 ms"),), ((33.3, "30 Hz"),)),
            Plot(
                "damage",
                Axis("saving [ms]"),
                Axis("damage [%]", log=True),
                (Series("float", (Point(1.0, 1181.0, "layer 1"), Point(0.5, 0.0, "layer 2"))),),
                marks=((100.0, "the budget"),),
            ),
        ),
    ),
)


def report(**changes) -> Report:
    values = {
        "title": "a title",
        "verdict": "good",
        "passed": True,
        "gallery": Gallery([panel()]),
        "charts": CHARTS,
        "facts": (("machine", "mine"),),
        "tables": (Table("numbers", ("a", "b"), (("x", "1"), ("y", "2")), "noted", bad=(1,)),),
        "commands": (("again", "degmix-edge demo"),),
    }
    return Report(**(values | changes))


def test_it_needs_nothing_from_outside():
    html = render(report())
    page = Page(html)
    assert "{{" not in html
    assert all(link.startswith(("data:image/", "#")) for link in page.links)
    (script,) = page.scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    (policy,) = re.findall(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy.replace("&#39;", "'") == (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src 'sha256-{digest}'"
    )


def test_everything_is_on_it():
    page = Page(render(report()))
    layers = [p for p in page.pictures if "layer" in p.get("class", "")]
    assert len(layers) == 2 * len(SPECS)
    # The image, a difference for each task, and the sphere of the normals.
    assert len([p for p in page.pictures if p["alt"]]) == len(layers) + 1 + len(SPECS) + 1
    text = " ".join(page.text)
    words = "a title,good,mine,noted,engine,degmix-edge demo,times,30 Hz,damage [%],1000,towards us"
    for word in words.split(","):
        assert word in text, word
    assert "depth [m]" in text
    assert 'class="bad"' in render(report())
    assert "not passed" in render(report(passed=False))
    assert "passed" not in " ".join(Page(render(report(passed=None))).text)
    html = render(report())
    order = [html.index(f'id="{part}"') for part in ("pictures", "verdict", "charts", "tables")]
    assert order == sorted(order)  # pictures first


def test_text_is_escaped():
    spec = Task("semseg", "", "argmax", None, "class", "miou").spec([f"{NASTY}{i}" for i in "abc"])
    labels = np.array([[0, 1, 2, 0]], np.uint8).repeat(4, 0)
    shown = Panel(NASTY, NASTY, np.zeros((4, 4, 3), np.uint8), (view(spec, {NASTY: labels}),))
    bars = Bars(NASTY, (Bar(NASTY, ((NASTY, 1.0),), NASTY),), ((1.0, NASTY),), NASTY)
    point = (Series(NASTY, (Point(1, 1, NASTY, NASTY),)),)
    plot = Plot(NASTY, Axis(NASTY), Axis(NASTY), point, ((1.0, NASTY),), note=NASTY)
    html = render(
        Report(
            NASTY,
            NASTY,
            True,
            gallery=Gallery([shown, shown], most=1),
            charts=(Group(NASTY, NASTY, (bars, plot), (NASTY,)),),
            tables=(Table(NASTY, (NASTY,), ((NASTY,),), NASTY),),
            facts=((NASTY, NASTY),),
            commands=((NASTY, NASTY),),
            hint=NASTY,
        )
    )
    assert html.count("<script>") == 1  # the page's own
    assert "alert(&#39;x&#39;)" in html
    page = Page(html)
    assert NASTY in " ".join(page.text)
    assert any(NASTY in picture["alt"] for picture in page.pictures)


def test_no_pictures_no_charts():
    page = Page(render(report(gallery=Gallery(), charts=(), tables=(), facts=(), commands=())))
    assert page.pictures == []
    assert not {link for link in page.links if link not in ("#verdict",)}


def test_two_hundred_images_stay_small_and_the_page_says_what_it_left_out():
    gallery = Gallery(worst_first=True, most=1000, limit_bytes=400_000)
    for index in range(200):
        gallery.add(panel(f"image {index}", seed=index % 7, noise=0.001 * ((index * 37) % 200)))
    html = render(report(gallery=gallery))
    assert len(html) < 600_000
    shown = len(gallery.panels)
    assert 1 < shown < 200
    assert f"{shown} of 200 images are shown, those that differ most" in html
    noise = [(int(p.name.split()[1]) * 37) % 200 for p in gallery.panels]
    assert noise == sorted(noise, reverse=True)
    assert noise == list(range(199, 199 - shown, -1))
    assert len(gallery.left_out) == 200 - shown
    assert all(name in html for name in gallery.left_out)


def test_galleries_of_several_processes_are_one():
    panels = [panel(f"image {n}", seed=n, noise=0.01 * ((n * 5) % 12)) for n in range(12)]
    whole, parts = Gallery(worst_first=True, most=4), Gallery(worst_first=True, most=4)
    for one in panels:
        whole.add(one)
    for start in range(0, 12, 3):
        part = Gallery(worst_first=True, most=4)
        for one in panels[start : start + 3]:
            part.add(one)
        parts.merge(part)
    assert parts.panels == whole.panels
    assert [p.name for p in parts.panels] == ["image 7", "image 2", "image 9", "image 4"]
    assert sorted(parts.left_out) == sorted(whole.left_out)
    assert len(parts.left_out) == 8


def test_one_image_too_large_for_the_limit_is_still_shown():
    gallery = Gallery([panel("one"), panel("two")], limit_bytes=10)
    assert [p.name for p in gallery.panels] == ["one"]
    assert gallery.left_out == ["two"]


def test_maps_lose_nothing_and_photographs_are_jpeg():
    for picture in (
        np.zeros((64, 64, 3), np.uint8),
        RNG.integers(0, 255, (64, 64, 3), np.uint8),
    ):
        kind, content = map_uri(picture).split(",")
        assert re.fullmatch("data:image/(png|webp);base64", kind)
        with Image.open(io.BytesIO(base64.b64decode(content))) as image:
            assert (np.asarray(image.convert("RGB")) == picture).all()
    assert photo_uri(picture).startswith("data:image/jpeg;base64,")


def test_the_sheet_holds_every_picture():
    spec, size = SPECS["semseg"], (48, 64)
    one, two = (np.full(size, index, np.uint8) for index in (1, 2))
    shown = view(spec, {"one": one, "two": two})
    blue = np.zeros((*size, 3), np.uint8) + np.array([0, 0, 254], np.uint8)
    sheet = np.asarray(contact_sheet([Panel("p", "", blue, (shown,))]))
    assert sheet.shape[1] < 2400
    cell = CELL_WIDTH * CELL_WIDTH * 48 // 64
    assert (sheet == (0, 0, 254)).all(-1).sum() == cell
    for index in (1, 2):
        assert (sheet == spec.palette[index]).all(-1).sum() == cell
    assert (sheet == shown.difference.picture[0, 0]).all(-1).sum() == cell


@pytest.mark.parametrize("scheme", [0, 1], ids=["light", "dark"])
def test_texts_have_contrast(scheme):
    """WCAG 2: 4.5 for texts; every colour of the style sheet has a light and a dark value."""
    from importlib import resources

    style = resources.files("degmix_edge.report").joinpath("templates/style.css").read_text()
    pairs = dict(re.findall(r"--([\w-]+): light-dark\((#\w+, #\w+)\)", style))
    value = {name: text.split(", ")[scheme] for name, text in pairs.items()}
    for ink in ("ink", "soft", "good", "bad"):
        for paper in ("paper", "card"):
            assert contrast(value[ink], value[paper]) >= 4.5, (ink, paper)
    assert contrast(value["ink"], value["heat"]) >= 4.5
    for tone in range(4):
        assert contrast(value[f"tone-{tone}"], value["card"]) >= 3
        assert contrast(value["on-tone"], value[f"tone-{tone}"]) >= 3


def contrast(one: str, other: str) -> float:
    values = sorted((luminance(one), luminance(other)))
    return (values[1] + 0.05) / (values[0] + 0.05)


def luminance(colour: str) -> float:
    share = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(share <= 0.04045, share / 12.92, ((share + 0.055) / 1.055) ** 2.4)
    return float(linear @ (0.2126, 0.7152, 0.0722))

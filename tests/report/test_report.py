"""The page stands alone and shows everything; the sheet holds the pictures."""

from html.parser import HTMLParser

import numpy as np
from conftest import task_specs

from degmix_edge.report.page import Panel, Report, Row, Table, data_uri, render
from degmix_edge.report.sheet import CELL_WIDTH, contact_sheet

RNG = np.random.default_rng(0)
TASKS = tuple(task_specs(("semseg", "depth")).values())
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """Checks that tags balance; collects links, pictures and text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open, self.links, self.pictures, self.text = [], [], [], []
        self.feed(html)
        assert not self.open, self.open

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.links += [attrs[key] for key in ("href", "src") if key in attrs]
        if tag == "img":
            self.pictures.append(attrs)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def panel(name: str = "a room", rows: int = 2) -> Panel:
    def picture():
        return RNG.integers(0, 255, (48, 64, 3), np.uint8)

    made = [Row(f"way {i}", {t.name: picture() for t in TASKS}) for i in range(rows)]
    return Panel(name, "a note", picture(), tuple(made))


def report(**changes) -> Report:
    values = {
        "title": "a title",
        "verdict": "good",
        "passed": True,
        "facts": (("machine", "mine"),),
        "tables": (Table("numbers", ("a", "b"), (("x", "1"), ("y", "2")), "noted", bad=(1,)),),
        "tasks": TASKS,
        "panels": (panel(),),
        "commands": (("again", "degmix-edge demo"),),
    }
    return Report(**(values | changes))


def test_it_needs_nothing_from_outside():
    html = render(report())
    page = Page(html)
    assert "{{" not in html
    assert all(link.startswith(("data:image/", "#")) for link in page.links)
    assert "<script" not in html


def test_everything_is_on_it():
    page = Page(render(report()))
    assert len(page.pictures) == 1 + 2 * len(TASKS)
    assert all(picture["alt"] for picture in page.pictures)
    text = " ".join(page.text)
    for word in ("a title", "good", "mine", "noted", "way 1", "degmix-edge demo", "ceiling"):
        assert word in text
    assert 'class="bad"' in render(report())
    assert "verdict failed" in render(report(passed=False))


def test_text_is_escaped():
    nasty = "<script>alert('x')</script>"
    changes = {key: nasty for key in ("title", "verdict")}
    html = render(report(**changes, panels=(panel(nasty),), facts=((nasty, nasty),)))
    assert "<script>" not in html
    assert nasty in " ".join(Page(html).text)


def test_no_panels():
    assert Page(render(report(panels=()))).pictures == []


def test_flat_maps_are_png_and_photographs_jpeg():
    assert data_uri(np.zeros((64, 64, 3), np.uint8)).startswith("data:image/png")
    noise = RNG.integers(0, 255, (64, 64, 3), np.uint8)
    assert data_uri(noise).startswith("data:image/jpeg")


def test_the_sheet_holds_every_picture():
    red, blue = (
        (np.zeros((48, 64, 3)) + colour).astype(np.uint8) for colour in ((255, 0, 0), (0, 0, 255))
    )
    rows = (Row("one", {"semseg": red}), Row("two", {"semseg": red, "depth": blue}))
    sheet = np.asarray(contact_sheet([Panel("p", "", blue, rows)], TASKS))
    assert sheet.shape[1] < 2400
    cell = CELL_WIDTH * CELL_WIDTH * 48 // 64
    assert (sheet == (255, 0, 0)).all(-1).sum() == 2 * cell
    assert (sheet == (0, 0, 255)).all(-1).sum() == 2 * cell

"""Pages in headless Chromium: nothing in the console, no overflow, and every control works."""

import json

import numpy as np
import pytest
from browser import WIDTHS, look, needs_chromium
from PIL import Image
from test_report import report

from degmix_edge.report.gallery import Gallery
from degmix_edge.report.page import Table, render

pytestmark = [pytest.mark.slow(file_seconds=15), needs_chromium]

USE = """(page, window) => {
  const style = (one, name) => window.getComputedStyle(one).getPropertyValue(name).trim();
  const all = (query) => [...page.querySelectorAll(query)];
  const shown = (query) => all(query).filter((one) => one.getClientRects().length);
  const fire = (one, kind) => one.dispatchEvent(new window.Event(kind, { bubbles: true }));
  const used = { images: shown(".panel").length, tasks: shown(".stage").length };
  all(".pills label").at(-1).click();
  used.task = shown(".stage figcaption span").map((one) => one.textContent);

  const wipe = shown(".wipe")[0], frame = wipe.parentElement;
  wipe.value = 20;
  fire(wipe, "input");
  used.cut = style(frame, "--cut");
  used.line = 100 * frame.querySelector(".line").offsetLeft / frame.clientWidth;

  const right = page.querySelector("#right"), photo = page.querySelector(".photo .frame");
  right.value = "the image";
  fire(right, "change");
  used.right = frame.parentElement.querySelector(".name-right").textContent;
  used.photo = frame.querySelector(".layer.right").src === photo.querySelector("img").src;

  page.querySelector('[data-zoom="2"]').click();
  used.zoom = style(photo, "--zoom");
  const before = style(photo, "--x");
  const key = { key: "ArrowRight", bubbles: true, cancelable: true };
  photo.dispatchEvent(new window.KeyboardEvent("keydown", key));
  used.moved = style(photo, "--x") !== before;
  page.querySelector('[data-zoom="0"]').click();
  used.whole = style(photo, "--zoom");

  const table = page.querySelector("table"), head = table.tHead.rows[0].cells[1];
  const column = () => [...table.tBodies[0].rows].map((row) => row.cells[1].textContent.trim());
  head.querySelector("button").click();
  used.up = column();
  head.querySelector("button").click();
  used.down = column();
  used.sorted = head.getAttribute("aria-sort");

  const paper = style(page.body, "background-color");
  page.querySelector("#theme").click();
  used.theme = style(page.body, "background-color") !== paper;
  return used;
}"""
TABLE = Table(
    "numbers", ("name", "value"), (("a", "10 %"), ("b", "-2 %"), ("c", "-"), ("d", "9 %"))
)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_control_works(tmp_path, scheme):
    page = tmp_path / "page.html"
    page.write_text(render(report(tables=(TABLE,))))
    found = look(page, tmp_path, USE, scheme)
    assert found.is_well(), found
    assert sorted(found.by_width) == sorted(WIDTHS)
    for value in found.by_width.values():
        used = value["used"]
        assert used["images"] == used["tasks"] == 1
        assert used["task"] == ["normals"]
        assert used["cut"] == "20%"
        assert abs(used["line"] - 20) <= 1
        assert (used["right"], used["photo"]) == ("image", True)
        assert (used["zoom"], used["moved"], used["whole"]) == ("2", True, "1")
        assert used["up"] == ["-2 %", "9 %", "10 %", "-"]
        assert used["down"] == ["10 %", "9 %", "-2 %", "-"]
        assert used["sorted"] == "descending"
        assert used["theme"]


def test_faults_are_found(tmp_path):
    page = tmp_path / "page.html"
    good = render(report())
    wide = good.replace("<main>", '<main><div style="width:2000px">wide</div>')
    loads = good.replace("<main>", '<main><img src="https://example.com/a.png" alt="">')
    runs = good.replace("<main>", "<main><script>document.title = 'run'</script>")
    for bad in (wide, loads, runs):
        page.write_text(bad)
        assert not look(page, tmp_path).is_well()


def test_a_comparison_of_one_image_without_labels(cli, tmp_path, bundles, checkpoint_path):
    (tmp_path / "photos <b>").mkdir()
    picture = np.random.default_rng(0).integers(0, 255, (70, 90, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "photos <b>" / "only <i>one.png")
    command = ["compare", bundles["int8"].path, checkpoint_path, "--data", "photos <b>"]
    command += ["--max-disagreement", "1e9", "--report", "page.html"]
    code, out, err = cli(*command, "--json")
    assert code == 0, err
    assert set(json.loads(out)) >= {"bundle", "data", "comparison"}
    assert "report: file://" in err
    html = (tmp_path / "page.html").read_text()
    assert "without labels" in html
    assert "There are no labels; PyTorch" in html
    assert "only &lt;i&gt;one.png" in html
    assert "<i>one" not in html
    assert look(tmp_path / "page.html", tmp_path).is_well()
    code, _, err = cli(*command)
    assert code != 0
    assert "page.html: exists; give --force" in err


def test_many_images_with_labels_show_the_worst_first(
    cli, tmp_path, bundles, checkpoint_path, monkeypatch
):
    monkeypatch.setattr("degmix_edge.report.gallery.MOST_IMAGES", 3)
    command = ["compare", bundles["int8"].path, checkpoint_path, "--data", "synthetic:8"]
    code, _, err = cli(*command, "--max-drop", "1e9", "--report", "page.html")
    assert code == 0, err
    page = tmp_path / "page.html"
    assert page.stat().st_size < 30_000_000
    html = page.read_text()
    assert "3 of 8 images are shown, those that differ most" in html
    assert "Left out: scene" in html
    use = """(page) => ({
      panels: page.querySelectorAll(".panel").length,
      shown: [...page.querySelectorAll(".panel")].filter((e) => e.getClientRects().length).length,
      layers: page.querySelector("#left").options.length,
    })"""
    found = look(page, tmp_path, use)
    assert found.is_well(), found
    assert found.by_width[390]["used"] == {"panels": 3, "shown": 1, "layers": 4}


def test_a_gallery_without_pictures(tmp_path):
    page = tmp_path / "page.html"
    page.write_text(render(report(gallery=Gallery())))
    assert look(page, tmp_path).is_well()

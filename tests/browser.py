"""Open a page in headless Chromium, on a phone and on a desk, and use it."""

import html
import json
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

WIDTHS = (390, 1400)
NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)
OUTER = """<!doctype html><meta charset="utf-8"><body style="margin:0">{frames}
<pre id="result"></pre><script>
const frames = [...document.querySelectorAll("iframe")];
const result = {{}};
const look = (frame) => {{
  const page = frame.contentDocument, root = page.documentElement;
  const images = [...page.images];
  const value = {{
    overflow: root.scrollWidth - root.clientWidth,
    images: images.length,
    broken: images.filter((one) => one.complete && !one.naturalWidth).length,
    loaded: frame.contentWindow.performance.getEntriesByType("resource")
      .map((one) => one.name).filter((name) => !name.startsWith("data:")),
  }};
  const use = {use};
  value.used = use(page, frame.contentWindow);
  result[frame.width] = value;
}};
addEventListener("load", () => setTimeout(() => {{
  frames.forEach(look);
  document.querySelector("#result").textContent = JSON.stringify(result);
}}, 300));
</script>"""
needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed")


@dataclass(frozen=True)
class Looked:
    """What Chromium found, by width; `console` has everything that the page's console says."""

    console: list[str]
    by_width: dict[int, dict]

    def is_well(self) -> bool:
        """Nothing in the console, no horizontal overflow, no broken picture, nothing loaded."""
        return not self.console and all(
            not (v["overflow"] or v["broken"] or v["loaded"]) for v in self.by_width.values()
        )


def look(page: Path, folder: Path, use: str = "() => null", scheme: str = "light") -> Looked:
    """Open `page` at both widths.

    Args:
        page: The HTML file.
        folder: Gets the outer page and Chromium's profile.
        use: A JavaScript function `(document, window) -> value` that uses the page.
        scheme: `light` or `dark`.
    """
    frames = "".join(
        f'<iframe src="{page.absolute().as_uri()}" width="{width}" height="900"></iframe>'
        for width in WIDTHS
    )
    outer = folder / "outer.html"
    outer.write_text(OUTER.format(frames=frames, use=use))
    done = subprocess.run(
        [
            *(CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
            *("--allow-file-access-from-files", "--enable-logging=stderr", "--dump-dom"),
            f"--blink-settings=preferredColorScheme={int(scheme == 'light')}",
            *(f"--user-data-dir={folder / 'profile'}", "--virtual-time-budget=5000"),
            *("--window-size=1500,2000", outer.as_uri()),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    (text,) = re.findall(r'<pre id="result">(.*?)</pre>', done.stdout, re.DOTALL)
    assert text, done.stderr
    console = [line for line in done.stderr.splitlines() if ":CONSOLE" in line]
    values = json.loads(html.unescape(text))
    return Looked(console, {int(width): value for width, value in values.items()})

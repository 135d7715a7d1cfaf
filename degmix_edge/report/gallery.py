"""The pictures of a page as data URIs, within a limit that keeps the page small."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image

from degmix_edge.report.legends import Legend
from degmix_edge.report.views import Panel, View

LIMIT_BYTES = 24_000_000
"""Of all pictures of a page, which with its texts stays below 30 MB."""
MOST_IMAGES = 48
JPEG_QUALITY = 85
THUMBNAIL = 112
"""Width of a thumbnail in pixels."""


@dataclass(frozen=True)
class ShownLegend:
    """A legend whose disc is a data URI, empty where it has none."""

    values: Legend
    disc: str


@dataclass(frozen=True)
class ShownView:
    """A view whose pictures are data URIs; `difference` is empty where there is none."""

    task: str
    layers: dict[str, str]
    legend: ShownLegend
    difference: str = ""
    difference_legend: ShownLegend | None = None
    text: str = ""


@dataclass(frozen=True)
class ShownPanel:
    """A panel whose pictures are data URIs, with the size of the largest one in pixels."""

    name: str
    note: str
    image: str
    thumbnail: str
    width: int
    height: int
    views: dict[str, ShownView]
    share: float

    @property
    def size_bytes(self) -> int:
        """The bytes of all pictures."""
        views = self.views.values()
        layers = sum(len(uri) for v in views for uri in (*v.layers.values(), v.difference))
        return len(self.image) + len(self.thumbnail) + layers


class Gallery:
    """Panels that are encoded as they are added, so that thousands of images fit into memory.

    Args:
        panels: The first panels.
        worst_first: Show the images that differ most, those first; else keep the order.
        limit_bytes: The most that all pictures may take.
        most: The most images; None is `MOST_IMAGES`.
    """

    def __init__(
        self,
        panels: Iterable[Panel] = (),
        *,
        worst_first: bool = False,
        limit_bytes: int = LIMIT_BYTES,
        most: int | None = None,
    ) -> None:
        self.worst_first, self.limit_bytes = worst_first, limit_bytes
        self.most = MOST_IMAGES if most is None else most
        self.panels: list[ShownPanel] = []
        self.left_out: list[str] = []
        self._is_full = False
        for panel in panels:
            self.add(panel)

    def add(self, panel: Panel) -> None:
        """Encode and keep `panel`; if the page is full then, leave out what differs least."""
        if self._takes(panel):
            self._keep(shown_panel(panel))

    def merge(self, other: Gallery) -> None:
        """Add the panels that another process has encoded."""
        self.left_out += other.left_out
        for panel in other.panels:
            if self._takes(panel):
                self._keep(panel)

    def _takes(self, panel: Panel | ShownPanel) -> bool:
        """Whether there is room for a panel; if not, it is left out."""
        if self._is_full and not (self.worst_first and panel.share > self.panels[-1].share):
            self.left_out.append(panel.name)
            return False
        return True

    def _keep(self, panel: ShownPanel) -> None:
        self.panels.append(panel)
        if self.worst_first:
            self.panels.sort(key=lambda p: -p.share)
        while self._is_too_large() and len(self.panels) > 1:
            self.left_out.append(self.panels.pop().name)
            self._is_full = True

    def _is_too_large(self) -> bool:
        size = sum(panel.size_bytes for panel in self.panels)
        return size > self.limit_bytes or len(self.panels) > self.most

    @property
    def tasks(self) -> list[str]:
        """The names of the tasks, without repetition."""
        return list(dict.fromkeys(task for panel in self.panels for task in panel.views))

    @property
    def layers(self) -> list[str]:
        """The names of the layers, without repetition."""
        views = (view for panel in self.panels for view in panel.views.values())
        return list(dict.fromkeys(name for view in views for name in view.layers))

    @property
    def note(self) -> str:
        """How many images are shown and what was left out; empty where all are shown."""
        if not self.left_out:
            return ""
        count, total = len(self.panels), len(self.panels) + len(self.left_out)
        which = "those that differ most" if self.worst_first else "the first ones"
        return f"{count} of {total} images are shown, {which}, so that the page stays small."


def shown_panel(panel: Panel) -> ShownPanel:
    """Encode the pictures of a panel."""
    height, width = panel.image.shape[:2]
    small = Image.fromarray(panel.image).resize((THUMBNAIL, max(1, THUMBNAIL * height // width)))
    return ShownPanel(
        panel.name,
        panel.note,
        photo_uri(panel.image),
        photo_uri(np.asarray(small)),
        width,
        height,
        {view.task.name: _shown_view(view) for view in panel.views},
        panel.share,
    )


def _shown_view(view: View) -> ShownView:
    layers = {name: map_uri(picture) for name, picture in view.layers.items()}
    gap = view.difference
    if gap is None:
        return ShownView(view.task.name, layers, _shown_legend(view.legend))
    return ShownView(
        view.task.name,
        layers,
        _shown_legend(view.legend),
        map_uri(gap.picture),
        _shown_legend(gap.legend),
        gap.text,
    )


def _shown_legend(legend: Legend) -> ShownLegend:
    return ShownLegend(legend, "" if legend.disc is None else map_uri(legend.disc))


def photo_uri(picture: np.ndarray) -> str:
    """Return a photograph `(H, W, 3)` uint8 as the data URI of a JPEG."""
    return _uri(Image.fromarray(picture), "jpeg", quality=JPEG_QUALITY)


def map_uri(picture: np.ndarray) -> str:
    """Return a coloured map `(H, W, 3)` uint8 as a data URI without any loss.

    It is a PNG with a palette where that has at most 256 colours. Else it is a WebP, or a PNG where
    Pillow has no WebP.
    """
    from PIL import features

    flat = picture.reshape(-1, 3).astype(np.uint32) @ np.array([65536, 256, 1], np.uint32)
    colours, index = np.unique(flat, return_inverse=True)
    if len(colours) <= 256:
        image = Image.fromarray(index.reshape(picture.shape[:2]).astype(np.uint8), "P")
        rgb = np.stack([colours >> 16, colours >> 8 & 255, colours & 255], -1)
        image.putpalette(rgb.astype(np.uint8).tobytes())
        return _uri(image, "png", optimize=True)
    if features.check("webp"):
        return _uri(Image.fromarray(picture), "webp", lossless=True, quality=30, method=2)
    return _uri(Image.fromarray(picture), "png", optimize=True)


def _uri(image: Image.Image, kind: str, **options: object) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"

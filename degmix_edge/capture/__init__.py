"""Where a stream's frames come from: one file for each kind of source.

The file name is the registry: a module here defines `recognises(text)` and `open_source(text,
options)`, and other distributions add kinds by entry points of group `degmix_edge.sources`.
"""

from __future__ import annotations

from degmix_edge import registry
from degmix_edge.capture._base import CapturedFrame, Source, SourceOptions
from degmix_edge.capture._iterable import IterableSource
from degmix_edge.errors import SourceError

__all__ = ["CapturedFrame", "IterableSource", "Source", "SourceOptions", "open_source"]
PACKAGE = "degmix_edge.capture"


def open_source(text: str, options: SourceOptions | None = None) -> Source:
    """Return the source that a text names; the stream that reads it opens it.

    Args:
        text: A camera's device or number, the path of a video, a recording or a folder of images,
            the URL of a network camera, `gst:` and a pipeline of GStreamer, or `synthetic`.
        options: Size, rate and format that the source should have, and how it is replayed.

    Raises:
        SourceError: No kind of source recognises the text; the message lists what each expects.
        ConfigError: An option does not fit this kind of source.
    """
    expected = []
    for _, module in registry.modules(PACKAGE):
        if module.recognises(text):
            source: Source = module.open_source(text, options or SourceOptions())
            return source
        expected.append(module.EXPECTED)
    raise SourceError(f"source {text!r}: no such source; expected {', or '.join(expected)}")

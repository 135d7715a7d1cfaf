"""Where a stream's results go: one file for each kind of sink.

The file name is the registry: a module here defines `recognises(text)`, `open_sink(text, network,
options)` and `EXPECTED`, and other distributions add kinds by entry points of group
`degmix_edge.sinks`.
"""

from __future__ import annotations

from degmix_edge import registry
from degmix_edge.errors import ConfigError
from degmix_edge.network import NetworkSpec
from degmix_edge.sinks._base import Sink, SinkOptions
from degmix_edge.sinks._view import View

__all__ = ["Sink", "SinkOptions", "View", "open_sink"]
PACKAGE = "degmix_edge.sinks"


def open_sink(text: str, network: NetworkSpec, options: SinkOptions | None = None) -> Sink:
    """Return the sink that a text names.

    Args:
        text: The path of a recording (`maps.mcap`), a video (`overlay.mp4`) or a folder, or a live
            view (`rerun` or `foxglove`).
        network: What computes the maps, with its tasks.
        options: What is written, and whether files are replaced.

    Raises:
        ConfigError: No kind of sink recognises the text; the message lists what each expects. Or an
            option does not fit, or a package is missing.
        OutputError: The file exists, or cannot be written.
    """
    expected = []
    for _, module in registry.modules(PACKAGE):
        if module.recognises(text):
            sink: Sink = module.open_sink(text, network, options or SinkOptions())
            return sink
        expected.append(module.EXPECTED)
    raise ConfigError(f"output {text!r}: no such kind; expected {', or '.join(expected)}")

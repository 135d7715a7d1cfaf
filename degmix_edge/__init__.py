"""degmix-edge: multi-task dense prediction from PyTorch to a robot.

>>> import degmix_edge
>>> with degmix_edge.load("robot.degmix") as session:
...     maps = session("kitchen.jpg")
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from degmix_edge._version import __version__

if TYPE_CHECKING:
    from degmix_edge.runtime import load

__all__ = ["__version__", "load"]


def __getattr__(name: str) -> Any:
    # `import degmix_edge` stays free of numpy and pydantic: `degmix-edge --help` imports it.
    if name == "load":
        from degmix_edge.runtime import load

        return load
    raise AttributeError(f"module 'degmix_edge' has no attribute {name!r}")

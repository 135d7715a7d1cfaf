"""Show what workflows report on a terminal: `with shown(): degmix_edge.build(...)`.

>>> from degmix_edge.terminal import shown
>>> with shown():
...     degmix_edge.build("degmix_tiny", "robot.degmix", calibration="photos/")
"""

from degmix_edge.terminal.listener import shown
from degmix_edge.terminal.output import Output

__all__ = ["Output", "shown"]

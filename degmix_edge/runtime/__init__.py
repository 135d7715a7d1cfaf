"""The runtime: open a bundle, give it images, get task maps. Numpy, pydantic and Pillow only."""

from degmix_edge.runtime.latency import Latency
from degmix_edge.runtime.maps import Maps, TaskMap
from degmix_edge.runtime.session import Session, load

__all__ = ["Latency", "Maps", "Session", "TaskMap", "load"]

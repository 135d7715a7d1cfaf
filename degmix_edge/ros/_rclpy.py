"""rclpy, which a ROS installation brings: found when it is needed, and its messages filled fast."""

from __future__ import annotations

import array
import os
import sys
from collections.abc import Callable
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from degmix_edge.errors import BackendError
from degmix_edge.ros.shared_memory import use_profile
from degmix_edge.ros.types import Message, as_ros

DISTRIBUTIONS = {"humble": "22.04", "jazzy": "24.04", "kilted": "24.04", "lyrical": "26.04"}
"""Distributions that the node is meant for, with their Ubuntu."""
ROOT = Path("/opt/ros")


def need_rclpy() -> Any:
    """Return the module rclpy, with our settings of shared memory where the user has none.

    Raises:
        BackendError: There is none; the message says what to source or to install.
    """
    try:
        rclpy = import_module("rclpy")
        import_module("sensor_msgs.msg")
        import_module("diagnostic_msgs.msg")
    except ImportError as error:
        raise BackendError(f"ros: {error.name} cannot be imported ({error}); {_advice()}") from None
    use_profile()
    return rclpy


def _advice() -> str:
    """What to type so that rclpy can be imported."""
    installed = sorted(path.parent.name for path in ROOT.glob("*/setup.bash"))
    own = f"{sys.version_info.major}.{sys.version_info.minor}"
    if os.environ.get("ROS_DISTRO"):
        return (
            f"ROS {os.environ['ROS_DISTRO']} is sourced, and this is Python {own}: its packages "
            "belong to the system's Python, so install degmix-edge for that one, in a virtual "
            "environment with --system-site-packages"
        )
    if installed:
        return f"type: source {ROOT / installed[-1] / 'setup.bash'}"
    lines = ", ".join(f"ros-{name}-ros-base on Ubuntu {at}" for name, at in DISTRIBUTIONS.items())
    return f"no ROS is in {ROOT}: install {lines}, then type: source {ROOT}/DISTRIBUTION/setup.bash"


def has_vision_messages() -> bool:
    """Whether this installation has `vision_msgs`, without which class names are not published."""
    try:
        return hasattr(import_module("vision_msgs.msg"), "LabelInfo")
    except ImportError:
        return False


def to_ros(message: Message) -> Any:
    """Return a message as rclpy publishes it."""
    return as_ros(message, _maker)


@cache
def _maker(ros_type: str) -> Callable[..., Any]:
    package, _, name = ros_type.split("/")
    kind = getattr(import_module(f"{package}.msg"), name)

    def make(**fields: Any) -> Any:
        return kind(**{field: _value(field, value) for field, value in fields.items()})

    return make


def _value(field: str, value: Any) -> Any:
    if isinstance(value, np.ndarray) and value.dtype == np.uint8:
        # An array of bytes is taken as it is; each element of any other sequence is checked.
        packed = array.array("B")
        packed.frombytes(value.data)
        return packed
    if isinstance(value, np.ndarray):
        return value.tolist()
    return bytes([value]) if field == "level" else value

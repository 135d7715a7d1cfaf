"""The node's parameters: what they are, what they may be, and which may change while it runs."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from degmix_edge.errors import ConfigError
from degmix_edge.registry import unknown
from degmix_edge.runtime.schedule import MOST_HZ

MOST_STRIDE = 32
"""A map of one pixel in so many shows nothing any more."""
EVERY_FRAME = MOST_HZ
"""The rate of a task that runs on every image: no camera is as fast."""
TRANSPORTS = ("raw", "compressed")
RELIABILITIES = ("reliable", "best_effort")
TASK_FIELDS = ("rate_hz", "priority", "stride")
MILLISECONDS = {
    "budget_ms": "Milliseconds that one image may cost; 0 is no limit.",
    "max_age_ms": "Milliseconds after which an image is not computed any more; 0 is no limit.",
}
"""Live parameters of the whole stream."""


@dataclass(frozen=True)
class Settings:
    """What the node is asked for when it is configured.

    Attributes:
        bundle: The bundle's folder.
        backend: The name of a backend, or `auto`.
        threads: CPU threads; 0 is what `load` takes without a number.
        size: Height and width of a bundle with several sizes, as in `448x672`; empty is its first.
        image_topic: The camera's images.
        camera_info_topic: Their calibration; empty is `camera_info` beside the images.
        image_transport: `raw`, or `compressed` for JPEG or PNG on `<image_topic>/compressed`.
        input_reliability: `auto` takes what the camera offers.
        output_reliability: Reliability of the maps; `reliable` serves every subscriber.
        native: Maps at the camera's size instead of the network's.
    """

    bundle: str = ""
    backend: str = "auto"
    threads: int = 0
    size: str = ""
    image_topic: str = "image"
    camera_info_topic: str = ""
    image_transport: str = "raw"
    input_reliability: str = "auto"
    output_reliability: str = "reliable"
    native: bool = False

    def check(self) -> None:
        """Raise a ConfigError where a text is none of those that are allowed."""
        for name, allowed in (
            ("image_transport", TRANSPORTS),
            ("input_reliability", ("auto", *RELIABILITIES)),
            ("output_reliability", RELIABILITIES),
        ):
            if getattr(self, name) not in allowed:
                raise ConfigError(f"{name}: {unknown(name, getattr(self, name), allowed)}")
        if not self.bundle:
            raise ConfigError("bundle: no bundle is given; give its path: -p bundle:=robot.degmix")
        if self.size and not re.fullmatch(r"\d+x\d+", self.size):
            raise ConfigError(f"size: got {self.size!r}, expected height x width, as in 448x672")

    @property
    def loading(self) -> dict[str, Any]:
        """The arguments of `load`."""
        size = tuple(map(int, self.size.split("x"))) if self.size else None
        return {"backend": self.backend, "threads": self.threads or None, "size": size}


@dataclass
class Live:
    """What may change while the node runs.

    Attributes:
        budget_ms: Milliseconds that one image may cost; 0 is no limit.
        max_age_ms: Milliseconds after which an image is not computed any more; 0 is no limit.
        rate_hz: Runs a second by task; 0 is never, and 1000 is every image.
        priority: By task; of two tasks with equal deadlines the higher goes first.
        stride: By task; of the published map one pixel in so many in each direction.
    """

    budget_ms: float = 0.0
    max_age_ms: float = 0.0
    rate_hz: dict[str, float] = field(default_factory=dict)
    priority: dict[str, int] = field(default_factory=dict)
    stride: dict[str, int] = field(default_factory=dict)

    def rate(self, task: str) -> float | None:
        """The rate of a task as a schedule takes it."""
        return None if self.rate_hz[task] >= EVERY_FRAME else self.rate_hz[task]

    def take(self, name: str, value: Any) -> bool:
        """Take a parameter's value, after `problem` found nothing; return whether it is ours."""
        if name in MILLISECONDS:
            setattr(self, name, float(value))
            return True
        task, key = _task_and_key(name)
        if key not in TASK_FIELDS or task not in self.rate_hz:
            return False
        getattr(self, key)[task] = float(value) if key == "rate_hz" else int(value)
        return True


def problem(name: str, value: Any) -> str:
    """Return why a live parameter cannot have a value; empty where it can."""
    _, key = _task_and_key(name)
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if name in MILLISECONDS and not (is_number and 0 <= value < math.inf):
        return f"{name}: got {value}, expected milliseconds above 0, or 0 for no limit"
    if key == "rate_hz" and not (is_number and 0 <= value <= MOST_HZ):
        return (
            f"{name}: got {value}, expected 0 (never) to {MOST_HZ:.0f} (every image) runs a second"
        )
    if key == "priority" and (not is_number or value != int(value)):
        return f"{name}: got {value}, expected a whole number; a higher one goes first"
    if key == "stride" and not (is_number and value in range(1, MOST_STRIDE + 1)):
        return f"{name}: got {value}, expected a whole number from 1 to {MOST_STRIDE}"
    return ""


class Parameters:
    """The node's parameters in ROS.

    Args:
        ros: The node of rclpy.
        bundle: The default of the parameter `bundle`.
        on_change: Called after live parameters have changed.

    Attributes:
        live: The live values of the tasks that are declared.
    """

    def __init__(self, ros: Any, bundle: str, on_change: Callable[[], None]) -> None:
        self._ros, self._on_change = ros, on_change
        self.live = Live()
        self.is_configured = False
        defaults = vars(Settings(bundle=bundle))
        for name, default in defaults.items():
            ros.declare_parameter(name, default)
        self._names = tuple(defaults)
        for name, about in MILLISECONDS.items():
            self._declare(name, 0.0, about)
        ros.add_on_set_parameters_callback(self._on_set)

    @property
    def settings(self) -> Settings:
        """Return the present values of all parameters.

        Raises:
            ConfigError: A value is none of those that are allowed.
        """
        settings = Settings(**{n: self._ros.get_parameter(n).value for n in self._names})
        settings.check()
        return settings

    def configure(self, tasks: Iterable[str]) -> None:
        """Declare the parameters of the tasks, and take their values.

        Raises:
            ConfigError: A value is out of range, or belongs to a task that there is not.
        """
        names = tuple(tasks)
        self._check_overrides(names)
        self.live = Live()
        for name in MILLISECONDS:
            self.live.take(name, self._value(name))
        self.live.rate_hz = dict.fromkeys(names, EVERY_FRAME)
        for task in names:
            about = f"Runs of {task} a second; 0 is never, {EVERY_FRAME:.0f} is every image."
            self._declare(f"tasks.{task}.rate_hz", EVERY_FRAME, about)
            about = f"Of equal deadlines, that of {task} comes first if this is higher."
            self._declare(f"tasks.{task}.priority", 0, about)
            about = f"Publish one pixel of {task} in so many in each direction."
            self._declare(f"tasks.{task}.stride", 1, about)
            for key in TASK_FIELDS:
                name = f"tasks.{task}.{key}"
                self.live.take(name, self._value(name))
        self.is_configured = True

    def release(self) -> None:
        """Forget the tasks: settings may change again until the next `configure`."""
        self.is_configured = False
        for task in self.live.rate_hz:
            for key in TASK_FIELDS:
                self._ros.undeclare_parameter(f"tasks.{task}.{key}")
        self.live = Live()

    def _declare(self, name: str, default: Any, about: str) -> None:
        from rcl_interfaces.msg import FloatingPointRange, ParameterDescriptor

        # Dynamic, so that a whole number is taken for a rate: `rate_hz: 10`.
        descriptor = ParameterDescriptor(description=about, dynamic_typing=True)
        if name.endswith("rate_hz"):
            ends = FloatingPointRange(from_value=0.0, to_value=MOST_HZ)
            descriptor.floating_point_range = [ends]
        if not self._ros.has_parameter(name):
            try:
                self._ros.declare_parameter(name, default, descriptor)
            except Exception as error:  # rclpy has several of its own, without a common base
                raise ConfigError(f"{name}: {error}") from None

    def _value(self, name: str) -> Any:
        value = self._ros.get_parameter(name).value
        if text := problem(name, value):
            raise ConfigError(text)
        return value

    def _check_overrides(self, tasks: tuple[str, ...]) -> None:
        """ROS ignores the value of a parameter that nobody declares, so a typing error would pass.

        Raises:
            ConfigError: A value is given for a task that the bundle does not have.
        """
        for name in getattr(self._ros, "_parameter_overrides", ()):
            if not name.startswith("tasks."):
                continue
            task, key = _task_and_key(name)
            if task not in tasks:
                raise ConfigError(f"{name}: {unknown('task', task, tasks)}")
            if key not in TASK_FIELDS:
                raise ConfigError(f"{name}: {unknown('parameter of a task', key, TASK_FIELDS)}")

    def _on_set(self, parameters: list[Any]) -> Any:
        from rcl_interfaces.msg import SetParametersResult

        for one in parameters:
            if self.is_configured and one.name in self._names:
                why = f"{one.name}: is read when the node is configured; deactivate and clean it up"
                return SetParametersResult(successful=False, reason=why)
            if text := problem(one.name, one.value):
                return SetParametersResult(successful=False, reason=text)
        # All of them are taken only now, so that a refused one changes nothing.
        if any([self.live.take(one.name, one.value) for one in parameters]):
            self._on_change()
        return SetParametersResult(successful=True)


def _task_and_key(name: str) -> tuple[str, str]:
    """The task and the last part of a name such as `tasks.depth.rate_hz`; a task may have dots."""
    if not name.startswith("tasks."):
        return "", ""
    task, _, key = name.removeprefix("tasks.").rpartition(".")
    return task, key

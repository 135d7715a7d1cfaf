"""The node: a lifecycle node over a stream, which works for those who subscribe and nobody else."""

from __future__ import annotations

import threading
import time
import traceback
from collections.abc import Callable
from typing import Any

from degmix_edge.capture._ros_image import image_of
from degmix_edge.errors import BackendError, ConfigError, DegmixError, InputError
from degmix_edge.network import IMAGE
from degmix_edge.ros import messages
from degmix_edge.ros._rclpy import to_ros
from degmix_edge.ros.camera import CameraTopics, calibration_of, captured_ns, stamp_ns
from degmix_edge.ros.diagnostics import ERROR, OK, Rates, status_of
from degmix_edge.ros.outputs import TaskOutput, outputs_of
from degmix_edge.ros.settings import Parameters
from degmix_edge.ros.types import CameraInfo, DiagnosticArray, DiagnosticStatus, Header, Time
from degmix_edge.runtime.results import StreamResult
from degmix_edge.runtime.session import Session, load
from degmix_edge.runtime.stream import CAMERA, Stream

NAME = "degmix_edge"
"""What the node is called, where nobody remaps `__node`."""
LOOK_S = 0.2
"""Seconds between two looks at who subscribes and who publishes."""
REPORT_S = 1.0
"""Seconds between two reports on `/diagnostics`."""
WAIT_S = 0.2
"""Seconds that the worker waits for a result before it looks whether it shall stop."""


class MapsNode:
    """Runs a bundle on a camera's images and publishes the maps that somebody reads.

    It is configured when the bundle is loaded and the publishers exist, and active while it
    computes. The executor's thread lays images into the stream; a worker takes the results and
    publishes them.

    Args:
        bundle: The default of the parameter `bundle`.

    Attributes:
        ros: The lifecycle node of rclpy, for an executor.
        error: What went wrong last; None where nothing did.
        has_failed: Whether the node cannot go on.
    """

    def __init__(self, bundle: str = "") -> None:
        self.error: BaseException | None = None
        self.has_failed = self._is_stopping = False
        self.ros = _lifecycle_node(self)
        self._parameters = Parameters(self.ros, bundle, self._apply)
        self._session: Session | None = None
        self._stream: Stream | None = None
        self._camera: CameraTopics | None = None
        self._outputs: dict[str, TaskOutput] = {}
        self._info: CameraInfo | None = None
        self._rates: dict[str, float | None] = {}
        self._measured = Rates()
        self._stages: dict[str, float] = {}
        self._said: set[str] = set()
        self._timers: list[Any] = []
        self._worker: threading.Thread | None = None
        self._diagnostics: Any = None

    # Transitions of the lifecycle.

    def configure(self) -> None:
        """Load the bundle and offer its topics.

        Raises:
            ConfigError: A parameter is out of range, or the network takes more than one image.
            BundleError, BackendError: The bundle cannot be opened or run.
        """
        from diagnostic_msgs.msg import DiagnosticArray as RosDiagnostics

        settings = self._parameters.settings
        self._session = load(settings.bundle, **settings.loading)
        network = self._session.spec
        for one in network.inputs:
            if one.kind not in ("intrinsics", "state"):
                raise ConfigError(
                    f"{settings.bundle}: the network takes {one.name!r} ({one.kind}) beside the "
                    "image, and the node has one camera; write a program with degmix_edge.stream"
                )
        self._parameters.configure(task.name for task in network.tasks if not task.is_raw)
        self._outputs = outputs_of(self.ros, network, settings)
        self._camera = CameraTopics(self.ros, settings, self._on_image, self._on_info)
        self._diagnostics = self.ros.create_publisher(RosDiagnostics, "/diagnostics", 10)
        self._timers = [self.ros.create_timer(REPORT_S, self._report)]
        self.ros.get_logger().info(
            f"{settings.bundle}: {', '.join(network.task_names)} on {self._session.backend.name}; "
            f"images from {self._camera.topic}"
        )

    def activate(self) -> None:
        """Begin to compute, for as long as there are subscribers."""
        assert self._session is not None  # the lifecycle has configured it
        self._is_stopping = False
        self._stream = Stream(self._session, {CAMERA: None})
        self._rates = dict.fromkeys(self._session.spec.task_names)
        self._measured = Rates()
        self._apply()
        self._worker = threading.Thread(target=self._publish, name="degmix-ros", daemon=True)
        self._worker.start()
        self._timers.append(self.ros.create_timer(LOOK_S, self._look))

    def deactivate(self) -> None:
        """Stop computing within two seconds; the bundle stays loaded."""
        self._is_stopping = True
        if self._camera is not None:
            self._camera.close()
        for timer in self._timers[1:]:
            self.ros.destroy_timer(timer)
        self._timers = self._timers[:1]
        if self._stream is not None:
            self._stream.close()
        if self._worker is not None:
            self._worker.join(WAIT_S * 5)
        self._stream = self._worker = None

    def clean_up(self) -> None:
        """Let go of the bundle and take the topics away."""
        self.deactivate()
        for timer in self._timers:
            self.ros.destroy_timer(timer)
        for output in self._outputs.values():
            output.close()
        if self._diagnostics is not None:
            self.ros.destroy_publisher(self._diagnostics)
        if self._session is not None:
            self._session.close()
        if self._parameters.is_configured:
            self._parameters.release()
        self._timers, self._outputs, self._said = [], {}, set()
        self._camera = self._session = self._info = self._diagnostics = None

    # Callbacks of the executor.

    def _on_image(self, message: Any) -> None:
        if self._stream is None or self._session is None:
            return
        stamp = stamp_ns(message.header)
        now = self.ros.get_clock().now().nanoseconds
        try:
            image, kind = image_of(message)
            self._stream.put(
                self._with_intrinsics(image),
                stamp,
                captured_ns=captured_ns(stamp, now),
                format=kind,
                frame_id=message.header.frame_id,
            )
        except InputError as error:
            self._say_once(f"{self._camera and self._camera.topic}: {error}")
        except BackendError as error:
            self._fail(error)

    def _with_intrinsics(self, image: Any) -> Any:
        """The frame of a network that takes the camera matrix too.

        Raises:
            InputError: There is no calibration.
        """
        assert self._session is not None
        names = [one.name for one in self._session.spec.inputs if one.kind == "intrinsics"]
        if not names:
            return image
        if self._info is None or not messages.is_calibrated(self._info):
            raise InputError(f"the network takes {names[0]}, and the camera has no calibration")
        return {IMAGE: image, names[0]: messages.intrinsics(self._info)}

    def _on_info(self, message: Any) -> None:
        info = calibration_of(message)
        if not messages.is_calibrated(info):
            self._say_once("the camera is not calibrated (K is zero): no cloud is published")
        self._info = info

    def _look(self) -> None:
        """Follow subscribers and the camera."""
        if self._camera is None:
            return
        self._apply()
        self._camera.update(is_wanted=any(out.is_wanted for out in self._outputs.values()))
        own = (self.ros.get_name(), self.ros.get_namespace())
        if self.ros.get_node_names_and_namespaces().count(own) > 1:
            self._say_once(
                f"another node is called {self.ros.get_fully_qualified_name()} too, and both "
                "answer for its parameters: start one with --ros-args -r __node:=OTHER_NAME"
            )

    def _apply(self) -> None:
        """Give the stream its rates: a task that nobody reads never runs."""
        stream, live = self._stream, self._parameters.live
        if stream is None:
            return
        for task, output in self._outputs.items():
            rate = live.rate(task) if output.is_wanted else 0.0
            if rate != self._rates[task]:
                stream.set_rate(task, rate)
                self._rates[task] = rate
            stream.set_priority(task, live.priority[task])
        for task in self._rates.keys() - self._outputs.keys():
            stream.set_rate(task, 0.0)
        stream.budget_ms, stream.max_age_ms = live.budget_ms or None, live.max_age_ms or None

    def _report(self) -> None:
        stream, now = self._stream, self.ros.get_clock().now().to_msg()
        name, bundle = self.ros.get_name(), self._parameters.settings.bundle
        if self.has_failed:
            status = DiagnosticStatus(ERROR, name, str(self.error), bundle)
        elif stream is None or self._camera is None:
            status = DiagnosticStatus(OK, name, "inactive", bundle)
        else:
            stats = stream.stats
            self._measured.update(stats.cameras[CAMERA])
            status = status_of(name, bundle, stats, self._measured, self._facts())
        self._diagnostics.publish(
            to_ros(DiagnosticArray(Header(Time(now.sec, now.nanosec)), (status,)))
        )

    def _facts(self) -> dict[str, str]:
        assert self._camera is not None
        wanted = [task for task, output in self._outputs.items() if output.is_wanted]
        facts = {
            "images from": self._camera.topic,
            "subscription": self._camera.reliability or "none, because nobody reads the maps",
            "stamps": "of the images' headers",
            **{f"last {name}": f"{value:.2f}" for name, value in self._stages.items()},
            "tasks with subscribers": ", ".join(wanted) or "none",
        }
        for task, rate in self._measured.above_camera(self._rates).items():
            self._say_once(
                f"tasks.{task}.rate_hz is {rate:g}, and the camera gives "
                f"{self._measured.camera_hz:.1f} images a second: {task} runs on every image"
            )
        if not self._camera.has_publisher:
            facts["warning"] = f"nobody publishes {self._camera.topic}"
        return facts

    # The worker: the only thread that publishes maps.

    def _publish(self) -> None:
        stream = self._stream
        assert stream is not None
        try:
            while True:
                try:
                    result = stream.read(WAIT_S)
                except TimeoutError:
                    continue
                if result is None:
                    return
                self._publish_one(result)
        except Exception as error:
            if self._stream is stream and not self._is_stopping:
                self._fail(error)

    def _publish_one(self, result: StreamResult) -> None:
        start, info = time.monotonic(), self._info
        placed = result.maps[result.fresh[0]].placement
        size = placed.image_height, placed.image_width
        if info is not None and not messages.fits_image(info, *size):
            self._say_once(
                f"the calibration is of {info.width}x{info.height} pixels and the images have "
                f"{size[1]}x{size[0]}: neither camera_info nor a cloud is published"
            )
            info = None
        # Masks are small and wait for nobody; normals are the largest and come last.
        for task in sorted(result.fresh, key=lambda one: result.maps[one].nbytes):
            output = self._outputs.get(task)
            if output is not None:
                like = messages.mask_of(result.maps, result.maps[task])
                output.publish(result, info, like, self._parameters.live.stride)
        self._stages = {**result.stages, "publish_ms": (time.monotonic() - start) * 1e3}

    def _say_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self.ros.get_logger().warning(text)

    def _fail(self, error: BaseException) -> None:
        self.error, self.has_failed = error, True
        self.ros.get_logger().fatal(str(error))


def _lifecycle_node(owner: MapsNode) -> Any:
    """The node of rclpy, whose transitions are those of `owner`. A class needs rclpy to exist."""
    from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn

    def step(action: Callable[[], None]) -> Any:
        try:
            action()
        except DegmixError as error:
            owner.error = error
            owner.ros.get_logger().error(str(error))
            return TransitionCallbackReturn.FAILURE
        except Exception as error:  # rclpy keeps quiet about what it catches
            owner.error = error
            owner.ros.get_logger().error(traceback.format_exc())
            raise
        return TransitionCallbackReturn.SUCCESS

    class Node(LifecycleNode):  # type: ignore[misc]
        def on_configure(self, state: Any) -> Any:
            done = step(owner.configure)
            if done != TransitionCallbackReturn.SUCCESS:
                owner.clean_up()
            return done

        def on_activate(self, state: Any) -> Any:
            return step(owner.activate)

        def on_deactivate(self, state: Any) -> Any:
            return step(owner.deactivate)

        def on_cleanup(self, state: Any) -> Any:
            return step(owner.clean_up)

        def on_shutdown(self, state: Any) -> Any:
            return step(owner.clean_up)

        def on_error(self, state: Any) -> Any:
            return step(owner.clean_up)

    return Node(NAME)

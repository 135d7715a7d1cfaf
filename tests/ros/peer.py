"""Another process on the robot: a camera, or whoever reads maps. It obeys JSON lines on stdin.

It runs under the interpreter that has rclpy, and knows nothing of the package.
"""

import array
import base64
import json
import sys
import threading
import time
from importlib import import_module

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

ARRAYS = ("data", "d", "k", "r", "p")


def kind_of(text):
    package, _, name = text.split("/")
    return getattr(import_module(f"{package}.msg"), name)


def plain(value):
    """A message as JSON; bytes are base64."""
    if hasattr(value, "get_fields_and_field_types"):
        return {name: plain(getattr(value, name)) for name in value.get_fields_and_field_types()}
    if isinstance(value, array.array) and value.typecode == "B":
        return base64.b64encode(value.tobytes()).decode()
    if isinstance(value, bytes):
        return value[0]
    if isinstance(value, (list, array.array, np.ndarray)):
        return [plain(one) for one in value]
    return value


class Peer:
    def __init__(self, name):
        rclpy.init()
        self.node = rclpy.create_node(name)
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.node)
        self.sent, self.got, self.last, self.subscriptions = [], {}, {}, {}
        self.camera = None

    def do_camera(
        self,
        topic,
        fps,
        image,
        encoding="rgb8",
        size=None,
        frame_id="",
        step=0,
        reliability="reliable",
        info=None,
        compressed="",
    ):
        from sensor_msgs.msg import CameraInfo, CompressedImage, Image

        qos = QoSProfile(depth=1, reliability=ReliabilityPolicy[reliability.upper()])
        data = array.array("B", base64.b64decode(image))
        if compressed:
            message = CompressedImage(format=compressed, data=data)
        else:
            height, width = size
            message = Image(height=height, width=width, encoding=encoding, step=step, data=data)
        publisher = self.node.create_publisher(type(message), topic, qos)
        calibration, infos = None, None
        if info is not None:
            fields = {name: info[name] for name in ("height", "width", "k", "p", "r", "d")}
            calibration = CameraInfo(distortion_model="plumb_bob", **fields)
            base = topic.removesuffix("/compressed")
            infos = self.node.create_publisher(
                CameraInfo, base.rpartition("/")[0] + "/camera_info", qos
            )

        def send():
            message.header.stamp = self.node.get_clock().now().to_msg()
            message.header.frame_id = frame_id
            if infos is not None:
                calibration.header = message.header
                infos.publish(calibration)
            publisher.publish(message)
            stamp = message.header.stamp
            self.sent.append([stamp.sec, stamp.nanosec])

        self.camera = self.node.create_timer(1 / fps, send), publisher, infos

    def do_end_camera(self):
        timer, *publishers = self.camera
        self.node.destroy_timer(timer)
        for one in filter(None, publishers):
            self.node.destroy_publisher(one)

    def do_readers(self):
        return self.camera[1].get_subscription_count()

    def do_sent(self):
        return self.sent

    def do_listen(self, topics, reliability="reliable", depth=10, latched=False, work_s=0.0):
        durability = DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE
        for topic, kind in topics.items():
            qos = QoSProfile(
                depth=depth,
                reliability=ReliabilityPolicy[reliability.upper()],
                durability=durability,
            )
            self.got[topic] = []

            def take(message, info, topic=topic):
                self.take(topic, message, info["received_timestamp"])
                time.sleep(work_s)

            self.subscriptions[topic] = self.node.create_subscription(
                kind_of(kind), topic, take, qos
            )

    def take(self, topic, message, arrived):
        """Note a message: its stamp and frame, and its ages when Python and when DDS had it."""
        self.last[topic] = message
        stamp = message.header.stamp
        taken = stamp.sec * 10**9 + stamp.nanosec
        ages = self.node.get_clock().now().nanoseconds - taken, arrived - taken
        self.got[topic].append([stamp.sec, stamp.nanosec, message.header.frame_id, *ages])

    def do_unlisten(self):
        for one in self.subscriptions.values():
            self.node.destroy_subscription(one)
        self.subscriptions = {}

    def do_got(self, topic):
        return self.got[topic]

    def do_last(self, topic):
        return plain(self.last[topic]) if topic in self.last else None

    def do_topics(self):
        return dict(self.node.get_topic_names_and_types())

    def do_call(self, service, kind, **fields):
        package, _, name = kind.split("/")
        kind = getattr(import_module(f"{package}.srv"), name)
        client = self.node.create_client(kind, service)
        try:
            assert client.wait_for_service(15), f"no service {service}"
            future = client.call_async(self.request(kind.Request(), fields))
            # The executor spins in another thread.
            deadline = time.monotonic() + 15
            while not future.done():
                assert time.monotonic() < deadline, f"{service} does not answer"
                time.sleep(0.005)
            return plain(future.result())
        finally:
            self.node.destroy_client(client)

    def request(self, request, fields):
        from rcl_interfaces.msg import Parameter
        from rclpy.parameter import Parameter as Value

        if "transition" in fields:
            request.transition.id = fields["transition"]
        if "set" in fields:
            request.parameters = [
                Value(name, value=float(value) if value == "nan" else value).to_parameter_msg()
                for name, value in fields["set"].items()
            ]
            assert all(isinstance(one, Parameter) for one in request.parameters)
        return request

    def run(self):
        thread = threading.Thread(target=self.executor.spin, daemon=True)
        thread.start()
        for line in sys.stdin:
            command = json.loads(line)
            try:
                answer = {"answer": getattr(self, f"do_{command.pop('do')}")(**command)}
            except Exception as error:
                answer = {"error": repr(error)}
            print(json.dumps(answer), flush=True)
        self.executor.shutdown(timeout_sec=1)
        thread.join(2)


if __name__ == "__main__":
    Peer(sys.argv[1]).run()

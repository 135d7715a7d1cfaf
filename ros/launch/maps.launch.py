"""Start the node: `ros2 launch degmix_edge_ros maps.launch.py bundle:=robot.degmix`."""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode
from launch_ros.parameter_descriptions import ParameterValue

from degmix_edge.ros.shared_memory import PROFILE, profile_variable


def generate_launch_description():
    """Return what `ros2 launch` starts."""
    share = Path(get_package_share_directory("degmix_edge_ros"))
    arguments = {
        "bundle": ("", "The bundle's folder."),
        "image": ("/camera/image_raw", "The camera's images."),
        "namespace": ("", "The namespace of the maps."),
        "params_file": (str(share / "config" / "maps.yaml"), "The node's parameters."),
        "autostart": ("true", "Activate the node at once; false waits for a lifecycle manager."),
    }
    value = {name: LaunchConfiguration(name) for name in arguments}
    node = LifecycleNode(
        package="degmix_edge_ros",
        executable="maps",
        name="degmix_edge",
        namespace=value["namespace"],
        output="screen",
        parameters=[
            value["params_file"],
            {
                "bundle": ParameterValue(value["bundle"], value_type=str),
                "image_topic": ParameterValue(value["image"], value_type=str),
                "autostart": ParameterValue(value["autostart"], value_type=bool),
            },
        ],
    )
    return LaunchDescription(
        [
            *(
                DeclareLaunchArgument(name, default_value=default, description=about)
                for name, (default, about) in arguments.items()
            ),
            # The camera needs it too, when it is started from another launch file.
            SetEnvironmentVariable(profile_variable(), str(PROFILE)),
            node,
        ]
    )

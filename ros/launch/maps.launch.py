"""Start the node: `ros2 launch degmix_edge_ros maps.launch.py bundle:=robot.degmix`."""

from pathlib import Path

from ament_index_python.packages import get_package_share_directory
from launch import LaunchDescription
from launch.actions import DeclareLaunchArgument, SetEnvironmentVariable
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode
from launch_ros.parameter_descriptions import ParameterValue

import degmix_edge.ros

# Fast DDS of Kilted and later reads the first, and that of Humble and Jazzy the second.
PROFILE_VARIABLES = ("FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE")


def generate_launch_description():
    """Return what `ros2 launch` starts."""
    share = Path(get_package_share_directory("degmix_edge_ros"))
    profile = Path(degmix_edge.ros.__file__).with_name("fastdds_shm.xml")
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
            *(SetEnvironmentVariable(name, str(profile)) for name in PROFILE_VARIABLES),
            node,
        ]
    )

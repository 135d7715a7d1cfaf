"""The ROS 2 package: the node of degmix-edge, with its launch file and its parameters."""

from setuptools import setup

NAME = "degmix_edge_ros"

setup(
    name=NAME,
    version="0.1.0",
    packages=[NAME],
    data_files=[
        ("share/ament_index/resource_index/packages", [f"resource/{NAME}"]),
        (f"share/{NAME}", ["package.xml"]),
        (f"share/{NAME}/launch", ["launch/maps.launch.py"]),
        (f"share/{NAME}/config", ["config/maps.yaml"]),
    ],
    # degmix-edge itself comes by pip, because rosdep does not know it.
    install_requires=["setuptools"],
    zip_safe=True,
    description="Dense prediction of several tasks by one network, as a ROS 2 node.",
    license="Apache-2.0",
    entry_points={"console_scripts": [f"maps = {NAME}.maps:main"]},
)

"""ROS 2: task maps as messages, and a node over a stream. Nothing here needs ROS until it runs."""

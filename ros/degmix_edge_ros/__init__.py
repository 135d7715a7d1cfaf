"""The ROS 2 package of degmix-edge."""

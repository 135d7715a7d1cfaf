"""Settings of Fast DDS under which large images pass through shared memory without loss."""

from __future__ import annotations

import os
from pathlib import Path

PROFILE = Path(__file__).with_name("fastdds_shm.xml")
"""The settings. Other middlewares never look at them."""
VARIABLE, OLD_VARIABLE = "FASTDDS_DEFAULT_PROFILES_FILE", "FASTRTPS_DEFAULT_PROFILES_FILE"
"""The environment variable that names the file, in Kilted and later, and before."""


def profile_variable() -> str:
    """Return the name of the variable that the sourced distribution reads."""
    return OLD_VARIABLE if os.environ.get("ROS_DISTRO") in ("humble", "jazzy") else VARIABLE


def use_profile() -> None:
    """Name the file in this process's environment, where the user names none.

    Fast DDS reads it when the first node is made.
    """
    if VARIABLE not in os.environ and OLD_VARIABLE not in os.environ:
        os.environ[profile_variable()] = str(PROFILE)

"""`ros2 run degmix_edge_ros maps`: the node, whose bundle is a parameter."""

import sys

from degmix_edge.errors import DegmixError
from degmix_edge.ros.spinning import spin


def main() -> None:
    """Run the node until a signal; an error is one line and an exit code."""
    try:
        spin("", sys.argv[1:])
    except DegmixError as error:
        print(f"degmix_edge: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()

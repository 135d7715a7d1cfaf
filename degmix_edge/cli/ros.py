"""`degmix-edge ros`."""

from __future__ import annotations

from pathlib import Path

import click

from degmix_edge.cli._types import PATH
from degmix_edge.cli._verb import verb
from degmix_edge.terminal import Output

GROUP = "Run"


def _print_profile(context: click.Context, parameter: click.Parameter, is_asked: bool) -> None:
    if is_asked and not context.resilient_parsing:
        from degmix_edge.ros.shared_memory import PROFILE

        click.echo(PROFILE)
        context.exit()


@verb(
    "ros robot.degmix --ros-args -r image:=/camera/image_raw",
    "ros robot.degmix --ros-args -p tasks.semseg.rate_hz:=10 -p native:=true",
    context_settings={"ignore_unknown_options": True},
)
@click.argument("bundle", type=PATH)
@click.argument("ros_args", nargs=-1, type=click.UNPROCESSED, metavar="[--ros-args ...]")
@click.option(
    "--shm-profile",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_profile,
    help="Print the path of the Fast DDS profile for other nodes, and exit.",
)
def command(output: Output, bundle: Path, ros_args: tuple[str, ...]) -> None:
    """Run BUNDLE as a ROS 2 node until Ctrl-C.

    It computes the maps that somebody subscribes to. ROS must be sourced.
    """
    from degmix_edge.ros.spinning import spin

    spin(str(bundle), ros_args)
    output.say("the node has stopped")
    output.result({"bundle": bundle})

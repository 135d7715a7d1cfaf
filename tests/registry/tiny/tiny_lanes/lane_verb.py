"""`degmix-edge lane-verb`."""

import click


@click.command()
@click.option("--times", default=1)
def command(times: int) -> None:
    """Say how many lanes there are."""
    click.echo(f"{2 * times} lanes")

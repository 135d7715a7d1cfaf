"""`python -m degmix_edge` is `degmix-edge`."""

from degmix_edge.cli import main

main()

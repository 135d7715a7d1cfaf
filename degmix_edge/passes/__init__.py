"""Graph-surgeon passes, one file each. `pipeline.py` has their order and its reasons."""

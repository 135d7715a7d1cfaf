"""Run a bundle over everything: maps and their summaries in shards, on one machine or many."""

from degmix_edge.workflows.label.run import Labels, label

__all__ = ["Labels", "label"]

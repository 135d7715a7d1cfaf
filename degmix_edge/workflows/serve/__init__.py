"""Serve a bundle over HTTP with Ray Serve: replicas, batches, deadlines and metrics."""

from degmix_edge.workflows.serve.options import ServeOptions
from degmix_edge.workflows.serve.run import Server, serve

__all__ = ["ServeOptions", "Server", "serve"]

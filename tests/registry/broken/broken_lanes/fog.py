"""A module whose own import fails."""

raise ImportError("libfog.so.3 is missing")

"""A stand-in for PyCUDA; the driver has it all."""

VERSION = (2026, 1)
VERSION_TEXT = "2026.1"

"""The errors that a user can cause, each with its exit code.

A message says which thing is wrong, what it got, what was expected and what to do.
"""

from __future__ import annotations


class DegmixError(Exception):
    """Base of all errors that the command line prints without a traceback."""

    exit_code = 1


class ConfigError(DegmixError):
    """A setting, a task name or an option that does not exist or does not fit."""

    exit_code = 3


class InputError(DegmixError):
    """An image, a folder of images or a data set that cannot be read."""

    exit_code = 4


class CheckpointError(DegmixError):
    """A checkpoint that is missing or damaged, or belongs to another model."""

    exit_code = 5


class GraphError(DegmixError):
    """An ONNX file that cannot be read, or a graph that a pass cannot work on."""

    exit_code = 6


class ShapeError(DegmixError):
    """An array whose dtype or shape differs from its specification."""

    exit_code = 7


class BuildError(DegmixError):
    """A build whose bundle could not be trusted, because of NaN or a failed golden check."""

    exit_code = 8


class BundleError(DegmixError):
    """A bundle that is incomplete, was changed, or has a newer schema."""

    exit_code = 9


class BackendError(DegmixError):
    """A backend that is unknown, is not installed, or failed while it ran."""

    exit_code = 10


class CudaError(DegmixError):
    """A CUDA call that failed."""

    exit_code = 11


class OutputError(DegmixError):
    """A target that exists, is read-only, or whose disk is full."""

    exit_code = 12


class AccuracyError(DegmixError):
    """A comparison in which a task is out of tolerance."""

    exit_code = 13


class TrainingError(DegmixError):
    """A training run that diverged or lost one of its processes; it can be resumed."""

    exit_code = 14


class SourceError(DegmixError):
    """A camera or another source of frames that cannot be opened, or that stopped giving frames."""

    exit_code = 15


class DegmixWarning(UserWarning):
    """Something that a user should notice, although nothing failed."""


INTERRUPTED = 130
"""Exit code after Ctrl-C, by the convention of shells: 128 + SIGINT."""

"""The interface of whatever takes a stream's results."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, TracebackType

from degmix_edge.errors import ConfigError
from degmix_edge.network import NetworkSpec
from degmix_edge.runtime.results import StreamResult
from degmix_edge.tasks import TaskSpec

VIEW_HZ = 10.0
"""Results a second that a live view shows, unless it is told otherwise."""


@dataclass(frozen=True)
class SinkOptions:
    """What a user may ask of a sink. Each kind takes what makes sense for it.

    Attributes:
        tasks: Tasks to write or show; none is all.
        force: Replace a file that is there.
        image: Whether a recording has the camera's images too.
        native: Whether files of single frames have each image's own size instead of the network's.
        rate_hz: Results a second that a live view shows at most.
    """

    tasks: tuple[str, ...] = ()
    force: bool = False
    image: bool = False
    native: bool = False
    rate_hz: float = VIEW_HZ

    def chosen(self, network: NetworkSpec) -> tuple[TaskSpec, ...]:
        """Return the tasks that are maps, in the network's order.

        Raises:
            ConfigError: The network has no task of one of the names.
        """
        for name in self.tasks:
            network.task(name)
        return tuple(
            task
            for task in network.tasks
            if not task.is_raw and (not self.tasks or task.name in self.tasks)
        )


class Sink(ABC):
    """Takes results one after the other. Close it with `with` or `close()`.

    Attributes:
        name: What messages call it.
        path: The file or the folder that it writes; None of a view.
        count: Results that are in it.
    """

    name: str
    path: Path | None = None
    count: int = 0

    @abstractmethod
    def write(self, result: StreamResult) -> None:
        """Take a result. A live view may leave results out; a file has all of them.

        Raises:
            OutputError: The file cannot be written.
        """

    @abstractmethod
    def close(self) -> None:
        """Finish the file, or end the view. A second call does nothing.

        Raises:
            OutputError: The file cannot be finished.
        """

    def __enter__(self) -> Sink:
        """Return the sink itself, which is open since it was made."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close the sink. A file keeps what it was given, also after an error elsewhere."""
        self.close()


def need(module: str, extra: str, sink: str) -> ModuleType:
    """Import a module of a package that only some kinds of sink need.

    Raises:
        ConfigError: It cannot be imported; the message names the extra that brings it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"{sink}: this kind of output needs {module.partition('.')[0]} ({error}): "
            f"pip install 'degmix-edge[{extra}]'"
        ) from error

"""The YAML file of `build engine -c`: a network, a target, and the fields of `Options`."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from degmix_edge import config
from degmix_edge.errors import ConfigError
from degmix_edge.report.text import Readable, TextTable
from degmix_edge.workflows.build import Build, check_build
from degmix_edge.workflows.options import TARGET, Options


class BuildFile(Options):
    """A build as a file.

    Attributes:
        network: A checkpoint, an `.onnx` file or a bundle.
        out: The bundle's folder.
    """

    network: str | None = None
    out: Path | None = None


@dataclass(frozen=True)
class Plan(Readable):
    """What to build, from where, to where."""

    network: str
    target: Path
    options: Options

    def check(self, *, force: bool = False) -> None:
        """Check everything that can be checked without building; see `check_build`."""
        check_build(self.network, self.target, self.options, force=force)

    def text(self) -> Iterator[str | TextTable]:
        """Yield what would be done, and every option."""
        yield f"would build {self.target} from {self.network}: {' -> '.join(Build.STAGES)}"
        rows = [[name, str(value)] for name, value in self.options.model_dump(mode="json").items()]
        yield TextTable("options", ["option", "value"], rows)

    def values(self) -> dict[str, Any]:
        """The plan as plain values."""
        options = self.options.model_dump(mode="json")
        return {
            "network": self.network,
            "out": self.target,
            "stages": Build.STAGES,
            "options": options,
        }


def read(
    path: Path | None,
    typed: Mapping[str, Any] | None = None,
    network: str | None = None,
    out: Path | None = None,
) -> Plan:
    """The plan in the file at `path`, with what was typed in its place.

    Without `out`, a bundle is built again in place, and everything else becomes robot.degmix.

    Args:
        path: A YAML file; None is an empty one.
        typed: Fields of `Options` that override the file.
        network: Overrides the file's network.
        out: Overrides the file's target.

    Raises:
        ConfigError: The file is missing, has unknown keys, or values that do not fit; or no network
            is named.
    """
    values: dict[str, Any] = {}
    if path is not None:
        values = config.load(BuildFile, path).model_dump(exclude_unset=True)
    source, target = network or values.pop("network", None), out or values.pop("out", None)
    if source is None:
        raise ConfigError("no network: give CHECKPOINT_OR_ONNX_OR_BUNDLE, or -c with `network:`")
    kept = {k: v for k, v in values.items() if k not in ("network", "out")}
    options = config.parse(Options, {**kept, **(typed or {})}, "options")
    if target is None:
        target = Path(source) if (Path(source) / "manifest.json").exists() else TARGET
    return Plan(source, Path(target), options)

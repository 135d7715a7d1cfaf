"""Typed settings, validated on creation, versioned on disk, changed with `--set a.b=value`."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from degmix_edge.errors import ConfigError
from degmix_edge.limits import check_limit, limits
from degmix_edge.registry import unknown

VERSION = 1
S = TypeVar("S", bound=BaseModel)


class Settings(BaseModel):
    """Base of all settings: they are frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


def parse(model: type[S], values: dict[str, Any], source: str) -> S:
    """Validate `values` against `model`.

    Args:
        model: The class of the settings.
        values: The settings as plain values.
        source: Where they come from, for error messages.

    Raises:
        ConfigError: A value is not valid. The message names the source, the key, what it got and
            what was expected, and suggests the nearest setting for an unknown key.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{source}: " + "; ".join(map(_one, _problems(model, error)))) from None


def load(model: type[S], path: Path, overrides: Sequence[str] = ()) -> S:
    """Read the YAML file at `path`, apply `a.b=value` overrides and validate the result.

    Raises:
        ConfigError: The file is missing, it is not a YAML mapping, it has another version, or a
            value is not valid.
    """
    return parse_text(model, read_text(path, "config file"), str(path), overrides)


def parse_text(model: type[S], text: bytes | str, source: str, overrides: Sequence[str] = ()) -> S:
    """Validate the settings in YAML text as `load` does; `source` names where they come from.

    Raises:
        ConfigError: As `load`.
    """
    try:
        values = parse_yaml(text)
    except ValueError as error:
        raise ConfigError(f"{source}: not readable as YAML: {error}") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{source}: got {type(values).__name__}, expected a mapping of settings")
    version = values.pop("version", VERSION)
    if version != VERSION:
        raise ConfigError(f"{source}: version {version}, this degmix-edge reads version {VERSION}")
    return parse(model, override(values, overrides), source)


def read_text(path: Path, what: str) -> bytes:
    """Return the bytes of a text file; `what` says which kind was expected.

    Raises:
        ConfigError: There is no such regular file, it is too large, or it cannot be read.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ConfigError(f"{path}: is no regular file, expected a {what}")
        check_limit("text_bytes", status.st_size, str(path))
        return path.read_bytes()
    except FileNotFoundError:
        raise ConfigError(f"{path}: no such {what}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise ConfigError(f"{path}: cannot be read: {error}") from None


def parse_yaml(text: bytes | str) -> Any:
    """Return the values of YAML text. Aliases are refused, because a short text can grow by them.

    Raises:
        ValueError: It is not YAML, has an alias, is nested too deeply, or is not valid Unicode.
    """
    try:
        return yaml.load(text, _Plain)  # noqa: S506 (a SafeLoader)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
    except RecursionError:
        raise ValueError("nested too deeply") from None


class _Plain(yaml.SafeLoader):
    """YAML without aliases, of bounded depth."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        """Compose one node."""
        if self.check_event(yaml.events.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.YAMLError(f"an alias on line {mark.line + 1}; write the value out")
        self.depth += 1
        if self.depth > limits().depth:
            raise yaml.YAMLError("nested too deeply")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node


def dump(settings: Settings) -> str:
    """Return YAML text that `load` reads back to equal settings."""
    values = {"version": VERSION, **settings.model_dump(mode="json")}
    return yaml.safe_dump(values, sort_keys=False)


def override(values: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return a copy of `values` with each `a.b=value` applied; the value is parsed as YAML.

    Raises:
        ConfigError: An override has no `=`, its path leads through a value that is no mapping, or
            its value is not YAML.
    """
    values = yaml.safe_load(yaml.safe_dump(values, sort_keys=False))
    for item in overrides:
        path, separator, text = item.partition("=")
        if not separator or not path:
            raise ConfigError(f"--set {item!r}: expected a.b=value")
        *parents, key = path.split(".")
        place = values
        for parent in parents:
            if place.get(parent) is None:  # a group that was left out, or switched off
                place[parent] = {}
            place = place[parent]
            if not isinstance(place, dict):
                raise ConfigError(f"--set {item!r}: {parent!r} is a value, not a group of settings")
        try:
            place[key] = parse_yaml(text)
        except ValueError as error:  # also a date that does not exist
            first = str(error).splitlines()[0]
            raise ConfigError(f"--set {item!r}: the value is not YAML: {first}") from None
    return dict(values)


def _problems(model: type[BaseModel], error: ValidationError) -> list[dict[str, Any]]:
    return [{**p, "fields": _fields(model, p["loc"][:-1])} for p in error.errors()]


def _fields(model: type[BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """Return the settings of the group at `path`, with the path before each."""
    for part in path:
        field = model.model_fields.get(str(part))  # None: a key or an index of the group before
        model = model if field is None else next(_groups(field.annotation), model)
    return [".".join(map(str, (*path, name))) for name in model.model_fields]


def _groups(kind: Any) -> Iterator[type[BaseModel]]:
    """Yield the groups of settings that a value of this kind may be, or may hold."""
    if isinstance(kind, type) and issubclass(kind, BaseModel):
        yield kind
    for part in get_args(kind):
        yield from _groups(part)


def _one(problem: dict[str, Any]) -> str:
    where = ".".join(map(str, problem["loc"]))
    if not where:  # several settings together
        return str(problem["msg"]).removeprefix("Value error, ")
    if problem["type"] == "extra_forbidden":
        return unknown("setting", where, problem["fields"])
    got = "" if problem["type"] == "missing" else f" (got {problem['input']!r})"
    return f"{where}: {problem['msg'].lower()}{got}"


def cache_folder() -> Path:
    """Return the folder for files that can be produced again.

    It is `$DEGMIX_CACHE` if that is set, else `degmix-edge` in `$XDG_CACHE_HOME` or `~/.cache`.
    """
    if own := os.environ.get("DEGMIX_CACHE"):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "degmix-edge"

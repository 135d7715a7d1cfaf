"""A file layer that fails, or kills the process, at every single call of the file system.

The call to fail is chosen by its number. Calls are those of Python's `os` module on files, `open`,
and the methods of open files, as `sys.setprofile` sees them; a call that is to fail is not made.
Counted are those that our own file layer makes, itself or through a library that it calls.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

NOT_FILES = {
    *("getpid", "fspath", "getcwd", "urandom", "cpu_count", "sched_getaffinity", "fork", "waitpid"),
    *("kill", "_exit", "register_at_fork", "get_terminal_size", "uname", "times", "getppid"),
    *("DirEntry", "sysconf", "strerror", "isatty"),
}
LAYER = ("/degmix_edge/files.py", "/degmix_edge/folders.py", "/degmix_edge/bundle/")
FILE_METHODS = {"write", "flush", "close", "read", "readinto", "truncate", "seek"}
SUCCESS, REFUSED, FOREIGN = 0, 3, 4
"""How a child with a fault ends: as if nothing had been, with an error of ours, with another."""


def is_file_call(function: Any) -> bool:
    """Whether a built-in function is a call of the file system."""
    module, name = getattr(function, "__module__", None), getattr(function, "__name__", "")
    if module == "posix":
        return name not in NOT_FILES
    if module in ("io", "_io") and name == "open":
        return True
    owner = getattr(function, "__self__", None)
    return name in FILE_METHODS and type(owner).__module__ == "_io" and _is_on_disk(owner)


def is_of_our_layer(frame: Any) -> bool:
    """Whether the call comes from our file layer."""
    while frame is not None:
        if any(part in frame.f_code.co_filename for part in LAYER):
            return True
        frame = frame.f_back
    return False


def _is_on_disk(file: Any) -> bool:
    # Buffers in memory and the standard streams are no files of ours.
    return "Bytes" not in type(file).__name__ and file not in (sys.stdout, sys.stderr)


def with_fault(operation: Callable[[], Any], moment: int, how: str) -> int:
    """Run `operation` in a fork that fails at its file call number `moment`; its wait status.

    Args:
        operation: What writes.
        moment: From 1; 0 lets every call be.
        how: `kill` kills the process, `fail` makes the call an OSError.
    """
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1]
    code = FOREIGN
    try:
        code = _run(operation, moment, how)
    finally:
        os._exit(code)


def _run(operation: Callable[[], Any], moment: int, how: str) -> int:
    from degmix_edge.errors import DegmixError

    count = 0

    def watch(frame: Any, event: str, function: Any) -> None:
        nonlocal count
        if event != "c_call" or not is_file_call(function) or not is_of_our_layer(frame):
            return
        count += 1
        if count != moment:
            return
        if how == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        raise OSError(errno.EIO, os.strerror(errno.EIO), "a file")  # Python ends the profile here

    sys.setprofile(watch)
    try:
        operation()
    except DegmixError:
        return REFUSED
    except BaseException as error:
        sys.setprofile(None)
        print(f"{how} at {moment}: {type(error).__name__}: {error}", file=sys.stderr)
        return FOREIGN
    finally:
        sys.setprofile(None)
    return SUCCESS


def num_calls(operation: Callable[[], Any]) -> int:
    """How many file calls `operation` makes; it is run once, in this process."""
    count = 0

    def watch(frame: Any, event: str, function: Any) -> None:
        nonlocal count
        count += event == "c_call" and is_file_call(function) and is_of_our_layer(frame)

    sys.setprofile(watch)
    try:
        operation()
    finally:
        sys.setprofile(None)
    return count


@dataclass(frozen=True)
class Operation:
    """Something that writes to disk.

    Attributes:
        name: What it is.
        prepare: Puts the old state in place.
        run: Does it.
        state: Says what lies there now: `old`, `new`, or what is wrong.
        left: Names of what else lies there; after the next run there is nothing.
    """

    name: str
    prepare: Callable[[], Any]
    run: Callable[[], Any]
    state: Callable[[], str]
    left: Callable[[], list[str]] = list


@dataclass(frozen=True)
class Fault:
    """One fault, and what it left behind that it should not have."""

    moment: int
    how: str
    problem: str


def faults(operation: Operation, every: int = 1) -> Iterator[Fault]:
    """Let `operation` fail and die at every call, or at each `every`-th; what came of each.

    After a fault there is the old state or the new one, whole, and the operation succeeds the next
    time and leaves nothing else behind.
    """
    operation.prepare()
    calls = num_calls(operation.run)
    for moment in range(1, calls + 1, every):
        for how in ("fail", "kill"):
            operation.prepare()
            status = with_fault(operation.run, moment, how)
            yield Fault(moment, how, _problem(operation, status, how))


def _problem(operation: Operation, status: int, how: str) -> str:
    if how == "kill" and os.WIFSIGNALED(status):
        expected = ("old", "new")
    else:
        code = os.waitstatus_to_exitcode(status)
        if code not in (SUCCESS, REFUSED):
            return f"a foreign exception, code {code}"
        expected = ("new",) if code == SUCCESS else ("old", "new")
    if (state := operation.state()) not in expected:
        return f"it left {state}"
    operation.run()
    if (state := operation.state()) != "new":
        return f"the next run left {state}"
    return f"the next run left {left}" if (left := operation.left()) else ""

"""The tensors by which a split engine is told which tasks to run; no package is needed for them.

    split.mix, split.run   bool (T,): whose mixer runs, and whose query, in the order of the tasks
    split.X.0              what the mixer of task X left in an earlier call
    split.X.0.next         the same after this call

They begin with what no input and no task is called.
"""

from __future__ import annotations

PREFIX = "split."
MIX, RUN = f"{PREFIX}mix", f"{PREFIX}run"
NEXT = ".next"


def state_name(task: str, index: int) -> str:
    """Return the name of the input with a state of `task`; its output has `NEXT` behind it."""
    return f"{PREFIX}{task}.{index}"


def state_task(name: str) -> str:
    """Return the task of a state's input or output."""
    return name.removeprefix(PREFIX).removesuffix(NEXT).rpartition(".")[0]

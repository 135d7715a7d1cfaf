"""Kill a writer of a bundle at each of its system calls, and look at what is left each time.

`python killed_writer.py BUNDLE EXCHANGE` is a program because it forks at each call: a test's
worker, which holds PyTorch and more, takes ten times as long to fork. EXCHANGE is 0 for a system
that cannot exchange two folders. It prints JSON with the places and moments of the calls, whether
each writer was killed, whether old and new bundles were found, and what stood beside the bundle.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from degmix_edge import folders
from degmix_edge.bundle.contents import open_bundle
from degmix_edge.bundle.writing import claim
from degmix_edge.bundle.writing import write_bundle as write_claimed


def write_bundle(target: Path, manifest, files, *, force: bool):
    return write_claimed(claim(target, force=force), manifest, files)


def files_of(path: Path) -> dict[str, bytes]:
    manifest = open_bundle(path).manifest
    return {name: (path / name).read_bytes() for name in manifest.files}


def watched_calls(seen):
    """Make this process call `seen(place)` before each system call; a place is a line of code."""

    def watched(frame, event, function):
        if event == "c_call" and getattr(function, "__module__", "") == "posix":
            seen((function.__name__, frame.f_code.co_filename, frame.f_lineno))

    sys.setprofile(watched)


def killed_at(moment: int, target: Path, manifest, files) -> int:
    """Replace a bundle in a process that kills itself at one of its system calls; its status."""
    pid = os.fork()
    if pid:
        return os.waitpid(pid, 0)[1]
    count = 0

    def seen(place):
        nonlocal count
        count += 1
        if count == moment:
            os.kill(os.getpid(), signal.SIGKILL)

    watched_calls(seen)
    write_bundle(target, manifest, files, force=True)
    sys.setprofile(None)
    os._exit(0)


def first_and_last(places: list) -> list[int]:
    """The moments, from 1, at which a place is seen for the first or the last time."""
    moments = list(enumerate(places, 1))
    first = {place: moment for moment, place in reversed(moments)}
    last = {place: moment for moment, place in moments}
    return sorted({*first.values(), *last.values()})


def main(target: Path) -> None:
    """Kill a writer at each moment; the next one writes the old bundle again."""
    manifest, files = open_bundle(target).manifest, files_of(target)
    new = {**files, "card.md": b"new"}
    places = []
    watched_calls(places.append)
    write_bundle(target, manifest, new, force=True)
    sys.setprofile(None)
    moments = first_and_last(places)
    write_bundle(target, manifest, files, force=True)
    found = {"places": len(places), "moments": moments, "signals": [], "old": [], "beside": []}
    for moment in moments:
        status = killed_at(moment, target, manifest, new)
        found["signals"].append(os.WTERMSIG(status))
        card = open_bundle(target).manifest.files["card.md"]
        found["old"].append(card == manifest.files["card.md"])
        write_bundle(target, manifest, files, force=True)
        found["beside"].append([path.name for path in target.parent.iterdir()])
    print(json.dumps(found))


if __name__ == "__main__":
    if sys.argv[2] == "0":
        folders._exchange = lambda a, b: False
    main(Path(sys.argv[1]))

"""Freed memory stays with the process, which page faults show."""

import os
import subprocess
import sys

import pytest

from degmix_edge.ros import heap

PROGRAM = """
import resource, sys, threading
from degmix_edge.ros import heap
was_set = sys.argv[1] == "keep" and heap.keep_freed_memory()
def faults(rounds):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(rounds):
        blocks = [bytearray(4_000_000) for _ in range(4)]
        for block in blocks:
            block[::4096] = b"x" * len(block[::4096])
        del blocks
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / rounds
def work():
    faults(3)
    print(was_set, faults(10))
thread = threading.Thread(target=work)
thread.start()
thread.join()
"""


def faults(mode: str, **more: str) -> tuple[bool, float]:
    plain = {name: value for name, value in os.environ.items() if name not in heap.VARIABLES}
    command = [sys.executable, "-c", PROGRAM, mode]
    done = subprocess.run(command, env={**plain, **more}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    was_set, count = done.stdout.split()
    return was_set == "True", float(count)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's mallopt")
def test_memory_of_the_last_round_serves_the_next():
    _, before = faults("plain")
    was_set, after = faults("keep")
    assert was_set
    assert before > 200  # a part of the pages of four blocks comes anew in each round
    assert after < before / 20


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc's mallopt")
def test_the_users_own_setting_stands():
    assert faults("keep", MALLOC_TRIM_THRESHOLD_="100000")[0] is False

"""A process that does not stop by itself is ended, and one that does keeps its exit code."""

import signal
import subprocess
import sys
import time

import pytest

PROGRAM = """
import sys, time
from degmix_edge.ros.spinning import StopOnSignal
with StopOnSignal() as stop:
    print("ready", flush=True)
    while not (stop.is_set and sys.argv[1] == "obeys"):
        time.sleep(0.05 if sys.argv[1] == "obeys" else 60)
print("stopped", flush=True)
"""


@pytest.mark.slow(file_seconds=12)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("how", ["obeys", "hangs"])
def test_a_signal_ends_the_process_in_two_seconds(how, number):
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, how], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "ready\n"
    start = time.monotonic()
    process.send_signal(number)
    rest, _ = process.communicate(timeout=10)
    seconds = time.monotonic() - start
    assert process.returncode == (0 if how == "obeys" else 128 + number)
    assert rest == ("stopped\n" if how == "obeys" else "")
    assert seconds < (1 if how == "obeys" else 2.5)

"""Hold a load on a server of two replicas, and kill one of them in between.

    python tests/campaigns/serve_load.py --rate 20 --seconds 300

It loads a server at a fixed rate twice: undisturbed, and with a replica that is killed halfway. It
prints a table for docs/serve.md, and exits with 1 if a request is unaccounted for, if the server
does not get its replica back, or if one of its processes is left at the end.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import psutil

from degmix_edge.bundle.contents import open_bundle
from degmix_edge.runtime import load
from degmix_edge.workflows.bench_url import UrlBench, bench_url, encoded_images

sys.path.insert(0, str(Path(__file__).parents[1] / "serve"))
from server import BUNDLE, Running, running


def direct_ms(bundle: str, images: list[bytes], threads: int, calls: int = 100) -> float:
    """Return the median time of a session in this process, from encoded images."""
    with load(bundle, threads=threads) as session:
        totals = []
        for index in range(calls):
            start = time.perf_counter()
            session(images[index % len(images)])
            totals.append(1e3 * (time.perf_counter() - start))
    return float(np.median(totals))


class Memory(threading.Thread):
    """Notes the resident bytes of all processes of a server each second."""

    def __init__(self, server: Running) -> None:
        super().__init__(daemon=True)
        self.server, self.done = server, threading.Event()
        self.rows: list[tuple[float, int]] = []

    def run(self) -> None:
        """Take notes until `done`."""
        while not self.done.wait(1.0):
            size = 0
            for one in psutil.Process(self.server.process.pid).children(recursive=True):
                try:
                    size += one.memory_info().rss
                except psutil.Error:
                    continue
            self.rows.append((time.monotonic(), size))

    @property
    def slope_mb_per_hour(self) -> float:
        """Growth by a line through the later half."""
        later = self.rows[len(self.rows) // 2 :]
        if len(later) < 3:
            return float("nan")
        times, sizes = zip(*later, strict=True)
        return float(np.polyfit(times, sizes, 1)[0] * 3600 / 1e6)


def held(
    server: Running, given: argparse.Namespace, *, kill: bool
) -> tuple[UrlBench, float, Memory]:
    """Load the server; return its figures, the seconds until both replicas ran, and its memory."""
    back_s = [0.0]

    def disturb() -> None:
        time.sleep(given.seconds / 2)
        server.replicas()[0].kill()
        back_s[0] = server.wait_for_replicas(given.replicas)

    killer, memory = threading.Thread(target=disturb), Memory(server)
    memory.start()
    if kill:
        killer.start()
    result = bench_url(
        server.url,
        rate=given.rate,
        seconds=given.seconds,
        images=given.data,
        deadline_ms=given.deadline,
        tasks=given.tasks,
    )
    if kill:
        killer.join()
    memory.done.set()
    memory.join()
    return result, back_s[0], memory


def main() -> None:
    """Parse the options, load the server twice, print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", default=str(BUNDLE))
    parser.add_argument("--rate", type=float, default=20.0)
    parser.add_argument("--seconds", type=float, default=300.0)
    parser.add_argument("--replicas", type=int, default=2)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--deadline", type=float, default=1000.0)
    parser.add_argument("--tasks", default="")
    parser.add_argument("--data", default="photos")
    given = parser.parse_args()
    options = ("--replicas", str(given.replicas), "--threads", str(given.threads))
    rows, wrong = [], []
    start = time.monotonic()
    with running(given.bundle, *options) as server:
        start_s = time.monotonic() - start
        for name, kill in (("undisturbed", False), ("a replica killed", True)):
            result, back_s, memory = held(server, given, kill=kill)
            rows.append((name, result, back_s, memory))
            lost = result.answered + sum(result.refused.values()) + sum(result.failed.values())
            if lost != result.offered:
                wrong.append(f"{name}: {result.offered - lost} requests without an outcome")
        code, left, end_s = server.end(signal.SIGTERM)
        if left or code != 128 + signal.SIGTERM:
            wrong.append(f"the server ended with {code} and left {left}")
    images = encoded_images(given.data, open_bundle(Path(given.bundle)).manifest.fit.size)
    own_ms = direct_ms(given.bundle, images, given.threads)
    print(f"start {start_s:.1f} s, end {end_s:.1f} s; a session in this process: {own_ms:.1f} ms")
    print(
        "run | offered | answered | p50 ms | p95 ms | p99 ms | max ms | net p50 ms | refused | "
        "failed | answers/s | longest gap ms | back after s | late ms | MB/h"
    )
    for name, result, back_s, memory in rows:
        # A replica that starts again is growth, too.
        slope = "-" if back_s else f"{memory.slope_mb_per_hour:+.0f}"
        times = " | ".join(f"{result.latency_ms[p]:.1f}" for p in ("p50", "p95", "p99", "max"))
        print(
            f"{name} | {result.offered} | {result.answered} | {times} | "
            f"{result.net_ms['p50']:.1f} | {result.refused or 0} | {result.failed or 0} | "
            f"{result.achieved_hz:.2f} | {result.longest_gap_ms:.0f} | {back_s:.1f} | "
            f"{result.late_ms:.0f} | {slope}"
        )
    if wrong:
        sys.exit("; ".join(wrong))


if __name__ == "__main__":
    main()

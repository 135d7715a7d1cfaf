"""Plan the labelling of 10^9 images: a model and a simulation, both fed with measured figures.

    python tests/campaigns/scale_measure.py --labels OUT --campaign label_cluster.json --out FIGURES
    python tests/campaigns/scale_plan.py FIGURES --set workers=8000 --set core_hour=0.03

It prints the tables of docs/scale.md. `--write` puts them into that page. Whatever is not in
FIGURES is a field of `Plan`, which `--set` changes: an assumption, and no measurement.
"""

from __future__ import annotations

import argparse
import dataclasses
import heapq
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

PAGE = Path(__file__).parents[2] / "docs" / "scale.md"
BEGIN, END = "<!-- tables of scale_plan.py: begin -->", "<!-- tables of scale_plan.py: end -->"
DAY, HOUR = 86400.0, 3600.0
SAMPLES = 1_000_000
"""Image times that are drawn, and added up to times of shards."""
SEEDS = 3
"""Runs of each case that are simulated; the one in the middle is shown."""
Figures = dict[str, Any]
Table = tuple[str, list[list[str]]]


@dataclass(frozen=True)
class Plan:
    """What is assumed of the cluster; change it with `--set`.

    Attributes:
        images: How many there are.
        per_shard: Images of a tar file, which becomes one shard.
        workers: Processes, each with one thread of a core.
        per_node: Workers of a machine.
        node_days: Mean time between failures of a machine, in days.
        repair_s: Until a machine that failed is replaced.
        crashes: Workers that die of something else than an image, per 10^6 images.
        poison: Images that crash the process that reads them, per 10^6.
        slow: Images that take long, per 10^6: very large ones, or a store that answers late.
        slow_s: The shortest of their times; they are Pareto with exponent `slow_alpha`.
        slow_alpha: The exponent; below 2 the variance would be infinite.
        slow_most: The longest of their times, after which a store's client gives up.
        spread: Standard deviation of the speed of machines, as a share.
        image_kb: Size of a source image in kB; 0 takes the measured one.
        store_gets: GET requests that the object store answers in a second: four prefixes of 5500.
        block_mb: Bytes of one GET of a tar file in MB; fsspec reads blocks of 5 MiB.
        disk_ops: Opens, renames and syncs of the shared file system in a second, over all machines.
        disk_gb: Its GB/s of writing.
        disk_ms: Milliseconds of one such operation as one client sees it.
        driver_gb: Memory of the driver's machine.
        core_hour: Price of a core for an hour.
        gets_price: Price of 1000 GET requests.
        gb_month: Price of a GB of output for a month.
        gpu_ms: Milliseconds of the network for an image on a GPU.
        gpu_cores: Cores that read and write for one GPU.
        gpu_hour: Price of a GPU with these cores for an hour.
    """

    images: float = 1e9
    per_shard: int = 10_000
    workers: int = 4096
    per_node: int = 64
    node_days: float = 30.0
    repair_s: float = 300.0
    crashes: float = 1.0
    poison: float = 0.1
    slow: float = 20.0
    slow_s: float = 5.0
    slow_alpha: float = 1.5
    slow_most: float = 600.0
    spread: float = 0.05
    image_kb: float = 200.0
    store_gets: float = 22000.0
    block_mb: float = 5.24
    disk_ops: float = 5000.0
    disk_gb: float = 5.0
    disk_ms: float = 1.0
    driver_gb: float = 64.0
    core_hour: float = 0.04
    gets_price: float = 0.0004
    gb_month: float = 0.02
    gpu_ms: float = 0.5
    gpu_cores: int = 16
    gpu_hour: float = 2.0

    @property
    def shards(self) -> int:
        """How many shards there are."""
        return math.ceil(self.images / self.per_shard)

    @property
    def nodes(self) -> int:
        """How many machines there are."""
        return math.ceil(self.workers / self.per_node)


@dataclass(frozen=True)
class Costs:
    """Seconds and requests of one shard, out of the figures and a plan.

    Attributes:
        image_s: Mean seconds of an image that is not slow, with its reading and writing.
        slow_s: Mean seconds that slow images add to an image.
        shard_s: Seconds of a shard beside its images.
        dispatch_s: Seconds of the driver.
        gets: GET requests.
        disk_ops: Operations of the shared file system.
        disk_bytes: Bytes that are written.
    """

    image_s: float
    slow_s: float
    shard_s: float
    dispatch_s: float
    gets: float
    disk_ops: float
    disk_bytes: float

    def seconds(self, plan: Plan) -> float:
        """Mean seconds of a shard."""
        return self.shard_s + plan.per_shard * (self.image_s + self.slow_s)


def costs_of(figures: Figures, plan: Plan) -> Costs:
    """Return what a shard costs."""
    cut = (plan.slow_s / plan.slow_most) ** (plan.slow_alpha - 1) / plan.slow_alpha
    mean_slow = plan.slow_s * plan.slow_alpha / (plan.slow_alpha - 1) * (1 - cut)
    in_bytes = plan.per_shard * image_bytes(figures, plan)
    out_bytes = plan.per_shard * sum(figures["bytes_out"].values())
    return Costs(
        image_s=figures["image_s"],
        slow_s=plan.slow / 1e6 * mean_slow,
        shard_s=figures["shard_s"],
        dispatch_s=figures["ray"]["block_s"],
        gets=max(1.0, in_bytes / (plan.block_mb * 1e6)),
        disk_ops=figures["shard_ops"],
        disk_bytes=out_bytes,
    )


def image_bytes(figures: Figures, plan: Plan) -> float:
    """Return the bytes of a source image."""
    return 1000 * plan.image_kb if plan.image_kb else figures["bytes_in"]


# The simulation


@dataclass
class Limit:
    """Something that all shards share and that serves one after the other.

    Attributes:
        name: What it is.
        free: When it has served all that came so far, in seconds.
        busy: Seconds that it worked.
    """

    name: str
    free: float = 0.0
    busy: float = 0.0

    def serve(self, now: float, seconds: float) -> float:
        """Return when work that comes now is done."""
        self.free = max(self.free, now) + seconds
        self.busy += seconds
        return self.free


@dataclass(frozen=True)
class Outcome:
    """How a simulated run went.

    Attributes:
        wall_s: From the first shard to the last.
        tail_s: From when no shard was left to begin to the end of the last one.
        lost_s: Seconds of workers that were spent on shards that died.
        failures: Machines that failed.
        retries: Shards that began again.
        busy: By limit, the share of the time that it worked.
    """

    wall_s: float
    tail_s: float
    lost_s: float
    failures: int
    retries: int
    busy: dict[str, float]


class Cluster:
    """A cluster that labels all shards once, in simulated time.

    Args:
        figures: What was measured.
        plan: What is assumed.
        seed: Seed of the random numbers.
    """

    def __init__(self, figures: Figures, plan: Plan, seed: int = 0) -> None:
        self.figures, self.plan, self.costs = figures, plan, costs_of(figures, plan)
        self.rng = np.random.default_rng(seed)
        self.limits = [Limit(name) for name in ("driver", "store", "disk", "disk GB/s")]
        self.speeds = np.maximum(0.2, self.rng.normal(1, plan.spread, plan.nodes)).tolist()
        self.failures = [self._next_failure(0.0) for _ in range(plan.nodes)]
        self.retries: list[tuple[float, int, float]] = []
        self.lost_s, self.num_retries, self.failed_at = 0.0, 0, set[tuple[int, float]]()

    def run(self) -> Outcome:
        """Simulate the run."""
        plan, start_s = self.plan, self.figures["start_s"]
        waiting = self._shard_seconds()
        crashing = self.rng.random(plan.shards) < self._share(plan.crashes)
        poisoned = self.rng.random(plan.shards) < self._share(plan.poison)
        free = [(start_s, worker) for worker in range(plan.workers)]
        heapq.heapify(free)
        number, wall, emptied = 0, 0.0, 0.0
        while number < len(waiting) or self.retries:
            now, worker = heapq.heappop(free)
            if self.retries and (number == len(waiting) or self.retries[0][0] <= now):
                ready, _, seconds = heapq.heappop(self.retries)
                now, dies, again = max(now, ready), False, True
            else:
                seconds, again = waiting[number], False
                dies = crashing[number] or poisoned[number]
                number += 1
                emptied = now
            node = worker // plan.per_node
            end, then = self._work(now, node, seconds, dies=bool(dies), again=again)
            if end is not None:
                wall = max(wall, end)
            heapq.heappush(free, (then, worker))
        busy = {limit.name: limit.busy / wall for limit in self.limits}
        return Outcome(
            *(wall, wall - emptied, self.lost_s, len(self.failed_at), self.num_retries, busy)
        )

    def _work(
        self, now: float, node: int, seconds: float, *, dies: bool, again: bool
    ) -> tuple[float | None, float]:
        """A worker's attempt at a shard: its end, or None where it dies; when it is free again."""
        c, whole = self.costs, seconds
        if again:  # it runs guarded: in a child process, one image after the other
            whole = self.figures["start_s"] + seconds * self.figures["guarded"]
        amounts = (
            *(c.dispatch_s, c.gets / self.plan.store_gets, c.disk_ops / self.plan.disk_ops),
            c.disk_bytes / (1e9 * self.plan.disk_gb),
        )
        served = [limit.serve(now, a) for limit, a in zip(self.limits, amounts, strict=True)]
        # Reading and writing overlap with other work, so a shard waits only for what is behind.
        end = max(max(served), served[0] + whole / self.speeds[node])
        while self.failures[node] + self.plan.repair_s < now:
            repaired = self.failures[node] + self.plan.repair_s
            self.failures[node] = self._next_failure(repaired)
        failure = self.failures[node]
        if failure < end:
            self.failed_at.add((node, failure))
            self._lose(max(0.0, failure - now), max(failure, now), seconds)
            return None, failure + self.plan.repair_s + self.figures["start_s"]
        if dies:
            end = now + (end - now) * self.rng.random()
            self._lose(end - now, end, seconds)
            return None, end + self.figures["start_s"]
        return end, end

    def _lose(self, lost_s: float, ready: float, seconds: float) -> None:
        self.lost_s += lost_s
        self.num_retries += 1
        heapq.heappush(self.retries, (ready, self.num_retries, seconds))

    def _next_failure(self, now: float) -> float:
        return now + float(self.rng.exponential(self.plan.node_days * DAY))

    def _share(self, per_million: float) -> float:
        """The probability that something happens in a shard."""
        return -math.expm1(-per_million / 1e6 * self.plan.per_shard)

    def _shard_seconds(self) -> list[float]:
        """The time of each shard: sums of image times drawn out of the measured ones."""
        plan, rng = self.plan, self.rng
        times = np.interp(rng.random(SAMPLES), *self._quantiles())
        times *= self.costs.image_s / times.mean()
        several = max(1, SAMPLES // plan.per_shard)
        sums = times[: several * plan.per_shard].reshape(several, -1).sum(1)
        if plan.per_shard > SAMPLES:
            sums *= plan.per_shard / SAMPLES
        seconds = self.costs.shard_s + rng.choice(sums, plan.shards)
        counts = rng.poisson(plan.slow / 1e6 * plan.per_shard, plan.shards)
        slow = plan.slow_s * (1 + rng.pareto(plan.slow_alpha, int(counts.sum())))
        slow = np.minimum(slow, plan.slow_most)
        seconds += np.bincount(np.repeat(np.arange(plan.shards), counts), slow, plan.shards)
        return [float(value) for value in seconds]

    def _quantiles(self) -> tuple[np.ndarray, np.ndarray]:
        values = np.array(self.figures["image_ms_quantiles"])
        return np.linspace(0, 1, len(values)), values


# The model


@dataclass(frozen=True)
class Expected:
    """What arithmetic alone expects of a run.

    Attributes:
        wall_s: Its seconds.
        limit: What decides: `workers`, or the limit that is full.
        busy: By limit, the share of the time that it works.
        failures: Machines that fail.
    """

    wall_s: float
    limit: str
    busy: dict[str, float]
    failures: float


def expected(figures: Figures, plan: Plan) -> Expected:
    """Return the model's run."""
    costs = costs_of(figures, plan)
    shard_s, shards = costs.seconds(plan), plan.shards
    node_s = plan.node_days * DAY
    deaths = (plan.crashes + plan.poison) / 1e6 * plan.per_shard
    # A death costs half a shard, a start, and the second attempt, which runs guarded.
    again = shard_s / 2 + figures["start_s"] + shard_s * (figures["guarded"] - 1)
    per_shard = shard_s + deaths * again + shard_s / node_s * (plan.repair_s + again)
    work_s = shards * per_shard / plan.workers
    needs = {
        "workers": work_s,
        "driver": shards * costs.dispatch_s,
        "store": shards * costs.gets / plan.store_gets,
        "disk": shards * costs.disk_ops / plan.disk_ops,
        "disk GB/s": shards * costs.disk_bytes / (1e9 * plan.disk_gb),
    }
    limit = max(needs, key=lambda name: needs[name])
    # At the end workers wait for the last shards: half of one on average, and the slow ones.
    tail_s = shard_s / 2 + slow_tail(plan, work_s)
    wall = figures["start_s"] + max(needs[limit], work_s + tail_s)
    busy = {name: seconds / wall for name, seconds in needs.items() if name != "workers"}
    return Expected(wall, limit, busy, plan.nodes * wall / node_s)


def slow_tail(plan: Plan, work_s: float) -> float:
    """Return the mean seconds by which slow images outlast the rest of a run.

    They begin at any moment of `work_s` seconds. The number of those that last more than x seconds
    beyond the end is Poisson, with the integral of their distribution from x to `work_s` + x.
    """
    if not plan.slow:
        return 0.0
    begun = plan.slow / 1e6 * plan.images / work_s
    least, most, alpha = plan.slow_s, plan.slow_most, plan.slow_alpha

    def beyond(x: np.ndarray) -> np.ndarray:
        """The integral of the share of longer times, from x on."""
        inside = np.clip(x, least, most)
        tail = least**alpha * (inside ** (1 - alpha) - most ** (1 - alpha)) / (alpha - 1)
        return np.asarray(tail + np.maximum(0.0, least - x))

    x = np.linspace(0, most, 20_000)
    some = -np.expm1(-begun * (beyond(x) - beyond(x + work_s)))
    return float(some.mean() * most)


def most_workers(figures: Figures, plan: Plan) -> dict[str, float]:
    """Return for each limit the workers that fill it."""
    costs = costs_of(figures, plan)
    shard_s = costs.seconds(plan)
    return {
        "driver": shard_s / costs.dispatch_s,
        "store": shard_s * plan.store_gets / costs.gets,
        "disk": shard_s * plan.disk_ops / costs.disk_ops,
        "disk GB/s": shard_s * 1e9 * plan.disk_gb / costs.disk_bytes,
    }


# The tables


def text_of_time(seconds: float) -> str:
    """Return a time for people."""
    for unit, name in ((DAY, "d"), (HOUR, "h"), (60.0, "min")):
        if seconds >= 1.5 * unit:
            return f"{seconds / unit:.1f} {name}"
    return f"{seconds:.2g} s" if seconds < 10 else f"{seconds:.0f} s"


def text_of_bytes(size: float) -> str:
    """Return a size for people."""
    for unit, name in ((1e15, "PB"), (1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if size >= unit:
            return f"{size / unit:.3g} {name}"
    return f"{size:.3g} B"


def measured(figures: Figures, plan: Plan) -> Table:
    """What was measured, and where."""
    receipt, piece, ray = figures["receipt"], figures["piece"], figures["ray"]
    quantiles = figures["image_ms_quantiles"]
    last = len(quantiles) - 1
    spots = " / ".join(f"{quantiles[round(share * last)]:.3g}" for share in (0.5, 0.9, 0.99, 1))
    out = figures["bytes_out"]
    rows = [
        ["an image, one thread, with reading and writing", f"{1e3 * figures['image_s']:.3g} ms"],
        ["images/s of a core", f"{1 / figures['image_s']:.3g}"],
        ["reading and network of an image: p50 / p90 / p99 / max", f"{spots} ms"],
        ["a shard beside its images", f"{1e3 * figures['shard_s']:.3g} ms"],
        ["bytes in, an image of the campaign", text_of_bytes(figures["bytes_in"])],
        ["bytes out, an image", text_of_bytes(sum(out.values()))],
        *[[f"of these, `{name}/`", text_of_bytes(size)] for name, size in out.items()],
        ["a worker's start", text_of_time(figures["start_s"])],
        ["a guarded second attempt, relative to the first", f"{figures['guarded']:.2f}"],
        ["operations on files, a shard", f"{figures['shard_ops']:.0f}"],
        [f"resume with {receipt['count']:,} shards, each", text_of_time(receipt["seconds"])],
        ["memory of a shard's receipt in the driver", text_of_bytes(receipt["memory"])],
        ["bytes of a shard in the manifest", text_of_bytes(receipt["manifest"])],
        [f"listing {piece['count']:,} tar files, each", text_of_time(piece["seconds"])],
        ["memory of a file in the driver", text_of_bytes(piece["memory"])],
        [f"Ray Data, a shard ({ray['count']:,} of them): the driver's time"]
        + [text_of_time(ray["block_s"])],
        ["the same: the driver's memory", text_of_bytes(ray["block_bytes"])],
    ]
    return f"Measured: {figures['machine']}", [["what", "measured"], *rows]


def scenarios(plan: Plan) -> Iterator[tuple[str, Plan]]:
    """Give the runs that are simulated."""
    change = dataclasses.replace
    calm = change(plan, node_days=1e9, crashes=0.0, poison=0.0, slow=0.0, spread=0.0)
    yield "nothing fails", calm
    slow = {"slow": plan.slow, "slow_s": plan.slow_s, "slow_alpha": plan.slow_alpha}
    yield "slow images", change(calm, **slow)
    yield "the same, if no client ever gave up", change(calm, **slow, slow_most=1e6)
    yield "unlike machines", change(calm, spread=plan.spread)
    yield "workers die", change(calm, crashes=plan.crashes, poison=plan.poison)
    yield "machines fail", change(calm, node_days=plan.node_days)
    yield "all of these", plan
    yield "spot machines, one failure a day each", change(plan, node_days=1.0)
    yield "one slow image in 1000", change(plan, slow=1000.0)
    yield "shards of 100,000", change(plan, per_shard=100_000)


def simulated(figures: Figures, plan: Plan) -> Table:
    """The simulation beside the model."""
    rows = [
        ["case", "wall time", "model", "difference", "tail", "lost work", "machines failed"]
        + ["retries"]
    ]
    for name, one in scenarios(plan):
        outcomes = [Cluster(figures, one, seed).run() for seed in range(SEEDS)]
        outcome = sorted(outcomes, key=lambda found: found.wall_s)[SEEDS // 2]
        model = expected(figures, one)
        lost = outcome.lost_s / (outcome.wall_s * one.workers)
        rows.append(
            [name, text_of_time(outcome.wall_s), text_of_time(model.wall_s)]
            + [f"{100 * (model.wall_s / outcome.wall_s - 1):+.1f} %"]
            + [text_of_time(outcome.tail_s), f"{100 * lost:.2g} %"]
            + [str(outcome.failures), str(outcome.retries)]
        )
    title = (
        f"{plan.images:.0e} images, {plan.workers} workers on {plan.nodes} machines, shards of "
        f"{plan.per_shard:,}: simulation and model"
    )
    return title, rows


def growth(figures: Figures, plan: Plan) -> Table:
    """What a larger cluster gives, and which limit stops it."""
    rows = [["workers", "wall time", "images/s", "core-hours", "cost", "driver", "store", "disk"]]
    rows[0] += ["disk GB/s", "failures a day"]
    for workers in (256, 1024, 4096, 16384, 65536):
        one = dataclasses.replace(plan, workers=workers)
        outcome = Cluster(figures, one).run()
        hours = outcome.wall_s / HOUR * workers
        rows.append(
            [f"{workers:,}", text_of_time(outcome.wall_s), f"{plan.images / outcome.wall_s:,.0f}"]
            + [f"{hours:,.0f}", f"{hours * plan.core_hour:,.0f}"]
            + [f"{100 * share:.0f} %" for share in outcome.busy.values()]
            + [f"{one.nodes / plan.node_days:.3g}"]
        )
    return "The same by number of workers: how much of its time each limit is in use", rows


def shard_sizes(figures: Figures, plan: Plan) -> Table:
    """What the number of shards decides: the driver, the manifest, and what one failure costs."""
    receipt, piece, ray = figures["receipt"], figures["piece"], figures["ray"]
    rows = [["images a shard", "shards", "size of a shard", "time of a shard", "driver's memory"]]
    rows[0] += ["manifest", "resume, local disk", "resume, shared disk", "most workers"]
    for per_shard in (1, 512, 2_000, 10_000, 100_000):
        one = dataclasses.replace(plan, per_shard=per_shard)
        costs, shards = costs_of(figures, one), one.shards
        memory = shards * (receipt["memory"] + piece["memory"] + ray["block_bytes"])
        fits = "" if memory < 1e9 * plan.driver_gb else ", too much"
        full, most = min((n, name) for name, n in most_workers(figures, one).items())
        slow = receipt["seconds"] + receipt["ops"] * plan.disk_ms / 1000 / receipt["threads"]
        rows.append(
            [f"{per_shard:,}", f"{shards:,}", text_of_bytes(costs.disk_bytes)]
            + [text_of_time(costs.seconds(one)), text_of_bytes(memory) + fits]
            + [text_of_bytes(shards * receipt["manifest"])]
            + [text_of_time(shards * receipt["seconds"]), text_of_time(shards * slow)]
            + [f"{full:,.0f} ({most})"]
        )
    return "By images of a shard: what the driver holds, and which limit is full first", rows


def money(figures: Figures, plan: Plan) -> Table:
    """What it costs, by parameters that stand for prices."""
    model, costs = expected(figures, plan), costs_of(figures, plan)
    hours = model.wall_s / HOUR * plan.workers
    gets = plan.shards * costs.gets
    single = plan.images / 1000 * plan.gets_price
    stored = plan.shards * costs.disk_bytes / 1e9
    gpu_rate = min(1e3 / plan.gpu_ms, plan.gpu_cores / figures["host_s"])
    gpus = plan.images / gpu_rate / HOUR
    rows = [
        ["what", "amount", "price (a parameter)", "cost"],
        ["CPU", f"{hours:,.0f} core-hours", f"{plan.core_hour} an hour"]
        + [f"{hours * plan.core_hour:,.0f}"],
        ["GET requests of tar files", f"{gets:.3g}", f"{plan.gets_price} for 1000"]
        + [f"{gets / 1000 * plan.gets_price:,.0f}"],
        ["GET requests, were each image a file", f"{plan.images:.3g}"]
        + [f"{plan.gets_price} for 1000", f"{single:,.0f}"],
        ["output kept for a month", text_of_bytes(1e9 * stored), f"{plan.gb_month} a GB"]
        + [f"{stored * plan.gb_month:,.0f}"],
        [f"GPUs instead (predicted: {gpu_rate:,.0f} images/s each)"]
        + [f"{gpus:,.0f} GPU-hours", f"{plan.gpu_hour} an hour", f"{gpus * plan.gpu_hour:,.0f}"],
    ]
    return "Cost, in the unit of the prices", rows


def assumptions(plan: Plan) -> Table:
    """The fields of the plan, which are no measurements."""
    words = re.findall(r"^ +(\w+): (.+)$", attributes(), re.M)
    rows = [[f"`{n}`", f"{getattr(plan, n):g}", text.rstrip(".")] for n, text in words]
    return "Assumed", [["parameter", "value", "what"], *rows]


def attributes() -> str:
    """Return the part of the docstring of `Plan` that describes its fields, a line for each."""
    text = (Plan.__doc__ or "").partition("Attributes:\n")[2]
    return re.sub(r"\n {12}", " ", text)


TABLES: Sequence[Callable[[Figures, Plan], Table]] = (
    *(measured, simulated, growth, shard_sizes, money),
    lambda figures, plan: assumptions(plan),
)


def markdown(figures: Figures, plan: Plan) -> str:
    """Return all tables as Markdown."""
    texts = []
    for table in TABLES:
        title, (first, *rows) = table(figures, plan)
        lines = [f"**{title}**", "", f"| {' | '.join(first)} |", "|" + "---|" * len(first)]
        texts.append("\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)]))
    return "\n\n".join(texts) + "\n"


def write(page: Path, tables: str) -> None:
    """Put the tables into the page, between its marks."""
    before, _, rest = page.read_text().partition(BEGIN)
    page.write_text(f"{before}{BEGIN}\n\n{tables}\n{END}{rest.partition(END)[2]}")


def changed(plan: Plan, changes: Sequence[str]) -> Plan:
    """Return a plan with `NAME=VALUE` changed."""
    kinds = {field.name: type(getattr(plan, field.name)) for field in dataclasses.fields(plan)}
    values = {}
    for change in changes:
        name, _, value = change.partition("=")
        if name not in kinds:
            raise SystemExit(f"--set {change}: expected NAME=VALUE of {', '.join(kinds)}")
        values[name] = kinds[name](float(value))
    return dataclasses.replace(plan, **values)


def main() -> None:
    """Parse the options and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("figures", type=Path)
    parser.add_argument("--set", action="append", default=[], metavar="NAME=VALUE")
    parser.add_argument("--write", action="store_true", help="put the tables into docs/scale.md")
    given = parser.parse_args()
    tables = markdown(json.loads(given.figures.read_text()), changed(Plan(), given.set))
    print(tables)
    if given.write:
        write(PAGE, tables)


if __name__ == "__main__":
    main()

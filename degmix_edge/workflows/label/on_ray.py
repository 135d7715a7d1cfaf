"""Label pieces with actors of a Ray cluster, through Ray Data."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from degmix_edge import errors
from degmix_edge.cluster import CLIENT, cluster, own_error, public_kind
from degmix_edge.errors import BackendError, DegmixError
from degmix_edge.progress import table
from degmix_edge.workflows.label.job import MANIFEST, Job, packages_here, versions_here
from degmix_edge.workflows.label.labeller import Labeller
from degmix_edge.workflows.label.pieces import Piece
from degmix_edge.workflows.label.shard import label_piece
from degmix_edge.workflows.label.writing import Receipt

PROBE_SECONDS = 120.0
"""How long a machine of the cluster may take to say what it has."""


def label_on_ray(
    job: Job, pieces: Mapping[int, Piece], workers: int, address: str
) -> Iterator[Receipt]:
    """Label pieces in `workers` actors of a cluster, and give a receipt for each as it is finished.

    Ray starts actors again that die, gives their pieces to others, and holds pieces back while all
    actors are busy.

    Args:
        job: The run.
        pieces: By number.
        workers: How many actors.
        address: `local`, `auto`, `host:port` or `ray://host:port`.

    Raises:
        ConfigError: Ray is not installed, or nothing answers at the address.
        BackendError: A machine of the cluster has other versions, or does not see the files.
        DegmixError: Whatever `label_piece` raises.
    """
    with cluster(address, workers * job.threads) as ray:
        check_machines(ray, job)
        rows = [{"number": n, "piece": piece.to_json()} for n, piece in pieces.items()]
        try:
            give = _from_afar if address.startswith(CLIENT) else mapped
            for row in give(ray, _Worker, job.to_json(), rows, workers=workers, cpus=job.threads):
                if row["error"]:
                    raise getattr(errors, row["error"])(row["text"])
                yield Receipt(**json.loads(row["text"]))
        except DegmixError:
            raise
        except Exception as error:  # Ray wraps what an actor raises in classes of its own
            raise own_error(error) from error


def mapped(
    ray: Any,
    actor: type,
    argument: str,
    rows: Sequence[Mapping[str, Any]],
    *,
    workers: int,
    cpus: int = 1,
) -> Iterator[dict[str, Any]]:
    """Give what actors of Ray Data make of rows, each as soon as it is there.

    Args:
        ray: The module, connected to a cluster.
        actor: A class whose objects take a batch of one row and return one.
        argument: What its constructor takes.
        rows: At least one.
        workers: Actors at most.
        cpus: Processors of an actor.
    """
    data = ray.data.from_items(list(rows), override_num_blocks=len(rows))
    yield from data.map_batches(
        actor,
        fn_constructor_args=(argument,),
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=min(workers, len(rows))),
        num_cpus=cpus,
    ).iter_rows()


class _Driver:
    """An actor that gives the rows of `mapped` one after the other."""

    def __init__(self, *arguments: Any, **settings: Any) -> None:
        import ray
        import ray.data

        ray.data.DataContext.get_current().enable_progress_bars = False
        self.rows = mapped(ray, *arguments, **settings)

    def next(self) -> dict[str, Any] | None:
        """Return the next row as soon as it is there, or None behind the last."""
        return next(self.rows, None)


def _from_afar(ray: Any, *arguments: Any, **settings: Any) -> Iterator[dict[str, Any]]:
    """Give what `mapped` does, run on the cluster: Ray Data does not work through Ray's client."""
    driver = ray.remote(num_cpus=0)(_Driver).remote(*arguments, **settings)
    while (row := ray.get(driver.next.remote())) is not None:
        yield row


class _Worker:
    """An actor: a labeller that is made once, and labels whatever piece it gets."""

    def __init__(self, job: str) -> None:
        self.job = Job.from_json(job)
        self.labeller = Labeller(self.job)

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Label the pieces of a batch, and return their receipts as text.

        An error of ours is a result too, with its class and message: what Ray makes of one that an
        actor raises does not always hold it.
        """
        names, texts = [], []
        for number, text in zip(batch["number"], batch["piece"], strict=True):
            piece, name = Piece.from_json(str(text)), ""
            try:
                receipt = label_piece(self.job, int(number), piece, self.labeller)
                said = json.dumps(asdict(receipt))
            except DegmixError as error:
                name, said = public_kind(error).__name__, str(error)
            names.append(name)
            texts.append(said)
        return {"error": np.array(names, object), "text": np.array(texts, object)}


def check_machines(ray: Any, job: Job) -> None:
    """Check before any work that every machine of the cluster would write the same bytes.

    Raises:
        BackendError: One has other versions, or does not see the bundle or the output's folder. A
            table of all of them is shown first.
    """
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy as On

    probe = ray.remote(num_cpus=0, max_retries=1)(_probe)
    found = {}
    for node in ray.nodes():
        if node["Alive"]:
            task = probe.options(scheduling_strategy=On(node["NodeID"], soft=False))
            found[f"{node['NodeManagerHostname']} {node['NodeID'][:6]}"] = task.remote(
                job.to_json()
            )
    machines: dict[str, dict[str, str]] = {}
    for name, answer in found.items():
        try:
            machines[name] = json.loads(ray.get(answer, timeout=PROBE_SECONDS))
        except Exception as error:  # whatever a machine without degmix-edge raises
            machines[name] = {"degmix-edge": "-", "problem": str(own_error(error)).splitlines()[-1]}
    compare_machines(job.versions, machines)


def compare_machines(own: Mapping[str, str], machines: Mapping[str, Mapping[str, str]]) -> None:
    """Check that machines have the versions of this one, and no problem.

    Args:
        own: Versions by name.
        machines: By machine, the same; `problem` says what is wrong with it.

    Raises:
        BackendError: One differs. A table of all is shown first.
    """
    wrong = {
        name: [
            *(f"{n} {theirs.get(n, '-')}, here {v}" for n, v in own.items() if theirs.get(n) != v),
            *filter(None, [theirs.get("problem")]),
        ]
        for name, theirs in machines.items()
    }
    if not any(wrong.values()):
        return
    rows = [["this one", *own.values(), ""]]
    rows += [
        [name, *(theirs.get(n, "-") for n in own), theirs.get("problem", "")]
        for name, theirs in machines.items()
    ]
    table("machines of the cluster", ["machine", *own, "problem"], rows)
    text = "; ".join(f"{name}: {', '.join(what)}" for name, what in wrong.items() if what)
    raise BackendError(f"the cluster would not label as this machine does: {text}")


def _probe(text: str) -> str:
    """What a machine has: its versions, or what is wrong with it."""
    job = Job.from_json(text)
    answer: dict[str, str] = {}
    try:
        answer |= packages_here()  # known even where the backend is not there
        answer |= versions_here(job.backend)
        job.open()
        if not (Path(job.out) / MANIFEST).is_file():
            answer["problem"] = f"does not see {job.out}"
    except DegmixError as error:
        answer["problem"] = str(error)
    return json.dumps(answer)

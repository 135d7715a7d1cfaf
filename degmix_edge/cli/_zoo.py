"""What `zoo` does: train all, then build, score and time each, then write the table.

Everything that takes long leaves a file in `OUT/NAME/`, and is not done again while what it was
made of is the same: `run/` (training, resumed from its last epoch), two bundles, `row.json`.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from degmix_edge import config
from degmix_edge.cli._files import make_folder, write_file
from degmix_edge.cli._output import Output
from degmix_edge.cli._zoo_score import PRECISIONS, Network, score_network
from degmix_edge.cli._zoo_train import train
from degmix_edge.errors import CheckpointError, ConfigError, OutputError

if TYPE_CHECKING:
    from degmix_training.config import TrainConfig
    from degmix_training.zoo import ZooConfig


def run(
    output: Output,
    name: str,
    *,
    models: str | None,
    checkpoints: Sequence[str],
    out: Path,
    overrides: Sequence[str],
    data: str | None,
    backend: str,
    calib_count: int,
    calls: int,
    force: bool,
    **machine: Any,
) -> dict[str, Any]:
    """All of it; see the verb."""
    from degmix_training.processes import is_first_process

    from degmix_edge import backends
    from degmix_edge.cli._zoo_report import write

    zoo = _zoo(name, models, overrides, data)
    for backend_name in backend.split(","):
        backends.choose(backend_name, to_build=True)
    given = _given(zoo, checkpoints)
    make_folder(out)
    if is_first_process():
        _claim(zoo, out, force)
    else:
        output.hush()
    runs = {n: s for n, s in {**zoo.references(), **_settings(zoo)}.items() if n not in given}
    train(output, out, runs, machine)
    if not is_first_process():
        return {}
    found = {n: given.get(n) or out / n / "run" / "best.safetensors" for n in zoo.entries}
    networks = []
    for index, (entry, path) in enumerate(found.items()):
        output.say(f"{entry}: build and score, {index + 1} of {len(found)}")
        networks.append(score_network(output, zoo, entry, path, out / entry, calib_count))
    baselines = _baselines(zoo, out)
    for network in networks:
        _gain(zoo, network, baselines)
    latencies = _bench(output, zoo, networks, out, backend, calls)
    return write(output, zoo, networks, baselines, latencies, out)


def _zoo(name: str, models: str | None, overrides: Sequence[str], data: str | None) -> ZooConfig:
    from degmix_training.zoo import ZooConfig, zoo

    changes = list(overrides)
    if data:
        kind, _, root = data.partition(":")
        changes += [f"train.data.name={kind}", f"train.data.root={root or 'null'}"]
        if kind != "synthetic" and not any(c.startswith("train.data.train=") for c in changes):
            changes += ["train.data.train=null", "train.data.val=null"]
    loaded: ZooConfig = config.load(ZooConfig, zoo(name), changes)
    chosen = loaded.choose([part.strip() for part in (models or "").split(",") if part.strip()])
    for settings in (*chosen.references().values(), *_settings(chosen).values()):
        settings.task_specs()
        _try_to_make(settings)
    return chosen


def _settings(zoo: ZooConfig) -> dict[str, TrainConfig]:
    return {name: zoo.settings(name) for name in zoo.entries}


def _try_to_make(settings: TrainConfig) -> None:
    """What a network cannot be made of is said before the first one trains."""
    import torch
    from degmix_training import models
    from degmix_training.config import network_config

    size = (settings.height, settings.width)
    with torch.device("meta"):
        made = network_config(settings.model, settings.network, size)
        models.find(settings.model).Model(made, settings.task_specs())


def _given(zoo: ZooConfig, checkpoints: Sequence[str]) -> dict[str, Path]:
    """Checkpoints to take, by entry.

    Raises:
        ConfigError, CheckpointError: No such entry; a checkpoint of another model, size or tasks.
    """
    from degmix_training.checkpoint import locate, read_card

    from degmix_edge.registry import unknown

    found = {}
    for text in checkpoints:
        name, separator, file = text.partition("=")
        if not separator or not file:
            raise ConfigError(f"--checkpoint {text}: expected NAME=FILE")
        if name not in zoo.entries:
            raise ConfigError("--checkpoint: " + unknown("zoo entry", name, zoo.entries))
        path = locate(file)
        card, want = read_card(path), zoo.settings(name)
        for what, got, expected in (
            ("model", card.model, want.model),
            ("size", f"{card.height}x{card.width}", f"{want.height}x{want.width}"),
            ("tasks", [t.name for t in card.tasks], list(want.tasks)),
            ("data set", card.config.data.name, want.data.name),
        ):
            if got != expected:
                raise CheckpointError(
                    f"--checkpoint {name}: {path} is of {what} {got}, entry {name!r} has "
                    f"{expected}; give the checkpoint of that entry, or leave it out to train one"
                )
        found[name] = path
    return found


def _claim(zoo: ZooConfig, out: Path, force: bool) -> None:
    """Note the settings in OUT; refuse one of other settings.

    Raises:
        OutputError: It holds another zoo.
    """
    path, text = out / "zoo.yaml", config.dump(zoo)
    if path.exists() and not force:
        before = config.load(type(zoo), path)
        shared = {"backbone", "reference", "train", "baseline"}
        now, then = (z.model_dump(mode="json", include=shared) for z in (zoo, before))
        changed = [key for key in shared if now[key] != then[key]]
        changed += [
            n for n, e in zoo.entries.items() if n in before.entries and before.entries[n] != e
        ]
        if changed:
            raise OutputError(
                f"{out}: holds a zoo with other settings ({', '.join(sorted(changed))}): networks "
                f"would not be comparable; give another --out, or --force to start anew"
            )
        known = {**before.entries, **zoo.entries}
        text = config.dump(zoo.model_copy(update={"entries": known}))
    if force and path.exists():
        import shutil

        for folder in out.iterdir():
            if (folder / "run").is_dir():
                shutil.rmtree(folder)
    write_file(path, text.encode(), force=True)


def _baselines(zoo: ZooConfig, out: Path) -> dict[str, tuple[float, str]]:
    """By task: what delta_m is measured against."""
    from degmix_training.checkpoint import read_card

    found = {}
    for name in zoo.references():
        card = read_card(out / name / "run" / "best.safetensors")
        for task, score in card.scores.items():
            found[task] = (score.value, name)
    return found


def _gain(zoo: ZooConfig, network: Network, baselines: dict[str, tuple[float, str]]) -> None:
    from degmix_training.delta_m import delta_m

    from degmix_edge import tasks

    kind = {task: tasks.find(task).metric for task in network.values}
    for precision, values in (("fp32", network.values), ("int8", network.int8)):
        usable = {t: v for t, v in values.items() if v == v}
        try:
            network.delta_m[precision] = delta_m(usable, baselines, kind).delta_m
        except ConfigError as error:  # a task whose baseline is 0 or no number
            network.remarks.append(f"no delta_m: {error}")
            return


def _bench(
    output: Output, zoo: ZooConfig, networks: Sequence[Network], out: Path, names: str, calls: int
) -> dict[str, Any]:
    """All engines in one alternating run, so that a slow moment of the machine hits them alike."""
    from degmix_edge.bench import bench
    from degmix_edge.bundle import open_bundle
    from degmix_edge.cli._sources import images
    from degmix_edge.preprocess import Fit
    from degmix_edge.runtime import load

    fit = Fit(height=zoo.train.height, width=zoo.train.width)
    pictures = [item.image for item in images("synthetic:4", fit)]
    results: dict[str, Any] = {}
    for backend in names.split(","):
        with ExitStack() as stack:
            sessions = {
                f"{network.name} {precision}": stack.enter_context(
                    load(open_bundle(out / network.name / f"{precision}.degmix"), backend=backend)
                )
                for network in networks
                for precision in PRECISIONS
            }
            with output.progress(f"bench {backend}", calls * len(sessions)) as advance:
                found = bench(sessions, pictures, calls=calls, warmup=3, advance=advance)
        for network in networks:
            network.latency_ms[backend] = {
                p: found[f"{network.name} {p}"].median_net_ms for p in PRECISIONS
            }
        results[backend] = found
    return results

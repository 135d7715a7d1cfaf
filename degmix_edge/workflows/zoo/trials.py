"""The trainings of a zoo as trials of Ray Tune, several at a time.

A trial trains in a process of Ray, which starts it again where it dies: it resumes from its last
validation, as the next call of `zoo` does. ASHA (Li et al. 2020, A System for Massively Parallel
Hyperparameter Tuning) may end a training early whose gain over constant predictions is behind that
of others at the same step. Networks that others are compared with always train to their end.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from degmix_edge import config
from degmix_edge.cluster import LOCAL, cluster
from degmix_edge.errors import BackendError, ConfigError, TrainingError
from degmix_edge.files import make_folder, write_file
from degmix_edge.progress import Event, emit, note, warn
from degmix_edge.workflows.zoo.train import STOPPED, is_trained, saved_step, stopped_step
from degmix_edge.workflows.zoo.trial import ASHA_GAIN, ASHA_STEP, train_one, versions_here

if TYPE_CHECKING:
    from degmix_training.config import TrainConfig
    from degmix_training.processes import Machine

MAX_FAILURES = 3
"""How often Ray starts a training again that died."""
TUNE = {
    "RAY_AIR_NEW_OUTPUT": "0",  # the other one prints boxes, even where it is told not to
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # an interruption ends the zoo, as without Ray
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",  # what ASHA must not end reports nothing to it
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",  # the runs have logs of their own
    "RAY_CHDIR_TO_TRIAL_DIR": "0",  # paths in settings are relative to this process
}


@dataclass(frozen=True)
class Cluster:
    """What trains the networks of a zoo.

    Attributes:
        workers: Trainings at a time.
        address: A Ray cluster, as `label` takes it; None starts one of this process.
        asha: Let ASHA end trainings early.
    """

    workers: int = 1
    address: str | None = None
    asha: bool = False

    def __post_init__(self) -> None:
        """Check the number.

        Raises:
            ConfigError: There would be no training.
        """
        if self.workers < 1:
            raise ConfigError(f"workers: got {self.workers}, expected at least 1")

    @property
    def is_wanted(self) -> bool:
        """Whether Ray takes part at all."""
        return self.workers > 1 or self.address is not None or self.asha

    @property
    def threads(self) -> int:
        """Processors of one training: on a cluster one, here a share of what PyTorch would use."""
        import torch

        if self.address is not None:
            return 1
        share = (os.cpu_count() or 1) // self.workers
        return max(1, min(share, torch.get_num_threads()))


def train_on_ray(
    runs: Mapping[str, TrainConfig],
    out: Path,
    on: Cluster,
    *,
    references: Sequence[str],
    machine: Machine,
) -> None:
    """Train each of `runs` into `OUT/NAME/run`, from where it stopped; a finished one stays.

    Args:
        runs: Settings by name.
        out: The zoo's folder, which every machine of the cluster sees at the same path.
        on: What trains them.
        references: Names of the trainings that ASHA must not end.
        machine: What each training runs on.

    Raises:
        ConfigError: Ray is not installed, nothing answers at the address, it has no GPU where one
            is asked for, or a training wants several processes.
        BackendError: A machine of the cluster has other versions.
        TrainingError: A training failed; the others were finished before.
        KeyboardInterrupt: It was interrupted; what was saved stays.
    """
    if machine.devices * machine.nodes > 1:
        raise ConfigError(
            f"--devices {machine.devices}, --nodes {machine.nodes}: a training on Ray has one "
            "process; leave them out, or leave out --workers, --address and --asha"
        )
    todo = _todo(runs, out, asha=on.asha, references=references)
    if not todo:
        return
    _check_tune()
    # ASHA compares what is trained with what was trained before.
    chosen = [n for n in runs if n in todo or (on.asha and n not in references)]
    with cluster(on.address or LOCAL, on.workers * on.threads) as ray:
        resources = (on.threads, _gpus(machine, ray.cluster_resources().get("GPU", 0)))
        trials = Trials({n: runs[n] for n in chosen}, out.absolute(), machine, resources)
        trials.run(on, references)


def _check_tune() -> None:
    """Prepare the environment of Ray Tune.

    Raises:
        ConfigError: It is not installed.
    """
    os.environ.update(TUNE)
    try:
        import ray.tune  # noqa: F401
    except ImportError as error:
        raise ConfigError(
            f"--workers, --address and --asha need Ray Tune ({error}): pip install "
            "'degmix-edge[scale]'; without them, the trainings run one after the other"
        ) from None


def _todo(
    runs: Mapping[str, TrainConfig], out: Path, *, asha: bool, references: Sequence[str]
) -> list[str]:
    """The trainings that are not finished; with ASHA, what it has stopped is."""
    return [
        name
        for name, settings in runs.items()
        if not is_trained(out / name / "run", settings)
        and not (asha and name not in references and stopped_step(out / name, settings.steps))
    ]


def _gpus(machine: Machine, available: float) -> int:
    """How many GPUs a training takes.

    Raises:
        ConfigError: One is asked for, and the cluster has none.
    """
    if machine.accelerator == "gpu" and not available:
        raise ConfigError(
            "--accelerator gpu: the cluster has no GPU; start it with `ray start --num-gpus`, or "
            "use --accelerator cpu"
        )
    return int(machine.accelerator != "cpu" and available > 0)


@dataclass
class Trials:
    """Trainings that Ray Tune runs.

    Attributes:
        runs: Settings by name.
        out: The zoo's folder.
        machine: What each training runs on.
        resources: Processors and GPUs of each.
        steps: The step that each has reached.
        failed: Class and text of the error of each that failed.
        raised: What a listener of the zoo's events raised, which Ray would hide.
    """

    runs: Mapping[str, TrainConfig]
    out: Path
    machine: Machine
    resources: tuple[int, int]
    steps: dict[str, int] = field(default_factory=dict)
    failed: dict[str, tuple[str, str]] = field(default_factory=dict)
    raised: Exception | None = None

    @property
    def stage(self) -> str:
        """The name of the work in events."""
        return f"train {len(self.runs)} networks on Ray"

    @property
    def total(self) -> int:
        """The steps of all trainings."""
        return sum(settings.steps for settings in self.runs.values())

    def run(self, on: Cluster, references: Sequence[str]) -> None:
        """Train them all.

        Args:
            on: How many at a time, and whether ASHA may end some early.
            references: Names of those that ASHA must not end.

        Raises:
            TrainingError, BackendError: One failed.
        """
        from ray import tune

        for name, settings in self.runs.items():
            make_folder(self.out / name)
            write_file(self.out / name / "train.yaml", config.dump(settings).encode(), force=True)
            if not on.asha:
                (self.out / name / STOPPED).unlink(missing_ok=True)
        start, storage = time.perf_counter(), self.out / "tune"
        emit(Event(self.stage, total=self.total))
        options = {"out": str(self.out), "machine": self.machine, "threads": self.resources[0]}
        options |= {"versions": versions_here(), "references": tuple(references)}
        trial = tune.with_parameters(train_one, **options)
        tuner = tune.Tuner(
            tune.with_resources(trial, {"cpu": self.resources[0], "gpu": self.resources[1]}),
            param_space={"name": tune.grid_search(list(self.runs))},
            tune_config=tune.TuneConfig(
                scheduler=self._asha() if on.asha else None,
                # A limit keeps the order, which ASHA needs.
                max_concurrent_trials=on.workers if on.address or on.asha else None,
                # With Ray 2.60, the process of a stopped training hangs when it is reused.
                reuse_actors=not on.asha,
            ),
            run_config=tune.RunConfig(
                name="trials",
                storage_path=str(storage),
                callbacks=[_listener(self)],
                failure_config=tune.FailureConfig(max_failures=MAX_FAILURES),
                verbose=0,
            ),
        )
        try:
            results = tuner.fit()
        except Exception as error:  # Ray wraps what a callback raises in a class of its own
            raise self.raised or error from None
        shutil.rmtree(storage, ignore_errors=True)
        self._check(results.errors)
        seconds = time.perf_counter() - start
        emit(Event(self.stage, "finished", self._done, self.total, seconds=seconds))

    def _asha(self) -> Any:
        from ray.tune.schedulers import ASHAScheduler

        steps = [settings.steps for settings in self.runs.values()]
        val_every = next(iter(self.runs.values())).val_every
        return ASHAScheduler(
            time_attr=ASHA_STEP,
            metric=ASHA_GAIN,
            mode="max",
            max_t=max(steps),
            grace_period=min(val_every, *steps),
        )

    @property
    def _done(self) -> int:
        return sum(self.steps.values())

    def guarded(self, heard: Callable[..., None], *values: Any) -> None:
        """Call what hears an event, and keep what it raises."""
        try:
            heard(*values)
        except Exception as error:
            self.raised = error
            raise

    def hear(self, name: str, result: Mapping[str, Any]) -> None:
        """Take note of what the trial of a training reports."""
        if result.get("error"):
            self.failed[name] = (result["error"], result["text"])
            warn(f"{name}: {result['text']}", self.stage)
            return
        step = int(result["step"])
        if step > self.steps.get(name, 0):
            self.steps[name] = step
            line = f"  {name}: step {step}/{self.runs[name].steps}  gain {result['gain']:+.2f} %"
            note(line, self.stage)
            emit(Event(self.stage, done=self._done, total=self.total, detail=name))

    def end(self, name: str) -> None:
        """Take note that a trial has ended, and mark it where ASHA has ended it."""
        step, settings = saved_step(self.out / name / "run"), self.runs[name]
        if name in self.failed or step >= settings.steps:
            return
        text = json.dumps({"step": step, "steps": settings.steps, "by": "ASHA"})
        write_file(self.out / name / STOPPED, text.encode(), force=True)
        note(f"{name}: ASHA has stopped it at step {step} of {settings.steps}", self.stage)

    def _check(self, crashes: Sequence[BaseException]) -> None:
        """Fail where a training failed or died.

        Raises:
            TrainingError: One did.
            BackendError: A machine has other versions.
        """
        for name, (kind, text) in self.failed.items():
            if kind == BackendError.__name__:
                raise BackendError(text)
            raise TrainingError(
                f"{name}: training ended at step {saved_step(self.out / name / 'run')}: {kind}: "
                f"{text}. The others are trained; the same command goes on"
            )
        for crash in crashes:
            last = str(crash).strip().splitlines()[-1]
            raise TrainingError(f"a training died on Ray: {last}. The same command goes on")
        for name in self.runs:
            if not (self.out / name / "run" / "best.safetensors").exists():
                raise TrainingError(
                    f"{name}: trained on Ray, but {self.out / name} has no checkpoint; --out must "
                    "be a folder that all machines of the cluster share"
                )


def _listener(own: Trials) -> Any:
    """A callback of Ray Tune that tells `own` what it hears."""
    from ray import tune

    class Listener(tune.Callback):
        """Passes on the results of trials."""

        def on_trial_result(
            self, iteration: int, trials: list[Any], trial: Any, result: Any, **info: Any
        ) -> None:
            own.guarded(own.hear, trial.config["name"], result)

        def on_trial_complete(
            self, iteration: int, trials: list[Any], trial: Any, **info: Any
        ) -> None:
            own.guarded(own.end, trial.config["name"])

    return Listener()

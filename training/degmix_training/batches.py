"""Batches for Lightning: an endless stream of draws that any number of processes can share."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import lightning
import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from degmix_edge.errors import ConfigError
from degmix_training.config import TrainConfig
from degmix_training.data import Sample
from degmix_training.data._augment import Augmented

Batch = tuple[Tensor, dict[str, Tensor], list[str]]


@dataclass(frozen=True)
class Draws(Sampler[list[tuple[int, int]]]):
    """An endless stream of batches of `(epoch, index)`, starting at step `first`.

    Every epoch has its own order. Process `rank` of `world` takes every `world`-th sample of each
    global batch, so that a step sees the same samples however many processes share it. An
    incomplete last batch is dropped.
    """

    length: int
    batch_size: int
    seed: int
    first: int = 0
    rank: int = 0
    world: int = 1

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        """Yield the batches of this process."""
        steps = self.length // self.batch_size
        step = self.first
        while True:
            epoch, place = divmod(step, steps)
            order = np.random.default_rng((self.seed, epoch)).permutation(self.length)
            for start in range(place, steps):
                batch = order[start * self.batch_size : (start + 1) * self.batch_size]
                yield [(epoch, int(index)) for index in batch[self.rank :: self.world]]
            step = (epoch + 1) * steps


class Batches(lightning.LightningDataModule):
    """Training batches of a config's data set; every process opens the data set itself."""

    def __init__(self, config: TrainConfig, workers: int = 0) -> None:
        super().__init__()
        self.config, self.workers = config, workers
        source = config.open_data()
        self.tasks = tuple(dict.fromkeys((*config.tasks, *config.auxiliary())))
        self.train = source.open_split("train", self.tasks, config.data.train)
        self.val = source.open_split("val", config.tasks, config.data.val)
        if len(self.train) < config.batch_size:
            raise ConfigError(
                f"data set {config.data.name!r}: {len(self.train)} training samples, expected at "
                f"least batch_size = {config.batch_size}; lower batch_size"
            )

    def train_dataloader(self) -> DataLoader[Any]:
        """Return the loader of the training batches, starting at the trainer's current step."""
        config, trainer = self.config, self.trainer
        world = trainer.world_size if trainer else 1
        draws = Draws(
            length=len(self.train),
            batch_size=config.batch_size,
            seed=config.seed,
            first=trainer.global_step if trainer else 0,
            rank=trainer.global_rank if trainer else 0,
            world=world,
        )
        return DataLoader(
            self._samples(),  # type: ignore[arg-type]
            batch_sampler=draws,
            num_workers=self.workers,
            collate_fn=collate,
            persistent_workers=self.workers > 0,
        )

    def first(self, count: int) -> list[Batch]:
        """Return the first batches of epoch 0, from which a network makes its first decisions."""
        draws = iter(Draws(len(self.train), self.config.batch_size, self.config.seed))
        samples = self._samples()
        return [collate([samples[draw] for draw in next(draws)]) for _ in range(count)]

    def _samples(self) -> Augmented:
        config = self.config
        size = (config.height, config.width)
        return Augmented(self.train, self.tasks, size, config.data.augment, config.seed)


def collate(batch: list[Sample]) -> Batch:
    """Stack samples to `(images (N, H, W, 3) uint8, {task: labels}, names)`."""
    images = torch.from_numpy(np.stack([sample.image for sample in batch]))
    labels = {
        task: torch.from_numpy(np.stack([sample.labels[task] for sample in batch]))
        for task in batch[0].labels
    }
    return images, labels, [sample.name for sample in batch]

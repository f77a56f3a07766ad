"""transformers' Trainer with the mean loss over a whole batch, on any number of processes."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.data import Dataset, Sampler
from transformers import PrinterCallback, TrainingArguments
from transformers.utils import logging as transformers_logging

from cai.errors import CaiError
from cai.training.split_trainer import SplitTrainer

Row = Mapping[str, Any]
Batch = dict[str, Tensor]

Collate = Callable[[Sequence[Row]], Batch]
"""Makes a batch of B rows. Its `count`, `(B,)`, says over how many items each row's loss is summed:
tokens, pairs or ratings."""

Loss = Callable[[nn.Module, Batch], Tensor]
"""Returns the summed loss of each row, `(B,)`, from the model and a batch without `count`."""


FILLER = -1
"""The place of a row that only fills a batch."""


class Rows(Dataset[tuple[Row, float]]):
    """Rows with weight 1, and the first row with weight 0 for those that only fill a batch."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> tuple[Row, float]:
        return (self._rows[0], 0.0) if index == FILLER else (self._rows[index], 1.0)


class Order(Sampler[int]):
    """Each epoch's order, by the seed only; fillers at the end give every process as many rows.

    Accelerate would fill up with rows that have been seen, and count them twice.
    """

    def __init__(self, rows: int, fillers: int, seed: int) -> None:
        self._rows, self._fillers, self._seed, self._epoch = rows, fillers, seed, 0

    def __len__(self) -> int:
        return self._rows + self._fillers

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self._seed + self._epoch)
        yield from torch.randperm(self._rows, generator=generator).tolist()
        yield from [FILLER] * self._fillers

    def set_epoch(self, epoch: int) -> None:
        """Choose the order; the loader calls it."""
        self._epoch = epoch


class FitTrainer(SplitTrainer):
    """Trains on rows; each step's loss is the mean over the items of all processes' rows."""

    loss_is_scaled_for_ga = True

    def __init__(
        self,
        model: nn.Module,
        arguments: TrainingArguments,
        rows: Sequence[Row],
        collate: Collate,
        loss: Loss,
    ) -> None:

        def collate_with_fillers(drawn: Sequence[tuple[Row, float]]) -> Batch:
            real = torch.tensor([share for _, share in drawn])
            return {**collate([row for row, _ in drawn]), "real": real}

        super().__init__(
            model=cast("Any", model),
            args=arguments,
            data_collator=cast("Any", collate_with_fillers),
            train_dataset=Rows(rows),
        )
        self.remove_callback(PrinterCallback)
        self._loss = loss

    def _get_train_sampler(self, train_dataset: Any = None) -> Sampler[int]:  # noqa: ANN401, ARG002
        rows, args = len(cast("Any", self.train_dataset)), self.args
        together = args.per_device_train_batch_size * args.world_size
        fillers = -rows % together if args.world_size > 1 else 0
        return Order(rows, fillers, args.seed)

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor]:
        """Return the micro-batches of one step and how many items they hold, on all processes."""
        batches, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        items = sum((batch["count"] * batch["real"]).sum() for batch in batches)
        return batches, cast("Tensor", self.accelerator.gather(cast("Tensor", items))).sum()

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:  # noqa: ANN401 (Trainer's contract)
        """Return this micro-batch's part of the mean; gradients are averaged over processes."""
        assert not return_outputs, "there is no evaluation"
        assert num_items_in_batch is not None, "`get_batch_samples` counts them"
        real, _ = inputs.pop("real"), inputs.pop("count")
        losses = self._loss(model, inputs) * real
        return losses.sum() / num_items_in_batch * self.accelerator.num_processes

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:  # noqa: ANN401
        """Run one forward and backward pass; raise a CaiError if the loss is not finite."""
        loss = super().training_step(*args, **kwargs)
        if not torch.isfinite(loss):
            raise CaiError(
                f"The loss became {loss.item()} at step {self.state.global_step + 1} of "
                f"{self.state.max_steps}. Lower `learning_rate` (now {self.args.learning_rate:g}) "
                "and run again."
            )
        return loss


@contextlib.contextmanager
def quiet_transformers() -> Generator[None]:
    """Silence transformers' warnings about choices that are made on purpose here."""
    transformers_logging.disable_progress_bar()
    level = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)

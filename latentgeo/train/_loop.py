"""The loop, run by Lightning: one module that drives any `Learner` with manual optimisation.

Every epoch's randomness is seeded anew from (seed, epoch, rank), so that a run which goes on from its last epoch draws
what it would have drawn. Importing this module imports Lightning.
"""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
import torch
from lightning.pytorch.callbacks import Checkpoint, TQDMProgressBar
from torch import Tensor

from latentgeo.train.recipe import Learner, TrainingError, check_finite

_WATCHED = 10_000  # at most so many data are validated on after each epoch
_ROWS = 2_000  # data per validation batch
_LOOK = 50  # steps between looks at the loss where a look makes a GPU wait


@dataclass(frozen=True)
class Run:
    """Settings of one training, besides recipe and data."""

    epochs: int
    batch_size: int
    learning_rate: float
    seed: int
    patience: int | None
    state: Path | None
    identity: str
    resume: bool
    device: str
    precision: str
    devices: int
    options: dict[str, Any]
    progress: bool


@dataclass
class Outcome:
    """How it went."""

    history: list[dict[str, float]] = field(default_factory=list)
    seconds: float = 0.0  # on the clock
    cpu_seconds: float = 0.0  # of this process
    stopped: str | None = None


def drive(learner: Learner, x: Tensor, watched: Tensor | None, run: Run) -> Outcome:
    """Train a learner in place."""
    driver = Driver(learner, x, watched, run)
    accelerator, devices = _accelerator(run)
    shown = run.progress and sys.stderr.isatty()
    callbacks: list[Any] = [TQDMProgressBar(refresh_rate=10)] if shown else []
    if run.state is not None:
        callbacks.append(Saver(run.state))
    options = dict(run.options)
    callbacks += options.pop("callbacks", [])
    with quiet():
        trainer = pl.Trainer(
            max_epochs=run.epochs,
            accelerator=accelerator,
            devices=devices,
            precision=options.pop("precision", run.precision),
            logger=options.pop("logger", False),
            enable_checkpointing=run.state is not None,
            enable_progress_bar=shown,
            enable_model_summary=False,
            callbacks=callbacks,
            **options,
        )
        start = _start(run)
        driver.clock = _now()
        try:
            trainer.fit(driver, ckpt_path=None if start is None else str(start), weights_only=True)
        except SystemExit:  # what Lightning makes of Ctrl-C, which need not end the caller's program
            if not trainer.interrupted:
                raise
            raise KeyboardInterrupt from None
    learner.drive(None)
    outcome = driver.outcome
    outcome.seconds, outcome.cpu_seconds = driver.spent()
    if driver.best is not None:
        learner.load_state_dict(driver.best)
    return outcome


def _accelerator(run: Run) -> tuple[str, Any]:
    device = torch.device(run.device)
    if device.type == "cpu":
        return "cpu", run.devices
    kind = "gpu" if device.type == "cuda" else device.type
    return kind, run.devices if device.index is None else [device.index]


def _start(run: Run) -> Path | None:
    """The state to go on from, if there is one of this very run."""
    if run.state is None or not run.state.exists():
        return None
    if not run.resume:
        run.state.unlink()
        return None
    try:
        found = torch.load(run.state, map_location="cpu", weights_only=True).get("identity")
    except Exception as error:
        raise TrainingError(
            f"{run.state} cannot be read ({type(error).__name__}); remove it, or start anew with resume=False"
        ) from error
    if found != run.identity:
        raise TrainingError(
            f"{run.state} is the state of another run (other data, recipe, seed, epochs, batch size or learning rate); "
            f"remove it, choose another `out`, or start anew with resume=False"
        )
    return run.state


class Totals:
    """Sums of per-batch means, weighed by the batches' sizes; not every step need name the same losses."""

    def __init__(self) -> None:
        self._sums: dict[tuple[str, ...], Tensor] = {}
        self._counts: dict[tuple[str, ...], int] = {}

    def add(self, losses: dict[str, Tensor], count: int, look: str | None = None) -> None:
        """Add a batch; with `look`, raise there and then if a loss is not finite."""
        names = tuple(losses)
        # one vector: two small operations per step, whatever the number of losses
        values = torch.stack([value.detach() for value in losses.values()]).double()
        if look is not None and not bool(torch.isfinite(values).all()):
            check_finite(losses, look)
        self._sums[names] = self._sums[names] + values * count if names in self._sums else values * count
        self._counts[names] = self._counts.get(names, 0) + count

    def means(self, where: str) -> dict[str, float]:
        """Means over all that was added."""
        sums: dict[str, float] = {}
        counts: dict[str, int] = {}
        for names, values in self._sums.items():
            for name, value in zip(names, values.tolist(), strict=True):
                sums[name] = sums.get(name, 0.0) + value
                counts[name] = counts.get(name, 0) + self._counts[names]
        found = {name: total / counts[name] for name, total in sums.items()}
        check_finite({name: torch.tensor(value) for name, value in found.items()}, where)
        return found


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


class Driver(pl.LightningModule):
    """Feeds a learner batches and generators, and keeps the books."""

    _data: tuple[Tensor, Tensor | None]
    learner: Learner

    def __init__(self, learner: Learner, x: Tensor, watched: Tensor | None, run: Run) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.learner = learner
        self.run = run
        self.outcome = Outcome()
        self.best: dict[str, Tensor] | None = None
        self.best_loss = float("inf")
        self.since_best = 0
        self.clock = _now()
        self.__dict__["_data"] = (x, None if watched is None else watched[:_WATCHED])
        learner.drive(self.manual_backward)

    # batches -----------------------------------------------------------------------------------------------------

    def _plan(self) -> tuple[int, int]:
        """Data per step over all devices, and steps per epoch; a last batch of one datum per device is left out."""
        n, together = len(self._data[0]), self.run.batch_size * self.trainer.world_size
        steps, rest = divmod(n, together)
        return together, max(1, steps + (rest >= 2 * self.trainer.world_size))

    def train_dataloader(self) -> range:
        """Numbers of the steps: the data are on the device already."""
        return range(self._plan()[1])

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """The learner's, each group with the learning rate that `rate` multiplies."""
        optimizers = self.learner.optimizers(self.run.learning_rate, self._plan()[1] * self.run.epochs)
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["initial_lr"] = group["lr"]
        return optimizers

    def on_fit_start(self) -> None:
        """Move the data to the device, once."""
        self.__dict__["_data"] = tuple(None if v is None else v.to(self.device) for v in self._data)

    def _seed(self, *more: int) -> int:
        return int(np.random.SeedSequence([self.run.seed, *more]).generate_state(1, np.uint64)[0] >> np.uint64(1))

    def on_train_epoch_start(self) -> None:
        """Draw the order of this epoch's data, the same on every device, and seed the noise."""
        epoch = self.current_epoch
        order = torch.Generator().manual_seed(self._seed(epoch))
        x = self._data[0]
        together, steps = self._plan()
        chunks = torch.randperm(len(x), generator=order).split(together)[:steps]
        rank, world = self.global_rank, self.trainer.world_size
        self._order = [chunk[rank::world].to(self.device) for chunk in chunks]
        seed = self._seed(epoch, 1 + rank)
        self._noise = torch.Generator(self.device).manual_seed(seed)
        torch.manual_seed(seed)
        self._totals = Totals()

    def training_step(self, step: int, batch_idx: int) -> None:
        """One step of the learner."""
        steps = len(self._order)
        progress = (self.current_epoch * steps + batch_idx) / (steps * self.run.epochs)
        rate = self.learner.rate(progress)
        found = self.optimizers()
        optimizers: list[Any] = list(found) if isinstance(found, (list, tuple)) else [found]
        for optimizer in optimizers:
            for group in getattr(optimizer, "optimizer", optimizer).param_groups:
                group["lr"] = group["initial_lr"] * rate
        batch = self._data[0][self._order[batch_idx]]
        losses = self.learner.training_step(batch, progress, optimizers, self._noise)
        look = self.device.type == "cpu" or batch_idx % _LOOK == 0
        where = f"in epoch {self.current_epoch + 1}, step {batch_idx + 1}"
        self._totals.add(losses, len(batch), where if look else None)

    # books -------------------------------------------------------------------------------------------------------

    def on_train_epoch_end(self) -> None:
        """Figures of the epoch, those of the data held out, and whether to stop."""
        figures = {"epoch": float(self.current_epoch + 1), **self._totals.means(f"in epoch {self.current_epoch + 1}")}
        if self._data[1] is not None:
            figures |= self._validate(self._data[1])
        self.outcome.history.append(figures)
        shown = {name: value for name, value in figures.items() if name in ("loss", "held_out_loss")}
        self.log_dict(shown, prog_bar=True, rank_zero_only=True)
        if self.run.patience is not None:
            self._maybe_stop(figures["held_out_loss"], self.run.patience)

    @torch.no_grad()
    def _validate(self, x: Tensor) -> dict[str, float]:
        self.learner.eval()
        noise = torch.Generator(self.device).manual_seed(self._seed(0, 0))  # the same every time
        totals = Totals()
        for batch in x.split(_ROWS):
            totals.add(self.learner.losses(batch, 1.0, noise), len(batch))
        self.learner.train()
        found = totals.means(f"on data held out, after epoch {self.current_epoch + 1}")
        return {f"held_out_{name}": value for name, value in found.items()}

    def _maybe_stop(self, loss: float, patience: int) -> None:
        if (self.current_epoch + 1) / self.run.epochs < self.learner.warmup:
            return
        if loss < self.best_loss:
            self.best_loss, self.since_best = loss, 0
            self.best = {name: value.detach().cpu().clone() for name, value in self.learner.state_dict().items()}
            return
        self.since_best += 1
        if self.since_best >= patience:
            best = self.current_epoch + 1 - self.since_best
            self.outcome.stopped = f"after epoch {self.current_epoch + 1}; the weights are those of epoch {best}"
            self.trainer.should_stop = True

    def spent(self) -> tuple[float, float]:
        """Seconds on the clock and of this process's CPU time, with those of the runs before a kill."""
        wall, cpu = (b - a for a, b in zip(self.clock, _now(), strict=True))
        return self.outcome.seconds + wall, self.outcome.cpu_seconds + cpu

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the books with the weights."""
        checkpoint["identity"] = self.run.identity
        checkpoint["books"] = {
            "history": self.outcome.history,
            "spent": self.spent(),
            "stopped": self.outcome.stopped,
            "best": self.best,
            "best_loss": self.best_loss,
            "since_best": self.since_best,
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Take the books up again."""
        books = checkpoint["books"]
        seconds, cpu_seconds = books["spent"]
        self.outcome = Outcome(list(books["history"]), seconds, cpu_seconds, books["stopped"])
        self.best, self.best_loss, self.since_best = books["best"], books["best_loss"], books["since_best"]


class Saver(Checkpoint):
    """Writes the state after each epoch, whole or not at all."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Write beside, then replace."""
        partial = self.path.with_name(f".{self.path.name}.partial")
        try:
            trainer.save_checkpoint(partial)
            if trainer.is_global_zero:
                partial.replace(self.path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        trainer.strategy.barrier()


@contextmanager
def quiet() -> Iterator[None]:
    """Lightning without its greetings, and without warnings about what is meant."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    logger.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            for text in (
                "The '.*dataloader' does not have many workers",
                "GPU available but not used",
                "The number of training batches",
                ".*tensorboardX.*",
                ".*LeafSpec.*",
                "`isinstance\\(treespec, LeafSpec\\)` is deprecated",
            ):
                warnings.filterwarnings("ignore", text)
            yield
    finally:
        logger.setLevel(level)

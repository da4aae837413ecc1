"""The engine of fine-tuning: epochs over a training set, checkpoints, tests; what happens on a batch is a `Method`."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from ohlora import distributed
from ohlora.checkpoints import SAVE_EVERY, Checkpoint, opened
from ohlora.errors import UserError
from ohlora.finetune.data import TrainingSet
from ohlora.finetune.methods import Method
from ohlora.rng import torch_seed

GPU_LOOKS = 50  # batches between two looks at the losses on a GPU, which has to wait for each

# The code that a training and its tests run through; a test compares it with finetune/dvc.yaml.
CODE = (
    *("finetune/*.py", "gan/losses.py", "networks/*.py", "checkpoints.py", "distributed.py", "filtering.py"),
    *("labels.py", "plots.py", "properties.py", "responses.py", "rng.py", "sampling.py", "training.py"),
    *("stages/curves.py", "stages/finetune.py"),
)

Look = Callable[["FineTuner"], dict[str, float]]
Log = Callable[[str, dict[str, float]], None]


class FineTuner:
    """A fine-tuning that can be ended and taken up at every batch.

    Args:
        method: networks and loss.
        data: images and labels.
        epochs: rounds over them.
        batch_size: images in a step, over all processes.

    Attributes:
        step: batches trained on so far.
        history: what was logged in each epoch; tests: the same for the tests between epochs, with their `step`.
        seconds: time spent up to the last checkpoint.

    Raises:
        UserError: a number of epochs or a batch size that is not allowed.
    """

    def __init__(self, method: Method, data: TrainingSet, epochs: int, batch_size: int):
        name, processes = method.recipe.name, distributed.size()
        if epochs < 1:
            raise UserError(f"finetune.{name}.epochs = {epochs}: allowed is 1 and more")
        group = min(16, batch_size // processes)  # of the minibatch deviation
        if batch_size < 1 or batch_size % processes or group == 0 or batch_size // processes % group:
            allowed = f"1 to 16, or a multiple of 16, for each of {processes} processes"
            raise UserError(f"finetune.batch_size = {batch_size}: allowed is {allowed}")
        if len(data) < batch_size:
            raise UserError(f"finetune.batch_size = {batch_size}: more than the {len(data)} images there are")
        self.method, self.data, self.batch_size = method, data.to(method.device), batch_size
        self.per_epoch = len(data) // batch_size
        self.total = epochs * self.per_epoch
        self.step, self.seconds = 0, 0.0
        self.history: list[dict[str, float]] = []
        self.tests: list[dict[str, float]] = []
        self._sums: dict[str, Tensor] = {}

    @property
    def epoch(self) -> int:
        """Whole epochs trained."""
        return self.step // self.per_epoch

    def run(
        self,
        folder: Path,
        mark: Mapping[str, str],
        look: Look,
        test: Look | None = None,
        log: Log = lambda prefix, row: None,
        every: float = SAVE_EVERY,
    ) -> None:
        """Trains to the end, from `folder`/checkpoint.pt if its mark is the same.

        Args:
            folder: where the checkpoint lies; one training at a time.
            mark: fingerprints by name (parameters, inputs, code); those that differ are named when it starts afresh.
            look: called after every epoch by process 0; what it gives is logged with the losses.
            test: called after every `recipe.test_every` batches by process 0.
            log: called by process 0 with "" and the row of every epoch, and "test/" and the row of every test between
                epochs; with the earlier rows first if the training goes on.
            every: seconds between two checkpoints within an epoch.

        Raises:
            UserError: another training in the folder (with its pid), or losses or weights that are not finite; then the
                last checkpoint stays as it is.
            KeyboardInterrupt: after a checkpoint, if Ctrl-C or a polite kill came.
        """
        with opened(folder, mark, self.method.device, every) as checkpoint:
            state = checkpoint.load()
            if state is None:
                checkpoint.forget()
            else:
                self.load(state)
                self._say(f"{checkpoint.path}: goes on after {self._place()}")
            self._logged = log if distributed.rank() == 0 else lambda prefix, row: None
            for prefix, rows in (("", self.history), ("test/", self.tests)):
                for row in rows:
                    self._logged(prefix, row)
            self._began = time.monotonic()
            with self._bar() as bar:
                while self.step < self.total and not checkpoint.stopped():
                    self._train(look, test, checkpoint)
                    bar.update(self.batch_size)
            if self.step < self.total:
                self._save(checkpoint)
                self._say(f"{checkpoint.path}: saved after {self._place()}; the same command goes on from there")

    def _bar(self) -> tqdm:
        total, initial = self.total * self.batch_size, self.step * self.batch_size
        return tqdm(
            total=total,
            initial=initial,
            unit="img",
            desc=self.method.recipe.name,
            disable=True if distributed.rank() else None,
        )

    def _train(self, look: Look, test: Look | None, checkpoint: Checkpoint) -> None:
        self._step()
        ended = self.step % self.per_epoch == 0
        every = self.method.recipe.test_every
        tested = test is not None and every > 0 and self.step % every == 0
        if ended or tested:
            self._check_weights(checkpoint)
        if ended or tested or self.method.device.type == "cpu" or self.step % GPU_LOOKS == 0:
            self._check(checkpoint)
        if test is not None and tested:
            self.tests.append({"step": float(self.step), **self._looked(test)})
            self._logged("test/", self.tests[-1])
        if ended:
            self.method.end_epoch()
            means = {name: float(value) / self.per_epoch for name, value in self._sums.items()}
            self._sums = {}
            self.history.append(means | self._looked(look))
            self._logged("", self.history[-1])
        if ended or checkpoint.due():
            self._save(checkpoint)

    def _step(self) -> None:
        seed, rank = self.method.settings.seed, distributed.rank()
        # Seeding every step makes a resumed run the same as one that was never stopped.
        torch.manual_seed(torch_seed(seed, "finetune", "step", self.step, *([rank] if rank else [])))
        rows = self.data.rows(self.step, self.batch_size, seed)[rank :: distributed.size()]
        for name, value in self.method.step(*self.data.batch(rows), self.step).items():
            summand = torch.as_tensor(value, dtype=torch.float64)
            self._sums[name] = self._sums[name] + summand if name in self._sums else summand
        self.step += 1

    def _looked(self, look: Look) -> dict[str, float]:
        return look(self) if distributed.rank() == 0 else {}

    def _check(self, checkpoint: Checkpoint) -> None:
        """Raises UserError if a loss of this epoch was not finite."""
        wrong = [name for name, value in self._sums.items() if not torch.isfinite(value)]
        if wrong:
            raise self._not_finite(f"{wrong[0]} is not finite", checkpoint)

    def _not_finite(self, what: str, checkpoint: Checkpoint) -> UserError:
        stays = f"{checkpoint.path} holds the last finite state" if checkpoint.path.exists() else "nothing was saved"
        name = self.method.recipe.name
        return UserError(f"recipe {name}, {self._place()}: {what}; {stays}; lower finetune.{name}.rate_factor")

    def _place(self) -> str:
        return f"epoch {self.step // self.per_epoch}, batch {self.step % self.per_epoch}"

    def _say(self, text: str) -> None:
        if distributed.rank() == 0:
            tqdm.write(text)

    def _check_weights(self, checkpoint: Checkpoint) -> None:
        """Raises UserError if a weight is not finite."""
        for name, network in self.method.networks.items():
            if not all(bool(value.isfinite().all()) for value in network.state_dict().values()):
                raise self._not_finite(f"weights of the {name} are not finite", checkpoint)

    def _save(self, checkpoint: Checkpoint) -> None:
        self._check(checkpoint)
        self._check_weights(checkpoint)
        now = time.monotonic()
        self.seconds, self._began = self.seconds + now - self._began, now
        checkpoint.save(self.state())

    def state(self) -> dict[str, Any]:
        """Everything that a resumed training needs."""
        own: dict[str, Any] = {"step": self.step, "history": self.history, "tests": self.tests, "sums": self._sums}
        own["seconds"] = self.seconds
        return own | {"method": self.method.state()}

    def load(self, state: Mapping[str, Any]) -> None:
        """Goes on from `state()`."""
        self.step = state["step"]
        self._sums = {name: value.to(self.method.device) for name, value in state["sums"].items()}
        self.history, self.tests = list(state["history"]), list(state["tests"])
        self.seconds = state["seconds"]
        self.method.load(state["method"])

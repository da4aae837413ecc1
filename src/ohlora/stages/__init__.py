"""One thin module for each stage of dvc.yaml, and what they have in common."""

from contextlib import ExitStack
from functools import reduce
from types import TracebackType
from typing import Any, Self

import torch
from pydantic import BaseModel

from ohlora import distributed
from ohlora.errors import UserError
from ohlora.files import lock
from ohlora.params import Params, fingerprint, load_params
from ohlora.runtime import fast_bf16
from ohlora.sampling import Precision

PARAMS = "params.yaml"


class Stage:
    """The frame of a stage: checked parameters, one process at a time, threads, device.

    Used as a context manager from the repository's root. When the block ends, the parameters the stage depends on must
    still be those it started with: DVC would record the new ones for the old result.

    Args:
        name: the stage's name in dvc.yaml.
        sections: the keys of params.yaml that it depends on: seed, score, vectors.generator.

    Attributes:
        params, seed, device.
        bf16: whether trainings compute in bfloat16.
        precision: number format in which images are drawn and read, "fp32" or "bf16".
    """

    def __init__(self, name: str, *sections: str) -> None:
        self.name = name
        self._sections = sections
        self._open = ExitStack()

    def __enter__(self) -> Self:
        self.params = load_params(PARAMS)
        self._start = self._fingerprint(self.params)
        self.seed = self.params.seed
        self.device = distributed.start(self.params.runtime.device)
        self.bf16 = self._in_bf16(self.params.runtime.training_precision)
        self.precision: Precision = "bf16" if self._in_bf16(self.params.sample.precision) else "fp32"
        if self.params.runtime.threads:
            torch.set_num_threads(self.params.runtime.threads)
        if distributed.rank() == 0:
            self._open.enter_context(lock(".locks", self.name))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        with self._open:
            if kind is None and self._fingerprint(load_params(PARAMS)) != self._start:
                raise UserError(f"{PARAMS}: {', '.join(self._sections)} changed while {self.name} ran; start it again")

    def _in_bf16(self, choice: str) -> bool:
        return fast_bf16(self.device) if choice == "auto" else choice == "bf16"

    def _fingerprint(self, params: Params) -> str:
        return fingerprint({name: _plain(reduce(getattr, name.split("."), params)) for name in self._sections})


def _plain(value: Any) -> Any:
    return value.model_dump() if isinstance(value, BaseModel) else value

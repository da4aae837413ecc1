"""What the training of the parser, the judge and the annotator has in common."""

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ohlora.errors import UserError
from ohlora.files import save_tensors
from ohlora.params import fingerprint
from ohlora.pretrain.loop import Schedule
from ohlora.pretrain.settings import Training
from ohlora.rng import stream


@dataclass(frozen=True)
class Split:
    """Rows to train on and rows held out, ascending."""

    train: np.ndarray
    held_out: np.ndarray


def arguments(what: str) -> argparse.ArgumentParser:
    """The command line of one training."""
    parser = argparse.ArgumentParser(description=f"Trains the {what} on rendered faces.")
    parser.add_argument("--params", type=Path, default=Path("params.yaml"), help="file with the section of this step")
    parser.add_argument("--renders", type=Path, nargs="+", required=True, help="folders of renders")
    parser.add_argument("--output", type=Path, required=True, help="folder of the results and the checkpoint")
    return parser


def split(n: int, params: Training) -> Split:
    """Draws the held-out rows of n. Raises UserError if fewer than half would be left to train on."""
    if n < 2 * params.held_out:
        raise UserError(f"held_out = {params.held_out}: allowed is at most half of the {n} renders")
    order = stream(params.seed, "held_out").permutation(n)
    return Split(np.sort(order[params.held_out :]), np.sort(order[: params.held_out]))


def schedule(params: Training) -> Schedule:
    """The training loop's schedule."""
    return Schedule(params.steps, params.batch_size, params.learning_rate, params.evaluations, params.seed)


def mark(params: Training, folders: Sequence[Path], net: Mapping[str, object]) -> str:
    """A fingerprint of all that a checkpoint depends on."""
    data = [(folder / "attributes.csv").stat().st_size for folder in folders]
    return fingerprint({"params": params.model_dump(), "renders": data, "net": net})


def to_float(images: np.ndarray, device: torch.device | str = "cpu") -> Tensor:
    """uint8 (N, H, W, 3) to float32 (N, 3, H, W) in [-1, 1], stored channels last."""
    return torch.from_numpy(np.array(images)).to(device).permute(0, 3, 1, 2).float() / 127.5 - 1


def save_network(path: Path, architecture: str, net: nn.Module) -> None:
    """Writes a network that carries what is needed to build it again.

    Args:
        path: a safetensors file; its metadata holds `architecture` and `config` (JSON).
        architecture: "parser" or "attributes".
        net: with a `config` for its class's `from_config`.
    """
    save_tensors(path, net.state_dict(), {"architecture": architecture, "config": json.dumps(net.config)})

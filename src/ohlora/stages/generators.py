"""The generators that sample.generator names."""

from typing import cast

import torch

from ohlora.networks.stylegan import Generator
from ohlora.weights import load_bundled

BUNDLED_NAMES = {"base": "generator"}


def named_generator(name: str, device: torch.device) -> Generator:
    """The generator of this name, in eval mode, on the device."""
    return cast(Generator, load_bundled(BUNDLED_NAMES[name])).to(device)

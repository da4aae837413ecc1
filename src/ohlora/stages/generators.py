"""The generators under models/generators: base, and one for each recipe that was trained."""

import torch

from ohlora.networks.stylegan import Generator
from ohlora.stages.paths import GENERATORS
from ohlora.weights import load_generator


def named_generator(name: str, device: torch.device) -> Generator:
    """The generator of this name, in eval mode, on the device. Errors as `load_generator`."""
    return load_generator(f"{GENERATORS.format(name)}/generator.safetensors").to(device)

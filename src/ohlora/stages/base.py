"""Stage base: the networks that everything starts from, where those of the recipes lie too."""

from pathlib import Path

from torch import nn

from ohlora.files import save_tensors
from ohlora.params import Params
from ohlora.stages import Stage
from ohlora.stages.paths import FACEXFORMER, GENERATORS, PUBLISHED
from ohlora.weights import load_bundled, load_discriminator, load_generator, stored

BUNDLED = "bundled"


def networks(params: Params) -> dict[str, nn.Module]:
    """Generator and discriminator, bundled or published; of a published folder the latter may be missing.

    Raises:
        UserError: a published file is missing, also one that a later stage needs; says which and how to add it.
    """
    if params.segment.backend != BUNDLED:
        stored(PUBLISHED, FACEXFORMER)
    folder = params.base.weights
    if folder == BUNDLED:
        return {name: load_bundled(name) for name in ("generator", "discriminator")}
    name = "generator_smooth" if params.base.averaged else "generator"
    found: dict[str, nn.Module] = {"generator": load_generator(stored(PUBLISHED, f"{folder}/{name}.safetensors"))}
    if Path(PUBLISHED, folder, "discriminator.safetensors").exists():
        found["discriminator"] = load_discriminator(stored(PUBLISHED, f"{folder}/discriminator.safetensors"))
    return found


def run() -> None:
    """Checks the generator and discriminator and writes them under models/generators."""
    with Stage("base", "base", "segment.backend") as stage:
        for name, network in networks(stage.params).items():
            path = f"{GENERATORS.format('base')}/{name}.safetensors"
            save_tensors(path, network.state_dict(), {"architecture": name})

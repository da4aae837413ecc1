"""Stage base: the networks that everything starts from, where those of the recipes lie too."""

from ohlora.files import save_tensors
from ohlora.stages import Stage
from ohlora.stages.paths import GENERATORS
from ohlora.weights import load_bundled


def run() -> None:
    """Checks the bundled generator and discriminator and writes them under models/generators."""
    with Stage("base"):
        for name in ("generator", "discriminator"):
            path = f"{GENERATORS.format('base')}/{name}.safetensors"
            save_tensors(path, load_bundled(name).state_dict(), {"architecture": name})

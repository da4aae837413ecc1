"""The fine-tuning recipes as data, and which tensors each trains.

Source of the numbers: Oh-LoRA (WannaBeSuperteur/AI_Projects), StyleGAN-FineTune-v1 to v9.
"""

from dataclasses import dataclass
from typing import Literal

from torch import nn

from ohlora.errors import UserError
from ohlora.networks.stylegan import Discriminator, Generator
from ohlora.properties import EXPRESSIONS, PROPERTY_NAMES

EVERYTHING = 1024  # the highest resolution there is


@dataclass(frozen=True)
class Turns:
    """How often a network trains in a row on one batch: up to `most` times, again while own >= ratio * other loss."""

    most: int = 1
    ratio: float = 0.0

    def again(self, taken: int, own: float, other: float | None) -> bool:
        """Whether to train once more after `taken` turns; `other` is None as long as that network has no loss."""
        return taken < self.most and other is not None and own >= self.ratio * other


@dataclass(frozen=True)
class Recipe:
    """One way to fine-tune.

    Attributes:
        name: v1, v2, ...
        parent: the generator (and discriminator) it starts from.
        loss: adversarial; property: error of the property CNN's reading; vae: conditional variational autoencoder.
        labels: properties of the label inputs, in order.
        counted: properties whose scores the loss or the image generation test compares with the label.
        label_source: table of the labels, or zeros.
        embedding: numbers the label is mapped to before it joins z.
        two_branches: whether the mapping network gets v9's second branch.
        discriminator: the parent's with the label joined, the property CNN's structure, or none.
        new: tensors that the parent does not give, by role (see `ohlora.finetune.networks`).
        synthesis: synthesis layers and outputs train up to this resolution; the mapping network always trains.
        layers, inputs: discriminator layers and RGB inputs train up to this resolution; 4 is the last block and the
            dense layers.
        mixing: probability of style mixing in training. The original's text has v5, v8 and v9 'as v1'; in its code the
            default is 0 after v1, and v8 and v9 pass 0.
        truncation: pull of w towards the mean w of the same label (1 none), in training and tests.
        generator_turns, discriminator_turns: the alternation on one batch.
        rate: step size of AdamW. encoder_rate: the same for v3's encoder.
        annealing: epochs of half a period of the cosine.
        test_every: batches between two image generation tests; 0 after every epoch only.
    """

    name: str
    parent: Literal["base", "v1"] = "v1"
    loss: Literal["adversarial", "property", "vae"] = "adversarial"
    labels: tuple[str, ...] = PROPERTY_NAMES
    counted: tuple[str, ...] = ()
    label_source: Literal["scores_v1", "scores_cnn", "zeros"] = "scores_cnn"
    embedding: int = 16
    two_branches: bool = False
    discriminator: Literal["parent", "property_cnn", "none"] = "parent"
    new: tuple[str, ...] = ()
    synthesis: int = 0
    layers: int = 4
    inputs: int = 0
    mixing: float = 0.0
    truncation: float = 1.0
    generator_turns: Turns = Turns(4, 2.0)
    discriminator_turns: Turns = Turns()
    rate: float = 1e-4
    encoder_rate: float = 0.0
    annealing: int = 10
    test_every: int = 0


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe(
            "v1",
            parent="base",
            label_source="scores_v1",
            mixing=0.9,
            new=("label map", "first dense layer", "last dense layer"),
        ),
        Recipe(
            "v2",
            loss="property",
            counted=tuple(name for name in PROPERTY_NAMES if name != "background_std"),
            discriminator="none",
            new=("first dense layer",),
            synthesis=EVERYTHING,
            rate=1e-5,
            annealing=20,
        ),
        Recipe(
            "v3",
            loss="vae",
            counted=EXPRESSIONS,
            embedding=24,
            discriminator="none",
            new=("label map", "first dense layer"),
            encoder_rate=1e-5,
        ),
        Recipe(
            "v4",
            labels=EXPRESSIONS,
            counted=EXPRESSIONS,
            new=("label map", "last dense layer"),
            test_every=20,
        ),
        Recipe(
            "v5",
            labels=EXPRESSIONS,
            counted=EXPRESSIONS,
            discriminator="property_cnn",
            new=("label map",),
            synthesis=EVERYTHING,
            layers=EVERYTHING,
            inputs=EVERYTHING,
            truncation=0.5,
            discriminator_turns=Turns(4, 1.5),
            test_every=10,
        ),
        Recipe("v8", label_source="zeros", synthesis=4),
        Recipe(
            "v9",
            label_source="zeros",
            two_branches=True,
            new=("second branch",),
            synthesis=16,
            layers=16,
            inputs=8,
            discriminator_turns=Turns(4, 2.5),
        ),
    )
}


def named_recipe(name: str) -> Recipe:
    """The recipe of this name. Raises UserError for another name."""
    if name not in RECIPES:
        raise UserError(f"recipe {name!r}: allowed are {', '.join(RECIPES)}")
    return RECIPES[name]


def trained_generator(generator: Generator, recipe: Recipe) -> list[str]:
    """Names of the generator's parameters that the recipe trains, whatever the resolution."""
    prefixes = ["mapping."]
    for block, resolution in enumerate(generator.synthesis.resolutions):
        if resolution <= recipe.synthesis:
            prefixes += [f"synthesis.layer{2 * block}.", f"synthesis.layer{2 * block + 1}."]
            prefixes += [f"synthesis.output{block}."]
    return _starting(generator, prefixes)


def trained_discriminator(discriminator: nn.Module, recipe: Recipe) -> list[str]:
    """Names of the discriminator's parameters that the recipe trains; all of one made from the property CNN."""
    if not isinstance(discriminator, Discriminator):
        return [name for name, _ in discriminator.named_parameters()]
    prefixes = [f"layer{discriminator.last + 2}."]
    for block, resolution in enumerate(discriminator.descending):
        if resolution <= recipe.layers:
            prefixes += [f"layer{2 * block}.", f"layer{2 * block + 1}."]
        if resolution <= recipe.inputs:
            prefixes += [f"input{block}."]
    return _starting(discriminator, prefixes)


def _starting(network: nn.Module, prefixes: list[str]) -> list[str]:
    return [name for name, _ in network.named_parameters() if name.startswith(tuple(prefixes))]

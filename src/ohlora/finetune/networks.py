"""Conditional networks made from a parent's: which tensors are new, and how they start."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from ohlora.errors import UserError
from ohlora.finetune.recipes import Recipe, trained_discriminator, trained_generator
from ohlora.networks.cnn import PropertyCNN, PropertyDiscriminator
from ohlora.networks.encoder import Encoder
from ohlora.networks.stylegan import Discriminator, Generator
from ohlora.rng import stream
from ohlora.training import seeded
from ohlora.weights import OHLORA_GROUP

BRANCH_STD = 0.15  # of the stored weights and biases of v9's second branch
BRANCH_FACTOR = 4  # its inner width, in widths of w: 2048 of 512


@dataclass(frozen=True)
class Parent:
    """What a recipe starts from: trained networks and the properties of their label inputs (none for the base)."""

    generator: Generator
    discriminator: nn.Module | None
    labels: tuple[str, ...] = ()


@dataclass
class Made:
    """The networks of a recipe.

    Attributes:
        generator: in train mode; only the recipe's parameters require gradients.
        discriminator, encoder: the same; None where the recipe has none.
        new: how every tensor that is not simply the parent's has started, by network and name.
    """

    generator: Generator
    discriminator: Discriminator | PropertyDiscriminator | None = None
    encoder: Encoder | None = None
    new: dict[str, str] = field(default_factory=dict)


def make(recipe: Recipe, parent: Parent, property_cnn: PropertyCNN | None, seed: int, keep: bool) -> Made:
    """Networks that start from the parent's.

    Args:
        recipe: says which tensors are new.
        parent: eval mode; left as it is.
        property_cnn: needed for a discriminator of its structure.
        seed: start of the streams of new tensors.
        keep: what a new tensor starts from where the parent has one of its role: True, the parent's numbers for the
            inputs that both know (the same z then gives much the same person) and drawn ones for the others; False,
            the whole tensor is drawn, as in the original.

    Raises:
        UserError: the parent lacks a tensor that is not new, or has another shape.
    """
    made = Made(_generator(recipe, parent, seed))
    _start(made, "generator", made.generator, parent.generator, _new_in_generator(recipe, parent, made), keep, seed)
    if recipe.discriminator != "none":
        made.discriminator = _discriminator(recipe, parent, property_cnn, seed)
        _fill_discriminator(made, recipe, parent, property_cnn, keep, seed)
    if recipe.loss == "vae":
        with seeded(seed, "finetune", recipe.name, "encoder"):
            made.encoder = Encoder(made.generator.resolution, len(recipe.labels), made.generator.mapping.z_dim)
        made.new["encoder"] = "drawn"
    _freeze(made, recipe)
    return made


def _freeze(made: Made, recipe: Recipe) -> None:
    named: list[tuple[nn.Module, Sequence[str]]] = [(made.generator, trained_generator(made.generator, recipe))]
    if made.discriminator is not None:
        named.append((made.discriminator, trained_discriminator(made.discriminator, recipe)))
    for network, names in named:
        network.train().requires_grad_(False)
        for name in names:
            network.get_parameter(name).requires_grad_(True)


# ---------------------------------------------------------------- layouts


def generator_channels(generator: Generator) -> dict[int, int]:
    """Feature maps per resolution."""
    blocks = enumerate(generator.synthesis.resolutions)
    return {res: generator.get_parameter(f"synthesis.output{block}.weight").shape[1] for block, res in blocks}


def discriminator_channels(discriminator: Discriminator) -> dict[int, int]:
    """Feature maps per resolution; those of the dense layer stand at 2."""
    blocks = enumerate(discriminator.descending)
    channels = {res: discriminator.get_parameter(f"input{block}.weight").shape[0] for block, res in blocks}
    return channels | {2: discriminator.get_parameter(f"layer{discriminator.last + 1}.weight").shape[0]}


def _generator(recipe: Recipe, parent: Parent, seed: int) -> Generator:
    old = parent.generator.mapping
    mapping = {
        "z_dim": old.z_dim,
        "w_dim": old.w_dim,
        "layers": old.layers,
        "width": old.get_parameter("dense0.weight").shape[0],
        "label_size": len(recipe.labels),
        "label_embedding": recipe.embedding,
        "split": BRANCH_FACTOR * old.w_dim if recipe.two_branches else 0,
    }
    with seeded(seed, "finetune", recipe.name, "generator"):
        return Generator(parent.generator.resolution, generator_channels(parent.generator), mapping)


def _discriminator(
    recipe: Recipe, parent: Parent, property_cnn: PropertyCNN | None, seed: int
) -> Discriminator | PropertyDiscriminator:
    resolution = parent.generator.resolution
    with seeded(seed, "finetune", recipe.name, "discriminator"):
        if recipe.discriminator == "property_cnn":
            if property_cnn is None or property_cnn.resolution != resolution:
                raise UserError(f"recipe {recipe.name}: needed is a property CNN for {resolution} pixels")
            return PropertyDiscriminator(resolution, len(recipe.labels), property_cnn.width)
        if not isinstance(parent.discriminator, Discriminator) or parent.discriminator.resolution != resolution:
            raise UserError(f"recipe {recipe.name}: needed is a StyleGAN discriminator for {resolution} pixels")
        channels = discriminator_channels(parent.discriminator)
        return Discriminator(resolution, channels, len(recipe.labels), group=OHLORA_GROUP)


# ---------------------------------------------------------------- new tensors


@dataclass(frozen=True)
class New:
    """A tensor that the parent does not give: where the parent's numbers stand in it, or how it is drawn."""

    rows: Mapping[int, int] | None = None  # index here -> index in the parent
    columns: Mapping[int, int] | None = None
    std: float | None = None  # drawn from N(0, std^2); None: as a new network draws it
    # A layer divides its weights by the root of its inputs, so known columns must grow to count as much as before.
    # Not before a pixel normalisation: its divisor grows with the inputs too.
    rescaled: bool = True


def _new_in_generator(recipe: Recipe, parent: Parent, made: Made) -> dict[str, New]:
    old, size = parent.generator.mapping, made.generator.mapping.z_dim
    embedded = old.get_parameter("label_weight").shape[1] if old.label_size else 0
    joined = recipe.embedding if embedded == recipe.embedding else 0  # numbers of the label that the parent knows
    new: dict[str, New] = {}
    if "label map" in recipe.new:
        new["mapping.label_weight"] = New(rows=_shared(recipe.labels, parent.labels) if joined else None)
    if "first dense layer" in recipe.new:
        new["mapping.dense0.weight"] = New(columns={i: i for i in range(size + joined)}, rescaled=False)
    if "second branch" in recipe.new:
        for layer in ("dense_new0", "dense_new1"):
            new |= {f"mapping.{layer}.{part}": New(std=BRANCH_STD) for part in ("weight", "bias")}
    return new


def _new_in_discriminator(recipe: Recipe, parent: Parent, made: Discriminator) -> dict[str, New]:
    if "last dense layer" not in recipe.new:
        return {}
    features = made.get_parameter(f"layer{made.last + 1}.weight").shape[0]
    labels = {features + i: features + k for i, k in _shared(recipe.labels, parent.labels).items()}
    weight, bias = f"layer{made.last + 2}.weight", f"layer{made.last + 2}.bias"
    new = {weight: New(columns={i: i for i in range(features)} | labels)}
    return new if parent.labels else new | {bias: New(columns={})}


def _shared(names: Sequence[str], old: Sequence[str]) -> dict[int, int]:
    return {i: old.index(name) for i, name in enumerate(names) if name in old}


def _start(
    made: Made, kind: str, network: nn.Module, parent: nn.Module, new: Mapping[str, New], keep: bool, seed: int
) -> None:
    """Fills a network: every tensor is the parent's, but for the new ones."""
    given, state = parent.state_dict(), network.state_dict()
    missing = [
        f"{key} expected {tuple(value.shape)}, found {tuple(given[key].shape) if key in given else None}"
        for key, value in state.items()
        if key not in new and (key not in given or given[key].shape != value.shape)
    ]
    if missing:
        raise UserError(f"parent's {kind}: {'; '.join(missing[:3])}")
    for key, value in state.items():
        if key not in new:
            state[key] = given[key].clone()
            continue
        state[key], how = _started(key, value, given.get(key), new[key], keep, seed)
        made.new[f"{kind} {key}"] = how
    network.load_state_dict(state)


def _started(key: str, drawn: Tensor, given: Tensor | None, rule: New, keep: bool, seed: int) -> tuple[Tensor, str]:
    """A new tensor and, in words, how it starts."""
    if rule.std is not None:
        numbers = stream(seed, "finetune", key).standard_normal(tuple(drawn.shape), dtype=np.float32)
        return torch.from_numpy(numbers) * rule.std, f"N(0, {rule.std:g}^2)"
    if not keep or given is None or (rule.rows is None and rule.columns is None):
        return drawn, "drawn"
    if drawn.ndim == 1:
        return given.clone(), "the parent's"
    result = drawn.clone()
    if rule.rows is not None:
        for here, there in rule.rows.items():
            result[here] = given[there]
        return result, f"the parent's rows {sorted(rule.rows.values())}"
    columns = rule.columns or {}
    scale = (drawn.shape[1] / given.shape[1]) ** 0.5 if rule.rescaled else 1.0
    result[:, list(columns)] = given[:, list(columns.values())] * scale
    return result, f"the parent's for {len(columns)} of {drawn.shape[1]} inputs"


def _fill_discriminator(
    made: Made, recipe: Recipe, parent: Parent, property_cnn: PropertyCNN | None, keep: bool, seed: int
) -> None:
    network = made.discriminator
    if isinstance(network, PropertyDiscriminator) and property_cnn is not None:
        given = property_cnn.state_dict()  # a hairstyle head, if there is one, stays out
        network.cnn.load_state_dict({key: given[key] for key in network.cnn.state_dict()})
        made.new |= {f"discriminator {name}": "drawn" for name, _ in network.named_parameters() if name[:4] != "cnn."}
    elif isinstance(network, Discriminator) and parent.discriminator is not None:
        new = _new_in_discriminator(recipe, parent, network)
        _start(made, "discriminator", network, parent.discriminator, new, keep, seed)

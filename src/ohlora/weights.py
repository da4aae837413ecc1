"""Loading of weights: what a network is follows from its keys and shapes, and nothing is loaded half.

g = load_generator("generator.safetensors")     # or .pth, or a state dict
judge = load_bundled("judge")
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ohlora.errors import UserError, one_line
from ohlora.files import PathLike, damage, load_tensors, read_json
from ohlora.networks.cnn import Network, PropertyCNN, PropertyDiscriminator, rebuild
from ohlora.networks.encoder import Encoder
from ohlora.networks.facexformer import FaceXFormer
from ohlora.networks.regressor import AttributeNet
from ohlora.networks.stylegan import Discriminator, Generator
from ohlora.networks.unet import Parser

BUNDLED = Path(__file__).resolve().parents[2] / "models" / "bundled"
BUNDLED_NAMES = ("generator", "discriminator", "parser", "judge", "annotator")
OHLORA_GROUP = 16  # images per group of the minibatch deviation in Oh-LoRA's discriminators

Source = PathLike | Mapping[str, Any]


def load_generator(source: Source) -> Generator:
    """The generator of a file or state dict, in eval mode; resolution, widths, labels and branches follow from it.

    Args:
        source: a safetensors file, a file of `torch.save`, or a state dict; of a GenForce file with several networks
            the averaged generator ("generator_smooth") is taken, else "generator".

    Raises:
        UserError: not readable, not a generator, or weights that are not finite; names the first tensors that differ.
    """
    state, name = _state(source, "generator_smooth", "generator")
    return _build(name, state, _generator)


def load_discriminator(source: Source) -> Discriminator | PropertyDiscriminator:
    """The discriminator of a file or state dict, in eval mode; arguments and errors as `load_generator`."""
    state, name = _state(source, "discriminator")
    if any(key.startswith("cnn.") for key in state):
        return _named(name, state, PropertyDiscriminator.from_state_dict)
    return _build(name, state, _discriminator)


def load_encoder(source: Source) -> Encoder:
    """FineTune-v3's encoder of a file or state dict, in eval mode; errors as `load_generator`."""
    state, name = _state(source)
    return _named(name, state, Encoder.from_state_dict)


def load_property_cnn(source: Source) -> PropertyCNN:
    """The property CNN (7 or 8 outputs) of a file or state dict, in eval mode; errors as `load_generator`."""
    state, name = _state(source)
    return _named(name, state, PropertyCNN.from_state_dict)


def load_facexformer(source: Source) -> FaceXFormer:
    """FaceXFormer of a file or state dict, in eval mode; errors as `load_generator`."""
    state, name = _state(source, "state_dict_backbone")
    return _build(name, state, lambda _: FaceXFormer())


def load_parser(source: PathLike) -> Parser:
    """The parser of a safetensors file whose metadata describes it, in eval mode; errors as `load_generator`."""
    return load_described(source, "parser", Parser.from_config)


def load_attributes_net(source: PathLike) -> AttributeNet:
    """A judge or annotator of a safetensors file whose metadata describes it, in eval mode."""
    return load_described(source, "attributes", AttributeNet.from_config)


def load_described(path: PathLike, architecture: str, from_config: Callable[[dict[str, Any]], Network]) -> Network:
    """A network whose file carries its architecture and config in the metadata, in eval mode.

    Raises:
        UserError: as `load_generator`, or the file holds another architecture.
    """
    tensors, metadata = load_tensors(path)
    if metadata.get("architecture") != architecture:
        raise UserError(f"{path}: holds {metadata.get('architecture', 'an unnamed network')}, expected {architecture}")
    state, name = _state(tensors)[0], str(path)
    return _build(name, state, lambda _: from_config(json.loads(metadata["config"])))


def load_bundled(name: str, folder: PathLike = BUNDLED) -> nn.Module:
    """A network of models/bundled, in eval mode: generator, discriminator, parser, judge or annotator.

    Raises:
        UserError: no such name, or a file that is missing or is not the one of manifest.json.
    """
    if name not in BUNDLED_NAMES:
        raise UserError(f"bundled weights {name!r}: allowed are {', '.join(BUNDLED_NAMES)}")
    path, manifest = Path(folder) / f"{name}.safetensors", Path(folder) / "manifest.json"
    with damage(manifest, "the manifest of the weights"):
        expected = read_json(manifest)[name]["sha256"]
    if hashlib.sha256(path.read_bytes()).hexdigest() != expected:
        raise UserError(f"{path}: not the file of manifest.json (sha256 differs); restore it with git checkout")
    if name == "generator":
        return load_generator(path)
    if name == "discriminator":
        return load_discriminator(path)
    if name == "parser":
        return load_parser(path)
    return load_attributes_net(path)


# ---------------------------------------------------------------- reading


def _state(source: Source, *parts: str) -> tuple[dict[str, Tensor], str]:
    """The float32 state dict of a source, and its name for messages; `parts` are tried in files of several networks."""
    name = "state dict" if isinstance(source, Mapping) else str(source)
    content: Any = source if isinstance(source, Mapping) else _read(Path(source))
    content = content.get("models", content) if isinstance(content, Mapping) else content
    for part in parts:
        if isinstance(content, Mapping) and isinstance(content.get(part), Mapping):
            content = content[part]
            break
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise UserError(f"{name}: no state dict; allowed is one mapping of names to tensors")
    return {str(key): value.float() if value.is_floating_point() else value for key, value in content.items()}, name


def _read(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return load_tensors(path)[0]
    path.stat()  # a missing file is an OSError with its name
    with damage(path, "a safe file of weights"):
        return torch.load(path, map_location="cpu", weights_only=True)


def _check_finite(name: str, state: dict[str, Tensor]) -> None:
    for key, value in state.items():
        if not torch.isfinite(value).all():
            raise UserError(f"{name}: {key} has values that are not finite")


def _named(name: str, state: dict[str, Tensor], build: Callable[[dict[str, Tensor]], Network]) -> Network:
    """What `build` makes of a state dict; its errors say which file they are about."""
    _check_finite(name, state)
    try:
        return build(state)
    except UserError as error:
        raise UserError(str(error) if str(error).startswith(name) else f"{name}: {error}") from None
    except KeyError as error:
        raise UserError(f"{name}: weights of another network: {error.args[0]} is missing") from None


def _build(name: str, state: dict[str, Tensor], build: Callable[[dict[str, Tensor]], Network]) -> Network:
    """The network that `build` makes for a state dict, filled and in eval mode."""
    _check_finite(name, state)
    try:
        return rebuild(lambda _: build(state), state, resolution=0)
    except UserError as error:
        message = str(error)
    except (
        ArithmeticError,
        LookupError,
        RuntimeError,
        TypeError,
        ValueError,
    ) as error:  # odd shapes, odd config
        message = f"weights of another network: {one_line(error)}"
    raise UserError(message if message.startswith(name) else f"{name}: {message}")


# ---------------------------------------------------------------- architecture from keys and shapes


def _count(state: Mapping[str, Tensor], pattern: str) -> int:
    """How many of pattern.format(0), pattern.format(1), ... there are; UserError for none."""
    count = 0
    while pattern.format(count) in state:
        count += 1
    if count == 0:
        raise UserError(f"weights of another network: no {pattern.format(0)}, the first key is {next(iter(state))}")
    return count


def _generator(state: dict[str, Tensor]) -> Generator:
    blocks = _count(state, "synthesis.output{}.weight")
    layers = _count(state, "mapping.dense{}.weight")
    label = state.get("mapping.label_weight", torch.empty(0, 0))
    split = state.get("mapping.dense_new0.bias", torch.empty(0))
    mapping = {
        "z_dim": state["mapping.dense0.weight"].shape[1] - label.shape[1],
        "w_dim": state[f"mapping.dense{layers - 1}.weight"].shape[0],
        "layers": layers,
        "width": state["mapping.dense0.weight"].shape[0],
        "label_size": label.shape[0],
        "label_embedding": label.shape[1],
        "split": split.shape[0],
    }
    channels = {4 << block: state[f"synthesis.output{block}.weight"].shape[1] for block in range(blocks)}
    return Generator(4 << (blocks - 1), channels, mapping)


def _discriminator(state: dict[str, Tensor]) -> Discriminator:
    blocks = _count(state, "input{}.weight")
    channels = {4 << (blocks - 1 - k): state[f"input{k}.weight"].shape[0] for k in range(blocks)}
    features = channels[2] = state[f"layer{2 * blocks - 1}.weight"].shape[0]
    outputs, inputs = state[f"layer{2 * blocks}.weight"].shape
    joined = inputs - features
    label_size = joined or (outputs if outputs > 1 else 0)
    group = OHLORA_GROUP if joined else 4
    return Discriminator(4 << (blocks - 1), channels, label_size, label_joined=joined > 0, group=group)

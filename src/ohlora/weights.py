"""Loading of weights: what a network is follows from its keys and shapes, and nothing is loaded half.

g = load_generator("generator.safetensors")     # or .pth, or a state dict
judge = load_bundled("judge")
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from ohlora.errors import UserError, one_line
from ohlora.files import PathLike, damage, load_tensors, read_json
from ohlora.networks.cnn import Network, PropertyCNN, PropertyDiscriminator, rebuild
from ohlora.networks.encoder import Encoder
from ohlora.networks.regressor import AttributeNet
from ohlora.networks.stylegan import Discriminator, Generator
from ohlora.networks.unet import Parser

if TYPE_CHECKING:
    from ohlora.networks.facexformer import FaceXFormer

BUNDLED = Path(__file__).resolve().parents[2] / "models" / "bundled"
BUNDLED_NAMES = ("generator", "discriminator", "parser", "judge", "annotator", "property_cnn")
MANIFEST = "manifest.json"  # beside weights: the sha256 of each
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


def load_facexformer(source: Source) -> "FaceXFormer":
    """FaceXFormer of a file or state dict, in eval mode; errors as `load_generator`."""
    # It imports torchvision's models, for which every stage would wait 1.5 s.
    from ohlora.networks.facexformer import FaceXFormer

    state, name = _state(source, "state_dict_backbone")

    def build(_: dict[str, Tensor]) -> "FaceXFormer":
        with torch.device("meta"):  # drawing weights that are replaced at once takes longer than loading them
            network = FaceXFormer()
        return network.to_empty(device="cpu")  # all its buffers are in the file

    return _build(name, state, build)


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
    state, name = state_of(tensors, str(path))
    return _build(name, state, lambda _: from_config(json.loads(metadata["config"])))


def load_bundled(name: str, folder: PathLike = BUNDLED) -> nn.Module:
    """A network of models/bundled, one of BUNDLED_NAMES, in eval mode.

    Raises:
        UserError: no such name, or a file that is missing or is not the one of manifest.json.
    """
    if name not in BUNDLED_NAMES:
        raise UserError(f"bundled weights {name!r}: allowed are {', '.join(BUNDLED_NAMES)}")
    path, manifest = Path(folder) / f"{name}.safetensors", Path(folder) / MANIFEST
    with damage(manifest, "the manifest of the weights"):
        expected = read_json(manifest)[name]["sha256"]
    if sha256(path) != expected:
        raise UserError(f"{path}: not the file of manifest.json (sha256 differs); restore it with git checkout")
    loaders: dict[str, Callable[[Path], nn.Module]] = {
        "generator": load_generator,
        "discriminator": load_discriminator,
        "parser": load_parser,
        "property_cnn": load_property_cnn,
    }
    return loaders.get(name, load_attributes_net)(path)


# ---------------------------------------------------------------- published weights that a person added


def stored(store: PathLike, name: str) -> Path:
    """A file of models/published, such as celeba256/generator.safetensors, with the sha256 of its manifest.

    Raises:
        UserError: it is missing (says how to add it) or is not the file that was added.
    """
    path, manifest = Path(store) / name, Path(store) / MANIFEST
    if not path.exists():
        folder = Path(name).parent.as_posix()
        what = folder if Path(name).stem == folder else f"FILE --as {folder}"
        command = f"python -m ohlora weights add {what}"
        hint = "README, Using the published weights, says where the files are"
        raise UserError(f"{path} is missing; add the published file with: {command} ({hint})")
    with damage(manifest, "the manifest of the published weights"):
        expected = read_json(manifest)[name]["sha256"]
    check_sum(path, expected)
    return path


def check_sum(path: PathLike, expected: str) -> None:
    """Raises UserError unless the file's sha256 is the expected one."""
    found = sha256(path)
    if found != expected.lower():
        raise UserError(f"{path}: sha256 expected {expected}, found {found}")


def sha256(path: PathLike) -> str:
    """The checksum of a file, in hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# ---------------------------------------------------------------- reading


def _state(source: Source, *parts: str) -> tuple[dict[str, Tensor], str]:
    """The float32 state dict of a source, and its name for messages; `parts` are tried in files of several networks."""
    name = "state dict" if isinstance(source, Mapping) else str(source)
    content: Any = source if isinstance(source, Mapping) else read_weights(Path(source))
    content = content.get("models", content) if isinstance(content, Mapping) else content
    for part in parts:
        if isinstance(content, Mapping) and isinstance(content.get(part), Mapping):
            content = content[part]
            break
    return state_of(content, name)


def state_of(content: Any, name: str) -> tuple[dict[str, Tensor], str]:
    """The content of a file as a float32 state dict of finite values, and `name`, which errors begin with.

    Raises:
        UserError: it is no mapping of names to tensors, or a value is not finite.
    """
    if not isinstance(content, Mapping) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise UserError(f"{name}: no state dict; allowed is one mapping of names to tensors")
    state = {str(key): value.float() if value.is_floating_point() else value for key, value in content.items()}
    for key, value in state.items():
        if not torch.isfinite(value).all():
            raise UserError(f"{name}: {key} has values that are not finite")
    return state, name


def read_weights(path: Path) -> Any:
    """The content of a safetensors file or of one of `torch.save`, plain data and tensors only.

    Raises:
        UserError: in one line what is wrong: empty, a web page, damaged, or a pickle that asks for more than tensors.
    """
    if path.suffix == ".safetensors":
        return load_tensors(path)[0]
    with path.open("rb") as file:
        start = file.read(512).lstrip().lower()
    if not start:
        raise UserError(f"{path}: empty, not a safe file of weights")
    if start.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        raise UserError(f"{path}: a web page, not a safe file of weights; download the file itself")
    with damage(path, "a safe file of weights"):
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except UnpicklingError as error:
            if "Unsupported" not in str(error) and "GLOBAL" not in str(error):
                raise
            reason = "its pickle asks for code to be run; allowed are tensors and plain data"
            raise UserError(f"{path}: not a safe file of weights, {reason}") from None


def _named(name: str, state: dict[str, Tensor], build: Callable[[dict[str, Tensor]], Network]) -> Network:
    """What `build` makes of a state dict; its errors say which file they are about."""
    try:
        return build(state)
    except UserError as error:
        raise UserError(str(error) if str(error).startswith(name) else f"{name}: {error}") from None
    except KeyError as error:
        raise UserError(f"{name}: weights of another network: {error.args[0]} is missing") from None


def _build(name: str, state: dict[str, Tensor], build: Callable[[dict[str, Tensor]], Network]) -> Network:
    """The network that `build` makes for a state dict, filled and in eval mode."""
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

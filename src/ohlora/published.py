"""Published weights: recognised from keys and shapes, checked, kept as safetensors with their sha256, and exported.

GenForce's files (generator, discriminator, generator_smooth, also nested under models), Oh-LoRA's state dicts and
FaceXFormer's file all come through `add`; what a file is follows from its tensors, never from its name. The keys and
shapes that count as published are those of the networks in `ohlora.networks` at 256x256.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ohlora.errors import UserError
from ohlora.files import PathLike, atomic, load_tensors, read_json, save_tensors, write_json
from ohlora.filtering import NETWORKS, Ensemble, save_ensemble
from ohlora.networks.cnn import HairstyleHead, PropertyCNN, shapes
from ohlora.networks.encoder import Encoder
from ohlora.networks.facexformer import FaceXFormer
from ohlora.networks.stylegan import Discriminator, Generator
from ohlora.weights import MANIFEST, OHLORA_GROUP, load_discriminator, load_generator, read_weights, sha256, state_of

RESOLUTION = 256
HAIRSTYLE = "hairstyle_score_cnn"  # its prefix in the property CNN of 8 outputs
PARTS = ("generator", "generator_smooth", "discriminator", "state_dict_backbone")  # of files with several networks


@dataclass(frozen=True)
class Layout:
    """One published network.

    Attributes:
        name: for people.
        part: its file under models/published/NAME, without the suffix.
        build: makes it.
        folder: the usual NAME; empty where several versions have the same tensors and a person must say which it is.
    """

    name: str
    part: str
    build: Callable[[], nn.Module]
    folder: str = ""


def _generator(labels: int = 0, embedding: int = 0, split: int = 0) -> Generator:
    return Generator(RESOLUTION, mapping={"label_size": labels, "label_embedding": embedding, "split": split})


def _discriminator(labels: int) -> Discriminator:
    return Discriminator(RESOLUTION, label_size=labels, group=OHLORA_GROUP if labels else 4)


LAYOUTS = (
    Layout("GenForce generator", "generator", _generator, "celeba256"),
    Layout("Oh-LoRA generator, 7 labels (v1, v2, v8)", "generator", partial(_generator, 7, 16)),
    Layout("Oh-LoRA generator, 7 labels in 24 numbers (v3)", "generator", partial(_generator, 7, 24)),
    Layout("Oh-LoRA generator, 3 labels (v4, v6, v7)", "generator", partial(_generator, 3, 16)),
    Layout("Oh-LoRA generator, two branches (v9)", "generator", partial(_generator, 7, 16, 2048)),
    Layout("GenForce discriminator", "discriminator", partial(_discriminator, 0), "celeba256"),
    Layout("Oh-LoRA discriminator, 7 labels (v1, v8, v9)", "discriminator", partial(_discriminator, 7)),
    Layout("Oh-LoRA discriminator, 3 labels (v4)", "discriminator", partial(_discriminator, 3)),
    Layout("Oh-LoRA encoder (v3)", "encoder", partial(Encoder, RESOLUTION)),
    Layout("property CNN, 7 outputs", "property_cnn", partial(PropertyCNN, RESOLUTION, 7), "ohlora"),
    Layout("property CNN, 8 outputs", "property_cnn", partial(PropertyCNN, RESOLUTION, 8), "ohlora"),
    Layout("hairstyle head", HAIRSTYLE, partial(HairstyleHead, RESOLUTION, 1.0), "ohlora"),
    *(Layout(f"{name} CNN", name, partial(network, RESOLUTION), "ohlora") for name, network in NETWORKS.items()),
    Layout("FaceXFormer", "facexformer", FaceXFormer, "facexformer"),
)


@cache
def _expected(layout: Layout) -> dict[str, tuple[int, ...]]:
    return shapes(lambda _: layout.build(), 0)


def recognise(state: Mapping[str, Tensor]) -> Layout:
    """The layout of a state dict: exactly its keys and shapes.

    Raises:
        UserError: no layout has them; names the first tensors that differ from the most alike one.
    """
    found = {key: tuple(value.shape) for key, value in state.items()}
    best: tuple[Layout, list[str]] | None = None
    for layout in LAYOUTS:
        expected = _expected(layout)
        keys = [key for key in dict.fromkeys((*expected, *found)) if expected.get(key) != found.get(key)]
        if not keys:
            return layout
        if best is None or len(keys) < len(best[1]):
            best = layout, keys
    layout, keys = best  # type: ignore[misc]  # there are layouts
    expected = _expected(layout)
    first = "; ".join(f"{key} expected {expected.get(key)}, found {found.get(key)}" for key in keys[:3])
    size = f" {RESOLUTION}x{RESOLUTION}"
    raise UserError(f"no published network; most alike is {layout.name}{size} but for {len(keys)} tensors: {first}")


@dataclass(frozen=True)
class Found:
    """A network of a file: its name there (empty in a file of one), layout and tensors."""

    name: str
    layout: Layout
    state: dict[str, Tensor]


def read(path: PathLike) -> list[Found]:
    """All networks of a file of published weights.

    Raises:
        UserError: one line: not readable, unsafe, not published, or with values that are not finite.
    """
    content = read_weights(Path(path))
    content = content.get("models", content) if isinstance(content, Mapping) else content
    names = [name for name in PARTS if isinstance(content, Mapping) and isinstance(content.get(name), Mapping)]
    found = []
    for name in names or [""]:
        state, _ = state_of(content[name] if name else content, f"{path}: {name}" if name else str(path))
        try:
            found.append(Found(name, recognise(state), state))
        except UserError as error:
            raise UserError(f"{path}: {name}: {error}" if name else f"{path}: {error}") from None
    return found


# ---------------------------------------------------------------- the store


def add(paths: Sequence[PathLike], store: PathLike, folder: str = "", source: str = "") -> list[Path]:
    """Converts files of published weights to safetensors under `store`/NAME.

    Args:
        paths: one file; several for the folds of one filter CNN, or a property CNN of 7 outputs and its hairstyle head.
        store: models/published.
        folder: NAME, for instance v1; empty for the layout's usual one.
        source: where the file comes from, if that is not its path; one line.

    Returns:
        The files written; `store`/manifest.json has their sha256, layout and source.

    Raises:
        UserError: as `read`, or files that do not belong together, or a layout that needs a NAME. Nothing is written.
    """
    found = [(Path(path), network) for path in paths for network in read(path)]
    whole = _whole([network for _, network in found])
    unnamed = [layout.name for layout, _ in whole.values() if not (folder or layout.folder)]
    if unnamed:
        raise UserError(f"{paths[0]}: fits {unnamed[0]}; say which with --as, for instance --as v1")
    lines = dict.fromkeys(f"{source or path.name}, sha256 {sha256(path)}" for path, _ in found)
    written = []
    for part, (layout, states) in whole.items():
        path = Path(store) / (folder or layout.folder) / f"{part}.safetensors"
        if part in NETWORKS:
            save_ensemble(path, Ensemble(_filled(layout, fold) for fold in states), part, RESOLUTION)
        else:
            save_tensors(path, states[0], {"architecture": layout.part})
        written.append(path)
        _note(Path(store), path, layout.name, "; ".join(lines))
    return written


Whole = dict[str, tuple[Layout, list[dict[str, Tensor]]]]


def _whole(found: Sequence[Found]) -> Whole:
    """The networks to write, by the name of their file: folds side by side, a hairstyle head in its property CNN."""
    whole: Whole = {}
    for network in found:
        part = network.name if network.name == "generator_smooth" else network.layout.part
        if part in whole and part not in NETWORKS:
            raise UserError(f"two files hold a {network.layout.name}; add one of them, or give each a name with --as")
        whole.setdefault(part, (network.layout, []))[1].append(network.state)
    if HAIRSTYLE in whole and "property_cnn" in whole:
        [hair], [state] = whole.pop(HAIRSTYLE)[1], whole["property_cnn"][1]
        merged = state | {f"{HAIRSTYLE}.{key}": value for key, value in hair.items()}
        whole["property_cnn"] = recognise(merged), [merged]
    return whole


def _filled(layout: Layout, state: Mapping[str, Tensor]) -> nn.Module:
    network = layout.build()
    network.load_state_dict(dict(state))
    return network


def _note(store: Path, path: Path, layout: str, source: str) -> None:
    manifest = store / MANIFEST
    entries = read_json(manifest) if manifest.exists() else {}
    entry = {"layout": layout, "sha256": sha256(path), "source": source}
    write_json(manifest, entries | {path.relative_to(store).as_posix(): entry})


# ---------------------------------------------------------------- export


def export(source: PathLike, target: PathLike) -> list[Path]:
    """Writes weights of ours in the published layout, as files of `torch.save` with bare tensors.

    Args:
        source: a safetensors file, or a folder with generator.safetensors and discriminator.safetensors, whose file has
            both under these names as GenForce's.
        target: the file; a filter ensemble gets one for each fold, with _0, _1, ... before the suffix.

    Returns:
        The files written.

    Raises:
        UserError: not readable, or no network with a published layout.
    """
    source, target = Path(source), Path(target)
    content: dict[Path, Any]
    if source.is_dir():
        loaded = {"generator": load_generator, "discriminator": load_discriminator}
        there = {name: load(source / f"{name}.safetensors") for name, load in loaded.items()}
        content = {target: {name: network.state_dict() for name, network in there.items()}}
    else:
        tensors, metadata = load_tensors(source)
        if metadata.get("architecture") == "filter ensemble":
            content = {}
            for key, value in tensors.items():
                _, fold, name = key.split(".", 2)
                content.setdefault(target.with_stem(f"{target.stem}_{fold}"), {})[name] = value
        elif metadata.get("architecture") == "facexformer":
            content = {target: {"state_dict_backbone": tensors}}
        else:
            content = {target: tensors}
    for path, value in content.items():
        with atomic(path) as temporary:
            torch.save(value, temporary)
    return list(content)

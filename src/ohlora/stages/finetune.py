"""Stage finetune: one recipe, `python -m ohlora.stages.finetune --recipe v1`; with torchrun on several GPUs."""

import argparse
import math
import shutil
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from torch import nn

from ohlora import distributed
from ohlora.errors import UserError, main
from ohlora.files import ImageZip, save_tensors, write_json
from ohlora.filtering import Ensemble, load_ensemble, predict
from ohlora.finetune.data import TrainingSet, load
from ohlora.finetune.engine import FineTuner, code_fingerprint, weights_fingerprint
from ohlora.finetune.examiner import Examiner
from ohlora.finetune.methods import make_method
from ohlora.finetune.networks import Parent, make
from ohlora.finetune.recipes import RECIPES, Recipe, named_recipe
from ohlora.finetune.settings import FineTune
from ohlora.labels import kept_ids
from ohlora.networks.cnn import PropertyCNN
from ohlora.params import fingerprint
from ohlora.pretrain.settings import read_section
from ohlora.stages import Stage
from ohlora.stages.curves import epoch_log
from ohlora.stages.paths import (
    CURVES,
    FILTER,
    FILTER_NETWORKS,
    FINETUNE_CHECKPOINT,
    FINETUNED,
    IMAGES,
    METRICS,
    PROPERTY_CNN,
    SCORES_CNN,
    SCORES_V1,
    V1_FILTER,
    V1_FILTER_NETWORKS,
    V1_IMAGES,
)
from ohlora.weights import load_bundled, load_discriminator, load_generator, load_property_cnn

TABLES = {"scores_v1": SCORES_V1, "scores_cnn": SCORES_CNN}


def read_parent(recipe: Recipe) -> Parent:
    """The networks that the recipe starts from. Raises UserError if they are not those of its parent."""
    if recipe.parent == "base":
        generator, discriminator = load_bundled("generator"), load_bundled("discriminator")
        return Parent(generator, discriminator)  # type: ignore[arg-type]
    labels, path = RECIPES[recipe.parent].labels, Path(FINETUNED.format(recipe.parent))
    found = load_generator(path / "generator.safetensors")
    if found.mapping.label_size != len(labels):
        size = found.mapping.label_size
        raise UserError(
            f"{path}/generator.safetensors: {size} label inputs, those of {recipe.parent} are {len(labels)}"
        )
    return Parent(found, load_discriminator(path / "discriminator.safetensors"), labels)


def read_data(recipe: Recipe, batch_size: int, resolution: int) -> TrainingSet:
    """The images that passed the filter, with their labels: v1's own images for v8 and v9, else the base's."""
    own = recipe.label_source == "zeros"
    images, table = (V1_IMAGES, V1_FILTER) if own else (IMAGES, FILTER)
    with ImageZip(images) as archive:
        return load(recipe, archive, kept_ids(table), TABLES.get(recipe.label_source), batch_size, resolution)


def read_filters(recipe: Recipe, device: torch.device) -> dict[str, Ensemble]:
    """The filter networks of the recipe's attributes."""
    path = V1_FILTER_NETWORKS if recipe.label_source == "zeros" else FILTER_NETWORKS
    return {name: load_ensemble(path.format(name), name).to(device) for name in recipe.attributes}


def read_property_cnn(recipe: Recipe, device: torch.device) -> PropertyCNN | None:
    """The property CNN, for recipes with labels."""
    return None if recipe.label_source == "zeros" else load_property_cnn(PROPERTY_CNN).to(device)


def summary(tuner: FineTuner, new: dict[str, str]) -> dict[str, object]:
    """The last epoch's numbers, the passing epochs, time, and how many tensors were new."""
    last = {name: value for name, value in tuner.history[-1].items() if math.isfinite(value)}
    passing = [row.get("passing_z", 0.0) for row in tuner.history]
    return {
        "images": len(tuner.data),
        "epochs": tuner.epoch,
        "batches": tuner.step,
        "minutes": tuner.seconds / 60,
        "last": last,
        "passing": {"epochs": sum(count > 0 for count in passing), "most_z": max(passing)},
        "new_tensors": len(new),
    }


def write(tuner: FineTuner, new: dict[str, str], folder: Path) -> None:
    """Networks, pictures and metrics. What DVC removes before a run lies in the checkpoint's folder till the end."""
    name = tuner.method.recipe.name
    output = Path(FINETUNED.format(name))
    networks: dict[str, nn.Module] = tuner.method.networks | {"generator": tuner.method.result}
    for kind, network in networks.items():
        if kind != "average":
            save_tensors(output / f"{kind}.safetensors", network.state_dict(), {"architecture": kind, "recipe": name})
    write_json(output / "new_tensors.json", new)
    for source, target in (("kept", output / "passed"), ("sheets", Path(CURVES.format(f"finetune_{name}_sheets")))):
        shutil.rmtree(target, ignore_errors=True)
        (folder / source).mkdir(exist_ok=True)
        shutil.copytree(folder / source, target)
    write_json(METRICS.format(f"finetune_{name}"), summary(tuner, new))


def train(recipe: Recipe, params: FineTune, stage: Stage) -> None:
    """Trains the recipe, or goes on with it, and writes its results."""
    device = distributed.start() if distributed.size() > 1 else stage.device
    parent, cnn, filters = read_parent(recipe), read_property_cnn(recipe, device), read_filters(recipe, device)
    data = read_data(recipe, params.batch_size, parent.generator.resolution)
    made = make(recipe, parent, cnn, stage.seed, params.keep_known_inputs)
    settings = params.settings(recipe.name, stage.seed)
    method = make_method(made, recipe, settings, device, cnn, filters["gender"])
    tuner = FineTuner(method, data, params.of(recipe.name).epochs, params.batch_size)
    mark = {
        "parameters": fingerprint({"own": params.of(recipe.name).model_dump(), "recipe": asdict(recipe)})
        + fingerprint(asdict(settings) | {"batch": params.batch_size, "keep": params.keep_known_inputs}),
        "inputs": data.fingerprint()
        + weights_fingerprint(parent.generator, parent.discriminator, cnn, *filters.values()),
        "code": code_fingerprint(),
    }
    folder = Path(FINETUNE_CHECKPOINT.format(recipe.name))
    readers = {name: partial(predict, network, device=device) for name, network in filters.items()}
    examiner = Examiner(cnn, readers, params.n_test_images, stage.seed, folder / "kept", folder / "sheets")
    first = distributed.rank() == 0
    with epoch_log(f"finetune_{recipe.name}") if first else nullcontext(lambda prefix, row: None) as log:
        tuner.run(folder, mark, examiner.after_epoch, examiner.between, log)
    if first:
        write(tuner, made.new, folder)


def run() -> None:
    """Reads the command line and trains."""
    parser = argparse.ArgumentParser(description="Fine-tunes the generator by a recipe.")
    parser.add_argument("--recipe", required=True, help=", ".join(RECIPES))
    parser.add_argument(
        "--params", type=Path, help="YAML file with a section finetune; the built-in values if not given"
    )
    options = parser.parse_args()
    recipe = named_recipe(options.recipe)
    params = read_section(options.params, "finetune", FineTune) if options.params else FineTune()
    distributed.start()
    with Stage(f"finetune_{recipe.name}", "seed") as stage:
        train(recipe, params, stage)


if __name__ == "__main__":
    main(run)

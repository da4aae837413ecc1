"""Stage finetune: one recipe, `python -m ohlora finetune v1`; on several GPUs with torchrun -m ohlora finetune v1."""

import math
import shutil
from contextlib import nullcontext
from dataclasses import asdict
from functools import partial
from pathlib import Path

import torch
from torch import nn

from ohlora import distributed
from ohlora.errors import UserError
from ohlora.files import ImageZip, save_tensors, write_json
from ohlora.filtering import Ensemble, load_ensemble, predict
from ohlora.finetune.data import TrainingSet, load
from ohlora.finetune.engine import CODE, FineTuner
from ohlora.finetune.examiner import Examiner
from ohlora.finetune.methods import Settings, make_method
from ohlora.finetune.networks import Parent, make
from ohlora.finetune.recipes import RECIPES, Recipe, named_recipe
from ohlora.fingerprints import code_fingerprint, weights_fingerprint
from ohlora.networks.cnn import PropertyCNN
from ohlora.params import FineTune, fingerprint
from ohlora.stages import Stage
from ohlora.stages.curves import epoch_log
from ohlora.stages.paths import (
    BASE,
    CURVES,
    FINETUNE_CHECKPOINT,
    GENERATORS,
    METRICS,
    PROPERTY_CNN,
    SCORES_CNN,
    SCORES_V1,
    V1,
    ImageSet,
)
from ohlora.weights import load_discriminator, load_generator, load_property_cnn

TABLES = {"scores_v1": SCORES_V1, "scores_cnn": SCORES_CNN}
SHARED = tuple(name for name in FineTune.model_fields if name not in RECIPES)


def read_parent(recipe: Recipe) -> Parent:
    """The networks that the recipe starts from. Raises UserError if they are not those of its parent."""
    labels = RECIPES[recipe.parent].labels if recipe.parent in RECIPES else ()
    path = Path(GENERATORS.format(recipe.parent))
    found = load_generator(path / "generator.safetensors")
    if found.mapping.label_size != len(labels):
        size = found.mapping.label_size
        raise UserError(
            f"{path}/generator.safetensors: {size} label inputs, those of {recipe.parent} are {len(labels)}"
        )
    return Parent(found, load_discriminator(path / "discriminator.safetensors"), labels)


def learnt_from(recipe: Recipe) -> ImageSet:
    """The images that the recipe learns from: those of v1 if it needs no labels, else those of the base."""
    return V1 if recipe.label_source == "zeros" else BASE


def read_data(recipe: Recipe, batch_size: int, resolution: int) -> TrainingSet:
    """The images that passed the filter, with their labels."""
    files = learnt_from(recipe)
    with ImageZip(files.images) as archive:
        return load(recipe, archive, files.filter, TABLES.get(recipe.label_source), batch_size, resolution)


def read_filters(recipe: Recipe, device: torch.device) -> dict[str, Ensemble]:
    """The filter networks of the recipe's attributes."""
    files = learnt_from(recipe)
    return {name: load_ensemble(files.filter_networks(name), name).to(device) for name in files.attributes}


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
    """Networks, pictures and metrics; those of tests and sheets lie in the checkpoint's folder till the end."""
    name = tuner.method.recipe.name
    output = Path(GENERATORS.format(name))
    networks: dict[str, nn.Module] = tuner.method.networks | {"generator": tuner.method.result}
    for kind, network in networks.items():
        if kind != "average":
            save_tensors(output / f"{kind}.safetensors", network.state_dict(), {"architecture": kind, "recipe": name})
    write_json(output / "new_tensors.json", new)
    for source, target in (("tests", output / "tests"), ("sheets", Path(CURVES.format(f"finetune_{name}_sheets")))):
        shutil.rmtree(target, ignore_errors=True)
        (folder / source).mkdir(exist_ok=True)
        shutil.copytree(folder / source, target)
    write_json(METRICS.format(f"finetune_{name}"), summary(tuner, new))


def train(recipe: Recipe, stage: Stage) -> None:
    """Trains the recipe, or goes on with it, and writes its results."""
    params = stage.params.finetune
    own = getattr(params, recipe.name)
    device = stage.device
    parent, cnn, filters = read_parent(recipe), read_property_cnn(recipe, device), read_filters(recipe, device)
    data = read_data(recipe, params.batch_size, parent.generator.resolution)
    made = make(recipe, parent, cnn, stage.seed, params.keep_known_inputs)
    settings = Settings(
        rate_factor=own.rate_factor,
        gamma=params.gamma,
        penalty_interval=params.penalty_interval,
        half_life=params.half_life,
        bf16=stage.bf16,
        seed=stage.seed,
    )
    method = make_method(made, recipe, settings, device, cnn, filters["gender"])
    tuner = FineTuner(method, data, own.epochs, params.batch_size)
    mark = {
        "parameters": fingerprint({"own": own.model_dump(), "recipe": asdict(recipe)})
        + fingerprint(asdict(settings) | {name: getattr(params, name) for name in SHARED}),
        "inputs": data.fingerprint()
        + weights_fingerprint(parent.generator, parent.discriminator, cnn, *filters.values()),
        "code": code_fingerprint(CODE),
    }
    folder = Path(FINETUNE_CHECKPOINT.format(recipe.name))
    readers = {name: partial(predict, network, device=device) for name, network in filters.items()}
    examiner = Examiner(cnn, readers, params.n_test_images, stage.seed, folder / "tests", folder / "sheets")
    first = distributed.rank() == 0
    with epoch_log(f"finetune_{recipe.name}") if first else nullcontext(lambda prefix, row: None) as log:
        tuner.run(folder, mark, examiner.after_epoch, examiner.between, log)
    if first:
        write(tuner, made.new, folder)


def run(name: str) -> None:
    """Trains the recipe of this name."""
    recipe = named_recipe(name)
    with Stage(f"finetune_{name}", "seed", *(f"finetune.{key}" for key in (name, *SHARED))) as stage:
        train(recipe, stage)

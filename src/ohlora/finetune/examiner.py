"""The tests made during a training, their pictures, and the generators that pass."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from ohlora import distributed
from ohlora.files import save_npz, save_tensors
from ohlora.finetune.engine import FineTuner
from ohlora.finetune.measures import (
    TEST_LATENTS,
    GenerationTest,
    Reader,
    auroc,
    generation_test,
    make_images,
    rates,
)
from ohlora.finetune.methods import ConditionalVAE
from ohlora.plots import contact_sheet, save_image
from ohlora.rng import standard_normal, stream

SHEET = 32  # images on a sheet, the first of the fresh ones
MOVING = 10  # tests in a moving average


@dataclass(frozen=True)
class Examiner:
    """Measures a training; the latents are the same every time.

    Attributes:
        property_cnn: in eval mode, on the training's device; None leaves the image generation test out.
        readers: readings whose rates are logged, by name.
        n_images: fresh images, at least one batch.
        seed: start of the streams.
        tests: folder of the z of every image generation test with their results, and of the generators that passed.
        sheets: folder of the sample sheets.
    """

    property_cnn: nn.Module | None
    readers: Mapping[str, Reader]
    n_images: int
    seed: int
    tests: Path
    sheets: Path

    def after_epoch(self, tuner: FineTuner) -> dict[str, float]:
        """Rates, AUROC and the image generation test; writes a sheet, the test's z and a generator that passes."""
        if tuner.epoch == 1:
            self._forget()
        method, recipe = tuner.method, tuner.method.recipe
        rows = stream(self.seed, "examiner", "rows").integers(len(tuner.data), size=self.n_images)
        chosen = torch.from_numpy(rows).to(tuner.data.images.device)
        labels = tuner.data.labels[chosen]
        images = make_images(method.result, self.latents(tuner, self.n_images), labels, recipe.truncation)
        metrics = rates(images, self.readers)
        if "discriminator" in method.networks:
            discriminator, real = method.networks["discriminator"], tuner.data.images[chosen]
            metrics["auroc"] = auroc(discriminator, real, images, labels, tuner.batch_size // distributed.size())
        pictures = list(images[:SHEET].permute(0, 2, 3, 1).numpy())
        save_image(self.sheets / f"epoch_{tuner.epoch:03d}.png", contact_sheet(pictures, columns=8))
        # Recipes that do not aim at the scores are tested once, at the end: the test draws as many images as an epoch.
        test = self.test(tuner) if recipe.counted or tuner.step == tuner.total else None
        if test is None:
            return metrics
        self._keep(tuner, test)
        return metrics | test.metrics()

    def between(self, tuner: FineTuner) -> dict[str, float]:
        """The image generation test, and means of its last values."""
        test = self.test(tuner)
        metrics = test.metrics() if test else {}
        before = tuner.tests[1 - MOVING :]
        means = {name: np.mean([*(row[name] for row in before), value]) for name, value in metrics.items()}
        return metrics | {f"moving_{name}": float(value) for name, value in means.items()}

    def test(self, tuner: FineTuner) -> GenerationTest | None:
        """The image generation test; None for a recipe without labels or without a property CNN."""
        recipe = tuner.method.recipe
        if self.property_cnn is None or recipe.label_source == "zeros":
            return None
        z = self.latents(tuner, TEST_LATENTS)
        return generation_test(tuner.method.result, self.property_cnn, z, recipe.labels, recipe.truncation)

    def latents(self, tuner: FineTuner, count: int) -> Tensor:
        """z float32 (count, z_dim): standard normal, or from the encoder's distributions."""
        method = tuner.method
        noise = torch.from_numpy(standard_normal(self.seed, "examiner", (count, method.generator.mapping.z_dim)))
        return method.latents(noise.to(method.device)).cpu() if isinstance(method, ConditionalVAE) else noise

    def _keep(self, tuner: FineTuner, test: GenerationTest) -> None:
        name = f"epoch_{tuner.epoch:03d}"
        z = self.latents(tuner, TEST_LATENTS).numpy()
        save_npz(self.tests / f"{name}.npz", z=z, corr=test.corr, mae=test.mae)
        if test.passed.any():
            state = tuner.method.result.state_dict()
            save_tensors(self.tests / f"{name}.safetensors", state, {"architecture": "generator"})

    def _forget(self) -> None:
        """Removes what an earlier training left."""
        for folder in (self.tests, self.sheets):
            for path in folder.glob("epoch_*"):
                path.unlink()

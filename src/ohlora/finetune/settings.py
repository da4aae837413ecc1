"""The section `finetune` of params.yaml: how long and how fast each recipe trains, and what all share."""

from typing import Literal

from pydantic import Field

from ohlora.finetune.methods import Settings
from ohlora.params import Epochs, Section


class RecipeParams(Section):
    """Length and speed of one recipe."""

    epochs: Epochs = 2
    rate_factor: float = Field(default=1.0, gt=0, le=1000, description="times the recipe's own step sizes")


class FineTune(Section):
    """Fine-tuning of the generator."""

    batch_size: int = Field(default=16, ge=2, le=1024, description="images in a training step, all processes together")
    precision: Literal["fp32", "bf16"] = "bf16"
    gamma: float = Field(default=10.0, ge=0, le=1000, description="weight of the gradient penalty R1")
    penalty_interval: int = Field(default=1, ge=1, le=64, description="discriminator steps between two penalties")
    half_life: int = Field(default=0, ge=0, le=10**6, description="images the averaged generator remembers, 0 for none")
    keep_known_inputs: bool = True
    n_test_images: int = Field(default=128, ge=16, le=100_000, description="fresh images measured after every epoch")
    v1: RecipeParams = RecipeParams()
    v2: RecipeParams = RecipeParams()
    v3: RecipeParams = RecipeParams()
    v4: RecipeParams = RecipeParams()
    v5: RecipeParams = RecipeParams()
    v8: RecipeParams = RecipeParams()
    v9: RecipeParams = RecipeParams()

    def of(self, name: str) -> RecipeParams:
        """The section of a recipe."""
        return getattr(self, name)

    def settings(self, name: str, seed: int) -> Settings:
        """What the recipe's method needs."""
        return Settings(
            rate_factor=self.of(name).rate_factor,
            gamma=self.gamma,
            penalty_interval=self.penalty_interval,
            half_life=self.half_life,
            bf16=self.precision == "bf16",
            seed=seed,
        )

"""Widening of what a generator shows: which readings grow, in which layers."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ohlora.errors import UserError
from ohlora.networks.regressor import Head
from ohlora.networks.stylegan import Generator
from ohlora.pretrain.widen import run, scaling, widen


class Brightness(nn.Module):
    """Stands in for the judge: mean and contrast of a picture."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.heads = [Head("brightness", "number"), Head("contrast", "number")]

    def features(self, images: Tensor) -> np.ndarray:
        return images.mean(dim=(2, 3)).numpy()

    def forward(self, images: Tensor) -> dict[str, np.ndarray]:
        return {"brightness": images.mean(dim=(1, 2, 3)).numpy(), "contrast": images.std(dim=(1, 2, 3)).numpy()}


def tiny() -> Generator:
    torch.manual_seed(0)
    generator = Generator(16, {4: 8, 8: 8, 16: 4}, {"z_dim": 8, "w_dim": 8, "width": 8, "layers": 2})
    return generator.eval().requires_grad_(False)


def brightness(generator: Generator) -> np.ndarray:
    z = torch.from_numpy(np.random.default_rng(1).standard_normal((500, 8)).astype(np.float32))
    with torch.inference_mode():
        return generator(z).mean(dim=(1, 2, 3)).numpy()


def test_predictions_grow_by_their_factors_and_others_stay() -> None:
    rng = np.random.default_rng(0)
    w = rng.normal(size=(4000, 6)) @ rng.normal(size=(6, 6)) + 3
    readings = np.stack([w[:, 0] + w[:, 1], w[:, 2], w[:, 3] - w[:, 1]], axis=1)
    centred = w - w.mean(axis=0)
    coefficients = np.linalg.lstsq(centred, readings - readings.mean(axis=0), rcond=None)[0]
    before, after = centred @ coefficients, centred @ scaling(w, readings, [1.5, 1.0, 1.0]).T @ coefficients
    assert after.std(axis=0) / before.std(axis=0) == pytest.approx([1.5, 1, 1], abs=0.1)


def test_images_spread_wider_and_first_layers_stay() -> None:
    plain, wide = tiny(), tiny()
    widen(wide, Brightness(), {"brightness": 2.0}, 2, 0)  # type: ignore[arg-type]
    before, after = brightness(plain), brightness(wide)
    assert after.std() > 1.2 * before.std()
    assert abs(after.mean() - before.mean()) < 0.2 * before.std()
    for index in range(plain.synthesis.num_layers):
        weights = [generator.synthesis.layer(index).style.weight for generator in (plain, wide)]
        assert torch.equal(*weights) == (index < 2)


def test_wrong_readings_and_layers_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="--factors hats: the judge reads brightness, contrast"):
        widen(tiny(), Brightness(), {"hats": 2.0}, 0, 0)  # type: ignore[arg-type]
    with pytest.raises(UserError, match="--first-layer 6: allowed is 0 to 5"):
        widen(tiny(), Brightness(), {"brightness": 2.0}, 6, 0)  # type: ignore[arg-type]
    for wrong in ("age", "age=x", "age=0", "age=nan", "age=11"):
        with pytest.raises(SystemExit):
            run(["--generator", "g", "--judge", "j", "--factors", wrong, "--output", str(tmp_path / "x")])
        assert f"{wrong}: allowed is NAME=NUMBER with a number above 0 to 10" in capsys.readouterr().err

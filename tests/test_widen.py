"""Widening of what a generator shows: which readings grow, in which layers; and w drawn anew."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ohlora.errors import UserError
from ohlora.networks.regressor import Head
from ohlora.networks.stylegan import Generator
from ohlora.pretrain import remap
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


def tiny(width: int = 8) -> Generator:
    torch.manual_seed(0)
    generator = Generator(16, {4: 8, 8: 8, 16: 4}, {"z_dim": 8, "w_dim": 8, "width": width, "layers": 2})
    return generator.eval().requires_grad_(False)


def brightness(generator: Generator, limit: float = np.inf) -> np.ndarray:
    z = torch.from_numpy(np.random.default_rng(1).standard_normal((500, 8)).astype(np.float32))
    with torch.inference_mode():
        return generator(z).clamp(-limit, limit).mean(dim=(1, 2, 3)).numpy()


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


def latents(generator: Generator) -> np.ndarray:
    z = torch.from_numpy(np.random.default_rng(1).standard_normal((500, 8)).astype(np.float32))
    with torch.inference_mode():
        return generator.mapping(z)["w"].numpy()


def test_w_is_drawn_wider_and_images_stay() -> None:
    plain, changed = tiny(128), tiny(128)
    share = remap.remap(changed, Brightness(), {"brightness": 2.0}, {}, 1.0, 1500, 0)  # type: ignore[arg-type]
    assert share < 0.03
    assert np.corrcoef(brightness(plain, 1), brightness(changed, 1))[0, 1] > 0.98
    before, after = latents(plain), latents(changed)
    coefficients = np.linalg.lstsq(before - before.mean(axis=0), brightness(plain, 1), rcond=None)[0]  # as judged
    assert (after @ coefficients).std() > 1.7 * (before @ coefficients).std()
    assert changed.truncation.w_avg.numpy() == pytest.approx(after.mean(axis=0), abs=0.2)


def test_images_show_a_reading_wider_and_synthesis_stays() -> None:
    plain, wide = tiny(128), tiny(128)
    remap.remap(wide, Brightness(), {}, {"brightness": 1.5}, 1.0, 1500, 0)  # type: ignore[arg-type]
    assert 1.1 < brightness(wide, 1).std() / brightness(plain, 1).std() < 1.7
    kept, found = plain.synthesis.state_dict(), wide.synthesis.state_dict()
    assert all(torch.equal(kept[name], found[name]) for name in kept)


def test_w_is_drawn_nearer_where_no_reading_goes_with_it() -> None:
    plain, near = tiny(128), tiny(128)
    share = remap.remap(near, Brightness(), {}, {}, 0.3, 1500, 0)  # type: ignore[arg-type]
    assert share < 0.03
    before, after = latents(plain), latents(near)
    assert after.std(axis=0).mean() < 0.75 * before.std(axis=0).mean()
    assert brightness(near, 1).std() == pytest.approx(brightness(plain, 1).std(), rel=0.15)


def test_readings_weigh_as_much_as_w_itself() -> None:
    w = np.random.default_rng(0).normal(size=(4000, 3)) * [10, 10, 1]
    metric = remap.importance(w, w[:, 2:])  # the reading goes with what hardly varies
    shares = np.square(w[:, :, None] * metric).sum(axis=2).mean(axis=0)
    assert shares / shares.sum() == pytest.approx([0.25, 0.25, 0.5], abs=0.03)


def test_wrong_rest_and_steps_are_refused() -> None:
    files = ["--generator", "g", "--judge", "j", "--output", "x"]
    with pytest.raises(UserError, match="--rest 2: allowed is 0 to 1"):
        remap.run([*files, "--rest", "2"])
    with pytest.raises(UserError, match="--steps 0: allowed is 1 or more"):
        remap.run([*files, "--steps", "0"])
    with pytest.raises(UserError, match="--drawn hats: the judge reads brightness, contrast"):
        remap.remap(tiny(), Brightness(), {"hats": 2.0}, {}, 1.0, 1, 0)  # type: ignore[arg-type]

"""Evening out of what a generator shows, in its mapping network."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ohlora.errors import UserError
from ohlora.networks.regressor import Head
from ohlora.networks.stylegan import Generator
from ohlora.pretrain import remap


class Brightness(nn.Module):
    """Stands in for the judge: mean and contrast of a picture, and the picture itself as maps."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))
        self.stages = nn.Identity()
        self.heads = [Head("brightness", "number"), Head("contrast", "number")]

    def forward(self, images: Tensor) -> dict[str, np.ndarray]:
        seen = self.stages(images)
        return {"brightness": seen.mean(dim=(1, 2, 3)).numpy(), "contrast": seen.std(dim=(1, 2, 3)).numpy()}


def tiny() -> Generator:
    torch.manual_seed(0)
    generator = Generator(16, {4: 8, 8: 8, 16: 4}, {"z_dim": 8, "w_dim": 8, "width": 128, "layers": 2})
    return generator.eval().requires_grad_(False)


def shown(generator: Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """w, brightness and contrast of 2,000 images."""
    z = torch.from_numpy(np.random.default_rng(1).standard_normal((2000, 8)).astype(np.float32))
    with torch.inference_mode():
        w = generator.mapping(z)["w"]
        images = generator.synthesis(w).clamp(-1, 1)
    return w.numpy(), images.mean(dim=(1, 2, 3)).numpy(), images.std(dim=(1, 2, 3)).numpy()


def test_a_reading_spreads_wider_and_everything_else_stays() -> None:
    plain, wide = tiny(), tiny()
    rows = remap.remap(wide, Brightness(), {"brightness": 1.4}, 3000, 200, 0)  # type: ignore[arg-type]
    w, brightness, contrast = shown(plain)
    new_w, new_brightness, new_contrast = shown(wide)
    assert 1.2 < new_brightness.std() / brightness.std() < 1.5
    assert new_contrast.std() / contrast.std() == pytest.approx(1, abs=0.15)
    assert abs(new_brightness.mean() - brightness.mean()) < 0.15 * brightness.std()
    assert abs(new_contrast.mean() - contrast.mean()) < 0.15 * contrast.std()
    assert np.square(new_w - w).sum(axis=1).mean() < 0.3 * w.var(axis=0).sum()
    kept, found = plain.synthesis.state_dict(), wide.synthesis.state_dict()
    assert all(torch.equal(kept[name], found[name]) for name in kept)
    assert wide.truncation.w_avg.numpy() == pytest.approx(new_w.mean(axis=0), abs=0.1)
    assert [rows[name][0] for name in ("brightness", "contrast")] == pytest.approx([1.4, 1])
    assert [rows[name][1] for name in ("brightness", "contrast")] == pytest.approx([1.4, 1], abs=0.1)
    assert all(explained > 0.7 for _, _, explained in rows.values())


def test_a_skewed_reading_spreads_about_its_mean() -> None:
    generator = tiny()
    w = torch.from_numpy(shown(generator)[0])

    def predict(latents: Tensor) -> Tensor:
        return ((latents - w.mean(dim=0)) @ remap.whitening(w)).square().sum(dim=1, keepdim=True) / 4

    before = predict(w)
    grown, fallen = remap.learn(generator, predict, remap.whitening(w), torch.tensor([1.3]), [], 100, 0)
    assert grown.item() == pytest.approx(1.3, abs=0.1)
    assert not len(fallen)
    after = predict(torch.from_numpy(shown(generator)[0]))
    assert after.std() / before.std() == pytest.approx(1.3, abs=0.1)
    assert abs(after.mean() - before.mean()) < 0.2 * before.std()


def redness(images: np.ndarray) -> np.ndarray:
    """Of the upper left quarter, in tenths: how many of ten observers call it broken; images (N, 3, 4 or 8, ...)."""
    half = images.shape[2] // 2
    return (10 * (images[:, 0, :half, :half].mean(axis=(1, 2)) + 0.8) / 1.6).clip(0, 10).round().astype(int)


def mean_redness(generator: Generator, psi: float) -> float:
    z = torch.from_numpy(np.random.default_rng(2).standard_normal((2000, 8)).astype(np.float32))
    with torch.inference_mode():
        w = torch.lerp(generator.truncation.w_avg, generator.mapping(z)["w"], psi)
        return redness(generator.synthesis(w).clamp(-1, 1).numpy()).mean() / 10


def test_fewer_faces_are_such_as_observers_call_broken(tmp_path: Path) -> None:
    plain, better = tiny(), tiny()
    samples = remap.read_samples(plain, Brightness(), 3000, 0)  # type: ignore[arg-type]
    votes = redness(samples.maps.reshape(-1, 3, 4, 4))
    table = tmp_path / "votes.csv"
    lines = ["truncation,sample,observers,broken,doubtful"]
    lines += [f"1.0,{i},10,{votes[i]},0" for i in range(1000)]
    lines += [f"0.7,{i},10,{votes[3000 + i]},0" for i in range(500, 1500)]
    table.write_text("\n".join(lines) + "\n")
    rows = remap.remap(better, Brightness(), {}, 3000, 200, 0, table, (0.3, 0.3))  # type: ignore[arg-type]
    for psi, name in ((1.0, "broken"), (0.7, "broken_truncated")):
        before, after = (mean_redness(generator, psi) for generator in (plain, better))
        assert after == pytest.approx(0.7 * before, abs=0.1 * before)
        assert rows[name].wanted == pytest.approx(0.7 * before, abs=0.04)
        assert rows[name].predicted == pytest.approx(rows[name].wanted, abs=0.04)
        assert rows[name].explained > 0.8
    _, brightness, contrast = shown(plain)
    _, new_brightness, new_contrast = shown(better)
    assert abs(new_brightness.mean() - brightness.mean()) < 0.3 * brightness.std()  # redness is part of it
    assert new_brightness.std() / brightness.std() == pytest.approx(1, abs=0.15)
    assert new_contrast.std() / contrast.std() == pytest.approx(1, abs=0.15)


def test_votes_are_scored_and_point_to_their_samples(tmp_path: Path) -> None:
    table = tmp_path / "votes.csv"
    rows = ["1.0,3,4,1,2", "0.7,3,2,2,0", *(f"1.0,{i},1,0,0" for i in range(4, 20))]
    table.write_text("\n".join(["truncation,sample,observers,broken,doubtful", *rows]))
    votes = remap.read_votes(table, 100)
    assert votes["row"].tolist() == [3, 103, *range(4, 20)]
    assert votes["score"].tolist() == [0.5, 1.0, *[0.0] * 16]


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ("0.5,1,1,0,0", "line 2: truncation is 0.5, allowed is 1.0 or 0.7"),
        ("1.0,100,1,0,0", "line 2: sample is 100, allowed is 0 to 99, truncated 49"),
        ("0.7,50,1,0,0", "line 2: sample is 50, allowed is 0 to 99, truncated 49"),
        ("1.0,1,0,0,0", "line 2: observers is 0, allowed is 1 or more"),
        ("1.0,1,2,-1,0", "line 2: broken is -1, allowed is 0 or more"),
        ("1.0,1,2,1,2", "line 2: doubtful is 2, allowed is 0 or more, with the broken ones at most the observers"),
        ("1.0,1,1,0,x", "line 2"),
        ("1.0,1,1,0,0\n1.0,1,1,0,0", "line 3: truncation 1.0, sample 1 is there twice"),
        ("1.0,1,1,0,0", "1 rows, needed are 16 or more"),
    ],
)
def test_wrong_votes_are_refused(row: str, fault: str, tmp_path: Path) -> None:
    table = tmp_path / "votes.csv"
    table.write_text(f"truncation,sample,observers,broken,doubtful\n{row}\n")
    with pytest.raises(UserError, match=rf"votes\.csv.*{fault}"):
        remap.read_votes(table, 100)


def test_truncated_latents_are_looked_at_on_their_own() -> None:
    generator = tiny()
    w = torch.from_numpy(shown(generator)[0])
    scale = remap.whitening(w)

    def predict(latents: Tensor) -> Tensor:
        x = (latents - w.mean(dim=0)) @ scale
        return torch.stack([x[:, -1], x[:, -2].square()], dim=1)

    level = predict(w)[:, 1].mean().item()
    wanted = [0.3 * level, 0.3 * remap.TRUNCATION**2 * level]
    _, fallen = remap.learn(generator, predict, scale, torch.tensor([1.0]), wanted, 100, 0)
    assert fallen[0] > 0.1 * level
    assert fallen[1] == pytest.approx(remap.TRUNCATION**2 * fallen[0].item(), abs=0.02 * level)


def test_the_predictor_says_what_it_explains() -> None:
    rng = np.random.default_rng(0)
    w = rng.normal(size=(4000, 6)).astype(np.float32)
    readings = np.stack([5 + 3 * w[:, 0] - w[:, 1], rng.normal(size=4000), np.full(4000, 2.0)], axis=1)
    predict, explained = remap.predictor(torch.from_numpy(w), readings, 0)
    assert explained[0] > 0.9
    assert explained[1] < 0.1
    fresh = torch.from_numpy(rng.normal(size=(1000, 6)).astype(np.float32))
    predictions = predict(fresh).numpy()
    assert np.corrcoef(predictions[:, 0], 3 * fresh[:, 0] - fresh[:, 1])[0, 1] > 0.95
    assert np.abs(predictions[:, 2]).max() < 0.2  # a reading that never changes


def test_moves_are_measured_in_deviations_of_each_direction() -> None:
    w = torch.from_numpy(np.random.default_rng(0).normal(size=(4000, 3)) * [10, 10, 1]).float()
    lengths = (torch.diag(torch.tensor([10.0, 10.0, 1.0])) @ remap.whitening(w)).norm(dim=1)
    assert lengths[:2].numpy() == pytest.approx([1, 1], abs=0.05)
    assert 0.5 < lengths[2] < 1  # nearly still directions: the ridge


def test_wrong_arguments_are_refused(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    files = ["--generator", str(tmp_path / "g"), "--judge", "j", "--output", str(tmp_path / "x")]
    with pytest.raises(UserError, match="--steps 0: allowed is 1 or more"):
        remap.run([*files, "--shown", "age=1.2", "--steps", "0"])
    with pytest.raises(UserError, match="--samples 99: allowed is 100 or more"):
        remap.run([*files, "--shown", "age=1.2", "--samples", "99"])
    with pytest.raises(UserError, match=r"--fewer 1\.5: allowed is 0 to 1"):
        remap.run([*files, "--shown", "age=1.2", "--fewer", "0.5", "1.5"])
    with pytest.raises(UserError, match="--shown hats: the judge reads brightness, contrast"):
        remap.remap(tiny(), Brightness(), {"hats": 2.0}, 100, 1, 0)  # type: ignore[arg-type]
    with pytest.raises(FileNotFoundError, match=str(tmp_path / "g")):
        remap.run([*files, "--shown", "age=1.2"])
    for wrong in ("age", "age=x", "age=0", "age=nan", "age=11"):
        with pytest.raises(SystemExit):
            remap.run([*files, "--shown", wrong])
        assert f"{wrong}: allowed is NAME=NUMBER with a number above 0 to 10" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())

"""Adversarial training: schedule, losses, and a resumed run that is the run it continues."""

import os
import re
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from two_processes import in_two_processes

from ohlora import distributed
from ohlora.errors import UserError
from ohlora.files import save_tensors
from ohlora.gan.data import RealImages, box_downsample, widened_shares
from ohlora.gan.losses import PenaltyWeight, discriminator_loss, generator_loss, path_lengths, r1_penalty
from ohlora.gan.trainer import GanSchedule, GanTrainer, Phase
from ohlora.networks.stylegan import Discriminator, Generator
from ohlora.pretrain.evaluate_gan import closest_pair, frechet_distance
from ohlora.pretrain.train_gan import GanParams, PhaseParams, networks, shares
from ohlora.validation import check, read_yaml

SCHEDULE = GanSchedule([Phase(8, 32), Phase(16, 48, fade=16)], decay=16, batch_size=8, penalty_interval=2, ema=50)


def trainer(schedule: GanSchedule = SCHEDULE) -> GanTrainer:
    torch.manual_seed(0)
    channels = {4: 8, 8: 8, 16: 4}
    generator = Generator(16, channels, {"z_dim": 8, "w_dim": 8, "width": 8, "layers": 2})
    images = np.random.default_rng(0).integers(0, 256, (20, 16, 16, 3), dtype=np.uint8)
    cpu = torch.device("cpu")
    return GanTrainer(generator, Discriminator(16, channels), RealImages(images, 0), schedule, cpu, compiled=False)


def run(folder: Path, schedule: GanSchedule = SCHEDULE, **options) -> GanTrainer:
    made = trainer(schedule)
    made.run(folder, "mark", look=options.pop("look", lambda _: None), look_every=16, **options)
    return made


def same(a: GanTrainer, b: GanTrainer) -> bool:
    pairs = zip(a.ema.state_dict().values(), b.ema.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def test_schedule_grows_and_fades() -> None:
    assert [SCHEDULE.lod(shown) for shown in (0, 31, 32, 40, 48, 79)] == [1.0, 1.0, 1.0, 0.5, 0.0, 0.0]
    assert SCHEDULE.rate(0) == SCHEDULE.rate(64) == 1.0
    assert SCHEDULE.rate(72) == pytest.approx(0.515)
    assert SCHEDULE.rate(80) == pytest.approx(0.03)


def test_average_forgets_the_random_start_of_a_phase() -> None:
    schedule = GanSchedule([Phase(8, 1000), Phase(16, 10_000)], decay=0, batch_size=8, ema=100)
    assert schedule.average_kept(1000) == 0
    assert schedule.average_kept(1000 + 160) == pytest.approx(0.5)
    assert schedule.average_kept(9000) == schedule.average_kept(999_999) == pytest.approx(0.5**0.08)


def test_losses_are_the_logistic_ones() -> None:
    zero = torch.zeros(4, 1)
    assert discriminator_loss(zero, zero).item() == pytest.approx(2 * np.log(2))
    assert generator_loss(zero + 3).item() == pytest.approx(np.log1p(np.exp(-3)))


def test_r1_is_the_squared_gradient() -> None:
    weight = torch.tensor([1.0, -2.0, 3.0]).view(1, 3, 1, 1)
    penalty = r1_penalty(lambda x: (x * weight).sum(dim=(1, 2, 3)), torch.randn(5, 3, 2, 2))
    assert penalty.item() == pytest.approx(4 * 14)


def test_path_length_is_that_of_the_pulled_back_noise() -> None:
    matrix = torch.randn(3 * 2 * 2, 7, generator=torch.Generator().manual_seed(0))
    torch.manual_seed(1)
    lengths = path_lengths(lambda w: (w.sum(dim=1) @ matrix.T).view(-1, 3, 2, 2), torch.randn(5, 2, 7))
    torch.manual_seed(1)
    torch.randn(5, 2, 7)
    pulled = (torch.randn(5, 3, 2, 2) / 2).flatten(1) @ matrix  # the same for both layers
    torch.testing.assert_close(lengths, pulled.norm(dim=1))


def test_path_penalty_moves_the_generator_and_survives_a_stop(tmp_path: Path) -> None:
    even = replace(SCHEDULE, path_weight=2.0, path_interval=2)
    whole, plain = run(tmp_path / "whole", even), run(tmp_path / "plain")
    assert not same(whole, plain)
    assert whole.path_length > 0
    first = trainer(even)
    for _ in range(4):
        first.step()
    second = trainer(even)
    second.load(first.state())
    while second.shown < even.images:
        second.step()
    assert same(whole, second)


def test_penalty_follows_the_margin() -> None:
    ahead, behind = PenaltyWeight(1.0, 0.5, 2.0), PenaltyWeight(1.0, 0.5, 2.0)
    for _ in range(300):
        ahead.update(5.0)
        behind.update(0.1)
    assert (ahead.gamma, behind.gamma) == (2.0, 0.5)


def test_box_downsample_is_the_mean_of_blocks() -> None:
    images = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)
    expected = images.reshape(2, 2, 2, 2, 2, 3).astype(float).mean(axis=(2, 4))
    np.testing.assert_array_equal(box_downsample(images, 2), np.rint(expected))


def test_batches_depend_on_the_step_alone() -> None:
    images = np.random.default_rng(1).integers(0, 256, (9, 8, 8, 3), dtype=np.uint8)
    first, second = RealImages(images, 3), RealImages(images, 3)
    second.batch(0, 4, 8)
    assert torch.equal(first.batch(5, 4, 8), second.batch(5, 4, 8))
    assert not torch.equal(first.batch(5, 4, 8), first.batch(6, 4, 8))
    assert first.batch(0, 4, 8).abs().max() <= 1


def test_training_moves_every_part(tmp_path: Path) -> None:
    before, after = trainer(), run(tmp_path)
    for name, value in after.g.named_parameters():
        unused = name.startswith("synthesis.output0")  # no phase at 4 pixels
        assert torch.equal(value, dict(before.g.named_parameters())[name]) == unused, name
    assert after.shown == 80
    assert all(np.isfinite(list(row.values())).all() for row in after.readings.history)


def test_a_resumed_run_is_the_run_it_continues(tmp_path: Path) -> None:
    def stop(made: GanTrainer) -> None:
        if made.shown == 48:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "resumed", look=stop)
    resumed, whole = run(tmp_path / "resumed"), run(tmp_path / "whole")
    assert same(resumed, whole)
    assert resumed.readings.history == whole.readings.history


def test_a_checkpoint_of_other_networks_is_not_used(tmp_path: Path) -> None:
    run(tmp_path)
    other = trainer()
    other.run(tmp_path, "other mark", lambda made: None, look_every=16)
    assert same(other, run(tmp_path / "fresh"))


def test_a_finished_stretch_leaves_the_checkpoint(tmp_path: Path) -> None:
    long = GanSchedule([Phase(8, 16), Phase(16, 160)], decay=16, batch_size=8)
    run(tmp_path, GanSchedule([Phase(8, 16), Phase(16, 32)], decay=0, batch_size=8))
    checkpoint = (tmp_path / "checkpoint.pt").read_bytes()
    ended = run(tmp_path, long, finish=24)
    assert ended.shown == 48 + 24
    assert ended.schedule.rate(ended.shown) == pytest.approx(0.03)
    assert (tmp_path / "checkpoint.pt").read_bytes() == checkpoint
    with pytest.raises(UserError, match="from 200 on"):
        GanSchedule([Phase(8, 200), Phase(16, 160)], decay=16).ending(100, 24)


def one_of_two(rank: int, folder: Path) -> None:
    """Leaves its averaged gradient and its trained generator."""
    layer = torch.nn.Linear(3, 1)
    layer.weight.data.fill_(1.0)
    layer(torch.full((1, 3), float(rank))).sum().backward()
    distributed.average_gradients(layer)
    made = run(folder)
    torch.save({"gradient": layer.weight.grad, "state": made.g.state_dict()}, folder / f"{rank}.pt")


def test_two_processes_train_one_network(tmp_path: Path) -> None:
    in_two_processes(one_of_two, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert torch.equal(first["gradient"], torch.full((1, 3), 0.5))
    for name, value in trainer().g.named_parameters():
        assert torch.equal(first["state"][name], second["state"][name]), name
        assert not torch.equal(first["state"][name], value) or name.startswith("synthesis.output0"), name
    assert torch.load(tmp_path / "checkpoint.pt")["state"]["shown"] == 80


def test_a_run_goes_on_from_trained_networks(tmp_path: Path) -> None:
    params = GanParams(
        seed=0,
        channels={4: 8, 8: 8, 16: 4},
        phases=[PhaseParams(resolution=8, images=16, fade=0), PhaseParams(resolution=16, images=64, fade=0)],
        decay=0,
        batch_size=8,
        learning_rate=0.002,
        path_weight=0,
        spread={},
        look_every=1000,
    )
    first, second = networks(params, None)
    for name, network in (("generator", first), ("discriminator", second)):
        save_tensors(tmp_path / f"{name}.safetensors", network.state_dict(), {"architecture": name})
    loaded = networks(params, tmp_path)[0]
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), loaded.parameters(), strict=True))
    schedule = params.schedule()
    assert [schedule.rate(shown, 40) for shown in (40, 1040, 2040)] == [0.0, 0.5, 1.0]
    with pytest.raises(UserError, match=r"gan\.channels"):
        networks(params.model_copy(update={"channels": {4: 8, 8: 8, 16: 8}}), tmp_path)


def test_shares_widen_what_is_shown_and_keep_its_mean() -> None:
    rng = np.random.default_rng(0)
    values = np.stack([rng.gamma(4, size=5000), rng.normal(size=5000), rng.random(5000) < 0.95], axis=1)
    shown = widened_shares(values, np.array([1.3, 0.8, 1.5]))
    before = values.mean(axis=0)
    assert np.sqrt(shown @ (values - before) ** 2) / values.std(axis=0) == pytest.approx([1.3, 0.8, 1.5], rel=1e-3)
    assert (shown @ values)[:2] == pytest.approx(before[:2], abs=2e-3)
    assert (shown @ values)[2] < before[2]  # more of the rare kind
    assert shown.sum() == pytest.approx(1) and shown.min() == pytest.approx(0.1 / 5000, rel=1e-3)
    assert 1 / (shown**2).sum() > 0.4 * 5000  # no few images are shown all the time
    assert widened_shares(values, np.ones(3)) == pytest.approx(1 / 5000)


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("spread", {"age": 3}, "gan.spread.age = 3: allowed is a section, each value a number above 0 to 2"),
        ("spread", {"age": "old"}, "gan.spread.age = 'old': allowed is a section, each value a number above 0"),
        ("channels", {4: "x"}, "gan.channels.4 = 'x': allowed is a section, each value a whole number"),
    ],
)
def test_values_of_a_section_without_fixed_keys_are_checked(key: str, value: object, said: str) -> None:
    content = read_yaml("pretrain/params.yaml")["gan"] | {key: value}
    with pytest.raises(UserError, match=re.escape(said)):
        check("params.yaml", content, GanParams, "gan.")


def test_impossible_spreads_are_refused() -> None:
    values = np.random.default_rng(0).normal(size=(500, 2))
    for wrong in (values, np.ones((500, 2))):
        with pytest.raises(UserError, match=r"gan\.spread"):
            widened_shares(wrong, np.array([1.0, 9.0]))
    assert shares(GanParams.model_construct(spread={}), []) is None
    with pytest.raises(UserError, match=r"gan\.spread\.hats: allowed are lid_aperture, "):
        shares(GanParams.model_construct(spread={"hats": 1.2}), [])


def test_images_are_shown_as_often_as_their_shares_say() -> None:
    images = np.arange(4, dtype=np.uint8)[:, None, None, None].repeat(8, 1).repeat(8, 2).repeat(3, 3)
    batch = RealImages(images, 0, np.array([0.1, 0.0, 0.6, 0.3])).batch(0, 4000, 8)
    seen = np.bincount(torch.round((batch[:, 0, 0, 0] + 1) * 127.5).int().numpy(), minlength=4) / 4000
    assert seen == pytest.approx([0.1, 0.0, 0.6, 0.3], abs=0.03)


def test_frechet_distance_of_gaussians() -> None:
    a = np.random.default_rng(0).standard_normal((20_000, 3))
    dead = np.concatenate([a, np.zeros((len(a), 2))], axis=1)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-6)
    assert frechet_distance(dead, 3 * dead) == pytest.approx(frechet_distance(a, 3 * a))
    assert frechet_distance(a, a + np.array([2, 0, 0])) == pytest.approx(4, rel=1e-6)
    assert frechet_distance(a, 3 * a) == pytest.approx(12, rel=0.05)


def test_closest_pair() -> None:
    assert closest_pair(np.array([[0.0, 0], [5, 5], [9, 0], [5, 4.5]])) == (1, 3, 0.5)

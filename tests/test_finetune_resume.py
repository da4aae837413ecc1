"""A fine-tuning that was killed, interrupted, refused or spoilt."""

import multiprocessing
import os
import random
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_gan
import torch
from tiny_gan import run, tuner, weights
from two_processes import in_two_processes

from ohlora.errors import UserError
from ohlora.finetune.engine import CODE, FineTuner
from ohlora.finetune.recipes import RECIPES
from ohlora.fingerprints import code_fingerprint

CONTEXT = multiprocessing.get_context("forkserver")  # one process imports torch, its children begin at once


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def in_own_process(folder: Path, every: float):
    CONTEXT.set_forkserver_preload(["ohlora.finetune.examiner", "ohlora.finetune.networks"])
    process = CONTEXT.Process(target=tiny_gan.to_the_end, args=(folder, every))
    process.start()
    return process


def killed(process, checkpoint: Path, draw: random.Random) -> bool:
    """Kills the process with -9 some time after its next checkpoint, or before it; False if it came to its end."""
    before = checkpoint.stat().st_mtime_ns if checkpoint.exists() else 0
    patient = draw.random() < 0.8
    while patient and process.is_alive() and (not checkpoint.exists() or checkpoint.stat().st_mtime_ns == before):
        time.sleep(0.002)
    process.join(draw.uniform(0, 0.2))
    if process.exitcode is not None:
        return False
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    return True


def test_killed_at_ten_random_moments_it_ends_with_the_same_bits(tmp_path: Path) -> None:
    undisturbed, disturbed, draw = tmp_path / "undisturbed", tmp_path / "disturbed", random.Random(0)
    in_own_process(undisturbed, 300.0).join()
    expected = torch.load(undisturbed / "weights.pt")
    checkpoint, kills, resumed = disturbed / "checkpoint.pt", 0, 0
    while kills < 10:
        if killed(in_own_process(disturbed, 0.0), checkpoint, draw):
            kills += 1
            resumed += checkpoint.exists()
        else:  # it came to its end: begin again
            assert same(torch.load(disturbed / "weights.pt")["weights"], expected["weights"])
            checkpoint.unlink()
    in_own_process(disturbed, 0.0).join()
    found = torch.load(disturbed / "weights.pt")
    assert same(found["weights"], expected["weights"])
    assert found["history"] == expected["history"]
    assert resumed > 5


def interrupting(step: int):
    """A look that presses Ctrl-C at a step."""

    def look(made: FineTuner) -> dict[str, float]:
        if made.step == step:
            os.kill(os.getpid(), signal.SIGINT)
        return {}

    return look


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, look=interrupting(3))
    assert "saved after epoch 1, batch 0; the same command goes on from there" in capsys.readouterr().out
    resumed = run(tmp_path)
    assert "goes on after epoch 1, batch 0" in capsys.readouterr().out
    assert same(weights(resumed), weights(run(tmp_path / "whole")))
    assert [row.keys() for row in resumed.history] == [resumed.history[0].keys()] * 3


def test_a_finished_training_is_not_trained_again(tmp_path: Path) -> None:
    first = run(tmp_path)
    rows: list[str] = []
    again = run(tmp_path, log=lambda prefix, row: rows.append(prefix))
    assert same(weights(first), weights(again))
    assert again.history == first.history and rows == ["", "", ""]


def test_what_changed_is_named_and_the_training_starts_afresh(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, look=interrupting(3), mark={"parameters": "1", "inputs": "1", "code": "1"})
    capsys.readouterr()
    other = run(tmp_path, mark={"parameters": "1", "inputs": "2", "code": "2"})
    assert "of other code, inputs, not used; starts afresh" in capsys.readouterr().out
    assert len(other.history) == 3
    assert len(code_fingerprint(CODE)) == 16


def test_a_second_training_is_refused_with_the_pid(tmp_path: Path) -> None:
    def second(made: FineTuner) -> dict[str, float]:
        with pytest.raises(UserError, match=rf"process {os.getpid()} is at work here"):
            run(tmp_path)
        return {}

    run(tmp_path, look=second)


@pytest.mark.parametrize("content", [b"", b"PK cut"])
def test_a_damaged_checkpoint_is_one_line_and_stays(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "checkpoint.pt").write_bytes(content)
    with pytest.raises(UserError, match=r"checkpoint\.pt: damaged or not a checkpoint; remove it"):
        run(tmp_path)
    assert (tmp_path / "checkpoint.pt").read_bytes() == content


def test_losses_that_are_not_finite_leave_the_last_checkpoint(tmp_path: Path) -> None:
    looked: list[int] = []

    def look(made: FineTuner) -> dict[str, float]:
        looked.append(made.epoch)
        return {}

    made = tuner()
    step = made.method.step

    def spoiling(images: torch.Tensor, labels: torch.Tensor, number: int) -> dict[str, torch.Tensor | float]:
        values = step(images, labels, number)
        if number == 5:  # the last of epoch 2
            made.method.networks["discriminator"].get_parameter("layer6.bias").data.fill_(float("nan"))
        return values

    made.method.step = spoiling  # type: ignore[method-assign]
    with pytest.raises(UserError, match=r"weights of the discriminator are not finite; .*checkpoint.pt holds the last"):
        run(tmp_path, made, look=look)
    assert looked == [1]  # what is broken is not measured
    assert torch.load(tmp_path / "checkpoint.pt")["state"]["step"] == 3
    assert same(weights(run(tmp_path)), weights(run(tmp_path / "whole")))

    made = tuner()
    made.method.networks["discriminator"].get_parameter("layer6.bias").data.fill_(float("nan"))
    with pytest.raises(UserError, match=r"recipe v1, epoch 0, batch 1: discriminator_loss is not finite; nothing was"):
        run(tmp_path / "spoilt", made)


def test_tests_between_epochs_are_logged_in_order(tmp_path: Path) -> None:
    rows: list[tuple[str, float]] = []
    made = tuner(replace(RECIPES["v4"], test_every=2))
    test = lambda made: {"number": float(made.step)}  # noqa: E731
    run(tmp_path, made, test=test, log=lambda prefix, row: rows.append((prefix, row.get("number", 0.0))))
    assert rows == [("test/", 2), ("", 0), ("test/", 4), ("test/", 6), ("", 0), ("test/", 8), ("", 0)]
    assert [row["step"] for row in made.tests] == [2, 4, 6, 8]


def one_of_two(rank: int, folder: Path) -> None:
    made, seen = tuner(epochs=2), []
    step = made.method.step

    def seeing(images: torch.Tensor, labels: torch.Tensor, number: int) -> dict[str, torch.Tensor | float]:
        seen.extend(labels.tolist())
        return step(images, labels, number)

    made.method.step = seeing
    run(folder, made, look=lambda made: {"looked": 1.0})
    torch.save({"weights": weights(made), "history": made.history, "labels": seen}, folder / f"{rank}.pt")


def test_two_processes_train_one_pair_of_networks(tmp_path: Path) -> None:
    in_two_processes(one_of_two, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert same(first["weights"], second["weights"])
    assert not same(first["weights"], weights(tuner()))
    assert first["history"][0]["discriminator_loss"] == second["history"][0]["discriminator_loss"]
    assert ["looked" in rows["history"][0] for rows in (first, second)] == [True, False]
    assert torch.load(tmp_path / "checkpoint.pt")["state"]["step"] == 6
    for epoch in (slice(12), slice(12, 24)):  # each image once, by one of the two
        assert sorted(first["labels"][epoch] + second["labels"][epoch]) == sorted(tiny_gan.data().labels.tolist())

"""Sampling in shards: whatever stops it and however many processes share it, the bits are those of one sampling."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from pipeline import STAGES
from samples import sample
from torch import Tensor, nn
from two_processes import in_two_processes

from ohlora import checkpoints, sampling
from ohlora.errors import UserError
from ohlora.networks.stylegan import Generator
from ohlora.rng import standard_normal
from ohlora.sampling import (
    GPU_SYNTHESIS_CHUNK,
    MAPPING_CHUNK,
    SYNTHESIS_CHUNK,
    arithmetic,
    labels_for,
    map_latents,
    read_scores,
)
from ohlora.shards import CODE, PURPOSE, SHARD, ShardedScores
from ohlora.training import seeded
from ohlora.weights import load_bundled

CONTEXT = multiprocessing.get_context("forkserver")  # one process imports torch, its children begin at once
CPU = torch.device("cpu")
MARK = {"parameters": "1", "inputs": "1", "code": "1"}
COUNT = 3 * SHARD + 100
DIM = 16


class Reader(nn.Module):
    """Reads three numbers; `look` is called before, `pause` seconds later it reads."""

    outputs = 3

    def __init__(self, look: Callable[[], None] = lambda: None, pause: float = 0.0) -> None:
        super().__init__()
        self.weight = torch.randn(3, 3 * 64, generator=torch.Generator().manual_seed(1))
        self.look, self.pause = look, pause

    def forward(self, images: Tensor) -> Tensor:
        self.look()
        time.sleep(self.pause)
        return images.flatten(1) @ self.weight.T


def generator(dim: int = DIM, width: int = DIM) -> Generator:
    with seeded(0, "shards"):
        made = Generator(8, {4: 4, 8: 4}, {"z_dim": dim, "w_dim": dim, "width": width, "layers": 2})
    return made.eval()


def shards(count: int = COUNT, reader: Reader | None = None, seed: int = 0) -> ShardedScores:
    cnn: Any = reader or Reader()
    return ShardedScores(generator(), cnn, seed, count, 64, CPU)


def whole(count: int = COUNT) -> np.ndarray:
    """The scores of one sampling in memory, of latents that were drawn at once."""
    return sample(generator(), Reader(), standard_normal(0, PURPOSE, (count, DIM)), 64).scores


def kept(folder: Path) -> int:
    """Scores in the checkpoint."""
    return len(torch.load(folder / "checkpoint.pt")["state"]["scores"])


def to_the_end(folder: Path, pause: float) -> None:
    """A sampling in a process of its own, a checkpoint after every shard; leaves its scores in scores.npy."""
    torch.set_num_threads(1)
    np.save(folder / "scores.npy", shards(reader=Reader(pause=pause)).run(folder, MARK, every=0.0))


def begun(folder: Path) -> Any:
    CONTEXT.set_forkserver_preload(["ohlora.shards"])
    process = CONTEXT.Process(target=to_the_end, args=(folder, 0.005))
    process.start()
    return process


# ---------------------------------------------------------------- one process


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_shards_are_one_sampling_whatever_the_number_of_threads(
    tmp_path: Path, threads: int, set_threads: Callable[[int], None]
) -> None:
    set_threads(threads)
    np.testing.assert_array_equal(shards().run(tmp_path, MARK), whole())


def test_latents_of_shards_are_those_of_all() -> None:
    z = standard_normal(0, PURPOSE, (COUNT, DIM))
    parts = [map_latents(generator(), z[start : start + SHARD], CPU) for start in range(0, COUNT, SHARD)]
    np.testing.assert_array_equal(np.concatenate(parts), map_latents(generator(), z, CPU))


def test_batch_size_changes_no_score_in_bf16() -> None:
    """The generator sees as many latents as ever, but the reader a whole batch."""
    made, cnn = cast(Generator, load_bundled("generator")), load_bundled("property_cnn")
    w = map_latents(made, standard_normal(0, PURPOSE, (32, made.mapping.z_dim)), CPU)
    few, many = (torch.cat(list(read_scores(made, cnn, w, size, CPU, "bf16"))) for size in (8, 32))
    torch.testing.assert_close(few, many, rtol=0, atol=0.01)
    torch.testing.assert_close(few, few.bfloat16().float(), rtol=0, atol=0)  # it was bf16


def test_labels_stay_with_their_latents(tmp_path: Path) -> None:
    """Stopped and taken up, each latent is drawn with its own label."""
    with seeded(0, "labels"):
        made = Generator(8, {4: 4, 8: 4}, {"z_dim": DIM, "w_dim": DIM, "width": DIM, "layers": 2, "label_size": 3})
    made.eval()
    cnn: Any = Reader()
    labels = labels_for(made, "drawn", 0, PURPOSE, COUNT)
    assert labels.shape == (COUNT, 3)
    w = map_latents(made, standard_normal(0, PURPOSE, (COUNT, DIM)), CPU, labels=labels)
    expected = np.concatenate([part.numpy() for part in read_scores(made, cnn, w, 64, CPU)])
    ShardedScores(made, cnn, 0, SHARD, 64, CPU, labels=labels[:SHARD]).run(tmp_path, MARK)
    again = ShardedScores(made, cnn, 0, COUNT, 64, CPU, labels=labels).run(tmp_path, MARK)
    np.testing.assert_array_equal(again, expected)


def test_killed_at_random_moments_it_ends_with_the_same_bits(tmp_path: Path) -> None:
    draw, lock, checkpoint, counts = random.Random(0), tmp_path / "run.lock", tmp_path / "checkpoint.pt", set()
    for kill in range(6):
        process = begun(tmp_path)
        waited = checkpoint if kill % 2 else lock  # for the next shard, or for the beginning
        before = waited.stat().st_mtime_ns if waited.exists() else 0
        while process.is_alive() and (not waited.exists() or waited.stat().st_mtime_ns == before):
            time.sleep(0.002)
        process.join(draw.uniform(0, 0.05))
        process.kill()
        process.join()
        counts.add(kept(tmp_path) if checkpoint.exists() else 0)
    assert len(counts) > 2  # it did go on between two kills
    to_the_end(tmp_path, 0.0)
    np.testing.assert_array_equal(np.load(tmp_path / "scores.npy"), whole())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_polite_stop_is_quick_and_says_how_to_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], number: int
) -> None:
    calls: list[int] = []

    def stop() -> None:
        calls.append(len(calls))
        if len(calls) == 12:  # in the second shard, which has 8 batches
            os.kill(os.getpid(), number)

    with pytest.raises(KeyboardInterrupt):
        shards(reader=Reader(stop)).run(tmp_path, MARK)
    assert len(calls) < 16  # it did not wait for the shard's end
    assert kept(tmp_path) == SHARD
    place = f"saved after {SHARD} of {COUNT} images"
    assert capsys.readouterr().out == f"{tmp_path}/checkpoint.pt: {place}; the same command goes on from there\n"
    again: list[int] = []
    np.testing.assert_array_equal(shards(reader=Reader(lambda: again.append(0))).run(tmp_path, MARK), whole())
    assert len(again) == 8 * 2 + 2


def test_a_finished_sampling_is_not_made_again(tmp_path: Path) -> None:
    first = shards().run(tmp_path, MARK)

    def look() -> None:
        raise AssertionError("an image was read")

    np.testing.assert_array_equal(shards(reader=Reader(look)).run(tmp_path, MARK), first)


@pytest.mark.parametrize("part", MARK)
def test_other_parameters_inputs_or_code_start_it_afresh(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], part: str
) -> None:
    shards(seed=1).run(tmp_path, MARK)
    np.testing.assert_array_equal(shards().run(tmp_path, MARK | {part: "2"}), whole())
    assert f"of other {part}, not used; starts afresh" in capsys.readouterr().out


def test_more_latents_go_on_and_fewer_leave_what_there_is(tmp_path: Path) -> None:
    calls: list[int] = []

    def run(count: int) -> np.ndarray:
        calls.clear()
        return shards(count, Reader(lambda: calls.append(0))).run(tmp_path, MARK)

    run(SHARD + 100)
    np.testing.assert_array_equal(run(COUNT), whole())  # the 100 beyond a whole shard are read again
    assert len(calls) == 8 * 2 + 2
    few = 2 * SHARD + 7
    np.testing.assert_array_equal(run(few), whole(few))
    assert len(calls) == 1
    assert kept(tmp_path) == COUNT


def test_a_second_sampling_is_refused_with_the_pid(tmp_path: Path) -> None:
    refusals: list[int] = []

    def second() -> None:
        with pytest.raises(UserError, match=rf"process {os.getpid()} is at work here"), checkpoints.lock(tmp_path):
            pass
        refusals.append(0)

    shards(SHARD, Reader(second)).run(tmp_path, MARK)
    assert refusals


# ---------------------------------------------------------------- several processes


def one_of_two(rank: int, folder: Path) -> None:
    torch.set_num_threads(1)
    calls: list[int] = []

    def stop() -> None:
        calls.append(0)
        if rank == 1 and len(calls) == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    try:
        shards(reader=Reader(stop)).run(folder / "stopped", MARK)
    except KeyboardInterrupt:
        (folder / f"stopped by {rank}").touch()
    np.save(folder / f"{rank}.npy", shards().run(folder / "whole", MARK))


def test_two_processes_give_the_bits_of_one(tmp_path: Path) -> None:
    in_two_processes(one_of_two, tmp_path)
    for rank in (0, 1):  # also in the process that did not do the last shard
        np.testing.assert_array_equal(np.load(tmp_path / f"{rank}.npy"), whole())
    # Told to one of them, both stop; one process goes on with what two began.
    assert (tmp_path / "stopped by 1").exists()
    np.testing.assert_array_equal(shards().run(tmp_path / "stopped", MARK), whole())


# ---------------------------------------------------------------- memory, devices, code


MEASURE = """
import sys
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
from test_shards import CPU, MARK, Reader, ShardedScores, generator
from ohlora.files import save_npz
from ohlora.rng import standard_normal
torch.set_num_threads(1)
made = generator(2048, 8)
def peak(count):
    Path("/proc/self/clear_refs").write_text("5")
    folder = Path(sys.argv[2]) / str(count)
    scores = ShardedScores(made, Reader(), 0, count, 64, CPU).run(folder, MARK)
    z = standard_normal(0, "sample", (count, 2048))
    save_npz(folder / "samples.npz", z=z, scores=scores)
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1]) * 1024
peak(2560)
few, many = peak(2560), peak(8704)  # arrays of 21 and 71 MB: both larger than the buffer that writes them
print((many - few) / 6144)
"""


@pytest.mark.skipif(not os.access("/proc/self/clear_refs", os.W_OK), reason="the system does not reset peak memory")
def test_memory_grows_by_what_is_stored_only(tmp_path: Path) -> None:
    command = [sys.executable, "-c", MEASURE, str(Path(__file__).parent), str(tmp_path)]
    # Or memory that threads, or a smaller array before, have freed counts, now more, now less.
    environment = os.environ | {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": str(1 << 20)}
    slope = float(subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout)
    stored = 4 * (2048 + 3)
    assert 0.8 * stored < slope < 1.2 * stored  # a second copy of z would be 2


def test_a_gpu_draws_more_at_once_and_fp32_is_exact_there() -> None:
    cudnn, gpu = torch.backends.cudnn, torch.device("cuda")
    assert sampling.synthesis_chunk(gpu) == GPU_SYNTHESIS_CHUNK
    assert sampling.synthesis_chunk(CPU) == SYNTHESIS_CHUNK
    before = cudnn.enabled, cudnn.deterministic, cudnn.allow_tf32
    with arithmetic(gpu, "fp32"):
        assert (cudnn.enabled, cudnn.deterministic, cudnn.allow_tf32) == (True, True, False)
    with arithmetic(gpu, "bf16"):
        assert (cudnn.enabled, cudnn.deterministic, cudnn.allow_tf32) == (True, True, True)
    with arithmetic(CPU, "fp32"):
        assert (cudnn.enabled, cudnn.deterministic, cudnn.allow_tf32) == before
    assert (cudnn.enabled, cudnn.deterministic, cudnn.allow_tf32) == before
    assert SHARD % GPU_SYNTHESIS_CHUNK == MAPPING_CHUNK % SYNTHESIS_CHUNK == 0


def test_code_that_starts_a_sampling_afresh_is_what_scores_depend_on() -> None:
    beside = {"checkpoints", "distributed", "plots", "stages/generators", "stages/sample"}
    code = {path for path in STAGES["sample"]["deps"] if path.startswith("src/")}
    assert code - {f"src/ohlora/{name}.py" for name in beside} == {f"src/ohlora/{name}" for name in CODE}

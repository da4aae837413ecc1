"""Sampling in shards, for counts that take hours: ended and taken up at any moment, spread over processes."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ohlora import distributed
from ohlora.checkpoints import SAVE_EVERY, Checkpoint, opened
from ohlora.networks.cnn import PropertyCNN, WithSkin
from ohlora.networks.stylegan import Generator
from ohlora.rng import stream
from ohlora.sampling import MAPPING_CHUNK, Precision, map_latents, read_scores

SHARD = MAPPING_CHUNK  # latents that one process maps, draws and reads, always the same ones together
PURPOSE = "sample"  # name of the latents' random stream

# The code that scores depend on.
CODE = ("networks/cnn.py", "networks/stylegan.py", "properties.py", "rng.py", "sampling.py", "shards.py")


class ShardedScores:
    """The property scores of the images of `standard_normal(seed, PURPOSE, (count, z_dim))`, shard by shard.

    Process r of R does the shards r, r + R, r + 2R, ...; after each round all have all scores. Which process did a
    shard, and after how many stops, changes no bit. Only the scores are kept: a latent comes back from the seed faster
    than from a disk.

    Args:
        generator, property_cnn: in eval mode and on `device`.
        seed, count: of the latents.
        batch_size, precision: as in `sampling.read_images`.
        labels: float32 (count, L) of the latents, as in `sampling.map_latents`.
    """

    def __init__(
        self,
        generator: Generator,
        property_cnn: PropertyCNN | WithSkin,
        seed: int,
        count: int,
        batch_size: int,
        device: torch.device,
        precision: Precision = "fp32",
        labels: np.ndarray | None = None,
    ):
        self.generator, self.property_cnn, self.device = generator, property_cnn, device
        self.batch_size, self.precision = batch_size, precision
        self._stream, self._z_dim = stream(seed, PURPOSE), generator.mapping.z_dim
        self.labels = np.empty((count, 0), np.float32) if labels is None else labels
        self.scores = torch.empty(count, property_cnn.outputs)
        self.done = self._known = 0

    def run(self, folder: Path, mark: Mapping[str, str], every: float = SAVE_EVERY) -> np.ndarray:
        """Scores to the end, from `folder`/checkpoint.pt if its mark is the same.

        Args:
            folder: where the checkpoint lies; one process, or group of processes, at a time.
            mark: fingerprints by name (parameters, inputs, code) of all that scores depend on. Not of the count: scores
                of fewer or of more latents are used as far as they go.
            every: seconds between two checkpoints.

        Returns:
            float32 (count, P), the same in every process.

        Raises:
            UserError: another process at work in the folder (with its pid), or a damaged checkpoint.
            KeyboardInterrupt: after a checkpoint, if Ctrl-C or a polite kill came.
        """
        with opened(folder, mark, self.device, every) as checkpoint:
            self._take((checkpoint.load() or {"scores": self.scores[:0]})["scores"])
            count, first = len(self.scores), distributed.rank() == 0
            bar = tqdm(total=count, initial=self.done, desc="sample", unit="image", disable=None if first else True)
            with bar:
                while self.done < count and self._round(checkpoint, bar):
                    if checkpoint.due():
                        self._save(checkpoint)
            self._save(checkpoint)
            if self.done < count and first:
                place = f"saved after {self.done} of {count} images"
                tqdm.write(f"{checkpoint.path}: {place}; the same command goes on from there")
        return self.scores.numpy()

    def _take(self, known: Tensor) -> None:
        """Goes on from scores; those of an end that is no whole shard were read among others than they would be now."""
        count, self._known = len(self.scores), len(known)
        self.done = count if len(known) == count else min(len(known), count) // SHARD * SHARD
        self.scores[: self.done] = known[: self.done]
        for _ in range(0, self.done, SHARD):
            self._stream.standard_normal((SHARD, self._z_dim), dtype=np.float32)

    def _round(self, checkpoint: Checkpoint, bar: tqdm) -> bool:
        """One shard of every process; False, and nothing done, if one of them was interrupted."""
        rows = min(SHARD * distributed.size(), len(self.scores) - self.done)
        z = self._stream.standard_normal((rows, self._z_dim), dtype=np.float32)
        own = slice(distributed.rank() * SHARD, (distributed.rank() + 1) * SHARD)
        scores = self._shard(z[own], self.labels[self.done :][own], checkpoint.interrupted, bar)
        if checkpoint.stopped():
            return False
        self.scores[self.done : self.done + rows] = distributed.gather(scores)[:rows].cpu()
        self.done += rows
        return True

    def _shard(self, z: np.ndarray, labels: np.ndarray, interrupted: Callable[[], bool], bar: tqdm) -> Tensor:
        """Scores (SHARD, P) of at most so many latents, zeros below them."""
        scores, done = torch.zeros(SHARD, self.scores.shape[1], device=self.device), 0
        if len(z) == 0:
            return scores
        w = map_latents(self.generator, z, self.device, labels=labels)
        parts = read_scores(self.generator, self.property_cnn, w, self.batch_size, self.device, self.precision)
        for part in parts:
            scores[done : done + len(part)] = part
            done += len(part)
            bar.update(min(len(part) * distributed.size(), len(self.scores) - bar.n))  # the others are as far
            if interrupted():
                break
        return scores

    def _save(self, checkpoint: Checkpoint) -> None:
        """Writes the scores unless fewer than there were: a short run leaves those of a long one."""
        if self.done > self._known:
            checkpoint.save({"scores": self.scores[: self.done].clone()})

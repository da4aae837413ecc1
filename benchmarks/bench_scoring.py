"""Vectorised scores against the slow plain-Python oracle, both in one run: milliseconds a map and their ratio.

PYTHONPATH=tests python benchmarks/bench_scoring.py
"""

import time
from collections.abc import Callable

import numpy as np
from oracle_scores import oracle_hairstyle, oracle_v1, oracle_v2, random_map

from ohlora.scoring import score_hairstyle, score_v1, score_v2

Face = tuple[np.ndarray, np.ndarray]
PAIRS = {"v1": (score_v1, oracle_v1), "v2": (score_v2, oracle_v2), "hairstyle": (score_hairstyle, oracle_hairstyle)}


def milliseconds(score: Callable, faces: list[Face], repeats: int) -> float:
    """Processor time a map, the best of `repeats` rounds (other programs on the machine do not count)."""
    rounds = []
    for _ in range(repeats):
        start = time.process_time()
        for face in faces:
            score(*face)
        rounds.append((time.process_time() - start) / len(faces) * 1e3)
    return min(rounds)


def run(count: int = 10) -> None:
    """Prints one line an algorithm for `count` random maps of 224x224."""
    rng = np.random.default_rng(0)
    faces = [random_map(rng, 224) for _ in range(count)]
    print(f"{'score':10} {'ms':>8} {'oracle ms':>10} {'ratio':>7}")
    for name, (score, oracle) in PAIRS.items():
        fast, slow = milliseconds(score, faces, 20), milliseconds(oracle, faces, 2)
        print(f"{name:10} {fast:8.3f} {slow:10.1f} {slow / fast:7.0f}")


if __name__ == "__main__":
    run()

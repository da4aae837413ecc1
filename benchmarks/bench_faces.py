"""Face world: images a second by number of processes, processor time an image and its costliest steps.

python benchmarks/bench_faces.py --processes 1 2

Needs the extra `faces`. Images a second count on idle cores only; processor time is nearly the same on busy ones. The
first pictures of each process, which load the kernels, are left out.
"""

import argparse
import cProfile
import multiprocessing
import time
from collections.abc import Sequence
from pathlib import Path

import cv2

from ohlora.faces import dataset
from ohlora.faces.render import render
from ohlora.faces.world import FaceWorld

SEED, WARM_UP = 77, 4


def processor_seconds(indices: Sequence[int]) -> float:
    """Renders some images in a worker of the data set's pool."""
    start = time.process_time()
    dataset._render_some(indices)
    return time.process_time() - start


def speed(count: int, size: int, processes: int) -> tuple[float, float]:
    """Images a second, and milliseconds of processor time an image."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(processes, dataset._start_worker, (None, SEED, size)) as pool:
        pool.map(processor_seconds, [range(WARM_UP)] * processes, chunksize=1)
        start = time.perf_counter()
        spent = sum(pool.imap_unordered(processor_seconds, [[index] for index in range(count)]))
        return count / (time.perf_counter() - start), spent / count * 1e3


def steps(count: int, size: int) -> dict[str, float]:
    """Milliseconds an image by module and function, the renderer's own and those it calls; the profiler slows all."""
    cv2.setNumThreads(1)
    world, profile = FaceWorld(), cProfile.Profile(time.process_time)
    for index in range(WARM_UP):
        render(world, SEED, index, size)
    profile.enable()
    for index in range(count):
        render(world, SEED, index, size)
    profile.create_stats()
    spent = {}
    for (file, _, function), (*_, callers) in profile.stats.items():  # type: ignore[attr-defined]
        for (_, _, caller), (*_, seconds) in callers.items():
            if caller in ("render", "render_person", "_render", "_paint_surface"):
                spent[f"{Path(file).stem}.{function}"] = seconds / count * 1e3
    return spent


def run(count: int, size: int, processes: list[int]) -> None:
    """Prints a line for each number of processes, then one for each of the costliest steps."""
    print(f"{'processes':>9} {'images/s':>9} {'CPU ms':>7}")
    for n in processes:
        rate, milliseconds = speed(count, size, n)
        print(f"{n:9} {rate:9.1f} {milliseconds:7.1f}")
    spent = steps(count, size)
    whole = spent.pop("render.render_person") + spent["person.sample_person"]
    del spent["render._render"], spent["render._paint_surface"]
    print(f"\n{'step':24} {'CPU ms':>7} {'share':>6}")
    for name in sorted(spent, key=spent.__getitem__, reverse=True)[:12]:
        print(f"{name:24} {spent[name]:7.1f} {spent[name] / whole:6.0%}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=100)
    parser.add_argument("--size", type=int, default=128)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args()
    run(arguments.count, arguments.size, arguments.processes)

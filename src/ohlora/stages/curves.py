"""Curves of a training, kept by dvclive for `dvc plots`."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from dvclive import Live
from tqdm import tqdm

from ohlora.files import named
from ohlora.stages.paths import CURVES

Log = Callable[[str, dict[str, float]], None]


@contextmanager
def epoch_log(name: str) -> Iterator[Log]:
    """Gives a function (prefix, metrics) to call after every epoch.

    Args:
        name: the folder below that of the curves. The prefix parts trainings of one stage, such as "fold_0/"; a
            training that starts again goes on where the curve of its prefix ended.
    """
    steps: Counter[str] = Counter()
    folder = CURVES.format(name)
    # dvclive's own dvc.yaml and experiments would get in the way of the pipeline's.
    with (
        named(Path(folder)),
        Live(folder, save_dvc_exp=False, dvcyaml=False, report=None) as live,
        tqdm(desc=name, unit="epoch", disable=None) as bar,
    ):

        def log(prefix: str, metrics: dict[str, float]) -> None:
            live.step = steps[prefix]
            steps[prefix] += 1
            for key, value in metrics.items():
                live.log_metric(prefix + key, value)
            bar.update()

        yield log

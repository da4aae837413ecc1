"""Pictures for people: contact sheets, histograms and scatter plots."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from ohlora.files import atomic

CAPTION_HEIGHT = 12  # pixels, one line of Pillow's built-in font


def contact_sheet(images: Sequence[np.ndarray], columns: int, captions: Sequence[str] | None = None) -> np.ndarray:
    """Images in rows on white.

    Args:
        images: uint8 (H, W, 3), all of one size, at least one.
        columns: images in a row.
        captions: a short text under each.

    Returns:
        uint8 (H', W', 3).
    """
    height, width = images[0].shape[:2]
    step = height + (CAPTION_HEIGHT if captions else 0) + 2
    rows = -(-len(images) // columns)
    sheet = Image.new("RGB", (columns * (width + 2), rows * step), "white")
    draw = ImageDraw.Draw(sheet)
    for place, image in enumerate(images):
        x, y = place % columns * (width + 2), place // columns * step
        sheet.paste(Image.fromarray(image), (x, y))
        if captions:
            draw.text((x + 2, y + height), captions[place], fill="black")
    return np.asarray(sheet)


# One colour a class of a parse map: background, skin, brows, eyes, nose, upper lip, inner mouth, lower lip, hair.
CLASS_COLOURS = np.array(
    [
        (235, 235, 235),
        (240, 200, 170),
        (120, 80, 40),
        (160, 110, 60),
        (30, 120, 220),
        (40, 200, 240),
        (230, 160, 90),
        (200, 30, 60),
        (70, 0, 20),
        (240, 90, 120),
        (60, 50, 110),
    ],
    dtype=np.uint8,
)


def save_image(path: str | Path, image: np.ndarray) -> None:
    """Writes a uint8 picture; the kind follows from the name."""
    with atomic(path) as temporary:
        Image.fromarray(image).save(temporary)


def save_figure(path: str | Path, figure: Figure) -> None:
    """Writes a matplotlib figure as a picture."""
    with atomic(path) as temporary:
        FigureCanvasAgg(figure)
        figure.savefig(temporary, dpi=100, metadata={"Software": None} if temporary.suffix == ".png" else None)


def grid_figure(count: int, columns: int = 4, size: float = 3.0) -> tuple[Figure, list]:
    """A figure with `count` axes in rows; `size` is the width of one in inches."""
    columns = min(columns, count)
    rows = -(-count // columns)
    figure = Figure(figsize=(columns * size, rows * size * 0.85), layout="constrained")
    axes = [figure.add_subplot(rows, columns, place + 1) for place in range(count)]
    return figure, axes


def histograms(values: Mapping[str, np.ndarray], bins: int = 40) -> Figure:
    """One histogram a name; missing values are left out and counted in the title."""
    figure, axes = grid_figure(len(values))
    for axis, (name, column) in zip(axes, values.items(), strict=True):
        there = column[np.isfinite(column)]
        missing = len(column) - len(there)
        axis.hist(there, bins=bins, color="tab:blue")
        axis.set_title(name + (f" ({missing} missing)" if missing else ""), fontsize=9)
        axis.set_ylabel("images", fontsize=8)
    return figure


def scatters(pairs: Mapping[str, tuple[np.ndarray, np.ndarray]], x_label: str, y_label: str) -> Figure:
    """One scatter plot a name, of (x, y); the title shows the correlation of the pairs that are there."""
    figure, axes = grid_figure(len(pairs))
    for axis, (name, (x, y)) in zip(axes, pairs.items(), strict=True):
        axis.plot(x, y, ".", markersize=2, alpha=0.4)
        axis.set_title(f"{name}: r = {correlation(x, y):.3f}", fontsize=9)
        axis.set_xlabel(x_label, fontsize=8)
        axis.set_ylabel(y_label, fontsize=8)
    return figure


def correlation(x: np.ndarray, y: np.ndarray) -> float:
    """Pearson's correlation over the pairs where both are there; NaN if it is undefined."""
    both = np.isfinite(x) & np.isfinite(y)
    x, y = x[both], y[both]
    if len(x) < 2 or np.ptp(x) == 0 or np.ptp(y) == 0:
        return float("nan")
    return float(np.corrcoef(x, y)[0, 1])

"""Pictures of the vector search: t-SNE maps, strips of edited faces, responses to the weights."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from PIL import Image, ImageDraw, ImageFont

LOW, HIGH = "#3b6fb6", "#d1495b"
INK, PAPER = "#222222", "white"
LABEL_WIDTH, HEADER, GAP, TITLE = 76, 22, 4, 30  # pixels


def tsne_page(maps: Mapping[tuple[str, str], tuple[np.ndarray, np.ndarray]], accuracy: np.ndarray) -> Figure:
    """All groups and properties on one page.

    Args:
        maps: for (group, property): the low class's points (m, 2) and the high class's.
        accuracy: (G, P), shown in the titles.

    Returns:
        A figure with a row for each property and a column for each group.
    """
    groups = list(dict.fromkeys(group for group, _ in maps))
    properties = list(dict.fromkeys(name for _, name in maps))
    size = (1.9 * len(groups) + 0.6, 2.0 * len(properties) + 0.5)
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(properties), len(groups), squeeze=False)
    for row, name in enumerate(properties):
        for column, group in enumerate(groups):
            axis = axes[row, column]
            low, high = maps[group, name]
            # Drawn in turn: neither class may cover the other.
            order = np.argsort(np.concatenate([np.arange(len(low)), np.arange(len(high))]), kind="stable")
            colours = np.repeat([LOW, HIGH], [len(low), len(high)])[order]
            axis.scatter(*np.concatenate([low, high])[order].T, s=3, c=colours, alpha=0.6, linewidths=0)
            axis.set_title(f"{group}  {accuracy[column, row]:.3f}", fontsize=9)
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_color("#cccccc")
        axes[row, 0].set_ylabel(name, fontsize=11)
    handles = [Line2D([], [], color=colour, marker="o", linestyle="") for colour in (LOW, HIGH)]
    figure.legend(handles, ["lowest", "highest"], loc="outside upper right", ncols=2, frameon=False, fontsize=9)
    return figure


def responses(asked: np.ndarray, read: np.ndarray, properties: Sequence[str], units: Sequence[str]) -> Figure:
    """How readings follow the weights.

    Args:
        asked: (M, P) weights.
        read: (N, M, P) readings; each case's own mean is taken off.
        properties: P names.
        units: P labels of the y axes.

    Returns:
        A figure with the mean over all cases and a band from the 10th to the 90th percentile for each property.
    """
    figure = Figure(figsize=(3.6 * len(properties), 3.0), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(properties)))
    moved = read - read.mean(axis=1, keepdims=True)
    for column, (axis, name) in enumerate(zip(axes, properties, strict=True)):
        steps = np.unique(asked[:, column])
        values = [moved[:, asked[:, column] == step, column].ravel() for step in steps]
        low, high = np.nanpercentile(np.stack(values), [10, 90], axis=1)
        axis.fill_between(steps, low, high, color=LOW, alpha=0.18, linewidth=0)
        axis.plot(steps, [np.nanmean(column_values) for column_values in values], "o-", color=LOW)
        axis.axhline(0, color="#bbbbbb", linewidth=0.8)
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("weight asked for", fontsize=9)
        axis.set_ylabel(units[column], fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def correlation_histograms(values: Mapping[str, np.ndarray], thresholds: Mapping[str, float]) -> Figure:
    """Histogram over cases of each property's signed correlation, with its threshold."""
    figure = Figure(figsize=(3.6 * len(values), 2.6), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(values)))
    for axis, (name, column) in zip(axes, values.items(), strict=True):
        axis.hist(column[np.isfinite(column)], bins=np.linspace(-1, 1, 41), color=LOW)
        axis.axvline(thresholds[name], color=HIGH, linewidth=1.2)
        axis.set_title(f"{name}: passes from {thresholds[name]:.2f}", fontsize=10)
        axis.set_xlabel("correlation", fontsize=9)
        axis.set_ylabel("cases", fontsize=9)
        axis.spines[["top", "right"]].set_visible(False)
    return figure


def leakage_page(tables: Mapping[str, tuple[np.ndarray, Sequence[str]]], asked: Sequence[str]) -> Figure:
    """What moves when a property is asked for.

    Args:
        tables: by reader: mean changes (P, R) for a weight of 1 in standard deviations, and the R readings' names.
        asked: P properties.
    """
    figure = Figure(figsize=(10.0, 1.0 + 0.45 * len(asked) * len(tables)), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, len(tables)))
    for axis, (reader, (changes, names)) in zip(axes, tables.items(), strict=True):
        axis.imshow(changes, cmap="RdBu_r", vmin=-1, vmax=1, aspect="auto")
        for row, column in np.ndindex(changes.shape):
            value = changes[row, column]
            axis.text(
                column,
                row,
                f"{value:+.2f}",
                ha="center",
                va="center",
                fontsize=8,
                color="white" if abs(value) > 0.6 else INK,
            )
        axis.set_xticks(
            range(len(names)), [name.replace("_", " ") for name in names], rotation=35, ha="right", fontsize=8
        )
        axis.set_yticks(range(len(asked)), asked, fontsize=9)
        axis.set_title(f"{reader}: change for a weight of 1, standard deviations", fontsize=10)
        axis.tick_params(length=0)
    return figure


def strip(images: np.ndarray, rows: Sequence[str], steps: Sequence[float], title: str) -> np.ndarray:
    """Edited faces of one case.

    Args:
        images: uint8 (P, S, H, W, 3): property by step.
        rows: P names.
        steps: S weights, written over the columns.
        title: one line over all.

    Returns:
        uint8 (H', W', 3).
    """
    height, width = images.shape[2:4]
    size = (LABEL_WIDTH + images.shape[1] * (width + GAP), TITLE + HEADER + len(rows) * (height + GAP))
    sheet = Image.new("RGB", size, PAPER)
    draw = ImageDraw.Draw(sheet)
    draw.text((GAP, 6), title, fill=INK, font=ImageFont.load_default(16))
    small = ImageFont.load_default(13)
    for column, step in enumerate(steps):
        text = f"{step:+.1f}" if step else "0"
        x = LABEL_WIDTH + column * (width + GAP) + width // 2
        draw.text((x, TITLE + HEADER // 2), text, fill="#666666", font=small, anchor="mm")
    for row, name in enumerate(rows):
        y = TITLE + HEADER + row * (height + GAP)
        draw.text((GAP, y + height // 2), name, fill=INK, font=ImageFont.load_default(15), anchor="lm")
        for column, image in enumerate(images[row]):
            sheet.paste(Image.fromarray(image), (LABEL_WIDTH + column * (width + GAP), y))
    return np.asarray(sheet)


def stack(pictures: Sequence[np.ndarray], gap: int = 14) -> np.ndarray:
    """Pictures of one width, uint8 (H, W, 3), one under the other on white."""
    space = np.full((gap, pictures[0].shape[1], 3), 255, dtype=np.uint8)
    return np.concatenate([part for picture in pictures for part in (picture, space)][:-1])

"""Property scores of a face, read from its parse map (11 classes) and its crop.

Formulas, search windows and quirks are those of Oh-LoRA (2025_04_08_OhLoRA and 2025_05_26_OhLoRA_v3), on whose
scores the published property CNNs were trained. Windows are fractions of the map's size, pixel thresholds are meant for
224x224. Where the original raises or gives infinity the score is missing: NaN.

Colours are sums over the three channels, integers from 0 to 765, so every median, trimmed mean and deviation is exact
arithmetic on a histogram of 766 bins; no sorting is needed.
"""

from collections.abc import Mapping, Sequence
from typing import Literal, overload

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ohlora.errors import UserError
from ohlora.properties import BY_NAME

BACKGROUND, LEFT_EYE, RIGHT_EYE, NOSE, UPPER_LIP, INNER_MOUTH, LOWER_LIP, HAIR = 0, 4, 5, 6, 7, 8, 9, 10
NAN = float("nan")

UInt8 = NDArray[np.uint8]
Bool = NDArray[np.bool_]
Float = NDArray[np.float64]


def score_v1(parse_map: UInt8, image: UInt8) -> dict[str, float]:
    """Raw scores by the first algorithm.

    Args:
        parse_map: Classes 0..10, shape (H, W).
        image: The same face in RGB, shape (H, W, 3).

    Returns:
        The seven properties by name; NaN where there is no hair or the nose has no correlation of x and y.

    Raises:
        ValueError: If the shapes do not belong together.
    """
    colours = _channel_sums(parse_map, image)
    height, width = parse_map.shape
    hair = parse_map == HAIR
    rows = slice(height // 4, 5 * height // 8)
    left = _extent(parse_map[rows, : 3 * width // 4] == LEFT_EYE)
    right = _extent(parse_map[rows, width // 4 :] == RIGHT_EYE)
    lips = _extent((parse_map == UPPER_LIP) | (parse_map == LOWER_LIP))
    mean, std = background(parse_map, colours)
    return {
        "eyes": (left + right) / 2,
        "hair_color": _median(_histogram(colours, hair)) / 3,
        "hair_length": _lowest_hair(hair),
        "mouth": float(lips + _extent(parse_map == INNER_MOUTH)),
        "pose": -_correlation(parse_map == NOSE),
        "background_mean": mean,
        "background_std": std,
    }


def score_v2(parse_map: UInt8, image: UInt8) -> dict[str, float]:
    """Raw scores by the second algorithm.

    Args:
        parse_map: Classes 0..10, shape (H, W).
        image: The same face in RGB, shape (H, W, 3).

    Returns:
        The seven properties by name; pose is NaN if both eyes have the same mean column.

    Raises:
        ValueError: If the shapes do not belong together.
    """
    colours = _channel_sums(parse_map, image)
    height, width = parse_map.shape
    hair = parse_map == HAIR
    window = parse_map[height // 4 : 3 * height // 4]
    left = _pixels(window[:, : 3 * width // 4] == LEFT_EYE)
    right = _pixels(window[:, width // 4 :] == RIGHT_EYE)
    right = (right[0] + width // 4, right[1])
    hair_color = _trimmed(_histogram(colours, hair), 0.1, 0.9)[0]
    mean, std = background(parse_map, colours)
    return {
        "eyes": max(_upright_height(*left), _upright_height(*right)),
        "hair_color": 127.5 if np.isnan(hair_color) else hair_color / 3,
        "hair_length": _hair_rows(hair),
        "mouth": _mouth_opening(parse_map),
        "pose": _slope(left, right),
        "background_mean": mean,
        "background_std": std,
    }


def score_hairstyle(parse_map: UInt8, image: UInt8) -> dict[str, float]:
    """Raw hairstyle score: straight hair low, curly hair high.

    4x4 blocks of the lower half are compared with the blocks 8 pixels below, left and right of them: vertical
    difference of brightness / (larger horizontal difference + 5). Hair is tested at eight pixels only, the last of
    which is not a corner of the left block and wraps round at the left border, as in the original.

    Args:
        parse_map: Classes 0..10, shape (H, W).
        image: The same face in RGB, shape (H, W, 3).

    Returns:
        {'hairstyle': score}; 0.45 if no block qualifies.
    """
    height, width = parse_map.shape
    top = height // 2
    ys, xs = max(height - 11 - top, 0), max(width - 19, 0)  # the number of block positions; x starts at 8
    hair = parse_map[top:] == HAIR
    if ys * xs == 0 or not hair.any():
        return {"hairstyle": 0.45}

    def at(grid: NDArray, dx: int, dy: int) -> NDArray:
        return grid[dy : dy + ys, 8 + dx : 8 + dx + xs]

    sums = _channel_sums(parse_map[top:], image[top:]).astype(np.int32)
    pairs = sums[:, :-3] + sums[:, 1:-2] + sums[:, 2:-1] + sums[:, 3:]
    blocks = pairs[:-3] + pairs[1:-2] + pairs[2:-1] + pairs[3:]  # 48 times the mean of a block over pixels and channels
    centre = at(blocks, 0, 0)
    sideways = np.maximum(np.abs(centre - at(blocks, -8, 0)), np.abs(centre - at(blocks, 8, 0)))
    ratio = np.abs(centre - at(blocks, 0, 8)) / (sideways + 48 * 5)
    tested = at(hair, 0, 0) & at(np.roll(hair, 3, axis=1), -8, 3)
    for dx, dy in ((0, 8), (-8, 0), (8, 0), (3, 3), (3, 11), (11, 3)):
        tested &= at(hair, dx, dy)
    return {"hairstyle": float(ratio[tested].mean()) if tested.any() else 0.45}


def background(parse_map: UInt8, colours: NDArray[np.uint16]) -> tuple[float, float]:
    """Brightness of the background in the upper half, the darkest and brightest 5 % left out.

    Args:
        parse_map: Classes, shape (H, W).
        colours: Sums over the channels, shape (H, W), 0..765.

    Returns:
        Mean and standard deviation (n in the denominator), 0..255; (192, 0) without background.
    """
    upper = slice(0, parse_map.shape[0] // 2)
    histogram = _histogram(colours[upper], parse_map[upper] == BACKGROUND)
    count = histogram.sum()
    if count == 0:
        return 192.0, 0.0
    mean, std = _trimmed(histogram, 0.05, 0.95) if count > 1 else (float(histogram.argmax()), 0.0)
    return mean / 3, std / 3


def _channel_sums(parse_map: UInt8, image: UInt8) -> NDArray[np.uint16]:
    """Red + green + blue, shape (H, W)."""
    if parse_map.ndim != 2 or image.shape != (*parse_map.shape, 3):
        raise ValueError(f"parse map (H, W) and image (H, W, 3) expected, found {parse_map.shape} and {image.shape}")
    red, green, blue = (image[..., channel] for channel in range(3))
    sums: NDArray[np.uint16] = np.add(red, green, dtype=np.uint16)
    return np.add(sums, blue, dtype=np.uint16)


def _histogram(colours: NDArray[np.uint16], mask: Bool) -> NDArray[np.intp]:
    return np.bincount(colours[mask], minlength=766)


def _median(histogram: NDArray[np.intp]) -> float:
    """Median of the binned values; NaN if there are none."""
    cumulative = histogram.cumsum()
    count = int(cumulative[-1])
    if count == 0:
        return NAN
    middle = np.searchsorted(cumulative, [(count - 1) // 2, count // 2], side="right")
    return float(middle.mean())


def _trimmed(histogram: NDArray[np.intp], low: float, high: float) -> tuple[float, float]:
    """Mean and deviation of the sorted values from place int(low n) to int(high n), the end excluded; NaN if empty."""
    cumulative = histogram.cumsum()
    count = int(cumulative[-1])
    first, last = int(low * count), int(high * count)
    if last <= first:
        return NAN, NAN
    kept = np.diff(cumulative.clip(first, last), prepend=first)
    values = np.arange(kept.size)
    mean = float(kept @ values) / (last - first)
    return mean, float(np.sqrt(kept @ (values - mean) ** 2 / (last - first)))


def _extent(mask: Bool) -> int:
    """Last minus first row of a mask; 0 if it is empty."""
    rows = np.flatnonzero(mask.any(axis=1))
    return int(rows[-1] - rows[0]) if rows.size else 0


def _lowest_hair(hair: Bool) -> float:
    """Lowest row with hair, plus half the hair pixels of the last row of the image."""
    rows = np.flatnonzero(hair.any(axis=1))
    if rows.size == 0:
        return NAN
    return float(rows[-1]) + np.count_nonzero(hair[-1]) / 2


def _hair_rows(hair: Bool) -> float:
    """Rows below the top quarter with 20 hair pixels or more, plus an estimate of what lies below the image."""
    height, width = hair.shape
    counts = np.count_nonzero(hair[height // 4 :], axis=1)
    length = float(np.count_nonzero(counts >= 20))
    if counts[-1] >= 20:
        for side in (hair[-1, : width // 2], hair[-1, width // 2 :]):
            length += max(int(np.count_nonzero(side)) - 10, 0) / 2
    return length


def _correlation(mask: Bool) -> float:
    """Correlation of column and row over the pixels of a mask; NaN if either does not vary."""
    rows, columns = np.nonzero(mask)
    if rows.size < 2:
        return NAN
    x, y = columns - columns.mean(), rows - rows.mean()
    spread = float(x @ x) * float(y @ y)
    return float(x @ y) / spread**0.5 if spread > 0 else NAN


def _mouth_opening(parse_map: UInt8) -> float:
    """Inner mouth pixels / all mouth pixels; 0 without a mouth."""
    inner = np.count_nonzero(parse_map == INNER_MOUTH)
    total = inner + np.count_nonzero((parse_map == UPPER_LIP) | (parse_map == LOWER_LIP))
    return inner / total if total else 0.0


def _pixels(mask: Bool) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Columns and rows of a mask's pixels, listed column after column, top to bottom."""
    columns, rows = np.nonzero(mask.T)
    return columns, rows


def _slope(left: tuple[NDArray[np.intp], NDArray[np.intp]], right: tuple[NDArray[np.intp], NDArray[np.intp]]) -> float:
    """Slope of the line between the eyes' centres; 0 if an eye is missing, NaN if it is vertical."""
    if left[0].size == 0 or right[0].size == 0:
        return 0.0
    dx = right[0].mean() - left[0].mean()
    return float((right[1].mean() - left[1].mean()) / dx) if dx else NAN


def _upright_height(columns: NDArray[np.intp], rows: NDArray[np.intp]) -> float:
    """Largest height of an eye in one column, times the cosine of the eye's inclination (its longest chord).

    A farthest pair lies on the convex hull, so each of its pixels is the first or last of its column, and only those
    are compared. Several pairs may tie and differ in slope: the original takes the first one when the later pixel is
    the outer and the earlier the inner loop, that is the first maximum of the lower triangle read row by row.
    """
    if columns.size < 2:
        return 0.0
    first = np.flatnonzero(np.diff(columns, prepend=-1))
    last = np.append(first[1:], columns.size) - 1
    ends = np.unique(np.concatenate([first, last]))
    x, y = columns[ends], rows[ends]
    squared = np.tril((x[:, None] - x) ** 2 + (y[:, None] - y) ** 2)
    later, earlier = divmod(int(squared.argmax()), ends.size)
    cosine = abs(int(x[later] - x[earlier])) / float(squared[later, earlier]) ** 0.5
    return float((rows[last] - rows[first]).max()) * cosine


@overload
def normalise(
    values: Mapping[str, ArrayLike],
    ddof: int = ...,
    decimals: int | None = ...,
    method: Literal["standard", "range"] = ...,
) -> dict[str, Float]: ...


@overload
def normalise(
    values: Sequence[float] | NDArray,
    ddof: int = ...,
    decimals: int | None = ...,
    method: Literal["standard", "range"] = ...,
) -> Float: ...


def normalise(
    values: Mapping[str, ArrayLike] | Sequence[float] | NDArray,
    ddof: int = 1,
    decimals: int | None = 4,
    method: Literal["standard", "range"] = "standard",
) -> dict[str, Float] | Float:
    """Normalise scores over a set of images.

    Args:
        values: Scores by property, each of shape (N,); or one array (N,) or (N, properties). NaN and infinity are
            missing.
        ddof: 1 divides by the standard deviation with n - 1 (Oh-LoRA's data), 0 with n (its document).
        decimals: Digits kept, 4 in Oh-LoRA's data; None keeps all.
        method: 'standard' is (x - mean) / std. 'range' gives the plain ranges of the first document: 0..1 from the
            smallest to the largest score, and -1..+1 for pose, 0 staying 0 (by name; a bare array goes to 0..1).

    Returns:
        The same form as `values`, float64; missing values are NaN.

    Raises:
        UserError: If a property has no two different scores.
    """
    if isinstance(values, Mapping):
        return {name: _normalise_column(column, name, ddof, decimals, method) for name, column in values.items()}
    array = np.asarray(values, dtype=np.float64)
    if array.ndim == 1:
        return _normalise_column(array, "score", ddof, decimals, method)
    columns = [_normalise_column(column, f"score {i}", ddof, decimals, method) for i, column in enumerate(array.T)]
    return np.stack(columns, axis=1)


def _normalise_column(column: ArrayLike, name: str, ddof: int, decimals: int | None, method: str) -> Float:
    x = np.array(column, dtype=np.float64)
    x[np.isinf(x)] = np.nan
    present = x[~np.isnan(x)]
    if present.size == 0 or present.min() == present.max():
        raise UserError(f"{name}: cannot be normalised, {present.size} scores and no two of them differ")
    if method == "standard":
        x = (x - present.mean()) / present.std(ddof=ddof)
    elif method == "range" and name in BY_NAME and BY_NAME[name].signed:
        x = x / np.abs(present).max()
    elif method == "range":
        x = (x - present.min()) / (present.max() - present.min())
    else:
        raise UserError(f"normalisation {method!r} is unknown; allowed: standard, range")
    return x if decimals is None else x.round(decimals)

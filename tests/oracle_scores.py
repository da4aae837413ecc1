"""Property scores in slow plain Python, pixel by pixel: the oracle for tests and the base line of the benchmark."""

import math
from collections.abc import Iterator

import numpy as np

Grid = list[list[int]]
Pixel = tuple[int, int]


def pixels(parse_map: np.ndarray, classes: set[int], rows: tuple[int, int], columns: tuple[int, int]) -> list[Pixel]:
    """(x, y) of the pixels of these classes in a window, column after column, top to bottom."""
    grid = parse_map.tolist()
    return [(x, y) for x in range(*columns) for y in range(*rows) if grid[y][x] in classes]


def extent(found: list[Pixel]) -> int:
    rows = [y for _, y in found]
    return max(rows) - min(rows) if rows else 0


def brightness(image: np.ndarray, found: list[Pixel]) -> list[float]:
    return sorted(sum(image[y, x].tolist()) / 3 for x, y in found)


def mean(values: list[float]) -> float:
    return math.fsum(values) / len(values)


def deviation(values: list[float]) -> float:
    centre = mean(values)
    return math.sqrt(mean([(v - centre) ** 2 for v in values]))


def oracle_background(parse_map: np.ndarray, image: np.ndarray) -> dict[str, float]:
    height, width = parse_map.shape
    values = brightness(image, pixels(parse_map, {0}, (0, height // 2), (0, width)))
    if len(values) > 1:
        values = values[int(0.05 * len(values)) : int(0.95 * len(values))]
    if not values:
        return {"background_mean": 192.0, "background_std": 0.0}
    return {"background_mean": mean(values), "background_std": deviation(values)}


def oracle_v1(parse_map: np.ndarray, image: np.ndarray) -> dict[str, float]:
    height, width = parse_map.shape
    everywhere = (0, height), (0, width)
    rows = height // 4, height * 5 // 8
    left = extent(pixels(parse_map, {4}, rows, (0, width * 3 // 4)))
    right = extent(pixels(parse_map, {5}, rows, (width // 4, width)))
    hair = pixels(parse_map, {10}, *everywhere)
    hair_values = brightness(image, hair)
    middle = len(hair_values) // 2
    length = float("nan")
    if hair:
        lowest = max(y for _, y in hair)
        length = lowest + (sum(y == lowest for _, y in hair) / 2 if lowest == height - 1 else 0)
    return {
        "eyes": (left + right) / 2,
        "hair_color": (hair_values[middle] + hair_values[-middle - 1]) / 2 if hair else float("nan"),
        "hair_length": length,
        "mouth": extent(pixels(parse_map, {7, 9}, *everywhere)) + extent(pixels(parse_map, {8}, *everywhere)),
        "pose": -correlation(pixels(parse_map, {6}, *everywhere)),
        **oracle_background(parse_map, image),
    }


def correlation(found: list[Pixel]) -> float:
    if len({x for x, _ in found}) < 2 or len({y for _, y in found}) < 2:
        return float("nan")
    mx, my = mean([x for x, _ in found]), mean([y for _, y in found])
    sxy = math.fsum((x - mx) * (y - my) for x, y in found)
    return sxy / math.sqrt(math.fsum((x - mx) ** 2 for x, _ in found) * math.fsum((y - my) ** 2 for _, y in found))


def oracle_v2(parse_map: np.ndarray, image: np.ndarray) -> dict[str, float]:
    height, width = parse_map.shape
    everywhere = (0, height), (0, width)
    rows = height // 4, height * 3 // 4
    left = pixels(parse_map, {4}, rows, (0, width * 3 // 4))
    right = pixels(parse_map, {5}, rows, (width // 4, width))
    hair = brightness(image, pixels(parse_map, {10}, *everywhere))
    kept = hair[int(0.1 * len(hair)) : int(0.9 * len(hair))]
    inner = len(pixels(parse_map, {8}, *everywhere))
    mouth = len(pixels(parse_map, {7, 8, 9}, *everywhere))
    return {
        "eyes": max(eye_height(left), eye_height(right)),
        "hair_color": mean(kept) if kept else 127.5,
        "hair_length": hair_length_v2(parse_map),
        "mouth": inner / mouth if mouth else 0.0,
        "pose": slope(left, right),
        **oracle_background(parse_map, image),
    }


def slope(left: list[Pixel], right: list[Pixel]) -> float:
    if not left or not right:
        return 0.0
    dx = mean([x for x, _ in right]) - mean([x for x, _ in left])
    dy = mean([y for _, y in right]) - mean([y for _, y in left])
    return dy / dx if dx else float("nan")


def eye_height(found: list[Pixel]) -> float:
    if len(found) < 2:
        return 0.0
    height = max(extent([p for p in found if p[0] == column]) for column in {x for x, _ in found})
    farthest, dx = 0, 0
    for i, (x, y) in enumerate(found):
        for other_x, other_y in found[:i]:
            squared = (x - other_x) ** 2 + (y - other_y) ** 2
            if squared > farthest:
                farthest, dx = squared, abs(x - other_x)
    return height * dx / math.sqrt(farthest)


def hair_length_v2(parse_map: np.ndarray) -> float:
    grid, (height, width) = parse_map.tolist(), parse_map.shape
    full = [y for y in range(height // 4, height) if grid[y].count(10) >= 20]
    if height - 1 not in full:
        return len(full)
    halves = grid[-1][: width // 2], grid[-1][width // 2 :]
    return len(full) + sum(max(half.count(10) - 10, 0) / 2 for half in halves)


def oracle_hairstyle(parse_map: np.ndarray, image: np.ndarray) -> dict[str, float]:
    """Note that grid[y][x - 11] is negative for x below 11 and so wraps round, as it does in the original."""
    grid, bright = parse_map.tolist(), image.sum(axis=2).tolist()
    ratios = list(ratios_of_blocks(grid, bright))
    return {"hairstyle": mean(ratios) if ratios else 0.45}


def ratios_of_blocks(grid: Grid, bright: Grid) -> Iterator[float]:
    height, width = len(grid), len(grid[0])

    def block(x: int, y: int) -> float:
        return sum(bright[y + j][x + i] for j in range(4) for i in range(4)) / 48

    for x in range(8, width - 11):
        for y in range(height // 2, height - 11):
            corners = (x, y), (x, y + 8), (x - 8, y), (x + 8, y)
            others = (x + 3, y + 3), (x + 3, y + 11), (x - 11, y + 3), (x + 11, y + 3)
            if all(grid[v][u] == 10 for u, v in (*corners, *others)):
                centre, below, left, right = (block(*corner) for corner in corners)
                yield abs(centre - below) / (max(abs(centre - left), abs(centre - right)) + 5)


def random_map(rng: np.random.Generator, size: int) -> tuple[np.ndarray, np.ndarray]:
    """A face-like parse map with parts that may be missing, misplaced or speckled, and an image of few colours.

    Returns:
        Classes uint8 (size, size) and RGB uint8 (size, size, 3).
    """
    y, x = np.mgrid[:size, :size] / size
    parse_map = np.zeros((size, size), dtype=np.uint8)
    hair_bottom = rng.uniform(0.5, 1.3)
    parts = [  # class, centre x and y, half axes; later parts cover earlier ones
        (10, 0.5, hair_bottom / 2, rng.uniform(0.3, 0.6), hair_bottom / 2),
        (1, 0.5, 0.55, rng.uniform(0.2, 0.3), 0.38),
        (4, 0.38, 0.45, 0.06, rng.uniform(0.0, 0.04)),
        (5, 0.62, rng.uniform(0.4, 0.5), 0.06, rng.uniform(0.0, 0.04)),
        (6, 0.5, 0.6, 0.05, 0.08),
        (9, 0.5, 0.8, 0.11, 0.05),
        (7, 0.5, 0.77, 0.11, 0.03),
        (8, 0.5, 0.785, 0.08, rng.uniform(-0.01, 0.03)),
    ]
    for label, cx, cy, rx, ry in parts:
        angle = rng.normal(0, 0.3)
        u = (x - cx - rng.normal(0, 0.01)) * math.cos(angle) + (y - cy) * math.sin(angle)
        v = (y - cy) * math.cos(angle) - (x - cx) * math.sin(angle)
        if ry > 0 and rng.random() > 0.05:
            parse_map[(u / rx) ** 2 + (v / ry) ** 2 <= 1] = label
    speckles = rng.integers(0, size, size=(2, rng.integers(0, 30)))
    parse_map[speckles[0], speckles[1]] = rng.integers(0, 11, size=speckles.shape[1])
    coarse = rng.integers(0, 256, size=(size // 8 + 1, size // 8 + 1, 3)).repeat(8, axis=0).repeat(8, axis=1)
    noise = rng.integers(0, 20, size=(size, size, 3))
    return parse_map, np.minimum(coarse[:size, :size] + noise, 255).astype(np.uint8)

"""Where the marks of the report's charts are. The templates draw them as SVG.

Horizontal positions are percentages of the width, so that a chart fits a phone and a
desktop while its text keeps its size; heights are shares of the chart's height. Colours
are hues: the page gives them the lightness of the light or the dark theme.
"""

from __future__ import annotations

import base64
import io
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from hkmeans_dask.kmeans.kernels import Array, Index

PLOT_WIDTH = 92
"""Percent of the width that bars take; labels of the vertical axis have the rest."""

BINS = 36
"""Bars of a histogram, at most."""

LOGARITHMIC = 20
"""Largest size by smallest from which a histogram has a logarithmic axis."""

BIG_SHOWN = 60
"""Big clusters in a chart, at most: a bar has 5 pixels of a phone."""

MAP_SHOWN = 2000
"""Centers on a map, at most: 200 kB of the page."""

MAP_VALUES = 2**24
"""Values of the centers on a map, at most: 128 MiB as float64."""

MAP_ASPECTS = (1.2, 2.4)
"""Width of a map by its height: that of the cloud of centers, within these."""

CURVE_POINTS = 192
"""Points of a curve, at most; more samples are averaged."""

PIXELS = 96
"""Height and width of an image in the page, at most."""


class Bar(NamedTuple):
    """One bar, from the bottom."""

    left: float
    width: float
    height: float
    title: str
    hue: int | None = None
    mark: float | None = None
    """Height of a second value, shown as a line."""


class Tick(NamedTuple):
    """A label of an axis."""

    place: float
    text: str


class Bars(NamedTuple):
    """A bar chart."""

    bars: list[Bar]
    x_ticks: list[Tick]
    y_ticks: list[Tick]
    logarithmic: bool = False
    width: int = PLOT_WIDTH


class Dot(NamedTuple):
    """One center on the map."""

    x: float
    y: float
    radius: float
    title: str


class Map(NamedTuple):
    """Centers in the plane of their first two principal components."""

    dots: list[tuple[int, list[Dot]]]
    """By hue."""

    n_shown: int
    aspect: float
    """Width by height."""

    explained: list[float]
    """Share of the variance of the centers, of each axis."""


def hues(coarse_sizes: Index) -> list[int]:
    """Give big clusters hues; the golden angle keeps large ones apart."""
    rank = np.argsort(np.argsort(-coarse_sizes, kind="stable"))
    return [round(value) for value in (250 + rank * 137.508) % 360]


def histogram(sizes: Index) -> Bars:
    """Count clusters by size, on a logarithmic axis where sizes differ much."""
    low, high = int(sizes.min()), int(sizes.max()) + 1
    logarithmic = high > LOGARITHMIC * low
    if logarithmic:
        edges = np.unique(np.rint(np.geomspace(low, high, BINS + 1)).astype(int))
    else:
        step = -(-(high - low) // BINS)
        edges = np.arange(low, high + step, step)
    counts, _ = np.histogram(sizes, edges)
    most = int(counts.max())
    scale = np.log if logarithmic else np.asarray
    places = PLOT_WIDTH * (scale(edges) - scale(low)) / (scale(edges[-1]) - scale(low))
    bars = [
        Bar(left, right - left, count / most, _bin_title(first, last, count))
        for left, right, first, last, count in zip(
            places, places[1:], edges, edges[1:] - 1, counts.tolist(), strict=False
        )
        if count
    ]
    marks = _decades(low, high) if logarithmic else _round_numbers(low, high, 6)
    x_ticks = [
        Tick(float(np.interp(scale(mark), scale(edges), places)), f"{mark:,g}")
        for mark in marks
    ]
    return Bars(bars, x_ticks, _heights(most), logarithmic)


def _bin_title(first: int, last: int, count: int) -> str:
    span = f"{first:,}" if first == last else f"{first:,} to {last:,}"
    return f"{span} features: {count:,} clusters"


def _heights(most: float, suffix: str = "", scale: float = 1) -> list[Tick]:
    """Label a vertical axis that ends at `most` times `scale`."""
    marks = _round_numbers(0, most * scale, 5)
    return [Tick(mark / (most * scale), f"{mark:,g}{suffix}") for mark in marks]


def _round_numbers(low: float, high: float, most: int) -> list[float]:
    """List at most `most` multiples of 1, 2 or 5 times a power of ten."""
    exponent = np.floor(np.log10(max(high - low, 1e-9) / most))
    for step in (1, 2, 5, 10, 20):
        unit = step * 10.0**exponent
        marks = np.arange(np.ceil(low / unit), np.floor(high / unit) + 1) * unit
        if len(marks) <= most:
            break
    return [float(f"{mark:.6g}") for mark in marks]


def _decades(low: float, high: float) -> list[float]:
    """List powers of ten, and 2 and 5 times them where there is room."""
    powers = 10.0 ** np.arange(np.floor(np.log10(low)), np.ceil(np.log10(high)))
    marks = [m * power for power in powers for m in (1, 2, 5)]
    marks = [mark for mark in marks if low <= mark <= high]
    return marks if len(marks) <= 8 else [m for m in marks if m in powers]


def shares(coarse_sizes: Index, coarse_inertia: Array | None) -> Bars:
    """Draw the inertia (a bar) and the features (a mark) of each big cluster.

    Without inertia, the bars are the features.
    """
    sizes = coarse_sizes / coarse_sizes.sum()
    total = 0 if coarse_inertia is None else coarse_inertia.sum()
    values = coarse_inertia / total if coarse_inertia is not None and total else sizes
    order = np.argsort(-values, kind="stable")[:BIG_SHOWN]
    most = max(values[order].max(), sizes[order].max())
    hue, width = hues(coarse_sizes), PLOT_WIDTH / len(order)
    bars = [
        Bar(
            place * width + width / 8,
            width * 3 / 4,
            values[big] / most,
            f"Big cluster {big}: {values[big]:.1%} of the inertia, "
            f"{sizes[big]:.1%} of the features",
            hue[big],
            sizes[big] / most,
        )
        for place, big in enumerate(order)
    ]
    return Bars(bars, [], _heights(most, "%", 100))


def map_of_centers(
    centers: Array, sizes: Index, parents: Index, coarse_sizes: Index
) -> Map | None:
    """Place the largest clusters by the principal components of their centers.

    Returns
    -------
    map : Map, or None where there are no two different centers
    """
    most = min(MAP_SHOWN, max(2, MAP_VALUES // centers.shape[1]))
    shown = np.argsort(-sizes, kind="stable")[:most]
    values = centers[shown].astype(np.float64)
    values -= values.mean(axis=0)
    largest = np.abs(values).max()
    if not largest:
        return None
    plane, explained = _project(values / largest)
    places, aspect = _fit_in_box(plane)
    radii, hue = _radii(sizes[shown], aspect), hues(coarse_sizes)
    by_hue: dict[int, list[Dot]] = {}
    for (x, y), radius, cluster in zip(places, radii, shown, strict=True):
        title = f"Cluster {cluster}: {sizes[cluster]:,} features, big cluster "
        dot = Dot(x, y, radius, f"{title}{parents[cluster]}")
        by_hue.setdefault(hue[parents[cluster]], []).append(dot)
    return Map(list(by_hue.items()), len(shown), aspect, explained)


def _project(values: Array) -> tuple[Array, list[float]]:
    """Project to two principal components, the second one zero if there is but one."""
    from sklearn.decomposition import PCA

    n_components = min(2, *values.shape)
    pca = PCA(n_components, svd_solver="randomized", random_state=0)
    plane = np.zeros((len(values), 2))
    plane[:, :n_components] = pca.fit_transform(values)
    return plane, [float(share) for share in pca.explained_variance_ratio_]


def _fit_in_box(plane: Array) -> tuple[Array, float]:
    """Scale both axes alike to percentages of a box, and give its aspect."""
    low, high = plane.min(axis=0), plane.max(axis=0)
    width, height = high - low
    narrowest, widest = MAP_ASPECTS
    aspect = float(np.clip(width / max(height, width / widest), narrowest, widest))
    across = max(width, height * aspect) / 88
    places = 50 + (plane - (low + high) / 2) / [across, across / aspect]
    places[:, 1] = 100 - places[:, 1]
    return places, aspect


def _radii(sizes: Index, aspect: float) -> Array:
    """Radii in percent for areas as the sizes; all circles cover a sixth of the map."""
    diagonal = np.sqrt((aspect**2 + 1) / 2)  # what percentages of a radius refer to
    areas = sizes / sizes.sum() * aspect / 6
    radii: Array = np.clip(100 * np.sqrt(areas / np.pi) / diagonal, 0.25, 6)
    return radii


def typical(sizes: Index, parents: Index, most: int) -> Index:
    """Choose the largest clusters of all big ones in turn, so that each has one."""
    order = np.lexsort((-sizes, parents))
    first = np.searchsorted(parents[order], parents[order])
    turn = np.empty(len(order), np.int64)
    turn[order] = np.arange(len(order)) - first
    chosen: Index = np.lexsort((-sizes, turn))[:most]
    return chosen


def curves(centers: Array) -> list[str]:
    """Draw rows as polylines in a box of 100 x 100, all with one vertical axis."""
    values = _averaged(centers.astype(np.float64))
    low, high = values.min(), values.max()
    heights = 96 - 92 * (values - low) / ((high - low) or 1)
    if heights.shape[1] == 1:
        heights = heights.repeat(2, axis=1)
    x = np.linspace(0, 100, heights.shape[1])
    return [
        " ".join(f"{a:.2f},{b:.1f}" for a, b in zip(x, row, strict=True))
        for row in heights
    ]


def _averaged(values: Array) -> Array:
    """Average neighbouring columns where there are more than `CURVE_POINTS`."""
    n_columns = values.shape[1]
    if n_columns <= CURVE_POINTS:
        return values
    starts = np.linspace(0, n_columns, CURVE_POINTS, endpoint=False).astype(int)
    counts = np.diff(starts, append=n_columns)
    averaged: Array = np.add.reduceat(values, starts, axis=1) / counts
    return averaged


def check_shape(shape: tuple[int, ...], n_samples: int) -> None:
    """Refuse what is no shape of an image with `n_samples` values."""
    image = len(shape) == 2 or (len(shape) == 3 and shape[2] == 3)
    if not image or min(shape) < 1 or np.prod(shape) != n_samples:
        raise ValueError(
            f"shape should be (height, width) or (height, width, 3) with n_samples = "
            f"{n_samples} values. {tuple(shape)} was given."
        )


def images(centers: Array, shape: tuple[int, ...]) -> list[str]:
    """Draw rows as images, all with one range of values, as data URLs of PNG."""
    low, high = centers.min(), centers.max()
    levels = 255 * (centers.astype(np.float64) - low) / ((high - low) or 1)
    pixels = np.rint(levels).astype(np.uint8).reshape(-1, *shape)
    return [_png(Image.fromarray(image)) for image in pixels]


def _png(image: Image.Image) -> str:
    image.thumbnail((PIXELS, PIXELS))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return f"data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"

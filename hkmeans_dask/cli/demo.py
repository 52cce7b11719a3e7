"""The demo: the whole job on real data, Zarr to Zarr, and a picture of it.

The features are all windows of 8 x 8 pixels of two photographs, 531,720 of them with
192 values each; the clusters are 1000 typical windows. Every window is then replaced
by the mean of its cluster, and the photographs are put together again from these::

    photographs -> patches.zarr -> model.zarr -> means.zarr -> reconstruction.zarr
         |                                           |                  |
         +----------------------- demo.png ----------+------------------+
                                      report.html, of model.zarr

The windows are 64 times as large as the photographs and are never in memory at once.
"""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any, NamedTuple

import dask.array as da
import numpy as np
from dask.delayed import delayed
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_sample_images

from hkmeans_dask.cli.axes import FEATURE, SAMPLE
from hkmeans_dask.estimator import HierarchicalKMeans
from hkmeans_dask.inputs import checks
from hkmeans_dask.inputs.checks import CLUSTER
from hkmeans_dask.runtime.execution import Runner, peak_memory
from hkmeans_dask.runtime.progress import phase
from hkmeans_dask.runtime.tasks import names, task
from hkmeans_dask.storage import opening, outputs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from hkmeans_dask.kmeans.kernels import Array

SIDE = 8
"""Height and width of a window, in pixels."""

BLOCK_ROWS = 30
"""Rows of windows in a block: 15 MB, and the 420 of a photograph are a multiple."""

OUTPUTS = ("patches.zarr", "model.zarr", "means.zarr", "reconstruction.zarr")
PICTURE, REPORT = "demo.png", "report.html"

GAP = 24
"""Pixels between the panels of the picture, and around them."""

TEXT = 30
"""Height of the text of the picture, in pixels."""


class Grid(NamedTuple):
    """Where the windows of the photographs are; features run image, row, column."""

    n_images: int
    height: int
    """Rows of windows in one photograph."""

    width: int
    """Windows in a row."""

    @classmethod
    def of(cls, images: Sequence[Array]) -> Grid:
        """Lay the grid of photographs of one shape."""
        height, width, _ = images[0].shape
        return cls(len(images), height - SIDE + 1, width - SIDE + 1)

    def blocks(self) -> list[tuple[int, int, int]]:
        """List image, first row and number of rows of each block of windows."""
        return [
            (image, top, min(BLOCK_ROWS, self.height - top))
            for image in range(self.n_images)
            for top in range(0, self.height, BLOCK_ROWS)
        ]


class Part(NamedTuple):
    """What one block of windows contributes to the figures and the picture."""

    error: float
    """Sum of squared differences between windows and their reconstruction."""

    squares: float
    """Sum of squares of the windows."""

    sums: Array
    """(n_values,), sums of the windows."""

    canvas: Array
    """(n_rows + SIDE - 1, n_columns, 3), sums of the overlapping reconstructions."""


def run(folder: Path, n_clusters: int, *, overwrite: bool) -> Iterator[tuple[str, str]]:
    """Run the demo, and give the rows of its table as they become known.

    Parameters
    ----------
    folder : Path
        Made if it is not there; whatever else it holds stays.
    n_clusters : int
    overwrite : bool
        Whether the results of an earlier demo may be replaced.

    Yields
    ------
    name, value : str
        A row of the table.

    Raises
    ------
    FileExistsError
        If `folder` holds results and `overwrite` is false.
    ValueError
        If `n_clusters` is not a positive integer.
    """
    checks.check_parameters(HierarchicalKMeans(n_clusters).get_params(deep=False))
    for name in (*OUTPUTS, PICTURE, REPORT):
        outputs.check_free(folder / name, overwrite=overwrite)
    job = _Job(folder)
    steps = (
        job.write,
        lambda: job.fit(n_clusters),
        job.transform,
        job.inverse_transform,
        job.draw,
        job.report,
    )
    for step in steps:
        known = len(job.seconds)
        step()
        for name, took in list(job.seconds.items())[known:]:
            yield name, f"{took:.2f} s"
    yield "total", f"{sum(job.seconds.values()):.2f} s"
    yield from job.figures()


class _Job:
    """The steps of the demo; each reads what the one before it wrote."""

    def __init__(self, folder: Path) -> None:
        self.images: Sequence[Array] = load_sample_images().images
        self.grid = Grid.of(self.images)
        self.patches, self.model_path, self.means, self.reconstruction = (
            folder / name for name in OUTPUTS
        )
        self.picture, self.page = folder / PICTURE, folder / REPORT
        self.seconds: dict[str, float] = {}

    def write(self) -> None:
        """Cut the photographs into windows."""
        with phase("write", self.seconds):
            _write(self.patches, windows(self.images), FEATURE)
        self.X = opening.open_array(str(self.patches))

    def fit(self, n_clusters: int) -> None:
        """Find the clusters, save the model and load it."""
        fitted = HierarchicalKMeans(n_clusters).fit(self.X)
        fitted.to_zarr(self.model_path, overwrite=True)
        self.seconds |= fitted._seconds
        self.model = HierarchicalKMeans.from_zarr(self.model_path)

    def transform(self) -> None:
        """Average the windows of each cluster."""
        with phase("transform", self.seconds):
            _write(self.means, self.model.transform(self.X), CLUSTER)

    def inverse_transform(self) -> None:
        """Replace every window by the mean of its cluster."""
        with phase("inverse-transform", self.seconds):
            reduced = opening.open_array(str(self.means))
            restored = self.model.inverse_transform(reduced)
            _write(self.reconstruction, restored, FEATURE)

    def draw(self) -> None:
        """Compare, and put the photographs together again."""
        with phase("picture", self.seconds):
            restored = opening.open_array(str(self.reconstruction))
            self.parts = _compare(self.X, restored, self.grid)
            means = opening.open_array(str(self.means))[...]
            after = [
                _restored(self.parts, self.grid, image)
                for image in range(self.grid.n_images)
            ]
            tiles = means[_tile_order(self.model, means)]
            picture = _draw(self.images, tiles, after, self.X.shape[0])
            with outputs.writing(self.picture, overwrite=True) as place:
                picture.save(place, "PNG")

    def report(self) -> None:
        """Describe the model."""
        with phase("report", self.seconds):
            self.model.report(self.page, shape=(SIDE, SIDE, 3), overwrite=True)

    def figures(self) -> Iterator[tuple[str, str]]:
        """Tell what came out, and what it took."""
        n_features, n_values = self.X.shape
        unexplained = _unexplained(self.parts, n_features)
        yield "reads of X", f"{self.model.n_passes_} by fit, 1 by transform"
        yield "peak memory", f"{peak_memory() / 2**20:.0f} MiB"
        yield "features", f"{n_features} of {n_values} values"
        yield "clusters", str(self.model.n_clusters_)
        yield "unexplained variance", f"{unexplained:.4f}"
        yield "picture", str(self.picture)
        yield "report", str(self.page)


def next_steps(folder: Path) -> str:
    """Tell what to try next, as commands that work as typed."""
    patches, model, *_ = (shlex.quote(str(folder / name)) for name in OUTPUTS)
    finer = shlex.quote(str(folder / "finer.zarr"))
    labels = shlex.quote(str(folder / "labels.zarr"))
    return "\n".join(
        (
            "Try next:",
            f"  hkmeans-dask info {model}",
            f"  hkmeans-dask predict {patches} {model} {labels}",
            f"  hkmeans-dask fit {patches} {finer} -k 3000 --workers 2",
        )
    )


def windows(images: Sequence[Array]) -> da.Array:
    """Cut photographs into all their windows, lazily.

    Parameters
    ----------
    images : sequence of ndarray of shape (height, width, 3), uint8

    Returns
    -------
    windows : dask array of shape (n_windows, 3 * SIDE**2), float32
        In [0, 1].
    """
    grid = Grid.of(images)
    cut = delayed(_cut, pure=False, traverse=False)
    n_values = 3 * SIDE**2
    lazy: da.Array = da.concatenate(
        [
            da.from_delayed(
                cut(images[image][top : top + n_rows + SIDE - 1]),
                (n_rows * grid.width, n_values),
                np.float32,
            )
            for image, top, n_rows in grid.blocks()
        ]
    )
    return lazy


def _cut(rows: Array) -> Array:
    values = rows / np.float32(255)
    views = np.lib.stride_tricks.sliding_window_view(values, (SIDE, SIDE), axis=(0, 1))
    points: Array = views.transpose(0, 1, 3, 4, 2).reshape(-1, 3 * SIDE**2)
    return points


def _write(path: Path, array: da.Array, rows: str) -> None:
    runner = Runner.find(array, in_memory=False)
    with outputs.writing(path, overwrite=True) as place:
        outputs.fill(place, array, runner.write, (rows, SAMPLE))


def _compare(X: Any, reconstruction: Any, grid: Grid) -> list[Part]:
    """Read the windows and their reconstruction once, block by block."""
    tasks = []
    for image, top, n_rows in grid.blocks():
        first = (image * grid.height + top) * grid.width
        rows = slice(first, first + n_rows * grid.width)
        tasks.append(task("compare", _compare_block, X, reconstruction, rows, n_rows))
    runner = Runner.find(da.empty(0), in_memory=False)
    return list(runner.compute(*tasks, count=names(tasks)))


def _compare_block(X: Any, reconstruction: Any, rows: slice, n_rows: int) -> Part:
    points, restored = X[rows], reconstruction[rows]
    sums = points.sum(axis=0, dtype=np.float64)
    error, squares = _squares(points - restored), _squares(points)
    return Part(error, squares, sums, _overlap(restored, n_rows))


def _squares(points: Array) -> float:
    return float(np.einsum("ij,ij->", points, points, dtype=np.float64))


def _overlap(restored: Array, n_rows: int) -> Array:
    """Add up, in each pixel, the windows that cover it."""
    tiles = restored.reshape(n_rows, -1, SIDE, SIDE, 3).transpose(2, 3, 0, 1, 4)
    width = tiles.shape[3]
    canvas = np.zeros((n_rows + SIDE - 1, width + SIDE - 1, 3))
    for y, x in np.ndindex(SIDE, SIDE):
        canvas[y : y + n_rows, x : x + width] += tiles[y, x]
    return canvas


def _unexplained(parts: list[Part], n_features: int) -> float:
    """Share of the variance of the windows that the cluster means do not explain."""
    mean = sum(part.sums for part in parts) / n_features
    squares = sum(part.squares for part in parts)
    return float(
        sum(part.error for part in parts) / (squares - n_features * np.vdot(mean, mean))
    )


def _restored(parts: list[Part], grid: Grid, wanted: int) -> Array:
    """Average, in each pixel, all the windows that cover it."""
    side = np.ones(SIDE)
    covered = np.outer(
        np.convolve(np.ones(grid.height), side), np.convolve(np.ones(grid.width), side)
    )
    canvas = np.zeros((*covered.shape, 3))
    for (image, top, _), part in zip(grid.blocks(), parts, strict=True):
        if image == wanted:
            canvas[top : top + len(part.canvas)] += part.canvas
    return _to_bytes(canvas / covered[:, :, None])


def _to_bytes(values: Array) -> Array:
    levels: Array = np.clip(np.rint(values * 255), 0, 255).astype(np.uint8)
    return levels


def _tile_order(model: HierarchicalKMeans, means: Array) -> Array:
    """Sort cluster means from dark to light, those of one big cluster together."""
    light = means.mean(axis=1)
    members = np.bincount(model.parents_)
    light_of_big = np.bincount(model.parents_, light) / members
    return np.lexsort((light, model.parents_, light_of_big[model.parents_]))


def _draw(
    images: Sequence[Array], means: Array, restored: list[Array], n_features: int
) -> Image.Image:
    """Draw photographs, cluster means and reconstructions side by side."""
    before, after = _stack(images), _stack(restored)
    between = _mosaic(means, before.height)
    panels = (
        (before, f"{n_features:,} windows of {SIDE} x {SIDE} pixels"),
        (between, f"{len(means):,} cluster means"),
        (after, "Every window as the mean of its cluster"),
    )
    width = sum(panel.width + GAP for panel, _ in panels) + GAP
    picture = Image.new("RGB", (width, before.height + TEXT + 3 * GAP), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(TEXT)
    left = GAP
    for panel, title in panels:
        picture.paste(panel, (left, TEXT + 2 * GAP))
        middle = (left + panel.width // 2, GAP + TEXT // 2)
        draw.text(middle, title, "#222222", font, anchor="mm")
        left += panel.width + GAP
    return picture


def _stack(images: Sequence[Array]) -> Image.Image:
    height, width, _ = images[0].shape
    panel = Image.new("RGB", (width, len(images) * (height + GAP) - GAP), "white")
    for index, image in enumerate(images):
        panel.paste(Image.fromarray(image), (0, index * (height + GAP)))
    return panel


def _mosaic(means: Array, height: int) -> Image.Image:
    """Lay out cluster means in rows, in a panel as high as the photographs."""
    n_rows = int(np.ceil(np.sqrt(1.6 * len(means))))
    n_columns = -(-len(means) // n_rows)
    pitch = max(3.0, (height + 2) / n_rows)
    size = int(pitch) - 2
    panel = Image.new("RGB", (round(n_columns * pitch) - 2, height), "white")
    for index, tile in enumerate(_to_bytes(means).reshape(-1, SIDE, SIDE, 3)):
        row, column = divmod(index, n_columns)
        enlarged = Image.fromarray(tile).resize((size, size), Image.Resampling.BICUBIC)
        panel.paste(enlarged, (round(column * pitch), round(row * pitch)))
    return panel

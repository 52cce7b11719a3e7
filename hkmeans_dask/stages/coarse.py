"""Stage 2: mini-batch k-means into about sqrt(n_clusters) big clusters.

Trains on the training rows of lowest rank only: 2000 per big cluster, but 32,768 in all
are enough, if these are 512 per big cluster. They come from the whole feature axis, so
each batch of them is fair although chunks are ordered in space. The chain of updates
runs inside one task: as a task each they would wait for each other, and each be sent
all rows.

The offset, the (weighted) mean of the very first rows, is removed from all rows for
good: any offset near the mean saves the digits, and that of 2048 rows costs nothing.
"""

from __future__ import annotations

import logging
import uuid
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from hkmeans_dask.kmeans import finite, kernels
from hkmeans_dask.kmeans.axes import (
    ALL_DIMENSIONS,
    AXES_ROWS,
    FLAT,
    FLATTEST,
    few_axes,
    pays,
    principal_axes,
    train_along,
)
from hkmeans_dask.kmeans.balance import balanced
from hkmeans_dask.kmeans.hierarchy import FREE, label_coarse
from hkmeans_dask.kmeans.minibatch import Schedule, most_batches
from hkmeans_dask.kmeans.sums import sum_by_label
from hkmeans_dask.kmeans.trial import FINER, affordable, axes_by_trial, groups_of, whole
from hkmeans_dask.runtime.blas import one_blas_thread
from hkmeans_dask.runtime.progress import batches
from hkmeans_dask.runtime.tasks import task
from hkmeans_dask.workspace.records import Coarse, read
from hkmeans_dask.workspace.rows import (
    OFFSET_ROWS,
    coarse_rows,
    gather,
    row_bytes,
    split_weights,
)
from hkmeans_dask.workspace.spread import heads, lowest

if TYPE_CHECKING:
    from collections.abc import Callable

    from hkmeans_dask.kmeans.hierarchy import Arrays
    from hkmeans_dask.kmeans.kernels import Array, Index
    from hkmeans_dask.runtime.execution import Runner
    from hkmeans_dask.workspace.files import InMemory, OnDisk
    from hkmeans_dask.workspace.rows import Rows, StoredRows
    from hkmeans_dask.workspace.spread import Head, Parts

logger = logging.getLogger(__name__)

TOLERANCE = 1.5e-3
"""Training ends where less than this fraction of the inertia is left to gain: less than
of small clusters, as no feature looks beyond the end of its big cluster."""

SPREAD_ROWS = 2**14
"""Rows, those of lowest rank, that tell how far points are from their big clusters."""


def train_coarse(
    parts: Parts,
    n_big: int,
    schedule: Schedule,
    seed: int,
    init: Array | None,
    workspace: InMemory | OnDisk,
    runner: Runner,
    *,
    beyond: bool = False,
) -> Coarse:
    """Find the big clusters.

    Parameters
    ----------
    parts : list of training rows
    n_big : int
    schedule : Schedule
    seed : int
    init : ndarray of shape (n_clusters, n_samples), optional
        Initial small-cluster centers: the big clusters then come from clustering them.
    workspace : InMemory or OnDisk
    runner : Runner
    beyond : bool, default=False
        Whether features look beyond their big cluster later: these then are but a
        beginning, found on fewer rows and with less patience.

    Returns
    -------
    coarse : Coarse
    """
    found = workspace.find("coarse")
    if found is None:
        name = uuid.uuid4().hex
        most = partial(coarse_rows, n_big if init is None else 1, beyond=beyond)
        rows = (lowest(parts, most, workspace), heads(parts, workspace), most)
        how = (n_big, schedule, seed, init, beyond, workspace, name)
        (found,) = runner.compute(task("coarse", _train, *rows, *how), count=[name])
    found = read(found)
    centers, spread = found["centers"], float(found["spread"])
    logger.debug("%d big clusters, mean inertia %.6g", len(centers), spread)
    what = (schedule.unit, schedule.weighted, found["axes"], found["prices"])
    return Coarse(found["offset"], centers, spread, *what)


@one_blas_thread
def _train(
    parts: list[Rows | StoredRows],
    told: list[Rows | StoredRows | Head],
    most: Callable[[int], int],
    n_big: int,
    schedule: Schedule,
    seed: int,
    init: Array | None,
    beyond: bool,
    workspace: InMemory | OnDisk,
    name: str,
) -> Arrays:
    width = row_bytes(parts[0].like)
    n_rows = most(width)
    points, weights = gather(parts, 0, n_rows, n_rows * width), None
    if schedule.weighted:
        points, weights = split_weights(points)
    offset = _mean(points[:OFFSET_ROWS], weights).astype(points.dtype)
    if schedule.unit:
        offset[:] = 0  # directions are seen from the origin
    if init is not None:
        points, weights = init.astype(points.dtype), None
    points -= offset
    finite.check_squares(points)
    n_big = min(n_big, len(points))
    axes = ALL_DIMENSIONS
    if init is None:
        axes = _axes(points, n_big, schedule, seed, weights, beyond=beyond)
    rng = np.random.default_rng([seed, 0])
    if not beyond:
        schedule = schedule._replace(tolerance=TOLERANCE)
    with batches(name, most_batches(schedule, len(points))) as watch:
        how = {"weights": weights, "watch": watch}
        centers = train_along(axes, points, n_big, schedule, rng, **how)
    prices = FREE
    if schedule.balance and init is None:
        wanted = (schedule.balance, weights, schedule.unit)
        centers, prices = balanced(points, centers, *wanted)
    some = slice(0, SPREAD_ROWS if init is None else None)
    seen = points[some]
    labels = label_coarse(seen, centers, np.zeros_like(offset), prices=prices)
    weights = None if weights is None else weights[some]
    total = kernels.weighted_sum(np.ones(len(seen)), weights)
    squared = kernels.squared_distances(seen, centers, labels)
    spread = kernels.weighted_sum(squared, weights) / total
    n_trained = int(sum(part.starts[-1] for part in told))
    if init is None:
        where, trained = (seen, centers, labels), (n_big, n_trained, schedule)
        axes = _axes_within(*where, squared, weights, trained, seed, beyond=beyond)
    return workspace.save(
        "coarse",
        offset=offset,
        centers=centers + offset,
        spread=np.array(spread),
        axes=axes,
        prices=prices,
    )


def _axes(
    points: Array,
    n_big: int,
    schedule: Schedule,
    seed: int,
    weights: Array | None,
    *,
    beyond: bool,
) -> Array:
    """Find the axes along which big clusters are trained; see `kmeans.axes`."""
    what = (n_big, len(points), schedule, weights)
    axes = principal_axes(points, *what, flattest=FLATTEST if beyond else FLAT)
    if not axes.size:
        return axes
    n_clusters = n_big**2 if beyond else FINER * n_big
    most = affordable(len(points), n_big, thorough=beyond)
    group = whole(points, weights, n_clusters, most)
    return axes_by_trial(axes, axes.shape[1], [group], seed)


def _axes_within(
    points: Array,
    centers: Array,
    labels: Index,
    squared: Array,
    weights: Array | None,
    trained: tuple[int, int, Schedule],
    seed: int,
    *,
    beyond: bool,
) -> Array:
    """Find the axes of points as seen from their big centers, like `_axes`."""
    if not pays(points, *trained):
        return ALL_DIMENSIONS  # before anything is copied
    seen = centers[labels[:AXES_ROWS]] - points[:AXES_ROWS]
    what, many = (*trained, weights), not beyond
    axes = principal_axes(seen, *what, flattest=FLATTEST, all_if_flat=many)
    del seen
    if not axes.size:
        return axes
    n_big, n_trained, _ = trained
    n_few = few_axes(points.shape[1], n_big)
    most = affordable(n_trained, n_big, thorough=beyond or axes.shape[1] > n_few)
    if beyond:
        groups = [whole(points, weights, n_big**2, most)]
    else:
        groups = groups_of(points, labels, squared, weights, most)
    return axes_by_trial(axes, n_few, groups, seed)


def _mean(points: Array, weights: Array | None) -> Array:
    """Mean of the points, each as often as its weight says, in float64."""
    mean: Array
    if weights is None:
        mean = points.mean(axis=0, dtype=np.float64)
        return mean
    weights = weights[: len(points)]
    alike = np.zeros(len(points), np.int64)
    sums = sum_by_label(points, alike, 1, weights)
    mean = sums[0] / weights.sum(dtype=np.float64)
    return mean

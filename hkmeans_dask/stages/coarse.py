"""Stage 2: mini-batch k-means into about sqrt(n_clusters) big clusters.

Trains on the training rows of lowest rank only, some 2000 per big cluster: they come
from the whole feature axis, so each batch of them is fair although chunks are ordered
in space. The chain of updates runs inside one task: as a task each, an update of a
thousand rows would take less time than its scheduling (2 to 3 ms on a cluster).

The offset, the mean of the very first rows, is removed from all rows for good: any
offset near the mean saves the digits, and that of 2048 rows costs nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from hkmeans_dask import kernels
from hkmeans_dask.execution import one_blas_thread, task
from hkmeans_dask.minibatch import Schedule, train
from hkmeans_dask.records import Coarse

if TYPE_CHECKING:
    from dask.delayed import Delayed

    from hkmeans_dask.execution import Runner
    from hkmeans_dask.kernels import Array
    from hkmeans_dask.records import Training

ROWS_PER_CLUSTER = 2000
"""Training rows per big cluster."""

MAX_BYTES = 256 * 2**20
"""Bytes of training rows, at most."""

OFFSET_ROWS = 2048


def train_coarse(
    training: Delayed,
    n_big: int,
    schedule: Schedule,
    seed: int,
    init: Array | None,
    runner: Runner,
) -> Coarse:
    """Find the big clusters.

    Parameters
    ----------
    training : Delayed of Training
    n_big : int
    schedule : Schedule
    seed : int
    init : ndarray of shape (n_clusters, n_samples), optional
        Initial small-cluster centers: the big clusters then come from clustering them.
    runner : Runner

    Returns
    -------
    coarse : Coarse
    """
    trained = task("coarse", _train, training, n_big, schedule, seed, init)
    (coarse,) = runner.compute(trained)
    found: Coarse = coarse
    return found


@one_blas_thread
def _train(
    training: Training, n_big: int, schedule: Schedule, seed: int, init: Array | None
) -> Coarse:
    rows, order, _ = training
    first = rows[order[:OFFSET_ROWS]]
    offset = first.mean(axis=0, dtype=np.float64).astype(rows.dtype)
    if init is not None:
        points = init.astype(rows.dtype)
    else:
        row_bytes = rows.itemsize * rows.shape[1]
        n_rows = min(ROWS_PER_CLUSTER * n_big, max(n_big, MAX_BYTES // row_bytes))
        points = rows[order[:n_rows]]
    points -= offset
    rng = np.random.default_rng([seed, 0])
    centers = train(points, n_big, schedule, rng)
    labels = kernels.assign(points, centers)
    spread = kernels.inertia(points, centers, labels) / len(points)
    return Coarse(offset, centers + offset, spread)

"""Stage 2: mini-batch k-means into about sqrt(n_clusters) big clusters.

Trains on the training rows of lowest rank only, some 2000 per big cluster: they come
from the whole feature axis, so each batch of them is fair although chunks are ordered
in space. The chain of updates runs inside one task: as a task each, an update of a
thousand rows would take less time than its scheduling (2 to 3 ms on a cluster).

The offset, the mean of the very first rows, is removed from all rows for good: any
offset near the mean saves the digits, and that of 2048 rows costs nothing.
"""

from __future__ import annotations

import logging
import uuid
from typing import TYPE_CHECKING

import numpy as np

from hkmeans_dask import kernels
from hkmeans_dask.execution import one_blas_thread, task
from hkmeans_dask.minibatch import Schedule, most_batches, train
from hkmeans_dask.progress import batches
from hkmeans_dask.records import Coarse
from hkmeans_dask.rows import OFFSET_ROWS, coarse_rows, gather, row_bytes

if TYPE_CHECKING:
    from hkmeans_dask.execution import Runner
    from hkmeans_dask.kernels import Array
    from hkmeans_dask.records import Parts
    from hkmeans_dask.rows import Rows, StoredRows
    from hkmeans_dask.workspace import Arrays, InMemory, OnDisk

logger = logging.getLogger(__name__)


def train_coarse(
    parts: Parts,
    n_big: int,
    schedule: Schedule,
    seed: int,
    init: Array | None,
    workspace: InMemory | OnDisk,
    runner: Runner,
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

    Returns
    -------
    coarse : Coarse
    """
    found = workspace.find("coarse")
    if found is None:
        name = uuid.uuid4().hex
        how = (n_big, schedule, seed, init, workspace, name)
        (found,) = runner.compute(task("coarse", _train, parts, *how), count=[name])
    centers, spread = found["centers"], float(found["spread"])
    logger.debug("%d big clusters, mean inertia %.6g", len(centers), spread)
    return Coarse(found["offset"], centers, spread, schedule.unit)


@one_blas_thread
def _train(
    parts: list[Rows | StoredRows],
    n_big: int,
    schedule: Schedule,
    seed: int,
    init: Array | None,
    workspace: InMemory | OnDisk,
    name: str,
) -> Arrays:
    width = row_bytes(parts[0].like)
    n_rows = coarse_rows(n_big if init is None else 1, width)
    points = gather(parts, 0, n_rows, n_rows * width)
    first = points[:OFFSET_ROWS]
    offset = first.mean(axis=0, dtype=np.float64).astype(points.dtype)
    if schedule.unit:
        offset[:] = 0  # directions are seen from the origin
    points = points if init is None else init.astype(points.dtype)
    points -= offset
    rng = np.random.default_rng([seed, 0])
    with batches(name, most_batches(schedule, len(points))) as watch:
        n_big = min(n_big, len(points))
        centers = train(points, n_big, schedule, rng, watch=watch)
    labels = kernels.assign(points, centers)
    spread = kernels.inertia(points, centers, labels) / len(points)
    return workspace.save(
        "coarse", offset=offset, centers=centers + offset, spread=np.array(spread)
    )

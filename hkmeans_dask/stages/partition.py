"""Stage 3: regroup the training rows by big cluster, and share out the small ones.

A partition is a list of row numbers, in rank order, of one big cluster. Its rows are
gathered only by the tasks that need them, one partition at a time; on a cluster these
tasks run where the training rows are and send away no more than one partition.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import numpy as np

from hkmeans_dask import kernels
from hkmeans_dask.allocation import allocate
from hkmeans_dask.execution import Runner, one_blas_thread, task
from hkmeans_dask.hierarchy import label_coarse
from hkmeans_dask.records import Partitions

if TYPE_CHECKING:
    from dask.delayed import Delayed

    from hkmeans_dask.kernels import Array, Index
    from hkmeans_dask.records import Coarse, Training

logger = logging.getLogger(__name__)

MAX_BYTES = 256 * 2**20
"""Bytes of the rows of one partition, at most: the lowest ranks first."""


def partition(
    training: Delayed,
    coarse: Coarse,
    n_clusters: int,
    init: Array | None,
    runner: Runner,
) -> Partitions:
    """Regroup the training rows and decide the share of each big cluster.

    Parameters
    ----------
    training : Delayed of Training
    coarse : Coarse
    n_clusters : int
    init : ndarray of shape (n_clusters, n_samples), optional
        Initial centers: shares then follow their numbers instead of the rows'.
    runner : Runner

    Returns
    -------
    partitions : Partitions
    """
    (split,) = runner.persist(task("partition", _split, training, coarse))
    (sizes,) = runner.compute(task("sizes", _sizes, split))
    kept = np.flatnonzero(sizes)
    coarse = coarse._replace(centers=coarse.centers[kept])
    bigs = list(zip(kept.tolist(), coarse.centers, strict=True))
    rows = [task("gather", _gather, training, split, *big) for big in bigs]
    most = n_clusters - len(kept) + 1
    distinct = [
        task("distinct", _count_distinct, training, split, *big, most) for big in bigs
    ]
    capacities = np.array(runner.compute(*distinct))
    weights = sizes[kept] if init is None else _given(init, coarse)
    shares = allocate(weights, capacities, n_clusters)
    logger.debug(
        "%d big clusters of %d to %d training rows, %d to %d small clusters each",
        *(len(kept), sizes[kept].min(), sizes[kept].max(), shares.min(), shares.max()),
    )
    return Partitions(rows, shares, coarse)


@one_blas_thread
def _split(training: Training, coarse: Coarse) -> list[Index]:
    """Row numbers of each big cluster, in rank order."""
    rows, order, _ = training
    wanted = np.sort(order)
    labels = label_coarse(rows, coarse.centers, coarse.offset, rows=wanted)
    by_rank = labels[np.searchsorted(wanted, order)]
    positions, starts = kernels.group_by_label(by_rank, len(coarse.centers))
    return np.split(order[positions], starts[1:-1])


def _sizes(split: list[Index]) -> Index:
    return np.array([len(rows) for rows in split])


def _gather(training: Training, split: list[Index], big: int, center: Array) -> Array:
    """Rows of one big cluster as seen from its center."""
    row_bytes = training.rows.itemsize * training.rows.shape[1]
    most = max(1, MAX_BYTES // row_bytes)
    gathered: Array = training.rows[split[big][:most]]
    gathered -= center
    return gathered


def _count_distinct(
    training: Training, split: list[Index], big: int, center: Array, most: int
) -> int:
    """Count distinct rows of one big cluster up to `most`, on the first rows if so."""
    first = [split[big][: 2 * most]]
    distinct = kernels.count_distinct(_gather(training, first, 0, center))
    if distinct < most and len(split[big]) > len(first[0]):
        distinct = kernels.count_distinct(_gather(training, split, big, center))
    return min(distinct, most)


@one_blas_thread
def _given(init: Array, coarse: Coarse) -> Index:
    """Count the given centers in each big cluster, one where there is none."""
    points = np.ascontiguousarray(init, coarse.centers.dtype)
    labels = label_coarse(points, coarse.centers, coarse.offset)
    return np.maximum(np.bincount(labels, minlength=len(coarse.centers)), 1)

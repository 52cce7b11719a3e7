"""Stage 3: regroup the training rows by big cluster, and share out the small ones.

Each part of the training rows is sorted by big cluster on its own: in memory that is a
list of row numbers, on disk one more file. The rows of one big cluster, its
*partition*, are gathered from all parts only by the tasks that need them, in rank
order; on a cluster these tasks run where the training rows are and send away no more
than one partition.
"""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING

import numpy as np

from hkmeans_dask.kmeans import groups, kernels
from hkmeans_dask.kmeans.allocation import (
    allocate_distinct,
    gain_weights,
    integer_weights,
)
from hkmeans_dask.kmeans.hierarchy import FREE, label_coarse
from hkmeans_dask.runtime.blas import one_blas_thread
from hkmeans_dask.runtime.tasks import names, task
from hkmeans_dask.workspace.records import Partitions, read
from hkmeans_dask.workspace.rows import (
    PARTITION_BYTES,
    Rows,
    StoredRows,
    gather_partition,
    points_of,
    row_bytes,
)
from hkmeans_dask.workspace.spread import all_together, bundled, heads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from dask.delayed import Delayed

    from hkmeans_dask.kmeans.hierarchy import Arrays
    from hkmeans_dask.kmeans.kernels import Array, Index
    from hkmeans_dask.runtime.execution import Runner
    from hkmeans_dask.workspace.files import InMemory, OnDisk
    from hkmeans_dask.workspace.records import Coarse
    from hkmeans_dask.workspace.spread import Bundle, Head, Parts

logger = logging.getLogger(__name__)

COUNTED_TOGETHER = 16
"""Big clusters of which one task counts distinct rows: in less time than it takes."""


def partition(
    parts: Parts,
    coarse: Coarse,
    n_clusters: int,
    allocation: str,
    init: Array | None,
    workspace: InMemory | OnDisk,
    runner: Runner,
    balance: float = 0.0,
) -> Partitions:
    """Regroup the training rows and decide the share of each big cluster.

    Parameters
    ----------
    parts : list of training rows
        Used up: a cluster would keep them beside what is made of them.
    coarse : Coarse
    n_clusters : int
    allocation : {'size', 'inertia'}
        What shares follow: numbers of rows (or their weights), or sums of squares.
    init : ndarray of shape (n_clusters, n_samples), optional
        Initial centers: shares then follow their numbers instead.
    workspace : InMemory or OnDisk
    runner : Runner
    balance : float, default=0
        From 0 to 1: how far shares follow numbers of rows, whatever else is asked for.

    Returns
    -------
    partitions : Partitions
    """
    split = _split_all(parts, coarse, workspace, runner)
    parts.clear()
    shared = workspace.find("shares", of=coarse.digest)
    if shared is None:
        how = (n_clusters, allocation, balance, init)
        shared, bundles = _share(split, coarse, *how, workspace, runner)
        kept, shares = shared["kept"], shared["shares"]
    else:
        shared = read(shared)
        kept, shares = shared["kept"], shared["shares"]
        bundles = all_together(split, kept)
    prices = coarse.prices[kept] if coarse.prices.size else FREE
    coarse = coarse._replace(centers=coarse.centers[kept], prices=prices)
    drawn = (shared["total"], shared["limit"])
    return Partitions(bundles, kept, shares, coarse, *drawn, split)


def _split_all(
    parts: Parts, coarse: Coarse, workspace: InMemory | OnDisk, runner: Runner
) -> Parts:
    """Sort every part by big cluster, unless that is done."""
    of = coarse.digest
    names_of = [f"partition-{number}" for number in range(len(parts))]
    split = workspace.each(functools.partial(workspace.find_rows, of=of), names_of)
    there = [number for number, found in enumerate(split) if found is not None]
    workspace.discard(*(f"training-{number}" for number in there))
    lacking = []
    for number, part in enumerate(parts):
        if split[number] is None:
            how = (part, coarse, workspace, number)
            lacking.append(task("partition", _split, *how))
            split[number] = lacking[-1]
    return runner.hold(split, handles=workspace.on_disk, count=names(lacking))


def _share(
    split: Parts,
    coarse: Coarse,
    n_clusters: int,
    allocation: str,
    balance: float,
    init: Array | None,
    workspace: InMemory | OnDisk,
    runner: Runner,
) -> tuple[Arrays, list[Bundle]]:
    """Decide how many small clusters each big one gets; also give their rows."""
    told = heads(split, workspace)
    ((sizes, total, limit, width),) = runner.compute(task("totals", _totals, told))
    kept = np.flatnonzero(sizes)
    bundles = bundled(split, kept, sizes[kept], width, workspace, runner)
    by_size = sizes[kept]
    if coarse.weighted and (balance or (init is None and allocation == "size")):
        by_size = integer_weights(_add_up(_weights, split, coarse, runner)[kept])
    weights = by_size
    if init is not None:
        weights = _given(init, coarse, kept)
    elif allocation == "inertia":
        weights = gain_weights(_add_up(_within, split, coarse, runner)[kept])
    if balance and weights is not by_size:
        weights = integer_weights(weights ** (1 - balance) * by_size**balance)

    def distinct(positions: Index, most: Index) -> Index:
        origins, weighted = coarse.origins[kept[positions]], coarse.weighted
        counts = [
            task("count", _count_each, *where, origins[some], most[some], weighted)
            for *where, some in _counted_together(bundles, positions)
        ]
        return np.concatenate([most[:0], *runner.compute(*counts)])

    shares = allocate_distinct(weights, sizes[kept], n_clusters, distinct)
    logger.debug(
        "%d big clusters of %d to %d training rows, %d to %d small clusters each",
        *(len(kept), sizes[kept].min(), sizes[kept].max(), shares.min(), shares.max()),
    )
    found = {"kept": kept, "shares": shares, "total": total, "limit": limit}
    return workspace.save("shares", of=coarse.digest, **found), bundles


def _counted_together(
    bundles: list[Bundle], positions: Index
) -> Iterator[tuple[Delayed, Index, slice]]:
    """Cut ascending positions of big clusters into runs of one bundle, not too long.

    Each with the rows there, and the groups of rows.
    """
    for rows, bigs, of_rows in bundles:
        first, last = np.searchsorted(positions, (bigs[0], bigs[-1] + 1)).tolist()
        for start in range(first, last, COUNTED_TOGETHER):
            some = slice(start, min(start + COUNTED_TOGETHER, last))
            yield rows, of_rows[positions[some] - bigs[0]], some


@one_blas_thread
def _split(
    part: Rows | StoredRows, coarse: Coarse, workspace: InMemory | OnDisk, number: int
) -> Rows | StoredRows:
    """Sort the rows of a part by big cluster, each in rank order.

    The file that they came from is removed at once: its pages of memory are soon used
    again, and the disk holds the training rows but once. So a task that runs twice
    may find that it is done.
    """
    name = f"partition-{number}"
    of = coarse.digest
    saved: Rows | StoredRows | None = workspace.find_rows(name, of=of)
    if saved is None:
        saved = workspace.save_rows(name, _sorted(part, coarse), of=of)
    workspace.discard(f"training-{number}")
    return saved


def _sorted(part: Rows | StoredRows, coarse: Coarse) -> Rows:
    array, order, keys, _, total = part.load()
    points = points_of(array, weighted=coarse.weighted)
    by_rank = np.argsort(keys, kind="stable")  # most often they are
    order, keys = order[by_rank], keys[by_rank]
    del by_rank
    how = {"rows": order, "prices": coarse.prices}
    labels = label_coarse(points, coarse.centers, coarse.offset, **how)
    by_group, starts = groups.group_by_label(labels, len(coarse.centers))
    return Rows(array, order[by_group], keys[by_group], starts, total)


def _totals(split: list[Rows | StoredRows | Head]) -> tuple[Index, Array, Array, int]:
    """Rows of each group, the checksum of all, their highest key, bytes of one."""
    sizes: Index = np.sum([np.diff(part.starts) for part in split], axis=0)
    total = sum(part.total for part in split) % 2**64
    limit = max(part.highest for part in split)
    width = row_bytes(split[0].like)
    return sizes, np.array(total, np.uint64), np.array(limit, np.uint64), width


def _add_up(
    measure: Callable[[Rows | StoredRows, Coarse], Array],
    split: Parts,
    coarse: Coarse,
    runner: Runner,
) -> Array:
    """Measure each big cluster, and add up in the order of the parts."""
    tasks = [task("within", measure, part, coarse) for part in split]
    total: Array = np.sum(runner.compute(*tasks), axis=0)
    return total


def _within(part: Rows | StoredRows, coarse: Coarse) -> Array:
    """Sum the squares of one part, row after row, in float64."""
    array, order, _, starts, _ = part.load()
    n_big = len(coarse.centers)
    labels = np.repeat(np.arange(n_big), np.diff(starts))
    points = points_of(array, weighted=coarse.weighted)
    squared = kernels.squared_distances(points, coarse.centers, labels, rows=order)
    if coarse.weighted:
        squared *= array[order, -1]
    within: Array = np.bincount(labels, squared, minlength=n_big)
    return within


def _weights(part: Rows | StoredRows, coarse: Coarse) -> Array:
    """Sum the weights of one part, row after row, in float64."""
    array, order, _, starts, _ = part.load()
    n_big = len(coarse.centers)
    labels = np.repeat(np.arange(n_big), np.diff(starts))
    weights: Array = np.bincount(labels, array[order, -1], minlength=n_big)
    return weights


def _count_each(
    split: list[Rows | StoredRows],
    groups: Index,
    origins: Array,
    most: Index,
    weighted: bool,
) -> Index:
    """Count distinct rows of several big clusters, each up to its `most`."""
    wanted = zip(groups.tolist(), origins, most.tolist(), strict=True)
    counts = [_count_distinct(split, *one, weighted) for one in wanted]
    return np.array(counts, np.int64)


def _count_distinct(
    split: list[Rows | StoredRows],
    big: int,
    origin: Array,
    most: int,
    weighted: bool,
) -> int:
    """Count distinct rows of one big cluster up to `most`, on a few parts if so."""
    n_rows = np.cumsum([part.starts[big + 1] - part.starts[big] for part in split])
    enough = int(np.searchsorted(n_rows, 2 * most)) + 1
    all_trained = n_rows[-1] * row_bytes(split[0].like) <= PARTITION_BYTES
    if all_trained and enough < len(split):
        several = split[:enough]
        some, _ = gather_partition(several, big, origin, 2 * most, weighted=weighted)
        if groups.count_distinct(some) >= most:
            return most
    first, _ = gather_partition(split, big, origin, 2 * most, weighted=weighted)
    distinct = groups.count_distinct(first)
    if distinct < most and n_rows[-1] > len(first):
        all_rows, _ = gather_partition(split, big, origin, weighted=weighted)
        distinct = groups.count_distinct(all_rows)
    return min(distinct, most)


@one_blas_thread
def _given(init: Array, coarse: Coarse, kept: Index) -> Index:
    """Count the given centers in each big cluster, one where there is none."""
    centers = coarse.centers[kept]
    points = np.ascontiguousarray(init, centers.dtype)
    labels = label_coarse(points, centers, coarse.offset)
    return np.maximum(np.bincount(labels, minlength=len(centers)), 1)

"""transform / inverse_transform of features by label, lazy.

`cluster_sums` adds up the features of each cluster in a tree: every block sums its own
rows and keeps one row per cluster *present* in it, neighbours merge eight at a time,
and the last merge spreads the rows over all clusters::

    block -> (clusters present, sums) -\
    block -> (clusters present, sums) --merge--> ... --> (n_clusters, n_samples)

The tree hangs on the number of blocks alone and sums are float64, so results do not
depend on the order of arrival. Where the sums of all clusters are large a task adds up
eight blocks, one after the other, in place, and the rest of the tree is gone through
range by range of the clusters, two sums at a time: the same additions in the same
order, of which no task holds more than one sum of all clusters::

    8 blocks -> sums of all clusters -> range -\
    8 blocks -> sums of all clusters -> range --merge--> ... --> one range of the means

`spread` is the way back, one `take` per block. Nothing is computed here.
"""

from __future__ import annotations

import itertools
import operator
from typing import TYPE_CHECKING, Any, NamedTuple

import dask.array as da
import numpy as np
from dask.array.utils import meta_from_array
from dask.delayed import delayed

from hkmeans_dask.kmeans import finite
from hkmeans_dask.kmeans.hierarchy import EXCLUDED
from hkmeans_dask.kmeans.sums import FAN_IN, sum_by_label
from hkmeans_dask.runtime.execution import Runner
from hkmeans_dask.runtime.tasks import add_blocks, carried, map_blocks, task, tasks

if TYPE_CHECKING:
    from dask.delayed import Delayed

    from hkmeans_dask.inputs.arrays import Features
    from hkmeans_dask.kmeans.finite import Bad
    from hkmeans_dask.kmeans.hierarchy import Hierarchy
    from hkmeans_dask.kmeans.kernels import Array, Index


LARGE_SUMS = 16 * 2**20
"""Bytes of float64 sums of all clusters from which these are added up in place."""

RANGES = 4
"""Ranges of clusters in which large sums are merged."""

MANY_BLOCKS = 64
"""Blocks from which a task adds up several, where sums are large."""


class Partial(NamedTuple):
    """Sums of some features."""

    clusters: Index
    """(n_present,), ascending: the clusters that these features have."""

    sums: Array
    """(n_present, n_samples), float64."""

    counts: Array
    """(n_present,), float64: features, or sums of their weights."""

    bad: Bad | None


def cluster_means(features: Features, labels: da.Array, factors: Array) -> da.Array:
    """Average the features of each cluster and multiply by a factor per cluster.

    Parameters
    ----------
    features : Features
        In any chunks; the means are weighted if these have weights.
    labels : dask array of shape (n_features,), int
        Features of a label below 0 are left out, whatever their values.
    factors : ndarray of shape (n_clusters,), float64

    Returns
    -------
    means : dask array of shape (n_clusters, n_samples), features.dtype
        One chunk along clusters, those of X along samples; zeros where no feature (of a
        weight above 0) is. One pass over X.
    """
    blocks = features.blocks
    aligned = labels.rechunk((blocks.chunks[0],))[:, None]
    weights = features.weight_blocks()
    merge = _merge_ranges if are_large(len(factors), blocks) else _merge_tree
    if merge is _merge_ranges:
        how = (_add_block, _cut, blocks, together(blocks), _ends(len(factors)))
        partials = add_blocks("sum", *how, aligned, weights)
    else:
        partials = map_blocks("sum", _sum_block, blocks, aligned, weights)
    columns = [
        merge([row[column] for row in partials], factors, features.dtype, width)
        for column, width in enumerate(blocks.chunks[1])
    ]
    joined: da.Array = da.concatenate(columns, axis=1)
    return joined


def are_large(n_clusters: int, blocks: da.Array) -> bool:
    """Whether sums of all clusters are added up in place, and merged in ranges."""
    return bool(n_clusters * max(blocks.chunks[1]) * 8 > LARGE_SUMS)


def together(blocks: da.Array) -> int:
    """Blocks that a task adds up, where sums are large."""
    return FAN_IN if blocks.numblocks[0] >= MANY_BLOCKS else 1


def _ends(n_clusters: int) -> list[int]:
    """Clusters at which ranges begin and end."""
    return [n_clusters * number // RANGES for number in range(RANGES + 1)]


def _merge_tree(
    partials: list[Delayed], factors: Array, dtype: np.dtype[Any], width: int
) -> da.Array:
    """Merge the partial sums of one chunk of samples."""
    while len(partials) > FAN_IN:
        several = range(0, len(partials), FAN_IN)
        calls = [(partials[first : first + FAN_IN],) for first in several]
        partials = tasks("merge", _merge, calls)
    means = task("means", _finish, partials, factors, dtype)
    lazy: da.Array = da.from_delayed(means, (len(factors), width), dtype)
    return lazy


def _merge_ranges(
    runs: list[Delayed], factors: Array, dtype: np.dtype[Any], width: int
) -> da.Array:
    """Merge the sums of one chunk of samples, range by range of the clusters."""
    found = []
    for number, (first, stop) in enumerate(itertools.pairwise(_ends(len(factors)))):
        partials = tasks("range", operator.itemgetter(number), [(run,) for run in runs])
        while len(partials) > 1:
            partials = _merge_in_turn(partials)
        what = (partials, factors[first:stop], dtype, first)
        shape = (stop - first, width)
        found.append(da.from_delayed(task("means", _finish, *what), shape, dtype))
    joined: da.Array = da.concatenate(found).rechunk({0: -1})
    return joined


def _merge_in_turn(partials: list[Delayed]) -> list[Delayed]:
    """Merge neighbours, one after the other: no task holds more than two of them."""
    groups = [partials[at : at + FAN_IN] for at in range(0, len(partials), FAN_IN)]
    merged = [group[0] for group in groups]
    for place in range(1, FAN_IN):
        longer = [at for at, group in enumerate(groups) if len(group) > place]
        calls = [([merged[at], groups[at][place]],) for at in longer]
        for at, one in zip(longer, tasks("merge", _merge, calls), strict=True):
            merged[at] = one
    return merged


class _Sums(NamedTuple):
    """Sums of a range of the clusters, to which features are added in place."""

    first: int
    sums: Array
    """(n_clusters in the range, n_samples), float64."""
    counts: Array
    present: Array
    """Whether a cluster has features here."""
    bad: Bad | None


def _add_block(
    before: list[_Sums] | None,
    block: Any,
    start: int,
    ends: list[int],
    labels: Array,
    weights: Array | None,
) -> list[_Sums]:
    """Add the features of a block to the sums of all clusters."""
    clusters, sums, counts, bad = _sum_block(block, start, labels, weights)
    cuts = np.searchsorted(clusters, ends)
    if before is None:
        before = [_zeros(*edges, block.shape[1]) for edges in itertools.pairwise(ends)]
    added = []
    for into, (low, high) in zip(before, itertools.pairwise(cuts), strict=True):
        here = clusters[low:high] - into.first
        into.sums[here] += sums[low:high]
        into.counts[here] += counts[low:high]
        into.present[here] = True
        added.append(into._replace(bad=into.bad or bad))
    return added


def _zeros(first: int, stop: int, width: int) -> _Sums:
    n_clusters = stop - first
    present = np.zeros(n_clusters, bool)
    return _Sums(
        first, np.zeros((n_clusters, width)), np.zeros(n_clusters), present, None
    )


def _cut(ranges: list[_Sums]) -> list[Partial]:
    """Keep the clusters that are there, of one range after the other."""
    ranges.reverse()
    return [_present(ranges.pop()) for _ in range(len(ranges))]


def _present(found: _Sums) -> Partial:
    first, sums, counts, present, bad = found
    clusters = np.flatnonzero(present)
    if len(clusters) < len(sums):
        sums, counts = sums[clusters], counts[clusters]
    return Partial(clusters + first, sums, counts, bad)


def _sum_block(block: Any, start: int, labels: Array, weights: Array | None) -> Partial:
    clusters, local = np.unique(labels[:, 0], return_inverse=True)
    weights = None if weights is None else weights[:, 0]
    sums = sum_by_label(block, local, len(clusters), weights)
    counts = np.bincount(local, weights)
    first = int(np.searchsorted(clusters, 0))  # 1 where features are left out
    bad = finite.first_bad(block, start, labels[:, 0] >= 0 if first else None)
    return Partial(clusters[first:], sums[first:], counts[first:], bad)


def _merge(partials: list[Partial]) -> Partial:
    """Add partial sums, in the order of the features."""
    clusters = np.unique(np.concatenate([part.clusters for part in partials]))
    sums = np.zeros((len(clusters), partials[0].sums.shape[1]))
    counts = np.zeros(len(clusters))
    for part in partials:
        everywhere = len(part.clusters) == len(clusters)
        present: Any = ... if everywhere else np.searchsorted(clusters, part.clusters)
        sums[present] += part.sums
        counts[present] += part.counts
    bad = next((part.bad for part in partials if part.bad), None)
    return Partial(clusters, sums, counts, bad)


def _finish(
    partials: list[Partial], factors: Array, dtype: np.dtype[Any], first: int = 0
) -> Array:
    """Spread the means over all clusters, from the first one on, and scale them."""
    clusters, sums, counts, bad = _merge(partials) if partials[1:] else partials[0]
    clusters = clusters - first
    if bad is not None:
        raise ValueError(finite.not_finite(bad))
    means = np.zeros((len(factors), sums.shape[1]), dtype)
    scale = factors[clusters] / np.where(counts > 0, counts, 1)
    means[clusters] = sums * scale[:, None]
    return means


def spread(reduced: da.Array, labels: da.Array, factors: Array | None) -> da.Array:
    """Give each feature the row of its cluster.

    Parameters
    ----------
    reduced : dask array of shape (n_clusters, n_samples), float
    labels : dask array of shape (n_features,), int
        Features of the label -1 get NaN.
    factors : ndarray of shape (n_clusters,), float64, or None
        Multiplied into the rows.

    Returns
    -------
    features : dask array of shape (n_features, n_samples), the dtype of `reduced`
        Chunked as `labels` along features, as `reduced` along samples.
    """
    reduced = reduced.rechunk({0: -1})
    features: da.Array = da.blockwise(
        _take,
        "fs",
        labels,
        "f",
        reduced,
        "ks",
        factors=factors,
        dtype=reduced.dtype,
        meta=meta_from_array(reduced),
        concatenate=False,  # it would copy the one block for each task
        token="hkmeans-spread",
    )
    return features


def _take(labels: Array, blocks: list[Array], factors: Array | None) -> Array:
    """Take rows, and scale those that are taken, or all if these are fewer."""
    (reduced,) = blocks
    if factors is not None and len(reduced) <= len(labels):
        reduced, factors = _scaled(np.empty_like(reduced), reduced, factors), None
    taken = reduced[labels]
    if factors is not None:
        _scaled(taken, taken, factors[labels])
    taken[labels == EXCLUDED] = np.nan
    return taken


def _scaled(out: Array, rows: Array, factors: Array) -> Array:
    np.multiply(rows, factors[:, None], out=out, casting="same_kind")
    return out


def lazy_labels(labels: Any, chunks: tuple[int, ...]) -> da.Array:
    """Labels as a dask array, in chunks no larger than the given ones."""
    lazy: da.Array = labels
    if not isinstance(labels, da.Array):
        lazy = carried(labels, chunks)
    return lazy if max(lazy.chunks[0]) <= max(chunks) else lazy.rechunk((chunks,))


def big_labels(labels: da.Array, parents: Index) -> da.Array:
    """Big clusters of labels, lazily; that of features left out is -1, too."""
    known = np.append(parents, EXCLUDED).astype(np.int32)
    big: da.Array = da.map_blocks(known.__getitem__, labels, dtype=np.int32)
    return big


def refuse_not_finite(features: Features) -> None:
    """Raise for the first bad feature of an X in memory; computes."""
    runner = Runner.find(features.blocks, in_memory=True)
    tasks = map_blocks("check", finite.first_bad, features.blocks)
    found = runner.compute(*[row[0] for row in tasks])
    bad = next((bad for bad in found if bad is not None), None)
    if bad is not None:
        raise ValueError(finite.not_finite(bad))


def predict_labels(
    features: Features, hierarchy: Hierarchy, *, exclude: bool = False
) -> da.Array:
    """Label features by the rule of the model, lazily; one pass over X.

    Parameters
    ----------
    features : Features
        In blocks of whole features.
    hierarchy : Hierarchy
    exclude : bool, default=False
        Whether features with values that are not finite are of no cluster, instead of
        an error.

    Returns
    -------
    labels : dask array of shape (n_features,), int32
    """
    model = delayed(hierarchy, traverse=False)
    rows = map_blocks("predict", _predict, features.blocks, model, exclude)
    parts = [
        da.from_delayed(row[0], (height,), np.int32)
        for row, height in zip(rows, features.blocks.chunks[0], strict=True)
    ]
    labels: da.Array = da.concatenate(parts)
    return labels


def _predict(block: Any, start: int, hierarchy: Hierarchy, exclude: bool) -> Array:
    good = finite.finite_rows(block)
    if good is None:
        return hierarchy.label(hierarchy.points(block)).astype(np.int32)
    bad = None if exclude else finite.first_bad(block, start)
    if bad is not None:
        raise ValueError(finite.not_finite(bad, "one"))
    labels = np.full(len(block), EXCLUDED, np.int32)
    labels[good] = hierarchy.label(hierarchy.points(block[good]))
    return labels

"""Which features are kept for training, and in which order. Knows no dask.

Every feature has a fixed random key that hangs on the seed and its global index alone,
so the training rows are the same for any chunking and any order of arrival. The
features with the lowest keys are kept; sorted by key (in *rank order*) any number of
the first ones is a fair sample.

Training rows are held in *parts*, each the kept features of one range of the feature
axis. Where the cuts are hangs on the shape alone, not on chunks or memory.
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from hkmeans_dask.kmeans.kernels import Array, Index

KEYS_AT_ONCE = 2**20
"""Keys held while the limit is looked for: client memory does not grow with X."""

HIGHEST = 2**64 - 1
"""Key, at most."""

FINENESS = 8
"""Where rows are asked of each part by a limit, one more comes to so many, at most."""

ONE_PART_BYTES = 64 * 2**20
"""Bytes of training rows that stay one part."""

PART_BYTES = 32 * 2**20
"""Bytes of a part where there are several, at most, unless there are `MAX_PARTS`."""

PARTS_SHARED = 4
"""Several parts are a multiple of this, if there are as many features: two or four
threads then have as many parts each."""

RANGE_BYTES = 128 * 2**20
"""Bytes of the rows that a range may keep where ranges are read one by one, at most,
unless all training rows are more."""

MAX_PARTS = 200
"""Parts, at most: each is a file where they are on disk."""


def keys(seed: int, start: int, stop: int) -> Array:
    """Random keys of features ``start`` to ``stop - 1``, whatever the block.

    Philox is a counter-based generator: it starts at any index at once, four keys a
    step (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", 2011).

    Returns
    -------
    keys : ndarray of shape (stop - start,), uint64
    """
    generator = np.random.Philox(key=seed)
    generator.advance(start // 4)
    drawn: Array = generator.random_raw(stop - start + start % 4)
    return drawn[start % 4 :]


def key_limit(
    seed: int, n_features: int, n_rows: int, weights: Array | None = None
) -> int:
    """Highest key of the `n_rows` features that are kept; none of weight 0 is.

    Notes
    -----
    Memory: not that of all keys that are kept. Keys are uniform, so it is known about
    where the limit is; those far below are counted alone.
    """
    if n_rows >= n_features:
        return HIGHEST
    n_drawn = n_features if weights is None else int(np.count_nonzero(weights))
    n_rows, deviations = min(n_rows, n_drawn), 8.0
    while True:
        low, high = _about(n_rows, n_drawn, deviations)
        below, near = 0, [np.empty(0, np.uint64)]
        for start in range(0, n_features, KEYS_AT_ONCE):
            new = keys(seed, start, min(start + KEYS_AT_ONCE, n_features))
            if weights is not None:
                new = new[weights[start : start + KEYS_AT_ONCE] > 0]
            below += int(np.count_nonzero(new < low))
            near.append(new[(new >= low) & (new <= high)])
        some, place = np.concatenate(near), n_rows - 1 - below
        if 0 <= place < len(some):
            return int(np.partition(some, place)[place])
        deviations *= 8  # most unlikely


def _about(n_rows: int, n_drawn: int, deviations: float) -> tuple[np.uint64, np.uint64]:
    """Keys between which the one of a rank is, up to so many standard deviations."""
    spread = deviations * (1 + np.sqrt(n_rows * (1 - n_rows / n_drawn)))
    edges = ((n_rows + side * spread) / n_drawn for side in (-1, 1))
    low, high = (min(HIGHEST, max(0, int(edge * 2.0**64))) for edge in edges)
    return np.uint64(low), np.uint64(high)


def kept(
    seed: int, limit: int, start: int, stop: int, weights: Array | None = None
) -> tuple[Index, Array]:
    """Features of a range that are kept, ascending, and their keys.

    Those of weight 0 are not; `weights` are those of the range.
    """
    features, drawn = [np.empty(0, np.int64)], [np.empty(0, np.uint64)]
    for first in range(start, stop, KEYS_AT_ONCE):
        some = keys(seed, first, min(first + KEYS_AT_ONCE, stop))
        low = some <= limit
        if weights is not None:
            low &= weights[first - start : first - start + len(some)] > 0
        chosen = np.flatnonzero(low)
        features.append(first + chosen)
        drawn.append(some[chosen])
    return np.concatenate(features), np.concatenate(drawn)


def part_bounds(
    n_features: int, n_bytes: int, weights: Array | None = None
) -> list[tuple[int, int]]:
    """Cut the feature axis into ranges, by the bytes of all training rows.

    Each range has as many features, or as many that have a weight above 0.

    Examples
    --------
    >>> part_bounds(1000, 100)
    [(0, 1000)]
    >>> part_bounds(900, 300 * 2**20)[:2]
    [(0, 75), (75, 150)]
    """
    if weights is None:
        n_parts = count_parts(n_features, n_bytes)
        cuts = [n_features * part // n_parts for part in range(n_parts + 1)]
    else:
        trained = np.flatnonzero(weights)
        n_parts = count_parts(len(trained), n_bytes)
        firsts = [len(trained) * part // n_parts for part in range(1, n_parts)]
        cuts = [0, *trained[firsts].tolist(), n_features]
    return list(itertools.pairwise(cuts))


def count_parts(n_features: int, n_bytes: int) -> int:
    """Count the ranges of `part_bounds`, of features that may be kept."""
    if n_bytes <= ONE_PART_BYTES:
        return 1
    n_parts = -(-n_bytes // (PARTS_SHARED * PART_BYTES)) * PARTS_SHARED
    return min(MAX_PARTS, n_features, n_parts)


def range_rows(n_rows: int, row_bytes: int) -> int:
    """Rows that a range may keep where ranges are read one by one, at most."""
    return max(n_rows, RANGE_BYTES // max(1, row_bytes))


def checksum(rows: Array, row_keys: Array) -> int:
    """Checksum of rows that adds up, modulo 2**64, over any parts of X.

    Every row is multiplied by its key, every column by a fixed random odd number, so
    that rows or columns that change places are noticed too.
    """
    words = rows.view(np.uint32)
    weights = keys(0, 0, words.shape[1]) | np.uint64(1)
    sums = np.einsum("ij,j->i", words, weights, dtype=np.uint64, casting="unsafe")
    return int((sums * row_keys).sum(dtype=np.uint64))

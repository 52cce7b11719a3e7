"""Stage 1, the first read of X: keep a fixed random part of the features.

Every feature has a random key that hangs on the seed and its global index alone, so
the training rows are the same for any chunking and any order of arrival. The features
with the lowest keys are kept; sorted by key (in *rank order*) any number of the first
ones is a fair sample. The same read casts the values and finds NaN and infinities::

    X --block--> rows whose key <= limit --> rows in feature order + their rank order
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from dask.delayed import delayed

from hkmeans_dask import kernels
from hkmeans_dask.execution import Runner, map_blocks, task
from hkmeans_dask.records import Training

if TYPE_CHECKING:
    from dask.delayed import Delayed

    from hkmeans_dask.inputs import Features
    from hkmeans_dask.kernels import Array, Bad, Index

KEYS_AT_ONCE = 2**20
"""Keys held while the limit is looked for: client memory does not grow with X."""


def keep_training_rows(
    features: Features, n_rows: int, seed: int, runner: Runner
) -> Delayed:
    """Read X once and keep at most `n_rows` features for training.

    Parameters
    ----------
    features : Features
    n_rows : int
    seed : int
    runner : Runner

    Returns
    -------
    training : Delayed of Training
        Already computed, where the scheduler keeps it. Memory: the kept rows, twice
        while they are joined; of an X in this process they are not copied at all.

    Raises
    ------
    ValueError
        If X has NaN or infinite values.
    """
    n_features = features.blocks.shape[0]
    limit = key_limit(seed, n_features, n_rows)
    copy = features.in_place is None
    kept = map_blocks(
        "sample", _keep, features.blocks, features.dtype, seed, limit, copy
    )
    in_place = delayed(features.in_place, pure=False, traverse=False)
    parts = [row[0] for row in kept]
    training: Delayed = task("join", _join, parts, in_place, seed, n_features, limit)
    (training,) = runner.persist(training)
    (bad,) = runner.compute(task("check", _bad_of, training))
    if bad is not None:
        raise ValueError(kernels.not_finite(bad))
    return training


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


def key_limit(seed: int, n_features: int, n_rows: int) -> int:
    """Highest key of the `n_rows` features that are kept."""
    if n_rows >= n_features:
        return int(np.iinfo(np.uint64).max)
    lowest = np.empty(0, np.uint64)
    step = max(KEYS_AT_ONCE, n_rows)
    for start in range(0, n_features, step):
        new = keys(seed, start, min(start + step, n_features))
        lowest = np.concatenate([lowest, new])
        if len(lowest) > n_rows:
            lowest = np.partition(lowest, n_rows - 1)[:n_rows]
    return int(lowest.max())


def _keep(
    block: Any, start: int, dtype: np.dtype[Any], seed: int, limit: int, copy: bool
) -> tuple[Array | None, Bad | None]:
    """Cast and check a block; return its kept rows, if they need a copy at all."""
    bad = kernels.first_bad(block, start)
    if bad or not copy:
        return None, bad
    kept = keys(seed, start, start + len(block)) <= limit
    return np.ascontiguousarray(block[kept], dtype), None


def _join(
    kept: list[tuple[Array | None, Bad | None]],
    in_place: Array | None,
    seed: int,
    n_features: int,
    limit: int,
) -> Training:
    """Join the kept rows in feature order and rank them by key."""
    bad = next((bad for _, bad in kept if bad is not None), None)
    if bad is not None:
        return Training(np.empty((0, 0)), np.empty(0, np.int64), bad)
    features, order = _rank_order(seed, n_features, limit)
    if in_place is not None:
        return Training(in_place, features[order], None)
    rows = np.concatenate([part for part, _ in kept if part is not None])
    return Training(rows, order, None)


def _rank_order(seed: int, n_features: int, limit: int) -> tuple[Index, Index]:
    """Features that are kept, and their order by key (equal keys by feature)."""
    features, drawn = [], []
    for start in range(0, n_features, KEYS_AT_ONCE):
        some = keys(seed, start, min(start + KEYS_AT_ONCE, n_features))
        kept = np.flatnonzero(some <= limit)
        features.append(start + kept)
        drawn.append(some[kept])
    order = np.argsort(np.concatenate(drawn), kind="stable")
    return np.concatenate(features), order


def _bad_of(training: Training) -> Bad | None:
    return training.bad

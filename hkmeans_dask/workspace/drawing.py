"""What tasks make of features as they are read for training: rows kept, and joined.

Nothing here knows which tasks there are; the stage `sample` does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hkmeans_dask.kmeans import finite, kernels, sampling
from hkmeans_dask.workspace.rows import (
    Rows,
    gather,
    join_weights,
    points_of,
    row_bytes,
)

if TYPE_CHECKING:
    from hkmeans_dask.kmeans.finite import Bad
    from hkmeans_dask.kmeans.kernels import Array, Index
    from hkmeans_dask.workspace.files import InMemory, OnDisk
    from hkmeans_dask.workspace.rows import StoredRows


class How(NamedTuple):
    """How rows are made of features."""

    seed: int
    dtype: np.dtype[Any]
    weighted: bool
    unit: bool
    """Whether rows are scaled to unit length, and those of zeros left out."""

    exclude: bool
    """Whether features that cannot be clustered are left out before ranks are given."""

    n_rows: int
    """Rows that are wanted in all, so of no block more."""


class Kept(NamedTuple):
    """What a block gave."""

    rows: Array | None
    """(n_kept, n_samples) in feature order, and their weights if there are any; None
    where X is in this process."""

    features: Index
    """(n_kept,), ascending."""

    bad: Bad | None


def finite_features(block: Any, start: int) -> Array:
    """Tell which features of a block have finite values only."""
    good = finite.finite_rows(block)
    return np.ones(len(block), bool) if good is None else good


def keep(
    block: Any,
    start: int,
    offset: int,
    how: How,
    limit: int,
    copy: bool,
    weights: Array | None,
) -> Kept:
    """Cast and check a block; return its kept rows, if they need a copy at all."""
    start += offset
    bad = None if how.exclude else finite.first_bad(block, start)
    if bad or not copy:
        return Kept(None, np.empty(0, np.int64), bad)
    weights = None if weights is None else weights[:, 0]
    features, keys = sampling.kept(how.seed, limit, start, start + len(block), weights)
    if how.exclude and len(features) > how.n_rows:
        features = _lowest_good(block, start, features, keys, how)
    whole = len(features) == len(block) and _is_alone(block)
    some = block if whole else block[features - start]
    rows = np.ascontiguousarray(some, how.dtype)
    good = _good(rows, how.unit) if how.exclude else None
    if good is not None:
        rows, features = rows[good], features[good]
    rows = kernels.to_unit(rows)[0] if how.unit else rows
    if weights is not None:
        rows = join_weights(rows, weights[features - start])
    return Kept(rows, features, None)


def _is_alone(block: Any) -> bool:
    """Whether a block, if it is kept, keeps no more memory than its own."""
    if not isinstance(block, np.ndarray):
        return False
    return block.base is None or getattr(block.base, "nbytes", np.inf) <= block.nbytes


def _good(values: Any, unit: bool) -> Array | None:
    """Tell which rows can be clustered; None if all can."""
    good = finite.finite_rows(values)
    if not unit:
        return good
    some: Array = np.asarray(values).any(axis=1)
    return some if good is None else good & some


def _lowest_good(
    block: Any, start: int, features: Index, keys: Array, how: How
) -> Index:
    """Those of some features of a block that may be wanted: the lowest good ones."""
    good = _good(block, how.unit)
    if good is not None:
        here = good[features - start]
        features, keys = features[here], keys[here]
    if len(features) > how.n_rows:
        features = features[keys <= np.partition(keys, how.n_rows - 1)[how.n_rows - 1]]
    return features


def join(
    kept: list[Kept],
    in_place: Array | None,
    bound: tuple[int, int],
    limit: int,
    chosen: Array | None,
    how: How,
    workspace: InMemory | OnDisk,
    name: str,
) -> Rows | StoredRows | Bad:
    """Join the kept rows of one range in feature order, if all values are good."""
    bad = next((block.bad for block in kept if block.bad is not None), None)
    if bad is not None:
        return bad
    features, keys = sampling.kept(how.seed, limit, *bound, chosen)
    if in_place is not None:
        order = np.argsort(keys)
        starts = np.array([0, len(order)])
        rows = Rows(in_place, features[order], keys[order], starts, 0)
        return workspace.save_rows(name, rows)
    array, keys = _kept_among(kept, bound, features, keys, how)
    return workspace.save_rows(name, _ranked(array, keys, how))


def join_run(
    kept: list[Kept],
    bound: tuple[int, int],
    limit: int,
    how: How,
    workspace: InMemory | OnDisk,
    name: str,
) -> Rows | StoredRows:
    """Join rows of one range that may be kept; `lowest` gives them a checksum."""
    features, keys = sampling.kept(how.seed, limit, *bound)
    array, keys = _kept_among(kept, bound, features, keys, how)
    order = np.argsort(keys)
    rows = Rows(array, order, keys[order], np.array([0, len(order)]), 0)
    return workspace.save_rows(name, rows)


def _kept_among(
    kept: list[Kept], bound: tuple[int, int], features: Index, keys: Array, how: How
) -> tuple[Array, Array]:
    """Kept rows of some features, and their keys.

    Of these features some may not be kept; others may be of a block that was read when
    the limit was higher.
    """
    array = np.concatenate([_within(block, *bound, block.rows) for block in kept])
    if not (how.weighted or how.exclude):
        return array, keys
    here = np.concatenate([_within(block, *bound, block.features) for block in kept])
    sides = (here, features)
    _, rows, found = np.intersect1d(*sides, assume_unique=True, return_indices=True)
    return array if len(rows) == len(array) else array[rows], keys[found]


def _ranked(array: Array, keys: Array, how: How) -> Rows:
    """Rows and their checksum; the first rows of a file are those of lowest rank."""
    order = np.argsort(keys)
    points = points_of(array, weighted=how.weighted)
    total = sampling.checksum(points, keys)
    if how.unit:  # features without a direction are not trained on
        order = order[np.asarray(points.any(axis=1))[order]]
    return Rows(array, order, keys[order], np.array([0, len(order)]), total)


def _within(block: Kept, start: int, stop: int, values: Array | None) -> Array:
    """Values of a block whose features are in a range."""
    assert values is not None
    first, last = np.searchsorted(block.features, (start, stop))
    return values[first:last]


def keys_of(run: Rows | StoredRows) -> Array:
    """Keys of a run, ascending."""
    return run.group_keys(0)


def lowest(
    runs: list[Rows | StoredRows],
    n_rows: int,
    weighted: bool,
    workspace: InMemory | OnDisk,
    name: str,
) -> Rows | StoredRows:
    """Join the rows of the lowest keys of some runs."""
    keys = np.sort(np.concatenate([run.group_keys(0) for run in runs]))[:n_rows]
    width = row_bytes(runs[0].like)
    array = gather(runs, 0, n_rows, n_rows * width) if n_rows else runs[0].like
    total = sampling.checksum(points_of(array, weighted=weighted), keys)
    rows = Rows(array, np.arange(n_rows), keys, np.array([0, n_rows]), total)
    return workspace.save_rows(name, rows)

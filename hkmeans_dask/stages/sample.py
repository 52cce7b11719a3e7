"""Stage 1, the first read of X: keep a fixed random part of the features.

The same read casts the values and finds NaN and infinities. See `ranks` for which
features are kept::

    X --block--> rows whose key <= limit --> one part of the training rows per range
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from dask.delayed import delayed

from hkmeans_dask.kmeans import finite, kernels, sampling
from hkmeans_dask.runtime.tasks import map_blocks, names, task, tasks
from hkmeans_dask.workspace.rows import Rows, join_weights, points_of

if TYPE_CHECKING:
    from dask.delayed import Delayed

    from hkmeans_dask.inputs.arrays import Features
    from hkmeans_dask.kmeans.finite import Bad
    from hkmeans_dask.kmeans.kernels import Array, Index
    from hkmeans_dask.runtime.execution import Runner
    from hkmeans_dask.workspace.files import InMemory, OnDisk
    from hkmeans_dask.workspace.records import Parts
    from hkmeans_dask.workspace.rows import StoredRows


class Kept(NamedTuple):
    """What a block gave."""

    rows: Array | None
    """(n_kept, n_samples) in feature order, and their weights if there are any; None
    where X is in this process."""

    features: Index
    """(n_kept,), ascending."""

    bad: Bad | None


def keep_training_rows(
    features: Features,
    n_rows: int,
    seed: int,
    workspace: InMemory | OnDisk,
    runner: Runner,
    *,
    unit: bool = False,
) -> Parts:
    """Read X once and keep at most `n_rows` features for training.

    Parameters
    ----------
    features : Features
    n_rows : int
    seed : int
    workspace : InMemory or OnDisk
    runner : Runner
    unit : bool, default=False
        Whether rows are scaled to unit length, and those of zeros left out.

    Returns
    -------
    parts : list of rows, or of Delayed of rows
        Already computed. Memory: the rows of a part twice while they are joined; of an
        X in this process they are not copied at all.

    Raises
    ------
    ValueError
        If X has NaN or infinite values, or no feature that can be trained on.
    """
    n_features, n_samples = features.blocks.shape
    n_rows = min(n_rows, n_features)
    weighted = features.weights is not None
    limit = sampling.key_limit(seed, n_features, n_rows, features.weights)
    n_bytes = n_rows * (n_samples + weighted) * features.dtype.itemsize
    bounds = sampling.part_bounds(n_features, n_bytes, features.weights)
    found = [_find(workspace, part) for part in range(len(bounds))]
    if all(found):
        return list(found)
    options = (features.dtype, seed, limit, features.in_place is None, unit)
    weights = features.weight_blocks()
    mapped = map_blocks("sample", _keep, features.blocks, *options, weights)
    kept = [row[0] for row in mapped]
    edges = np.cumsum((0, *features.blocks.chunks[0]))
    in_place = delayed(features.in_place, pure=False, traverse=False)
    lacking = [part for part, old in enumerate(found) if old is None]
    blocks = [_overlapping(kept, edges, *bounds[part]) for part in lacking]
    how = (seed, limit, unit, weighted, workspace)
    calls = [
        (some, in_place, bounds[part], *how, f"training-{part}")
        for part, some in zip(lacking, blocks, strict=True)
    ]
    joins = iter(tasks("join", _join, calls))
    parts: Parts = [next(joins) if old is None else old for old in found]
    needed = dict.fromkeys(names(itertools.chain(*blocks)))
    parts = runner.hold(parts, handles=workspace.on_disk, count=list(needed))
    (wrong,) = runner.compute(task("check", _what_is_wrong, parts))
    if wrong is not None:
        raise ValueError(wrong)
    return parts


def _find(workspace: InMemory | OnDisk, part: int) -> StoredRows | None:
    """Find a part of the training rows, which may be sorted by big cluster already."""
    for name in (f"partition-{part}", f"training-{part}"):
        if (rows := workspace.find_rows(name)) is not None:
            return rows.together()
    return None


def _overlapping(
    kept: list[Delayed], edges: Array, start: int, stop: int
) -> list[Delayed]:
    """Blocks that have features of a range."""
    first = int(np.searchsorted(edges, start, side="right")) - 1
    last = int(np.searchsorted(edges, stop, side="left"))
    return kept[first:last]


def _keep(
    block: Any,
    start: int,
    dtype: np.dtype[Any],
    seed: int,
    limit: int,
    copy: bool,
    unit: bool,
    weights: Array | None,
) -> Kept:
    """Cast and check a block; return its kept rows, if they need a copy at all."""
    bad = finite.first_bad(block, start)
    if bad or not copy:
        return Kept(None, np.empty(0, np.int64), bad)
    weights = None if weights is None else weights[:, 0]
    features, _ = sampling.kept(seed, limit, start, start + len(block), weights)
    rows = np.ascontiguousarray(block[features - start], dtype)
    rows = kernels.to_unit(rows)[0] if unit else rows
    if weights is not None:
        rows = join_weights(rows, weights[features - start])
    return Kept(rows, features, None)


def _join(
    kept: list[Kept],
    in_place: Array | None,
    bound: tuple[int, int],
    seed: int,
    limit: int,
    unit: bool,
    weighted: bool,
    workspace: InMemory | OnDisk,
    name: str,
) -> Rows | StoredRows | Bad:
    """Join the kept rows of one range in feature order, if all values are good."""
    bad = next((block.bad for block in kept if block.bad is not None), None)
    if bad is not None:
        return bad
    features, keys = sampling.kept(seed, limit, *bound)
    if weighted:  # of these features some have weight 0
        here = [_within(block, *bound, block.features) for block in kept]
        keys = keys[np.searchsorted(features, np.concatenate(here))]
    order = np.argsort(keys)  # the first rows of a file are those of lowest rank
    starts = np.array([0, len(order)])
    if in_place is not None:
        rows = Rows(in_place, features[order], keys[order], starts, 0)
    else:
        array = np.concatenate([_within(block, *bound, block.rows) for block in kept])
        points = points_of(array, weighted=weighted)
        total = sampling.checksum(points, keys)
        if unit:  # features without a direction are not trained on
            order = order[np.asarray(points.any(axis=1))[order]]
            starts = np.array([0, len(order)])
        rows = Rows(array, order, keys[order], starts, total)
    return workspace.save_rows(name, rows)


def _within(block: Kept, start: int, stop: int, values: Array | None) -> Array:
    """Values of a block whose features are in a range."""
    assert values is not None
    first, last = np.searchsorted(block.features, (start, stop))
    return values[first:last]


def _what_is_wrong(parts: list[Any]) -> str | None:
    bad = next((part for part in parts if isinstance(part, finite.Bad)), None)
    if bad is not None:
        return finite.not_finite(bad)
    if not any(part.starts[-1] for part in parts):
        return (
            "All features of X that were kept for training are zeros, and have no "
            "direction. Take metric='euclidean'."
        )
    return None

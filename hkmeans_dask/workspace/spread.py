r"""Training rows spread over the memory of a cluster, of which no task is given all.

In one process, or in files, a task that needs rows of all parts is given all of them,
which costs nothing, and takes what it wants. On a cluster that would bring all rows to
one worker. There each part is asked where it is, and what is wanted of it travels::

    part --sketch--> some of its keys --\
    part --sketch--> ...                -+--> limit: the key up to which enough rows are
    part --cut--> its rows up to there --\
    part --cut--> ...                    -+--> bundle: what stands for all parts

From a bundle the same rows are gathered in the same order as from the parts. All of it
is results of tasks, which a cluster computes again when a worker dies.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hkmeans_dask.kmeans.finite import Bad
from hkmeans_dask.kmeans.sampling import FINENESS, HIGHEST
from hkmeans_dask.runtime.tasks import names, task, tasks
from hkmeans_dask.workspace.rows import PARTITION_BYTES, Rows, row_bytes

if TYPE_CHECKING:
    from collections.abc import Callable

    from dask.delayed import Delayed

    from hkmeans_dask.kmeans.kernels import Array, Index
    from hkmeans_dask.runtime.execution import Runner
    from hkmeans_dask.workspace.files import InMemory, OnDisk
    from hkmeans_dask.workspace.rows import StoredRows

Parts = list[Any]
"""Training rows, part by part: `rows.Rows` or `StoredRows`, or Delayed of them."""

BUNDLE_BYTES = 32 * 2**20
"""Bytes of the rows of a bundle, about, if those of one big cluster are not more."""

MOST_BUNDLES = 128
"""Bundles, about, while they stay below the rows of a partition: each is cut from each
part."""


class Head(NamedTuple):
    """What is told of rows without them; see `Rows`."""

    starts: Index
    like: Array
    total: int
    highest: int


class Sketch(NamedTuple):
    """Some keys of the rows of one group of a part."""

    marks: Array
    """Every `step`-th key, ascending."""

    step: int
    wanted: int
    """Rows that are wanted of all parts."""


class Bundle(NamedTuple):
    """Rows of some big clusters."""

    rows: Delayed
    """A list of rows, of each part."""

    bigs: Index
    """Which big clusters, of those that have training rows."""

    groups: Index
    """The group of rows that each of them has there."""


def heads(parts: Parts, workspace: InMemory | OnDisk) -> Parts:
    """Give what may come to one task in place of all parts, if it needs no rows."""
    if not workspace.spread:
        return parts
    return tasks("head", _head, [(part,) for part in parts])


def _head(part: Rows | Bad) -> Head | Bad:
    if isinstance(part, Bad):
        return part
    return Head(part.starts, part.like, part.total, part.highest)


def lowest(
    parts: Parts, most: Callable[[int], int], workspace: InMemory | OnDisk
) -> Parts:
    """Give what may come to one task in place of parts of one group.

    Parameters
    ----------
    parts : list of training rows
    most : callable
        How many rows of lowest rank are wanted, at least, by the bytes of a row.
    workspace : InMemory or OnDisk
    """
    if not workspace.spread:
        return parts
    limit = _limit(parts, 0, most)
    return tasks("cut", _cut, [(part, [0], limit) for part in parts])


def all_together(parts: Parts, groups: Index) -> list[Bundle]:
    """Make one key of all parts: tasks grow as big clusters, not times parts."""
    return [Bundle(task("parts", list, parts), np.arange(len(groups)), groups)]


def bundled(
    parts: Parts,
    groups: Index,
    sizes: Index,
    width: int,
    workspace: InMemory | OnDisk,
    runner: Runner,
) -> list[Bundle]:
    """Give what may come to tasks that need the rows of one big cluster.

    Parameters
    ----------
    parts : list of training rows
        Sorted by big cluster.
    groups : ndarray of shape (n_big_clusters,)
        The group of rows that each big cluster has in them.
    sizes : ndarray of shape (n_big_clusters,)
        How many rows these have in all parts.
    width : int
        Bytes of one row.
    workspace : InMemory or OnDisk
    runner : Runner
    """
    if not workspace.spread:
        return all_together(parts, groups)
    most = max(1, PARTITION_BYTES // max(1, width))
    limits: list[Any] = [HIGHEST] * len(groups)
    for big in np.flatnonzero(sizes > most).tolist():
        limits[big] = _limit(parts, int(groups[big]), most)
    bundles = []
    for bigs in _neighbours(np.minimum(sizes, most) * width):
        here = slice(bigs[0], bigs[-1] + 1)
        what = (groups[here].tolist(), limits[here])
        pieces = tasks("cut", _cut, [(part, *what) for part in parts])
        bundles.append((task("bundle", list, pieces), bigs))
    made = [rows for rows, _ in bundles]
    held = runner.hold(made, handles=False, count=names(made))
    pairs = zip(held, (bigs for _, bigs in bundles), strict=True)
    return [Bundle(rows, bigs, np.arange(len(bigs))) for rows, bigs in pairs]


def _neighbours(n_bytes: Index) -> list[Index]:
    """Put neighbours together up to the bytes of a bundle."""
    most = _bundle_bytes(int(n_bytes.sum()))
    cuts, filled = [], 0
    for number, size in enumerate(n_bytes.tolist()):
        if filled and filled + size > most:
            cuts.append(number)
            filled = 0
        filled += size
    return np.split(np.arange(len(n_bytes)), cuts)


def _bundle_bytes(n_bytes: int) -> int:
    return min(PARTITION_BYTES, max(BUNDLE_BYTES, n_bytes // MOST_BUNDLES))


def most_bundles(n_big: int, n_bytes: int) -> int:
    """Count bundles of so many bytes, at most: two neighbours do not fit into one."""
    return min(n_big, 2 * n_bytes // _bundle_bytes(n_bytes) + 1)


def _limit(parts: Parts, group: int, most: Callable[[int], int] | int) -> Delayed:
    """Find a key up to which there are as many rows of a group as are wanted."""
    what = (group, most, len(parts))
    sketches = tasks("sketch", _sketch, [(part, *what) for part in parts])
    return task("limit", _enough, sketches)


def _sketch(
    part: Rows | StoredRows,
    group: int,
    most: Callable[[int], int] | int,
    n_parts: int,
) -> Sketch:
    wanted = most if isinstance(most, int) else most(row_bytes(part.like))
    step = max(1, wanted // (FINENESS * n_parts))
    return Sketch(np.sort(part.group_keys(group))[step - 1 :: step], step, wanted)


def _enough(sketches: list[Sketch]) -> int:
    """Up to a mark of its part there are as many rows as `step` says, or more."""
    _, step, wanted = sketches[0]
    marks = np.sort(np.concatenate([sketch.marks for sketch in sketches]))
    needed = -(-wanted // step)
    return int(marks[needed - 1]) if needed <= len(marks) else HIGHEST


def _cut(part: Rows | StoredRows, groups: list[int], limits: list[int] | int) -> Rows:
    """Copy the rows of some groups, those up to a key each."""
    if isinstance(limits, int):
        limits = [limits] * len(groups)
    keys = [part.group_keys(group) for group in groups]
    pairs = zip(keys, limits, strict=True)
    chosen = [np.sort(some[some <= np.uint64(limit)]) for some, limit in pairs]
    taken = [part.take(*wanted) for wanted in zip(groups, limits, keys, strict=True)]
    starts = np.cumsum([0, *(len(some) for some in chosen)])
    array = np.concatenate([part.like, *taken])
    every = np.concatenate([keys[0][:0], *chosen])
    return Rows(array, np.arange(len(array)), every, starts, 0)

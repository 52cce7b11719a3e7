r"""Stage 1, the first read of X: keep a fixed random part of the features.

The same read casts the values and finds NaN and infinities. See `ranks` for which
features are kept::

    X --block--> rows whose key <= limit --> one part of the training rows per range

Where features that cannot be clustered are left out, ranks are among the others, so
that the limit is not known before all is read. X in this process is looked at first.
Of another X, if not all features are kept, ranges are read one after the other; each
keeps what may be among the lowest keys for all that is known, less and less::

    range --rows whose key <= limit--> run --\
      ^                                       +--> the limit falls to the highest of
      +------------- the next range <--------/     the n_rows lowest keys so far

and in the end the lowest rows of all runs are joined. A range is as long as its run may
have rows. Where ranges begin hangs on X and shapes, not on chunks, as do the parts.
"""

from __future__ import annotations

import functools
import itertools
from typing import TYPE_CHECKING, Any

import numpy as np
from dask.delayed import delayed

from hkmeans_dask.kmeans import finite, sampling
from hkmeans_dask.runtime.tasks import map_blocks, names, task, tasks
from hkmeans_dask.workspace.drawing import (
    How,
    finite_features,
    join,
    join_run,
    keep,
    keys_of,
    lowest,
)
from hkmeans_dask.workspace.spread import heads

if TYPE_CHECKING:
    from dask.delayed import Delayed

    from hkmeans_dask.inputs.arrays import Features
    from hkmeans_dask.kmeans.kernels import Array
    from hkmeans_dask.runtime.execution import Runner
    from hkmeans_dask.workspace.files import InMemory, OnDisk
    from hkmeans_dask.workspace.rows import Rows, StoredRows
    from hkmeans_dask.workspace.spread import Parts


def keep_training_rows(
    features: Features,
    n_rows: int,
    seed: int,
    workspace: InMemory | OnDisk,
    runner: Runner,
    *,
    unit: bool = False,
    exclude: bool = False,
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
    exclude : bool, default=False
        Whether features with values that are not finite, and with `unit` those of
        zeros, are left out: `n_rows` others are kept, if there are as many.

    Returns
    -------
    parts : list of rows, or of Delayed of rows
        Already computed. Memory: the rows of a part twice while they are joined; of an
        X in this process they are not copied at all.

    Raises
    ------
    ValueError
        If X has NaN or infinite values that are not left out, or no feature that can be
        trained on.
    """
    n_rows = min(n_rows, features.blocks.shape[0])
    weighted = features.weights is not None
    how = How(seed, features.dtype, weighted, unit, exclude, n_rows)
    where = (how, workspace, runner)
    if exclude and features.in_place is not None:
        parts = _keep_finite(features, n_rows, *where)
    elif exclude and n_rows < features.n_trainable:
        parts = _keep_lowest(features, n_rows, *where)
    else:
        parts = _keep_ranked(features, n_rows, features.weights, *where)
    told = heads(parts, workspace)
    (wrong,) = runner.compute(task("check", _what_is_wrong, told, how))
    if wrong is not None:
        raise ValueError(wrong)
    return parts


def count_rows(parts: Parts, runner: Runner) -> int:
    """Count the training rows."""
    return sum(runner.compute(*(task("rows", _n_rows, part) for part in parts)))


def _n_rows(part: Rows | StoredRows) -> int:
    return int(part.starts[-1])


def _keep_ranked(
    features: Features,
    n_rows: int,
    chosen: Array | None,
    how: How,
    workspace: InMemory | OnDisk,
    runner: Runner,
) -> Parts:
    """Keep features up to a rank, known at once, among those that are `chosen`."""
    n_features = features.blocks.shape[0]
    limit = sampling.key_limit(how.seed, n_features, n_rows, chosen)
    bounds = sampling.part_bounds(n_features, n_rows * _row_bytes(features), chosen)
    find = functools.partial(_find, workspace)
    found = workspace.each(find, range(len(bounds)))
    if all(found):
        return list(found)
    edges = np.cumsum((0, *features.blocks.chunks[0]))
    known = how.exclude and features.in_place is not None
    kept = [] if known else _read(features, limit, how, 0, len(edges) - 1)
    in_place = delayed(features.in_place, pure=False, traverse=False)
    lacking = [part for part, old in enumerate(found) if old is None]
    blocks = [kept[_overlapping(edges, *bounds[part])] for part in lacking]
    calls = []
    for part, some in zip(lacking, blocks, strict=True):
        here = chosen[slice(*bounds[part])] if known and chosen is not None else None
        which = (bounds[part], limit, here, how, workspace, f"training-{part}")
        calls.append((some, in_place, *which))
    joins = iter(tasks("join", join, calls))
    parts: Parts = [next(joins) if old is None else old for old in found]
    needed = dict.fromkeys(names(itertools.chain(*blocks)))
    return runner.hold(parts, handles=workspace.on_disk, count=list(needed))


def _keep_finite(
    features: Features,
    n_rows: int,
    how: How,
    workspace: InMemory | OnDisk,
    runner: Runner,
) -> Parts:
    """Look at all of an X in this process, then keep features by rank."""
    mapped = map_blocks("sample", finite_features, features.blocks)
    looked = [row[0] for row in mapped]
    good = np.concatenate(runner.compute(*looked, count=names(looked)))
    if not good.any():
        return []
    n_rows = min(n_rows, int(np.count_nonzero(good)))
    return _keep_ranked(features, n_rows, good, how, workspace, runner)


def _keep_lowest(
    features: Features,
    n_rows: int,
    how: How,
    workspace: InMemory | OnDisk,
    runner: Runner,
) -> Parts:
    """Keep the lowest ranks of the features that are not left out, range by range."""
    finished = workspace.find("sampled")
    if finished is not None:
        find = functools.partial(_find, workspace)
        found = workspace.each(find, range(int(finished["n_parts"])))
        if all(found):
            return list(found)
    runs = _Runs(features, n_rows, how, workspace, runner)
    while runs.start < features.blocks.shape[0]:
        runs.read_on()
    parts = runs.joined()
    if workspace.on_disk:
        workspace.save("sampled", n_parts=np.array(len(parts)))
        workspace.discard(*(n for n in workspace.names() if n.startswith("run-")))
    return parts


class _Runs:
    """The rows of the lowest keys of what has been read, a few runs a range.

    Memory here: 8 bytes a training row, and as much again while the limit is looked
    for.
    """

    def __init__(
        self,
        features: Features,
        n_rows: int,
        how: How,
        workspace: InMemory | OnDisk,
        runner: Runner,
    ) -> None:
        self._features, self._n_rows, self._how = features, n_rows, how
        self._workspace, self._runner = workspace, runner
        self._edges = np.cumsum((0, *features.blocks.chunks[0]))
        self._n_read = 0
        self._shared: list[Delayed] = []
        self._runs: list[Any] = []
        self._keys: list[Array] = []
        self._limit = int(np.iinfo(np.uint64).max)
        self.start = 0
        """Where the next range begins."""

    def read_on(self) -> None:
        """Read one more range, and lower the limit."""
        bounds = self._next_bounds()
        self.start = bounds[-1][1]
        last = int(np.searchsorted(self._edges, self.start))
        fresh = _read(self._features, self._limit, self._how, self._n_read, last)
        kept = [*self._shared, *fresh]
        edges = self._edges[self._n_read - len(self._shared) :]
        self._n_read = max(last, self._n_read)
        self._shared = kept[-1:] if self._edges[self._n_read] > self.start else []
        found = [self._workspace.find_rows(f"run-{first}") for first, _ in bounds]
        runs = [
            old or self._run(kept[_overlapping(edges, *bound)], bound)
            for old, bound in zip(found, bounds, strict=True)
        ]
        if not all(found):
            runs = self._computed(runs, names(fresh))
        keys = tasks("keys", keys_of, [(run,) for run in runs])
        self._keys += self._runner.compute(*keys)
        self._runs += runs
        self._lower()

    def _next_bounds(self) -> list[tuple[int, int]]:
        """Choose the next range, of as many features as may be kept, and cut it."""
        row_bytes, below = _row_bytes(self._features), self._limit + 1
        room = sampling.range_rows(self._n_rows, row_bytes)
        length = min(
            self._features.blocks.shape[0] - self.start, -(-room * 2**64 // below)
        )
        n_bytes = length * below // 2**64 * row_bytes
        bounds = sampling.part_bounds(length, n_bytes)
        return [(self.start + first, self.start + last) for first, last in bounds]

    def _run(self, blocks: list[Delayed], bound: tuple[int, int]) -> Delayed:
        how = (bound, self._limit, self._how)
        where = (self._workspace, f"run-{bound[0]}")
        return task("join", join_run, blocks, *how, *where)

    def _computed(self, runs: list[Any], count: list[str]) -> list[Any]:
        """Compute runs, and hold what the next range needs of the last block."""
        wanted = [*runs, *self._shared]
        held = self._runner.hold(wanted, handles=False, count=count)
        held, self._shared = held[: len(runs)], held[len(runs) :]
        return list(self._runner.compute(*held)) if self._workspace.on_disk else held

    def _lower(self) -> None:
        """Lower the limit; in memory let go of the rows above it."""
        keys = np.concatenate(self._keys)
        if len(keys) >= self._n_rows:
            self._limit = int(np.partition(keys, self._n_rows - 1)[self._n_rows - 1])
        before, self._keys = self._keys, [k[k <= self._limit] for k in self._keys]
        if self._workspace.on_disk or self.start == self._edges[-1]:
            return  # the rows of a file are read no further than they are wanted
        pairs = enumerate(zip(before, self._keys, strict=True))
        less = [number for number, (old, new) in pairs if len(new) < len(old)]
        if not less:
            return
        held = self._runner.hold([self._lowest([n], "") for n in less], handles=False)
        for number, run in zip(less, held, strict=True):
            self._runs[number] = run

    def joined(self) -> Parts:
        """Join the rows that are left, in parts of about the usual size."""
        ends = np.cumsum([len(keys) for keys in self._keys])
        if not ends[-1]:
            return []
        n_parts = sampling.count_parts(ends[-1], ends[-1] * _row_bytes(self._features))
        part_of = (ends - 1) * n_parts // ends[-1]
        parts: Parts = []
        for part in np.unique(part_of):
            numbers = np.flatnonzero(part_of == part).tolist()
            name = f"training-{len(parts)}"
            found = _find(self._workspace, len(parts))
            parts.append(found or self._lowest(numbers, name))
        return self._runner.hold(parts, handles=self._workspace.on_disk)

    def _lowest(self, numbers: list[int], name: str) -> Delayed:
        runs = [self._runs[number] for number in numbers]
        n_rows = sum(len(self._keys[number]) for number in numbers)
        how = (n_rows, self._how.weighted, self._workspace, name)
        return task("lowest", lowest, runs, *how)


def _row_bytes(features: Features) -> int:
    """Bytes of one training row."""
    width = features.blocks.shape[1] + (features.weights is not None)
    return int(width * features.dtype.itemsize)


def _find(workspace: InMemory | OnDisk, part: int) -> StoredRows | None:
    """Find a part of the training rows, which may be sorted by big cluster already."""
    for name in (f"partition-{part}", f"training-{part}"):
        if (rows := workspace.find_rows(name)) is not None:
            return rows.together()
    return None


def _overlapping(edges: Array, start: int, stop: int) -> slice:
    """Blocks that have features of a range."""
    first = int(np.searchsorted(edges, start, side="right")) - 1
    last = int(np.searchsorted(edges, stop, side="left"))
    return slice(first, last)


def _read(
    features: Features, limit: int, how: How, first: int, last: int
) -> list[Delayed]:
    """Read some blocks."""
    if first >= last:
        return []
    offset = sum(features.blocks.chunks[0][:first])
    weights = features.weight_blocks()
    if weights is not None:
        weights = weights.blocks[first:last]
    options = (offset, how, limit, features.in_place is None, weights)
    blocks = features.blocks
    if last - first < blocks.numblocks[0]:
        blocks = blocks.blocks[first:last]
    mapped = map_blocks("sample", keep, blocks, *options)
    return [row[0] for row in mapped]


def _what_is_wrong(parts: list[Any], how: How) -> str | None:
    bad = next((part for part in parts if isinstance(part, finite.Bad)), None)
    if bad is not None:
        return finite.not_finite(bad)
    if any(part.starts[-1] for part in parts):
        return None
    if how.exclude:
        zeros = " or only zeros" if how.unit else ""
        which = " of a weight above 0" if how.weighted else ""
        return (
            f"All features of X{which} have NaN or infinities{zeros}, so missing="
            "'exclude' leaves none to cluster. Look at how X was read or masked."
        )
    return (
        "All features of X that were kept for training are zeros, and have no "
        "direction. Take metric='euclidean'."
    )

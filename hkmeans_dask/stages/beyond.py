"""Stage 4b, optional: training rows look beyond their big cluster, X is not read.

The small clusters of different big ones meet at the borders of these; k-means over all
of them at once moves centers there. Passes are as in `minibatch`: over nested shares of
the rows, then over all of them, with momentum; they end when little is left to gain::

    model -> axes -> 1/4 of the rows -> 1/2 -> all -> all ... -> model
                     label -> sums, counts -> merge -> move

Rows are compared with all centers along the principal axes of these, which hold most of
what tells centers apart (their noise is averaged out, that of the rows is not). How
many axes do is measured: as few as give rows of lowest rank nearly the labels that all
dimensions would. Where tasks run in the process that has the rows, and these are few,
it has their coordinates, too. Sums are of all dimensions. Axes of the model, along
which `label` rules centers out, are those by which a few rows take least arithmetic.

With prices (see `balance`) all passes are over all rows and along all dimensions: the
prices that make sizes even are others along the axes, where noise is averaged out.
"""

from __future__ import annotations

import itertools
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from hkmeans_dask.kmeans import kernels, pruning
from hkmeans_dask.kmeans.axes import ALL_DIMENSIONS, DECOMPOSITION, MOST_DIMS
from hkmeans_dask.kmeans.beyond import (
    ROWS_TOGETHER,
    TRIED_ROWS,
    State,
    are_held,
    fewest_axes,
    nearest,
    nearest_along,
)
from hkmeans_dask.kmeans.crew import tiles
from hkmeans_dask.kmeans.even import Aside, charged, relearned
from hkmeans_dask.kmeans.hierarchy import FREE, Hierarchy
from hkmeans_dask.kmeans.minibatch import MOMENTUM, left_to_gain
from hkmeans_dask.kmeans.moves import merge, say, to_means
from hkmeans_dask.kmeans.pruning import NO_AXES
from hkmeans_dask.runtime.blas import one_blas_thread
from hkmeans_dask.runtime.tasks import task, tasks
from hkmeans_dask.workspace.passes import as_arrays, pass_over
from hkmeans_dask.workspace.records import read
from hkmeans_dask.workspace.rows import gather, row_bytes, split_weights
from hkmeans_dask.workspace.spread import heads

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from dask.delayed import Delayed

    from hkmeans_dask.kmeans.hierarchy import Arrays
    from hkmeans_dask.kmeans.kernels import Array, Index
    from hkmeans_dask.kmeans.moves import Partial
    from hkmeans_dask.runtime.execution import Runner
    from hkmeans_dask.workspace.files import InMemory, OnDisk
    from hkmeans_dask.workspace.records import Partitions
    from hkmeans_dask.workspace.rows import Rows, StoredRows
    from hkmeans_dask.workspace.spread import Head

TOLERANCE = 5e-3
"""Passes end when less than this fraction of the inertia is left to gain."""

MOST_PASSES = 20
"""Passes over the training rows, at most."""

FEWEST_ROWS = 32
"""Rows per small cluster in the smallest share, about: fewer tell no means."""

SMALLEST_SHARE = 1 / 4
"""Of the rows, at least."""

TRIED_SHARE = 1 / 16
"""Of the rows are tried, at most."""


def look_beyond(
    partitions: Partitions,
    model: Any,
    n_rows: int,
    workspace: InMemory | OnDisk,
    runner: Runner,
    weight_exponent: int,
    name: str,
    aside: Any = None,
) -> Any:
    """Move the small centers to the means of training rows, while that gains much.

    Parameters
    ----------
    partitions : Partitions
    model : Delayed of mapping, or Record
        From `train_fine`, or `even`.
    n_rows : int
        Training rows.
    workspace : InMemory or OnDisk
    runner : Runner
    weight_exponent : int
        The power of 2 by which weights were divided.
    name : str
        Under which the workspace keeps the model.
    aside : Delayed of mapping, or Record, optional
        From `even`: rows on which prices are learned anew after each pass.

    Returns
    -------
    model : Delayed of mapping, or Record
        As from `train_fine`, but every feature is compared with all small clusters.

    Notes
    -----
    No read of X. Memory of a task: a part of the training rows and its coordinates,
    `ROWS_TOGETHER` of them twice, and what `refine` takes. Coordinates of all rows are
    held if tasks run in this process, for up to `COORDINATE_BYTES`.
    """
    best = state = _begun(partitions, model, workspace, runner)
    seen = [None] * len(partitions.source)
    if aside is None and runner.computes_here and not workspace.on_disk:
        seen = _seen_here(partitions, state, n_rows, runner)
    lowest = last = np.inf
    shares: Iterable[float] = _shares(n_rows, int(partitions.shares.sum()))
    if aside is not None:
        shares = itertools.repeat(1.0, MOST_PASSES)
    for number, share in enumerate(shares, 1):
        sums = partial(_sums_of_rows, partitions, share, seen)
        how = (workspace, runner, MOST_PASSES, weight_exponent)
        move = partial(_move, share)
        state, outcome = pass_over(f"rows-{number}", sums, move, state, *how, aside)
        if share < 1:
            continue
        left = outcome.inertia - outcome.gain
        if left >= lowest:
            break  # it went too far
        gain, best, lowest = lowest - left, state, left
        to_gain = left_to_gain(gain, min(last, 2 * gain))
        if to_gain <= TOLERANCE * left and not outcome.seeded:
            break
        last = gain
    found = task("centers", _end, best, aside, workspace, name)
    return runner.hold([found], handles=workspace.on_disk)[0]


def _begun(
    partitions: Partitions, model: Any, workspace: InMemory | OnDisk, runner: Runner
) -> Any:
    begun = workspace.find("rows-0")
    if begun is None:
        groups, n_clusters = partitions.groups, int(partitions.shares.sum())
        told = heads(partitions.source, workspace)
        how = (told, n_clusters, partitions.coarse.weighted)
        calls = [
            (rows, here, groups[bigs], *how) for rows, bigs, here in partitions.bundles
        ]
        tried = tasks("tried", _tried, calls)
        begun = task("begin", _begin, tried, model, groups, workspace)
    return runner.hold([begun], handles=workspace.on_disk)[0]


def _shares(n_rows: int, n_clusters: int) -> Iterator[float]:
    """Shares of the rows that passes take: doubled until it is all of them."""
    share = 1.0
    while share > SMALLEST_SHARE and share * n_rows >= 2 * FEWEST_ROWS * n_clusters:
        share /= 2
    for _ in range(MOST_PASSES):
        yield share
        share = min(1.0, 2 * share)


def _seen_here(
    partitions: Partitions, state: Any, n_rows: int, runner: Runner
) -> list[Any]:
    """Coordinates of the rows of each part, if these are few."""
    center = partitions.coarse.centers[0]
    if not are_held(n_rows, center.nbytes, len(center)):
        return [None] * len(partitions.source)
    what = (state, partitions.coarse.weighted)
    calls = [(part, *what) for part in partitions.source]
    return runner.hold(tasks("along", _along, calls), handles=False)


def _sums_of_rows(
    partitions: Partitions, share: float, seen: list[Any], state: Any
) -> list[Delayed]:
    what = (state, share, partitions.coarse.weighted)
    parts = zip(partitions.source, seen, strict=True)
    return tasks("rows", _sum_rows, [(*part, *what) for part in parts])


@one_blas_thread
def _begin(
    tried: list[list[Array]],
    model: Arrays,
    groups: Index,
    workspace: InMemory | OnDisk,
) -> Arrays:
    """Find out along which axes rows are compared with centers."""
    model = read(model)
    found = Hierarchy.of(model)
    levels = (found.offset, found.coarse, groups, found.fine, found.fine)
    drawn = model["total"], model["limit"]
    axes = ALL_DIMENSIONS, NO_AXES
    state = State(*levels, *axes, found.unit, *drawn, found.prices)
    rows = list(itertools.chain(*tried))
    if rows:
        state = _with_axes(rows, state)
    return workspace.save("rows-0", **state._asdict())


def _may_pay(n_rows: int, n_clusters: int, n_dims: int) -> bool:
    """Whether finding axes takes no longer than a pass."""
    cost = n_dims**2 * (n_clusters + DECOMPOSITION * n_dims)
    return n_dims <= MOST_DIMS and cost <= n_rows * n_clusters * n_dims


def _with_axes(rows: list[Array], state: State) -> State:
    """Choose axes by some rows of each big cluster."""
    points = np.concatenate(rows)
    big = np.repeat(np.arange(len(rows)), [len(some) for some in rows])
    seen = (state.fine - state.offset).astype(np.float64)
    _, ascending = np.linalg.eigh(seen.T @ seen)
    all_axes = ascending[:, ::-1].astype(points.dtype)
    levels = (state.fine, all_axes, state.offset, state.prices)
    some = points[::2]  # half of them tell as well what takes least arithmetic
    state = state._replace(model_axes=pruning.choose_axes(some, *levels))
    if state.prices.size:
        return state
    return state._replace(axes=fewest_axes(points, big, state, all_axes))


def _tried(
    parts: list[Rows | StoredRows],
    here: Index,
    groups: Index,
    told: list[Rows | StoredRows | Head],
    n_clusters: int,
    weighted: bool,
) -> list[Array]:
    """Rows of lowest rank of some big clusters, on which axes are tried, if any are.

    Their groups are those `here`; in the parts that are told of, `groups`.
    """
    sizes = np.sum([np.diff(part.starts) for part in told], axis=0)
    n_rows = int(sizes.sum())
    n_dims = parts[0].like.shape[1] - weighted
    if not _may_pay(n_rows, n_clusters, n_dims):
        return []
    share = min(TRIED_ROWS, int(TRIED_SHARE * n_rows)) / n_rows
    found = []
    for group, size in zip(here.tolist(), sizes[groups].tolist(), strict=True):
        rows = gather(parts, group, max(1, int(share * size)), ROWS_TOGETHER)
        found.append(split_weights(rows)[0] if weighted else rows)
    return found


@one_blas_thread
def _along(part: Rows | StoredRows, state: Arrays, weighted: bool) -> Array | None:
    """Coordinates of all rows of a part, in its order; None without axes.

    Of all in all passes: products round by the place of a row.
    """
    rows, now = part.load(), State.of(state)
    if not now.axes.size:
        return None
    found = np.empty((len(rows.order), now.axes.shape[1]), now.axes.dtype)
    for here in _together(rows, len(rows.order)):
        points, _ = _points(rows, rows.order[here], weighted)
        np.dot(points - now.offset, now.axes, out=found[here])
    return found


@one_blas_thread
def _sum_rows(
    part: Rows | StoredRows,
    seen: Array | None,
    state: Arrays,
    share: float,
    weighted: bool,
) -> Partial:
    """Label a share of a part's rows, and say what they say about the centers."""
    rows, now = part.load(), State.of(state)
    seen = _along(rows, state, weighted) if seen is None else seen
    chosen = _of_lowest_keys(rows.keys, share)
    groups = np.searchsorted(rows.starts, chosen, side="right") - 1
    big = np.argsort(now.groups)[np.searchsorted(np.sort(now.groups), groups)]
    found = []
    for here in _together(rows, len(chosen)):
        points, weights = _points(rows, rows.order[chosen[here]], weighted)
        if seen is None:
            labels = nearest(points, big[here], now)
        else:
            labels = nearest_along(seen[chosen[here]], big[here], now)
        found.append(say(points, labels, now.ahead, weights))
    return merge(found)


def _together(rows: Rows, n_rows: int) -> list[slice]:
    """Cut rows into as many as are labelled at once; into one if there are none."""
    return tiles(max(1, n_rows), max(1, ROWS_TOGETHER // max(1, row_bytes(rows.like))))


def _points(rows: Rows, order: Index, weighted: bool) -> tuple[Array, Array | None]:
    """Points, and their weights if they have any."""
    taken = kernels.take(rows.array, order)
    return split_weights(taken) if weighted else (taken, None)


def _of_lowest_keys(keys: Array, share: float) -> Index:
    """Positions of a share of the keys, the lowest ones, ascending."""
    if share == 1 or not len(keys):
        return np.arange(len(keys))
    last = int(np.ceil(share * len(keys))) - 1
    return np.flatnonzero(keys <= np.partition(keys, last)[last])


@one_blas_thread
def _move(
    share: float,
    found: Partial,
    state: Arrays,
    aside: Arrays | None,
    workspace: InMemory | OnDisk,
    name: str,
) -> Arrays:
    """Move centers to the means of their rows, and on from there."""
    state = read(state)
    before, unit = State.of(state), bool(state["unit"])
    if share < 1:  # a center without rows may have some among the others
        found = found._replace(far=found.far.none())
    fine, outcome = to_means(found, before.ahead, unit)
    steps = (fine - before.fine) * fine.dtype.type(MOMENTUM)
    moved = found.clusters[found.counts > 0]
    ahead = fine.copy()
    ahead[moved] += steps[moved]
    ahead = kernels.to_unit(ahead)[0] if unit else ahead
    now = before._replace(fine=fine, ahead=ahead)
    if aside is not None:
        prices = charged(before.prices, before.ahead, ahead, found)
        prices = relearned(prices, ahead, now.offset, Aside.of(read(aside)))
        now = now._replace(prices=prices)
    return workspace.save(name, **as_arrays(outcome._asdict() | now._asdict()))


@one_blas_thread
def _end(
    state: Arrays, aside: Arrays | None, workspace: InMemory | OnDisk, name: str
) -> Arrays:
    now, prices = State.of(read(state)), FREE
    if aside is not None:
        prices = relearned(now.prices, now.fine, now.offset, Aside.of(read(aside)))
    levels = (now.offset, now.coarse, now.fine)
    how = {"unit": now.unit, "prices": prices, "axes": now.model_axes}
    found = Hierarchy.arrange(*levels, exact=True, **how)
    drawn: dict[str, Any] = {"total": now.total, "limit": now.limit}
    return workspace.save(name, **drawn, passes=np.array(0), **found._asdict())

"""Stage 5, optional: passes in which features look beyond their big cluster.

Each pass is one read of X, a step of Lloyd's algorithm::

    X --block--> label --> sums, counts, farthest features -\
    X --block--> label --> ...                               -+--merge--> centers move
        ^                                                                   |
        +------------ the model of the next pass <--------------------------+

Neighbours merge eight at a time in the order of the features: the result hangs on X and
its chunks alone. Passes end early when moving the centers gains little.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from hkmeans_dask.kmeans import finite
from hkmeans_dask.kmeans.even import Aside, charged, even_out
from hkmeans_dask.kmeans.hierarchy import Hierarchy
from hkmeans_dask.kmeans.moves import Partial, say, to_means
from hkmeans_dask.runtime.blas import one_blas_thread
from hkmeans_dask.runtime.tasks import map_blocks, task
from hkmeans_dask.workspace.passes import as_arrays, pass_over
from hkmeans_dask.workspace.records import read
from hkmeans_dask.workspace.spread import heads

if TYPE_CHECKING:
    import dask.array as da
    from dask.delayed import Delayed

    from hkmeans_dask.inputs.arrays import Features
    from hkmeans_dask.kmeans.hierarchy import Arrays
    from hkmeans_dask.kmeans.kernels import Array
    from hkmeans_dask.runtime.execution import Runner
    from hkmeans_dask.workspace.files import InMemory, OnDisk
    from hkmeans_dask.workspace.records import Coarse
    from hkmeans_dask.workspace.rows import Rows, StoredRows
    from hkmeans_dask.workspace.spread import Head, Parts

TOLERANCE = 1e-4
"""Passes end when the last one lowered the inertia by less than this fraction."""


def begin_with(
    init: Array,
    coarse: Coarse,
    parts: Parts,
    workspace: InMemory | OnDisk,
    runner: Runner,
    name: str,
) -> Any:
    """Make a model of given centers; the first pass then compares all of them.

    Parameters
    ----------
    init : ndarray of shape (n_clusters, n_samples)
    coarse : Coarse
    parts : list of training rows
        Of which the checksum is taken.
    workspace : InMemory or OnDisk
    runner : Runner
    name : str
        Under which the workspace keeps the model.

    Returns
    -------
    model : Delayed of mapping, or Record
        As from `train_fine`.
    """
    told = heads(parts, workspace)
    begun = task("begin", _begin, init, coarse, told, workspace, name)
    return runner.hold([begun], handles=workspace.on_disk)[0]


def refine(
    features: Features,
    model: Any,
    n_passes: int,
    workspace: InMemory | OnDisk,
    runner: Runner,
    *,
    exact: bool,
    exclude: bool = False,
    aside: Any = None,
) -> Any:
    """Read X up to `n_passes` times, and move the small centers to their means.

    Parameters
    ----------
    features : Features
    model : Delayed of mapping, or Record
        From `train_fine` or `begin_with`.
    n_passes : int
        At least one.
    workspace : InMemory or OnDisk
    runner : Runner
    exact : bool
        Whether features compare all centers, even if they are many.
    exclude : bool, default=False
        Whether features with values that are not finite are left out.
    aside : Delayed of mapping, or Record, optional
        From `even`: rows on which prices are learned anew after each pass.

    Returns
    -------
    model : Delayed of mapping, or Record
        The fields of `Hierarchy` by name, the ``"total"`` and ``"limit"`` of the model
        that came, and ``"passes"``, the number made.

    Notes
    -----
    Memory of a task, beside the model: a block of X (and its cast), 24 bytes a feature,
    and float64 sums (n_present, n_samples) of the clusters in it; where sums are
    merged, nine of them.
    """
    model = task("widen", _widen, model, exact)
    for number in range(1, n_passes + 1):
        what = (features.blocks, features.weight_blocks(), exclude)
        sums = partial(_sums, *what)
        name, rounds = f"refine-{number}", n_passes - number + 1
        how = (workspace, runner, rounds, features.weight_exponent)
        move = partial(_move, exact)
        model, outcome = pass_over(name, sums, move, model, *how, aside)
        if outcome.gain <= TOLERANCE * outcome.inertia and not outcome.seeded:
            break
    final = task("model", _save, model, number, workspace)
    return runner.hold([final], handles=workspace.on_disk)[0]


def _sums(
    blocks: da.Array, weights: da.Array | None, exclude: bool, model: Any
) -> list[Delayed]:
    mapped = map_blocks("refine", _sum, blocks, model, weights, exclude)
    return [row[0] for row in mapped]


@one_blas_thread
def _begin(
    init: Array,
    coarse: Coarse,
    parts: list[Rows | StoredRows | Head],
    workspace: InMemory | OnDisk,
    name: str,
) -> Arrays:
    fine = np.ascontiguousarray(init, coarse.centers.dtype)
    levels, unit = (coarse.offset, coarse.centers, fine), np.array(coarse.unit)
    found = Hierarchy.arrange(*levels, exact=True, unit=unit)
    total = np.array(sum(part.total for part in parts) % 2**64, np.uint64)
    limit = np.array(max(part.highest for part in parts), np.uint64)
    return workspace.save(name, total=total, limit=limit, **found._asdict())


@one_blas_thread
def _widen(model: Arrays, exact: bool) -> Arrays:
    """Let features look beyond their big cluster."""
    model = read(model)
    found = Hierarchy.of(model).rearranged(exact=exact)
    return {**_drawn(model), **found._asdict()}


def _drawn(model: Arrays) -> dict[str, Any]:
    """Give what tells the training rows of a model."""
    return {name: model[name] for name in ("total", "limit")}


def _sum(
    block: Any, start: int, model: Arrays, weights: Array | None, exclude: bool
) -> Partial:
    """Label a block, and say what its features say about the centers."""
    hierarchy = Hierarchy.of(model)
    weights = None if weights is None else weights[:, 0]
    good = finite.finite_rows(block) if exclude else None
    if good is not None:
        block, weights = block[good], None if weights is None else weights[good]
    points = hierarchy.points(block)
    return say(points, hierarchy.label(points), hierarchy.fine, weights)


@one_blas_thread
def _move(
    exact: bool,
    found: Partial,
    model: Arrays,
    aside: Arrays | None,
    workspace: InMemory | OnDisk,
    name: str,
) -> Arrays:
    model = read(model)
    hierarchy = Hierarchy.of(model)
    prices = hierarchy.prices
    fine, outcome = to_means(found, hierarchy.fine, bool(hierarchy.unit))
    if prices.size:
        prices = charged(prices, hierarchy.fine, fine, found)
    moved = hierarchy._replace(fine=fine, prices=prices).rearranged(exact=exact)
    if aside is not None:
        moved = even_out(moved, Aside.of(read(aside)), exact=exact)
    told = outcome._asdict() | moved._asdict()
    return workspace.save(name, **_drawn(model), **as_arrays(told))


def _save(
    model: Arrays, passes: int, workspace: InMemory | OnDisk, name: str = "model"
) -> Arrays:
    """Save what the label stage and a fit that goes on look for."""
    model = read(model)
    fields = Hierarchy.of(model)._asdict()
    passes_made = np.array(passes)
    return workspace.save(name, **_drawn(model), passes=passes_made, **fields)

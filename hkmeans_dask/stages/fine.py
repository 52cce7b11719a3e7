"""Stage 4: k-means inside each big cluster, one delayed task per big cluster.

Those with the largest shares begin first, or all would wait for the last one.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

import numpy as np

from hkmeans_dask.kmeans.axes import train_along
from hkmeans_dask.kmeans.balance import balanced
from hkmeans_dask.kmeans.hierarchy import FREE, NESTED, Hierarchy, label_coarse
from hkmeans_dask.runtime.blas import one_blas_thread
from hkmeans_dask.runtime.tasks import names, task
from hkmeans_dask.workspace.files import digest
from hkmeans_dask.workspace.records import read
from hkmeans_dask.workspace.rows import gather_partition

if TYPE_CHECKING:
    from hkmeans_dask.kmeans.hierarchy import Arrays
    from hkmeans_dask.kmeans.kernels import Array
    from hkmeans_dask.kmeans.minibatch import Schedule
    from hkmeans_dask.runtime.execution import Runner
    from hkmeans_dask.workspace.files import InMemory, OnDisk
    from hkmeans_dask.workspace.records import Coarse, Partitions
    from hkmeans_dask.workspace.rows import Rows, StoredRows


TOLERANCE = 3e-2
"""Training ends where less than this fraction of the yardstick is left to gain, where
passes over the rows of all big clusters follow: these gain the rest for less."""

SPREAD_LEFT = 0.5
"""Share of the spread about big clusters that small ones may leave, roughly.

Progress is measured against it in every big cluster alike: passes then go where they
lower the inertia of the whole, and none are spent on polishing a uniform background.
"""


def train_fine(
    partitions: Partitions,
    schedule: Schedule,
    seed: int,
    init: Array | None,
    workspace: InMemory | OnDisk,
    runner: Runner,
    *,
    beyond: bool = False,
) -> Any:
    """Find the small clusters of every big cluster.

    Parameters
    ----------
    partitions : Partitions
    schedule : Schedule
    seed : int
    init : ndarray of shape (n_clusters, n_samples), optional
        Initial centers; each starts in the big cluster nearest to it.
    workspace : InMemory or OnDisk
    runner : Runner
    beyond : bool, default=False
        Whether features look beyond their big cluster later: these centers then are
        but a beginning, and the model is kept as "fine" instead of "model".

    Returns
    -------
    model : Delayed of mapping, or Record
        The fields of `Hierarchy` by name, where the scheduler keeps them: a computed
        key, which a cluster can compute again when a worker dies, or a file.
    """
    shares, coarse = partitions.shares, partitions.coarse
    seeds = _seeds(init, coarse) if init is not None else [None] * len(shares)
    yardstick = SPREAD_LEFT * coarse.spread
    if beyond:
        schedule = schedule._replace(tolerance=TOLERANCE)
    axes = task("axes", np.asarray, coarse.axes)  # one copy, not one a big cluster
    of = digest(coarse.offset, coarse.centers, coarse.prices, shares)
    find = functools.partial(workspace.find, of=of)
    fine = workspace.each(find, [f"fine-{big}" for big in range(len(shares))])
    lacking = []
    for some, group, big in partitions.each():
        share = int(shares[big])
        rows = (some, group, coarse.origins[big], axes)
        start = (share, schedule, [seed, 1, big], yardstick, seeds[big])
        where = (workspace, f"fine-{big}", of)
        if fine[big] is None:
            fine[big] = task("fine", _train, *rows, *start, *where, rank=share)
            lacking.append(fine[big])
    made_of = (coarse, shares, fine, partitions.total, partitions.limit)
    name = "fine" if beyond else "model"
    model = task("centers", _assemble, *made_of, workspace, name)
    count = names(lacking)
    return runner.hold([model], handles=workspace.on_disk, count=count)[0]


@one_blas_thread
def _train(
    parts: list[Rows | StoredRows],
    group: int,
    origin: Array,
    axes: Array,
    n_clusters: int,
    schedule: Schedule,
    entropy: list[int],
    yardstick: float,
    given: Array | None,
    workspace: InMemory | OnDisk,
    name: str,
    of: int,
) -> Arrays:
    weighted = schedule.weighted
    points, weights = gather_partition(parts, group, origin, weighted=weighted)
    rng = np.random.default_rng(entropy)
    seeds = None if given is None else given - origin
    how = {"seeds": seeds, "spread": yardstick, "weights": weights}
    centers = train_along(axes, points, n_clusters, schedule, rng, **how)
    prices = FREE
    if schedule.balance:
        wanted = (schedule.balance, weights, schedule.unit)
        centers, prices = balanced(points, centers, *wanted)
    return workspace.save(name, of=of, centers=centers + origin, prices=prices)


@one_blas_thread
def _seeds(init: Array, coarse: Coarse) -> list[Array | None]:
    """Given centers of each big cluster; None where it has none."""
    points = np.ascontiguousarray(init, coarse.centers.dtype)
    labels = label_coarse(points, coarse.centers, coarse.offset)
    groups = (points[labels == big] for big in range(len(coarse.centers)))
    return [group if len(group) else None for group in groups]


def _assemble(
    coarse: Coarse,
    shares: Array,
    fine: list[Arrays],
    total: Array,
    limit: Array,
    workspace: InMemory | OnDisk,
    name: str,
) -> Arrays:
    fine = workspace.each(read, fine)
    parents = np.repeat(np.arange(len(shares)), shares)
    centers = np.concatenate([found["centers"] for found in fine])
    unit = np.array(coarse.unit)
    prices = np.concatenate([found["prices"] for found in fine])
    levels = (coarse.offset, coarse.centers, centers, parents)
    found = Hierarchy(*levels, NESTED, unit, prices, coarse.prices)
    told: dict[str, Any] = {"total": total, "limit": limit, "passes": np.array(0)}
    return workspace.save(name, **told, **found._asdict())

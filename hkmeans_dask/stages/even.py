"""Stage 4a, with `balance`: prices where features look beyond their big cluster.

Some training rows, those of lowest rank, are put aside. On them prices are learned
among all small clusters, here and whenever a pass has moved the centers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from hkmeans_dask.kmeans import kernels
from hkmeans_dask.kmeans.balance import points_needed
from hkmeans_dask.kmeans.even import Aside, even_out, factor_wanted
from hkmeans_dask.kmeans.hierarchy import Hierarchy
from hkmeans_dask.runtime.blas import one_blas_thread
from hkmeans_dask.runtime.tasks import task, tasks
from hkmeans_dask.workspace.records import read
from hkmeans_dask.workspace.rows import even_rows, row_bytes, split_weights

if TYPE_CHECKING:
    from hkmeans_dask.kmeans.hierarchy import Arrays
    from hkmeans_dask.kmeans.kernels import Array
    from hkmeans_dask.runtime.execution import Runner
    from hkmeans_dask.workspace.files import InMemory, OnDisk
    from hkmeans_dask.workspace.rows import Rows, StoredRows
    from hkmeans_dask.workspace.spread import Parts


def even(
    parts: Parts,
    n_rows: int,
    n_clusters: int,
    model: Any,
    balance: float,
    workspace: InMemory | OnDisk,
    runner: Runner,
    name: str,
    *,
    exact: bool,
    weighted: bool,
) -> tuple[Any, Any]:
    """Learn the prices of small clusters that all features may choose.

    Parameters
    ----------
    parts : list of training rows
    n_rows : int
        How many these are, at most.
    n_clusters : int
        Small clusters, at most.
    model : Delayed of mapping, or Record
        From `train_fine` or `begin_with`.
    balance : float
        How even sizes are to be, from 0 to 1.
    workspace : InMemory or OnDisk
    runner : Runner
    name : str
        Under which the workspace keeps the model.
    exact : bool
        Whether features compare all centers, even if they are many.
    weighted : bool
        Whether rows have weights.

    Returns
    -------
    model : Delayed of mapping, or Record
        As it came, but for the prices, and with small clusters below the coarse centers
        that are nearest to them.
    aside : Delayed of mapping, or Record
        Rows, and the imbalance factor wanted, by which a pass that moves centers
        learns prices anew.
    """
    some = tasks("some", _lowest, [(part, n_rows, n_clusters) for part in parts])
    kept = task("aside", _put_aside, some, model, weighted, balance, workspace)
    (aside,) = runner.hold([kept], handles=workspace.on_disk)
    made = task("even", _even, aside, model, exact, workspace, name)
    (model,) = runner.hold([made], handles=workspace.on_disk)
    return model, aside


def _lowest(
    part: Rows | StoredRows, n_rows: int, n_clusters: int
) -> tuple[Array, Array]:
    """Take the rows of lowest rank from a part, its share of those wanted; and keys."""
    rows = part.load()
    most = even_rows(points_needed(n_clusters), n_clusters, row_bytes(rows.like))
    n_taken = -(-len(rows.order) * most // n_rows)
    by_rank = np.argsort(rows.keys, kind="stable")[:n_taken]
    return kernels.take(rows.array, rows.order[by_rank]), rows.keys[by_rank]


@one_blas_thread
def _put_aside(
    some: list[tuple[Array, Array]],
    model: Arrays,
    weighted: bool,
    balance: float,
    workspace: InMemory | OnDisk,
) -> Arrays:
    rows, keys = (np.concatenate(values) for values in zip(*some, strict=True))
    points = rows[np.argsort(keys, kind="stable")]
    weights = np.ones(len(points), points.dtype)
    if weighted:
        points, weights = split_weights(points)
    factor = factor_wanted(Hierarchy.of(read(model)), points, weights, balance)
    aside: dict[str, Any] = Aside(points, weights, np.array(factor))._asdict()
    return workspace.save("aside", **aside)


@one_blas_thread
def _even(
    aside: Arrays, model: Arrays, exact: bool, workspace: InMemory | OnDisk, name: str
) -> Arrays:
    found = even_out(Hierarchy.of(read(model)), Aside.of(read(aside)), exact=exact)
    told: dict[str, Any] = {field: model[field] for field in ("total", "limit")}
    return workspace.save(name, **told, passes=np.array(0), **found._asdict())

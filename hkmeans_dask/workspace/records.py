"""What the stages of a fit hand to each other, in the order data flows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from hkmeans_dask.kmeans.axes import ALL_DIMENSIONS
from hkmeans_dask.kmeans.hierarchy import FREE
from hkmeans_dask.runtime.tasks import task
from hkmeans_dask.workspace.files import Record, digest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from dask.delayed import Delayed

    from hkmeans_dask.kmeans.hierarchy import Arrays
    from hkmeans_dask.kmeans.kernels import Array, Index
    from hkmeans_dask.runtime.execution import Runner
    from hkmeans_dask.workspace.spread import Bundle, Parts


def at_hand(model: Any, runner: Runner) -> Any:
    """Have a model in a file read by one task, for all that need it.

    A worker gets it once, not with each block, and keeps it as long as it is needed.

    Parameters
    ----------
    model : Delayed of mapping, or Record
    runner : Runner

    Returns
    -------
    model : Delayed of mapping
        Already computed.
    """
    if not isinstance(model, Record):
        return model
    return runner.hold([task("model", _load, model)], handles=False)[0]


def _load(model: Record) -> Arrays:
    return model.load()


def read(arrays: Arrays, *names: str) -> Arrays:
    """Have arrays in memory, all or some; those of a file by one read of it."""
    return arrays.load(*names) if isinstance(arrays, Record) else arrays


class Coarse(NamedTuple):
    """What the coarse stage decided."""

    offset: Array
    """(n_samples,), in the dtype of the training rows."""

    centers: Array
    """(n_big_clusters, n_samples)."""

    spread: float = 0.0
    """Mean squared distance of training rows to their centers, of those of lowest rank;
    0 if not known."""

    unit: bool = False
    """Whether training rows and centers have unit length."""

    weighted: bool = False
    """Whether training rows have weights, in their last column."""

    axes: Array = ALL_DIMENSIONS
    """(n_samples, n_axes), along which the rows of big clusters are trained, if any."""

    prices: Array = FREE
    """(n_big_clusters,), added to squared distances; or `FREE`."""

    @property
    def digest(self) -> int:
        """A checksum by which to know what was derived from it."""
        return digest(self.offset, self.centers, self.prices)

    @property
    def origins(self) -> Array:
        """From where the rows of each big cluster are seen: its center.

        Directions are seen from the origin.
        """
        return np.zeros_like(self.centers) if self.unit else self.centers


class Partitions(NamedTuple):
    """The training rows by big cluster."""

    bundles: list[Bundle]
    """What tasks gather rows of one big cluster from: all parts, or in a workspace that
    is spread over many processes the rows of some big clusters."""

    groups: Index
    """(n_big_clusters,), the group of rows that each big cluster has in the parts."""

    shares: Index
    """(n_big_clusters,), the small clusters of each big one."""

    coarse: Coarse
    """The big clusters that have training rows; the others are gone."""

    total: Array
    """Checksum of all training rows, uint64."""

    limit: Array
    """Their highest key, uint64."""

    source: Parts
    """All parts sorted by big cluster, of which bundles are made: a cluster forgets
    what no client refers to, and a Delayed does not refer to what is nested in its
    arguments."""

    def each(self) -> Iterator[tuple[Delayed, int, int]]:
        """Give the rows that have those of a big cluster, its group, and its number."""
        for bundle in self.bundles:
            pairs = zip(bundle.groups.tolist(), bundle.bigs.tolist(), strict=True)
            yield from ((bundle.rows, *pair) for pair in pairs)

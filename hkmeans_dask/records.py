"""What the stages of a fit hand to each other, in the order data flows."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from dask.delayed import Delayed

    from hkmeans_dask.kernels import Array, Bad, Index


class Training(NamedTuple):
    """The features kept for training."""

    rows: Array
    """(n_rows, n_samples), in feature order; all of X where that is in this process."""

    order: Index
    """(n_training_rows,), numbers of the training rows, in rank order."""

    bad: Bad | None


class Coarse(NamedTuple):
    """What the coarse stage decided."""

    offset: Array
    """(n_samples,), in the dtype of the training rows."""

    centers: Array
    """(n_big_clusters, n_samples)."""

    spread: float = 0.0
    """Mean squared distance of its training rows to their centers; 0 if not known."""


class Partitions(NamedTuple):
    """The training rows by big cluster."""

    rows: list[Delayed]
    """Per big cluster its rows minus its center, ndarray (n_rows, n_samples)."""

    shares: Index
    """(n_big_clusters,), the small clusters of each big one."""

    coarse: Coarse
    """The big clusters that have training rows; the others are gone."""

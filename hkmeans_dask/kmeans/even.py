"""Prices among all small clusters, whose features look beyond their big cluster.

Prices that were learned inside each big cluster say nothing about those of the others,
and centers that move leave them behind: so they are learned anew on some points of all
big clusters, for centers that stay.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from hkmeans_dask.kmeans import kernels
from hkmeans_dask.kmeans.balance import evened, imbalance, learn, squared_steps
from hkmeans_dask.kmeans.heaps import with_room
from hkmeans_dask.kmeans.hierarchy import FREE

if TYPE_CHECKING:
    from hkmeans_dask.kmeans.hierarchy import Arrays, Hierarchy
    from hkmeans_dask.kmeans.kernels import Array
    from hkmeans_dask.kmeans.moves import Partial


class Aside(NamedTuple):
    """Points by which prices are learned anew, in random order."""

    points: Array
    """(n_points, n_dims), the dtype of the centers."""

    weights: Array
    """(n_points,)."""

    factor: Array
    """The imbalance factor wanted, at most."""

    @classmethod
    def of(cls, arrays: Arrays) -> Aside:
        """Take the fields from a mapping by name."""
        return cls(*(arrays[name] for name in cls._fields))


def factor_wanted(
    found: Hierarchy, points: Array, weights: Array | None, balance: float
) -> float:
    """Tell the imbalance factor that sizes may have.

    The lower one of what `found` has and of that of free centers, where all features
    may choose all of them, less the part `balance`.
    """
    wide = found._replace(prices=FREE).rearranged(exact=True)
    free = imbalance(_sizes(wide, points, weights))
    factor = 1 + (free - 1) * (1 - balance)
    if not found.prices.size:
        return factor
    return min(factor, imbalance(_sizes(found, points, weights)))


def even_out(found: Hierarchy, aside: Aside, *, exact: bool) -> Hierarchy:
    """Learn prices anew, and put small clusters below the nearest coarse centers.

    Parameters
    ----------
    found : Hierarchy
    aside : Aside
    exact : bool
        Whether features compare all small clusters, even if they are many.

    Returns
    -------
    hierarchy : Hierarchy
        The same centers, in another order, and their prices.
    """
    prices = relearned(found.prices, found.fine, found.offset, aside)
    return found._replace(prices=prices).rearranged(exact=exact)


def relearned(prices: Array, centers: Array, offset: Array, aside: Aside) -> Array:
    """Learn prices anew until the imbalance factor is no higher than wanted.

    The sizes wanted follow those without prices: prices so are no higher than they have
    to be. By sizes at the prices so far these would grow with each pass, as centers
    move to where prices keep them.

    Parameters
    ----------
    prices : ndarray of shape (n_clusters,)
        To begin with, where they are nearer to what is wanted than none; or `FREE`.
    centers : ndarray of shape (n_clusters, n_dims)
    offset : ndarray of shape (n_dims,)
    aside : Aside

    Returns
    -------
    prices : ndarray of shape (n_clusters,)
    """
    points, centers = aside.points - offset, centers - offset
    what, start = (points, centers, aside.weights), np.zeros_like(centers[:, 0])
    labels = kernels.assign(points, centers)
    sizes = np.bincount(labels, aside.weights, minlength=len(centers))
    wanted = evened(sizes, aside.factor.item())
    wanted = with_room(wanted, points, labels, aside.weights)
    if prices.size:
        before = _sizes_at(prices, *what)
        nearer = np.abs(before - wanted).sum() < np.abs(sizes - wanted).sum()
        start = prices if nearer and not _emptied(sizes, before) else start
    learned = learn(points, centers, start, wanted, aside.weights)
    kept = start if _emptied(sizes, _sizes_at(learned, *what)) else learned
    return kept - kept.mean()


def _emptied(before: Array, now: Array) -> bool:
    """Whether more clusters are empty."""
    return bool(np.count_nonzero(now) < np.count_nonzero(before))


def _sizes_at(prices: Array, points: Array, centers: Array, weights: Array) -> Array:
    labels = kernels.assign(points, centers, prices=prices)
    return np.bincount(labels, weights, minlength=len(centers))


def charged(prices: Array, before: Array, after: Array, found: Partial) -> Array:
    """Have members pay what they paid before; centers that had none begin at 0."""
    filled = found.clusters[found.counts > 0]
    changed = np.zeros_like(prices)
    changed[filled] = (prices + squared_steps(before, after))[filled]
    return changed


def _sizes(hierarchy: Hierarchy, points: Array, weights: Array | None) -> Array:
    labels = hierarchy.label(points)
    return np.bincount(labels, weights, minlength=len(hierarchy.fine))

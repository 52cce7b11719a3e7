"""Projected memory of `transform`: arithmetic on shapes, as `memory` is for a fit.

====================  =================================================================
sum                   a block, its sums three times; large: those of all clusters, too
merge                 ten sums of all clusters, or of large ones four, of one range
join                  the means of one chunk of samples, twice
====================  =================================================================

Sums that wait for others come on top: seven of each level of the tree, or one of large
ones. Workers share them.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from hkmeans_dask.kmeans.sums import FAN_IN
from hkmeans_dask.planning.memory import SMALL, SPARE, Projection
from hkmeans_dask.planning.sizes import LABEL
from hkmeans_dask.reduction import RANGES, are_large, together

if TYPE_CHECKING:
    from hkmeans_dask.inputs.arrays import Features

SUM = 8
"""Bytes of one sum."""

TILE = 16 * 2**20
"""Bytes of the tile that `sum_by_label` copies, at most."""

WIDE = (
    "Pass X in chunks of fewer samples, as X.rechunk(...) makes them of an array of "
    "dask, or take fewer clusters (level='coarse')"
)
TALL = "Store X in smaller chunks (16 to 64 MB)"


def project_transform(
    features: Features, n_clusters: int, n_workers: int = 0
) -> Projection:
    """Project the memory of a transform, in bytes above an idle process.

    Parameters
    ----------
    features : Features
        In the chunks that it reads.
    n_clusters : int
    n_workers : int, default=0
        That share what waits; 0: this process has it all.
    """
    blocks = features.blocks
    rows, width = max(blocks.chunks[0]), max(blocks.chunks[1])
    sums, large = SUM * n_clusters * width, are_large(n_clusters, blocks)
    part = SUM * min(rows, n_clusters) * width
    block = rows * width * blocks.itemsize if features.read_bytes else 0
    labels = rows * (4 * LABEL + 2 * SUM * (features.weights is not None))
    adding = 3 * part + labels + min(TILE, SUM * rows * width)
    several = together(blocks) if large else 1
    n_partials = -(-blocks.numblocks[0] // several)
    merged = 4 * sums // RANGES if large else (min(FAN_IN, n_partials) + 2) * sums
    means = n_clusters * width * features.dtype.itemsize
    tasks = {
        "sum": block + max(features.read_bytes, adding) + sums * large,
        "merge": merged,
        "join": 2 * means,
    }
    tasks = {name: int(SPARE * size) + SMALL for name, size in tasks.items()}
    waiting = _waiting(n_partials, part, sums, large=large)
    if n_workers > 1:  # each has one that it has just made
        waiting = sums * large + waiting // n_workers
    remedy = WIDE if 2 * (sums + waiting) > max(tasks.values()) else TALL
    return Projection(waiting, tasks, work="transform", remedy=remedy)


def _waiting(n_partials: int, part: int, sums: int, *, large: bool) -> int:
    """Bytes of sums that wait for others, where one task runs after the other."""
    levels = max(1, math.ceil(math.log(max(1, n_partials), FAN_IN) - 1e-9))
    if large:
        return sums * levels
    return min(FAN_IN - 1, n_partials) * (part + (levels - 1) * sums)

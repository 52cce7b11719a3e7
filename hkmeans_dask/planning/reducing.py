"""Projected memory of what is lazy: arithmetic on shapes, as `memory` is for a fit.

====================  =================================================================
sum                   a block, its sums three times; large: those of all clusters, too
merge                 ten sums of all clusters, or of large ones four, of one range
join                  the means of one chunk of samples, twice
label                 what it takes in a fit
read                  the means of all clusters of one chunk of samples; what they are
                      joined of
spread                these, a block, what is written of it and of the one before;
                      scaled means
write                 a chunk of an output, joined and encoded
====================  =================================================================

Sums that wait for others come on top: seven of each level of the tree, or one of large
ones. Workers share them. So do the features of an inverse in memory, in blocks and
joined, and the centers of `predict` on each worker.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from hkmeans_dask.kmeans.sums import FAN_IN
from hkmeans_dask.planning.memory import SMALL, SPARE, Projection, labelling
from hkmeans_dask.planning.sizes import LABEL, Sizes
from hkmeans_dask.reduction import RANGES, are_large, together
from hkmeans_dask.storage.outputs import CHUNK_BYTES

if TYPE_CHECKING:
    from hkmeans_dask.inputs.arrays import Features
    from hkmeans_dask.kmeans.hierarchy import Hierarchy

SUM = 8
"""Bytes of one sum."""

TILE = 16 * 2**20
"""Bytes of the tile that `sum_by_label` copies, at most."""

WIDE = (
    "Pass X in chunks of fewer samples, as X.rechunk(...) makes them of an array of "
    "dask, or take fewer clusters (level='coarse')"
)
FEWER = "Pass X_red in chunks of fewer samples"
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
    tasks = _with_spare(tasks)
    waiting = _waiting(n_partials, part, sums, large=large)
    if n_workers > 1:  # each has one that it has just made
        waiting = sums * large + waiting // n_workers
    remedy = WIDE if 2 * (sums + waiting) > max(tasks.values()) else TALL
    return Projection(waiting, tasks, work="transform", remedy=remedy)


def project_labels(
    features: Features,
    hierarchy: Hierarchy,
    n_workers: int = 0,
    *,
    copied: bool,
    exclude: bool,
) -> Projection:
    """Project the memory of labels by the rule of a model, as `project_transform`.

    Parameters
    ----------
    features : Features
        In blocks of whole features.
    hierarchy : Hierarchy
    n_workers : int, default=0
        That get the centers; 0: this process, which has them.
    copied : bool
        Whether blocks are copied, to be C-contiguous.
    exclude : bool
        Whether features with values that are not finite are left out.
    """
    blocks, centers = features.blocks, hierarchy.fine
    rows = max(blocks.chunks[0])
    sizes = Sizes(
        n_features=blocks.shape[0],
        n_samples=blocks.shape[1],
        n_clusters=_at_once(hierarchy),
        n_rows=0,
        n_big=len(hierarchy.coarse),
        itemsize=centers.itemsize,
        block_rows=rows,
        block_bytes=rows * blocks.shape[1] * blocks.itemsize,
        read_bytes=features.read_bytes,
        cast=int(hierarchy.unit) + (copied or blocks.dtype != centers.dtype),
        copied=False,
        beyond=hierarchy.axes.size > 0,
        all_compared=len(hierarchy.compared) == 1,
        exclude=exclude,
    )
    written = min(CHUNK_BYTES, np.dtype(np.int32).itemsize * blocks.shape[0])
    tasks = _with_spare({"label": labelling(sizes), "write": 3 * written})
    model = sum(array.nbytes for array in hierarchy) if n_workers else 0
    return Projection(0, tasks, model, work="prediction", remedy=TALL)


def _at_once(hierarchy: Hierarchy) -> int:
    """Centers that features are compared with at once, at most."""
    own, compared = np.bincount(hierarchy.parents).max(), hierarchy.compared
    small = compared.shape[1] if compared.size else own
    return max(len(hierarchy.coarse), int(small))


def project_spread(
    means: Features, chunks: tuple[int, ...], *, scaled: bool
) -> Projection:
    """Project the memory of the way back, as `project_transform`.

    Parameters
    ----------
    means : Features
        Clusters instead of features, in the chunks that are read.
    chunks : tuple of int
        Features in each block of the result.
    scaled : bool
        Whether means are scaled first.
    """
    blocks, itemsize = means.blocks, means.dtype.itemsize
    width = max(blocks.chunks[1])
    column = blocks.shape[0] * width * itemsize
    copied = not means.in_memory or blocks.dtype != means.dtype
    pieces, whole = column * copied, column * (blocks.numblocks[0] > 1)
    block = max(chunks) * (width * itemsize + 2 * LABEL)
    tasks = {
        "read": pieces + max(means.read_bytes, whole),
        "spread": max(pieces, whole) + 3 * block + min(column, block) * scaled,
    }
    found = sum(chunks) * blocks.shape[1] * itemsize * means.in_memory
    joined = int(SPARE * found)  # when all tasks are done
    held = found + max(0, joined - max(tasks.values()))
    tasks = _with_spare(tasks)
    return Projection(held, tasks, work="reconstruction", remedy=FEWER)


def _with_spare(tasks: dict[str, int]) -> dict[str, int]:
    return {name: int(SPARE * size) + SMALL for name, size in tasks.items()}


def _waiting(n_partials: int, part: int, sums: int, *, large: bool) -> int:
    """Bytes of sums that wait for others, where one task runs after the other."""
    levels = max(1, math.ceil(math.log(max(1, n_partials), FAN_IN) - 1e-9))
    if large:
        return sums * levels
    return min(FAN_IN - 1, n_partials) * (part + (levels - 1) * sums)

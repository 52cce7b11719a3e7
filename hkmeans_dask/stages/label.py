"""Stage 5, the last read of X: label every feature, block by block.

Labels of neighbouring blocks are kept together, a mebibyte or more, by one task: one
writer per file. What a fit needs of them are counts and inertia per cluster.
"""

from __future__ import annotations

import functools
import itertools
import logging
from typing import TYPE_CHECKING, Any, NamedTuple

import dask.array as da
import numpy as np

from hkmeans_dask.kmeans import kernels, sampling
from hkmeans_dask.kmeans.finite import finite_rows, first_bad, not_finite
from hkmeans_dask.kmeans.hierarchy import EXCLUDED, Hierarchy
from hkmeans_dask.runtime.tasks import carried, map_blocks, names, task, tasks
from hkmeans_dask.workspace.files import Record, digest
from hkmeans_dask.workspace.labels import StoredLabels
from hkmeans_dask.workspace.records import at_hand, read

if TYPE_CHECKING:
    from hkmeans_dask.inputs.arrays import Features
    from hkmeans_dask.kmeans.hierarchy import Arrays
    from hkmeans_dask.kmeans.kernels import Array, Index
    from hkmeans_dask.runtime.execution import Runner
    from hkmeans_dask.workspace.files import InMemory, OnDisk

logger = logging.getLogger(__name__)

LABELS_TOGETHER = 2**18
"""Labels that are kept together, at least."""


ADDED_TOGETHER = 8
"""Files of labels that are read at once, at most."""


class Changed(ValueError):
    """X has not the values that it had in an earlier read."""


class Labels(NamedTuple):
    """The labels of all features, and what they cost."""

    groups: list[Arrays]
    """The labels of neighbouring blocks, int32, in feature order, as ``"labels"``."""

    bounds: Index
    """(n_groups + 1,), where the groups begin and end."""

    sizes: Index
    """(n_clusters,), int64; zero where no feature chose a cluster. Features left out
    are in none."""

    inertia: Array
    """(n_clusters,), float64: sums of squared distances (times the weights of the
    features), added in feature order."""

    total: int
    """Checksum of the training rows as read now; 0 if X is in this process."""


class Block(NamedTuple):
    """What a block gave."""

    labels: Array
    distances: Array
    """Squared, to the center of the label; times the weight if there are weights."""
    total: int


def label_features(
    features: Features,
    seed: int,
    model: Any,
    workspace: InMemory | OnDisk,
    runner: Runner,
    *,
    again: bool = False,
    exclude: bool = False,
) -> Labels:
    """Read X once more and label it.

    Parameters
    ----------
    features : Features
    seed : int
    model : Delayed of mapping, or Record
        From `train_fine`. The checksum of the training rows, those up to the highest
        key, tells whether X is still the same.
    workspace : InMemory or OnDisk
    runner : Runner
    again : bool, default=False
        Whether to read all of X, also where labels are there already: to find out
        whether it is the X that these are of.
    exclude : bool, default=False
        Whether features with values that are not finite are left out.

    Returns
    -------
    labels : Labels
        4 bytes a feature here, unless the workspace is on disk.

    Raises
    ------
    Changed
        If labels that are there are not those of X.
    """
    chunks = features.blocks.chunks[0]
    model = at_hand(model, runner)
    compared = features.in_place is None
    options = (model, seed, compared, features.weight_blocks(), again, exclude)
    labelled = [
        row[0] for row in map_blocks("label", _label, features.blocks, *options)
    ]
    of = None
    if workspace.on_disk:
        (of,) = runner.compute(task("digest", _digest, model))
    bounds, cuts = group_blocks(chunks)
    named = [f"labels-{number}" for number in range(len(cuts) - 1)]
    find = functools.partial(workspace.find, verify=True, of=of)
    groups: list[Any] = [None] * len(named) if again else workspace.each(find, named)
    lacking = [number for number, group in enumerate(groups) if group is None]
    blocks = [labelled[slice(*cuts[number : number + 2])] for number in lacking]
    where = [(workspace, named[number], of, again) for number in lacking]
    calls = [(some, model, *how) for some, how in zip(blocks, where, strict=True)]
    joins = iter(tasks("labels", _join, calls))
    groups = [next(joins) if group is None else group for group in groups]
    needed = names(itertools.chain(*blocks))
    done = list(runner.compute(*groups, count=needed))
    sizes, inertia, total = _added_near(done, workspace, runner)
    if n_excluded := sum(chunks) - int(sizes.sum()):
        logger.info("%d of %d features left out", n_excluded, sum(chunks))
    logger.debug(
        "%d clusters of %d to %d features, inertia %.6g",
        *(len(sizes), sizes.min(), sizes.max()),
        np.ldexp(inertia.sum(), features.weight_exponent),
    )
    return Labels(done, bounds, sizes, inertia, total)


def _added_near(
    groups: list[Arrays], workspace: InMemory | OnDisk, runner: Runner
) -> tuple[Index, Array, int]:
    """Add up where the groups are: files are read by a task."""
    if not workspace.on_disk:
        return _added(groups, workspace)
    found: tuple[Index, Array, int]
    (found,) = runner.compute(task("added", _added, groups, workspace))
    return found


def _added(
    groups: list[Arrays], workspace: InMemory | OnDisk
) -> tuple[Index, Array, int]:
    """Add up sizes, inertia and totals of all groups, a few of them at a time."""
    sizes: Any = 0
    inertia: Any = 0
    total = 0
    for first in range(0, len(groups), ADDED_TOGETHER):
        some = groups[first : first + ADDED_TOGETHER]
        for told in workspace.each(_told, some):
            sizes, inertia = sizes + told["sizes"], inertia + told["inertia"]
            total += int(told["total"])
    return sizes, inertia, total % 2**64


def _told(group: Arrays) -> Arrays:
    return read(group, "sizes", "inertia", "total")


def _digest(model: Arrays) -> int:
    """Checksum of all that the labels are derived from."""
    model = read(model, *Hierarchy._fields)
    return digest(*(model[name] for name in Hierarchy._fields))


def are_labelled(
    features: Features, model: Arrays, workspace: InMemory | OnDisk
) -> bool:
    """Whether all labels of a model are there, so that X is not needed for them."""
    _, cuts = group_blocks(features.blocks.chunks[0])
    find = functools.partial(workspace.find, of=_digest(model))
    found = workspace.each(
        find, [f"labels-{number}" for number in range(len(cuts) - 1)]
    )
    return all(group is not None for group in found)


def as_array(found: Labels, numbers: Array, features: Features, owner: object) -> Any:
    """Labels of an X in this process as an ndarray, else as a dask array.

    Parameters
    ----------
    found : Labels
    numbers : ndarray of shape (n_clusters + 1,), int32
        The number of each cluster in the model; the last one is the label of features
        left out.
    features : Features
    owner : object
        To be kept as long as labels in files.
    """
    labels: Any
    if features.in_memory or not isinstance(found.groups[0], Record):
        chunks = features.blocks.chunks[0]
        labels = numbers[np.concatenate([group["labels"] for group in found.groups])]
        return labels if features.in_memory else carried(labels, chunks)
    chunks = tuple(np.diff(found.bounds).tolist())
    labels = StoredLabels(found.groups, found.bounds, numbers, owner)
    meta = np.empty(0, np.int32)
    return da.from_array(labels, (chunks,), name=False, asarray=False, meta=meta)


def group_blocks(chunks: tuple[int, ...]) -> tuple[Index, list[int]]:
    """Group blocks: the features and the numbers of the blocks at which groups end."""
    edges = np.cumsum((0, *chunks))
    cuts = [0]
    for block in range(1, len(edges)):
        if edges[block] - edges[cuts[-1]] >= LABELS_TOGETHER:
            cuts.append(block)
    if cuts[-1] < len(chunks):
        cuts.append(len(chunks))
    return edges[cuts], cuts


def _label(
    block: Any,
    start: int,
    model: Arrays,
    seed: int,
    compared: bool,
    weights: Array | None,
    again: bool,
    exclude: bool,
) -> Block:
    good = finite_rows(block) if exclude else None
    # If all are to be finite, the first read has looked.
    bad = first_bad(block, start) if again and not exclude else None
    if bad is not None:
        raise ValueError(not_finite(bad, "one"))
    hierarchy = Hierarchy.of(model)
    points = hierarchy.points(block if good is None else block[good])
    labels = hierarchy.label(points)
    distances = kernels.squared_distances(points, hierarchy.fine, labels)
    total = 0
    if compared:
        what = (seed, int(model["limit"]), start, start + len(block))
        kept, keys = sampling.kept(*what, None if weights is None else weights[:, 0])
        total = _checksum(points, kept - start, keys, good)
    if weights is not None:
        distances = distances * (weights if good is None else weights[good])[:, 0]
    if good is not None:
        labels = _spread(labels, good, EXCLUDED)
        distances = _spread(distances, good, 0)
    return Block(labels.astype(np.int32), distances, total)


def _checksum(points: Array, rows: Index, keys: Array, good: Array | None) -> int:
    """Checksum of some rows of a block, of which `points` are those that are good."""
    if good is not None:
        here = good[rows]
        rows, keys = (np.cumsum(good) - 1)[rows[here]], keys[here]
    kept = points if len(rows) == len(points) else points[rows]
    return sampling.checksum(kept, keys)


def _spread(values: Array, where: Array, other: float) -> Array:
    """Put values where a mask is true, and another where not."""
    found = np.full(len(where), other, values.dtype)
    found[where] = values
    return found


def _join(
    blocks: list[Block],
    model: Arrays,
    workspace: InMemory | OnDisk,
    name: str,
    of: int | None,
    again: bool,
) -> Arrays:
    labels = np.concatenate([block.labels for block in blocks])
    distances = np.concatenate([block.distances for block in blocks])
    bins, n_bins = labels - EXCLUDED, len(model["fine"]) - EXCLUDED
    arrays: dict[str, Any] = {
        "labels": labels,
        "sizes": np.bincount(bins, minlength=n_bins)[1:],
        "inertia": np.bincount(bins, weights=distances, minlength=n_bins)[1:],
        "total": np.array(sum(block.total for block in blocks) % 2**64, np.uint64),
    }
    earlier = workspace.find(name, verify=True, of=of) if again else None
    if earlier is None:
        return workspace.save(name, of=of or 0, **arrays)
    # An earlier model may be reading them: they are compared, never written over.
    if all(np.array_equal(earlier[key], arrays[key]) for key in arrays):
        return earlier
    raise Changed("X is not the array that the labels of an earlier fit are of.")

"""Projected memory of every kind of task. Pure arithmetic.

A task holds, above what an idle process holds, at most what its stage's function here
adds up from shapes: blocks, copies, tiles. All are upper bounds that hang on nothing
that is known only after a read, so the largest partition is taken to be as large as a
partition may be, and its share of the small clusters to be `UNEVEN`. Memory never
changes a result: it refuses a fit before its first read, says how many tasks may run at
once, or chooses between RAM and disk.

====================  =================================================================
copy                  a block of X as it is chunked along samples
reading               the block, what is decoded of it, what is encoded
sample                a block, its kept rows, those that wait for their part
coarse                at most 160 MiB of rows, and what training adds
partition             one part of the training rows and its order
fine                  at most 128 MiB of rows, and what training adds
rows                  one part of the training rows, its coordinates along axes, and
                      what refine adds
refine                what label takes, and nine float64 sums of all clusters
label                 a block, cast if it is not float32/64; labels; rows kept again
====================  =================================================================

Training rows that stay in memory come on top: one worker may hold them all, or each
has its share of them. By their share they are there twice, as parts and as the
partitions made of them, and tasks are sent what they gather from. So do coordinates of
few rows, where tasks run in the process that has these.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from hkmeans_dask.kmeans import axes, trial
from hkmeans_dask.kmeans.balance import NEAREST, points_needed
from hkmeans_dask.kmeans.beyond import (
    ROWS_TOGETHER,
    TRIED_ROWS,
    are_held,
    coordinate_bytes,
)
from hkmeans_dask.kmeans.kernels import TILE_BYTES, tile_height
from hkmeans_dask.kmeans.minibatch import FEW_MOVED
from hkmeans_dask.kmeans.origins import PAD_ORIGINS, PAIRS
from hkmeans_dask.kmeans.sampling import FINENESS, KEYS_AT_ONCE, count_parts
from hkmeans_dask.kmeans.seeding import MOST_AMONG
from hkmeans_dask.kmeans.sums import FAN_IN, SUM_DIMS, sum_height
from hkmeans_dask.planning.sizes import LABEL, Sizes
from hkmeans_dask.workspace.rows import (
    PARTITION_BYTES,
    PIECE_BYTES,
    coarse_rows,
    even_rows,
)

IDLE = 300 * 10**6
"""Bytes of an idle worker that has imported what its tasks need (measured)."""

USABLE = 0.7
"""Share of a worker's limit above which dask begins to write results to disk."""

UNEVEN = 8
"""A big cluster's share of the small ones is taken to be up to so many even shares."""

SPARE = 1.05
"""What allocators add (measured)."""

SHARED = 1.15
"""The same where threads of one process compute (measured)."""

SMALL = 16 * 10**6
"""Bytes of all that is not counted: messages, graphs, modules imported late, and what
malloc keeps for the next call."""

ON_THEIR_WAY = 64 * 2**20
"""Bytes that a task sends or has asked for, if files are behind a URL: a part of the
training rows, or windows of several."""

CLUSTER_ROWS = 256 * 2**20
"""Bytes of training rows that stay in the memory of one worker, at most."""

EVENLY = 0.6
"""Mean over maximum of what workers hold that share rows, at least (measured: .9 with
more parts than workers, .6 with as many)."""

LAST = ("refine", "label")
"""Stages that begin when the training rows are gone."""

REMEDIES = {
    "blocks": "Store X in smaller chunks (16 to 64 MB)",
    "rows": "Lower max_features_per_cluster or n_clusters",
}


class Projection(NamedTuple):
    """Projected memory of a fit, or a transform, in bytes above an idle process."""

    held: int
    """Training rows, or sums, that stay in memory; one worker may hold them all."""

    tasks: dict[str, int]
    """Peak of the largest task of each stage, besides what is held."""

    model: int = 0
    """Centers that tasks share which label features."""

    coordinates: int = 0
    """Of training rows along axes, held while centers move over these."""

    work: str = "fit"
    remedy: str = ""
    """What to do where it does not fit; else that of the largest stage of a fit."""

    def peak(self, n_threads: int = 1) -> int:
        """Peak of a process that runs so many tasks at once.

        The rows are gone before the last read. Threads share an allocator that keeps
        some of what they free.
        """
        reading = [size for name, size in self.tasks.items() if name in LAST]
        training = [size for name, size in self.tasks.items() if name not in LAST]
        training_peak = self.held + n_threads * max(training, default=0)
        training_peak += self.coordinates
        training_peak += self.model * ("rows" in self.tasks)
        peak = max(training_peak, self.model + n_threads * max(reading, default=0))
        return peak if n_threads == 1 else int(SHARED * peak)

    def least_limit(self, n_threads: int = 1) -> int:
        """Least memory limit of a worker of which this is no more than is usable."""
        return int((IDLE + self.peak(n_threads)) / USABLE) + 1

    def refusal(self, free: int, n_threads: int, needed: int, where: str) -> str:
        """Say what does not fit, with both sizes and the remedy."""
        stage = max(self.tasks, key=lambda name: self.tasks[name])
        blocks = stage in ("copy", "sample", *LAST)
        remedy = self.remedy or REMEDIES["blocks" if blocks else "rows"]
        return (
            f"A {self.work} takes up to {self.peak(n_threads) >> 20} MiB (most in the "
            f"stage {stage!r}, {n_threads} task(s) at once), but {where} can give it "
            f"{free >> 20} MiB. {remedy}, or give it at least {needed >> 20} MiB."
        )


def project(
    sizes: Sizes, *, on_disk: bool, remote: bool = False, n_sharing: int = 0
) -> Projection:
    """Project the memory of a fit.

    Parameters
    ----------
    sizes : Sizes
    on_disk : bool
        Whether training rows are in files.
    remote : bool, default=False
        Whether files are behind a URL.
    n_sharing : int, default=0
        Workers that share the training rows, if they do.
    """
    tasks = {
        "sample": _sample(sizes, waiting=on_disk or n_sharing > 0),
        "coarse": _coarse(sizes),
        "partition": _partition(sizes),
        "fine": _fine(sizes),
        "label": _label(sizes),
    }
    if sizes.refine:
        tasks["refine"] = _refine(sizes)
    if sizes.beyond:
        tasks["rows"] = _rows(sizes)
    if sizes.copy_bytes:
        tasks = {"copy": sizes.copy_bytes, **tasks}
    held = 0 if on_disk else sizes.held
    if n_sharing:
        tasks = {name: size + _sent(name, sizes) for name, size in tasks.items()}
        held = int(max(held, 2 * sizes.rows) / (EVENLY * n_sharing))
    more = SMALL + (ON_THEIR_WAY if remote else 0)
    tasks = {name: int(SPARE * size) + more for name, size in tasks.items()}
    beside = 0 if on_disk or not sizes.here else _held_coordinates(sizes)
    return Projection(held, tasks, _model(sizes), beside)


def _sent(stage: str, sizes: Sizes) -> int:
    """Bytes of rows that a task is sent, where workers share them, to gather from."""
    partition = min(sizes.n_rows, PARTITION_BYTES // max(1, sizes.kept_row) + 1)
    rows = {
        "coarse": min(coarse_rows(sizes.n_big, sizes.kept_row), sizes.n_rows),
        "partition": 2 * sizes.part_rows,
        "fine": partition,
        "rows": partition,
    }
    return rows.get(stage, 0) * sizes.kept_row * (FINENESS + 1) // FINENESS


def _model(sizes: Sizes) -> int:
    return (sizes.n_clusters + sizes.n_big) * sizes.row


def _n_kept(sizes: Sizes) -> int:
    """Kept rows of a block."""
    if sizes.by_range:
        # Of the first ranges any row may be among the lowest.
        return min(sizes.block_rows, sizes.n_rows)
    n_features = sizes.n_trainable or sizes.n_features
    return min(-(-sizes.block_rows * sizes.n_rows // n_features), sizes.n_rows)


def _kept(sizes: Sizes) -> int:
    """Bytes of the kept rows of a block, with the copy before a cast or weights."""
    if not sizes.copied:
        return 0
    given = sizes.block_bytes // max(1, sizes.block_rows)
    again = sizes.weighted or sizes.exclude or sizes.cast > 1
    before = max(given, sizes.row * again)
    return _n_kept(sizes) * (sizes.kept_row + before)


def _sample(sizes: Sizes, *, waiting: bool) -> int:
    block = sizes.block_bytes if sizes.read_bytes else 0
    kept = _kept(sizes)
    keys = 2 * LABEL * min(KEYS_AT_ONCE, sizes.block_rows)
    part = sizes.part_rows * sizes.kept_row if sizes.copied else 0
    if sizes.by_range:
        run = sizes.range_rows * sizes.kept_row
        part = 2 * max(part, run // count_parts(sizes.range_rows, run))
    one = max(block + sizes.read_bytes, block + kept + keys) + sizes.block_weights
    join = part + kept + 2 * PIECE_BYTES + 4 * LABEL * sizes.part_rows
    # Rows of one part wait to be joined while those of the next are read; in memory
    # of one process both are among the rows that are held. Where only features of a
    # few blocks have weights, one block may have the rows of all parts.
    others = 2 * part if waiting else 0
    others += _n_kept(sizes) * sizes.kept_row * sizes.weighted
    return max(one, join) + others


def training(rows: int, n_clusters: int, sizes: Sizes) -> int:
    """Bytes that `minibatch.train` holds besides its points."""
    row, itemsize = sizes.row, sizes.itemsize
    seeding = min(rows, 2 * max(sizes.batch_size, n_clusters))
    pairs = 0
    if seeding * row <= TILE_BYTES:
        pairs = 2 * seeding * (row + 2 * itemsize)
        if seeding <= min(MOST_AMONG, n_clusters * sizes.n_init):
            pairs = 3 * pairs // 2 + seeding * seeding * itemsize
    candidates = 3 * sizes.n_init * seeding * max(itemsize, LABEL)
    moved = rows * row // FEW_MOVED
    labels = rows * (5 * LABEL + 2 * itemsize)
    labels += rows * (LABEL + itemsize) * sizes.weighted
    centers = n_clusters * sizes.n_samples * (3 * 8 + 3 * itemsize)
    learning = _prices(n_clusters, sizes) + labels
    trained = max(pairs + candidates, moved + labels + tiles(n_clusters, sizes))
    return max(trained, learning) + centers


def _prices(n_clusters: int, sizes: Sizes) -> int:
    """Bytes that `balance.learn` holds besides its points: seven arrays of pairs."""
    if not sizes.balance:
        return 0
    n_pairs = points_needed(n_clusters) * min(NEAREST, n_clusters)
    return 7 * LABEL * n_pairs + tiles(n_clusters, sizes)


def _even(sizes: Sizes) -> int:
    """Bytes of the rows put aside, three times, and of learning prices on them."""
    if not sizes.balance:
        return 0
    wanted = (points_needed(sizes.n_clusters), sizes.n_clusters, sizes.kept_row)
    rows = min(sizes.n_rows, even_rows(*wanted))
    return 3 * rows * sizes.kept_row + _prices(sizes.n_clusters, sizes)


def training_along(rows: int, n_clusters: int, sizes: Sizes) -> int:
    """Bytes that `axes.train_along` holds besides its points."""
    anywhere = training(rows, n_clusters, sizes)
    if not axes.may_help(sizes.n_rows, sizes.n_samples, sizes.n_big):
        return anywhere
    n_coordinates = axes.most_coordinates(sizes.n_samples, rows, sizes.itemsize)
    seen = replace(sizes, n_samples=n_coordinates)
    return max(anywhere, rows * seen.row + training(rows, n_clusters, seen))


def tiles(n_clusters: int, sizes: Sizes) -> int:
    """Bytes of the tiles of one kernel call."""
    widest = max(n_clusters, sizes.n_samples) * max(sizes.itemsize, 4)
    scoring = tile_height(widest) * (n_clusters + sizes.n_samples) * sizes.itemsize
    summing = sum_height(sizes.n_samples) + n_clusters
    summing *= min(SUM_DIMS, sizes.n_samples) * 8
    return max(scoring, summing)


def _coarse(sizes: Sizes) -> int:
    rows = min(coarse_rows(sizes.n_big, sizes.kept_row), sizes.n_rows)
    gathered = rows * sizes.kept_row + PIECE_BYTES
    from_part = gathered * sizes.part_rows // max(1, sizes.n_rows)
    found = 0
    if axes.may_help(sizes.n_rows, sizes.n_samples, sizes.n_big):
        found = axes.AXES_ROWS * sizes.row * (1 + sizes.weighted)
        found += 5 * LABEL * sizes.n_samples**2
        found = max(found, (trial.GROUPS + 1) * trial.MOST_POINTS * sizes.row)
    return gathered + max(from_part, found, training_along(rows, sizes.n_big, sizes))


def _partition(sizes: Sizes) -> int:
    part = sizes.part_rows * sizes.kept_row if sizes.copied else 0
    order = sizes.part_rows * 6 * LABEL
    tile = tiles(sizes.n_big, sizes) * (1 + sizes.weighted)
    return part + order + 2 * PIECE_BYTES + tile


def _fine(sizes: Sizes) -> int:
    fitting = max(1, PARTITION_BYTES // max(1, sizes.kept_row))
    rows = min(sizes.n_rows, fitting)
    share = min(sizes.n_clusters, rows, UNEVEN * -(-sizes.n_clusters // sizes.n_big))
    return rows * sizes.kept_row + PIECE_BYTES + training_along(rows, share, sizes)


def _label(sizes: Sizes) -> int:
    block = sizes.block_bytes if sizes.read_bytes else 0
    cast = sizes.block_rows * sizes.row * sizes.cast
    labels = sizes.block_rows * (5 * LABEL + sizes.itemsize) + sizes.block_weights
    labels += sizes.block_bytes * sizes.exclude  # the good features once more
    keys = 2 * LABEL * min(KEYS_AT_ONCE, sizes.block_rows)
    centers, tile = 2 * _model(sizes), tiles(sizes.n_clusters, sizes)
    if sizes.all_compared:
        centers += _seen(sizes)
    if sizes.beyond and sizes.n_samples <= axes.MOST_DIMS:  # pruning
        centers += sizes.n_samples**2 * sizes.itemsize
        tile *= 6
    work = cast + labels + max(_kept(sizes) + keys, tile)
    return centers + block + max(sizes.read_bytes, work)


def _seen(sizes: Sizes) -> int:
    """Bytes of all centers as they are seen from the offset, and from origins."""
    few = max(PAIRS, PAD_ORIGINS * sizes.n_clusters)
    pairs = min(max(PAD_ORIGINS, sizes.n_big) * sizes.n_clusters, few)
    return 3 * _model(sizes) + 3 * LABEL * pairs


def labelling(sizes: Sizes) -> int:
    """Bytes of a task that labels features, besides the centers that tasks share."""
    return _label(sizes)


def _refine(sizes: Sizes) -> int:
    sums = sizes.n_clusters * sizes.n_samples * 8
    return max(_label(sizes) + 2 * sums, (FAN_IN + 2) * sums + _even(sizes))


def _coordinates(rows: int, sizes: Sizes) -> int:
    """Bytes of rows along as many axes as passes over them take, at most."""
    if sizes.evens:
        return 0  # with prices these are of all dimensions
    return coordinate_bytes(rows, sizes.row, sizes.n_samples)


def _held_coordinates(sizes: Sizes) -> int:
    """Bytes of them that are held between passes."""
    few = are_held(sizes.n_rows, sizes.row, sizes.n_samples)
    return _coordinates(sizes.n_rows, sizes) if few and sizes.beyond else 0


def _rows(sizes: Sizes) -> int:
    part = sizes.part_rows * sizes.kept_row if sizes.copied else 0
    part += _coordinates(sizes.part_rows, sizes)
    rows = min(sizes.part_rows, ROWS_TOGETHER // max(1, sizes.kept_row) + 1)
    labels = rows * (5 * LABEL + sizes.itemsize)
    centers = 2 * _model(sizes) + _seen(sizes)
    sums = sizes.n_clusters * sizes.n_samples * 8
    work = 3 * rows * sizes.kept_row + labels + tiles(sizes.n_clusters, sizes)
    tried = 4 * TRIED_ROWS * sizes.kept_row + tiles(sizes.n_clusters, sizes)
    finding = sums + tried + 5 * LABEL * min(sizes.n_samples, axes.MOST_DIMS) ** 2
    most = part + centers + max(work + 4 * sums, finding)
    return max(most, (FAN_IN + 2) * sums + _even(sizes), part + _even(sizes))


def usable(limit: int) -> int:
    """Bytes that the tasks of a worker may take above an idle process."""
    return max(0, int(USABLE * limit) - IDLE)

"""Training rows in groups, in memory or in a file, and how they are gathered.

In memory rows are an array and an order; nothing is copied. Weights of features are the
last column of their rows, split off where rows are used. A file is cut into *pieces*: a
group is read from its own. It has their bytes, keys first; a record tells the rest::

    name.npz   starts, cuts, checksums, ...
    name.raw   the keys of piece 0, of piece 1, ...; then the rows of piece 0, ...
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple, Protocol

import numpy as np

from hkmeans_dask.kmeans import kernels
from hkmeans_dask.remote.ranges import expect, together
from hkmeans_dask.workspace import checksums

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from contextlib import AbstractContextManager

    from hkmeans_dask.kmeans.kernels import Array, Index

RAW = ".raw"
"""Ends the names of files that are no archives of arrays."""

PIECE_BYTES = 4 * 2**20
"""Bytes of training rows that are read (and checked) at once from a file."""

PARTITION_BYTES = 128 * 2**20
"""Bytes of the rows of one big cluster, at most: the lowest ranks first."""

TOGETHER_BYTES = 32 * 2**20
"""Bytes of rows of one group that are read at once from several files, at most."""

COARSE_ROWS, LEAST_COARSE_ROWS = 2000, 512
"""Rows per big cluster that the coarse stage trains on, where they are few, or many."""

ENOUGH_COARSE_ROWS = 2**15
"""Rows of all big clusters that are enough, if they are not too few each: where these
are many, it matters less to small clusters where exactly each ends."""

BEGINNING_ROWS = 1024
"""`COARSE_ROWS` where features look beyond big clusters, which are but a beginning."""

COARSE_BYTES = 160 * 2**20
"""Bytes of them, at most, while they are one a big cluster."""

OFFSET_ROWS = 2048
"""Rows whose mean is the offset."""

MOVED_ROWS = 1024
"""Rows that move at once where weights are split off."""

KEY = np.dtype(np.uint64)


class Files(Protocol):
    """Where files of rows are: a workspace on disk."""

    @property
    def at_once(self) -> int:
        """Files that are read at once with gain."""

    def opened(self, name: str) -> AbstractContextManager[BinaryIO]:
        """Open a file; whatever goes wrong inside, it is damaged."""


class Rows(NamedTuple):
    """Training rows in memory, in groups."""

    array: Array
    """(any, n_samples): all of X where that is in this process."""

    order: Index
    """(n_rows,), numbers of the training rows, group after group."""

    keys: Array
    """(n_rows,), uint64, their keys."""

    starts: Index
    """(n_groups + 1,): group ``i`` is ``order[starts[i]:starts[i + 1]]``."""

    total: int
    """Their checksum; 0 where X is in this process and cannot be another one."""

    @property
    def like(self) -> Array:
        """No rows, but of the same dtype and width; no view, which would hold all."""
        return np.empty((0, self.array.shape[1]), self.array.dtype)

    @property
    def highest(self) -> int:
        """Their highest key, 0 if there are none."""
        return int(self.keys.max(initial=0))

    def load(self) -> Rows:
        """Give all rows."""
        return self

    def group_keys(self, group: int) -> Array:
        """Keys of one group."""
        return self.keys[self.starts[group] : self.starts[group + 1]]

    def take(self, group: int, limit: int, keys: Array | None = None) -> Array:
        """Rows of one group whose key is at most `limit`, in rank order."""
        chosen = _by_rank(self.group_keys(group), limit)
        return kernels.take(self.array, self.order[self.starts[group] + chosen])


class StoredRows(NamedTuple):
    """Training rows in a file, in groups."""

    files: Files
    name: str
    starts: Index
    cuts: Index
    """(n_pieces + 1,), where pieces begin and end; every group begins a piece."""

    checksums: Array
    """(2, n_pieces), uint64, of the keys and of the rows of each piece."""

    like: Array
    """No rows, but of the same dtype and width."""

    total: int
    highest: int
    """See `Rows`."""

    def load(self) -> Rows:
        """Read all rows into memory."""
        n_rows = int(self.starts[-1])
        keys = np.empty(n_rows, KEY)
        rows = np.empty((n_rows, self.like.shape[1]), self.like.dtype)
        with self.files.opened(self.name + RAW) as file:
            expect(file, self._begin_of_rows(len(self.cuts) - 1))
            for piece, (first, last) in enumerate(pairwise(self.cuts)):
                self._read_keys(file, piece, keys[first:last])
            for piece, (first, last) in enumerate(pairwise(self.cuts)):
                self._read_rows(file, piece, rows[first:last])
        return Rows(rows, np.arange(n_rows), keys, self.starts, self.total)

    def together(self) -> StoredRows:
        """See all rows as one group."""
        return self._replace(starts=self.starts[[0, -1]])

    def group_keys(self, group: int) -> Array:
        """Keys of one group; see `Rows`."""
        with self.files.opened(self.name + RAW) as file:
            return self._group_keys(file, group)

    def take(self, group: int, limit: int, keys: Array | None = None) -> Array:
        """Rows of one group whose key is at most `limit`, in rank order; see `Rows`.

        Its keys are read again where they are not given.
        """
        with self.files.opened(self.name + RAW) as file:
            keys = self._group_keys(file, group) if keys is None else keys
            wanted = _by_rank(keys, limit) + self.starts[group]
            taken = np.empty((len(wanted), self.like.shape[1]), self.like.dtype)
            start, stop = self.starts[group : group + 2]
            if np.array_equal(wanted, np.arange(start, stop)):
                expect(file, self._begin_of_rows(int(self.cuts.searchsorted(stop))))
                for piece, where in self._pieces(start, stop):
                    self._read_rows(file, piece, taken[where])
                return taken
            piece_of = np.searchsorted(self.cuts, wanted, side="right") - 1
            for piece, end in _with_ends(np.unique(piece_of)):
                here = piece_of == piece
                first, last = self.cuts[piece : piece + 2]
                rows = np.empty((last - first, taken.shape[1]), taken.dtype)
                expect(file, self._begin_of_rows(end))
                self._read_rows(file, piece, rows)
                taken[here] = rows[wanted[here] - first]
        return taken

    def _group_keys(self, file: BinaryIO, group: int) -> Array:
        start, stop = self.starts[group : group + 2]
        keys = np.empty(stop - start, KEY)
        expect(file, int(stop) * KEY.itemsize)
        for piece, where in self._pieces(start, stop):
            self._read_keys(file, piece, keys[where])
        return keys

    def _pieces(self, start: int, stop: int) -> Iterator[tuple[int, slice]]:
        """Yield the pieces of a group, and where they are in it."""
        first, last = np.searchsorted(self.cuts, (start, stop))
        for piece in range(first, last):
            yield piece, slice(*(self.cuts[piece : piece + 2] - start))

    def _read_keys(self, file: BinaryIO, piece: int, keys: Array) -> None:
        file.seek(int(self.cuts[piece]) * KEY.itemsize)
        _read(file, keys, self.checksums[0, piece])

    def _read_rows(self, file: BinaryIO, piece: int, rows: Array) -> None:
        file.seek(self._begin_of_rows(piece))
        _read(file, rows, self.checksums[1, piece])

    def _begin_of_rows(self, piece: int) -> int:
        """Where in the file the rows of a piece begin."""
        behind_keys = int(self.starts[-1]) * KEY.itemsize
        return behind_keys + int(self.cuts[piece]) * row_bytes(self.like)


def _with_ends(pieces: Index) -> Iterator[tuple[int, int]]:
    """Yield pieces, each with the end of the neighbours that are wanted with it."""
    for run in np.split(pieces, np.flatnonzero(np.diff(pieces) > 1) + 1):
        for piece in run.tolist():
            yield piece, int(run[-1]) + 1


def _content(values: Array) -> memoryview:
    """Bytes of a contiguous array, shared with it."""
    return values.reshape(-1).view(np.uint8).data


def _read(file: BinaryIO, values: Array, checksum: Any) -> None:
    """Fill an array from a file, and compare the checksum."""
    if file.readinto(_content(values)) != values.nbytes:  # type: ignore[attr-defined]
        raise EOFError("it ends too early")
    if not checksums.fits(values, checksum):
        raise ValueError("wrong checksum")


def write(file: BinaryIO, rows: Rows) -> tuple[Index, Array]:
    """Write rows piece by piece.

    Returns
    -------
    cuts, checksums : ndarray
        See `StoredRows`.
    """
    cuts = _cuts(rows.starts, max(1, PIECE_BYTES // max(1, row_bytes(rows.like))))
    spans = [slice(*span) for span in pairwise(cuts.tolist())]
    keys = _written(file, (rows.keys[span] for span in spans))
    tallest, width = int(np.diff(cuts).max(initial=0)), rows.like.shape[1]
    piece = np.empty((tallest, width), rows.like.dtype)  # new memory costs as much
    chosen = (rows.order[span] for span in spans)
    taken = (kernels.take(rows.array, some, piece[: len(some)]) for some in chosen)
    values = _written(file, taken)
    return cuts, np.array([keys, values], np.uint64).reshape(2, len(spans))


def _written(file: BinaryIO, arrays: Iterator[Array]) -> list[int]:
    found = []
    for array in arrays:
        file.write(_content(array))
        found.append(checksums.checksum(array))
    return found


def gather(
    parts: Sequence[Rows | StoredRows], group: int, most: int | None, max_bytes: int
) -> Array:
    """Rows of one group of all parts in rank order, the lowest ranks only.

    Parameters
    ----------
    parts : sequence of Rows or StoredRows
    group : int
    most : int, optional
        Rows, at most.
    max_bytes : int
        Bytes of all rows, at most; one row is always given.

    Returns
    -------
    rows : ndarray of shape (n_rows, n_samples)
        A copy.

    Notes
    -----
    Memory: the result, and the rows of one part.
    """
    like = parts[0].like
    parts = [part for part in parts if np.diff(part.starts)[group]] or parts[:1]
    fitting = max(1, max_bytes // max(1, row_bytes(like)))
    at_once = _at_once(parts, group)
    drawn = together(lambda part: part.group_keys(group), parts, at_once)
    limit = _lowest(np.concatenate(drawn), min(most or fitting, fitting))
    if len(parts) == 1:
        return parts[0].take(group, limit, drawn[0])
    arrays = {id(part.array) if isinstance(part, Rows) else None for part in parts}
    if len(arrays) == 1 and None not in arrays:
        return _joined(parts, group, limit)
    chosen = [np.sort(keys[keys <= limit]) for keys in drawn]
    order = np.argsort(np.concatenate(chosen), kind="stable")
    ends = np.cumsum([len(keys) for keys in chosen])
    places = np.split(np.argsort(order), ends[:-1])
    rows = np.empty((len(order), like.shape[1]), like.dtype)

    def put(number: int) -> None:
        rows[places[number]] = parts[number].take(group, limit, drawn[number])

    together(put, range(len(parts)), at_once)
    return rows


def _at_once(parts: Sequence[Rows | StoredRows], group: int) -> int:
    """Parts that are read at once: where that gains, and they are small."""
    most = max(int(part.starts[group + 1] - part.starts[group]) for part in parts)
    fitting = TOGETHER_BYTES // max(1, most * row_bytes(parts[0].like))
    stored = (part.files.at_once for part in parts if isinstance(part, StoredRows))
    return max(1, min(max(stored, default=1), fitting))


def coarse_rows(n_big: int, row_bytes: int, *, beyond: bool = False) -> int:
    """Rows that the coarse stage gathers, if there are as many."""
    fitting = max(1, n_big, COARSE_BYTES // max(1, row_bytes))
    wanted = (BEGINNING_ROWS if beyond else COARSE_ROWS) * n_big
    enough = max(ENOUGH_COARSE_ROWS, LEAST_COARSE_ROWS * n_big)
    return min(max(OFFSET_ROWS, min(wanted, enough)), fitting)


def even_rows(n_wanted: int, n_clusters: int, row_bytes: int) -> int:
    """Rows by which sizes are made even among all small clusters, at most."""
    return min(n_wanted, max(n_clusters, COARSE_BYTES // max(1, row_bytes)))


def gather_partition(
    parts: Sequence[Rows | StoredRows],
    group: int,
    center: Array,
    most: int | None = None,
    *,
    weighted: bool = False,
) -> tuple[Array, Array | None]:
    """Rows of one big cluster as seen from its center, and weights; see `gather`."""
    gathered = gather(parts, group, most, PARTITION_BYTES)
    points, weights = split_weights(gathered) if weighted else (gathered, None)
    points -= center
    return points, weights


def join_weights(points: Array, weights: Array) -> Array:
    """Rows with weights in their last column; none that is positive becomes 0."""
    least = np.finfo(points.dtype).tiny
    column = np.maximum(weights.astype(points.dtype), least)
    return np.column_stack([points, column])


def points_of(rows: Array, *, weighted: bool) -> Array:
    """View rows without the weights in their last column, if they have them."""
    return rows[:, :-1] if weighted else rows


def split_weights(rows: Array) -> tuple[Array, Array]:
    """Split off the weights in the last column; uses up the memory of the rows.

    Returns
    -------
    points : ndarray of shape (n_rows, n_samples)
        Contiguous, where the rows were.
    weights : ndarray of shape (n_rows,)
    """
    n_rows, width = len(rows), rows.shape[1] - 1
    weights = rows[:, -1].copy()
    points = rows.reshape(-1)[: n_rows * width].reshape(n_rows, width)
    for start in range(0, n_rows, MOVED_ROWS):
        moved = slice(start, start + MOVED_ROWS)
        points[moved] = rows[moved, :-1]
    return points, weights


def _joined(parts: Sequence[Any], group: int, limit: int) -> Array:
    """Rows of one group of parts of one array: copied once, not part by part."""
    spans = [slice(*part.starts[group : group + 2]) for part in parts]
    pairs = list(zip(parts, spans, strict=True))
    order = np.concatenate([part.order[span] for part, span in pairs])
    keys = np.concatenate([part.keys[span] for part, span in pairs])
    return Rows(parts[0].array, order, keys, np.array([0, len(keys)]), 0).take(0, limit)


def row_bytes(rows: Array) -> int:
    """Bytes of one row."""
    return rows.itemsize * int(rows.shape[1])


def _lowest(keys: Array, most: int) -> int:
    """Highest of the `most` lowest keys."""
    if len(keys) > most:
        keys = np.partition(keys, most - 1)[:most]
    return int(np.max(keys, initial=0))


def _by_rank(keys: Array, limit: int) -> Index:
    """Positions of the keys up to `limit`, lowest first."""
    order = np.argsort(keys, kind="stable")
    return order[: np.searchsorted(keys[order], np.uint64(limit), side="right")]


def _cuts(starts: Index, most: int) -> Index:
    """Cut at every start, and between them after every `most` rows."""
    between = [np.arange(first, last, most) for first, last in pairwise(starts)]
    return np.unique(np.concatenate([*between, starts]))

"""Intermediate results of a fit, in memory or on disk, behind one small interface.

What tasks save here is a *record* (named arrays) or *rows* (training rows in groups)::

    save(name, labels=...)          -> record["labels"]
    save_rows(name, Rows(...))      -> rows.take(group, limit)
    find(name), find_rows(name)     -> the same again, or None if not finished

In memory nothing is copied: rows are an array and an order. On disk each name is one
``.npz`` file (a ZIP archive of plain arrays: no pickles, no mmap), written under a
unique name and renamed when it is complete. ZIP keeps a checksum of every array, so an
altered or truncated file is noticed where it is read: that raises `Damaged`, and the
fit computes the file again. Two clients at the same work write the same bytes.

A folder has a *nonce*: every process compares it before its first use, so that a worker
that sees another file system fails at once.
"""

from __future__ import annotations

import io
import os
import socket
import uuid
import zipfile
from contextlib import contextmanager, suppress
from errno import EDQUOT, ENOSPC
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from hkmeans_dask.kernels import Array, Index

PIECE_BYTES = 4 * 2**20
"""Bytes of training rows that are read (and checked) at once from a file."""

MAKE_SPACE = (
    "Make space, or pass a work_dir elsewhere; a fit with a work_dir goes on where it "
    "stopped"
)
"""What to do when a workspace is full."""


class Arrays(Protocol):
    """Named arrays, in memory or in a file."""

    def __getitem__(self, key: str) -> Array:
        """Give one array."""


class Damaged(RuntimeError):
    """A workspace file is not what was written."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(name, reason)
        self.name, self.reason = name, reason


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
        """No rows, but of the same dtype and width."""
        return self.array[:0]

    def load(self) -> Rows:
        """Give all rows."""
        return self

    def group_keys(self, group: int) -> Array:
        """Keys of one group."""
        return self.keys[self.starts[group] : self.starts[group + 1]]

    def take(self, group: int, limit: int) -> Array:
        """Rows of one group whose key is at most `limit`, in rank order."""
        chosen = _by_rank(self.group_keys(group), limit)
        rows: Array = self.array[self.order[self.starts[group] + chosen]]
        return rows


class InMemory:
    """A workspace in the memory of those who compute; the scheduler keeps results."""

    on_disk = False

    def find(self, name: str, *, verify: bool = False) -> Arrays | None:
        """Find nothing: what is not held by the scheduler is to be computed."""
        return None

    def find_rows(self, name: str) -> Rows | None:
        """Find nothing either."""
        return None

    def save(self, name: str, **arrays: Array) -> Arrays:
        """Keep named arrays."""
        return arrays

    def save_rows(self, name: str, rows: Rows) -> Rows:
        """Keep rows, without a copy."""
        return rows


class Record:
    """Named arrays in a file."""

    def __init__(self, workspace: OnDisk, name: str) -> None:
        self._workspace, self._name = workspace, name

    def __getitem__(self, key: str) -> Array:
        """Read one array."""
        with self._workspace.reading(self._name) as file:
            array: Array = file[key]
        return array


class _Archive:
    """A file of arrays; each is read as a whole, or its checksum would not be."""

    def __init__(self, file: zipfile.ZipFile) -> None:
        self._file = file

    def __getitem__(self, key: str) -> Array:
        """Read one array."""
        member = io.BytesIO(self._file.read(f"{key}.npy"))
        array: Array = np.lib.format.read_array(member, allow_pickle=False)
        return array

    def verify(self) -> None:
        """Refuse a file with an array that is not what was written."""
        if bad := self._file.testzip():
            raise zipfile.BadZipFile(f"Bad CRC-32 of {bad}")


class StoredRows(NamedTuple):
    """Training rows in a file, in groups, cut into pieces that are read singly."""

    workspace: OnDisk
    name: str
    starts: Index
    cuts: Index
    """(n_pieces + 1,), where pieces begin and end; every group begins a piece."""

    like: Array
    """No rows, but of the same dtype and width."""

    total: int

    def load(self) -> Rows:
        """Read all rows into memory."""
        pieces = range(len(self.cuts) - 1)
        with self.workspace.reading(self.name) as file:
            keys = self._keys(file, pieces)
            rows = np.concatenate([self.like, *(file[f"rows-{n}"] for n in pieces)])
        return Rows(rows, np.arange(len(rows)), keys, self.starts, self.total)

    def group_keys(self, group: int) -> Array:
        """Keys of one group; see `Rows`."""
        with self.workspace.reading(self.name) as file:
            return self._keys(file, self._pieces(group))

    def take(self, group: int, limit: int) -> Array:
        """Rows of one group whose key is at most `limit`, in rank order; see `Rows`."""
        pieces = self._pieces(group)
        with self.workspace.reading(self.name) as file:
            wanted = _by_rank(self._keys(file, pieces), limit) + self.starts[group]
            piece_of = np.searchsorted(self.cuts, wanted, side="right") - 1
            taken = np.empty((len(wanted), self.like.shape[1]), self.like.dtype)
            for piece in np.unique(piece_of):
                here = piece_of == piece
                taken[here] = file[f"rows-{piece}"][wanted[here] - self.cuts[piece]]
        return taken

    def _pieces(self, group: int) -> range:
        first, last = np.searchsorted(self.cuts, self.starts[group : group + 2])
        return range(first, last)

    def _keys(self, file: Any, pieces: range) -> Array:
        empty = np.empty(0, np.uint64)
        return np.concatenate([empty, *(file[f"keys-{n}"] for n in pieces)])


class StoredLabels:
    """Labels of all features in files, read as an array (by slices, as dask does)."""

    ndim, dtype = 1, np.dtype(np.int32)

    def __init__(
        self, files: Sequence[Arrays], bounds: Index, numbers: Array, owner: object
    ) -> None:
        self._files, self._bounds, self._numbers = files, bounds, numbers
        self._owner = owner  # keeps a temporary folder as long as its labels
        self.shape = (int(bounds[-1]),)

    def __getstate__(self) -> dict[str, Any]:
        """Travel without the owner."""
        return self.__dict__ | {"_owner": None}

    def __getitem__(self, index: Any) -> Array:
        """Read what a NumPy index asks for, numbered as the model does."""
        (where,) = index if isinstance(index, tuple) else (index,)
        features = range(self.shape[0])
        picked = np.asarray(
            features[where]
            if isinstance(where, slice)
            else np.asarray(features)[where],
            np.int64,
        )
        if not picked.size:
            return np.empty(picked.shape, self.dtype)
        first = int(picked.min())
        labels: Array = self._read(first, int(picked.max()) + 1)[picked - first]
        return labels

    def _read(self, start: int, stop: int) -> Array:
        first = int(np.searchsorted(self._bounds, start, side="right")) - 1
        last = int(np.searchsorted(self._bounds, stop))
        found = np.concatenate([file["labels"] for file in self._files[first:last]])
        begin = self._bounds[first]
        labels: Array = self._numbers[found[start - begin : stop - begin]]
        return labels


class OnDisk:
    """A workspace in one folder that every worker sees."""

    on_disk = True

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._nonce = self._first_nonce()
        self._checked_in: int | None = None

    def _first_nonce(self) -> bytes:
        """Read the nonce; the first one to come writes it."""
        path = self.folder / "nonce"
        own = self.folder / f".nonce-{uuid.uuid4().hex}"
        try:
            with fullness_explained(self.folder), suppress(FileExistsError):
                own.write_bytes(uuid.uuid4().bytes)
                os.link(own, path)
        finally:
            own.unlink(missing_ok=True)
        return path.read_bytes()

    def __getstate__(self) -> dict[str, Any]:
        """Travel unchecked: in containers process numbers are often equal."""
        return self.__dict__ | {"_checked_in": None}

    def check(self) -> None:
        """Refuse to work in a folder that is not the client's."""
        if self._checked_in == os.getpid():
            return
        seen = None
        with suppress(OSError):
            seen = (self.folder / "nonce").read_bytes()
        if seen != self._nonce:
            raise FileNotFoundError(
                f"The workspace {self.folder} as seen by process {os.getpid()} on "
                f"{socket.gethostname()} is not that of the client. Pass a work_dir "
                "that the client and all workers share."
            )
        self._checked_in = os.getpid()

    def find(self, name: str, *, verify: bool = False) -> Arrays | None:
        """Find a finished record, and read it whole if it is to be verified."""
        if not self._path(name).exists():
            return None
        if verify:
            with self.reading(name) as file:
                file.verify()
        return Record(self, name)

    def find_rows(self, name: str) -> StoredRows | None:
        """Find finished rows."""
        if self.find(name) is None:
            return None
        with self.reading(name) as file:
            starts, cuts, like = file["starts"], file["cuts"], file["like"]
            return StoredRows(self, name, starts, cuts, like, int(file["total"]))

    def save(self, name: str, **arrays: Array) -> Arrays:
        """Write named arrays; they appear when they are complete."""
        self.check()
        temporary = self.folder / f".{name}-{uuid.uuid4().hex}"
        try:
            with fullness_explained(self.folder):
                with temporary.open("wb") as file:
                    np.savez(file, **arrays)  # type: ignore[arg-type]
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(self._path(name))
        finally:
            temporary.unlink(missing_ok=True)
        return Record(self, name)

    def save_rows(self, name: str, rows: Rows) -> StoredRows:
        """Write rows group after group, cut into pieces."""
        cuts = _cuts(rows.starts, max(1, PIECE_BYTES // _row_bytes(rows.like)))
        pieces = {}
        for piece, (first, last) in enumerate(pairwise(cuts)):
            pieces[f"keys-{piece}"] = rows.keys[first:last]
            pieces[f"rows-{piece}"] = rows.array[rows.order[first:last]]
        total = np.array(rows.total, np.uint64)
        layout = {"starts": rows.starts, "cuts": cuts, "like": rows.like}
        self.save(name, total=total, **layout, **pieces)
        return StoredRows(self, name, rows.starts, cuts, rows.like, rows.total)

    @contextmanager
    def reading(self, name: str) -> Iterator[Any]:
        """Open a file; whatever is wrong with it, it is damaged.

        Any byte may have changed, those that tell how to read the others too, so the
        kind of error says nothing.
        """
        self.check()
        try:
            with zipfile.ZipFile(self._path(name)) as file:
                yield _Archive(file)
        except MemoryError:
            raise
        except Exception as error:
            raise Damaged(name, f"{type(error).__name__}: {error}") from None

    def discard(self, *names: str) -> None:
        """Remove files, if they are there."""
        for name in names:
            self._path(name).unlink(missing_ok=True)

    def names(self) -> list[str]:
        """List what is finished."""
        return sorted(path.stem for path in self.folder.glob("*.npz"))

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.npz"


@contextmanager
def fullness_explained(place: Path | str, remedy: str = MAKE_SPACE) -> Iterator[None]:
    """Say where the disk is full, and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in (ENOSPC, EDQUOT):
            raise
        said = f"{place} is full ({os.strerror(error.errno)}). {remedy}"
        raise OSError(error.errno, said) from error


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
    fitting = max(1, max_bytes // _row_bytes(like))
    drawn = [part.group_keys(group) for part in parts]
    limit = _lowest(np.concatenate(drawn), min(most or fitting, fitting))
    if len(parts) == 1:
        return parts[0].take(group, limit)
    arrays = {id(part.array) if isinstance(part, Rows) else None for part in parts}
    if len(arrays) == 1 and None not in arrays:
        return _joined(parts, group, limit)
    chosen = [np.sort(keys[keys <= limit]) for keys in drawn]
    order = np.argsort(np.concatenate(chosen), kind="stable")
    ends = np.cumsum([len(keys) for keys in chosen])
    places = np.split(np.argsort(order), ends[:-1])
    rows = np.empty((len(order), like.shape[1]), like.dtype)
    for part, where in zip(parts, places, strict=True):
        rows[where] = part.take(group, limit)
    return rows


def _joined(parts: Sequence[Any], group: int, limit: int) -> Array:
    """Rows of one group of parts of one array: copied once, not part by part."""
    spans = [slice(*part.starts[group : group + 2]) for part in parts]
    pairs = list(zip(parts, spans, strict=True))
    order = np.concatenate([part.order[span] for part, span in pairs])
    keys = np.concatenate([part.keys[span] for part, span in pairs])
    starts = np.array([0, len(keys)])
    return Rows(parts[0].array, order, keys, starts, 0).take(0, limit)


def _row_bytes(rows: Array) -> int:
    return max(1, rows.itemsize * int(rows.shape[1]))


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

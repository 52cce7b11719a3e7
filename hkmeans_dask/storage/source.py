"""Reading Zarr arrays, block by block, on whatever worker.

What is read is checked where it is read: Zarr answers a missing chunk with the fill
value, so a worker without the mount, or in another working directory, would silently
read zeros. `Source` makes paths absolute and compares the metadata and one known chunk
on every worker before its first read. Chunks that are missing for all are counted
before the first read, and chunks that cannot be read are named.
"""

from __future__ import annotations

import itertools
import math
import os
import socket
import warnings
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import dask.array as da
import numpy as np
import zarr
import zarr.errors
from zarr.storage import FsspecStore, LocalStore

from hkmeans_dask.compat import run_on_zarr
from hkmeans_dask.remote.patience import (
    advice,
    in_words,
    is_of_store,
    may_pass,
    patiently,
    told,
    waits_of,
)
from hkmeans_dask.runtime.portable import Portable
from hkmeans_dask.storage.chunks import Chunks, lenient
from hkmeans_dask.storage.listing import listed
from hkmeans_dask.storage.packed import packing_of, stored
from hkmeans_dask.storage.stores import RemoteStore, reopened
from hkmeans_dask.storage.unchanged import opened_in, refuse_other
from hkmeans_dask.storage.urls import url_of

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMED = 3
"""Unreadable chunks that an error names, at most."""

MOST_CHUNKS = 10**8
"""Chunks whose keys a client can hold; metadata may tell of any number."""

DECODED = 8
"""Chunks of a block that Zarr decodes at the same time, at most (measured)."""

STRICT: Any = {"read_missing_chunks": False}
"""How Zarr is told that a missing chunk is an error."""

VARYING = (
    "has chunks of several sizes along one axis (a rectilinear grid), which neither "
    "this package nor dask reads. Store it again in chunks of one size"
)


class Source:
    """A read-only Zarr array that fails where it cannot be seen, never with zeros."""

    def __init__(self, given: Any) -> None:
        array, self._packing = stored(given), packing_of(given)
        unit(array)
        self._local = isinstance(array.store, LocalStore)
        array = _as_all_see_it(array)
        self._name = url_of(array)
        self._carried = Portable(array, self._name)
        self._chunks = Chunks.of(array)
        self._known, self._missing = _chunks_there(array)
        self._checked_in: int | None = None
        self.shape, self.dtype, self.ndim = given.shape, given.dtype, given.ndim

    def __getstate__(self) -> dict[str, Any]:
        """Travel unchecked: in containers process numbers are often equal."""
        return self.__dict__ | {"_checked_in": None}

    @property
    def _array(self) -> Any:
        return self._carried.value

    def __getitem__(self, index: tuple[slice | int, ...]) -> Any:
        """Read, after a check if this is the first read in this process."""
        if self._checked_in != os.getpid():
            told(self._name, "read", self._check)
            self._checked_in = os.getpid()
        try:
            values = patiently(self._read, index, waits=waits_of(self._name))
        except MemoryError:
            raise
        except Exception:  # codecs raise what they like
            reason = self._unreadable(index)
            if reason is None and self._local:
                raise
            values = self._again(index) if reason is None else None
        if values is None:  # not chained: not every codec's error can be unpickled
            raise OSError(reason)
        self._refuse_lost(index, values)
        return self._packing.decode(values) if self._packing else values

    def _again(self, index: tuple[slice | int, ...]) -> Any:
        """Read what can be read in pieces: some of it was cut off on its way here."""
        return told(self._name, "read", self._read, index)

    def _refuse_lost(self, index: tuple[slice | int, ...], values: Any) -> None:
        """Refuse fill values of a chunk that was there when the client looked.

        Purged since, or not in a worker's copy: Zarr does not say so. Only what looks
        like fill values is looked for in the store.
        """
        if self._missing is None or not all(map(_is_range, index)):
            return
        sizes, fill = unit(self._array), self._array.fill_value
        spans: Any = zip(index, self.shape, strict=True)
        starts = [part.indices(n)[0] for part, n in spans]
        for place in itertools.product(*map(_touched, index, self.shape, sizes)):
            edges = list(zip(place, sizes, starts, strict=True))
            cut = (slice(max(0, i * n - at), (i + 1) * n - at) for i, n, at in edges)
            if not _is_all(values[tuple(cut)], fill):
                continue
            key = _prefix(self._array) + self._array.metadata.encode_chunk_key(place)
            known = key in self._missing
            if not known and not told(
                self._name, "read", _is_there, self._array.store, key
            ):
                raise FileNotFoundError(
                    f"Chunk {key} of {self._name} was there when the client opened it, "
                    f"but is not as seen by process {os.getpid()} on "
                    f"{socket.gethostname()}. Restore it, or use a path or URL that "
                    "the client and all workers share."
                )

    def _read(self, index: tuple[slice | int, ...]) -> Any:
        """Read, with fewer copies than Zarr makes where that is possible."""
        if self._chunks is None or not all(map(_is_range, index)):
            return self._array[index]
        chosen: Any = index
        return self._chunks.read(self._array.store, chosen, self.shape)

    def _unreadable(self, index: tuple[slice | int, ...]) -> str | None:
        """Find the chunks that cannot be read, one by one, and say so."""
        found = list(itertools.islice(self._errors(index), NAMED))
        if not found:
            return None
        error = found[0][1]
        names = ", ".join(name for name, _ in found)
        of_store = is_of_store(error) and not self._local
        remedy = "Write it again, or restore it from a copy."
        return (
            f"Chunk {names} of {self._name} cannot be read ({in_words(error)}). "
            f"{advice(error) if of_store else remedy}"
        )

    def _errors(
        self, index: tuple[slice | int, ...]
    ) -> Iterator[tuple[str, Exception]]:
        """Read the chunks of a selection singly; give names and errors of bad ones."""
        sizes = unit(self._array)
        touched = map(_touched, index, self.shape, sizes)
        for place in itertools.product(*touched):
            bounds = zip(place, sizes, strict=True)
            try:
                self._read(tuple(slice(i * n, (i + 1) * n) for i, n in bounds))
            except Exception as error:
                yield self._array.metadata.encode_chunk_key(place), error
                if may_pass(error):
                    return  # other chunks are not to blame

    def _check(self) -> None:
        """Compare what this process sees with what the client saw."""
        here = f"process {os.getpid()} on {socket.gethostname()}"
        remedy = "Use a path or URL that the client and all workers share."
        seen = None
        with suppress(FileNotFoundError, zarr.errors.BaseZarrError):
            seen = opened_in(self._array.store, self._array)
        if seen is None and _is_private(self._array.store):
            raise FileNotFoundError(
                f"{self._name} is in the memory of one process, and cannot "
                f"be seen by {here}. Save it to a path or URL that all share."
            )
        if seen is None:  # not chained: zarr's errors cannot be unpickled
            raise FileNotFoundError(f"{self._name} cannot be seen by {here}. {remedy}")
        refuse_other(self._array, seen, f" as seen by {here}")
        if self._known and not _is_there(self._array.store, self._known):
            raise FileNotFoundError(
                f"{self._name} as seen by {here} is not the array that "
                f"the client opened. {remedy}"
            )


def _as_all_see_it(array: Any) -> Any:
    """Open an array by an absolute path, or where each chunk is one request."""
    store = array.store
    if isinstance(store, LocalStore):
        opened = opened_in(LocalStore(store.root.absolute(), read_only=True), array)
        refuse_other(array, opened)
    elif type(store) is FsspecStore:  # others have reasons of their own
        opened = reopened(array, RemoteStore.of(store))
    else:
        return array
    return opened if lenient(array) else opened.with_config(STRICT)


def _is_private(store: Any) -> bool:
    """Whether only one process sees a store (``memory://``)."""
    protocol = store.fs.protocol if isinstance(store, FsspecStore) else ()
    return "memory" in np.ravel(protocol)


def _is_range(chosen: slice | int) -> bool:
    return isinstance(chosen, slice) and chosen.step in (None, 1)


def _touched(chosen: slice | int, extent: int, size: int) -> range:
    """Give the numbers of the chunks that a selection touches along one axis."""
    if isinstance(chosen, int):
        chosen = slice(chosen, chosen + 1)
    rows = range(extent)[chosen]
    return range(rows[0] // size, rows[-1] // size + 1) if rows else rows


def _prefix(array: Any) -> str:
    return f"{array.path}/" if array.path else ""


def _is_all(values: Any, fill: Any) -> bool:
    """Whether all values, or the first, which is looked at before, are a fill value."""
    fill = 0 if fill is None else fill
    if not values.size or not _equals(values.flat[0], fill):
        return False
    return bool(np.all(_equals(values, fill)))


def _equals(values: Any, fill: Any) -> Any:
    return (values == fill) | ((values != values) & (fill != fill))


def _chunks_there(array: Any) -> tuple[str | None, frozenset[str] | None]:
    """Key of a chunk that is there, if there is one, and keys of all that are missing.

    None where the store cannot be listed. Warns of missing ones.
    """
    sizes = unit(array)
    grid = [-(-n // max(1, size)) for n, size in zip(array.shape, sizes, strict=True)]
    if math.prod(grid) > MOST_CHUNKS:
        raise ValueError(
            f"{array.store_path} has {math.prod(grid)} chunks (of shape {sizes}), but "
            f"{MOST_CHUNKS} are read at most. Store it in larger ones, or in shards."
        )
    listing = listed(array)  # empty, without even the metadata: no way to list
    if not listing:
        if math.prod(grid) and lenient(array):
            _warn_of_no_list(array)
        return None, None
    base, known, missing = _prefix(array), None, set()
    for place in np.ndindex(*grid):
        key = base + array.metadata.encode_chunk_key(place)
        if key not in listing:
            missing.add(key)
        else:
            known = known or key
    if missing:
        found = (
            f"{len(missing)} of {math.prod(grid)} "
            f"{'shards' if array.shards else 'chunks'} of {url_of(array)} are "
            "missing"
        )
        if not lenient(array):
            raise FileNotFoundError(
                f"{found}, and array.read_missing_chunks is off. Write them again, or "
                "turn it on if they are empty (chunks of zeros are often not written)."
            )
        warnings.warn(
            f"{found} and are read as its fill value {array.fill_value}. If that is "
            "not meant (chunks of zeros are often not written), write them again.",
            stacklevel=9,  # the caller of `fit`
        )
    return known, frozenset(missing)


def _warn_of_no_list(array: Any) -> None:
    warnings.warn(
        f"{url_of(array)} cannot be listed, so that missing chunks cannot be told from "
        f"empty ones there: both are read as its fill value {array.fill_value}.",
        stacklevel=10,  # the caller of `fit`
    )


def reading(
    block_bytes: int, chunk_bytes: int, stored_bytes: int, most: int | None = None
) -> int:
    """Bytes that reading a block takes for a moment, besides the block.

    Parameters
    ----------
    block_bytes : int
    chunk_bytes : int
        Of what is decoded at once: a chunk.
    stored_bytes : int
        Of what is read at once: a chunk, or a shard.
    most : int, optional
        Chunks that are asked for before they are decoded, one after the other, at most;
        None if Zarr reads them.
    """
    if most is not None:
        # One is decoded while what was sent of another is put together (measured).
        ahead = min(block_bytes, most * chunk_bytes)
        return stored_bytes + chunk_bytes + ahead * (ahead >= 2 * chunk_bytes)
    return min(block_bytes, DECODED * chunk_bytes) + min(stored_bytes, block_bytes)


def unit(array: Any) -> tuple[int, ...]:
    """Shape of what is one object in the store: a shard of chunks, or a chunk.

    Raises
    ------
    ValueError
        If there are several shapes.
    """
    try:
        found: tuple[int, ...] = array.shards or array.chunks
    except NotImplementedError as error:
        raise ValueError(f"{url_of(array)} {VARYING}.") from error
    return found


def _is_there(store: Any, key: str) -> bool:
    """Whether a store has a key, where there is a way to ask."""
    found: bool = run_on_zarr(store.exists(key), True)
    return found


def read(array: Any) -> Any:
    """Read all of an array of Zarr."""
    return Source(array)[(slice(None),) * array.ndim]


def as_dask(array: Any, chunks: tuple[int, ...]) -> da.Array:
    """Read an array of Zarr lazily, in blocks of `chunks` (whole chunks or shards)."""
    fitting = tuple(
        max(1, min(size, extent))
        for size, extent in zip(chunks, array.shape, strict=True)
    )
    source = Source(array)
    meta = np.empty((0,) * source.ndim, source.dtype)  # or dask reads to find out
    lazy: da.Array = da.from_array(
        source,
        chunks=fitting,
        lock=False,
        asarray=False,
        fancy=False,
        name=False,
        meta=meta,
    )
    return lazy

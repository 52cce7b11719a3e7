"""Reading Zarr arrays, block by block, on whatever worker.

What is read is checked where it is read: Zarr answers a missing chunk with the fill
value, so a worker without the mount, or in another working directory, would silently
read zeros. `Source` makes paths absolute and compares the metadata and one known chunk
on every worker before its first read.
"""

from __future__ import annotations

import os
import socket
from contextlib import suppress
from typing import Any

import dask.array as da
import numpy as np
import zarr
import zarr.errors
from dask.base import tokenize
from zarr.core.sync import sync
from zarr.storage import FsspecStore, LocalStore


class Source:
    """A read-only zarr.Array that fails where it cannot be seen, never with zeros."""

    def __init__(self, array: Any) -> None:
        store = array.store
        if isinstance(store, LocalStore):
            store = LocalStore(store.root.absolute(), read_only=True)
            array = zarr.open_array(store, path=array.path, mode="r")
        self._array = array
        self._known = _some_chunk(array)
        self._checked_in: int | None = None
        self.shape, self.dtype, self.ndim = array.shape, array.dtype, array.ndim

    def __getstate__(self) -> dict[str, Any]:
        """Travel unchecked: in containers process numbers are often equal."""
        return self.__dict__ | {"_checked_in": None}

    def __getitem__(self, index: Any) -> Any:
        """Read, after a check if this is the first read in this process."""
        if self._checked_in != os.getpid():
            self._check()
            self._checked_in = os.getpid()
        return self._array[index]

    def _check(self) -> None:
        """Compare what this process sees with what the client saw."""
        here = f"process {os.getpid()} on {socket.gethostname()}"
        remedy = "Use a path or URL that the client and all workers share."
        seen = None
        with suppress(FileNotFoundError, zarr.errors.BaseZarrError):
            seen = zarr.open_array(self._array.store, path=self._array.path, mode="r")
        if seen is None:  # not chained: zarr's errors cannot be unpickled
            raise FileNotFoundError(
                f"{self._array.store_path} cannot be seen by {here}. {remedy}"
            )
        missing = self._known and not sync(self._array.store.exists(self._known))
        known = (
            self._array.metadata.to_dict()
        )  # where a fill value of NaN equals itself
        if missing or seen.metadata.to_dict() != known:
            raise FileNotFoundError(
                f"{self._array.store_path} as seen by {here} is not the array that "
                f"the client opened. {remedy}"
            )


def _some_chunk(array: Any) -> str | None:
    """Key of a chunk that is there, None for an array of fill values only."""
    metadata = {"zarr.json", ".zarray", ".zattrs", ".zgroup", ".zmetadata"}

    async def first() -> str | None:
        async for key in array.store.list_prefix(array.path):
            if key.rsplit("/", 1)[-1] not in metadata:
                return str(key)
        return None

    return sync(first())


def fingerprint(array: Any) -> str:
    """Tell a Zarr array from any other, and from itself after a write.

    From its metadata and each chunk's key, size and time of change (or ETag), where
    the store tells them: nothing is read.
    """
    chunks: list[Any] = []
    store, base = array.store, array.path
    if isinstance(store, LocalStore):
        for folder, _, names in os.walk(store.root / base):
            for name in names:
                status = os.stat(os.path.join(folder, name))
                key = os.path.relpath(os.path.join(folder, name), store.root)
                chunks.append((key, status.st_size, status.st_mtime_ns))
    elif isinstance(store, FsspecStore):
        place = f"{store.path}/{base}".rstrip("/")
        for key, known in sync(_details(store, place)).items():
            changed = [known.get(n) for n in ("ETag", "etag", "mtime", "LastModified")]
            chunks.append((key, known.get("size"), *map(str, changed)))
    found: str = tokenize(
        str(array.store_path), array.metadata.to_dict(), sorted(chunks, key=str)
    )
    return found


async def _details(store: FsspecStore, place: str) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = await store.fs._find(place, detail=True)
    return found


def as_dask(array: Any, chunks: tuple[int, ...]) -> da.Array:
    """Read a Zarr array lazily, in blocks of `chunks` (whole chunks or shards)."""
    fitting = tuple(
        max(1, min(size, extent))
        for size, extent in zip(chunks, array.shape, strict=True)
    )
    source = Source(array)
    meta = np.empty((0,) * source.ndim, source.dtype)  # or dask reads to find out
    lazy: da.Array = da.from_array(
        source, chunks=fitting, lock=False, asarray=False, name=False, meta=meta
    )
    return lazy

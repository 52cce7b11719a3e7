"""Stores of Zarr behind URLs that are asked no more than is needed.

s3fs asks how large an object is before it reads it whole, unless it has listed it: two
requests for each chunk on every worker, which has listed nothing. A range that begins
at 0 is one request. Zarr removes what may be at the place of an array before it writes
there, which takes six requests where nothing can be.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.abc.store import OffsetByteRequest
from zarr.storage import FsspecStore, StorePath

if TYPE_CHECKING:
    from typing import Self

    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer, BufferPrototype

WHOLE = OffsetByteRequest(0)
"""All of an object, as a range."""


class RemoteStore(FsspecStore):
    """A store behind a URL, whose objects are read in one request each."""

    @classmethod
    def of(cls, store: FsspecStore) -> Self:
        """Take what another store reaches."""
        found = cls.__new__(cls)  # its user was warned of what Zarr warns of, if at all
        found.__dict__.update(store.__dict__)
        return found

    async def get(
        self,
        key: str,
        prototype: BufferPrototype,
        byte_range: ByteRequest | None = None,
    ) -> Buffer | None:
        """Read an object, or a range of it; None if it is not there."""
        if byte_range is None and "http" not in np.ravel(self.fs.protocol):
            byte_range = WHOLE
        return await super().get(key, prototype, byte_range)


class NewStore(RemoteStore):
    """The same at a place where nothing was before."""

    async def delete_dir(self, prefix: str) -> None:
        """Leave what was begun there: it is written over."""


def store_at(place: str, *, new: bool = False) -> Any:
    """Give what Zarr opens, or writes to where nothing is, at a path or URL.

    A path is one: of a text Zarr would drop ``?`` and line ends.
    """
    if "://" not in place:
        return Path(place)
    return NewStore.from_url(place) if new else RemoteStore.from_url(place)


def reopened(array: Any, store: Any) -> Any:
    """Give an array as another store has it; nothing is read."""
    place = StorePath(store, array.path)
    return zarr.Array(zarr.AsyncArray(array.metadata, place))

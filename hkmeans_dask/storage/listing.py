"""What a store tells of an array without reading it: keys, sizes, times of change."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from dask.base import tokenize
from zarr.storage import FsspecStore, LocalStore

from hkmeans_dask.compat import find_details, run_on_zarr
from hkmeans_dask.remote.patience import Unreachable, told
from hkmeans_dask.runtime.progress import said_if_slow
from hkmeans_dask.storage.known import once
from hkmeans_dask.storage.packed import packing_of, stored
from hkmeans_dask.storage.urls import url_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

ADDRESS = re.compile(r"\b0x[0-9a-fA-F]{6,}\b")
"""Of an object in memory, in the name that Python gives to objects without one."""


def fingerprint(given: Any) -> str:
    """Tell an array of Zarr from any other, and from itself after a write.

    From its metadata and each chunk's key, size and time of change (or ETag), where
    the store tells them, or the snapshot (icechunk) that it is of: nothing is read.
    """
    array, packing = stored(given), packing_of(given)
    snapshot = _snapshot(array.store)
    if snapshot is None:
        place, found = ADDRESS.sub("", str(array.store_path)), listed(array)
    else:
        place, found = f"{snapshot}/{array.path}", {}
    what = (place, array.metadata.to_dict(), sorted(found.items()))
    token: str = tokenize(*what, packing) if packing else tokenize(*what)
    return token


def tells_changes(given: Any) -> bool:
    """Whether the store tells size and time (or ETag) of all that is there."""
    array = stored(given)
    if _snapshot(array.store) is not None:
        return True
    known = listed(array).values()
    return bool(known) and all({*facts[1:]} - {"None"} for facts in known)


def _snapshot(store: Any) -> str | None:
    """Name the version that a store shows of what it holds, if it never changes."""
    session = getattr(store, "session", None)
    found = getattr(session, "snapshot_id", None)
    if not isinstance(found, str) or getattr(session, "has_uncommitted_changes", True):
        return None
    return found


@once
def listed(array: Any) -> dict[str, tuple[Any, ...]]:
    """Give what is in the store for an array: key, and size and time if it tells."""
    with said_if_slow("listing the chunks of %s", url_of(array)):
        return _listed(array)


def _listed(array: Any) -> dict[str, tuple[Any, ...]]:
    store, base = array.store, array.path
    if isinstance(store, LocalStore):
        return dict(_files(store, base))
    if isinstance(store, FsspecStore):
        place = f"{store.path}/{base}".rstrip("/")
        details = _unless_refused(array, _details, store, place)
        return {
            key.removeprefix(f"{store.path}/"): (known.get("size"), *_changed(known))
            for key, known in details.items()
        }
    return dict.fromkeys(_unless_refused(array, _keys_in, store, base), ())


def _unless_refused(array: Any, call: Callable[..., Any], *args: Any) -> Any:
    """List what a server lets us list; what may pass is an error, nevertheless."""
    try:
        return told(url_of(array), "listed", call, *args)
    except (Unreachable, PermissionError, FileNotFoundError) as error:
        if isinstance(error, Unreachable) and error.may_pass:
            raise
        return {}


def _files(store: LocalStore, base: str) -> Iterator[tuple[str, tuple[int, int]]]:
    for folder, _, names in os.walk(store.root / base, followlinks=True):
        for name in names:
            path = os.path.join(folder, name)
            with suppress(FileNotFoundError):  # links to nothing: not fetched (DataLad)
                status = os.stat(path)
                key = os.path.relpath(path, store.root)
                yield key, (status.st_size, status.st_mtime_ns)


def _changed(known: dict[str, Any]) -> Iterator[str]:
    for name in ("ETag", "etag", "mtime", "LastModified"):
        yield str(known.get(name))


def _details(store: FsspecStore, place: str) -> Any:
    return run_on_zarr(find_details(store, place), {})


def _keys_in(store: Any, base: str) -> Any:
    return run_on_zarr(_keys(store, base), [])


async def _keys(store: Any, base: str) -> list[str]:
    return [key async for key in store.list_prefix(base)]

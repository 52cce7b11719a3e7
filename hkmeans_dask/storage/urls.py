"""What Zarr has opened, as a URL."""

from __future__ import annotations

from typing import Any

from zarr.storage import FsspecStore


def url_of(array: Any) -> str:
    """Name where a Zarr array or group is, as a URL if it is at one."""
    store = array.store
    if not isinstance(store, FsspecStore):
        return str(array.store_path)
    place = f"{store.path}/{array.path}".rstrip("/")
    if "://" in place:
        return place
    protocol = store.fs.protocol
    kind = protocol if isinstance(protocol, str) else protocol[0]
    return f"{kind}://{place.lstrip('/') if kind != 'file' else place}"

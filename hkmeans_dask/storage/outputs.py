"""Zarr outputs: created, written block by block, made visible when complete.

What is written appears only when it is complete: beside its place, which it takes at
the end (see `replacing`), with ``status: "complete"`` set last; readers refuse a store
that has another status. Nothing is ever unpickled.
"""

from __future__ import annotations

import math
import os
import uuid
import warnings
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dask
import dask.array as da
import numpy as np
import zarr
import zarr.errors
from zarr.codecs import BloscCodec

from hkmeans_dask.remote.objects import Objects
from hkmeans_dask.remote.patience import is_remote, told
from hkmeans_dask.runtime.portable import Portable
from hkmeans_dask.runtime.progress import done
from hkmeans_dask.storage import replacing
from hkmeans_dask.storage.claims import claimed, remove_left
from hkmeans_dask.storage.opening import COMPLETE, location
from hkmeans_dask.storage.stores import store_at
from hkmeans_dask.storage.urls import url_of
from hkmeans_dask.workspace.plain import fullness_explained

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from dask.delayed import Delayed


CHUNK_BYTES = 16 * 2**20
"""Bytes of one chunk of the arrays we write, before compression."""


@contextmanager
def writing(url: str | os.PathLike[str], *, overwrite: bool) -> Iterator[str]:
    """Give a place to write a store to; it appears at `url` when the block ends.

    After an error nothing is left behind, and what was at `url` is still there.

    Raises
    ------
    FileExistsError
        If something is at `url` and `overwrite` is false.
    """
    target = location(url)
    check_free(url, overwrite=overwrite)
    writing_there = _writing_remotely if is_remote(target) else _writing_locally
    if not is_remote(target):
        Path(target).parent.mkdir(parents=True, exist_ok=True)
    with claimed(target) as place, writing_there(target, place):
        yield place


@contextmanager
def _writing_locally(target: str, partial: str) -> Iterator[None]:
    try:
        with fullness_explained(target, "Make space, or choose another output"):
            yield
            replacing.replace(Path(partial), Path(target))
    except BaseException:
        replacing.remove_local(partial)
        raise


@contextmanager
def _writing_remotely(target: str, partial: str) -> Iterator[None]:
    try:
        yield
        replacing.replace_remote(partial, target)
    except BaseException:
        replacing.forget_remote(partial, target)
        raise


def check_free(url: str | os.PathLike[str], *, overwrite: bool) -> None:
    """Refuse an output that is there, unless it may be overwritten.

    What dead processes left there goes. To an object store something is written, to
    find out whether it can be.
    """
    target = location(url)
    if not is_remote(target):
        with suppress(OSError):  # what can be written there is found out later
            remove_left(target)
    elif Objects(target).is_read_only:
        raise ValueError(
            f"{url} cannot be written: http can only be read. Choose a local path, or "
            "the URL of an object store, such as s3://bucket/name."
        )
    elif Objects(target).is_bucket:
        raise ValueError(f"{url} is a whole bucket. Name a place in it.")
    else:
        remove_left(target)
    if not overwrite and _exists(target):
        raise FileExistsError(
            f"{url} is already there. Choose another name, or pass overwrite "
            "(--overwrite)."
        )
    folder = _names_in(target)
    if folder and replacing.ROOTS.isdisjoint(folder):
        raise FileExistsError(
            f"{url} is a folder but no Zarr store, and stays. Choose another name."
        )


def _exists(target: str) -> bool:
    if is_remote(target):
        return Objects(target).exists()
    return os.path.lexists(replacing.standing(target))


def _names_in(target: str) -> list[str]:
    if is_remote(target):
        return Objects(target).names()
    return os.listdir(target) if os.path.isdir(target) else []


def create_array(
    place: str,
    shape: tuple[int, ...],
    chunks: tuple[int, ...],
    dtype: np.dtype[Any],
    names: Sequence[str] | None = None,
    component: str | None = None,
) -> Any:
    """Create an empty array (Zarr v3) that is not complete yet.

    LZ4 reads several times faster than Zarr's default. Chunks of zeros are
    written too, so that a chunk that is not there is always one that went missing.
    """
    return told(
        place,
        "written",
        zarr.create_array,
        store_at(place, new=True),
        name=component,
        shape=shape,
        chunks=chunks,
        dtype=dtype,
        dimension_names=names,
        compressors=BloscCodec(cname="lz4", clevel=1, shuffle="shuffle"),
        attributes={"status": "writing"},
        overwrite=True,
        zarr_format=3,
        config={"write_empty_chunks": True},
    )


def fill(
    place: str,
    array: da.Array,
    compute: Callable[..., object],
    names: Sequence[str] | None = None,
    component: str | None = None,
) -> None:
    """Write a lazy array block by block, and mark it complete.

    Parameters
    ----------
    place : str, from `writing`
    array : dask array
        Cut into blocks of whole output chunks first where it is not: two tasks that
        write to one chunk would silently undo each other's rows.
    compute : callable, ``Runner.write``
    names : sequence of str, optional
        Of the axes, as xarray knows them.
    component : str, optional
        The name of the array in a group, which xarray opens; else the store is the
        array.

    Raises
    ------
    FileNotFoundError
        If the workers wrote to a place that this process does not see.
    """
    chunks = output_chunks(array)
    group = None if component is None else create_group(place)
    how = (names, component)
    target = create_array(place, array.shape, chunks, array.dtype, *how)
    compute(*_writes(_cut_at(array, chunks), target))
    if missing := target.nchunks - told(
        place, "listed", getattr, target, "nchunks_initialized"
    ):
        raise FileNotFoundError(
            f"{missing} of {target.nchunks} chunks "
            f"that workers wrote cannot be seen in {place}. Use a path or URL that the "
            "client and all workers share."
        )
    complete(target)
    if group is not None:
        consolidate(group)


def create_group(place: str, **attributes: Any) -> Any:
    """Create an empty group (Zarr v3)."""
    return told(
        place,
        "written",
        zarr.create_group,
        store_at(place, new=True),
        attributes=attributes,
        overwrite=True,
        zarr_format=3,
    )


def consolidate(group: Any) -> Any:
    """Collect the metadata of a group in one file, as xarray wants it; give the group.

    Zarr warns that format 3 does not tell of it yet; readers that do not know it look
    at each array.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Consolidated metadata", UserWarning)
        return told(
            url_of(group),
            "written",
            zarr.consolidate_metadata,
            group.store,
            path=group.path,
            zarr_format=3,
        )


def _writes(array: da.Array, target: Any) -> list[Delayed]:
    """Write each block, later; tasks keep the names that say what they do."""
    writes: da.Array = da.map_blocks(
        _write,
        array,
        Portable(target, url_of(target)),
        name=f"hkmeans-write-{uuid.uuid4().hex}",
        dtype=bool,
        chunks=tuple((1,) * n for n in array.numblocks),
        meta=np.empty((0,) * array.ndim, bool),
    )
    with dask.config.set({"optimization.fuse.active": False}):
        tasks: list[Delayed] = writes.to_delayed(optimize_graph=True).ravel().tolist()
    return tasks


def _write(block: Any, target: Any, block_info: Any = None) -> Any:
    place = block_info[0]["array-location"]
    put(target.value, tuple(slice(*edges) for edges in place), block)
    done()
    return np.ones((1,) * block.ndim, bool)


def output_chunks(array: da.Array) -> tuple[int, ...]:
    """Choose chunks of about `CHUNK_BYTES` that divide or join the blocks of `array`.

    Examples
    --------
    >>> output_chunks(da.zeros((2_000_000, 100), np.float32, chunks=(200_000, 100)))
    (40000, 100)
    >>> output_chunks(da.zeros((1000, 50_000), np.float32, chunks=(1000, 10)))
    (1000, 4190)
    """
    chunks = [max(1, sizes[0]) for sizes in array.chunks]
    for axis in sorted(range(array.ndim), key=lambda axis: -chunks[axis]):
        row_bytes = array.dtype.itemsize * math.prod(chunks) // chunks[axis]
        size = _near(chunks[axis], max(1, CHUNK_BYTES // row_bytes))
        chunks[axis] = max(1, min(size, array.shape[axis]))
    return tuple(chunks)


def _near(block: int, limit: int) -> int:
    """Multiple of `block` up to `limit`, or its divisor near `limit`, if it has one."""
    if block <= limit:
        return limit // block * block
    parts = round(block / limit)
    divisors = [n for n in range(parts // 2 + 1, 2 * parts + 1) if block % n == 0]
    return block // min(divisors, key=lambda n: abs(n - parts)) if divisors else limit


def _cut_at(array: da.Array, chunks: tuple[int, ...]) -> da.Array:
    """Make every block whole chunks."""
    blocks = [
        sizes
        if not np.any(np.cumsum(sizes[:-1]) % chunk)
        else max(chunk, max(sizes) // chunk * chunk)
        for sizes, chunk in zip(array.chunks, chunks, strict=True)
    ]
    cut: da.Array = array.rechunk(tuple(blocks))
    return cut


def put(array: Any, where: tuple[slice, ...], values: Any) -> None:
    """Write a part of an array."""
    told(url_of(array), "written", array.__setitem__, where, values)


def describe(node: Any, attributes: dict[str, Any]) -> None:
    """Write attributes of an array or group."""
    told(url_of(node), "written", node.update_attributes, attributes)


def complete(node: Any) -> None:
    """Mark an array or group as complete: the last write."""
    describe(node, {"status": COMPLETE})

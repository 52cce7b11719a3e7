"""The stored bytes of chunks: of local files, or of what is in any store of Zarr.

Where they take long to come several are asked for at once, no more than a task has
memory for. Stores are asked on Zarr's event loop, while the task decodes what has come.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections import deque
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import closing
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.buffer.cpu import buffer_prototype
from zarr.storage import LocalStore

from hkmeans_dask.compat import zarr_loop

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from pathlib import Path

    from hkmeans_dask.kmeans.kernels import Array

IN_FLIGHT = 16
"""Files that are read at once where one takes long, at most."""

AHEAD_BYTES = 16 * 2**20
"""Bytes of their chunks, at most."""

SLOW = 0.005
"""Seconds that reading a file takes, from which on others are read meanwhile."""

FETCHED_BYTES = 64 * 2**20
"""Bytes of chunks that are asked for, or wait to be decoded, of a store, at most."""


def can_be_read(store: Any) -> bool:
    """Whether there is a way to ask this store."""
    return isinstance(store, LocalStore) or zarr_loop() is not None


def most_at_once(store: Any, chunk_bytes: int) -> int:
    """Chunks that are asked for, and not yet decoded, at most.

    Of a store twice as many as there are requests, so that none waits for a decoder.
    """
    local = isinstance(store, LocalStore)
    count = IN_FLIGHT if local else 2 * _requests()
    most = AHEAD_BYTES if local else FETCHED_BYTES
    return max(1, min(count, most // max(1, chunk_bytes)))


def _requests() -> int:
    """Give how many requests of one read a store answers at once, at most."""
    return int(zarr.config.get("async.concurrency") or IN_FLIGHT)


def contents(
    store: Any, keys: list[str], most: int
) -> Generator[tuple[int, Array | None]]:
    """Yield the number of each key, and its bytes, or None if it is not there.

    To be closed if it is left early: nothing is asked for any longer.
    """
    if isinstance(store, LocalStore):
        with closing(_of_files([store.root / key for key in keys], most)) as found:
            yield from enumerate(found)
    else:
        yield from _of_store(store, keys, most)


def _of_files(files: list[Path], most: int) -> Generator[Array | None]:
    """Yield the bytes of files; once one takes long, several are read ahead."""
    took = 0.0
    while files and (took < SLOW or most < 2):
        start = time.perf_counter()
        stored = _stored(files.pop(0))
        took = time.perf_counter() - start
        yield stored
    if files:
        yield from _read_ahead(files, most)


def _read_ahead(files: list[Path], most: int) -> Generator[Array | None]:
    """Yield the bytes of files in order, of which so many are read at once."""
    with ThreadPoolExecutor(most) as pool:
        coming = deque(pool.submit(_stored, file) for file in files[:most])
        for file in [*files[most:], *[None] * len(coming)]:
            yield coming.popleft().result()
            if file is not None:
                coming.append(pool.submit(_stored, file))


def _stored(path: Path) -> Array | None:
    """Bytes of a file, None if there is none.

    A bytes object would not be put into large pages.
    """
    try:
        with path.open("rb") as file:
            stored = np.empty(os.fstat(file.fileno()).st_size, np.uint8)
            return stored[: file.readinto(stored.data)]
    except FileNotFoundError:
        return None


def _of_store(
    store: Any, keys: list[str], most: int
) -> Generator[tuple[int, Array | None]]:
    """Yield the bytes of objects as they come."""
    loop, come = zarr_loop(), SimpleQueue[tuple[Any, ...]]()
    room = asyncio.Semaphore(most)
    asked = _fetch(store, keys, room, come.put)
    fetching = asyncio.run_coroutine_threadsafe(asked, loop)
    fetching.add_done_callback(lambda _: come.put((0, None, CancelledError())))
    try:
        for _ in keys:
            number, stored, *failed = come.get()
            if failed:
                raise failed.pop()  # what holds it is in its traceback
            yield number, stored
            loop.call_soon_threadsafe(room.release)
    finally:
        fetching.cancel()


async def _fetch(
    store: Any,
    keys: list[str],
    room: asyncio.Semaphore,
    give: Callable[[tuple[Any, ...]], None],
) -> None:
    """Give the bytes of objects, or what was raised, as long as there is room."""
    waiting = enumerate(keys)

    async def some() -> None:
        for number, key in waiting:
            await room.acquire()
            try:
                found = await store.get(key, buffer_prototype)
                give((number, None if found is None else found.as_numpy_array()))
            except Exception as error:  # or the loop would complain of those not seen
                give((number, None, error))

    n_requests = min(_requests(), len(keys))
    asking = [asyncio.ensure_future(some()) for _ in range(n_requests)]
    try:
        await asyncio.gather(*asking)
    finally:
        for one in asking:
            one.cancel()  # if another one was, which ends what is awaited

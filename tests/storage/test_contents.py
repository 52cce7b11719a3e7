"""What stores are asked for: several chunks at once, no more than there is room for."""

import asyncio
import gc
import math
import pickle
import threading
import tracemalloc
import weakref
import zlib
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import suppress

import numpy as np
import pytest
import zarr
from numpy.testing import assert_array_equal
from zarr.codecs import BloscCodec, ZstdCodec
from zarr.storage import FsspecStore, LocalStore, MemoryStore, ZipStore

from hkmeans_dask.storage import contents
from hkmeans_dask.storage.chunks import Chunks
from hkmeans_dask.storage.source import Source, reading
from tests import s3
from tests.strategies import Wrapped

pytestmark = s3.SESSIONS_LEFT_OPEN

X = np.random.default_rng(0).normal(size=(85, 6)).astype(np.float32)
X[30:40] = 7
WHOLE = (slice(None), slice(None))
PARTS = [WHOLE, (slice(3, 77), slice(1, 5)), (slice(20, 50), slice(None))]
CODECS = {"blosc": BloscCodec(), "zstd": ZstdCodec(), "none": None}
LONG = 60
"""Seconds after which what should have come will not."""


def write(store, zarr_format=3, codec="blosc", path=None):
    """Write nine chunks, of which the last is cut and the fourth is not there."""
    options = {"compressors": CODECS[codec]} if zarr_format == 3 else {}
    zarr.create_array(
        store,
        name=path,
        data=X,
        chunks=(10, 6),
        zarr_format=zarr_format,
        fill_value=7,
        **options,
    )


def in_memory(tmp_path, **options):
    store = MemoryStore()
    write(store, **options)
    return store


def in_zip(tmp_path, **options):
    with ZipStore(tmp_path / "x.zip", mode="w") as store:
        write(store, **options)
    return ZipStore(tmp_path / "x.zip", mode="r")


def behind_another(tmp_path, **options):
    write(LocalStore(tmp_path), **options)
    return Wrapped(LocalStore(tmp_path))


def in_fsspec(tmp_path, **options):
    url = f"memory://contents/{tmp_path.name}"
    write(url, **options)
    return FsspecStore.from_url(url)


def in_obstore(tmp_path, **options):
    obstore = pytest.importorskip("obstore.store")
    from zarr.storage import ObjectStore

    store = ObjectStore(obstore.LocalStore(str(tmp_path)))
    write(store, **options)
    return store


def in_icechunk(tmp_path, zarr_format=3, **options):
    icechunk = pytest.importorskip("icechunk")
    if zarr_format == 2:
        pytest.skip("icechunk holds format 3")
    storage = icechunk.local_filesystem_storage(str(tmp_path))
    session = icechunk.Repository.create(storage).writable_session("main")
    write(session.store, path="x", **options)
    session.commit("write")
    return session.store


STORES = [in_memory, in_zip, behind_another, in_fsspec, in_obstore, in_icechunk]


def check(array):
    """Compare parts with what was written, where Zarr would make more copies."""
    assert Chunks.of(array) is not None
    source = Source(array)
    for part in PARTS:
        assert_array_equal(source[part], X[part])
        assert_array_equal(array[part], X[part])


@pytest.mark.filterwarnings("ignore:(?s).*fill value")
@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("store", STORES)
def test_every_store_is_read(store, codec, tmp_path):
    found = store(tmp_path, codec=codec)
    path = "x" if store is in_icechunk else None
    check(zarr.open_array(found, path=path, mode="r"))


@pytest.mark.filterwarnings("ignore:(?s).*fill value")
@pytest.mark.parametrize("store", STORES)
def test_format_2_is_read(store, tmp_path):
    check(zarr.open_array(store(tmp_path, zarr_format=2), mode="r"))


@pytest.mark.filterwarnings("ignore:(?s).*fill value")
@pytest.mark.parametrize("codec", CODECS)
def test_servers_are_read_with_one_request_for_each_chunk(server, bucket, codec):
    url = f"s3://{bucket}/x"
    write(url, codec=codec)
    for place in (url, f"{server.url}/{bucket}/x"):
        array = zarr.open_array(place, mode="r")
        check(array)
        source = Source(array)
        source[:1, :]  # looks whether it is there
        begin = len(server.requests)
        source[PARTS[1]]
        asked = [request for request in server.requests[begin:] if "/c/" in request[1]]
        gets = sorted(path for method, path in asked if method == "GET")
        assert gets == [f"/{bucket}/x/c/{i}/0" for i in range(8)]


def test_chunks_travel_without_the_store():
    """Not every process can open it."""
    array = opened(Wrapped)
    assert b"Store" not in pickle.dumps(Chunks.of(array))


# How many at once


def opened(kind):
    memory = MemoryStore()
    write(memory)
    return zarr.open_array(kind(memory), mode="r")


def read(array, **changes):
    chunks = Chunks.of(array)._replace(**changes)
    return chunks.read(array.store, WHOLE, array.shape)


def is_chunk(key):
    return key.startswith("c/")


class Meeting(Wrapped):
    """A store that answers when three wait for it."""

    running = most = 0
    barrier = None

    async def get(self, key, prototype, byte_range=None):
        """Let three meet."""
        if is_chunk(key):
            self.barrier = self.barrier or asyncio.Barrier(3)
            self.running += 1
            self.most = max(self.most, self.running)
            await asyncio.wait_for(self.barrier.wait(), LONG)
            self.running -= 1
        return await super().get(key, prototype, byte_range)


def test_as_many_requests_as_zarr_makes_are_in_flight():
    array = opened(Meeting)
    with zarr.config.set({"async.concurrency": 3}):
        assert_array_equal(read(array), X)
    assert array.store.most == 3


def test_tasks_share_the_loop():
    class Slow(Wrapped):
        async def get(self, key, prototype, byte_range=None):
            for _ in range(zlib.crc32(key.encode()) % 7):  # others come first
                await asyncio.sleep(0)
            return await super().get(key, prototype, byte_range)

    array = opened(Slow)
    with ThreadPoolExecutor(8) as pool:
        for found in pool.map(read, [array] * 100):
            assert_array_equal(found, X)


class Counting(Wrapped):
    """A store that counts what it was asked for, and tells of it."""

    def __init__(self, store):
        super().__init__(store)
        self.asked, self.came = 0, threading.Condition()

    async def get(self, key, prototype, byte_range=None):
        """Count."""
        if is_chunk(key):
            with self.came:
                self.asked += 1
                self.came.notify_all()
        return await super().get(key, prototype, byte_range)

    def wait_for(self, number):
        """Wait until so many chunks were asked for."""
        with self.came:
            assert self.came.wait_for(lambda: self.asked >= number, LONG)


def test_no_more_is_asked_for_than_there_is_room_for(monkeypatch):
    array = opened(Counting)
    monkeypatch.setattr(contents, "FETCHED_BYTES", 4 * 10 * 6 * 4)
    decode, decoded, waiting = Chunks.of(array).decode, [], []

    def slowly(stored, chunk):
        array.store.wait_for(min(9, len(decoded) + 4))
        waiting.append(array.store.asked - len(decoded))
        decoded.append(1)
        return decode(stored, chunk)

    assert_array_equal(read(array, decode=slowly), X)
    # The chunk that is not there takes no decoding, but room for a moment.
    assert 4 <= max(waiting) <= 5


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("columns", [64, 32])
@pytest.mark.parametrize("rows", [1024, 8192])
def test_a_read_holds_no_more_than_is_planned(rows, columns, codec):
    """Many or few chunks, as wide as the block or not, that wait to be decoded."""

    class Fresh(Counting):
        async def get(self, key, prototype, byte_range=None):
            found = await super().get(key, prototype, byte_range)
            if found is None:
                return None
            parts = [found.to_bytes()]  # as they come from a network
            return prototype.buffer.from_bytes(b"".join([*parts, b""]))

    values = np.random.default_rng(0).integers(0, 2**32, (16384, 64), dtype=np.uint32)
    memory = MemoryStore()
    chunks = (rows, columns)
    zarr.create_array(memory, data=values, chunks=chunks, compressors=CODECS[codec])
    array = zarr.open_array(Fresh(memory), mode="r")
    ours, chunk_bytes = Chunks.of(array), math.prod(chunks) * 4
    array.store.asked = 0
    decoded = []

    def slowly(stored, chunk):
        array.store.wait_for(min(array.nchunks, len(decoded) + ours.most))
        decoded.append(1)
        return ours.decode(stored, chunk)

    tracemalloc.start()
    try:
        found = read(array, decode=slowly)
        peak = tracemalloc.get_traced_memory()[1] - values.nbytes
    finally:
        tracemalloc.stop()
    assert_array_equal(found, values)
    planned = reading(values.nbytes, chunk_bytes, chunk_bytes, ours.most)
    # Room for a part of a chunk, which only Blosc writes to: else it is no memory.
    untouched = chunk_bytes * (codec != "blosc" and columns < 64)
    assert peak - untouched < 1.05 * planned + 2**18
    if array.nchunks >= ours.most:
        assert peak > 0.9 * ours.most * chunk_bytes


# What fails


class Endless(Wrapped):
    """A store that answers for two chunks only, for the second with an error."""

    def __init__(self, store):
        super().__init__(store)
        self.waiting, self.left = 0, threading.Semaphore(0)

    async def get(self, key, prototype, byte_range=None):
        """Fail at one, and be silent of the others."""
        if is_chunk(key) and key != "c/1/0":
            self.waiting += 1
            try:
                await asyncio.Event().wait()
            finally:
                self.left.release()
        if is_chunk(key):
            while self.waiting < 8:
                await asyncio.sleep(0)
            self.fail()
        return await super().get(key, prototype, byte_range)

    def fail(self):
        """Answer for the second chunk, when all others are asked for."""
        raise OSError("no more")


def all_left(store):
    return all(store.left.acquire(timeout=LONG) for _ in range(8))


def test_an_error_ends_the_other_requests():
    array = opened(Endless)
    with pytest.raises(OSError, match="no more"):
        read(array)
    assert all_left(array.store)


def test_so_does_what_ends_a_task():
    class Silent(Endless):
        def fail(self):
            """Say nothing."""

    def interrupted(*_):
        raise KeyboardInterrupt

    array = opened(Silent)
    with pytest.raises(KeyboardInterrupt) as held:  # and its frames with it
        read(array, decode=interrupted)
    assert all_left(array.store), held


def test_a_library_that_cancels_itself_does_not_keep_us_waiting():
    class Cancelled(Endless):
        def fail(self):
            raise asyncio.CancelledError

    array = opened(Cancelled)
    gc.disable()  # or what nothing refers to is ended by chance
    try:
        with pytest.raises(CancelledError):
            read(array)
        assert all_left(array.store)
    finally:
        gc.enable()


def test_of_many_errors_one_is_told(caplog):
    """Nothing is written of others, and the block does not stay in memory."""

    class Failing(Wrapped):
        async def get(self, key, prototype, byte_range=None):
            if is_chunk(key) and key != "c/0/0":
                raise OSError(key)
            return await super().get(key, prototype, byte_range)

    array, blocks = opened(Failing), []

    def noting(_, chunk):
        blocks.append(weakref.ref(chunk.base))
        return chunk

    gc.disable()
    try:
        with zarr.config.set({"async.concurrency": 1}):  # the first comes first
            for _ in range(2):
                with suppress(OSError):
                    read(array, decode=noting)
        assert [block() for block in blocks] == [None, None]
    finally:
        gc.enable()
    gc.collect()
    for _ in range(20):
        with pytest.raises(OSError, match="c/"):
            read(array)
    gc.collect()
    assert "never retrieved" not in caplog.text

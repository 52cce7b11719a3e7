"""What a store raises for a moment is survived, whatever it is; what lasts is told."""

import numpy as np
import pytest
import zarr
from numpy.testing import assert_array_equal
from zarr.storage import MemoryStore

from hkmeans_dask import HierarchicalKMeans
from hkmeans_dask.remote import patience
from hkmeans_dask.storage.source import Source
from tests.strategies import Wrapped

X = np.random.default_rng(0).normal(size=(300, 6))
EXPECTED = HierarchicalKMeans(9).fit(X)


class Told(Exception):
    """An error of a library that gives more than words."""

    def __init__(self, **known):
        super().__init__("the server said so")
        self.__dict__ |= known


class LostPayloadError(Exception):
    """One that gives nothing."""


class NoCredentialsError(LostPayloadError):
    """One that is about who asks."""


def caused(status):
    error = OSError(121, "We encountered an internal error")
    error.__cause__ = Told(response={"ResponseMetadata": {"HTTPStatusCode": status}})
    return error


PASSING = [
    OSError("the server is busy"),
    ConnectionResetError(104, "Connection reset by peer"),
    TimeoutError(),
    Told(status=500),  # aiohttp
    Told(status=429),
    Told(code=503),  # gcsfs
    Told(status_code=500),  # azure
    caused(500),  # s3fs
    caused(503),
    LostPayloadError("not all of it came"),
]

LASTING = [
    PermissionError("not you"),
    Told(status=403),
    Told(code=401),
    caused(400),
    NoCredentialsError("unable to locate credentials"),
]


def kind_and_words(error):
    return f"{type(error).__name__}-{getattr(error, '__dict__', '')}-{error.__cause__}"


def failing(error, times, matches):
    """Give an array whose store raises an error so often, and how often it did."""
    raised = []

    class Failing(Wrapped):
        async def get(self, key, prototype, byte_range=None):
            if key.endswith(matches) and len(raised) < times:
                raised.append(key)
                raise error
            return await super().get(key, prototype, byte_range)

    memory = MemoryStore()
    zarr.create_array(memory, data=X, chunks=(100, 6))
    array = zarr.open_array(Failing(memory), mode="r")
    raised.clear()
    return array, raised


@pytest.mark.parametrize("error", PASSING, ids=kind_and_words)
def test_what_passes_is_survived(error, monkeypatch):
    monkeypatch.setattr(patience, "WAITS", (0.01, 0.02, 0.03))
    array, raised = failing(error, 3, "c/1/0")
    model = HierarchicalKMeans(9).fit(array)
    assert len(raised) == 3
    assert_array_equal(model.labels_, EXPECTED.labels_)


@pytest.mark.parametrize("error", LASTING, ids=kind_and_words)
def test_what_lasts_is_not_tried_again(error):
    array, raised = failing(error, 99, "c/1/0")
    with pytest.raises(
        OSError, match=r"Chunk c/1/0 of .* cannot be read \(\w+: "
    ) as at:
        Source(array)[:, :]
    assert len(raised) == 2  # one of them to find which chunk it is
    assert str(error) in str(at.value)
    if "40" in str(error.__dict__) or "redential" in repr(error):
        assert "Give credentials" in str(at.value)


def test_what_was_cut_off_is_read_again():
    """Half an answer that a library takes for a whole one."""

    class Cut(Wrapped):
        left = 1

        async def get(self, key, prototype, byte_range=None):
            found = await super().get(key, prototype, byte_range)
            if key.endswith("c/1/0") and self.left:
                self.left -= 1
                found = found[: len(found) // 2]
            return found

    memory = MemoryStore()
    zarr.create_array(memory, data=X, chunks=(100, 6))
    assert_array_equal(Source(zarr.open_array(Cut(memory), mode="r"))[:, :], X)


def test_waits_grow_and_differ(monkeypatch):
    waits = []
    monkeypatch.setattr("time.sleep", waits.append)

    def fail():
        raise ConnectionResetError

    for _ in range(2):
        with pytest.raises(ConnectionResetError):
            patience.patiently(fail, waits=patience.WAITS)
    once = len(patience.WAITS)
    assert sorted(waits[:once]) == waits[:once]
    assert waits[:once] != waits[once:]
    assert sum(waits[:once]) < 2 * sum(patience.WAITS)

"""What a store tells of an array: the same for the same, another after a write."""

import pickle

import numpy as np
import pytest
import zarr
from numpy.testing import assert_array_equal
from zarr.storage import LocalStore

from hkmeans_dask import HierarchicalKMeans
from hkmeans_dask.storage import listing
from tests.strategies import Wrapped

X = np.random.default_rng(0).normal(size=(600, 6))


class Nameless(Wrapped):
    """A store that Python names by its address."""

    __str__ = object.__repr__


def test_an_address_is_no_part_of_a_fingerprint(tmp_path):
    zarr.create_array(tmp_path / "x", data=X, chunks=(100, 6))
    stores = [Nameless(LocalStore(tmp_path / "x")) for _ in range(2)]
    one, other = (zarr.open_array(store, mode="r") for store in stores)
    assert str(one.store_path) != str(other.store_path)
    assert listing.fingerprint(one) == listing.fingerprint(other)


@pytest.fixture
def repository(tmp_path):
    icechunk = pytest.importorskip("icechunk")
    storage = icechunk.local_filesystem_storage(str(tmp_path / "repository"))
    return icechunk.Repository.create(storage)


def write(repository, values):
    session = repository.writable_session("main")
    zarr.create_array(
        session.store, name="x", data=values, chunks=(100, 6), overwrite=True
    )
    session.commit("write")


def read(repository):
    store = repository.readonly_session("main").store
    return zarr.open_array(store, path="x", mode="r")


def test_a_fit_of_a_snapshot_is_given_back(repository, tmp_path):
    write(repository, X)
    model = HierarchicalKMeans(9, work_dir=tmp_path / "work")
    expected = HierarchicalKMeans(9).fit(X)
    assert model.fit(read(repository)).n_passes_ == 2
    assert "sample" in model._seconds
    again = pickle.loads(pickle.dumps(model)).fit(read(repository))
    assert again._seconds.keys() == {"label"}
    assert_array_equal(again.labels_, expected.labels_)
    write(repository, X[::-1])
    anew = model.fit(read(repository))
    assert_array_equal(anew.labels_, HierarchicalKMeans(9).fit(X[::-1]).labels_)
    assert len([*(tmp_path / "work").iterdir()]) == 2


def test_what_is_not_committed_may_change(repository):
    write(repository, X)
    session = repository.writable_session("main")
    array = zarr.open_array(session.store, path="x", mode="r+")
    assert listing.tells_changes(array)
    array[:] = 1.0
    assert not listing.tells_changes(array)
    assert listing.tells_changes(read(repository))

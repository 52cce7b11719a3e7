"""A model in a file is read once, whatever the number of blocks that need it."""

from collections import Counter

import dask.array as da
import numpy as np
import pytest

from hkmeans_dask import HierarchicalKMeans
from hkmeans_dask.workspace import files

X = np.random.default_rng(0).normal(size=(2000, 3)).astype(np.float32)


@pytest.fixture
def reads(monkeypatch):
    """Count the arrays that are read from files."""
    counted = Counter()
    read = files._Archive.__getitem__

    def count(archive, key):
        counted[key] += 1
        return read(archive, key)

    monkeypatch.setattr(files._Archive, "__getitem__", count)
    return counted


@pytest.mark.parametrize("parameters", [{}, {"refine": 2}, {"nested": False}])
def test_reads_of_the_model_do_not_grow_with_blocks(tmp_path, reads, parameters):
    found = []
    for rows in (1000, 50):
        reads.clear()
        model = HierarchicalKMeans(30, work_dir=tmp_path, **parameters)
        model.fit(da.from_array(X, chunks=(rows, 3)))
        found.append({name: reads[name] for name in ("fine", "coarse", "compared")})
    assert found[0] == found[1]


def test_the_model_is_read_once_by_those_who_label(tmp_path, reads):
    model = HierarchicalKMeans(30, work_dir=tmp_path)
    model.fit(da.from_array(X, chunks=(100, 3)))
    assert reads["fine"] == 2  # once more by the client

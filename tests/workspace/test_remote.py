"""A `work_dir` at a URL: what it keeps, who finds it, what is asked for."""

import dask.array as da
import numpy as np
import pytest

from hkmeans_dask import HierarchicalKMeans
from tests import s3
from tests.resuming import same

pytestmark = s3.SESSIONS_LEFT_OPEN

X = np.random.default_rng(0).normal(size=(3000, 8)).astype(np.float32)


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch):
    """Let a small array have several parts and files of labels."""
    monkeypatch.setattr("hkmeans_dask.kmeans.sampling.ONE_PART_BYTES", 2**15)
    monkeypatch.setattr("hkmeans_dask.kmeans.sampling.PART_BYTES", 2**15)
    monkeypatch.setattr("hkmeans_dask.stages.label.LABELS_TOGETHER", 1000)


@pytest.fixture
def work(bucket):
    """Name a place in a new bucket."""
    return f"s3://{bucket}/work"


@pytest.fixture
def expected(tmp_path):
    """Fit with a folder of this machine."""
    return model(tmp_path / "work").fit(lazy())


def lazy(values=X):
    return da.from_array(values, chunks=(500, 8))


def model(work_dir, **parameters):
    return HierarchicalKMeans(25, work_dir=work_dir, **parameters)


def test_a_url_keeps_what_a_folder_keeps(server, bucket, work, expected, tmp_path):
    same(model(work).fit(lazy()), expected)
    (local,) = (tmp_path / "work").iterdir()
    there = server.files().find(bucket)
    places = {path.removeprefix(f"{bucket}/work/") for path in there}
    assert places == {f"{local.name}/{path.name}" for path in local.iterdir()}
    for path in local.glob("*.json"):
        assert server.files().cat(f"{bucket}/work/{local.name}/{path.name}")

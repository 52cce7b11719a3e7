"""Arrays and models on an object store and plain http, where servers have troubles."""

import numpy as np
import pytest
import zarr
from numpy.testing import assert_array_equal

from hkmeans_dask import HierarchicalKMeans
from hkmeans_dask.cli.commands import main
from tests import s3

pytestmark = s3.SESSIONS_LEFT_OPEN

X = np.random.default_rng(0).normal(size=(600, 6))
EXPECTED = HierarchicalKMeans(9).fit(X)
KINDS = ("error", "busy", "throttled", "reset")


def put(url):
    zarr.create_array(url, data=X, chunks=(100, 6))
    return url


def labels_of(url):
    return zarr.open_group(url, mode="r")["labels"][...]


@pytest.mark.filterwarnings("ignore:.*cannot be listed")
@pytest.mark.parametrize("kind", KINDS)
def test_http_that_fails_once_is_read(server, bucket, kind, tmp_path):
    """Each kind of request once: the metadata, a chunk, what is asked by its name."""
    put(f"s3://{bucket}/x")
    for ending in ("zarr.json", "c/0/0", "c/3/0"):
        server.spoil(kind, lambda _, path, end=ending: path.endswith(f"x/{end}"))
    model = str(tmp_path / "model")
    assert main(["fit", f"{server.url}/{bucket}/x", model, "-k", "9", "--quiet"]) == 0
    assert server.spoiled()
    assert_array_equal(labels_of(model), EXPECTED.labels_)


@pytest.mark.slow
@pytest.mark.usefixtures("short_waits")
@pytest.mark.parametrize("kind", ["error", "reset"])
def test_s3_that_fails_longer_than_its_client_tries_is_read_and_written(
    server, bucket, kind, capsys
):
    """Requests of every kind, of those that read and those that write."""
    source, model = put(f"s3://{bucket}/x"), f"s3://{bucket}/model"
    command = ["fit", source, model, "-k", "9", "--quiet", "--overwrite"]
    begin = len(server.requests)
    assert main(command) == 0
    for request in range(0, len(server.requests) - begin, 41):
        begin = len(server.requests)
        at = begin + request
        server.spoil(kind, lambda *_, at=at: len(server.requests) > at, 4)
        assert main(command) == 0, capsys.readouterr().err
        server.heal()
        assert_array_equal(labels_of(model), EXPECTED.labels_)


@pytest.mark.usefixtures("short_waits")
@pytest.mark.filterwarnings("ignore:.*cannot be listed")
@pytest.mark.parametrize("what", ["zarr.json", "c/3/0"])
@pytest.mark.parametrize("kind", ["error", "denied"])
def test_what_lasts_is_one_line(server, bucket, kind, what, tmp_path, capsys):
    put(f"s3://{bucket}/x")
    server.spoil(kind, lambda _, path: path.endswith(f"x/{what}"), 10_000)
    for url in (f"s3://{bucket}/x", f"{server.url}/{bucket}/x"):
        assert main(["fit", url, str(tmp_path / "m"), "-k", "9", "--quiet"]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert url in line
        assert "cannot be read" in line
        advice = "Give credentials" if kind == "denied" else "whether the server is"
        assert advice in line
    assert not list(tmp_path.iterdir())


@pytest.mark.filterwarnings("default:.*are read as its fill value")
@pytest.mark.parametrize("refusing", ["not found", "denied"])
def test_lost_chunks_that_cannot_be_told_are_told_of_once(
    server, bucket, refusing, tmp_path, capsys
):
    put(f"s3://{bucket}/x")
    server.files().rm(f"{bucket}/x/c/3/0")
    url = f"{server.url}/{bucket}/x"
    if refusing == "denied":
        server.spoil("denied", lambda _, path: path.rstrip("/").endswith("x"), 99)
    model = str(tmp_path / "model")
    assert main(["fit", url, model, "-k", "9", "--quiet"]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{url} cannot be listed, so that missing chunks cannot be told" in line
    assert main(["fit", f"s3://{bucket}/x", f"{model}-2", "-k", "9", "--quiet"]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert "1 of 6 chunks" in line

"""What an object store is asked for: each object once for what is read of it."""

from collections import Counter

import numpy as np
import pytest
import zarr
from distributed import Client

from hkmeans_dask import HierarchicalKMeans
from hkmeans_dask.cli.commands import main
from tests import s3
from tests.conftest import local_cluster

pytestmark = s3.SESSIONS_LEFT_OPEN

X = np.random.default_rng(0).normal(size=(600, 6))
N_CHUNKS = 6
KINDS = {
    "chunks": {"chunks": (100, 6)},
    "shards": {"chunks": (20, 6), "shards": (100, 6)},
    "format 2": {"chunks": (100, 6), "zarr_format": 2},
}


@pytest.fixture
def model(bucket):
    """Save a model of X."""
    HierarchicalKMeans(9).fit(X).to_zarr(f"s3://{bucket}/model")
    return f"s3://{bucket}/model"


@pytest.fixture(scope="module")
def scheduler(server):
    """Start two workers that know the server, and have listed nothing."""
    with local_cluster(2) as cluster:
        yield cluster.scheduler_address


def put(bucket, **options):
    zarr.create_array(f"s3://{bucket}/x", data=X, **options)
    s3.s3fs.S3FileSystem.clear_instance_cache()
    return f"s3://{bucket}/x"


def asked(server, call):
    """Count what a call asks for, by method and the end of the path."""
    begin = len(server.requests)
    call()
    return Counter(server.requests[begin:])


def of_chunks(asked):
    """Count requests for chunks of X by method."""
    found = Counter()
    for (method, path), n in asked.items():
        if "/x/" in path and not path.rpartition("/")[2].startswith((".z", "zarr")):
            found[method] += n
    return found


def run(*args):
    assert main([*map(str, args)]) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_a_fit_on_workers_gets_each_chunk_twice(
    server, bucket, kind, scheduler, tmp_path
):
    url = put(bucket, **KINDS[kind])
    where = ("-k", 9, "--scheduler", scheduler)
    found = asked(server, lambda: run("fit", url, tmp_path / "m", *where))
    counts = of_chunks(found)
    assert counts["GET"] == 2 * N_CHUNKS
    assert counts["HEAD"] <= 2  # each worker looks for one


def test_an_array_that_is_given_is_read_so_too(server, bucket, scheduler):
    array = zarr.open_array(put(bucket, **KINDS["chunks"]), mode="r")
    with Client(scheduler):
        found = asked(server, lambda: HierarchicalKMeans(9).fit(array))
    counts = of_chunks(found)
    assert counts["GET"] == 2 * N_CHUNKS
    assert counts["HEAD"] <= 2


COMMANDS = {
    "transform": ["{x}", "{model}", "{out}"],
    "predict": ["{x}", "{model}", "{out}"],
    "info": ["{model}"],
    "report": ["{model}", "-o", "{here}/report.html"],
    "plan": ["{x}", "-k", "9"],
}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_ask_for_no_size(server, bucket, model, command, tmp_path):
    """Nothing that is read is looked for first, but the place of the output."""
    places = {"x": put(bucket, **KINDS["chunks"]), "model": model}
    places |= {"out": f"s3://{bucket}/out", "here": tmp_path}
    args = [word.format(**places) for word in COMMANDS[command]]
    found = asked(server, lambda: run(command, *args))
    heads = {path for method, path in found if method == "HEAD"}
    assert not [path for path in heads if "out" not in path]
    assert of_chunks(found)["GET"] == (
        N_CHUNKS if command in ("transform", "predict") else 0
    )


def test_a_model_is_written_without_looking_for_it(server, bucket):
    model = HierarchicalKMeans(9).fit(X)
    found = asked(server, lambda: model.to_zarr(f"s3://{bucket}/model"))
    counts = Counter()
    for (method, path), n in found.items():
        counts["LIST" if path.count("/") == 1 and method == "GET" else method] += n
    n_arrays = 10
    # Each is written and copied: its metadata and, but for one, a chunk.
    assert counts["PUT"] <= 4 * n_arrays + 10
    assert counts["HEAD"] <= n_arrays + 10
    assert counts["LIST"] <= 20

"""A `work_dir` at a URL: what it keeps, who finds it, and what is asked for."""

import json
import os
import pickle
import re
import signal
import socket
import uuid
from collections import Counter

import dask.array as da
import numpy as np
import pytest
import zarr
from distributed import Client
from numpy.testing import assert_array_equal

from hkmeans_dask import HierarchicalKMeans
from hkmeans_dask.cli.commands import main
from hkmeans_dask.inputs import arrays
from hkmeans_dask.remote import objects, ranges
from hkmeans_dask.workspace import living, remote_folders
from tests import s3
from tests.conftest import local_cluster
from tests.processes import bits, run
from tests.resuming import interrupt, same
from tests.slow import others_slow
from tests.strategies import Watched, unread

pytestmark = [*s3.SESSIONS_LEFT_OPEN, pytest.mark.usefixtures("content_is_known")]

X = np.random.default_rng(0).normal(size=(3000, 8)).astype(np.float32)
KEPT = {"done", "labels", "manifest.json", "model.npz", "nonce"}
"""Kinds of objects that stay when a fit is done."""


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch):
    """Let a small array have several parts, and several files of labels."""
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
    return model(tmp_path / "local").fit(lazy())


@pytest.fixture(scope="module")
def processes(server):
    """Start two workers that know the server."""
    with local_cluster(2) as cluster:
        yield cluster


def lazy(values=X, chunks=(500, 8)):
    return da.from_array(values, chunks=chunks)


def model(work_dir, **parameters):
    return HierarchicalKMeans(25, work_dir=work_dir, **parameters)


def there(server, work):
    """Give what is in the only folder there, by name."""
    found = {path.rpartition("/")[::2] for path in server.files().find(work)}
    assert len({folder for folder, _ in found}) <= 1
    return {name: f"{folder}/{name}" for folder, name in found}


def written(server, begin):
    """Give the names of objects that were written since some request."""
    requests = server.requests[begin:]
    return {path.rpartition("/")[2] for how, path in requests if how == "PUT"}


def kinds(requests):
    """Count requests by method and kind of object."""
    named = ((how, path.rpartition("/")[2]) for how, path in requests)
    return Counter((how, re.sub("[0-9]+", "#", name)) for how, name in named)


# The same as in a folder


@pytest.mark.parametrize(
    "parameters",
    [{}, {"refine": 1, "allocation": "inertia"}, {"nested": False, "balance": 0.5}],
    ids=str,
)
def test_a_url_keeps_what_a_folder_keeps(server, work, parameters, tmp_path):
    expected = model(tmp_path / "local", **parameters).fit(lazy())
    same(model(work, **parameters).fit(lazy()), expected)
    (local,) = (tmp_path / "local").iterdir()
    found = there(server, work)
    assert sorted(found) == sorted(os.listdir(local))
    assert all(f"/work/{local.name}/" in path for path in found.values())


def test_processes_that_share_a_bucket_find_the_same_bits(
    server, work, processes, expected
):
    begin = len(server.requests)
    with Client(processes) as client:
        found = model(work).fit(lazy())
        same(found, expected)
        counted = kinds(server.requests[begin:])
        # Of the two workers each asks once, or for each part that it first reads.
        assert counted["GET", "nonce"] <= 3 + 2 * 3
        labels = client.submit(lambda m: np.asarray(m.labels_), found).result()
    assert_array_equal(labels, expected.labels_)
    assert {name.split("-")[0] for name in there(server, work)} == KEPT


def test_threads_share_what_is_in_memory(expected):
    place = f"memory://{uuid.uuid4().hex}"
    found = model(place).fit(lazy())
    same(found, expected)
    same(model(place).fit(lazy()), expected)


def test_processes_do_not_share_memory(processes, expected):
    with (
        Client(processes),
        pytest.raises(FileNotFoundError, match="is not that of the client"),
    ):
        model(f"memory://{uuid.uuid4().hex}").fit(lazy())


def test_objects_larger_than_a_request_are_cut(
    server, work, expected, monkeypatch, tmp_path
):
    for name, value in {"RANGE_BYTES": 1000, "WINDOW_BYTES": 4000}.items():
        monkeypatch.setattr(ranges, name, value)
    monkeypatch.setattr(ranges, "END_BYTES", 2000)
    monkeypatch.setattr(objects, "PUT_BYTES", 5000)
    same(model(work).fit(lazy()), expected)


def test_a_copy_of_x_is_kept_there(server, work, tmp_path, monkeypatch):
    monkeypatch.setattr(arrays, "JOINED_BYTES", 0)
    monkeypatch.setattr(arrays, "BLOCK_BYTES", 24_000)
    narrow = lazy(chunks=(1500, 4))
    with pytest.warns(UserWarning, match="are copied to /"):
        expected = model(tmp_path / "local").fit(narrow)
    with pytest.warns(UserWarning, match=f"are copied to {work}/"):
        same(model(work).fit(narrow), expected)
    names = {name.split("-")[0] for name in there(server, work)}
    assert names == KEPT


# Going on


@pytest.mark.parametrize("stage", ["train_coarse", "train_fine", "label_features"])
def test_an_interrupted_fit_goes_on(server, work, expected, stage, monkeypatch):
    interrupt(monkeypatch, stage, model(work), lazy())
    done, begin = set(there(server, work)), len(server.requests)
    same(model(work).fit(lazy()), expected)
    assert not done & written(server, begin)


def test_a_finished_fit_is_given_back(server, work, expected):
    watched = Watched(X)
    values = watched.blocks((500, 8))
    same(model(work).fit(values), expected)
    n_reads, begin = watched.reads, len(server.requests)
    same(model(work).fit(values), expected)
    assert watched.reads == n_reads
    assert all(name.startswith("lock-") for name in written(server, begin))


KILLED_AT = ("training-1.raw", "partition-3.npz", "fine-9.npz", "labels-4.npz")


@pytest.mark.parametrize("name", others_slow(KILLED_AT))
def test_a_killed_fit_goes_on(server, work, name, start, source, whole, tmp_path):
    command = ("fit", source, tmp_path / "model", "--work-dir", work, "-k", 400)
    begin = len(server.requests)
    running = start(*command)
    running.until(lambda: name in written(server, begin))
    assert running.stop(signal.SIGKILL) == -signal.SIGKILL
    left, begin = set(there(server, work)), len(server.requests)
    assert run(start, *command).complaints() == []
    assert bits(tmp_path / "model") == whole.bits
    # Rows count when the record is there that tells of them.
    done = {one for one in left if one.replace(".raw", ".npz") in left}
    again = done & written(server, begin)
    assert all(one.startswith("lock-") for one in again)
    assert {name.split("-")[0] for name in there(server, work)} == KEPT


@pytest.mark.slow
def test_two_clients_at_the_same_fit_end_well(
    server, work, start, source, whole, tmp_path
):
    outputs = [tmp_path / "one", tmp_path / "other"]
    command = ("--work-dir", work, "-k", 400)
    running = [start("fit", source, output, *command) for output in outputs]
    assert [client.wait() for client in running] == [0, 0]
    assert bits(outputs[0]) == bits(outputs[1]) == whole.bits
    said = [line for client in running for line in client.complaints()]
    assert sum("at the same fit" in line for line in said) in (1, 2)
    assert {name.split("-")[0] for name in there(server, work)} == KEPT


def test_one_manifest_and_one_nonce_are_the_first(server, work, expected):
    """Two clients that both find nothing: the store lets one of them be first."""
    folder = remote_folders.RemoteFolder(f"{work}/here")
    folder._objects.put_new(b"first", "nonce")
    folder._objects.put_new(b"second", "nonce")
    assert folder.read("nonce") == b"first"


# The lock


@pytest.fixture
def locked(server, work):
    """Give a finished fit the lock of a process elsewhere."""
    model(work).fit(lazy())
    path = there(server, work)["done"].replace("done", "lock-elsewhere-7")
    known = json.loads(living.mark()) | {"space": "another", "process": 7}
    server.files().pipe_file(path, json.dumps(known).encode())
    return path


def test_another_client_is_warned_of(server, work, locked):
    with pytest.warns(UserWarning, match="Process 7 on elsewhere .* same fit in s3://"):
        model(work).fit(lazy())
    assert server.files().exists(locked)


def test_the_lock_of_a_dead_client_goes(server, work, locked, monkeypatch):
    monkeypatch.setattr(living, "SILENCE", -1)  # by the clock of the store
    model(work).fit(lazy())
    assert not server.files().exists(locked)


def test_the_lock_is_touched(server, work, monkeypatch):
    monkeypatch.setattr(living, "BEAT", 0.01)
    own = f"lock-{socket.gethostname()}-{os.getpid()}"
    model(work).fit(lazy())
    puts = [path for how, path in server.requests if how == "PUT" and own in path]
    assert len(puts) > 2
    assert own not in there(server, work)


# Damage


DAMAGES = {
    "cut off": lambda content: content[:-40],
    "empty": lambda content: b"",
    "flipped": lambda content: content[:-500] + b"?" + content[-499:],
    "gone": None,
}


def spoil(files, path, damage):
    if DAMAGES[damage] is None:
        files.rm_file(path)
    else:
        files.pipe_file(path, DAMAGES[damage](files.cat_file(path)))


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["partition-1.raw", "partition-1.npz", "coarse.npz"])
def test_damage_is_made_good(server, work, expected, name, damage, monkeypatch):
    interrupt(monkeypatch, "train_fine", model(work), lazy())
    spoil(server.files(), there(server, work)[name], damage)
    if damage == "gone" and name.endswith("npz"):
        same(model(work).fit(lazy()), expected)  # it is as if it had not been written
        return
    with pytest.warns(UserWarning, match=f"{name.removesuffix('.npz')} is damaged"):
        same(model(work).fit(lazy()), expected)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_labels_are_made_again(server, work, expected, damage):
    model(work).fit(lazy())
    spoil(server.files(), there(server, work)["labels-1.npz"], damage)
    begin = len(server.requests)
    if damage == "gone":
        same(model(work).fit(lazy()), expected)
    else:
        with pytest.warns(UserWarning, match="labels-1 is damaged"):
            same(model(work).fit(lazy()), expected)
    assert kinds(server.requests[begin:])["PUT", "labels-#.npz"] == 1


def test_without_a_good_manifest_a_fit_begins_anew(server, work, expected):
    model(work).fit(lazy())
    spoil(server.files(), there(server, work)["manifest.json"], "cut off")
    with pytest.warns(UserWarning, match=f"{work}/.*/manifest.json is damaged"):
        same(model(work).fit(lazy()), expected)


def test_another_x_is_fitted_anew(server, work, monkeypatch, tmp_path):
    monkeypatch.setattr("hkmeans_dask.fitting.is_known", lambda X: False)
    values = Watched(X.copy())
    blocks = values.blocks((500, 8))
    first = model(work).fit(blocks)
    labels = np.asarray(first.labels_)
    values.values[:] = X[::-1]
    expected = model(tmp_path / "other").fit(blocks)
    with pytest.warns(UserWarning, match=f"left its results in {work}/"):
        same(model(work).fit(blocks), expected)
    assert_array_equal(first.labels_, labels)
    folders = {path.split("/")[2] for path in server.files().find(work)}
    assert len(folders) == 2


def test_the_url_of_a_local_folder_is_that_folder(tmp_path, expected):
    same(model(f"file://{tmp_path}/lo#c?al").fit(lazy()), expected)
    (folder,) = (tmp_path / "lo#c?al").iterdir()
    assert "done" in os.listdir(folder)


# A store in trouble


@pytest.mark.parametrize("kind", ["error", "throttled", "reset"])
def test_what_fails_once_costs_nothing(server, work, expected, kind):
    for how in ("GET", "PUT"):
        for name in ("nonce", "partition-1.raw", "coarse.npz"):
            server.spoil(kind, lambda h, p, m=how, n=name: h == m and p.endswith(n))
    same(model(work).fit(lazy()), expected)
    assert server.spoiled()


@pytest.mark.usefixtures("short_waits")
@pytest.mark.parametrize("how", ["GET", "PUT"])
def test_what_lasts_is_an_error_of_the_store(server, work, how, expected):
    ends = ("partition-1.raw", "partition-1.npz")
    server.spoil("denied", lambda h, path: h == how and path.endswith(ends), 10_000)
    with pytest.raises(OSError, match=f"{work}/.* cannot be .* Give credentials"):
        model(work).fit(lazy())
    server.heal()
    same(model(work).fit(lazy()), expected)


@pytest.mark.usefixtures("short_waits")
@pytest.mark.parametrize("trouble", ["bucket", "denied", "credentials", "server"])
def test_what_cannot_be_written_is_refused_first(server, bucket, trouble, monkeypatch):
    work, words = f"s3://{bucket}/work", "Give credentials"
    if trouble == "bucket":
        work, words = "s3://no-such-bucket/work", "Look whether the URL is right"
    elif trouble == "denied":
        server.spoil("denied", lambda how, path: how == "PUT", 99)
    elif trouble == "credentials":
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    else:
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        words = "Look whether the server is there"
    s3.s3fs.S3FileSystem.clear_instance_cache()
    with pytest.raises(OSError, match=f"^{work}.*{words}"):
        model(work).fit(unread(X.shape, X.dtype, (500, 8)))
    s3.s3fs.S3FileSystem.clear_instance_cache()


def test_a_package_that_is_missing_is_named():
    work = "oci://bucket@space/work"  # it is in no environment of tests
    with pytest.raises(ImportError, match=rf"^{work} cannot be reached by process \d+"):
        model(work).fit(unread(X.shape, X.dtype, (500, 8)))


def test_the_command_says_in_one_line_what_cannot_be_written(server, tmp_path, capsys):
    zarr.create_array(tmp_path / "x", data=X, chunks=(500, 8))
    command = ["fit", str(tmp_path / "x"), str(tmp_path / "model"), "-k", "25"]
    work = "s3://no-such-bucket/work"
    assert main([*command, "--quiet", "--work-dir", work]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert work in line
    assert os.listdir(tmp_path) == ["x"]


def test_more_memory_is_planned(work):
    peaks = (model(place).plan(lazy()).peaks for place in ("work", work))
    here, there = peaks
    assert all(there[stage] > here[stage] for stage in here)


# Requests


def test_requests_are_few(server, work):
    """One for each object written; to read, one for each range that is needed."""
    begin = len(server.requests)
    found = model(work).fit(lazy())
    counted = kinds(server.requests[begin:])
    n_parts, n_big = counted["PUT", "training-#.raw"], len(found.coarse_centers_)
    assert n_parts == counted["PUT", "partition-#.raw"] == 4
    n_labels = counted["PUT", "labels-#.npz"]
    assert n_labels == 3
    # Coarse training takes keys and rows, sorting both at once.
    assert counted["GET", "training-#.raw"] <= 3 * n_parts
    # So do those who count distinct rows and who train, one big cluster each.
    assert counted["GET", "partition-#.raw"] <= 2 * 2 * n_parts * n_big
    # Looked for, counted; the last is looked for by two.
    assert counted["GET", "labels-#.npz"] <= 2 * n_labels
    assert counted["GET", "partition-#.npz"] <= 3 * n_parts
    assert counted["GET", "model.npz"] <= 2
    assert counted["GET", "coarse.npz"] <= 1
    assert counted["GET", "nonce"] <= 3
    begin = len(server.requests)
    np.asarray(found.labels_)
    assert kinds(server.requests[begin:]) == {("GET", "labels-#.npz"): n_labels}


def test_a_model_travels_without_its_connections(work, expected):
    found = pickle.loads(pickle.dumps(model(work).fit(lazy())))
    assert_array_equal(found.labels_, expected.labels_)
    assert found.work_dir == work

"""Commands that write to an object store: checked first, complete or not there."""

import os
import signal

import numpy as np
import pytest
import zarr
from numpy.testing import assert_array_equal

from hkmeans_dask import HierarchicalKMeans
from hkmeans_dask.cli.commands import main
from hkmeans_dask.workspace.living import mark
from tests import s3
from tests.processes import run

pytestmark = s3.SESSIONS_LEFT_OPEN

X = np.random.default_rng(0).normal(size=(600, 6))
EXPECTED = HierarchicalKMeans(9).fit(X)


@pytest.fixture
def source(tmp_path):
    zarr.create_array(tmp_path / "x", data=X, chunks=(100, 6))
    return str(tmp_path / "x")


def said(capsys):
    (line,) = capsys.readouterr().err.splitlines()
    return line


def fit(source, model, *more):
    return main(["fit", source, model, "-k", "9", "--quiet", *more])


def objects(server, bucket):
    """Give what is there, hidden or not, without the name of the bucket."""
    found = server.files().find(bucket)
    return sorted(path.removeprefix(f"{bucket}/") for path in found)


def is_whole(url):
    model = HierarchicalKMeans.from_zarr(url)
    assert_array_equal(model.labels_, EXPECTED.labels_)


# Checked before anything is read


@pytest.mark.usefixtures("short_waits")
@pytest.mark.parametrize(
    ("model", "words"),
    {
        "http://127.0.0.1:9/model": "http can only be read",
        "s3://no-such-bucket/model": "s3://no-such-bucket/model cannot be written",
        "s3://{}": "is a whole bucket. Name a place in it",
        "s3://{}/denied": "Give credentials",
    }.items(),
)
@pytest.mark.parametrize("command", ["fit", "predict"])
def test_what_cannot_be_written_is_refused_first(
    server, bucket, source, model, words, command, capsys, tmp_path
):
    EXPECTED.to_zarr(tmp_path / "model")
    server.spoil("denied", lambda how, path: how == "PUT" and "denied" in path, 99)
    model = model.format(bucket)
    for path in (tmp_path / "x").rglob("c/*/*"):
        path.write_bytes(b"")  # who reads it gets another error
    more = ["-k", "9"] if command == "fit" else [str(tmp_path / "model")]
    assert main([command, source, *more, model, "--quiet"]) == 2
    line = said(capsys)
    assert words in line
    assert model in line
    assert objects(server, bucket) == []


@pytest.mark.usefixtures("short_waits")
@pytest.mark.parametrize("trouble", ["no credentials", "no server", "no bucket"])
def test_inputs_that_cannot_be_reached_are_one_line(
    bucket, trouble, capsys, monkeypatch
):
    url, words = f"s3://{bucket}/x", "cannot be read"
    if trouble == "no credentials":
        monkeypatch.delenv("AWS_ACCESS_KEY_ID")
        monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
        words = "Give credentials"
    elif trouble == "no server":
        monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
        words = "Look whether the server is there"
    else:
        url, words = "s3://no-such-bucket/x", "there is no bucket no-such-bucket"
    s3.s3fs.S3FileSystem.clear_instance_cache()
    assert fit(url, "model") == 2
    s3.s3fs.S3FileSystem.clear_instance_cache()
    line = said(capsys)
    assert url in line
    assert words in line


# What fails at the end


@pytest.mark.usefixtures("short_waits")
def test_a_model_that_cannot_be_saved_is_saved_elsewhere(
    server, bucket, source, tmp_path, monkeypatch, capsys
):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    server.spoil("denied", lambda how, path: path.endswith("centers/c/0/0"), 10_000)
    assert fit(source, f"s3://{bucket}/model") == 2
    line = said(capsys)
    (name,) = os.listdir()
    assert line.endswith(f"The model is in {tmp_path / 'here' / name} instead.")
    is_whole(tmp_path / "here" / name)
    assert objects(server, bucket) == []


@pytest.mark.usefixtures("short_waits")
def test_a_fit_with_a_work_dir_has_its_result_there(
    server, bucket, source, tmp_path, capsys
):
    model, work = f"s3://{bucket}/model", str(tmp_path / "work")
    server.spoil("denied", lambda how, path: path.endswith("centers/c/0/0"), 10_000)
    assert fit(source, model, "--work-dir", work) == 2
    assert f"Run the command again: the fit is done, in {work}." in said(capsys)
    server.heal()
    for path in (tmp_path / "x").rglob("c/*/*"):  # with its size and time
        known = path.stat()
        path.write_bytes(bytes(known.st_size))
        os.utime(path, ns=(known.st_atime_ns, known.st_mtime_ns))
    assert fit(source, model, "--work-dir", work) == 0
    is_whole(model)


# What is stopped


def stopped(server, start, args, number, request):
    """Stop a command with a signal at its first such request; its process is gone."""
    begin = len(server.requests)
    command = start(*args)
    command.until(lambda: any(request(*r) for r in server.requests[begin:]))
    command.stop(number)
    return command


STAGES = {
    "written": lambda how, path: how == "PUT" and path.endswith("parents/c/0"),
    "copied": lambda how, path: how == "PUT" and "/model/c" in path,
    "removed": lambda how, path: how == "PUT" and path.endswith("/model/zarr.json"),
}


@pytest.mark.parametrize("stage", STAGES)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_same_command_goes_on_after_a_signal(
    server, bucket, source, start, stage, number
):
    args = ("fit", source, f"s3://{bucket}/model", "-k", "9")
    command = stopped(server, start, args, number, STAGES[stage])
    left = objects(server, bucket)
    complete = "model/zarr.json" in left  # before the signal came
    if number == signal.SIGTERM and command.wait() == 143 and not complete:
        assert left == []
    run(start, *args, *(["--overwrite"] if complete else []))
    is_whole(f"s3://{bucket}/model")
    assert all(name.startswith("model/") for name in objects(server, bucket))


def test_what_is_not_complete_is_not_seen(server, bucket, source, start):
    """No reader of Zarr finds anything, until it finds all."""
    url = f"s3://{bucket}/model"
    command = start("fit", source, url, "-k", "9")
    command.until(lambda: "model/zarr.json" in objects(server, bucket))
    assert HierarchicalKMeans.from_zarr(url).n_clusters_ == 9
    assert command.wait() == 0


def test_what_another_process_writes_stays(server, bucket, source, start):
    """Killed where another one is at the same output: each removes its own alone."""
    files = server.files()
    place = f"{bucket}/.model.{'0' * 32}"
    zarr.create_array(f"s3://{place}.partial", data=X[:10])
    files.pipe_file(f"{place}.lock", mark())
    run(start, "fit", source, f"s3://{bucket}/model", "-k", "9")
    assert files.exists(f"{place}.partial/zarr.json")
    is_whole(f"s3://{bucket}/model")

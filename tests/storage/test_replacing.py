"""Whenever a process is killed that overwrites a store, one of the two can be opened.

A process of its own is killed before each change that it makes to the file system, one
after the other; stores without a way to rename are files behind a protocol of fsspec.
"""

import itertools
import json
import os
import signal
import sys
from pathlib import Path

import fsspec
import numpy as np
import pytest
import zarr
from fsspec.implementations.local import LocalFileSystem
from numpy.testing import assert_array_equal

from hkmeans_dask import HierarchicalKMeans
from hkmeans_dask.cli.commands import main
from hkmeans_dask.storage import opening, outputs, replacing
from tests.processes import _server

CHANGES = {"os.rename", "os.remove", "os.rmdir", "os.link", "os.mkdir"}
WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT
X = np.random.default_rng(0).normal(size=(60, 4))


class Bucket(LocalFileSystem):
    """Files as an object store: whole writes, no renames."""

    protocol = "bucket"

    def __init__(self, **options):
        super().__init__(auto_mkdir=True, **options)

    @classmethod
    def _strip_protocol(cls, path):
        return "/" + path.removeprefix("bucket://").strip("/")

    def mv(self, *_, **__):
        """Refuse to rename."""
        raise NotImplementedError


fsspec.register_implementation("bucket", Bucket, clobber=True)
PLACES = ["{}/store", "bucket:/{}/store"]


def killed_before(change, folder, work, *args):
    """Run in a process that is killed before its change of that number, if it comes."""
    process = _server.Process(target=_run, args=(change, str(folder), work, args))
    process.start()
    process.join(60)
    assert process.exitcode in (0, -signal.SIGKILL)
    return process.exitcode != 0


def _run(change, folder, work, args):
    numbers = itertools.count()

    def hook(event, about):
        wanted = event in CHANGES or (event == "open" and about[2] & WRITES)
        if wanted and folder in str(about[0]) and next(numbers) == change:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)
    work(*args)


def write(url, value):
    with outputs.writing(url, overwrite=True) as place:
        group = zarr.create_group(place, attributes={"status": "writing"})
        group.create_array("x", data=np.full(4, value), chunks=(2,))
        outputs.complete(group)


def value_at(url):
    (value,) = set(opening.open_array(url, "x")[...].tolist())
    return value


def write_old_format(folder, value):
    group = zarr.create_group(folder / "store", zarr_format=2, overwrite=True)
    group.create_array("x", data=np.full(4, value), chunks=(2,))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Both zarr.json")
@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize("place", PLACES)
def test_the_old_or_the_new_one_can_be_opened(tmp_path, place, old_format):
    url = place.format(tmp_path)
    seen = []
    write(url, 0)
    for change in itertools.count():
        if old_format:
            write_old_format(tmp_path, -change)
        before = value_at(url)
        killed = killed_before(change, tmp_path, write, url, change + 1)
        seen.append(value_at(url) != before)
        assert value_at(url) in (before, change + 1)
        if not killed:
            break
    assert len(seen) > 10
    assert seen[-1] is True
    assert not all(seen)
    assert replacing.standing(url) == url
    assert zarr.open_group(tmp_path / "store", mode="r")["x"][0] == change + 1
    assert not list(tmp_path.glob(".*.old"))


@pytest.mark.parametrize("place", PLACES)
def test_what_stands_elsewhere_is_overwritten_and_refused(tmp_path, place):
    """Between the two steps: what is there is used as if it were at its place."""
    url = place.format(tmp_path)
    HierarchicalKMeans(3).fit(X).to_zarr(url)
    new = replacing.beside(url)
    HierarchicalKMeans(2).fit(X).to_zarr(new)
    change = 0
    while replacing.standing(url) == url:
        change += 1
        assert killed_before(change, tmp_path, put_there, new, url)
    assert main(["info", url]) == 0
    model = HierarchicalKMeans.from_zarr(url)
    with pytest.raises(FileExistsError):
        model.to_zarr(url)
    model.to_zarr(url, overwrite=True)
    assert replacing.standing(url) == url
    again = HierarchicalKMeans.from_zarr(url)
    assert_array_equal(again.labels_, model.labels_)
    assert "labels" in zarr.open_group(tmp_path / "store", mode="r")


def put_there(new, url):
    if "://" in url:
        replacing.replace_remote(new, url)
    else:
        replacing.replace(Path(new), Path(url))


def write_half(place):
    zarr.save_array(place, X)
    raise ZeroDivisionError


@pytest.mark.parametrize("place", PLACES)
def test_an_error_leaves_the_old_one_and_nothing_else(tmp_path, place):
    url = place.format(tmp_path)
    write(url, 1)
    model = HierarchicalKMeans(2).fit(X)
    model.inertia_ = object()
    with pytest.raises(TypeError, match="cannot be stored"):
        model.to_zarr(url, overwrite=True)
    for wrong, work in ((FileNotFoundError, str), (ZeroDivisionError, write_half)):
        with pytest.raises(wrong), outputs.writing(url, overwrite=True) as place:
            work(place)
    assert value_at(url) == 1
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert all(path.is_relative_to(tmp_path / "store") for path in files)


def test_pointers_lead_to_stores_beside_only(tmp_path):
    write(f"bucket:/{tmp_path}/other", 1)
    write(f"bucket:/{tmp_path}/store", 2)
    root = tmp_path / "store/zarr.json"
    for name in ("other", "../other", f".store.{'0' * 32}.partial/../other", 3, None):
        metadata = json.loads(root.read_text())
        metadata["attributes"]["replaced_by"] = name
        root.write_text(json.dumps(metadata))
        assert value_at(f"bucket:/{tmp_path}/store") == 2

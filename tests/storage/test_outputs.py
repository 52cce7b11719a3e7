"""What is opened and what is written is complete."""

import json
import os
import shutil
import threading
import time
from pathlib import Path

import dask
import dask.array as da
import fsspec
import numpy as np
import pytest
import zarr
from numpy.testing import assert_array_equal

from hkmeans_dask import HierarchicalKMeans
from hkmeans_dask.runtime.execution import Runner
from hkmeans_dask.storage import opening, outputs

X = np.random.default_rng(0).normal(size=(300, 6))
EXPECTED = HierarchicalKMeans(9).fit(X)


def put(path, values=X, **options):
    """Write an array of three chunks, and open it as a user would."""
    options = {"chunks": (100, 6)} | options
    zarr.create_array(path, data=values, **options)
    return zarr.open_array(path, mode="r")


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


# Opening


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_urls_and_relative_paths_are_opened(tmp_path, monkeypatch, form):
    put(tmp_path / "with space.zarr")
    url = form.format(tmp_path / "with space.zarr").replace(" ", "%20")
    name = url if form != "{}" else str(tmp_path / "with space.zarr")
    assert_array_equal(opening.open_array(name)[...], X)
    monkeypatch.chdir(tmp_path)
    assert_array_equal(opening.open_array("with space.zarr")[...], X)


def test_arrays_that_are_not_complete_are_refused(tmp_path):
    outputs.create_array(str(tmp_path / "x"), (4, 3), (2, 3), np.dtype("f4"))
    with pytest.raises(ValueError, match=r"not complete .*--overwrite"):
        opening.open_array(str(tmp_path / "x"))


def test_groups_are_refused_with_the_names_of_their_arrays(tmp_path):
    group = zarr.create_group(tmp_path / "g")
    group.create_array("x", data=X)
    group.create_array("y", data=X)
    group.create_group("empty")
    with pytest.raises(ValueError, match=r"is a Zarr group.*--component: x, y\.$"):
        opening.open_array(str(tmp_path / "g"))
    with pytest.raises(ValueError, match=r"--component: none\.$"):
        opening.open_array(str(tmp_path / "g"), "empty")
    with pytest.raises(FileNotFoundError, match=r"component z\) is not there"):
        opening.open_array(str(tmp_path / "g"), "z")


def write_text(path):
    path.write_text("not a store")


def write_broken_metadata(path):
    path.mkdir()
    (path / "zarr.json").write_text("{not JSON")


@pytest.mark.parametrize("make", [lambda _: None, write_text, Path.mkdir])
def test_what_is_no_store_is_not_found(tmp_path, make):
    make(tmp_path / "thing")
    for read in (opening.open_array, HierarchicalKMeans.from_zarr):
        with pytest.raises(FileNotFoundError, match="thing is not there, or is no"):
            read(str(tmp_path / "thing"))


def test_broken_metadata_are_named(tmp_path):
    write_broken_metadata(tmp_path / "thing")
    for read in (opening.open_array, HierarchicalKMeans.from_zarr):
        with pytest.raises((FileNotFoundError, ValueError), match="thing"):
            read(str(tmp_path / "thing"))


# Writing


def test_an_output_appears_when_it_is_complete(tmp_path):
    target = tmp_path / "new" / "out"
    with outputs.writing(target, overwrite=False) as place:
        zarr.save_array(place, X)
        assert not target.exists()
    assert_array_equal(zarr.open_array(target, mode="r")[...], X)
    assert names_in(tmp_path / "new") == ["out"]


def test_nothing_is_left_after_an_error(tmp_path):
    def write_and_fail():
        with outputs.writing(tmp_path / "out", overwrite=False) as place:
            zarr.save_array(place, X)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_and_fail()
    assert names_in(tmp_path) == []


def test_no_thread_writes_after_an_error(tmp_path):
    """One block fails while another is still at work: its end is waited for."""
    ended, began = [], threading.Event()

    def slow_or_wrong(block_id):
        if block_id[0]:
            began.wait(5)
            raise OSError("no space")
        began.set()
        time.sleep(0.3)
        ended.append(block_id)
        return np.ones((2, 2))

    blocks = da.map_blocks(slow_or_wrong, chunks=((2, 2), (2,)), dtype=float, meta=META)
    with (
        dask.config.set(scheduler="threads", num_workers=2),
        pytest.raises(OSError, match="no space"),
        outputs.writing(tmp_path / "output", overwrite=False) as place,
    ):
        outputs.fill(place, blocks, Runner.find(blocks, in_memory=False).write)
    assert ended
    assert os.listdir(tmp_path) == []


META = np.empty((0, 0))


def test_nothing_is_left_when_nothing_was_written(tmp_path):
    with (
        pytest.raises(FileNotFoundError),
        outputs.writing(tmp_path / "out", overwrite=False),
    ):
        pass
    assert names_in(tmp_path) == []


def test_the_old_output_survives_an_error(tmp_path):
    put(tmp_path / "out")

    def write_and_fail():
        with outputs.writing(tmp_path / "out", overwrite=True) as place:
            zarr.save_array(place, X[:10])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_and_fail()
    assert_array_equal(zarr.open_array(tmp_path / "out", mode="r")[...], X)
    assert names_in(tmp_path) == ["out"]


def make_file(path):
    path.write_text("old")


def make_link(path):
    put(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


@pytest.mark.parametrize("make", [put, make_file, make_link, Path.mkdir])
def test_the_old_output_goes_only_when_asked(tmp_path, make):
    make(tmp_path / "out")
    before = names_in(tmp_path)
    with pytest.raises(FileExistsError, match=r"already there.*--overwrite"):
        outputs.check_free(tmp_path / "out", overwrite=False)
    with pytest.raises(FileExistsError, match=r"already there.*--overwrite"):
        EXPECTED.to_zarr(tmp_path / "out")
    assert names_in(tmp_path) == before
    EXPECTED.to_zarr(tmp_path / "out", overwrite=True)
    assert names_in(tmp_path) == before
    assert HierarchicalKMeans.from_zarr(tmp_path / "out").n_clusters_ == 9
    if make is make_link:
        assert_array_equal(zarr.open_array(tmp_path / "elsewhere", mode="r")[...], X)


def test_status_is_written_last(tmp_path):
    """While blocks are written, and after an error, the store says so itself."""
    place = str(tmp_path / "x")
    seen = []

    def compute(*writes):
        seen.append(zarr.open_array(place, mode="r").attrs["status"])
        dask.compute(*writes, scheduler="threads")
        seen.append(zarr.open_array(place, mode="r").attrs["status"])

    outputs.fill(place, da.from_array(X, chunks=(100, 6)), compute)
    assert seen == ["writing", "writing"]
    assert_array_equal(opening.open_array(place)[...], X)


def test_a_model_that_could_not_be_saved_leaves_nothing(tmp_path):
    model = HierarchicalKMeans(2).fit(X)
    model.inertia_ = object()
    with pytest.raises(TypeError, match="cannot be stored"):
        model.to_zarr(tmp_path / "model")
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("chunks", [(70, 4), ((1, 299), (6,)), (300, 1), (7, 6)])
def test_blocks_that_are_not_whole_chunks_do_not_undo_each_other(tmp_path, chunks):
    """Several times, in threads: two writers of one chunk would lose rows."""
    array = da.from_array(X, chunks=chunks)
    with dask.config.set(scheduler="threads", num_workers=8):
        for attempt in range(5):
            place = str(tmp_path / str(attempt))
            outputs.fill(place, array, dask.compute)
            assert_array_equal(opening.open_array(place)[...], X)


def test_chunks_that_workers_wrote_elsewhere_are_missed(tmp_path):
    array = da.from_array(X, chunks=(100, 6))
    with pytest.raises(FileNotFoundError, match=r"cannot be seen.*share"):
        outputs.fill(str(tmp_path / "x"), array, lambda *writes: None)
    with pytest.raises(ValueError, match="not complete"):
        opening.open_array(str(tmp_path / "x"))


# Models


def test_what_is_no_model_is_refused(tmp_path):
    put(tmp_path / "array")
    zarr.create_group(tmp_path / "group")
    zarr.create_group(tmp_path / "complete", attributes={"status": "complete"})
    for name, reason in {
        "array": "is a Zarr array, not a model",
        "group": "not a model of hkmeans_dask",
        "complete": "not a model of hkmeans_dask",
    }.items():
        with pytest.raises(ValueError, match=f"{name} .*{reason}"):
            HierarchicalKMeans.from_zarr(tmp_path / name)


def test_models_that_are_not_complete_are_refused(tmp_path):
    EXPECTED.to_zarr(tmp_path / "model")
    zarr.open_group(tmp_path / "model").attrs["status"] = "writing"
    with pytest.raises(ValueError, match="not complete"):
        HierarchicalKMeans.from_zarr(tmp_path / "model")


@pytest.mark.parametrize("name", ["labels", "cluster_centers", "sizes"])
def test_models_that_lost_a_chunk_are_refused(tmp_path, name):
    """Zarr would fill in zeros."""
    EXPECTED.to_zarr(tmp_path / "model")
    shutil.rmtree(tmp_path / "model" / name / "c")
    with pytest.raises((FileNotFoundError, ValueError), match=name):
        HierarchicalKMeans.from_zarr(tmp_path / "model")


def test_models_hold_no_pickles(tmp_path):
    """Every array has a dtype of numbers; everything else is JSON."""
    HierarchicalKMeans(2, init=X[:2]).fit(X).to_zarr(tmp_path / "model")
    group = zarr.open_group(tmp_path / "model", mode="r")
    arrays = dict(group.arrays())
    assert arrays.keys() >= {"labels", "cluster_centers", "init", "offset"}
    assert {array.dtype.kind for array in arrays.values()} <= set("if")
    assert group.metadata.zarr_format == 3
    json.dumps(dict(group.attrs))


@pytest.mark.parametrize("form", ["{}", "file://{}"])
def test_models_go_where_the_url_says(tmp_path, form):
    url = form.format(tmp_path / "some folder" / "model").replace(" ", "%20")
    if form == "{}":
        url = str(tmp_path / "some folder" / "model")
    EXPECTED.to_zarr(url)
    assert names_in(tmp_path / "some folder") == ["model"]
    assert_array_equal(HierarchicalKMeans.from_zarr(url).labels_, EXPECTED.labels_)


def test_memory_is_a_store_of_this_process():
    url = "memory://tests/model"
    assert opening.is_private(url)
    assert not opening.is_private("model")
    EXPECTED.to_zarr(url)
    assert_array_equal(HierarchicalKMeans.from_zarr(url).labels_, EXPECTED.labels_)
    with pytest.raises(FileExistsError):
        EXPECTED.to_zarr(url)
    HierarchicalKMeans(2).fit(X).to_zarr(url, overwrite=True)
    assert HierarchicalKMeans.from_zarr(url).n_clusters_ == 2
    with pytest.raises(FileNotFoundError):
        HierarchicalKMeans.from_zarr("memory://tests/nothing")


def test_where_nothing_can_be_renamed_half_an_output_is_not_there():
    def write_and_fail():
        with outputs.writing("memory://tests/half", overwrite=False) as place:
            outputs.create_array(place, (4, 3), (2, 3), np.dtype("f4"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_and_fail()
    with pytest.raises(FileNotFoundError, match=r"is not there"):
        opening.open_array("memory://tests/half")


def test_overwriting_a_folder_that_is_no_store_is_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("not yours")
    refused = pytest.raises(FileExistsError, match="no Zarr store")
    with refused, outputs.writing(tmp_path, overwrite=True):
        pass
    assert (tmp_path / "notes.txt").read_text() == "not yours"


def test_a_remote_folder_of_other_files_is_not_overwritten():
    files = fsspec.filesystem("memory")
    files.pipe("/precious/paper.csv", b"1,2")
    for overwrite, words in ((False, "already there"), (True, "no Zarr store")):
        with pytest.raises(FileExistsError, match=words):
            outputs.check_free("memory://precious", overwrite=overwrite)
    assert files.cat("/precious/paper.csv") == b"1,2"


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_a_codec_that_is_not_installed_is_named(tmp_path, zarr_format):
    put(tmp_path / "x", zarr_format=zarr_format)
    name = ".zarray" if zarr_format == 2 else "zarr.json"
    metadata = json.loads((tmp_path / "x" / name).read_text())
    if zarr_format == 2:
        metadata["compressor"] = {"id": "mystery"}
    else:
        metadata["codecs"][-1] = {"name": "mystery", "configuration": {}}
    (tmp_path / "x" / name).write_text(json.dumps(metadata))
    with pytest.raises(ValueError, match=r"mystery"):
        opening.open_array(str(tmp_path / "x"))[...]


def test_arrays_of_nested_groups_are_listed(tmp_path):
    group = zarr.create_group(tmp_path / "g")
    group.create_group("a").create_array("x", shape=(4, 3), dtype="f4")
    group.create_array("y", shape=(4, 3), dtype="f4")
    with pytest.raises(ValueError, match="--component: a/x, y"):
        opening.open_array(str(tmp_path / "g"))

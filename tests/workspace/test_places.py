"""Which folder a fit has, what stays there, and that a fit goes on where it stopped."""

import gc
import json
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
import warnings
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import dask
import numpy as np
import psutil
import pytest
from numpy.testing import assert_array_equal

from hkmeans_dask import HierarchicalKMeans, fitting
from hkmeans_dask.kmeans import sampling
from hkmeans_dask.planning import memory
from hkmeans_dask.workspace import living, places
from hkmeans_dask.workspace.files import InMemory, OnDisk
from hkmeans_dask.workspace.places import durable, temporary
from tests import resuming
from tests.resuming import (
    DONE,
    Interrupted,
    empty,
    flip_data,
    interrupt,
    listed,
    only,
    truncate,
)
from tests.strategies import Watched

# Where the folder of temporary files of a test is in memory, that is fine.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*intermediate results go to"),
    pytest.mark.usefixtures("content_is_known"),  # else: test_changed.py
]

VALUES = np.random.default_rng(0).normal(size=(400, 6))
N_CHUNKS = 4
LARGE = 2**60


def watched(values=VALUES):
    """Give an array that counts its reads, and the dask array made from it."""
    array = Watched(values)
    return array, array.blocks((len(values) // N_CHUNKS, -1))


EXPECTED = HierarchicalKMeans(9).fit(watched()[1])


def same(model, expected=EXPECTED):
    resuming.same(model, expected)


# Folders and seeds


def folder_and_seed(parent, identity, seed):
    with durable(parent, identity, seed) as places:
        return places.workspace.folder, places.seed


def test_the_same_fit_has_the_same_folder_and_keeps_its_seed(tmp_path):
    identity = {"parameters": {"n_clusters": 9}, "chunks": ((2, 2), (3,))}
    first = folder_and_seed(tmp_path / "new" / "work", identity, 5)
    assert first[0].parent == tmp_path / "new" / "work"
    assert first[1] == 5
    assert folder_and_seed(tmp_path / "new" / "work", identity, 6) == first


def test_another_fit_has_another_folder_and_seed(tmp_path):
    one, other = ({"n_clusters": n} for n in (9, 10))
    first = folder_and_seed(tmp_path, one, 5)
    second = folder_and_seed(tmp_path, other, 6)
    assert first[0] != second[0]
    assert (first[1], second[1]) == (5, 6)


SPOILED = "should be a folder, or the plain URL of one"


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (Path("s3://b/w"), SPOILED),
        ("simplecache::s3://b/w", SPOILED),
        ("nothing://w", "nothing://w is no URL that can be opened"),
    ],
)
def test_what_is_no_url_is_no_work_dir(tmp_path, monkeypatch, place, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=words):
        HierarchicalKMeans(9, work_dir=place).fit(VALUES)
    assert list(tmp_path.iterdir()) == []


def test_a_relative_work_dir_is_that_of_the_call(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    HierarchicalKMeans(9, work_dir="work").fit(VALUES)
    assert listed(only(tmp_path / "work")) == DONE


OTHERS = {
    "parameter": ({"n_clusters": 10}, VALUES),
    "seed": ({"random_state": 1}, VALUES),
    "init": ({"init": VALUES[:9]}, VALUES),
    "values": ({}, VALUES + 1),
    "dtype": ({}, VALUES.astype(np.float32)),
    "lazy": ({}, watched()[1]),
    "lazy, other chunks": ({}, watched()[1].rechunk((50, -1))),
}


def test_what_matters_to_a_fit_chooses_its_folder(tmp_path):
    HierarchicalKMeans(9, work_dir=tmp_path).fit(VALUES)
    for number, (parameters, X) in enumerate(OTHERS.values(), 2):
        parameters = {"n_clusters": 9, "work_dir": tmp_path} | parameters
        HierarchicalKMeans(**parameters).fit(X)
        assert len(list(tmp_path.iterdir())) == number


def test_what_does_not_matter_to_a_fit_does_not(tmp_path):
    HierarchicalKMeans(9, work_dir=tmp_path).fit(VALUES)
    for verbose, place in ((0, str(tmp_path)), (1, tmp_path)):
        HierarchicalKMeans(9, verbose=verbose, work_dir=place).fit(VALUES.copy())
    assert listed(only(tmp_path)) == DONE


# Going on


READS = {
    "keep_training_rows": 2,
    "train_coarse": 1,
    "partition": 1,
    "train_fine": 1,
    "label_features": 1,
}


@pytest.mark.parametrize("stage", READS)
def test_an_interrupted_fit_goes_on_and_gives_the_same_bits(
    tmp_path, monkeypatch, stage
):
    array, X = watched()
    model = HierarchicalKMeans(9, work_dir=tmp_path)
    interrupt(monkeypatch, stage, model, X)
    assert array.reads == N_CHUNKS * (2 - READS[stage])
    array.reads = 0
    same(model.fit(X))
    assert array.reads == N_CHUNKS * READS[stage]


def test_a_finished_fit_reads_nothing_again(tmp_path):
    array, X = watched()
    same(HierarchicalKMeans(9, work_dir=tmp_path).fit(X))
    array.reads = 0
    same(HierarchicalKMeans(9, work_dir=tmp_path).fit(X))
    assert array.reads == 0


def test_only_missing_labels_are_made_again(tmp_path, monkeypatch):
    monkeypatch.setattr("hkmeans_dask.stages.label.LABELS_TOGETHER", 100)
    array, X = watched()
    whole = HierarchicalKMeans(9, work_dir=tmp_path).fit(X)
    assert len(list(only(tmp_path).glob("labels-*"))) == N_CHUNKS
    (only(tmp_path) / "labels-2.npz").unlink()
    array.reads = 0
    same(HierarchicalKMeans(9, work_dir=tmp_path).fit(X), whole)
    assert array.reads == 1


@pytest.mark.parametrize("stage", READS)
def test_an_interrupted_fit_of_values_in_memory_goes_on(tmp_path, monkeypatch, stage):
    expected = HierarchicalKMeans(9).fit(VALUES)
    model = HierarchicalKMeans(9, work_dir=tmp_path)
    interrupt(monkeypatch, stage, model, VALUES)
    same(model.fit(VALUES), expected)
    assert isinstance(model.labels_, np.ndarray)


def test_an_interrupted_fit_with_given_centers_goes_on(tmp_path, monkeypatch):
    _, X = watched()
    expected = HierarchicalKMeans(9, init=VALUES[:9]).fit(X)
    model = HierarchicalKMeans(9, init=VALUES[:9], work_dir=tmp_path)
    interrupt(monkeypatch, "train_fine", model, X)
    same(model.fit(X), expected)


@pytest.mark.parametrize("lazy", [True, False])
def test_a_fit_without_a_seed_goes_on_with_that_it_began_with(
    tmp_path, monkeypatch, lazy
):
    X = watched()[1] if lazy else VALUES
    model = HierarchicalKMeans(9, random_state=None, work_dir=tmp_path)
    interrupt(monkeypatch, "train_fine", model, X)
    seed = json.loads(json.loads((only(tmp_path) / "manifest.json").read_text())["fit"])
    first = model.fit(X)
    assert first._origin["seed"] == seed["seed"]
    assert len(list(tmp_path.iterdir())) == 1
    # One that has ended is not given back: a new fit draws anew.
    again = HierarchicalKMeans(9, random_state=None, work_dir=tmp_path).fit(X)
    assert again._origin["seed"] != first._origin["seed"]
    assert len(list(tmp_path.iterdir())) == 2


def test_parts_without_training_rows_are_kept_on_disk_too(tmp_path, monkeypatch):
    monkeypatch.setattr(sampling, "ONE_PART_BYTES", 0)
    monkeypatch.setattr(sampling, "PART_BYTES", 10)
    parameters = {"n_clusters": 3, "max_features_per_cluster": 2}
    _, X = watched(VALUES[:20])
    expected = HierarchicalKMeans(**parameters).fit(X)
    same(HierarchicalKMeans(**parameters, work_dir=tmp_path).fit(X), expected)


def test_what_a_killed_process_left_half_written_goes(tmp_path, monkeypatch):
    _, X = watched()
    model = HierarchicalKMeans(9, work_dir=tmp_path)
    interrupt(monkeypatch, "train_fine", model, X)
    rest = only(tmp_path) / ".training-0-0123456789abcdef0123456789abcdef"
    rest.write_bytes(bytes(100))
    model.fit(X)
    assert listed(only(tmp_path)) == DONE


# Damage


# The stage that needs the file next; the labels are those of a finished fit.
NEEDED_BY = {
    "training-0.npz": "train_coarse",
    "training-0.raw": "train_coarse",
    "coarse.npz": "partition",
    "partition-0.npz": "train_fine",
    "partition-0.raw": "train_fine",
    "shares.npz": "train_fine",
    "fine-0.npz": "label_features",
    "model.npz": "label_features",
    "labels-0.npz": None,
}


@pytest.mark.parametrize("damage", [truncate, empty, flip_data])
@pytest.mark.parametrize("name", NEEDED_BY)
def test_a_damaged_file_is_made_again(tmp_path, monkeypatch, name, damage):
    _, X = watched()
    model = HierarchicalKMeans(9, work_dir=tmp_path)
    if NEEDED_BY[name] is None:
        model.fit(X)
    else:
        interrupt(monkeypatch, NEEDED_BY[name], model, X)
    if name == "fine-0.npz":
        (only(tmp_path) / "model.npz").unlink()
    damage(only(tmp_path) / name)
    shown = name.removesuffix(".npz")
    with pytest.warns(UserWarning, match=f"{shown} is damaged .* computed again"):
        model.fit(X)
    same(model)
    same(HierarchicalKMeans(9, work_dir=tmp_path).fit(X))
    assert listed(only(tmp_path)) == DONE


def test_rows_that_are_sorted_serve_for_all_that_is_made_again(tmp_path, monkeypatch):
    array, X = watched()
    model = HierarchicalKMeans(9, work_dir=tmp_path)
    interrupt(monkeypatch, "train_fine", model, X)
    assert "training-0.raw" not in listed(only(tmp_path))
    flip_data(only(tmp_path) / "coarse.npz")
    array.reads = 0
    with pytest.warns(UserWarning, match="coarse is damaged"):
        model.fit(X)
    same(model)
    assert array.reads == X.npartitions  # the labels; training rows were not read again


def test_rows_that_outlived_their_sorting_are_removed(tmp_path, monkeypatch):
    """As when a fit was killed between the two, or another client wrote them late."""
    _, X = watched()
    model = HierarchicalKMeans(9, work_dir=tmp_path)
    interrupt(monkeypatch, "partition", model, X)
    kept = {name: (only(tmp_path) / name).read_bytes() for name in TRAINING}
    interrupt(monkeypatch, "train_fine", model, X)
    for name, content in kept.items():
        (only(tmp_path) / name).write_bytes(content)
    interrupt(monkeypatch, "train_fine", model, X)
    assert not set(TRAINING) & set(listed(only(tmp_path)))
    same(model.fit(X))


TRAINING = ("training-0.npz", "training-0.raw")


def test_damage_while_a_fit_runs_is_repaired(tmp_path, monkeypatch):
    _, X = watched()
    original = fitting.train_fine

    def damaging(*args, **how):
        monkeypatch.setattr(fitting, "train_fine", original)
        flip_data(only(tmp_path) / "partition-0.raw")
        return original(*args, **how)

    monkeypatch.setattr(fitting, "train_fine", damaging)
    with pytest.warns(UserWarning, match=r"partition-0\.raw is damaged"):
        same(HierarchicalKMeans(9, work_dir=tmp_path).fit(X))


def test_a_disk_that_keeps_damaging_files_ends_the_fit(tmp_path, monkeypatch):
    original = fitting.train_fine

    def damaging(*args, **how):
        flip_data(only(tmp_path) / "partition-0.raw")
        return original(*args, **how)

    monkeypatch.setattr(fitting, "train_fine", damaging)
    model = HierarchicalKMeans(9, work_dir=tmp_path)
    with (
        pytest.warns(UserWarning, match="damaged") as warned,
        pytest.raises(
            OSError, match=r"partition-0\.raw is damaged again .* disk fails"
        ),
    ):
        model.fit(VALUES)
    assert len(warned) == 1


def test_any_number_of_damaged_files_are_found_at_once(tmp_path, monkeypatch):
    """A power cut leaves many of them."""
    monkeypatch.setattr(sampling, "ONE_PART_BYTES", 0)
    monkeypatch.setattr(sampling, "PART_BYTES", 400)
    _, X = watched()
    model = HierarchicalKMeans(9, work_dir=tmp_path)
    interrupt(monkeypatch, "label_features", model, X)
    folder = only(tmp_path)
    (folder / "model.npz").unlink()
    names = [path for path in folder.iterdir() if path.suffix in (".npz", ".raw")]
    damaged = [path for path in names if path.stat().st_size > 100]
    for path in damaged:
        flip_data(path)
    assert len(damaged) > 30
    with pytest.warns(UserWarning, match="is damaged") as warned:
        same(model.fit(X), HierarchicalKMeans(9).fit(X))
    named = {str(warning.message).split()[3] for warning in warned}
    assert len(named) == len(warned) > 15


def test_a_damaged_nonce_does_not_stop_a_fit(tmp_path, monkeypatch):
    _, X = watched()
    model = HierarchicalKMeans(9, work_dir=tmp_path)
    interrupt(monkeypatch, "train_fine", model, X)
    (only(tmp_path) / "nonce").write_bytes(b"\xff")
    same(model.fit(X))


def test_without_a_good_manifest_a_fit_begins_anew(tmp_path, monkeypatch):
    array, X = watched()
    model = HierarchicalKMeans(9, work_dir=tmp_path)
    interrupt(monkeypatch, "label_features", model, X)
    truncate(only(tmp_path) / "manifest.json")
    array.reads = 0
    with pytest.warns(UserWarning, match=r"manifest\.json is damaged; .* anew"):
        model.fit(X)
    same(model)
    assert array.reads == 2 * N_CHUNKS
    assert listed(only(tmp_path)) == DONE


@pytest.mark.parametrize("mask", [1, 128, 255])
def test_a_flipped_byte_of_a_manifest_never_gives_another_seed(tmp_path, mask):
    folder, _ = folder_and_seed(tmp_path, {"n_clusters": 9}, 5)
    good = (folder / "manifest.json").read_bytes()
    anew = 0
    for position in range(len(good)):
        data = bytearray(good)
        data[position] ^= mask
        (folder / "manifest.json").write_bytes(data)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            _, seed = folder_and_seed(tmp_path, {"n_clusters": 9}, 7)
        warned = [str(w.message) for w in caught if "is damaged" in str(w.message)]
        assert (seed, len(warned)) in ((5, 0), (7, 1)), position
        anew += len(warned)
    assert anew > len(good) // 2


# The lock


@pytest.fixture
def neighbour():
    """Start a process that lives until it is told to end."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=-1) as process:
        yield process
        if process.poll() is None:
            process.communicate(b"\n")


def lock(parent, host, process):
    folder, _ = folder_and_seed(parent, {}, 0)
    (folder / f"lock-{host}-{process}").touch()
    return folder


def locks(folder):
    return [name for name in listed(folder) if name.startswith("lock")]


def test_a_living_process_at_the_same_fit_is_warned_of(tmp_path, neighbour):
    folder = lock(tmp_path, socket.gethostname(), neighbour.pid)
    for _ in range(2):
        with pytest.warns(UserWarning, match=f"Process {neighbour.pid} on .* same fit"):
            folder_and_seed(tmp_path, {}, 0)
    assert locks(folder) == [f"lock-{socket.gethostname()}-{neighbour.pid}"]


def test_a_process_elsewhere_lives_as_long_as_it_touches_its_lock(tmp_path):
    nobody = 2**30
    assert not psutil.pid_exists(nobody)
    folder = lock(tmp_path, "another-host", nobody)
    (path,) = folder.glob("lock-*")
    for _ in range(2):
        with pytest.warns(
            UserWarning, match=f"Process {nobody} on another-host .* same fit"
        ):
            folder_and_seed(tmp_path, {}, 0)
    assert locks(folder) == [path.name]
    long_ago = path.stat().st_mtime - 2 * living.SILENCE
    os.utime(path, (long_ago, long_ago))
    folder_and_seed(tmp_path, {}, 0)  # warnings are errors
    assert locks(folder) == []


def test_the_lock_is_touched_as_long_as_the_fit_lasts(tmp_path, monkeypatch):
    monkeypatch.setattr(living, "BEAT", 0.01)
    with durable(tmp_path, {}, 0) as places:
        (path,) = places.workspace.folder.glob("lock-*")
        os.utime(path, (1, 1))
        deadline = time.monotonic() + 60
        while path.stat().st_mtime == 1:
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_another_process_of_the_same_number_is_another_one(tmp_path, neighbour):
    """On a host of the same name (a container), or after this one began anew."""
    folder = lock(tmp_path, socket.gethostname(), neighbour.pid)
    (path,) = folder.glob("lock-*")
    known = json.loads(living.mark())
    path.write_text(json.dumps(known | {"process": neighbour.pid, "began": 1}))
    folder_and_seed(tmp_path, {}, 0)  # warnings are errors
    assert locks(folder) == []
    elsewhere = known | {"process": neighbour.pid, "space": "another"}
    path.write_text(json.dumps(elsewhere))
    with pytest.warns(UserWarning, match="same fit"):
        folder_and_seed(tmp_path, {}, 0)


def test_the_lock_of_a_dead_process_goes(tmp_path, neighbour):
    neighbour.communicate(b"\n")
    assert not psutil.pid_exists(neighbour.pid)
    folder = lock(tmp_path, socket.gethostname(), neighbour.pid)
    folder_and_seed(tmp_path, {}, 0)
    assert locks(folder) == []


@pytest.mark.filterwarnings("ignore:.*same fit")
@pytest.mark.parametrize("host", [None, "here", "another-host"])
def test_what_a_dead_worker_left_half_written_goes_unless_others_write(
    tmp_path, neighbour, host
):
    with durable(tmp_path, {}, 0) as places:
        folder = places.workspace.folder
        rest = folder / ".training-0-0123456789abcdef0123456789abcdef"
        rest.write_bytes(bytes(100))
        if host is not None:  # one that came later
            host = socket.gethostname() if host == "here" else host
            (folder / f"lock-{host}-{neighbour.pid}").touch()
    assert rest.exists() == (host is not None)


def test_the_lock_is_there_during_a_fit_only(tmp_path, monkeypatch):
    _, X = watched()
    seen = []

    def stop(*args, **options):
        seen.extend(listed(only(tmp_path)))
        raise Interrupted

    monkeypatch.setattr(fitting, "train_coarse", stop)
    with pytest.raises(Interrupted):
        HierarchicalKMeans(9, work_dir=tmp_path).fit(X)
    assert f"lock-{socket.gethostname()}-{os.getpid()}" in seen
    assert locks(only(tmp_path)) == []


# Temporary folders


@pytest.fixture
def temporaries(tmp_path):
    """Let dask's temporary directory be a new one."""
    with dask.config.set(temporary_directory=str(tmp_path / "temporary")):
        (tmp_path / "temporary").mkdir()
        yield tmp_path / "temporary"
    gc.collect()


@pytest.fixture
def labels_on_disk(monkeypatch, temporaries):
    """Let the labels of the smallest lazy X go to a file."""
    monkeypatch.setattr(places, "LABEL_BYTES", 4)
    return temporaries


SIZES = {
    "small": (0, 0, False, False),
    "many rows": (LARGE, 0, True, False),
    "many labels": (0, LARGE, False, True),
    "both": (LARGE, LARGE, True, True),
}


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
def test_what_is_large_goes_to_disk(temporaries, size):
    rows_bytes, label_bytes, *on_disk = size
    places = temporary(7, rows_bytes=rows_bytes, label_bytes=label_bytes)
    with places as places:
        assert places.seed == 7
        spaces = [places.workspace, places.label_space]
        assert [space.on_disk for space in spaces] == on_disk
        assert len(list(temporaries.iterdir())) == any(on_disk)
        kinds = [OnDisk if large else InMemory for large in on_disk]
        assert [type(space) for space in spaces] == kinds


def test_a_temporary_folder_goes_at_the_end(temporaries):
    with temporary(0, rows_bytes=LARGE, label_bytes=0) as places:
        places.workspace.save("coarse", centers=np.ones(3))
        assert list(only(temporaries).glob("coarse.npz"))
    assert not list(temporaries.glob("*/*.npz"))
    del places
    gc.collect()
    assert listed(temporaries) == []


@pytest.mark.parametrize("error", [Interrupted, KeyboardInterrupt])
def test_a_temporary_folder_goes_after_an_error(temporaries, error):
    def fail():
        with temporary(0, rows_bytes=LARGE, label_bytes=LARGE) as places:
            places.workspace.save("coarse", centers=np.ones(3))
            assert only(temporaries).exists()
            raise error

    with pytest.raises(error) as caught:
        fail()
    assert listed(temporaries) == []
    assert caught.tb, "a traceback that is kept, and all in it, does not keep it"


def test_a_temporary_folder_goes_while_a_task_still_writes(temporaries):
    """Nobody waits for tasks after an error."""
    stop, wrote = threading.Event(), threading.Event()

    def write(space):
        while not stop.is_set():
            with suppress(OSError):
                space.save("coarse", centers=np.ones(3))
            wrote.set()

    with ThreadPoolExecutor(2) as pool:
        try:
            with temporary(0, rows_bytes=LARGE, label_bytes=0) as places:
                for _ in range(2):
                    pool.submit(write, places.workspace)
                wrote.wait()
                raise Interrupted
        except Interrupted:
            pass
        finally:
            stop.set()
    assert listed(temporaries) == []


def test_a_temporary_folder_goes_after_a_fit_of_bad_values(labels_on_disk):
    bad = VALUES.copy()
    bad[399, 5] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        HierarchicalKMeans(9).fit(watched(bad)[1])
    assert listed(labels_on_disk) == []


def test_a_temporary_folder_in_memory_is_warned_of():
    kinds = {p.mountpoint: p.fstype for p in psutil.disk_partitions(all=True)}
    if kinds.get("/dev/shm") != "tmpfs":
        pytest.skip("no folder in memory here")
    large = temporary(0, rows_bytes=0, label_bytes=2**25)
    said = r"32 MiB .* go to /dev/shm, .* memory \(tmpfs\)\. Pass work_dir"
    with (
        dask.config.set(temporary_directory="/dev/shm"),
        pytest.warns(UserWarning, match=said),
    ):
        folder = large.__enter__().label_space.folder
    assert folder.parent == Path("/dev/shm")
    assert large.__exit__(None, None, None) in (None, False)
    del large
    gc.collect()
    assert not folder.exists()


def test_labels_on_disk_are_those_in_memory(labels_on_disk):
    _, X = watched()
    model = HierarchicalKMeans(9).fit(X)
    same(model)
    assert listed(only(labels_on_disk)) == ["labels-0.npz", "nonce"]
    assert model.labels_.dtype == np.int32
    assert_array_equal(model.transform(X), EXPECTED.transform(X))
    reduced = EXPECTED.transform(VALUES)
    assert_array_equal(
        model.inverse_transform(reduced), EXPECTED.inverse_transform(reduced)
    )
    assert_array_equal(model.predict(X), model.labels_)


def test_labels_on_disk_may_be_cut_and_picked(labels_on_disk):
    labels, expected = HierarchicalKMeans(9).fit(watched()[1]).labels_, EXPECTED.labels_
    expected = np.asarray(expected)
    for index in (np.s_[:7], np.s_[::2], np.s_[::-1], 5, -1, [3, 1], expected == 2):
        assert_array_equal(labels[index].compute(), expected[index])


def test_labels_on_disk_can_be_pickled_while_they_are_there(labels_on_disk):
    model = HierarchicalKMeans(9).fit(watched()[1])
    copy = pickle.loads(pickle.dumps(model))
    same(copy)
    del copy
    gc.collect()
    same(model)


def test_labels_on_disk_go_with_the_last_reference(labels_on_disk):
    _, X = watched()
    model = HierarchicalKMeans(9).fit(X)
    reduced, some = model.transform(X), model.labels_[100:200]
    del model
    gc.collect()
    assert_array_equal(some, np.asarray(EXPECTED.labels_)[100:200])
    del some
    gc.collect()
    assert_array_equal(reduced, EXPECTED.transform(X))
    assert len(listed(labels_on_disk)) == 1
    del reduced
    gc.collect()
    assert listed(labels_on_disk) == []


def test_labels_on_disk_of_a_second_fit_take_the_place_of_the_first(labels_on_disk):
    _, X = watched()
    model = HierarchicalKMeans(9).fit(X)
    first = only(labels_on_disk)
    model.fit(X)
    gc.collect()
    assert only(labels_on_disk) != first
    same(model)


def test_labels_of_a_work_dir_stay_without_the_model(tmp_path):
    _, X = watched()
    model = HierarchicalKMeans(9, work_dir=tmp_path).fit(X)
    dumped = pickle.dumps(model)
    del model
    gc.collect()
    same(pickle.loads(dumped))


def test_a_cluster_with_rows_and_labels_on_disk_gives_the_same_bits(
    two_processes, labels_on_disk, monkeypatch
):
    monkeypatch.setattr(memory, "CLUSTER_ROWS", 0)
    original, during = fitting.label_features, []

    def looking(*args, **options):
        during.extend(listed(only(labels_on_disk)))
        return original(*args, **options)

    monkeypatch.setattr(fitting, "label_features", looking)
    model = HierarchicalKMeans(9).fit(watched()[1])
    same(model)
    assert {"partition-0.npz", "fine-0.npz", "model.npz"} <= set(during)
    assert "training-0.npz" not in during  # the disk holds the rows but once
    assert listed(only(labels_on_disk)) == ["labels-0.npz", "nonce"]


def test_a_cluster_goes_on_with_what_threads_began(
    two_processes, tmp_path, monkeypatch
):
    _, X = watched()
    model = HierarchicalKMeans(9, work_dir=tmp_path)
    with dask.config.set(scheduler="threads"):
        interrupt(monkeypatch, "train_fine", model, X)
    flip_data(only(tmp_path) / "partition-0.raw")
    with pytest.warns(UserWarning, match=r"partition-0\.raw is damaged"):
        model.fit(X)
    same(model)


@pytest.mark.parametrize("place", ["file", "file/folder"])
def test_a_temporary_folder_that_is_none_is_named(tmp_path, place):
    (tmp_path / "file").touch()
    folder = str(tmp_path / place)
    with (
        dask.config.set({"temporary-directory": folder}),
        pytest.raises(OSError, match=r"setting temporary-directory.*or pass work_dir"),
        temporary(0, rows_bytes=1, label_bytes=0),
    ):
        pass

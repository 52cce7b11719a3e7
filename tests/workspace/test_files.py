"""What is read from a workspace is what was saved there, or an error, in every way."""

import gc
import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import zipfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import pairwise
from pathlib import Path

import dask.array as da
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from hkmeans_dask.workspace import files
from hkmeans_dask.workspace import rows as rows_module
from hkmeans_dask.workspace.files import Damaged, InMemory, OnDisk
from hkmeans_dask.workspace.folders import LocalFolder
from hkmeans_dask.workspace.labels import StoredLabels
from hkmeans_dask.workspace.rows import Rows, gather
from tests.strategies import FLOATS, cuts, quick

ALL = 2**64 - 1


@pytest.fixture
def disk(tmp_path):
    """Make an empty workspace on disk."""
    return OnDisk(tmp_path / "space")


def listed(space):
    return sorted(path.name for path in space.folder.iterdir())


def same(found, expected):
    assert_array_equal(found, expected, strict=True)


def path_of(space, name):
    return space.folder / f"{name}.npz"


def flip(path, position, mask=1):
    data = bytearray(path.read_bytes())
    data[position] ^= mask
    path.write_bytes(data)


def data_of(path, array):
    """Tell where the values of an array are in a file."""
    return path.read_bytes().index(array.tobytes())


# Rows


@st.composite
def rows_in_parts(draw):
    """Parts of training rows with the same groups, in any order, some empty."""
    n_groups, n_samples = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    dtype = draw(st.sampled_from(FLOATS))
    n_parts = draw(st.integers(1, 3))
    total = draw(st.integers(0, 30))
    drawn = draw(
        st.lists(st.integers(0, ALL), min_size=total, max_size=total, unique=True)
    )
    keys = np.array(drawn, np.uint64)
    groups = draw(
        st.lists(st.integers(0, n_groups - 1), min_size=total, max_size=total)
    )
    groups = np.array(groups, int)
    of_part = draw(
        st.lists(st.integers(0, n_parts - 1), min_size=total, max_size=total)
    )
    array = np.arange(total * n_samples, dtype=dtype).reshape(total, n_samples)
    parts = []
    for part in range(n_parts):
        mine = np.flatnonzero(np.array(of_part, int) == part)
        order = mine[np.argsort(groups[mine], kind="stable")]
        starts = np.searchsorted(groups[order], np.arange(n_groups + 1))
        parts.append(Rows(array, order, keys[order], starts, part))
    return parts, array, keys, groups


limits = st.one_of(st.just(ALL), st.integers(0, ALL))
piece_rows = st.sampled_from([1, 2, 3, 1000])


@quick
@given(rows_in_parts(), limits, piece_rows)
def test_rows_on_disk_are_those_in_memory(drawn, limit, rows_at_once):
    parts, *_ = drawn
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        row_bytes = parts[0].like.itemsize * parts[0].like.shape[1]
        patch.setattr(rows_module, "PIECE_BYTES", rows_at_once * row_bytes)
        space = OnDisk(Path(folder))
        for number, rows in enumerate(parts):
            saved = space.save_rows(f"part-{number}", rows)
            for stored in (saved, space.find_rows(f"part-{number}")):
                assert stored.total == rows.total
                same(stored.starts, rows.starts)
                same(stored.like, rows.like)
                for group in range(len(rows.starts) - 1):
                    same(stored.group_keys(group), rows.group_keys(group))
                    same(stored.take(group, limit), rows.take(group, limit))
                loaded = stored.load()
                same(loaded.array[loaded.order], rows.array[rows.order])
                same(loaded.keys, rows.keys)
                same(loaded.starts, rows.starts)
                assert loaded.total == rows.total


@quick
@given(
    rows_in_parts(),
    st.none() | st.integers(1, 12),
    st.integers(1, 500),
    piece_rows,
)
def test_gather_is_a_sort_by_key(drawn, most, max_bytes, rows_at_once):
    parts, array, keys, groups = drawn
    row_bytes = array.itemsize * array.shape[1]
    fitting = max(1, max_bytes // row_bytes)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(rows_module, "PIECE_BYTES", rows_at_once * row_bytes)
        space = OnDisk(Path(folder))
        stored = [space.save_rows(f"part-{n}", rows) for n, rows in enumerate(parts)]
        for group in range(len(parts[0].starts) - 1):
            mine = np.flatnonzero(groups == group)
            expected = array[mine[np.argsort(keys[mine])]][
                : min(most or fitting, fitting)
            ]
            same(gather(parts, group, most, max_bytes), expected)
            same(gather(stored, group, most, max_bytes), expected)


def test_gathered_rows_are_a_copy():
    array = np.ones((4, 2))
    keys = np.arange(4, dtype=np.uint64)
    rows = Rows(array, np.arange(4), keys, np.array([0, 4]), 0)
    gathered = gather([rows], 0, None, 10**6)
    gathered -= 1
    assert (array == 1).all()


def test_a_group_is_read_from_its_own_pieces_only(disk, monkeypatch):
    monkeypatch.setattr(rows_module, "PIECE_BYTES", 3 * 8 * 2)
    array, keys = np.arange(20.0).reshape(10, 2), np.arange(10, dtype=np.uint64)
    rows = Rows(array, np.arange(10), keys, np.array([0, 5, 10]), 0)
    stored = disk.save_rows("rows", rows)
    path = disk.folder / "rows.raw"
    flip(path, data_of(path, array[8:]))
    same(stored.take(0, ALL), array[:5])
    same(stored.take(1, 7), array[5:8])
    with pytest.raises(Damaged):
        stored.take(1, ALL)


def test_files_without_rows_of_a_group_are_not_opened(disk):
    array, keys = np.arange(8.0).reshape(4, 2), np.arange(4, dtype=np.uint64)
    both = Rows(array, np.arange(4), keys, np.array([0, 2, 4]), 0)
    second = Rows(array, np.arange(4), keys + np.uint64(4), np.array([0, 0, 4]), 0)
    stored = [disk.save_rows("both", both), disk.save_rows("second", second)]
    (disk.folder / "second.raw").unlink()
    same(gather(stored, 0, None, 10**6), array[:2])
    with pytest.raises(Damaged, match="second"):
        gather(stored, 1, None, 10**6)


def test_memory_keeps_what_it_gets_and_finds_nothing():
    array, keys = np.arange(4.0).reshape(2, 2), np.arange(2, dtype=np.uint64)
    rows = Rows(array, np.arange(2), keys, np.array([0, 2]), 0)
    space = InMemory()
    assert space.save_rows("rows", rows) is rows
    assert space.save("record", array=array)["array"] is array
    assert space.find("record") is None
    assert space.find_rows("rows") is None


# Files


def test_a_record_is_found_again(disk):
    assert disk.find("record") is None
    assert disk.find_rows("record") is None
    values = {"one": np.arange(3), "none": np.empty((0, 2)), "number": np.array(2.5)}
    saved = disk.save("record", **values)
    for record in (saved, OnDisk(disk.folder).find("record")):
        for name, value in values.items():
            same(record[name], value)
    assert disk.names() == ["record"]
    disk.discard("record", "another")
    assert disk.find("record") is None
    assert disk.names() == []


class Midway:
    """Values that are made while the file is written."""

    def __init__(self, look):
        self.look = look

    def __array__(self, dtype=None, copy=None):
        """Look, and give the values."""
        self.look()
        return np.ones(3)


def test_a_file_appears_only_when_it_is_complete(disk):
    seen = []
    midway = Midway(lambda: seen.append((disk.names(), disk.find("record"))))
    disk.save("record", first=np.zeros(3), second=midway)
    assert seen == [([], None)]
    assert listed(disk) == ["nonce", "record.npz"]


def test_an_old_file_stays_until_the_new_one_is_complete(disk):
    old = disk.save("record", values=np.zeros(3))
    disk.save(
        "record",
        first=np.zeros(3),
        values=Midway(lambda: same(old["values"], np.zeros(3))),
    )
    same(old["values"], np.ones(3))


def test_who_reads_an_old_file_reads_it_to_its_end(disk):
    disk.save("record", values=np.zeros(3))
    old = path_of(disk, "record").read_bytes()
    with path_of(disk, "record").open("rb") as file:
        disk.save("record", values=np.ones(3))
        assert file.read() == old


def test_no_file_stays_after_an_error(disk):
    def fail():
        assert len(listed(disk)) == 2, "the nonce, and what is being written"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        disk.save("record", first=np.zeros(3), second=Midway(fail))
    assert listed(disk) == ["nonce"]


@pytest.fixture
def small_disk(tmp_path):
    """Mount a file system of 2 MiB."""
    if os.geteuid() != 0:
        pytest.skip("only root may mount a small file system")
    place = tmp_path / "small"
    place.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", place]
    if subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no file system can be mounted here")
    yield place
    subprocess.run(["umount", place], check=True)


def test_a_full_disk_is_explained_and_leaves_nothing_half_written(small_disk):
    disk = OnDisk(small_disk / "space")
    kept = disk.save("kept", values=np.arange(1000))
    with pytest.raises(OSError, match=r"space is full \(No space.*work_dir"):
        disk.save("large", values=np.ones(2**19))
    assert listed(disk) == ["kept.npz", "nonce"]
    same(kept["values"], np.arange(1000))
    disk.save("small", values=np.ones(2**10))


def test_a_disk_that_is_full_at_the_start_is_explained(small_disk):
    with suppress(OSError), (small_disk / "other").open("wb") as file:
        file.write(bytes(2**22))
    with pytest.raises(OSError, match=r"is full \(No space.*work_dir"):
        OnDisk(small_disk / "space")
    assert not list((small_disk / "space").iterdir())


# Damage


def read_all(space, expected):
    record = space.find("record")
    return {name: record[name] for name in expected}


def equal(found, expected):
    return all(
        found[name].dtype == value.dtype and np.array_equal(found[name], value)
        for name, value in expected.items()
    )


SMALL = {
    "keys": np.arange(5, dtype=np.uint64),
    "rows": np.arange(6, dtype=np.float32).reshape(3, 2),
    "total": np.array(77, np.uint64),
}
LARGE = {"labels": np.arange(9000, dtype=np.int32), "rows": np.ones((900, 9))}


@pytest.mark.parametrize("mask", [1, 8, 255])
@pytest.mark.parametrize("values", [SMALL, LARGE], ids=["small", "large"])
@pytest.mark.filterwarnings("ignore")  # errors would hide what users get
def test_a_flipped_byte_gives_damaged_or_the_right_values(disk, values, mask):
    """The heads of the arrays and of the archive too: they tell how to read."""
    disk.save("record", **values)
    path = path_of(disk, "record")
    good = path.read_bytes()
    tried = {*range(300), *range(len(good) - 300, len(good))}
    for array in values.values():
        start = data_of(path, array)
        inside = np.linspace(start, start + array.nbytes - 1, 20).astype(int).tolist()
        tried |= {*range(start - 200, start), *inside}
    assert len(tried) > 500
    wrong, n_damaged = [], 0
    for position in sorted(tried & {*range(len(good))}):
        flip(path, position, mask)
        try:
            if not equal(read_all(disk, values), values):
                wrong.append(position)
        except Damaged:
            n_damaged += 1
        path.write_bytes(good)
    assert wrong == []
    assert n_damaged > 100


@pytest.mark.parametrize("kept", [0, 1, 100, -30, -1])
def test_a_truncated_file_is_damaged(disk, kept):
    disk.save("record", **LARGE)
    path = path_of(disk, "record")
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(Damaged, match="record"):
        read_all(disk, LARGE)


def test_a_longer_file_gives_the_right_values_or_is_damaged(disk):
    disk.save("record", **SMALL)
    with path_of(disk, "record").open("ab") as file:
        file.write(bytes(100))
    try:
        assert equal(read_all(disk, SMALL), SMALL)
    except Damaged:
        pass


def test_a_file_that_is_gone_is_damaged(disk):
    record = disk.save("record", **SMALL)
    array, keys = np.arange(4.0).reshape(2, 2), np.arange(2, dtype=np.uint64)
    rows = disk.save_rows("rows", Rows(array, np.arange(2), keys, np.array([0, 2]), 0))
    disk.discard("record", "rows")
    with pytest.raises(Damaged, match="record"):
        record["keys"]
    for read in (rows.load, lambda: rows.take(0, ALL), lambda: rows.group_keys(0)):
        with pytest.raises(Damaged, match="rows"):
            read()


def test_a_missing_array_is_damage(disk):
    with pytest.raises(Damaged, match="another"):
        disk.save("record", **SMALL)["another"]


def test_rows_whose_description_is_damaged_are_not_found(disk):
    disk.save("rows", keys=np.arange(3))
    with pytest.raises(Damaged, match="rows"):
        disk.find_rows("rows")


class Fuse:
    """A pickle that would leave a trace when it is loaded."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        """Leave the trace."""
        return Path.touch, (self.place,)


@pytest.mark.parametrize("form", ["array", "file"])
def test_no_pickle_is_loaded(disk, tmp_path, form):
    trace = tmp_path / "trace"
    if form == "array":
        np.savez(path_of(disk, "record"), keys=np.array([Fuse(trace)], object))
        with zipfile.ZipFile(path_of(disk, "record"), "a") as archive:
            archive.writestr(files.LAYOUT, json.dumps({"keys": ["|O", [1]]}))
    else:
        path_of(disk, "record").write_bytes(pickle.dumps({"keys": Fuse(trace)}))
    with pytest.raises(Damaged):
        disk.find("record")["keys"]
    assert not trace.exists()


def read_in_restless_threads(folder):
    """Read while threads take turns all the time, and Python runs amid its C code."""

    def collected(*_):
        return [None for _ in range(50)]

    def read(depth):
        if depth:
            return read(depth - 1)
        return sum(int(record["first"][-1] + record["other"]) for _ in range(1000))

    record = OnDisk(Path(folder)).save("one", first=np.arange(5), other=np.array(3))
    sys.setswitchinterval(1e-6)
    gc.set_threshold(20)
    gc.callbacks.append(collected)
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(read, (5, 25, 45, 65))) == [7000] * 4


def test_threads_may_read_at_once(tmp_path):
    """With NumPy's reader of headers this fails in Python 3.11 and 3.12."""
    test = f"t.read_in_restless_threads({str(tmp_path)!r})"
    call = f"from tests.workspace import test_files as t; {test}"
    done = subprocess.run(
        [sys.executable, "-c", call],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "values",
    [
        np.array(2.5),
        np.empty((0, 3), np.float32),
        np.asfortranarray(np.arange(6).reshape(2, 3)),
        np.arange(6)[::-2],
        np.array([True, False]),
        np.array(["a", "bcd"]),
        np.arange(3, dtype=">i4"),
    ],
    ids=str,
)
def test_arrays_of_any_kind_come_back(disk, values):
    found = disk.save("record", values=values)["values"]
    same(found, values)
    assert found.flags.writeable
    with np.load(path_of(disk, "record")) as archive:
        same(archive["values"], values)


def test_damage_travels_from_workers():
    damaged = pickle.loads(pickle.dumps(Damaged("coarse", "bad")))
    assert (damaged.name, damaged.reason) == ("coarse", "bad")


# Other processes


def test_a_folder_has_one_nonce(disk):
    again = OnDisk(disk.folder)
    again.save("record", values=np.ones(2))
    same(disk.find("record")["values"], np.ones(2))
    assert listed(disk) == ["nonce", "record.npz"]


def other_nonce(space):
    (space.folder / "nonce").write_text("another")


def no_folder(space):
    shutil.rmtree(space.folder)


def unreadable_nonce(space):
    (space.folder / "nonce").write_bytes(b"\xff\xfe")


@pytest.mark.parametrize("change", [other_nonce, no_folder, unreadable_nonce])
def test_another_folder_under_the_same_name_is_refused(disk, change):
    record = disk.save("record", **SMALL)
    elsewhere = pickle.loads(pickle.dumps(disk))
    change(disk)
    with pytest.raises(FileNotFoundError, match=r"work_dir that .* share"):
        elsewhere.save("new", **SMALL)
    with pytest.raises(FileNotFoundError, match=r"work_dir that .* share"):
        pickle.loads(pickle.dumps(record))["keys"]


def test_a_folder_is_looked_at_again_after_travel_only(disk):
    record = disk.save("record", **SMALL)
    other_nonce(disk)
    same(record["keys"], SMALL["keys"])
    with pytest.raises(FileNotFoundError):
        pickle.loads(pickle.dumps(disk)).check()


def test_a_damaged_nonce_does_not_stop_a_new_fit(disk):
    disk.save("record", **SMALL)
    flip(disk.folder / "nonce", 3, 128)
    same(OnDisk(disk.folder).find("record")["keys"], SMALL["keys"])


def test_workers_see_the_files_and_refuse_another_folder(two_processes, disk):
    def read(record):
        return record["keys"]

    def look(space):
        try:
            space.check()
        except FileNotFoundError as error:
            return str(error)

    record = disk.save("record", **SMALL)
    for found in two_processes.run(read, record).values():
        same(found, SMALL["keys"])
    assert set(two_processes.run(look, disk).values()) == {None}
    other_nonce(disk)
    for pid, said in two_processes.run(lambda: os.getpid()).items():
        assert f"process {said}" in two_processes.run(look, disk, workers=[pid])[pid]


# Labels


def stored_labels(space, values, sizes, numbers, owner=None):
    bounds = np.cumsum([0, *sizes])
    files = [
        space.save(f"labels-{number}", labels=values[first:last])
        for number, (first, last) in enumerate(pairwise(bounds))
    ]
    return StoredLabels(files, bounds, numbers, owner)


@st.composite
def labels_and_slices(draw):
    n = draw(st.integers(1, 20))
    sizes = draw(cuts(n).filter(lambda found: all(found)))
    return sizes, draw(st.lists(st.slices(n), min_size=5, max_size=5))


@quick
@given(labels_and_slices())
def test_any_slice_of_stored_labels_is_that_of_all_labels(drawn):
    sizes, slices = drawn
    values = np.arange(sum(sizes), dtype=np.int32)[::-1].copy()
    numbers = (np.arange(sum(sizes)) * 7).astype(np.int32)
    with tempfile.TemporaryDirectory() as folder:
        labels = stored_labels(OnDisk(Path(folder)), values, sizes, numbers)
        assert labels.shape == values.shape
        for where in slices:
            same(labels[where], numbers[values][where])
            same(labels[where,], numbers[values][where])


INDICES = {
    "all": np.s_[:],
    "part": np.s_[3:8],
    "steps": np.s_[::2],
    "backwards": np.s_[::-1],
    "steps backwards": np.s_[8:1:-3],
    "none": np.s_[5:5],
    "end": np.s_[10:],
    "number": 7,
    "last": -1,
    "list": [1, 8, 3],
    "mask": np.arange(10) % 3 == 0,
}


@pytest.mark.parametrize("index", INDICES.values(), ids=INDICES)
def test_dask_reads_stored_labels_by_any_index(disk, index):
    """It hands on what is asked of the array to what the array is made from."""
    values = np.arange(10, dtype=np.int32)
    stored = stored_labels(disk, values, (4, 6), values)
    meta = np.empty(0, np.int32)
    labels = da.from_array(stored, ((4, 6),), name=False, asarray=False, meta=meta)
    assert_array_equal(labels[index].compute(), values[index])


def test_of_two_that_begin_at_once_the_first_nonce_stays(tmp_path, monkeypatch):
    read, others = LocalFolder.read, []

    def read_late(folder, name):
        found = read(folder, name)
        if found is None and not others:  # another client comes in between
            others.append(None)
            others.append(OnDisk(tmp_path / "space"))
        return found

    monkeypatch.setattr(LocalFolder, "read", read_late)
    own = OnDisk(tmp_path / "space")
    own.check()
    others[1].check()

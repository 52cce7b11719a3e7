"""X whose chunks along samples are too large to join: one copy, read as features."""

import re
import subprocess
import sys
import time
import warnings
from itertools import product
from pathlib import Path

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from hkmeans_dask import HierarchicalKMeans, fitting
from hkmeans_dask.cli import commands
from hkmeans_dask.inputs import arrays
from hkmeans_dask.inputs.arrays import read_features
from hkmeans_dask.stages.copy import Copy, copied
from hkmeans_dask.workspace.files import Damaged, OnDisk
from hkmeans_dask.workspace.places import temporary
from tests.resuming import (
    DONE,
    Interrupted,
    empty,
    interrupt,
    listed,
    only,
    same,
    truncate,
)
from tests.strategies import Watched, cuts, nothing_computed, quick

# Where the folder of temporary files of a test is in memory, that is fine.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*intermediate results go to"),
    pytest.mark.filterwarnings("ignore:.*are copied to"),
    pytest.mark.usefixtures("content_is_known"),
]

axes = pytest.mark.parametrize("feature_axis", [0, 1])
MIB = 2**20

VALUES = np.random.default_rng(0).integers(-99, 99, size=(1000, 12)).astype("f4")
CHUNKS = (400, 5)
N_BLOCKS = 9
# In blocks of at most 2000 bytes: 41 rows of 48 bytes, so 10 even pieces of 400 rows.
PIECES = ((40,) * 25, (12,))


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """Let small arrays be large, and look into dask's temporary directory."""
    monkeypatch.setattr(arrays, "JOINED_BYTES", 400 * 12 * 4 - 1)
    monkeypatch.setattr(arrays, "BLOCK_BYTES", 2000)
    with dask.config.set(temporary_directory=str(tmp_path / "temporary")):
        (tmp_path / "temporary").mkdir()
        yield


def turned(pair, feature_axis):
    return pair[::-1] if feature_axis else pair


def stored(folder, values, feature_axis=0, chunks=CHUNKS):
    """Write features in rows to Zarr along an axis, and open it to read."""
    values = np.ascontiguousarray(values.T) if feature_axis else values
    path = folder / "X.zarr"
    zarr.create_array(path, data=values, chunks=turned(chunks, feature_axis))
    return zarr.open_array(path, mode="r")


def watched(values=VALUES, chunks=CHUNKS, feature_axis=0):
    """Give an array that counts its reads, and the dask array made from it."""
    array = Watched(values.T if feature_axis else values)
    return array, array.blocks(turned(chunks, feature_axis))


def fit_whole(values, chunks=PIECES, n_clusters=20):
    """Fit features that are in blocks of whole features already."""
    return HierarchicalKMeans(n_clusters).fit(da.from_array(values, chunks=chunks))


EXPECTED = fit_whole(VALUES)


# The same bits, and how often what is read


@axes
@pytest.mark.parametrize("kind", ["Zarr", "dask"])
@pytest.mark.parametrize("dtype", ["f4", "f8", "i2", ">f4", "f2", "u1"])
def test_a_fit_of_the_copy_is_one_of_whole_features(
    tmp_path, monkeypatch, kind, dtype, feature_axis
):
    monkeypatch.setattr(arrays, "JOINED_BYTES", 0)
    values = (VALUES + 100).astype(dtype)
    if kind == "Zarr":
        X = stored(tmp_path, values, feature_axis, (400, 1))
    else:
        _, X = watched(values, (400, 1), feature_axis)
    with nothing_computed():
        whole = copied(read_features(X, feature_axis), OnDisk(tmp_path)).blocks
    assert whole.chunks[1] == (12,)
    assert max(whole.chunks[0]) * values[0].nbytes <= 2000
    model = HierarchicalKMeans(20, feature_axis=feature_axis).fit(X)
    same(model, fit_whole(values, whole.chunks))
    assert model.n_passes_ == 3


@axes
@pytest.mark.parametrize("chunks", [CHUNKS, (400, 1), (999, 7)])
def test_every_chunk_is_read_once(counting_store, chunks, feature_axis):
    store, counted = counting_store
    values = VALUES.T if feature_axis else VALUES
    X = zarr.create_array(store, data=values, chunks=turned(chunks, feature_axis))
    counted.clear()
    with dask.config.set(scheduler="threads"):
        model = HierarchicalKMeans(20, feature_axis=feature_axis).fit(X)
    assert len(counted) == X.nchunks
    assert set(counted.values()) == {1}
    assert model.n_passes_ == 3
    assert_array_equal(model.cluster_centers_, EXPECTED.cluster_centers_)


def test_chunks_that_can_be_joined_are_not_copied(monkeypatch):
    monkeypatch.setattr(arrays, "JOINED_BYTES", 400 * 12 * 4)
    array, X = watched()
    assert HierarchicalKMeans(20).fit(X).n_passes_ == 2
    assert array.reads == 2 * N_BLOCKS


@axes
def test_a_cluster_gives_the_same_bits(two_processes, tmp_path, feature_axis):
    X = stored(tmp_path, VALUES, feature_axis)
    same(HierarchicalKMeans(20, feature_axis=feature_axis).fit(X), EXPECTED)
    assert not list((tmp_path / "temporary").rglob("copy-*"))


@quick
@given(st.data())
def test_a_slice_of_the_copy_is_one_of_x(tmp_path_factory, data):
    shape = data.draw(st.tuples(st.integers(1, 50), st.integers(1, 9)))
    values = np.random.default_rng(0).integers(0, 2**15, size=shape).astype("i2")
    rows, columns = (data.draw(cuts(n)) for n in shape)
    workspace = OnDisk(tmp_path_factory.mktemp("copy"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrays, "BLOCK_BYTES", data.draw(st.integers(1, 300)))
        copy = Copy(da.from_array(values, (rows, columns)), workspace)
    tops, lefts = (np.cumsum((0, *sizes)) for sizes in (rows, columns))
    every = list(product(range(len(rows)), range(len(columns))))
    assert copy.lacks() == every
    for row, column in every:
        block = values[tops[row] : tops[row + 1], lefts[column] : lefts[column + 1]]
        copy.save(block, tops[row], column)
    assert copy.lacks() == []
    assert_array_equal(copy[:, :], values)
    start, stop = sorted(data.draw(st.tuples(*[st.integers(0, shape[0])] * 2)))
    left = data.draw(st.integers(0, shape[1]))
    assert_array_equal(copy[start:stop, left:], values[start:stop, left:])


def test_blocks_are_cut_evenly_and_at_the_same_rows(tmp_path):
    _, X = watched()
    assert Copy(X, OnDisk(tmp_path)).chunks == PIECES
    narrow = da.zeros((100, 1), dtype="f4", chunks=((1, 99), 1))
    assert Copy(narrow, OnDisk(tmp_path)).chunks == ((1, 99), (1,))
    wide = da.zeros((2, 600), dtype="f4", chunks=(2, 300))
    assert Copy(wide, OnDisk(tmp_path)).chunks == ((1, 1), (600,))


# What is said, and where the copy is


@axes
def test_the_warning_tells_what_is_copied_where_and_how_not_to(tmp_path, feature_axis):
    X = stored(tmp_path, VALUES, feature_axis)
    model = HierarchicalKMeans(20, feature_axis=feature_axis, work_dir=tmp_path / "w")
    with pytest.warns(UserWarning, match="are copied to") as warned:
        model.fit(X)
    (said,) = (str(w.message) for w in warned)
    assert re.search(r"1000 features x 12 samples\) is chunked along samples", said)
    assert re.search(r"46\.88 kiB of it are copied to \S+/w/\w+ first", said)
    assert said.endswith("store X in chunks of about 40 whole features.")
    assert warned[0].filename == __file__


def test_the_copy_is_a_file_of_each_block_and_goes_at_the_end(tmp_path, monkeypatch):
    _, X = watched()
    original, during = fitting.label_features, []

    def looking(*args, **options):
        during.extend(path.name for path in (tmp_path / "temporary").rglob("copy-*"))
        return original(*args, **options)

    monkeypatch.setattr(fitting, "label_features", looking)
    model = HierarchicalKMeans(20).fit(X)
    same(model, EXPECTED)
    named = [f"copy-{top}-{column}.raw" for top in (0, 400, 800) for column in range(3)]
    assert sorted(during) == named
    assert listed(tmp_path / "temporary") == []
    same(HierarchicalKMeans(20, work_dir=tmp_path / "work").fit(X), EXPECTED)
    assert listed(only(tmp_path / "work")) == DONE


@axes
def test_a_bad_feature_is_named_and_the_copy_goes(tmp_path, feature_axis):
    bad = VALUES.copy()
    bad[[871, 502], [0, 11]] = np.inf, np.nan
    model = HierarchicalKMeans(20, feature_axis=feature_axis)
    with pytest.raises(ValueError, match=r"NaN: the first is in feature 502\."):
        model.fit(stored(tmp_path, bad, feature_axis))
    assert listed(tmp_path / "temporary") == []


def test_a_copy_needs_a_disk_however_small(tmp_path):
    with temporary(0, rows_bytes=0, label_bytes=0, copy_bytes=1) as places:
        assert places.workspace.on_disk
        assert not places.label_space.on_disk


def test_blocks_that_are_not_of_the_dtype_of_x_are_not_cut_to_it():
    _, X = watched()
    lying = X.map_blocks(
        lambda block: block + 0.5, dtype=np.int64, meta=np.empty((0, 0), int)
    )
    with pytest.raises(TypeError, match=r"Cannot cast .*int64"):
        HierarchicalKMeans(20).fit(lying)


# Going on


class Failing(Watched):
    """An array that can be read so often."""

    left = 4

    def __getitem__(self, index):
        """Read, or fail."""
        if not self.left:
            raise Interrupted
        self.left -= 1
        return super().__getitem__(index)


def test_an_interrupted_copy_goes_on(tmp_path):
    array = Failing(VALUES)
    X = array.blocks(CHUNKS)
    model = HierarchicalKMeans(20, work_dir=tmp_path / "work")
    with dask.config.set(scheduler="synchronous"), pytest.raises(Interrupted):
        model.fit(X)
    folder = only(tmp_path / "work")
    finished = {path: path.stat().st_mtime_ns for path in folder.glob("copy-*")}
    assert len(finished) == 4
    array.left, before = 1000, time.time_ns()
    with pytest.warns(UserWarning, match="are copied to"):
        same(model.fit(X), EXPECTED)
    assert all(at < before for at in finished.values())
    assert array.reads == N_BLOCKS
    assert listed(folder) == DONE


READ_AGAIN = {
    "copy_features": N_BLOCKS,
    "keep_training_rows": 0,
    "train_fine": 0,
    "label_features": 0,
}


@pytest.mark.parametrize("stage", READ_AGAIN)
def test_an_interrupted_fit_copies_only_once(tmp_path, monkeypatch, stage):
    array, X = watched()
    model = HierarchicalKMeans(20, work_dir=tmp_path / "work")
    interrupt(monkeypatch, stage, model, X)
    array.reads = 0
    same(model.fit(X), EXPECTED)
    assert array.reads == READ_AGAIN[stage]
    assert listed(only(tmp_path / "work")) == DONE


def test_a_finished_fit_copies_nothing_again(tmp_path):
    array, X = watched()
    model = HierarchicalKMeans(20, work_dir=tmp_path / "work").fit(X)
    array.reads = 0
    same(model.fit(X), EXPECTED)
    assert array.reads == 0


@pytest.mark.filterwarnings("ignore:.*labels-0 is damaged")
@pytest.mark.parametrize("damage", [truncate, Path.unlink])
def test_labels_that_are_missing_cost_another_copy(tmp_path, damage):
    array, X = watched()
    model = HierarchicalKMeans(20, work_dir=tmp_path / "work").fit(X)
    damage(only(tmp_path / "work") / "labels-0.npz")
    array.reads = 0
    same(model.fit(X), EXPECTED)
    assert array.reads == N_BLOCKS
    assert listed(only(tmp_path / "work")) == DONE


def test_a_cluster_goes_on_with_the_copy_that_threads_made(
    two_processes, tmp_path, monkeypatch
):
    array = Failing(VALUES)
    array.left = N_BLOCKS
    X = array.blocks(CHUNKS)
    model = HierarchicalKMeans(20, work_dir=tmp_path / "work")
    with dask.config.set(scheduler="threads"):
        interrupt(monkeypatch, "keep_training_rows", model, X)
    assert array.left == 0
    same(model.fit(X), EXPECTED)


@pytest.mark.slow
def test_a_killed_fit_goes_on_with_its_copy(tmp_path):
    """In real processes, with an X that is large enough to be copied."""
    source, work_dir = tmp_path / "X.zarr", tmp_path / "work"
    values = np.random.default_rng(0).standard_normal((600_000, 64))  # 293 MiB
    zarr.create_array(source, data=values, chunks=(600_000, 4), compressors=None)
    del values

    def command(model, *more):
        program = str(Path(sys.executable).parent / "hkmeans-dask")
        options = ["-k", "30", "--max-features-per-cluster", "20", *more]
        return [program, "fit", source, tmp_path / model, *options]

    killed = command("killed", "--work-dir", work_dir)
    with subprocess.Popen(killed, stderr=subprocess.DEVNULL) as process:
        while not list(work_dir.glob("*/copy-*")):
            assert process.poll() is None
            time.sleep(0.001)
        process.kill()
    again = subprocess.run(killed, check=True, capture_output=True, text=True)
    rest = float(re.search(r"([\d.]+) MiB of it are", again.stderr)[1])
    assert 100 < rest < 290
    assert not list(work_dir.glob("*/copy-*"))
    subprocess.run(command("plain"), check=True, capture_output=True)
    same(
        *(HierarchicalKMeans.from_zarr(tmp_path / name) for name in ("killed", "plain"))
    )


def test_x_that_changes_after_it_was_copied_does_no_harm(tmp_path, monkeypatch):
    array, X = watched(VALUES.copy())
    original = fitting.keep_training_rows

    def changing(*args, **options):
        array.values[:] = 0
        return original(*args, **options)

    monkeypatch.setattr(fitting, "keep_training_rows", changing)
    same(HierarchicalKMeans(20).fit(X), EXPECTED)


# Damage


def flip(position):
    """Change a bit of one byte."""

    def flipped(path):
        data = bytearray(path.read_bytes())
        data[position] ^= 1
        path.write_bytes(data)

    return flipped


@pytest.mark.parametrize(
    "damage",
    [truncate, empty, flip(1000), flip(-1), Path.unlink],
    ids=["truncated", "empty", "a value", "a checksum", "gone"],
)
@pytest.mark.parametrize("stage", ["keep_training_rows", "label_features"])
def test_only_a_damaged_file_is_copied_again(tmp_path, monkeypatch, stage, damage):
    array, X = watched()
    model = HierarchicalKMeans(20, work_dir=tmp_path / "work")
    interrupt(monkeypatch, stage, model, X)
    damage(only(tmp_path / "work") / "copy-400-1.raw")
    gone = not (only(tmp_path / "work") / "copy-400-1.raw").exists()
    array.reads = 0
    said = "kiB of it are copied to" if gone else "copy-400-1.raw is damaged"
    with pytest.warns(UserWarning, match=said):
        same(model.fit(X), EXPECTED)
    assert array.reads == 1
    assert listed(only(tmp_path / "work")) == DONE


def test_any_byte_that_is_flipped_or_missing_is_noticed(tmp_path):
    values = np.zeros((7, 3), "f4")  # zeros are what is lost most easily
    copy = Copy(da.from_array(values, chunks=(7, 3)), OnDisk(tmp_path))
    copy.save(values, 0, 0)
    path = tmp_path / "copy-0-0.raw"
    good = path.read_bytes()
    assert len(good) == values.nbytes + 4
    for position in range(len(good)):
        path.write_bytes(good)
        flip(position)(path)
        with pytest.raises(Damaged, match="copy-0-0"):
            copy[:, :]
        path.write_bytes(good[:position])
        with pytest.raises(Damaged, match="copy-0-0"):
            copy[:, :]


# The other methods


@axes
def test_transform_takes_the_same_x_and_predict_refuses_it(tmp_path, feature_axis):
    X = stored(tmp_path, VALUES, feature_axis)
    model = HierarchicalKMeans(20, feature_axis=feature_axis).fit(X)
    expected = EXPECTED.transform(VALUES)
    expected = expected.T if feature_axis else expected
    assert_array_equal(model.transform(X).compute(), expected)
    if feature_axis == 0:
        with pytest.raises(ValueError, match=r"Store it .* X\.rechunk\(\(399, 12\)\)"):
            model.predict(X)
        assert_array_equal(model.predict(VALUES), EXPECTED.labels_)


@axes
def test_the_command_line(tmp_path, capsys, feature_axis):
    stored(tmp_path, VALUES, feature_axis)
    source, model, out = (str(tmp_path / name) for name in ("X.zarr", "model", "out"))
    command = ["fit", source, model, "-k", "20", "--feature-axis", str(feature_axis)]
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        assert commands.main(command) == 0
    printed = capsys.readouterr()
    assert "are copied to" in printed.err
    assert re.search(r"passes over the data +3\n", printed.out)
    same(HierarchicalKMeans.from_zarr(model), EXPECTED)
    assert commands.main(["predict", source, model, out]) == 2
    chunks = turned((399, 12), feature_axis)
    assert f"X.rechunk({chunks})" in capsys.readouterr().err

"""What comes in: refused before X is read, or taken as it is meant."""

import re
import tracemalloc
import warnings

import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
import zarr

from hkmeans_dask import HierarchicalKMeans
from hkmeans_dask.inputs import checks
from hkmeans_dask.inputs.arrays import (
    BLOCK_BYTES,
    JOINED_BYTES,
    read_features,
    read_whole_features,
)
from tests.strategies import Watched, nothing_computed, unread

axes = pytest.mark.parametrize("feature_axis", [0, 1])
X = np.random.default_rng(0).integers(-99, 99, size=(30, 4)).astype(np.float64)
MIB = 2**20

# Arrays of which no chunk was written do for what is told before reading.
pytestmark = pytest.mark.filterwarnings("ignore:.* are missing and are read as")


def stored(folder, values, chunks, **options):
    """Write a Zarr array and open it to read."""
    array = zarr.create_array(
        folder / "X.zarr",
        shape=values.shape,
        chunks=chunks,
        dtype=values.dtype,
        **options,
    )
    array[...] = values
    return zarr.open_array(folder / "X.zarr", mode="r")


def declared(folder, shape, chunks, dtype="f4", shards=None):
    """Open a Zarr array that was declared, but never written."""
    zarr.create_array(
        folder / "X.zarr", shape=shape, chunks=chunks, dtype=dtype, shards=shards
    )
    return zarr.open_array(folder / "X.zarr", mode="r")


def fitting(model, X):
    """Fit a model that must refuse; return what it said."""
    with pytest.raises((ValueError, TypeError)) as refused:
        model.fit(X)
    return refused.type, str(refused.value)


# parameters


@pytest.mark.parametrize("value", [-2, 0, 2.0, "3", True, None, [2], np.nan])
@pytest.mark.parametrize(
    ("name", "ending"),
    [
        ("n_clusters", ""),
        ("batch_size", ""),
        ("n_init", ""),
        ("max_no_improvement", ", or None"),
        ("max_features_per_cluster", ", or None"),
    ],
)
def test_counts_are_positive_integers(name, ending, value):
    if ending and value is None:
        value = -1
    model = HierarchicalKMeans(**{"n_clusters": 3, name: value})
    said = f"{name} should be an integer greater than 0{ending}. {value} was provided."
    assert fitting(model, unread((30, 4))) == (ValueError, said)


@pytest.mark.parametrize("value", [np.int64(3), np.uint8(3), 3])
def test_numpy_integers_are_integers(value):
    assert HierarchicalKMeans(value).fit(X).n_clusters_ == 3


@pytest.mark.parametrize(
    ("name", "value", "rule"),
    [
        ("init", "kmeans", "'k-means++' or 'random' or an array"),
        ("init", None, ""),
        ("init", 3, ""),
        ("init", np.zeros(4), ""),
        ("init", np.zeros((3, 5)), "(n_clusters, n_samples) = (3, 4)"),
        ("init", np.zeros((2, 4)), "(n_clusters, n_samples) = (3, 4)"),
        ("init", np.full((3, 4), np.nan), "NaN"),
        ("init", np.full((3, 4), -np.inf), "infinity"),
        ("init", np.full((3, 4), "a"), ""),
        ("allocation", "inertia!", "'size' or 'inertia'"),
        ("allocation", None, "'size'"),
        ("feature_axis", 2, "0 or 1"),
        ("feature_axis", None, "0 or 1"),
        ("feature_axis", True, "0 or 1"),
        ("random_state", "x", ""),
        ("random_state", -1, ""),
    ],
)
def test_unknown_options_are_refused_by_name(name, value, rule):
    kind, said = fitting(
        HierarchicalKMeans(**{"n_clusters": 3, name: value}), unread((30, 4))
    )
    assert kind is ValueError
    assert rule in said
    assert name in said or name == "random_state"  # scikit-learn's words: seed


# what X cannot be


def touching_nothing(kind, shape, dtype):
    """Make X of one kind whose values cannot be read, or do not matter."""
    if kind == "NumPy":
        return np.zeros(shape, dtype)
    return unread(shape, dtype)


@axes
@pytest.mark.parametrize("kind", ["NumPy", "dask"])
@pytest.mark.parametrize(
    ("shape", "dtype", "words"),
    [
        ((30,), "f8", "Expected 2D array, got 1D array instead"),
        ((30, 4, 2), "f8", r"(?i)dim 3|3D array"),
        ((0, 4), "f8", r"Found array with 0 feature\(s\)"),
        ((1, 4), "f8", r"Found array with 1 feature\(s\).*minimum of 2 is required"),
        ((30, 0), "f8", r"Found array with 0 sample\(s\).*minimum of 1 is required"),
        ((30, 4), "c8", "Complex data not supported"),
        ((30, 4), "c16", "Complex data not supported"),
        ((30, 4), "U3", "numeric"),
        ((30, 4), "S3", "numeric"),
        ((30, 4), "M8[s]", "number"),
        ((30, 4), "m8[s]", "number"),
        ((30, 4), [("a", "f4")], "numeric"),
    ],
    ids=str,
)
def test_arrays_that_cannot_be_clustered(kind, shape, dtype, words, feature_axis):
    array = touching_nothing(kind, shape[::-1] if feature_axis else shape, dtype)
    model = HierarchicalKMeans(2, feature_axis=feature_axis)
    refusal, said = fitting(model, array)
    assert refusal in (ValueError, TypeError)
    assert re.search(words, said)
    assert not hasattr(model, "labels_")
    if kind == "dask":
        assert "\n" not in said, "the command line gives one line"


@pytest.mark.parametrize("make", [scipy.sparse.csr_array, scipy.sparse.coo_matrix])
def test_sparse_arrays_are_refused(make):
    kind, said = fitting(HierarchicalKMeans(2), make(X))
    assert kind is TypeError
    assert re.search("Sparse data was passed.* but dense data is required", said)
    assert "toarray()" in said


def test_dask_arrays_of_sparse_blocks_are_refused():
    blocks = da.from_array(X, chunks=(10, 4)).map_blocks(scipy.sparse.csr_array)
    with nothing_computed():
        kind, said = fitting(HierarchicalKMeans(2), blocks)
    assert kind is TypeError
    assert "parse" in said


def test_dask_dataframes_are_refused_and_not_brought_here():
    frame = dd.from_pandas(pd.DataFrame(X), npartitions=3)
    with nothing_computed():
        kind, said = fitting(HierarchicalKMeans(2), frame)
    assert kind is TypeError
    assert "to_dask_array(lengths=True)" in said


@axes
def test_unknown_chunk_sizes_are_refused_with_the_remedy(feature_axis):
    blocks = unread((30, 4), chunks=(10, 4))
    with nothing_computed():
        kind, said = fitting(
            HierarchicalKMeans(2, feature_axis=feature_axis), blocks[blocks[:, 0] > 0]
        )
    assert kind is ValueError
    assert "unknown chunk sizes" in said
    assert "compute_chunk_sizes()" in said


@pytest.mark.parametrize("lazy", [False, True])
def test_objects_that_are_no_numbers_are_refused(lazy):
    objects = X.astype(object)
    objects[17, 2] = "seven"
    array = da.from_array(objects, chunks=(10, 4)) if lazy else objects
    kind, said = fitting(HierarchicalKMeans(2), array)
    assert kind is ValueError
    assert "could not convert string to float: 'seven'" in said


@pytest.mark.parametrize("value", [None, 5, "X", [[1, 2], [3]]])
def test_what_is_no_array_at_all_is_refused(value):
    kind, said = fitting(HierarchicalKMeans(2), value)
    assert kind is ValueError
    assert re.search("Expected 2D array|inhomogeneous", said)


@axes
@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("kind", ["NumPy", "dask", "Zarr"])
def test_fit_names_the_first_bad_feature(feature_axis, value, kind, tmp_path):
    bad = X.copy()
    bad[[9, 21], [3, 0]] = value, np.nan
    array = bad.T if feature_axis else bad
    if kind == "dask":
        array = da.from_array(array, chunks=(7, 3))
    elif kind == "Zarr":
        array = stored(tmp_path, array, (7, 3))
    said = "NaN" if np.isnan(value) else "inf"
    model = HierarchicalKMeans(2, feature_axis=feature_axis)
    with pytest.raises(ValueError, match=rf"{said}: the first is in feature 9\."):
        model.fit(array)


@axes
def test_another_number_of_features_or_samples_is_refused_unread(feature_axis):
    model = HierarchicalKMeans(3, feature_axis=feature_axis)
    model.fit(X.T if feature_axis else X)
    shape = (12, 31) if feature_axis else (31, 12)
    for array in (unread(shape), np.zeros(shape)):
        with pytest.raises(ValueError, match=r"X has 31 features, but .* 30 feat"):
            model.transform(array)
    other = (12, 4) if feature_axis else (4, 12)
    for array in (unread(other), np.zeros(other)):
        with pytest.raises(ValueError, match=r"X_red has 4 clusters, but .* 3 clu"):
            model.inverse_transform(array)
    if feature_axis == 0:
        for array in (unread((7, 5)), np.zeros((7, 5))):
            with pytest.raises(ValueError, match=r"X has 5 samples, but .* 4 samples"):
                model.predict(array)


# what X may be


def frozen(values):
    values.flags.writeable = False
    return values


ACCEPTED = {
    "list": X.tolist(),
    "tuples": tuple(map(tuple, X)),
    "int64": X.astype(int),
    "int8": X.astype(np.int8),
    "uint16": (X + 200).astype(np.uint16),
    "bool": X > 0,
    "float16": X.astype(np.float16),
    "float32": X.astype(np.float32),
    "float64": X,
    "big-endian": X.astype(">f4"),
    "big-endian int": X.astype(">i2"),
    "read-only": frozen(X.copy()),
    "Fortran": np.asfortranarray(X),
    "reversed": X[::-1, ::-1],
    "strided": np.repeat(X, 2, axis=1)[:, ::2],
    "objects": X.astype(object),
    "DataFrame": pd.DataFrame(X, columns=list("abcd")),
    "mixed DataFrame": pd.DataFrame(X, columns=list("abcd")).astype({"b": int}),
}


@axes
@pytest.mark.parametrize("given", ACCEPTED.values(), ids=ACCEPTED.keys())
def test_arrays_of_every_kind_are_taken(given, feature_axis):
    values = np.asarray(given).astype(np.float64)
    values = values.T if feature_axis else values
    features = read_features(given, feature_axis)
    assert features.in_memory
    blocks = features.blocks.compute(scheduler="synchronous")
    assert np.array_equal(blocks.astype(features.dtype), values)
    model = HierarchicalKMeans(3, feature_axis=feature_axis).fit(given)
    plain = HierarchicalKMeans(3).fit(values.astype(features.dtype))
    assert np.array_equal(model.labels_, plain.labels_)
    assert np.array_equal(model.cluster_centers_, plain.cluster_centers_)
    assert model.cluster_centers_.dtype == features.dtype


@axes
@pytest.mark.parametrize(
    "dtype", ["f2", "f4", ">f4", "f8", "i1", "i2", ">i2", "u8", "?", "O"]
)
@pytest.mark.parametrize(
    "chunks",
    [(7, 3), ((10, 0, 20), (4,)), ((0, 30), (0, 4, 0))],
    ids=["regular", "an empty block", "empty on both axes"],
)
def test_dask_arrays_of_every_kind_are_taken(dtype, chunks, feature_axis):
    values = (abs(X) // 50 if dtype == "?" else abs(X)).astype(dtype)
    array = da.from_array(values, chunks=chunks)
    array = array.T if feature_axis else array
    with nothing_computed():
        features = read_features(array, feature_axis)
    assert not features.in_memory
    assert features.in_place is None
    assert 0 not in features.blocks.chunks[0] + features.blocks.chunks[1]
    model = HierarchicalKMeans(3, feature_axis=feature_axis).fit(array)
    plain = HierarchicalKMeans(3).fit(values.astype(features.dtype))
    assert np.array_equal(model.labels_.compute(), plain.labels_)
    assert np.array_equal(model.cluster_centers_, plain.cluster_centers_)


@pytest.mark.parametrize(
    ("dtype", "arithmetic"),
    [
        *((dtype, "f4") for dtype in ("?", "i1", "u1", "i2", "u2", "f2", "f4", ">f4")),
        *((dtype, "f8") for dtype in ("i4", "u4", "i8", "u8", "f8", ">f8", ">i4")),
    ],
)
def test_arithmetic_loses_nothing_of_the_input(dtype, arithmetic):
    found = checks.arithmetic_dtype(np.dtype(dtype))
    assert found == np.dtype(arithmetic)
    assert found.isnative
    assert read_features(np.zeros((3, 2), dtype), 0).dtype == found
    assert read_features(da.zeros((3, 2), dtype=dtype), 0).dtype == found


@axes
def test_only_an_array_that_needs_no_copy_is_used_in_place(feature_axis):
    rows = np.ascontiguousarray(X, np.float32)  # features in rows, one after the other
    ready = rows.T if feature_axis else rows
    found = read_features(ready, feature_axis)
    assert found.in_place is not None
    assert np.shares_memory(found.in_place, rows)
    assert np.array_equal(found.in_place, rows)
    (block,) = dict(found.blocks.dask).values()
    assert np.shares_memory(block, rows)
    for other in (
        np.asfortranarray(rows),
        rows.astype(int),
        rows.astype(">f4"),
        np.repeat(rows, 2, axis=1)[:, ::2],
        np.frombuffer(b"x" + rows.tobytes(), np.float32, offset=1).reshape(rows.shape),
    ):
        other = other.T if feature_axis else other
        assert read_features(other, feature_axis).in_place is None


@axes
def test_a_fit_reads_every_block_twice_and_no_more(feature_axis):
    array = Watched(X)
    blocks = array.blocks((10, 4))
    HierarchicalKMeans(3, feature_axis=feature_axis).fit(
        blocks.T if feature_axis else blocks
    )
    assert array.reads == 2 * 3


# blocks of dask input


@axes
def test_chunks_along_samples_are_joined(feature_axis):
    array = da.from_array(X, chunks=((7, 3, 20), (1, 2, 1)))
    given = array.T if feature_axis else array
    with nothing_computed():
        features = read_features(given, feature_axis)
        apart = read_features(given, feature_axis, join=False)
    assert features.blocks.chunks == ((7, 3, 20), (4,))
    assert apart.blocks.chunks == array.chunks
    assert np.array_equal(features.blocks.compute(), X)


@axes
@pytest.mark.parametrize(("n_rows", "fits"), [(2**16, True), (2**16 + 1, False)])
def test_joining_ends_at_256_mib(n_rows, fits, feature_axis):
    assert JOINED_BYTES == 256 * MIB
    shape = (2**22, 2**9)
    array = da.zeros(shape, chunks=(n_rows, 2**8))
    given = array.T if feature_axis else array
    with nothing_computed():
        if fits:
            blocks = read_features(given, feature_axis).blocks
            assert blocks.chunks[0] == array.chunks[0]
            assert blocks.chunks[1] == (2**9,)
            return
        with pytest.raises(ValueError, match="chunked along samples") as refused:
            read_whole_features(given, feature_axis)
        # The rechunk that the message gives is accepted.
        remedy = re.search(r"X\.rechunk\(\((\d+), (\d+)\)\)", str(refused.value))
        chunks = tuple(map(int, remedy.groups()))
        rechunked = da.zeros(given.shape, chunks=chunks)
        assert read_features(rechunked, feature_axis).blocks.numblocks[1] == 1
        # Where blocks need not hold whole features nothing is joined or refused.
        apart = read_features(given, feature_axis, join=False).blocks
        assert apart.chunks == array.chunks


@axes
def test_neighbours_that_cannot_be_whole_features_are_joined_to_64_mib(feature_axis):
    rows = (2**19, 2**20)  # the tall ones decide: 4 MiB a column
    columns = (4, 5, 7, 1, 30, *[4] * 13)
    array = da.zeros((sum(rows), 99), dtype="f4", chunks=(rows, columns))
    given = array.T if feature_axis else array
    with nothing_computed():
        features = read_features(given, feature_axis)
    assert features.blocks.chunks == (rows, (16, 1, 30, 16, 16, 16, 4))
    assert not features.whole


def test_a_tall_block_of_whole_features_is_the_users_choice():
    array = da.zeros((2**20, 2**10), chunks=(2**17, 2**10))  # 1 GiB a block
    with nothing_computed():
        assert read_features(array, 0).blocks.chunks == array.chunks


@axes
def test_checking_takes_no_memory_however_many_features(feature_axis):
    shape = (4, 2_000_000) if feature_axis else (2_000_000, 4)
    array = da.zeros(shape, chunks=1_000_000)
    read_features(array[:9, :9], feature_axis)  # imports are over
    tracemalloc.start()
    read_features(array, feature_axis)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 5 * MIB


# blocks of Zarr input


@axes
@pytest.mark.parametrize(
    ("shape", "chunks", "shards", "dtype"),
    [
        ((10**6, 100), (1000, 100), None, "f4"),  # 168 chunks of 0.4 MB
        ((10**6, 100), (1000, 10), None, "f8"),
        ((10**6, 100), (999, 100), (9990, 100), "f4"),
        ((10**6, 1000), (10**5, 1000), None, "f4"),  # a chunk is 400 MB
        ((5000, 100), (1000, 100), None, "i2"),  # the whole array is 1 MB
        ((10**7, 3), (10**6, 3), (2 * 10**6, 3), "u1"),
    ],
)
def test_zarr_is_read_in_whole_chunks_or_shards_of_about_64_mb(
    shape, chunks, shards, dtype, feature_axis, tmp_path
):
    turn = slice(None, None, -1 if feature_axis else 1)
    shards = shards and shards[turn]
    array = declared(tmp_path, shape[turn], chunks[turn], dtype, shards)
    with nothing_computed():
        blocks = read_features(array, feature_axis).blocks
    assert blocks.shape == shape
    assert blocks.chunks[1] == (shape[1],)
    unit = (shards[turn] if shards else chunks)[0]
    height = blocks.chunks[0][0]
    assert set(blocks.chunks[0][:-1]) <= {height}
    assert height % unit == 0 or height == shape[0]
    width = shape[1] * np.dtype(dtype).itemsize
    assert height * width <= BLOCK_BYTES or height == unit
    assert (height + unit) * width > BLOCK_BYTES or height == shape[0]


@axes
def test_zarr_chunked_finely_along_samples_is_read_wide(feature_axis, tmp_path):
    shape, chunks = (10**6, 20_000), (10_000, 100)  # joined: 800 MB
    turn = slice(None, None, -1 if feature_axis else 1)
    array = declared(tmp_path, shape[turn], chunks[turn])
    with pytest.raises(ValueError, match=r"exceed 256 MiB\. Store .* X\.rechunk"):
        read_whole_features(array, feature_axis)
    wide = read_features(array, feature_axis).blocks
    assert wide.chunks == ((10_000,) * 100, (1600,) * 12 + (800,))
    blocks = read_features(array, feature_axis, join=False).blocks
    assert blocks.chunks[1] == (100,) * 200
    assert blocks.chunks[0][0] % 10_000 == 0
    assert blocks.chunks[0][0] * 100 * 4 <= BLOCK_BYTES


@axes
@pytest.mark.parametrize(
    "options",
    [{"zarr_format": 2}, {"zarr_format": 3}, {"shards": (14, 4)}],
    ids=["v2", "v3", "shards"],
)
@pytest.mark.parametrize("dtype", ["i2", "f2", "f4", "f8"])
def test_zarr_of_every_format_is_read(options, dtype, feature_axis, tmp_path):
    values = X.astype(dtype)
    array = stored(tmp_path, values, (7, 2), **options)
    features = read_features(array, feature_axis)
    expected = values.T if feature_axis else values
    assert np.array_equal(features.blocks.compute(), expected)
    assert not features.in_memory


@pytest.mark.parametrize(
    ("shape", "dtype", "words"),
    [
        ((30,), "f4", "Expected 2D array, got 1D array instead"),
        ((3, 4, 5), "f4", "Expected 2D array, got 3D array instead"),
        ((30, 4), "c8", "Complex data not supported"),
        ((1, 4), "f4", r"Found array with 1 feature\(s\)"),
        ((0, 4), "f4", r"Found array with 0 feature\(s\)"),
        ((30, 0), "f4", r"Found array with 0 sample\(s\)"),
        ((30, 4), "U3", "U3, which is no number type"),
    ],
    ids=str,
)
def test_zarr_arrays_that_cannot_be_clustered(shape, dtype, words, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Zarr's own, of string dtypes
        array = declared(tmp_path, shape, tuple(max(1, n) for n in shape), dtype)
    with nothing_computed():
        kind, said = fitting(HierarchicalKMeans(2), array)
    assert kind is ValueError
    assert re.search(words, said)


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_out_of_range_is_refused_by_its_value(seed):
    with pytest.raises(ValueError, match=f"random_state .* {seed} was given"):
        HierarchicalKMeans(2, random_state=seed).fit(np.zeros((4, 2)))

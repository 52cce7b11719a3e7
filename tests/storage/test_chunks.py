"""Chunks decoded where they belong: the same values as Zarr reads."""

import threading

import numpy as np
import pytest
import zarr
from hypothesis import given
from hypothesis import strategies as st
from numcodecs import LZ4, Blosc, Delta, Zstd
from zarr.codecs import BloscCodec, BytesCodec, GzipCodec, TransposeCodec, ZstdCodec

from hkmeans_dask.storage import contents
from hkmeans_dask.storage.chunks import Chunks

V3 = {
    "blosc": BloscCodec(cname="lz4"),
    "blosc, bits": BloscCodec(cname="zstd", shuffle="bitshuffle"),
    "zstd": ZstdCodec(checksum=True),
    "none": None,
}
V2 = {"blosc": Blosc(), "zstd": Zstd(), "none": None}
FORMATS = [(3, name) for name in V3] + [(2, name) for name in V2]
DTYPES = ("f4", "f8", "f2", "i2", "u1")


def written(store, zarr_format, name, values, chunks, **options):
    array = zarr.create_array(
        store,
        shape=values.shape,
        chunks=chunks,
        dtype=values.dtype,
        zarr_format=zarr_format,
        compressors=(V3 if zarr_format == 3 else V2)[name],
        overwrite=True,
        **options,
    )
    array[...] = values
    return zarr.open_array(array.store, path=array.path, mode="r")


def read(array, chosen=(slice(None), slice(None))):
    return Chunks.of(array).read(array.store, chosen, array.shape)


def some(shape, dtype="f4"):
    return np.random.default_rng(0).integers(1, 200, shape).astype(dtype)


@pytest.fixture(scope="module")
def arrays(tmp_path_factory):
    """Write arrays of every format and dtype, with chunks that do not divide them."""
    folder, found = tmp_path_factory.mktemp("arrays"), {}
    for number, (zarr_format, name) in enumerate(FORMATS):
        for dtype in DTYPES:
            store = folder / f"{number}-{dtype}"
            values = some((23, 10), dtype)
            found[zarr_format, name, dtype] = written(
                store, zarr_format, name, values, (5, 4)
            )
    return found


@given(st.sampled_from(FORMATS), st.sampled_from(DTYPES), st.data())
def test_any_selection_is_what_zarr_reads(arrays, form, dtype, data):
    array = arrays[*form, dtype]
    ends = [st.none() | st.integers(-n - 2, n + 2) for n in array.shape]
    chosen = tuple(slice(data.draw(end), data.draw(end)) for end in ends)
    found = read(array, chosen)
    wanted = np.asarray(array[...])[chosen]
    assert found.dtype == wanted.dtype
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize(("zarr_format", "name"), FORMATS)
def test_whole_chunks_are_read(zarr_format, name, tmp_path):
    values = some((24, 6))
    array = written(tmp_path / "x", zarr_format, name, values, (8, 6))
    found = read(array, (slice(8, 24), slice(None)))
    np.testing.assert_array_equal(found, values[8:24])


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_chunks_that_are_not_there_are_the_fill_value(zarr_format, tmp_path):
    values = some((12, 4))
    values[4:8] = 7
    array = written(tmp_path / "x", zarr_format, "blosc", values, (4, 4), fill_value=7)
    assert array.nchunks_initialized == 2
    found = read(array, (slice(2, 10), slice(1, 4)))
    np.testing.assert_array_equal(found, values[2:10, 1:])


def test_an_array_in_a_group_is_read(tmp_path):
    values = some((6, 3))
    group = zarr.create_group(tmp_path / "group")
    array = group.create_array("a/b", data=values, chunks=(2, 3))
    found = read(array)
    np.testing.assert_array_equal(found, values)


LEFT_TO_ZARR = {
    "gzip": {"compressors": GzipCodec()},
    "two compressors": {"compressors": (BloscCodec(), ZstdCodec())},
    "shards": {"shards": (8, 4)},
    "filters": {"filters": TransposeCodec(order=(1, 0))},
    "other bytes": {"serializer": BytesCodec(endian="big")},
    "format 2, lz4": {"zarr_format": 2, "compressors": LZ4()},
    "format 2, filters": {"zarr_format": 2, "filters": [Delta("i4")], "dtype": "i4"},
    "format 2, columns": {"zarr_format": 2, "order": "F"},
    "format 2, other bytes": {"zarr_format": 2, "dtype": ">f4"},
    "format 2, no fill value": {"zarr_format": 2, "fill_value": None},
    "text": {"dtype": "U3"},
}


@pytest.mark.parametrize("options", LEFT_TO_ZARR.values(), ids=LEFT_TO_ZARR)
@pytest.mark.filterwarnings("ignore:.*specification")  # of text, in format 3
def test_other_arrays_are_left_to_zarr(options, tmp_path):
    options = {"shape": (8, 4), "chunks": (4, 4), "dtype": "f4"} | options
    assert Chunks.of(zarr.create_array(tmp_path / "x", **options)) is None


@pytest.mark.parametrize(("zarr_format", "name"), FORMATS)
@pytest.mark.parametrize("wrong", [(3, 4), (9, 4)])
def test_a_chunk_of_another_size_is_refused(wrong, zarr_format, name, tmp_path):
    array = written(tmp_path / "x", zarr_format, name, some((4, 4)), (4, 4))
    written(tmp_path / "y", zarr_format, name, some(wrong), wrong)
    key = array.metadata.encode_chunk_key((0, 0))
    (tmp_path / "x" / key).write_bytes((tmp_path / "y" / key).read_bytes())
    chosen = (slice(None), slice(None))
    with pytest.raises(ValueError, match=r"bytes|reshape"):
        read(array, chosen)


def several(tmp_path):
    """Write an array of nine chunks, of which one is missing."""
    values = some((90, 4))
    values[30:40] = 0
    store = tmp_path / "slow"
    array = written(store, 3, "zstd", values, (10, 4), fill_value=7)
    (store / "c" / "3" / "0").unlink()
    values[30:40] = 7
    return values, array, store


def test_files_that_take_long_are_read_at_once(tmp_path, monkeypatch):
    """The first one tells; four others then wait for each other."""
    values, array, _ = several(tmp_path)
    barrier, stored, first = threading.Barrier(4), contents._stored, []

    def slowly(path):
        if first:
            barrier.wait(60)
        first.append(path)
        return stored(path)

    monkeypatch.setattr(contents, "_stored", slowly)
    monkeypatch.setattr(contents, "SLOW", 0)
    monkeypatch.setattr(contents, "AHEAD_BYTES", 4 * 10 * 4 * 4)
    found = read(array)
    assert np.array_equal(found, values)
    assert len(first) == 9


@pytest.mark.parametrize("ahead", [0, 10**6])
def test_a_damaged_chunk_is_an_error_whenever_it_is_read(tmp_path, monkeypatch, ahead):
    _, array, store = several(tmp_path)
    monkeypatch.setattr(contents, "SLOW", 0)
    monkeypatch.setattr(contents, "AHEAD_BYTES", ahead)
    (store / "c" / "5" / "0").write_bytes(b"no chunk")
    assert read(array, (slice(0, 50), slice(None))).shape == (50, 4)
    with pytest.raises(RuntimeError):
        read(array)

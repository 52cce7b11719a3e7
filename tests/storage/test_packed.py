"""Packed values mean what xarray makes of them, whoever wrote them."""

import warnings

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from numpy.testing import assert_allclose, assert_array_equal

from hkmeans_dask import HierarchicalKMeans
from hkmeans_dask.storage import listing, packed, source
from hkmeans_dask.storage.packed import Packing

ENCODINGS = {
    "scale": {"dtype": "i2", "scale_factor": 0.01},
    "scale of one byte": {"dtype": "u1", "scale_factor": 0.5, "add_offset": -20.0},
    "scale of float32": {"dtype": "i2", "scale_factor": np.float32(0.01)},
    "offset": {"dtype": "i2", "add_offset": 7.0},
    "integer offset": {"dtype": "i4", "add_offset": 7},
    "all": {
        "dtype": "i2",
        "scale_factor": 0.01,
        "add_offset": 5.0,
        "_FillValue": -32768,
    },
    "fill of i2": {"dtype": "i2", "_FillValue": -32768},
    "fill of u1": {"dtype": "u1", "_FillValue": 255},
    "fill of i4": {"dtype": "i4", "_FillValue": -9999},
    "fill of i8": {"dtype": "i8", "_FillValue": -(2**62)},
    "fill of f2": {"dtype": "f2", "_FillValue": -999.0},
    "fill of f4": {"dtype": "f4", "_FillValue": 1e20},
    "fill of f8": {"dtype": "f8", "_FillValue": -9999.0},
    "missing of i2": {"dtype": "i2", "missing_value": -1000},
    "missing of f4": {"dtype": "f4", "missing_value": -9999.0},
    "both": {"dtype": "i2", "missing_value": -1, "_FillValue": -1, "add_offset": 1.0},
    "scale of f4": {"dtype": "f4", "scale_factor": 0.5, "_FillValue": -1.0},
    "big endian": {"dtype": ">i2", "scale_factor": 0.01, "_FillValue": -32768},
    "unsigned": {
        "dtype": "i1",
        "_Unsigned": "true",
        "scale_factor": 0.5,
        "_FillValue": np.int8(-1),
    },
    "as it is": {"dtype": "f8"},
    "integers": {"dtype": "i2"},
}

VALUES = np.random.default_rng(0).uniform(0, 100, (30, 4))


def write(path, encoding, zarr_format, values=VALUES):
    """Let xarray write values, one of them missing where the encoding allows it."""
    values = values.copy()
    if {"_FillValue", "missing_value"} & set(encoding):
        values[3, 1] = np.nan
    named = xr.Dataset({"v": (("voxel", "time"), values)})
    encoding = {"v": encoding | {"chunks": (10, 4)}}
    how = {"encoding": encoding, "zarr_format": zarr_format, "consolidated": False}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", xr.SerializationWarning)  # of no _FillValue
        named.to_zarr(path, **how)
    return zarr.open_array(path / "v", mode="r")


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("name", ENCODINGS)
def test_values_and_dtype_are_those_of_xarray(tmp_path, name, zarr_format):
    array = write(tmp_path, ENCODINGS[name], zarr_format)
    expected = xr.open_zarr(tmp_path, consolidated=False)["v"]
    found = source.read(packed.decoded(array))
    assert found.dtype == expected.dtype
    assert_array_equal(found, expected.values)
    plain = name in ("as it is", "integers")
    assert (packed.packing_of(packed.decoded(array)) is None) == plain


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize(
    ("attributes", "missing"),
    [
        ({"missing_value": [-9, -8]}, [0, 1]),
        ({"missing_value": -9, "_FillValue": -8}, [0, 1]),
        ({"missing_value": "-9"}, [0]),
        ({"_FillValue": -7}, [2]),
        ({"_FillValue": None, "missing_value": -9.0}, [0]),
        ({"scale_factor": [2.0], "_FillValue": 0}, [3]),
    ],
)
def test_others_write_attributes_in_their_own_way(
    tmp_path, attributes, missing, zarr_format
):
    stored = np.array([[-9], [-8], [-7], [0], [5]])
    for dtype in ("i2", "f4"):
        array = zarr.create_array(
            tmp_path / dtype,
            data=stored.astype(dtype),
            attributes=attributes,
            zarr_format=zarr_format,
        )
        expected = stored * np.ravel(attributes.get("scale_factor", 1.0))[0]
        expected[missing] = np.nan
        assert_array_equal(source.read(packed.decoded(array)), expected)


def test_a_fill_value_in_decimals_is_that_of_float32(tmp_path):
    """1e20 is not a float32; the nearest one is meant."""
    stored = np.array([[1e20, 1.0]], np.float32)
    array = zarr.create_array(tmp_path, data=stored, attributes={"_FillValue": 1e20})
    assert_array_equal(source.read(packed.decoded(array)), [[np.nan, 1.0]])


def test_signs_are_those_of_the_attribute(tmp_path):
    stored = np.array([[-1, -2, 3]], np.int8)
    attributes = {"_Unsigned": "true", "missing_value": -1}
    array = zarr.create_array(tmp_path / "i", data=stored, attributes=attributes)
    assert_array_equal(source.read(packed.decoded(array)), [[np.nan, 254, 3]])
    attributes = {"_Unsigned": "false", "_FillValue": 255}
    stored = stored.view(np.uint8)
    array = zarr.create_array(tmp_path / "u", data=stored, attributes=attributes)
    assert_array_equal(source.read(packed.decoded(array)), [[np.nan, -2, 3]])
    assert Packing.of(array).dtype == np.float32


@pytest.mark.parametrize(
    "attributes", [{"scale_factor": "1 mm"}, {"_FillValue": "none="}]
)
def test_attributes_that_are_no_numbers_are_refused(tmp_path, attributes):
    array = zarr.create_array(tmp_path, data=np.ones((3, 2)), attributes=attributes)
    with pytest.raises(ValueError, match="which is no number"):
        packed.decoded(array)


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_the_values_as_stored_are_warned_of(tmp_path, zarr_format):
    array = write(tmp_path / "x", {"dtype": "i2", "_FillValue": -9}, zarr_format)
    with pytest.warns(UserWarning, match=r"packed values \(_FillValue=-9\)") as told:
        HierarchicalKMeans(3).fit(array)
    assert told[0].filename == __file__
    HierarchicalKMeans(3).fit(write(tmp_path / "y", {"dtype": "i2"}, zarr_format))


GIVEN_ON = {
    "da.from_zarr": da.from_zarr,
    "da.from_array": da.from_array,
    "inline": lambda array: da.from_zarr(array, inline_array=True),
    "inline, of more": lambda array: da.from_array(array, inline_array=True)[2:].T.T,
    "rows": lambda array: da.from_zarr(array)[np.arange(len(VALUES)) > 1],
    "other chunks": lambda array: da.from_zarr(array).rechunk((3, -1)),
    "transposed twice": lambda array: da.from_zarr(array).T.astype("f8").T,
    "twice": lambda array: da.concatenate([da.from_zarr(array)] * 2),
    "xarray.DataArray": lambda array: xr.DataArray(da.from_zarr(array)),
}


@pytest.mark.parametrize("given", GIVEN_ON.values(), ids=GIVEN_ON)
def test_the_values_that_dask_gives_as_stored_are_warned_of(tmp_path, given):
    X = given(write(tmp_path / "x", {"dtype": "i2", "_FillValue": -9}, 3))
    with pytest.warns(UserWarning, match=r"packed values \(_FillValue=-9\)") as told:
        HierarchicalKMeans(3).fit(X)
    assert [warning.filename for warning in told] == [__file__]
    HierarchicalKMeans(3).fit(given(write(tmp_path / "y", {"dtype": "i2"}, 3)))


@pytest.mark.parametrize(
    "decoded",
    [
        lambda path: da.from_zarr(zarr.open_array(path / "v")) * 0.5,
        lambda path: xr.open_zarr(path, consolidated=False)["v"],
        lambda path: xr.open_zarr(path, consolidated=False)["v"].data,
    ],
)
def test_values_that_were_decoded_are_not_warned_of(tmp_path, decoded):
    write(tmp_path, {"dtype": "i2", "scale_factor": 0.5}, 3)
    HierarchicalKMeans(3).fit(decoded(tmp_path))


def test_what_is_decoded_is_another_input(tmp_path):
    """A fit of float32 values as stored is not that of the decoded ones."""
    array = write(tmp_path, ENCODINGS["fill of f4"], 3)
    decoded = packed.decoded(array)
    assert listing.fingerprint(array) != listing.fingerprint(decoded)
    assert listing.fingerprint(decoded) == listing.fingerprint(packed.decoded(array))
    assert listing.tells_changes(decoded)


def test_blocks_are_decoded_when_they_are_read(tmp_path):
    array = write(tmp_path / "x", {"dtype": "i2", "scale_factor": 0.01}, 3)
    model = HierarchicalKMeans(3).fit(packed.decoded(array))
    expected = HierarchicalKMeans(3).fit(source.read(array) * 0.01)
    assert_array_equal(model.labels_, expected.labels_)
    means = model.transform(packed.decoded(array))
    assert_allclose(means.compute(), expected.transform(source.read(array) * 0.01))

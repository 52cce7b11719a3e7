"""Commands read packed values as what they mean."""

import re

import numpy as np
import pytest
import xarray as xr
import zarr
from numpy.testing import assert_allclose, assert_array_equal

from hkmeans_dask import HierarchicalKMeans
from tests.cli.test_commands import load, one_line, run

PACKED = {"dtype": "i2", "scale_factor": 0.01, "add_offset": 5.0, "_FillValue": -32768}
K = 8


def values():
    return np.random.default_rng(0).normal(size=(200, 6)) * 10


def write(path, array, zarr_format=3, **encoding):
    named = xr.Dataset({"v": (("voxel", "time"), array)})
    encoding = {"v": PACKED | {"chunks": (50, 6)} | encoding}
    named.to_zarr(path, encoding=encoding, zarr_format=zarr_format, consolidated=False)


def decoded(path):
    return xr.open_zarr(path, consolidated=False)["v"].values


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("zarr_format", [2, 3])
def test_packed_values_are_decoded_by_every_command(here, capsys, zarr_format):
    write("x", values(), zarr_format)
    expected = HierarchicalKMeans(K).fit(decoded("x"))
    run(f"fit x/v m -k {K} --feature-axis voxel --quiet")
    said = "x/v holds packed values, which are decoded: stored values * 0.01 + 5 as "
    told = one_line(capsys.readouterr().err, "note")
    assert told == f"{said}float64, -32768 is NaN."
    model = HierarchicalKMeans.from_zarr("m")
    assert_array_equal(model.labels_.compute(), expected.labels_)
    run("transform x/v m means --quiet")
    assert_allclose(load("means")[...], expected.transform(decoded("x")))
    run("predict x/v m labels --quiet")
    assert_array_equal(load("labels")[...], expected.labels_)
    run(f"plan x/v -k {K}")
    assert capsys.readouterr().err.count(said) == 3


def test_fill_values_are_refused_as_such(here, capsys):
    bad = values()
    bad[77, 3] = np.nan
    write("x", bad)
    write("good", values())
    run(f"fit good/v m -k {K} --quiet")
    capsys.readouterr()
    for command in (f"fit x/v n -k {K}", "transform x/v m n", "predict x/v m n"):
        run(f"{command} --quiet", 2)
        error = capsys.readouterr().err.strip().splitlines()[-1]
        assert "is in feature 77" in error
        assert error.endswith(
            "NaN are the fill values of packed data here, stored as -32768."
        )
    assert not (here / "n").exists()


def test_reduced_values_are_packed_only_if_they_say_so(here, capsys):
    write("x", values())
    run(f"fit x/v m -k {K} --quiet")
    run("transform x/v m means --quiet")
    capsys.readouterr()
    run("inverse-transform means m back --quiet")
    assert capsys.readouterr().err == ""
    labels = HierarchicalKMeans.from_zarr("m").labels_.compute()
    assert_array_equal(load("back")[...], load("means")[...][labels])
    write("packed", load("means")[...])
    run("inverse-transform packed/v m unpacked --quiet")
    assert "packed values" in capsys.readouterr().err
    assert_array_equal(load("unpacked")[...], decoded("packed")[labels])


def test_centers_and_weights_may_be_packed(here):
    write("x", values())
    write("centers", values()[:K])
    weights = np.arange(1.0, 201.0)
    zarr.create_array(
        "weights", data=weights.astype("i2"), attributes={"scale_factor": 0.5}
    )
    run(f"fit x/v m -k {K} --init centers/v --feature-weight weights --quiet")
    expected = HierarchicalKMeans(K, init=decoded("centers"))
    expected.fit(decoded("x"), feature_weight=weights * 0.5)
    found = HierarchicalKMeans.from_zarr("m")
    assert_array_equal(found.labels_.compute(), expected.labels_)
    assert found.inertia_ == pytest.approx(expected.inertia_)


@pytest.mark.parametrize("options", ["", " --workers 1"])
@pytest.mark.parametrize("level", ["fine", "coarse"])
def test_transform_takes_weights_as_fit_does(here, level, options):
    write("x", values())
    weights = np.arange(200) % 3
    zarr.create_array("weights", data=weights)
    run(f"fit x/v m -k {K} --quiet")
    given = f"x/v m o --feature-weight weights --level {level} --quiet"
    run(f"transform {given}{options}")
    model = HierarchicalKMeans.from_zarr("m")
    how = {"level": level, "feature_weight": weights}
    assert_array_equal(load("o")[...], model.transform(decoded("x"), **how))
    assert not np.array_equal(load("o")[...], model.transform(decoded("x")))


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        (np.ones(199), r"feature_weight.shape == \(199,\), expected \(200,\)!"),
        (np.full(200, -1.0), "Negative values in data passed to `feature_weight`"),
        (None, "weights is not there"),
    ],
)
def test_bad_weights_of_transform_are_one_line(here, capsys, weights, said):
    write("x", values())
    run(f"fit x/v m -k {K} --quiet")
    if weights is not None:
        zarr.create_array("weights", data=weights)
    capsys.readouterr()
    run("transform x/v m o --feature-weight weights --quiet", 2)
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert re.search(said, error)
    assert not (here / "o").exists()


def test_weights_are_not_overwritten(here, capsys):
    write("x", values())
    zarr.create_array("weights", data=np.ones(200))
    run(f"fit x/v m -k {K} --quiet")
    run("transform x/v m weights --feature-weight weights --overwrite --quiet", 2)
    assert "weights would replace weights" in capsys.readouterr().err
    assert load("weights").shape == (200,)


def test_a_fit_hangs_on_how_values_are_decoded(here):
    """One work_dir, the same stored values, then other attributes."""
    write("x", values())
    command = f"fit x/v m -k {K} --work-dir work --quiet --overwrite"
    run(command)
    before = HierarchicalKMeans.from_zarr("m").cluster_centers_
    zarr.open_array("x/v", mode="r+").attrs["scale_factor"] = 0.02
    run(command)
    after = HierarchicalKMeans.from_zarr("m").cluster_centers_
    assert_allclose(after - 5, 2 * (before - 5))


def test_workers_decode(here):
    write("x", values())
    run(f"fit x/v m -k {K} --quiet")
    run(f"fit x/v n -k {K} --quiet --workers 1")
    found = [HierarchicalKMeans.from_zarr(name).labels_.compute() for name in "mn"]
    assert_array_equal(*found)


def sparse(path, kind):
    group = zarr.create_group(path).create_group("layers/counts")
    group.attrs.update({"encoding-type": kind} if kind else {})
    for name in ("data", "indices", "indptr"):
        group.create_array(name, data=np.arange(9))


@pytest.mark.parametrize("kind", ["csr_matrix", "csc_matrix", ""])
def test_sparse_matrices_are_called_so(here, capsys, kind):
    sparse("ad", kind)
    for place in ("ad --component layers/counts", "ad/layers/counts"):
        run(f"fit {place} m -k 3", 2)
        said = one_line(capsys.readouterr().err)
        assert said.startswith("ad/layers/counts is a sparse matrix")
        assert "Store it as a dense array" in said


@pytest.mark.filterwarnings("ignore")  # of Zarr, that these are in no standard
@pytest.mark.parametrize("dtype", ["M8[s]", "m8[s]", "U2", "S2", "f4,i2", "c8"])
def test_what_is_no_number_is_named(here, capsys, dtype):
    zarr.create_array("x", data=np.zeros((9, 2), dtype))
    for place in ("x m -k 3", "good m -k 9 --init x"):
        zarr.create_array("good", data=np.ones((9, 2)), overwrite=True)
        run(f"fit {place} --quiet", 2)
        assert f"has dtype {np.dtype(dtype)}" in one_line(capsys.readouterr().err)

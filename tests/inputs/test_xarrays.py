"""DataArrays in, DataArrays out: dimensions, coordinates, laziness, errors."""

import os
import pickle
import subprocess
import sys

import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr
from sklearn import config_context
from sklearn.base import clone
from sklearn.exceptions import ConvergenceWarning
from xarray.testing import assert_equal, assert_identical

from hkmeans_dask import HierarchicalKMeans
from hkmeans_dask.cli.commands import main
from tests.strategies import Watched, nothing_computed

GROUP = np.array([2, 0, 1, 1, 0, 2, 2, 0])
"""Which of three far values each of eight voxels has."""

VALUES = 100.0 * GROUP + np.array([[0.0], [1.0], [3.0]])
"""(3 times, 8 voxels): the voxels of a group are equal."""


def labelled(values=VALUES):
    """Eight named voxels at three times, with coordinates of every kind."""
    return xr.DataArray(
        values,
        dims=("time", "voxel"),
        coords={
            "time": [0.0, 2.5, 5.0],
            "run": ("time", ["a", "a", "b"]),
            "voxel": list("stuvwxyz"),
            "depth": ("voxel", np.arange(8)),
            "weight": (("time", "voxel"), np.ones((3, 8))),
            "subject": 7,
        },
        name="bold",
        attrs={"units": "K"},
    )


def volume():
    """Give a series of 2 x 2 x 2 volumes, and the same with its voxels stacked."""
    series = xr.DataArray(
        VALUES.reshape(3, 2, 2, 2),
        dims=("time", "x", "y", "z"),
        coords={"time": [0.0, 2.5, 5.0], "x": [-1.5, 1.5], "y": [3, 4]},
    )
    return series, series.stack(voxel=("x", "y", "z"))


def expected_labels(model):
    """Find the number of each group: first values of centers are 0, 100, 200."""
    return np.argsort(model.cluster_centers_[:, 0])[GROUP]


def numbered(X):
    """Give labels that are numbers: text has no settled form in Zarr 3."""
    return X.drop_vars(["run", "weight"]).assign_coords(voxel=np.arange(8) * 10)


def as_dask(X):
    return X.chunk(time=2, voxel=3)


kinds = pytest.mark.parametrize("kind", [lambda X: X, as_dask], ids=["NumPy", "dask"])
orders = pytest.mark.parametrize(
    ("dims", "feature_axis"),
    [
        (("time", "voxel"), "voxel"),
        (("voxel", "time"), "voxel"),
        (("time", "voxel"), 1),
        (("voxel", "time"), 0),
    ],
)


def fitted(feature_axis="voxel", X=None, **parameters):
    model = HierarchicalKMeans(3, feature_axis=feature_axis, **parameters)
    return model.fit(labelled() if X is None else X)


@kinds
@orders
def test_round_trip(kind, dims, feature_axis):
    X = kind(labelled().transpose(*dims))
    model = fitted(feature_axis, X)
    reduced = model.transform(X)
    back = model.inverse_transform(reduced)

    assert isinstance(model.labels_, da.Array if X.chunks else np.ndarray)
    assert model.sizes_.sum() == 8
    order = np.argsort(reduced.isel(time=0).values)
    numbers = pd.Index(range(3))
    columns = {
        "cluster_size": ("cluster", model.sizes_),
        "parent": ("cluster", model.parents_),
    }
    means = np.empty((3, 3))
    means[:, order] = 100.0 * np.arange(3) + np.array([[0.0], [1.0], [3.0]])
    samples = labelled().coords
    assert_identical(
        reduced.compute(),
        xr.DataArray(
            means,
            dims=("time", "cluster"),
            coords={
                "time": samples["time"].variable,
                "run": samples["run"].variable,
                "subject": 7,
                "cluster": numbers,
                **columns,
            },
            name="bold",
            attrs={"units": "K"},
        ).transpose(*[{"voxel": "cluster"}.get(dim, dim) for dim in dims]),
    )
    assert np.array_equal(model.sizes_[order], [3, 2, 3])
    # Equal voxels are their own means; coordinates of both dimensions are not kept.
    assert_identical(back.compute(), X.drop_vars("weight").compute())
    for result in (reduced, back):
        assert isinstance(result.data, da.Array if X.chunks else np.ndarray)


@kinds
@orders
def test_labels_are_on_the_feature_coordinate(kind, dims, feature_axis):
    X = kind(labelled().transpose(*dims))
    model = fitted(feature_axis, X)
    labels = model.labels_dataarray()
    voxel = X.coords["voxel"].variable
    depth = X.coords["depth"].variable
    coords = {"voxel": voxel, "depth": depth}
    expected = expected_labels(fitted())
    assert_identical(
        labels.compute(),
        xr.DataArray(
            expected.astype("i4"), dims="voxel", coords=coords, name="labels"
        ).compute(),
    )
    assert isinstance(labels.data, da.Array if X.chunks else np.ndarray)
    assert_identical(model.labels_dataarray(X), labels)
    if feature_axis != 1:
        assert_identical(model.predict(X), labels)
        some = X.isel(voxel=[1, 6])
        assert_identical(model.predict(some).compute(), labels[[1, 6]].compute())
        big = model.predict(X, level="coarse")
        assert np.array_equal(big, model.parents_[labels])


@kinds
def test_stacked_voxels_unstack_to_a_volume(kind):
    series, stacked = volume()
    stacked = kind(stacked)
    model = fitted(X=stacked)
    labels = model.labels_dataarray().unstack("voxel")
    assert labels.dims == ("x", "y", "z")
    assert np.array_equal(labels, expected_labels(model).reshape(2, 2, 2))
    assert labels.coords["x"].values.tolist() == [-1.5, 1.5]
    reduced = model.transform(stacked)
    assert reduced.dims == ("time", "cluster")
    back = model.inverse_transform(reduced).unstack("voxel")
    assert_equal(back.drop_vars("z").compute(), series)
    assert isinstance(back.data, da.Array if stacked.chunks else np.ndarray)


def test_a_masked_volume_unstacks_with_holes():
    _, stacked = volume()
    inside = stacked.isel(voxel=[0, 1, 2, 5, 7])
    labels = fitted(X=inside).labels_dataarray().unstack("voxel", fill_value=-1)
    assert labels.dtype == np.int32
    assert (labels.values.ravel() >= 0).tolist() == [
        True, True, True, False, False, True, False, True
    ]  # fmt: skip


@orders
def test_the_same_model_as_of_plain_arrays(dims, feature_axis):
    rng = np.random.default_rng(0)
    values = rng.normal(size=(60, 5))
    X = xr.DataArray(values, dims=("voxel", "time")).transpose(*dims)
    model = HierarchicalKMeans(9, feature_axis=feature_axis).fit(X)
    plain = HierarchicalKMeans(9).fit(values)
    assert np.array_equal(model.labels_, plain.labels_)
    assert np.array_equal(model.cluster_centers_, plain.cluster_centers_)
    plan = HierarchicalKMeans(9, feature_axis=feature_axis).plan(X)
    assert list(plan.rows()) == list(HierarchicalKMeans(9).plan(values).rows())


def test_dask_is_not_computed():
    read = Watched(VALUES)
    X = labelled(read.blocks((2, 3)))
    model = fitted()
    with nothing_computed():
        reduced = model.transform(X)
        results = [
            reduced,
            model.transform(X, level="coarse"),
            model.inverse_transform(reduced),
            model.predict(X),
            model.plan(X),
        ]
    assert read.reads == 0
    assert all(isinstance(result.data, da.Array) for result in results[:-1])
    fitted(X=X)
    assert read.reads > 0


def test_big_clusters_have_a_dimension_of_their_own():
    model = HierarchicalKMeans(4, feature_axis="voxel")
    X = xr.DataArray(np.arange(24.0).reshape(2, 12) ** 2, dims=("time", "voxel"))
    coarse = model.fit(X).transform(X, level="coarse")
    assert coarse.dims == ("time", "coarse_cluster")
    assert np.array_equal(coarse.cluster_size, model.coarse_sizes_)
    fine = model.transform(X)
    # The mean of a big cluster is the mean of its small ones, by size.
    weighted = (fine * fine.cluster_size).groupby("parent").sum()
    assert np.allclose(weighted / model.coarse_sizes_, coarse)


def test_other_samples_bring_their_own_coordinates():
    subjects = labelled().isel(time=[0, 2]).rename(time="subjects")
    reduced = fitted().transform(subjects)
    assert reduced.dims == ("subjects", "cluster")
    back = fitted().inverse_transform(reduced)
    assert_identical(back, subjects.drop_vars("weight"))


def test_without_coordinates_there_are_only_dimensions():
    X = xr.DataArray(VALUES, dims=("time", "voxel"))
    model = fitted(X=X)
    assert dict(model.labels_dataarray().coords) == {}
    assert_identical(model.inverse_transform(model.transform(X)), X)


def test_scaling_and_fit_transform():
    model = HierarchicalKMeans(3, feature_axis="voxel", scaling=True)
    reduced = model.fit_transform(labelled())
    assert np.linalg.norm(reduced) == pytest.approx(np.linalg.norm(VALUES))
    assert np.allclose(model.inverse_transform(reduced), VALUES)
    assert isinstance(model.fit_predict(labelled()), np.ndarray)


def test_clusters_can_be_clustered():
    X = xr.DataArray(np.arange(60.0).reshape(3, 20), dims=("time", "voxel"))
    reduced = HierarchicalKMeans(9, feature_axis="voxel").fit_transform(X)
    again = HierarchicalKMeans(3, feature_axis="cluster").fit(reduced)
    assert again.transform(reduced).sizes == {"time": 3, "cluster": 3}
    back = again.inverse_transform(again.transform(reduced))
    assert back.sizes == {"time": 3, "cluster": 9}
    assert np.array_equal(back.cluster_size, reduced.cluster_size)


# set_output, parameters, copies


@pytest.mark.parametrize("container", ["pandas", "polars"])
def test_set_output_gives_its_container_with_names(container):
    X = labelled()
    model = fitted(1, X)
    plain = model.transform(X)
    named = model.set_output(transform=container).transform(X)
    assert type(named).__module__.startswith(container)
    assert list(named.columns) == [f"hierarchicalkmeans{i}" for i in range(3)]
    assert np.array_equal(named.to_numpy(), plain)
    with pytest.raises(TypeError, match="X is lazy"):
        model.transform(as_dask(X))
    with config_context(transform_output=container):
        assert isinstance(fitted().transform(X), xr.DataArray)


def test_names_stay_parameters():
    model = fitted()
    assert model.get_params()["feature_axis"] == "voxel"
    assert clone(model).feature_axis == "voxel"
    assert hasattr(model, "predict")
    assert not hasattr(model, "set_output")
    assert "feature_axis='voxel'" in repr(model)


def test_pickles_keep_the_coordinates():
    _, stacked = volume()
    model = fitted(X=stacked)
    copy = pickle.loads(pickle.dumps(model))
    assert_identical(copy.labels_dataarray(), model.labels_dataarray())


def test_stored_models_want_coordinates_again(tmp_path):
    X = labelled()
    model = fitted()
    model.to_zarr(tmp_path / "model")
    loaded = HierarchicalKMeans.from_zarr(tmp_path / "model")
    assert loaded.feature_axis == "voxel"
    with pytest.raises(ValueError, match=r"labels_dataarray\(X\), or fit again"):
        loaded.labels_dataarray()
    assert_identical(loaded.labels_dataarray(X), model.labels_dataarray())
    assert_identical(loaded.predict(X), model.predict(X))
    reduced = loaded.transform(X)
    assert_identical(reduced, model.transform(X))
    back = loaded.inverse_transform(reduced)
    assert_identical(back, X.drop_vars(["weight", "voxel", "depth"]))


def test_a_fit_of_plain_arrays_takes_dataarrays_later():
    model = HierarchicalKMeans(3, feature_axis=1).fit(VALUES)
    reduced = model.transform(labelled())
    back = model.inverse_transform(reduced)
    assert back.dims == ("time", "feature")
    assert np.array_equal(back, VALUES)
    assert model.labels_dataarray(labelled()).dims == ("voxel",)


def test_results_share_no_values_with_the_model():
    model = fitted()
    labels, reduced = model.labels_dataarray(), model.transform(labelled())
    labels[:] = 9
    reduced.cluster_size[:] = 9
    assert model.labels_.max() == 2
    assert model.sizes_.sum() == 8


def test_a_later_fit_forgets_the_coordinates():
    model = fitted(1)
    with pytest.raises(ValueError, match="fit did not get a DataArray"):
        model.fit(VALUES).labels_dataarray()


# errors


@pytest.mark.parametrize("method", ["fit", "plan", "transform", "predict"])
def test_a_name_wants_a_dataarray(method):
    with pytest.raises(TypeError, match=r"'voxel' names .* X is a ndarray. Pass"):
        getattr(fitted(), method)(VALUES)


def test_the_text_of_a_number_is_a_name():
    with pytest.raises(TypeError, match=r"'0' names .* or 0 or 1 as feature_axis"):
        HierarchicalKMeans(3, feature_axis="0").fit(VALUES)


def test_a_name_wants_a_dataarray_to_go_back():
    with pytest.raises(TypeError, match=r"'voxel' names .* X is a list. Pass"):
        fitted().inverse_transform([[1.0, 2.0, 3.0]])


BAD = {
    "no such dimension": (
        lambda X: X.rename(voxel="pixel"),
        r"\('time', 'pixel'\), and none is 'voxel' \(feature_axis",
    ),
    "volumes": (lambda X: volume()[0], r"\('time', 'x', 'y', 'z'\).*X\.stack\(voxel="),
    "one axis": (lambda X: X[0], r"\('voxel',\).*X\.expand_dims\('sample'\)"),
    "NaN": (lambda X: X.where(X.voxel != "u"), r"NaN: the first is in feature 2\."),
    "one voxel": (lambda X: X[:, :1], r"Found array with 1 feature\(s\)"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_x(case):
    spoil, words = BAD[case]
    with pytest.raises(ValueError, match=words):
        fitted(X=spoil(labelled()))


def test_parameters_are_checked_first():
    X = xr.DataArray(VALUES, dims=("time", "voxel"))
    with pytest.raises(ValueError, match="feature_axis should be 0 or 1 or the name"):
        HierarchicalKMeans(3, feature_axis=2).fit(X)
    with pytest.raises(ValueError, match="n_clusters should be"):
        HierarchicalKMeans(0, feature_axis="pixel").plan(X)


def test_other_features_are_refused():
    model, X = fitted(), labelled()
    words = r"X has \['z'\] at position 0 of 'voxel', but the model \['s'\].*reset"
    for method in (model.transform, model.labels_dataarray):
        with pytest.raises(ValueError, match=words):
            method(X[:, ::-1])
    assert model.transform(X[:, ::-1].reset_index("voxel", drop=True)).shape == (3, 3)
    for method in (model.transform, model.labels_dataarray):
        with pytest.raises(ValueError, match=r"X has 7 features, but .* expecting 8"):
            method(X[:, :7])
    _, stacked = volume()
    with pytest.raises(ValueError, match=r"X has \[\(1\.5, 4, 1\)\] at position 0"):
        fitted(X=stacked).transform(stacked[:, ::-1])


def test_other_clusters_are_refused():
    model = fitted()
    reduced = model.transform(labelled())
    with pytest.raises(ValueError, match=r"X has \[2\] at position 0 of 'cluster'"):
        model.inverse_transform(reduced[:, ::-1])
    with pytest.raises(ValueError, match="X_red has 2 clusters"):
        model.inverse_transform(reduced[:, :2])
    with pytest.raises(ValueError, match="none is 'cluster'"):
        model.inverse_transform(reduced.rename(cluster="group"))
    coarse = model.transform(labelled(), level="coarse")
    with pytest.raises(ValueError, match="none is 'cluster'"):
        model.inverse_transform(coarse)


def test_a_name_that_is_taken_is_refused():
    X = labelled().rename(time="cluster")
    with pytest.raises(ValueError, match=r"'cluster' is .*X\.rename\(cluster='sample"):
        fitted(X=X).transform(X)
    reduced = fitted().transform(labelled()).rename(time="voxel")
    with pytest.raises(ValueError, match="'voxel' is the dimension of X's samples"):
        fitted().inverse_transform(reduced)


def test_labels_of_no_dataarray_are_refused():
    with pytest.raises(
        TypeError, match=r"X should be an xarray\.DataArray\. A ndarray"
    ):
        HierarchicalKMeans(3).fit(VALUES.T).labels_dataarray(VALUES.T)


# xarray is optional


def python(code):
    ran = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


WORK = """
import numpy as np
from hkmeans_dask import HierarchicalKMeans
X = np.arange(40.0).reshape(20, 2)
model = HierarchicalKMeans(4).fit(X)
model.inverse_transform(model.transform(X))
model.predict(X)
"""


def test_the_package_does_not_import_it():
    code = "import hkmeans_dask, sys; print('xarray' in sys.modules)"
    assert python(code) == "False\n"


def test_without_it_all_else_works():
    block = "import sys; sys.modules['xarray'] = None\n"
    ask = "try: model.labels_dataarray()\nexcept ImportError as error: print(error)"
    said = python(block + WORK + ask)
    assert "pip install 'hkmeans_dask[xarray]'" in said


# the command line


@pytest.fixture(params=[2, 3])
def stored(request, tmp_path, monkeypatch):
    """Write a Dataset with xarray, in both formats of Zarr, and work beside it."""
    monkeypatch.chdir(tmp_path)
    dataset = numbered(labelled()).to_dataset()
    options = {"consolidated": False, "zarr_format": request.param}
    dataset.to_zarr("scan.zarr", **options)
    return tmp_path


def run(command):
    assert main(command.split()) == 0, command


@pytest.mark.parametrize("axis", ["1", "voxel"])
def test_commands_read_what_xarray_wrote(stored, axis):
    run(f"fit scan.zarr model -k 3 --component bold --feature-axis {axis}")
    model = HierarchicalKMeans.from_zarr("model")
    assert model.feature_axis == 1
    assert np.array_equal(np.asarray(model.labels_), fitted().labels_)
    run("transform scan.zarr model means --component bold")
    run("inverse-transform means model back")
    assert np.array_equal(zarr.open_array("back", mode="r")[:], VALUES)
    opened = xr.open_zarr("scan.zarr", consolidated=False)["bold"]
    expected = fitted(X=numbered(labelled())).labels_dataarray()
    assert_identical(model.labels_dataarray(opened).compute(), expected)


def test_plan_takes_a_name(stored, capsys):
    for axis in ("voxel", "1", "0"):
        run(f"plan scan.zarr -k 2 --component bold --feature-axis {axis}")
    by_name, by_number, other = capsys.readouterr().out.split("passes")[1:]
    assert by_name == by_number != other


def test_models_of_named_axes_serve_the_commands(stored, capsys):
    X = numbered(labelled())
    model = fitted(X=X)
    model.to_zarr("model")
    run("transform scan.zarr model means --component bold")
    reduced = model.transform(X)
    assert np.array_equal(zarr.open_array("means", mode="r")[:], reduced)
    run("predict scan.zarr model labels --component bold")
    assert np.array_equal(zarr.open_array("labels", mode="r")[:], model.labels_)
    run("inverse-transform means model back")
    assert np.array_equal(zarr.open_array("back", mode="r")[:], VALUES)
    assert names("back") == ("time", "voxel")
    zarr.create_array("plain", data=zarr.open_array("means", mode="r")[:])
    assert main(["inverse-transform", "plain", "model", "other"]) == 2
    assert "is named 'cluster'; their names: none." in capsys.readouterr().err
    reduced.to_dataset().to_zarr("reduced", consolidated=False)
    run("inverse-transform reduced model back --component bold --overwrite")
    assert np.array_equal(zarr.open_array("back", mode="r")[:], VALUES)


def names(path):
    return zarr.open_array(path, mode="r").metadata.dimension_names


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        ("transform scan.zarr model out --component bold", ("time", "cluster")),
        ("transform scan.zarr model out --component bold --level coarse", None),
        ("predict scan.zarr model out --component bold", ("voxel",)),
        ("transform plain model out", ("sample", "cluster")),
        ("predict plain model out", ("feature",)),
        ("transform taken model out", ("cluster_", "cluster")),
        ("inverse-transform reduced model out", ("sample", "feature")),
        ("inverse-transform reduced named out", ("sample", "voxel")),
    ],
)
def test_what_commands_write_has_names_and_is_opened(stored, command, expected):
    expected = expected or ("time", "coarse_cluster")
    model = HierarchicalKMeans(3, feature_axis=1).fit(VALUES)
    model.to_zarr("model")
    model.set_params(feature_axis="voxel").to_zarr("named")
    zarr.create_array("plain", data=VALUES)
    zarr.create_array("taken", data=VALUES, dimension_names=("cluster", None))
    means = model.set_params(feature_axis=1).transform(VALUES)
    zarr.create_array("reduced", data=means, dimension_names=(None, "cluster"))
    run(command)
    assert names("out") == expected
    run(f"{command} --output-component result --overwrite")
    for options in ({}, {"consolidated": True}, {"consolidated": False}):
        opened = xr.open_zarr("out", **options)["result"]
        assert opened.dims == expected
        assert opened.attrs["status"] == "complete"
        assert np.array_equal(opened, zarr.open_array("out/result", mode="r")[:])


@pytest.mark.parametrize("name", ["", "a/b", "..", "cluster", "time"])
def test_names_that_xarray_does_not_find_as_data_are_refused(stored, capsys, name):
    HierarchicalKMeans(3, feature_axis=1).fit(VALUES).to_zarr("model")
    command = "transform scan.zarr model out --component bold".split()
    assert main([*command, f"--output-component={name}"]) == 2
    assert repr(name) in capsys.readouterr().err
    assert not os.path.exists("out")


@pytest.mark.parametrize("balance", [0.0, 0.5])
@pytest.mark.parametrize("init", ["k-means++", VALUES.T[:5]])
@pytest.mark.parametrize("refine", [0, 1])
def test_models_are_opened(tmp_path, init, refine, balance):
    model = HierarchicalKMeans(5, init, refine=refine, balance=balance)
    with pytest.warns(ConvergenceWarning):
        model.fit(VALUES.T).to_zarr(tmp_path / "model")
    for options in ({}, {"consolidated": True}, {"consolidated": False}):
        opened = xr.open_zarr(tmp_path / "model", **options)
        assert opened["cluster_centers"].dims == ("cluster", "sample")
        assert np.array_equal(opened["labels"], model.labels_)
        assert opened["labels"].dims == ("feature",)
    loaded = HierarchicalKMeans.from_zarr(tmp_path / "model")
    assert np.array_equal(loaded.labels_, model.labels_)


def test_names_that_are_not_there_are_refused(stored, capsys):
    command = "fit scan.zarr model -k 3 --component bold --feature-axis pixel"
    assert main(command.split()) == 2
    assert "is named 'pixel'; their names: time, voxel." in capsys.readouterr().err


def test_arrays_without_a_name_stay_without():
    values = np.random.default_rng(0).normal(size=(60, 5))
    bold = xr.DataArray(values, dims=("voxel", "time")).chunk(voxel=20)
    model = HierarchicalKMeans(4, feature_axis="voxel").fit(bold)
    means = model.transform(bold)
    assert means.name is None
    assert model.inverse_transform(means).name is None

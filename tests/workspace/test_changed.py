"""A finished fit is given back only for the X that it was made of.

Right values are those of fits without a `work_dir`.
"""

import dask.array as da
import numpy as np
import pytest
import xarray as xr
import zarr
from numpy.testing import assert_array_equal
from zarr.storage import ZipStore

from hkmeans_dask import HierarchicalKMeans
from hkmeans_dask.inputs.fit_key import is_known
from hkmeans_dask.kmeans import sampling
from hkmeans_dask.kmeans.axes import train_along
from hkmeans_dask.workspace.files import OnDisk
from tests.resuming import interrupt, only, same
from tests.strategies import Watched

OLD = np.random.default_rng(0).normal(size=(400, 6))
NEW = np.random.default_rng(1).normal(size=(400, 6))


def write(place, values):
    zarr.create_array(
        place, shape=values.shape, chunks=(100, 6), dtype="f8", overwrite=True
    )[...] = values


def zarr_array(folder, values):
    write(folder / "x", values)
    return zarr.open_array(folder / "x", mode="r")


def from_zarr(folder, values):
    write(folder / "x", values)
    return da.from_zarr(str(folder / "x"))


def more_than_from_zarr(folder, values):
    return from_zarr(folder, values) * 1


def open_zarr(folder, values):
    data = xr.DataArray(values, dims=("voxel", "time"), name="bold")
    data.to_dataset().to_zarr(folder / "x", mode="w", consolidated=False)
    return xr.open_zarr(folder / "x", consolidated=False)["bold"].chunk(voxel=100)


def zip_file(folder, values):
    (folder / "x.zip").unlink(missing_ok=True)
    with ZipStore(folder / "x.zip", mode="w") as store:
        write(store, values)
    return zarr.open_array(ZipStore(folder / "x.zip", mode="r"))


def in_memory_of_fsspec(folder, values):
    write("memory://changed/x", values)
    return zarr.open_array("memory://changed/x", mode="r")


def of_a_name(folder, values):
    """As a graph that reads what is not in it."""
    return da.from_array(Watched(values), (100, 6), name="the same", asarray=False)


KINDS = [
    zarr_array,
    from_zarr,
    more_than_from_zarr,
    open_zarr,
    zip_file,
    in_memory_of_fsspec,
    of_a_name,
]


def model_for(folder, **options):
    return HierarchicalKMeans(9, work_dir=folder / "work", **options)


def expected(values):
    return HierarchicalKMeans(9).fit(da.from_array(values, (100, 6)))


@pytest.mark.filterwarnings("ignore:X has changed since")
@pytest.mark.filterwarnings("ignore:Duplicate name:UserWarning:zipfile")
@pytest.mark.parametrize("kind", KINDS, ids=lambda f: f.__name__)
def test_values_that_are_overwritten_are_fitted_anew(kind, tmp_path):
    same(model_for(tmp_path).fit(kind(tmp_path, OLD)), expected(OLD))
    same(model_for(tmp_path).fit(kind(tmp_path, OLD)), expected(OLD))
    same(model_for(tmp_path).fit(kind(tmp_path, NEW)), expected(NEW))
    same(model_for(tmp_path).fit(kind(tmp_path, NEW)), expected(NEW))
    same(model_for(tmp_path).fit(kind(tmp_path, OLD)), expected(OLD))


def test_a_change_is_told(tmp_path):
    model_for(tmp_path).fit(of_a_name(tmp_path, OLD))
    with pytest.warns(UserWarning, match="X has changed since.*begins anew") as warned:
        model_for(tmp_path).fit(of_a_name(tmp_path, NEW))
    assert warned[0].filename == __file__


@pytest.mark.parametrize("stage", ["train_coarse", "train_fine", "label_features"])
def test_an_unfinished_fit_of_other_values_begins_anew(tmp_path, monkeypatch, stage):
    interrupt(monkeypatch, stage, model_for(tmp_path), of_a_name(tmp_path, OLD))
    with pytest.warns(UserWarning, match="X has changed since"):
        model = model_for(tmp_path).fit(of_a_name(tmp_path, NEW))
    same(model, expected(NEW))


@pytest.mark.filterwarnings("ignore:X has changed since")
def test_labels_of_features_that_are_not_trained_on_are_not_kept(tmp_path):
    options = {"max_features_per_cluster": 2}
    first = model_for(tmp_path, **options).fit(of_a_name(tmp_path, OLD))
    seed = first._origin["seed"]
    kept, _ = sampling.kept(seed, sampling.key_limit(seed, 400, 18), 0, 400)
    other = np.setdiff1d(np.arange(400), kept)[0]
    labels = np.asarray(first.labels_)
    changed = OLD.copy()
    changed[other] = OLD[labels != labels[other]][0]
    again = model_for(tmp_path, **options).fit(of_a_name(tmp_path, changed))
    assert again.labels_[other].compute() != labels[other]
    assert_array_equal(again.labels_, again.predict(changed))


def test_what_is_known(tmp_path):
    known = {kind for kind in KINDS if is_known(kind(tmp_path, OLD))}
    assert known == {zarr_array, from_zarr}
    assert is_known(OLD)


def test_known_content_is_not_read_again(tmp_path, monkeypatch):
    X = zarr_array(tmp_path, OLD)
    first = model_for(tmp_path).fit(X)
    monkeypatch.setattr("hkmeans_dask.stages.label._label", lambda *_: 1 / 0)
    same(model_for(tmp_path).fit(X), first)


@pytest.fixture
def another_cpu(monkeypatch):
    """Train other centers from now on, as with other kernels of BLAS."""

    def trained(*args, **options):
        return train_along(*args, **options) * 1.01

    def begin():
        for stage in ("coarse", "fine"):
            monkeypatch.setattr(f"hkmeans_dask.stages.{stage}.train_along", trained)

    return begin


def test_labels_go_with_the_model_that_they_were_derived_from(tmp_path, another_cpu):
    """Scratch folders are purged file by file."""
    X = zarr_array(tmp_path, OLD)
    first = model_for(tmp_path).fit(X)
    (only(tmp_path / "work") / "model.npz").unlink()
    another_cpu()
    model = model_for(tmp_path).fit(X)
    same(model, HierarchicalKMeans(9).fit(X))
    assert not np.array_equal(model.cluster_centers_, first.cluster_centers_)
    assert_array_equal(model.labels_, model.predict(OLD))


@pytest.mark.parametrize("name", ["coarse", "shares", "partition-0", "fine-1"])
def test_what_was_derived_goes_with_its_origin(
    tmp_path, monkeypatch, another_cpu, name
):
    X = zarr_array(tmp_path, OLD)
    interrupt(monkeypatch, "label_features", model_for(tmp_path), X)
    folder = only(tmp_path / "work")
    (folder / "model.npz").unlink()
    (folder / f"{name}.npz").unlink()
    another_cpu()
    model = model_for(tmp_path).fit(X)
    assert_array_equal(model.labels_, model.predict(OLD))
    assert model.n_clusters_ == 9
    if name == "coarse":
        same(model, HierarchicalKMeans(9).fit(X))


def test_labels_of_an_earlier_model_stay_as_they_are(tmp_path, monkeypatch):
    monkeypatch.setattr("hkmeans_dask.workspace.places.LABEL_BYTES", 0)
    first = model_for(tmp_path).fit(of_a_name(tmp_path, OLD))
    before = np.asarray(first.labels_)
    with pytest.warns(UserWarning, match="X has changed since"):
        second = model_for(tmp_path).fit(of_a_name(tmp_path, NEW))
    assert_array_equal(first.labels_, before)
    same(second, expected(NEW))


@pytest.mark.filterwarnings("ignore:X has changed since")
@pytest.mark.parametrize("finished", [True, False])
@pytest.mark.parametrize("refine", [0, 2])
def test_a_change_beside_the_training_rows_is_noticed(
    tmp_path, monkeypatch, refine, finished
):
    options = {"max_features_per_cluster": 2, "refine": refine}
    first = model_for(tmp_path, **options)
    X = of_a_name(tmp_path, OLD)
    if finished:
        first.fit(X)
    else:
        interrupt(monkeypatch, "label_features", first, X)
    seed = HierarchicalKMeans(9).fit(OLD)._origin["seed"]
    kept, _ = sampling.kept(seed, sampling.key_limit(seed, 400, 18), 0, 400)
    changed = OLD.copy()
    changed[np.setdiff1d(np.arange(400), kept)] *= -3
    again = model_for(tmp_path, **options).fit(of_a_name(tmp_path, changed))
    wanted = da.from_array(changed, (100, 6))
    same(again, HierarchicalKMeans(9, **options).fit(wanted))
    changed[np.setdiff1d(np.arange(400), kept)[0], 2] = np.nan
    with pytest.raises(ValueError, match="Input X contains NaN"):
        model_for(tmp_path, **options).fit(of_a_name(tmp_path, changed))


def cannot_be_joined(patch):
    """Let chunks along samples be too large together, so that X is copied."""
    for name in ("JOINED_BYTES", "BLOCK_BYTES"):
        patch.setattr(f"hkmeans_dask.inputs.arrays.{name}", 100)


@pytest.mark.filterwarnings("ignore:.*are copied to")
def test_an_x_that_has_to_be_copied_is_copied_again(tmp_path, monkeypatch):
    cannot_be_joined(monkeypatch)

    def fit(values):
        array = Watched(values)
        X = da.from_array(array, (100, 2), name="along samples", asarray=False)
        return model_for(tmp_path).fit(X)

    first = fit(OLD)
    assert first.n_passes_ == 3
    same(fit(OLD), first)
    with pytest.warns(UserWarning, match="X has changed since"):
        assert fit(NEW).inertia_ != first.inertia_


@pytest.mark.filterwarnings("ignore:X has changed since")
def test_a_generator_is_asked_for_one_seed_only(tmp_path):
    def fit(values, **options):
        seed = np.random.RandomState(3)
        X = of_a_name(tmp_path, values)
        return HierarchicalKMeans(9, random_state=seed, **options).fit(X)

    fit(OLD, work_dir=tmp_path / "work")
    same(fit(NEW, work_dir=tmp_path / "work"), fit(NEW))


@pytest.mark.filterwarnings("ignore:.*are copied to")
@pytest.mark.usefixtures("content_is_known")
def test_labels_without_a_checksum_are_made_again_from_a_copy(tmp_path, monkeypatch):
    """Those that an earlier version left, of an X that had to be copied."""
    cannot_be_joined(monkeypatch)
    X = da.from_array(Watched(OLD), (100, 2), name="along samples", asarray=False)
    first = model_for(tmp_path).fit(X)
    assert first.n_passes_ == 3
    workspace = OnDisk(only(tmp_path / "work"))
    record = workspace.find("labels-0")
    fields = {key: record[key] for key in ("labels", "sizes", "inertia", "total")}
    workspace.save("labels-0", of=0, **fields)
    same(model_for(tmp_path).fit(X), first)


def test_a_first_fit_looks_for_bad_values_once(tmp_path, monkeypatch):
    def twice(*_):
        raise AssertionError

    monkeypatch.setattr("hkmeans_dask.stages.label.first_bad", twice)
    model_for(tmp_path).fit(of_a_name(tmp_path, OLD))

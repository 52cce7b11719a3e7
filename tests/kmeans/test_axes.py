"""Principal axes: when they are taken, which, and what training along them gives."""

import dask
import dask.array as da
import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy.ndimage import gaussian_filter

from hkmeans_dask import HierarchicalKMeans
from hkmeans_dask.kmeans import axes, kernels, trial
from hkmeans_dask.kmeans.axes import (
    ALL_DIMENSIONS,
    most_coordinates,
    principal_axes,
    train_along,
)
from hkmeans_dask.kmeans.minibatch import Schedule
from tests.strategies import FLOATS

DEFAULT = Schedule("k-means++", 1000, 10, 10)
N_DIMS = 160
dtypes = pytest.mark.parametrize("dtype", FLOATS)


@pytest.fixture
def few_rows(monkeypatch):
    """Take axes of few points, whatever that costs."""
    monkeypatch.setattr(axes, "AXES_ROWS", 500)
    monkeypatch.setattr(axes, "DECOMPOSITION", 0)


def along_few_axes(n_points=2000, n_groups=40, dtype=np.float32, entropy=0):
    """Turn groups in 10 hidden dimensions into `N_DIMS`, with noise in all."""
    rng = np.random.default_rng(entropy)
    turned = np.linalg.qr(rng.normal(size=(N_DIMS, N_DIMS)))[0][:10]
    groups = rng.normal(size=(n_groups, 10)) * 5
    points = groups[rng.integers(n_groups, size=n_points)]
    points = points + rng.normal(size=points.shape)
    points = points @ turned + 0.1 * rng.normal(size=(n_points, N_DIMS))
    return (points - points.mean(axis=0)).astype(dtype)


def found(points, n_clusters=20, n_trained=10**6, schedule=DEFAULT):
    return principal_axes(points, n_clusters, n_trained, schedule)


# which axes


@dtypes
@pytest.mark.usefixtures("few_rows")
def test_axes_are_those_of_the_highest_variance(dtype):
    rng = np.random.default_rng(0)
    spread = np.full(N_DIMS, 0.1)
    spread[[7, 100, 31]] = 9, 5, 3
    points = (rng.normal(size=(3000, N_DIMS)) * spread).astype(dtype)
    taken = found(points)
    assert taken.dtype == dtype
    assert taken.shape == (N_DIMS, axes.FEWEST - 1)
    assert_allclose(taken.T @ taken, np.eye(axes.FEWEST - 1), atol=1e-5)
    assert abs(taken[:, :3]).argmax(axis=0).tolist() == [7, 100, 31]
    assert (abs(taken[[7, 100, 31], [0, 1, 2]]) > 0.99).all()


@pytest.mark.usefixtures("few_rows")
@pytest.mark.parametrize(
    ("n_above", "n_clusters", "n_axes"),
    [
        (5, 100, 31),
        (31, 100, 31),
        (32, 100, 39),
        (38, 100, 39),
        (33, 15, 31),
        (38, 18, 39),
        (38, 3, 31),
        (50, 100, 39),
        (54, 100, 0),
    ],
)
def test_as_many_axes_as_are_above_the_mean(n_above, n_clusters, n_axes):
    rng = np.random.default_rng(0)
    spread = np.where(np.arange(N_DIMS) < n_above, 3, 0.1)
    points = (rng.normal(size=(5000, N_DIMS)) * spread).astype(np.float32)
    taken = found(points, n_clusters)
    assert taken.shape == ((N_DIMS, n_axes) if n_axes else (0, 0))


@pytest.mark.usefixtures("few_rows")
@pytest.mark.parametrize(
    ("points", "options"),
    [
        (np.random.default_rng(0).normal(size=(3000, N_DIMS)), {}),
        (along_few_axes()[:499], {}),
        (along_few_axes()[:, :127], {}),
        (along_few_axes(), {"n_trained": 100}),
        (along_few_axes(), {"schedule": DEFAULT._replace(unit=True)}),
        (along_few_axes(), {"schedule": DEFAULT._replace(max_no_improvement=None)}),
        (np.zeros((3000, N_DIMS)), {}),
        (along_few_axes() * np.float32(1e30), {}),
    ],
    ids=[
        "flat spectrum",
        "few points",
        "few dimensions",
        "few trained",
        "directions",
        "to a fixed point",
        "all equal",
        "overflow",
    ],
)
@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid")
def test_no_axes_where_they_would_not_help(points, options):
    assert found(points, **options) is ALL_DIMENSIONS


@pytest.mark.usefixtures("few_rows")
def test_axes_are_taken_without_these_reasons():
    assert found(along_few_axes()).shape == (N_DIMS, 31)


@pytest.mark.parametrize(
    ("n_above", "few", "all_if_flat"),
    [
        (38, 39, 39),
        (53, 39, 39),
        (54, 39, 55),
        (72, 39, 79),
        (73, 0, 0),
        (N_DIMS, 0, 0),
    ],
)
def test_how_many_axes_of_flat_spectra(n_above, few, all_if_flat):
    spread = np.where(np.arange(N_DIMS) < n_above, 3, 0.1)
    points = np.random.default_rng(0).normal(size=(5000, N_DIMS)) * spread
    what = (points, 100, 10**6, DEFAULT)
    for every, n_axes in ((False, few), (True, all_if_flat)):
        taken = principal_axes(*what, flattest=axes.FLATTEST, all_if_flat=every)
        assert taken.shape == ((N_DIMS, n_axes) if n_axes else (0, 0))
        assert n_axes < most_coordinates(N_DIMS, 5000, 4)


def test_finding_axes_may_not_take_longer_than_training():
    assert axes.may_help(256_000, 192, 31)
    assert axes.may_help(32_000, 784, 31)  # its seeds cost more than these passes
    assert not axes.may_help(2_000, 192, 31)
    assert not axes.may_help(8_192, 1000, 5)
    assert not axes.may_help(10**9, 1025, 100)


# training along them


@dtypes
@pytest.mark.usefixtures("few_rows")
def test_inertia_is_that_of_training_in_all_dimensions(dtype):
    points = along_few_axes(n_groups=1000, dtype=dtype)
    taken = found(points)
    inertias = []
    for where in (taken, ALL_DIMENSIONS):
        rng = np.random.default_rng(0)
        centers = train_along(where, points, 40, DEFAULT, rng)
        assert centers.dtype == dtype
        labels = kernels.assign(points, centers)
        inertias.append(kernels.inertia(points, centers, labels))
    assert inertias[0] < 1.03 * inertias[1]


@pytest.mark.usefixtures("few_rows")
@pytest.mark.parametrize("weighted", [False, True])
def test_centers_are_means_in_all_dimensions(weighted):
    points = along_few_axes(n_groups=5)
    weights = np.random.default_rng(1).integers(1, 4, len(points)).astype("f4")
    weights = weights if weighted else None
    how = (DEFAULT, np.random.default_rng(0))
    centers = train_along(found(points), points, 5, *how, weights=weights)
    labels = kernels.assign(points, centers)
    for label, center in enumerate(centers):
        members = labels == label
        theirs = None if weights is None else weights[members]
        mean = np.average(points[members], axis=0, weights=theirs)
        assert_allclose(center, mean, atol=1e-4)


@dtypes
@pytest.mark.usefixtures("few_rows")
@pytest.mark.parametrize("power", [-40, 40])
def test_training_along_axes_knows_no_unit_of_measurement(dtype, power):
    points = along_few_axes(dtype=dtype)
    taken = found(points)
    same, other = (
        train_along(taken, points * scale, 40, DEFAULT, np.random.default_rng(0))
        for scale in (dtype(1), dtype(2.0**power))
    )
    assert np.array_equal(same * dtype(2.0**power), other)


def test_many_points_get_fewer_axes(monkeypatch):
    """Not fewer than a quarter of the dimensions, as they then take memory as well."""
    project, seen = kernels.project, []

    def watched_project(points, along):
        seen.append(along.shape[1])
        return project(points, along)

    monkeypatch.setattr(kernels, "project", watched_project)
    points = along_few_axes(n_points=2000)
    for share in (1, 0.9, 0.5):
        monkeypatch.setattr(axes, "ALONG_BYTES", int(share * 2000 * 64 * 4))
        how = (DEFAULT, np.random.default_rng(0))
        train_along(np.eye(N_DIMS, 63, dtype="f4"), points, 20, *how)
    assert seen == [63, 55, 39]


@pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid")
def test_a_square_that_overflows_late_leaves_labels_for_all_points(monkeypatch):
    monkeypatch.setattr("hkmeans_dask.kmeans.minibatch.FIRST_BATCH", 500)
    points = along_few_axes(n_points=3000)
    points[2900, 0] = 1e20
    schedule = DEFAULT._replace(batch_size=500)
    how = (schedule, np.random.default_rng(0))
    centers = train_along(np.eye(N_DIMS, 31, dtype="f4"), points, 4, *how)
    assert np.isfinite(centers).all()


def test_points_that_are_equal_along_the_axes_get_clusters_of_their_own():
    rng = np.random.default_rng(0)
    points = np.zeros((3000, N_DIMS), np.float32)
    points[:, :2] = rng.integers(0, 2, (3000, 2)) * 50
    points[:, -1] = rng.integers(0, 5, 3000)
    centers = train_along(np.eye(N_DIMS, 40, dtype="f4"), points, 20, DEFAULT, rng)
    labels = kernels.assign(points, centers)
    assert np.bincount(labels, minlength=20).all()


# in a whole fit


@pytest.mark.usefixtures("few_rows")
def test_a_fit_along_axes_is_the_same_everywhere(tmp_path, monkeypatch):
    X = along_few_axes(n_points=9000) + 3
    model = HierarchicalKMeans(40).fit(X)
    centers, labels = model.cluster_centers_, model.labels_
    lazy = da.from_array(X, chunks=(700, N_DIMS))
    for scheduler, work_dir in (("synchronous", None), ("threads", tmp_path)):
        with dask.config.set(scheduler=scheduler):
            there = HierarchicalKMeans(40, work_dir=work_dir).fit(lazy)
        assert np.array_equal(there.cluster_centers_, centers)
        assert np.array_equal(np.asarray(there.labels_), labels)
    monkeypatch.setattr(axes, "AXES_ROWS", 10**6)
    everywhere = HierarchicalKMeans(40).fit(X)
    assert not np.array_equal(everywhere.cluster_centers_, centers)
    assert model.inertia_ < 1.03 * everywhere.inertia_


@pytest.mark.usefixtures("few_rows")
@pytest.mark.parametrize("given", [False, True])
def test_a_fit_finds_axes_unless_centers_are_given(given, monkeypatch):
    taken = watched(monkeypatch)
    X = along_few_axes(n_points=4000)
    init = X[:40] if given else "k-means++"
    model = HierarchicalKMeans(40, init=init).fit(X)
    assert len(taken) == 1 + len(model.coarse_centers_)
    assert set(taken) == {(0, 0) if given else (N_DIMS, 31)}


@pytest.mark.usefixtures("few_rows")
@pytest.mark.parametrize(
    ("kind", "refine", "of_big", "n_axes"),
    [
        ("noise", 0, 0, 31),
        ("field", 0, 0, 63),
        ("across", 0, 0, 0),
        ("field", 1, 31, 31),
    ],
)
def test_small_clusters_follow_the_axes_of_a_flat_spectrum(
    kind, refine, of_big, n_axes, monkeypatch
):
    """As many as a trial tells, but big ones none, as nothing mends them."""
    monkeypatch.setattr(trial, "GAIN_OF_FEW", 0.004)  # noise gains .005 to .013
    taken = watched(monkeypatch)
    HierarchicalKMeans(40, refine=refine).fit(of_flat_spectrum(kind))
    assert taken[0][1] == of_big
    assert {n for _, n in taken[1:]} == {n_axes}


def of_flat_spectrum(kind):
    """Draw noise, a smooth field, or noise with groups across its highest axes."""
    rng = np.random.default_rng(0)
    X = rng.normal(size=(16, 16, 16, N_DIMS))
    if kind == "field":
        X = gaussian_filter(X, (0.7, 0.7, 0.7, 0)).reshape(-1, N_DIMS)
        return X * np.repeat([1.6, 0.6], [60, 100])
    X = X.reshape(-1, N_DIMS)
    if kind == "noise":
        return X * np.repeat([1.6, 1.15, 0.8], [31, 29, 100])
    X *= np.repeat([2, 0.1], [60, 100])
    X[np.arange(len(X)), rng.integers(60, N_DIMS, len(X))] += 12
    return X


def watched(monkeypatch):
    """Give a list of the shapes of axes, of big clusters and then of small ones."""
    taken = []

    def seen(along, *args, **how):
        taken.append(along.shape)
        return train_along(along, *args, **how)

    monkeypatch.setattr("hkmeans_dask.stages.fine.train_along", seen)
    monkeypatch.setattr("hkmeans_dask.stages.coarse.train_along", seen)
    return taken

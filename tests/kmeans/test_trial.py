"""Principal axes are taken where clusters of some points lose next to nothing."""

import numpy as np
import pytest

from hkmeans_dask import HierarchicalKMeans
from hkmeans_dask.kmeans import axes, kernels
from hkmeans_dask.kmeans.axes import ALL_DIMENSIONS, few_axes
from hkmeans_dask.kmeans.trial import affordable, axes_by_trial, groups_of, whole
from tests.strategies import FLOATS

N_DIMS, N_BIG = 160, 10
FEW, MANY = few_axes(N_DIMS, N_BIG), 63
SHOWN = {"few": slice(FEW), "many": slice(FEW, MANY), "none": slice(MANY, None)}


def taken(n_axes, points, labels, weights=None, n_trained=10**6):
    """Give how many of the first axes are taken, after a trial on groups of points."""
    centers = np.zeros((labels.max() + 1, N_DIMS), points.dtype)
    for group in np.unique(labels):
        centers[group] = points[labels == group].mean(axis=0)
    squared = kernels.squared_distances(points, centers, labels)
    along = np.eye(N_DIMS, n_axes, dtype=points.dtype)
    most = affordable(n_trained, N_BIG, thorough=n_axes > FEW)
    groups = groups_of(points, labels, squared, weights, most)
    axes = axes_by_trial(along, FEW, groups, 0)
    expected = along[:, : axes.shape[1]] if axes.size else ALL_DIMENSIONS
    assert np.array_equal(axes, expected)
    return axes.shape[1]


def in_groups(kind, rng, n_points=1500, dtype=np.float64):
    """Draw points in three far groups, whose small ones show along some dimensions."""
    small = np.zeros((3, 30, N_DIMS))
    small[:, :, SHOWN[kind]] = rng.normal(size=small[:, :, SHOWN[kind]].shape)
    labels = np.arange(n_points) % 3
    points = small[labels, rng.integers(30, size=n_points)] + 50 * labels[:, None]
    return (points + 0.6 * rng.normal(size=points.shape)).astype(dtype), labels


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(
    ("kind", "n_axes"), [("few", FEW), ("many", MANY), ("none", 0)]
)
def test_the_fewest_axes_along_which_groups_show(dtype, weighted, kind, n_axes):
    rng = np.random.default_rng(0)
    points, labels = in_groups(kind, rng, dtype=dtype)
    weights = rng.integers(1, 3, len(points)).astype(dtype) if weighted else None
    assert taken(MANY, points, labels, weights) == n_axes


@pytest.mark.parametrize(("kind", "n_axes"), [("few", FEW), ("many", 0), ("none", 0)])
def test_few_axes_that_stand_out_may_hide_groups_as_well(kind, n_axes):
    """Sizes of far groups stand out, and say nothing of the small ones in them."""
    assert taken(FEW, *in_groups(kind, np.random.default_rng(0))) == n_axes


def test_groups_that_few_points_do_not_show_are_not_lost():
    """Each point has one high value: 800 of them do not show its many places."""
    rng = np.random.default_rng(0)
    points = 0.3 * rng.normal(size=(4096, N_DIMS)) * np.linspace(1.5, 0.3, N_DIMS)
    where = (N_DIMS * rng.beta(1, 3, size=len(points))).astype(int)
    points[np.arange(len(points)), where] += 3 * rng.lognormal(0, 0.5, len(points))
    assert taken(MANY, points, np.zeros(len(points), np.int64)) == 0
    assert taken(MANY, points, np.arange(len(points)) // 800) > 0


def test_groups_of_most_inertia_decide():
    """Not those of most points."""
    rng = np.random.default_rng(0)
    many, labels = in_groups("few", rng)
    some, _ = in_groups("none", rng, n_points=450)
    points = np.concatenate([many, 10 * some[::3], 10 * some[1::3], 10 * some[2::3]])
    labels = np.concatenate([labels, 3 + np.repeat([0, 1, 2], 150)])
    assert taken(FEW, points, labels) == 0
    assert taken(FEW, points[:1500], labels[:1500]) == FEW


def test_points_of_weight_are_those_that_count():
    """Half of the points show along few axes, the others along more."""
    rng = np.random.default_rng(1)
    halves = [in_groups(kind, rng)[0][::3] for kind in ("few", "many")]
    points, heavy = np.concatenate(halves), np.repeat([1.0, 1e-9], 500)
    labels = np.zeros(len(points), np.int64)
    assert taken(MANY, points, labels, heavy) == FEW
    assert taken(MANY, points, labels, heavy[::-1]) == MANY


@pytest.mark.parametrize("labels", [[0], [0, 2, 2], [7] * 700])
def test_groups_that_are_one_point_or_not_there_cost_nothing(labels):
    points, labels = np.ones((len(labels), N_DIMS), np.float32), np.array(labels)
    assert taken(MANY, points, labels) == FEW


def noise_and_groups(n_points, n_groups, rng):
    """Draw noise of few dimensions, and groups that show in all others."""
    across = np.arange(N_DIMS) >= FEW - 1
    points = rng.normal(size=(n_points, N_DIMS)) * np.where(across, 0.5, 3)
    groups = rng.normal(size=(n_groups, N_DIMS)) * across
    return points + groups[rng.integers(n_groups, size=n_points)]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("n_groups", "n_axes"), [(1, FEW), (30, 0)])
def test_big_clusters_are_tried_on_all_points(n_groups, n_axes, weighted):
    points = noise_and_groups(3000, n_groups, np.random.default_rng(0))
    points -= points.mean(axis=0)
    weights, along = np.ones(3000) if weighted else None, np.eye(N_DIMS, FEW)
    group = whole(points, weights, 4 * N_BIG, most=500)
    assert group.points.shape == (500, N_DIMS)
    assert group.n_clusters == 32  # of 16 points each; not 40, as these are few
    assert axes_by_trial(along, FEW, [group], 0).shape[1] == n_axes


@pytest.mark.parametrize("nested", [True, False])
def test_noise_does_not_hide_groups_in_a_fit(nested, monkeypatch):
    X = noise_and_groups(6000, 30, np.random.default_rng(0))
    inertia = HierarchicalKMeans(150, nested=nested).fit(X).inertia_
    monkeypatch.setattr(axes, "AXES_ROWS", 10**9)
    assert inertia < 1.01 * HierarchicalKMeans(150, nested=nested).fit(X).inertia_


@pytest.mark.filterwarnings("ignore:Number of distinct clusters")
def test_groups_without_borders_are_tried_as_one():
    """What only all clusters together can tell apart, big ones by far cannot."""
    rng = np.random.default_rng(0)
    X = 0.1 * rng.normal(size=(16_000, N_DIMS))
    X[:, :30] += rng.normal(size=(16_000, 30))
    groups = rng.normal(size=(200, 130)) * (30 / 130) ** 0.5
    X[:, 30:] += groups[rng.integers(200, size=16_000)]
    fits = []
    for rows in (axes.AXES_ROWS, 10**9):
        with pytest.MonkeyPatch.context() as changed:
            changed.setattr(axes, "AXES_ROWS", rows)
            fits.append(HierarchicalKMeans(300, nested=False).fit(X.astype("f4")))
    assert fits[0].inertia_ < 1.03 * fits[1].inertia_


def test_tiny_groups_do_not_decide():
    """Far ones have most of the inertia, but no clusters to find."""
    rng = np.random.default_rng(0)
    points, labels = in_groups("none", rng)
    far = 1000 * rng.normal(size=(30, N_DIMS))
    labels = np.concatenate([labels, 3 + np.arange(30) % 3])
    assert taken(FEW, np.concatenate([points, far]), labels) == 0


@pytest.mark.parametrize(
    ("n_trained", "n_big", "few", "many"),
    [(4096, 8, 512, 512), (20_000, 22, 663, 1326), (10**6, 100, 2048, 2048)],
)
def test_the_more_training_takes_the_more_points_are_tried(n_trained, n_big, few, many):
    assert affordable(n_trained, n_big, thorough=False) == few
    assert affordable(n_trained, n_big, thorough=True) == many

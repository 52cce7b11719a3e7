"""Features that cannot be clustered, left out by ``missing="exclude"``."""

from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import nullcontext
from functools import partial
from multiprocessing import get_context

import dask
import dask.array as da
import numpy as np
import pytest
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.exceptions import ConvergenceWarning

from hkmeans_dask import HierarchicalKMeans
from hkmeans_dask.cli.commands import main
from hkmeans_dask.kmeans import sampling
from hkmeans_dask.stages import sample
from tests.resuming import Interrupted, interrupt, only, same
from tests.strategies import Watched, cuts, nothing_computed, quick

few = settings(quick, max_examples=40)
rng = np.random.default_rng(0)
GROUPS = 12 * rng.normal(size=(9, 12))
GOOD = 3 * rng.normal(size=(900, 12)) + GROUPS[np.arange(900) % 9]
BAD = np.array([np.nan, np.inf, -np.inf])


def spoiled(where, X=GOOD):
    """X with bad values in the features of a mask, one or all of their samples."""
    X, features = X.copy(), np.flatnonzero(where)
    X[features, features % X.shape[1]] = BAD[features % 3]
    X[features[::3]] = np.nan
    return X


SCATTERED = np.random.default_rng(1).random(len(GOOD)) < 0.4
SCATTERED[300:460] = True
X = spoiled(SCATTERED)
KEPT = ~SCATTERED

OPTIONS = {
    "defaults": {},
    "inertia": {"allocation": "inertia"},
    "refine": {"refine": 2},
    "beyond": {"nested": False},
    "beyond and refine": {"nested": False, "refine": 1},
    "cosine": {"metric": "cosine"},
    "random": {"init": "random"},
    "all rows": {"max_features_per_cluster": None},
    "few rows": {"max_features_per_cluster": 5},
    "few rows, refine": {"max_features_per_cluster": 5, "refine": 1},
    "few rows, beyond": {"max_features_per_cluster": 5, "nested": False},
    "given": {"init": GOOD[:20]},
    "given, refine": {"init": GOOD[:20], "refine": 1},
}
every_option = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


@pytest.fixture
def short_ranges(monkeypatch):
    """Read X in many ranges, with training rows in many parts."""
    monkeypatch.setattr(sampling, "RANGE_BYTES", 30 * 12 * 8)
    monkeypatch.setattr(sampling, "ONE_PART_BYTES", 40 * 12 * 8)
    monkeypatch.setattr(sampling, "PART_BYTES", 20 * 12 * 8)


def excluding(n_clusters=20, **options):
    return HierarchicalKMeans(n_clusters, missing="exclude", **options)


def kinds_of(values, folder):
    """Arrays of all kinds of the same values."""
    import xarray as xr

    stored = zarr.create_array(folder / "x", data=values, chunks=(50, values.shape[1]))
    return {
        "numpy": values,
        "dask": da.from_array(values, (77, -1)),
        "zarr": stored,
        "xarray": xr.DataArray(values, dims=("voxel", "time")),
    }


# Against NumPy


@pytest.mark.parametrize("kind", ["numpy", "dask", "zarr", "xarray"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("refine", [0, 2])
def test_what_is_left_out_is_in_nothing(kind, weighted, refine, tmp_path):
    given = kinds_of(X, tmp_path)[kind]
    weights = np.arange(len(X)) % 4 if weighted else None
    options = {"refine": refine, "work_dir": tmp_path / "w"}
    model = excluding(**options).fit(given, feature_weight=weights)
    labels = np.asarray(model.labels_)
    assert_array_equal(labels == -1, SCATTERED)
    assert model.n_excluded_ == SCATTERED.sum()
    assert model.n_features_in_ == len(X)
    assert 2 < model.n_passes_ <= 4 if refine else model.n_passes_ == 2
    assert_array_equal(model.sizes_, np.bincount(labels[KEPT], minlength=20))
    squared = ((X[KEPT] - model.cluster_centers_[labels[KEPT]]) ** 2).sum(axis=1)
    counts = np.ones(KEPT.sum()) if weights is None else weights[KEPT]
    inertia = np.bincount(labels[KEPT], squared * counts, 20)
    assert_allclose(model.cluster_inertia_, inertia, rtol=1e-9)
    assert_array_equal(np.asarray(model.predict(given)), labels)
    big = np.append(model.parents_, -1)[labels]
    assert_array_equal(np.asarray(model.predict(given, level="coarse")), big)
    means = np.array([X[labels == number].mean(axis=0) for number in range(20)])
    reduced = model.transform(given)
    assert_allclose(np.asarray(reduced), means, rtol=1e-6)
    expected = np.where(KEPT[:, None], means[labels], np.nan)
    assert_allclose(np.asarray(model.inverse_transform(reduced)), expected, rtol=1e-6)


def test_lazy_results_stay_lazy():
    lazy = da.from_array(X, (77, 5))
    model = excluding().fit(lazy)
    with nothing_computed():
        reduced, labels = model.transform(lazy), model.predict(lazy)
        back = model.inverse_transform(reduced)
    assert_array_equal(labels.compute() < 0, SCATTERED)
    assert_array_equal(np.isnan(back.compute()).all(axis=1), SCATTERED)


@pytest.mark.parametrize("lazy", [False, True])
def test_means_over_other_samples_are_of_finite_values(lazy):
    model = excluding().fit(X)
    others = np.random.default_rng(3).normal(size=(len(X), 7))
    others[SCATTERED] = np.nan
    labels = np.asarray(model.labels_)
    means = [others[labels == number].mean(axis=0) for number in range(20)]
    given = da.from_array(others, (100, 4)) if lazy else others
    assert_allclose(np.asarray(model.transform(given)), means, rtol=1e-6)
    bad = int(np.flatnonzero(KEPT)[40])
    others[bad, 2] = np.nan
    given = da.from_array(others, (100, 4)) if lazy else others
    with pytest.raises(ValueError, match=f"NaN: the first is in feature {bad}"):
        np.asarray(model.transform(given))


def test_features_in_columns():
    by_rows, by_columns = excluding().fit(X), excluding(feature_axis=1).fit(X.T)
    same(by_columns, by_rows)
    means = by_columns.transform(X.T)
    assert_array_equal(means, by_rows.transform(X).T)
    back = by_columns.inverse_transform(means)
    assert_array_equal(np.isnan(back).all(axis=0), SCATTERED)
    same(excluding(feature_axis=1).fit(da.from_array(X.T, (12, 90))), by_rows)


def test_integers_of_means_come_back_as_floats_that_can_be_missing():
    model = excluding().fit(X)
    back = model.inverse_transform(np.arange(20 * 3).reshape(20, 3))
    assert back.dtype.kind == "f"
    assert_array_equal(np.isnan(back).all(axis=1), SCATTERED)


def test_a_label_volume_of_xarray():
    import xarray as xr

    dims = ("time", "lat", "lon")
    field = xr.DataArray(X.T.reshape(12, 30, 30), dims=dims)
    sea = field.stack(cell=("lat", "lon"))
    model = excluding(feature_axis="cell").fit(sea)
    volume = model.labels_dataarray().unstack("cell")
    assert_array_equal(volume.values.ravel() < 0, SCATTERED)
    back = model.inverse_transform(model.transform(sea)).unstack("cell")
    assert_array_equal(np.isnan(back).any("time").values.ravel(), SCATTERED)


def test_directions_leave_out_zeros_too():
    values = X.copy()
    values[KEPT.nonzero()[0][::7]] = 0
    good = KEPT & values.any(axis=1)
    model = excluding(metric="cosine", max_features_per_cluster=10).fit(values)
    assert_array_equal(np.asarray(model.labels_) >= 0, good)
    assert_array_equal(model.predict(values), model.labels_)


# Against the good features alone


def weights_of(kind, n_features):
    return None if kind == "plain" else 1 + np.arange(n_features) % 4


@every_option
@pytest.mark.parametrize("weights", ["plain", "weighted"])
@pytest.mark.parametrize("lazy", [False, True])
def test_it_is_bitwise_a_fit_of_the_others_where_ranks_agree(options, weights, lazy):
    values = spoiled(np.arange(len(GOOD)) >= 500)
    weight = weights_of(weights, 900)
    alone = HierarchicalKMeans(20, **options)
    alone.fit(GOOD[:500], feature_weight=weights_of(weights, 500))
    given = da.from_array(values, (900, -1)) if lazy else values
    model = excluding(**options).fit(given, feature_weight=weight)
    labels = np.asarray(model.labels_)
    assert_array_equal(labels[:500], alone.labels_)
    assert (labels[500:] == -1).all()
    assert_array_equal(model.cluster_centers_, alone.cluster_centers_)
    assert_array_equal(model.coarse_centers_, alone.coarse_centers_)
    assert model.inertia_ == alone.inertia_


@pytest.mark.parametrize("options", [{}, {"refine": 1}, {"nested": False}], ids=str)
@pytest.mark.parametrize("most", [64, 256])
def test_inertia_is_that_of_a_fit_of_the_others(options, most):
    rng = np.random.default_rng(5)
    values = rng.normal(size=(40_000, 10)) * np.geomspace(4, 0.5, 10)
    bad = (np.arange(40_000) // 3000 % 3 == 1) | (rng.random(40_000) < 0.2)
    options = options | {"max_features_per_cluster": most, "n_init": 3}
    ratios = []
    for seed in range(12):  # they differ by .4% from seed to seed
        alone = HierarchicalKMeans(50, random_state=seed, **options).fit(values[~bad])
        lazy = da.from_array(spoiled(bad, values), (3500, -1))
        model = excluding(50, random_state=seed, **options).fit(lazy)
        ratios.append(model.inertia_ / alone.inertia_)
    assert np.mean(ratios) == pytest.approx(1, abs=0.005)


@few
@given(
    st.lists(st.booleans(), min_size=120, max_size=120).filter(lambda s: sum(s) > 5),
    cuts(120),
    st.sampled_from(list(OPTIONS.values())[:-2]),
    st.sampled_from(["f4", "f8", "f2"]),
    st.booleans(),
    st.booleans(),
)
def test_any_features_left_out_in_any_chunks(
    good, heights, options, dtype, weighted, in_columns
):
    good = np.array(good)
    values = spoiled(~good, GOOD[:120]).astype(dtype)
    weights = 0.5 + np.arange(120) % 3 if weighted else None
    options = options | {"feature_axis": int(in_columns), "n_init": 2}
    model = excluding(5, **options)
    plain = model.fit(values.T if in_columns else values, feature_weight=weights)
    labels, centers = plain.labels_, plain.cluster_centers_
    assert_array_equal(labels >= 0, good)
    assert np.isfinite(centers).all()
    lazy = da.from_array(values, (heights, -1))
    model.fit(lazy.T if in_columns else lazy, feature_weight=weights)
    assert_array_equal(np.asarray(model.labels_) >= 0, good)
    if not model.refine:
        assert_array_equal(model.cluster_centers_, centers)
    assert model.sizes_.sum() == good.sum()


# The training rows


@pytest.mark.usefixtures("short_ranges")
@few
@given(
    st.lists(st.booleans(), min_size=120, max_size=120).filter(any),
    cuts(120),
    st.integers(1, 120),
    st.booleans(),
    st.sampled_from(["in memory", "cast", "lazy"]),
)
def test_training_rows_are_the_lowest_ranks_of_the_others(
    tmp_path_factory, good, heights, n_rows, on_disk, kind
):
    from hkmeans_dask.inputs import arrays
    from hkmeans_dask.runtime.execution import Runner
    from hkmeans_dask.stages.sample import keep_training_rows
    from hkmeans_dask.workspace.files import InMemory, OnDisk
    from hkmeans_dask.workspace.rows import gather

    good = np.array(good)
    values = spoiled(~good, GOOD[:120].astype("f4"))
    given = {
        "in memory": values,
        "cast": values.astype(">f4"),
        "lazy": da.from_array(values, (heights, -1)),
    }[kind]
    features = arrays.read_features(given, 0)
    runner = Runner.find(features.blocks, in_memory=features.in_memory)
    space = OnDisk(tmp_path_factory.mktemp("rows")) if on_disk else InMemory()
    held = keep_training_rows(features, n_rows, 3, space, runner, exclude=True)
    parts = [part.load() for part in runner.compute(*held)]
    order = np.argsort(sampling.keys(3, 0, 120))
    expected = order[good[order]][:n_rows]
    assert_array_equal(gather(parts, 0, None, 2**40), values[expected])
    assert sum(len(part.keys) for part in parts) == min(n_rows, good.sum())
    if kind != "in memory":
        total = sampling.checksum(values[expected], sampling.keys(3, 0, 120)[expected])
        assert sum(part.total for part in parts) % 2**64 == total
    assert not on_disk or not [n for n in space.names() if n.startswith("run-")]


LAYOUTS = {
    "good first": np.arange(900) >= 500,
    "good last": np.arange(900) < 700,
    "scattered": SCATTERED,
    "none": np.zeros(900, bool),
    "nearly all": np.arange(900) % 40 > 0,
}


@pytest.mark.usefixtures("short_ranges")
@pytest.mark.parametrize("bad", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("chunks", [7, 60, 500])
@pytest.mark.parametrize("most", [1, 3, 300])
@pytest.mark.parametrize("durable", [False, True])
def test_x_is_read_twice_wherever_features_are_left_out(
    bad, chunks, most, durable, tmp_path
):
    array, n_blocks = Watched(spoiled(bad)), -(-900 // chunks)
    options = {"max_features_per_cluster": most, "random_state": 1}
    expected = excluding(**options).fit(array.values)
    model = excluding(work_dir=tmp_path if durable else None, **options)
    model.fit(array.blocks((chunks, -1)))
    assert array.reads == 2 * n_blocks
    assert model.n_passes_ == 2
    assert_array_equal(model.cluster_centers_, expected.cluster_centers_)
    assert_array_equal(np.asarray(model.labels_) < 0, bad)


# Wherever it is computed


POOLS = {
    "synchronous": nullcontext,
    "threads": partial(ThreadPoolExecutor, 3),
    "processes": partial(ProcessPoolExecutor, 2, get_context("forkserver")),
}


@pytest.mark.filterwarnings("ignore:dask.s scheduler .processes.:UserWarning")
@pytest.mark.parametrize(
    ("scheduler", "durable"),
    [("synchronous", False), ("threads", True), ("processes", True)],
)
def test_schedulers_give_the_same_bits(scheduler, durable, tmp_path, monkeypatch):
    monkeypatch.setattr(sampling, "RANGE_BYTES", 300 * 12 * 8)
    options = {"max_features_per_cluster": 3, "refine": 1}
    lazy = da.from_array(X, (130, -1))
    expected = excluding(**options).fit(lazy)
    with POOLS[scheduler]() as pool, dask.config.set(scheduler=scheduler, pool=pool):
        options["work_dir"] = tmp_path if durable else None
        model = excluding(**options).fit(lazy)
        same(model, expected)
        assert_array_equal(np.asarray(model.predict(lazy)), np.asarray(model.labels_))


def test_a_cluster_gives_the_same_bits(two_processes, tmp_path, short_ranges):
    stored = zarr.create_array(tmp_path / "x", data=X, chunks=(60, 12))
    lazy = da.from_zarr(stored)
    options = {"max_features_per_cluster": 3, "nested": False}
    with dask.config.set(scheduler="threads", num_workers=3):
        expected = excluding(**options).fit(lazy)
    same(excluding(**options).fit(lazy), expected)
    same(excluding(**options, work_dir=tmp_path / "w").fit(lazy), expected)


def test_an_x_that_is_copied_first(monkeypatch):
    monkeypatch.setattr("hkmeans_dask.inputs.arrays.JOINED_BYTES", 1000)
    monkeypatch.setattr("hkmeans_dask.inputs.arrays.BLOCK_BYTES", 1000)
    with pytest.warns(UserWarning, match="chunked along samples"):
        model = excluding().fit(da.from_array(X, (900, 5)))
    assert_array_equal(np.asarray(model.labels_) < 0, SCATTERED)


# Going on


@pytest.mark.usefixtures("content_is_known", "short_ranges")
@pytest.mark.parametrize("stage", ["train_coarse", "partition", "label_features"])
def test_an_interrupted_fit_goes_on(tmp_path, monkeypatch, stage):
    array = Watched(X)
    lazy, options = array.blocks((60, -1)), {"max_features_per_cluster": 3}
    expected = excluding(**options).fit(lazy)
    model = excluding(**options, work_dir=tmp_path)
    interrupt(monkeypatch, stage, model, lazy)
    array.reads = 0
    same(model.fit(lazy), expected)
    assert array.reads == 15
    array.reads = 0
    same(excluding(**options, work_dir=tmp_path).fit(lazy), expected)
    assert array.reads == 0
    files = {path.name.split("-")[0] for path in only(tmp_path).iterdir()}
    assert files == {"done", "labels", "manifest.json", "model.npz", "nonce"}


@pytest.mark.usefixtures("content_is_known", "short_ranges")
def test_a_fit_that_was_interrupted_while_it_read_goes_on(tmp_path, monkeypatch):
    array = Watched(X)
    lazy, options = array.blocks((60, -1)), {"max_features_per_cluster": 3}
    expected = excluding(**options).fit(lazy)
    read, model = Watched.__getitem__, excluding(**options, work_dir=tmp_path)

    def failing(self, index):
        if index[0].start >= 480:
            raise Interrupted
        return read(self, index)

    with monkeypatch.context() as patch:
        patch.setattr(Watched, "__getitem__", failing)
        with pytest.raises(Interrupted):
            model.fit(lazy)
    array.reads = 0
    same(model.fit(lazy), expected)
    assert 15 < array.reads < 2 * 15, "what was read before the interruption is kept"


def test_missing_is_a_part_of_what_a_fit_is(tmp_path):
    first = HierarchicalKMeans(20, work_dir=tmp_path).fit(GOOD)
    second = excluding(work_dir=tmp_path).fit(GOOD)
    same(second, first)
    assert len(list(tmp_path.iterdir())) == 2


def test_an_x_with_other_features_left_out_is_another_x(tmp_path):
    lazy = da.from_array(Watched(X), (90, -1), name="same", asarray=False)
    options = {"max_features_per_cluster": 10, "work_dir": tmp_path}
    excluding(**options).fit(lazy)
    other = spoiled(~SCATTERED | (np.arange(900) % 9 > 0))
    lazy = da.from_array(Watched(other), (90, -1), name="same", asarray=False)
    with pytest.warns(UserWarning, match="X has changed since an earlier fit"):
        model = excluding(**options).fit(lazy)
    assert_array_equal(np.asarray(model.labels_) >= 0, np.isfinite(other).all(axis=1))


# Few features that are left


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("options", [{}, {"metric": "cosine"}], ids=str)
@pytest.mark.parametrize("most", [1, 256])
def test_if_none_is_left_that_is_said(lazy, options, most, tmp_path):
    values = np.full((90, 4), np.nan)
    values = da.from_array(values, (20, -1)) if lazy else values
    model = excluding(3, max_features_per_cluster=most, work_dir=tmp_path, **options)
    zeros = " or only zeros" if options else ""
    said = rf"^All features of X have NaN or infinities{zeros}, so missing='exclude'"
    for _ in range(2):
        with pytest.raises(ValueError, match=said):
            model.fit(values)


def test_if_none_with_a_weight_is_left_that_is_said():
    said = "^All features of X of a weight above 0 have NaN"
    with pytest.raises(ValueError, match=said):
        excluding(3).fit(X, feature_weight=SCATTERED.astype(float))


@pytest.mark.parametrize("n_left", [1, 2, 7])
@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("options", [{}, {"nested": False}, {"refine": 1}], ids=str)
def test_fewer_features_left_than_clusters_are_a_cluster_each(n_left, lazy, options):
    values = spoiled(np.arange(900) % 900 >= n_left)[::-1]
    values = da.from_array(values, (200, -1)) if lazy else values
    model = excluding(**options)
    said = f"features that are not left out. Taking n_clusters = {n_left} instead"
    with pytest.warns(UserWarning, match=said) as told:
        model.fit(values)
    assert not [w for w in told if w.category is ConvergenceWarning]
    assert model.n_clusters_ == n_left
    assert model.inertia_ == pytest.approx(0, abs=1e-9)
    assert_array_equal(np.sort(np.asarray(model.labels_))[-n_left:], np.arange(n_left))


def test_nothing_is_left_out_of_a_good_x():
    for values in (GOOD, da.from_array(GOOD, (100, -1)), (GOOD * 9).astype(int)):
        expected = HierarchicalKMeans(20, max_features_per_cluster=9).fit(values)
        same(excluding(max_features_per_cluster=9).fit(values), expected)
        assert expected.n_excluded_ == 0


def test_missing_is_one_of_two_words():
    with pytest.raises(ValueError, match=r"missing should be 'error' or 'exclude'\."):
        HierarchicalKMeans(3, missing="drop").fit(GOOD)


def test_an_error_names_the_way_out():
    with pytest.raises(ValueError, match="missing='exclude'"):
        HierarchicalKMeans(3).fit(X)


# What is told and kept


@pytest.mark.parametrize("lazy", [False, True])
def test_a_saved_model_leaves_out_too(lazy, tmp_path):
    model = excluding().fit(da.from_array(X, (77, -1)) if lazy else X)
    model.to_zarr(tmp_path / "m")
    loaded = HierarchicalKMeans.from_zarr(tmp_path / "m")
    assert loaded.get_params() == model.get_params()
    assert loaded.n_excluded_ == SCATTERED.sum()
    same(loaded, model)
    assert_array_equal(loaded.predict(X), model.labels_)
    assert_array_equal(loaded.transform(X), np.asarray(model.transform(X)))


def test_a_model_that_leaves_nothing_out_may_not_lack_features(tmp_path):
    excluding().fit(X).to_zarr(tmp_path / "m")
    group = zarr.open_group(tmp_path / "m")
    group.attrs["parameters"] = group.attrs["parameters"] | {"missing": "error"}
    with pytest.raises(ValueError, match="damaged"):
        HierarchicalKMeans.from_zarr(tmp_path / "m")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "they have NaN or infinities, and are in no cluster"),
        ({"metric": "cosine"}, "NaN or infinities or are zeros, which have no"),
    ],
)
def test_the_report_says_what_is_left_out(options, said, tmp_path):
    model = excluding(**options).fit(X)
    model.report(tmp_path / "r.html")
    page = (tmp_path / "r.html").read_text()
    assert f"{SCATTERED.sum()} more features are left out" in page
    assert said in page


def test_a_line_says_how_many_are_left_out(caplog):
    with caplog.at_level("INFO", logger="hkmeans_dask"):
        excluding().fit(X)
        assert f"{SCATTERED.sum()} of 900 features left out" in caplog.text
        caplog.clear()
        excluding().fit(GOOD)
        assert "left out" not in caplog.text


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """Store X packed, with a fill value for what is missing, where commands run."""
    monkeypatch.chdir(tmp_path)
    packed = np.where(np.isfinite(X), np.round(X / 0.01), -9999).astype("i4")
    array = zarr.create_array("x", data=packed, chunks=(100, 12))
    array.attrs.update(scale_factor=0.01, _FillValue=-9999)
    return np.where(packed == -9999, np.nan, packed * 0.01)


def test_commands_leave_out(stored, capsys, caplog):
    assert main(["fit", "x", "m", "-k", "20", "--missing", "exclude"]) == 0
    assert f"features left out         {SCATTERED.sum()}" in capsys.readouterr().out
    assert f"{SCATTERED.sum()} of 900 features left out" in caplog.text
    model = HierarchicalKMeans.from_zarr("m")
    assert model.missing == "exclude"
    assert_array_equal(np.asarray(model.labels_) < 0, SCATTERED)
    assert main(["info", "m"]) == 0
    told = capsys.readouterr().out
    assert f"features left out         {SCATTERED.sum()}" in told
    assert "missing                   exclude" in told
    assert main(["predict", "x", "m", "labels"]) == 0
    assert_array_equal(zarr.open_array("labels")[:], np.asarray(model.labels_))
    assert main(["transform", "x", "m", "means"]) == 0
    assert main(["inverse-transform", "means", "m", "back"]) == 0
    back = zarr.open_array("back")[:]
    assert_array_equal(np.isnan(back).all(axis=1), SCATTERED)
    labels = np.asarray(model.labels_)
    one = stored[labels == 3].mean(axis=0)
    assert_allclose(back[labels == 3], np.tile(one, (sum(labels == 3), 1)), rtol=1e-6)
    assert main(["plan", "x", "-k", "20", "--missing", "exclude"]) == 0


def test_commands_refuse_by_default(stored, capsys):
    assert main(["fit", "x", "m", "-k", "20", "--quiet"]) == 2
    told = capsys.readouterr().err
    assert "missing='exclude'" in told
    assert "fill values" in told
    assert main(["fit", "x", "m", "-k", "20", "--missing", "drop"]) == 2


# What it takes


@pytest.mark.usefixtures("short_ranges")
@pytest.mark.parametrize("durable", [False, True])
@pytest.mark.parametrize("most", [3, 300])
def test_a_plan_counts_the_tasks_and_bytes(durable, most, tmp_path, monkeypatch):
    counted, task = [], sample.task
    lazy = da.from_array(GOOD, (60, -1))
    place = tmp_path if durable else None
    model = excluding(max_features_per_cluster=most, work_dir=place)
    plan = model.plan(lazy)
    assert plan.n_passes == 2

    def counting(*args, **options):
        counted.append(args[0])
        return task(*args, **options)

    monkeypatch.setattr(sample, "task", counting)
    model.fit(lazy)
    assert 15 + len(counted) <= plan.tasks["sample"] <= 3 * (15 + len(counted))
    rows = (20 * most if most == 3 else 900) * 12 * 8
    plain = HierarchicalKMeans(20, max_features_per_cluster=most, work_dir=place)
    before = plain.plan(lazy)
    if most == 300:
        assert plan.held_bytes == before.held_bytes
        assert plan.workspace_bytes == before.workspace_bytes
    elif durable:
        assert plan.workspace_bytes > before.workspace_bytes + rows
    else:
        assert plan.held_bytes >= 2 * before.held_bytes == 2 * rows
    assert plan.peaks["label"] > before.peaks["label"]

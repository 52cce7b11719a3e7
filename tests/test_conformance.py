"""What scikit-learn and nilearn expect of an estimator of this name."""

import inspect
import logging
import pickle
import subprocess
import sys
import textwrap

import dask.array as da
import dask_ml.datasets
import dask_ml.preprocessing
import nilearn.regions
import numpy as np
import pandas as pd
import pytest
import scipy.sparse
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.linear_model import Ridge
from sklearn.metrics import adjusted_rand_score
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import FeatureUnion, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils import estimator_checks
from sklearn.utils.estimator_checks import parametrize_with_checks

from hkmeans_dask import HierarchicalKMeans
from tests.benchmarks.judge import judge
from tests.strategies import Watched, nothing_computed

pytestmark = pytest.mark.usefixtures("one_openmp_thread")

COLUMNS = HierarchicalKMeans(n_clusters=2, feature_axis=1)
"""In scikit-learn's orientation; few clusters, as the checks bring few features."""

OUTPUT_CHECKS = [
    check
    for name, check in vars(estimator_checks).items()
    if name.startswith("check_") and "output_transform" in name
]
"""`parametrize_with_checks` leaves these out."""

OTHER_CHECKS = [
    estimator_checks.check_dataframe_column_names_consistency,
    estimator_checks.check_transformer_get_feature_names_out,
    estimator_checks.check_transformer_get_feature_names_out_pandas,
]
"""Nor does it call these, as scikit-learn's own tests do for all its transformers."""


def columns(n_clusters, **parameters):
    return HierarchicalKMeans(n_clusters, feature_axis=1, **parameters)


def volume(n_samples=15, n_features=400, seed=0):
    """Noise `[n_samples, n_features]`: the columns are what is clustered."""
    return np.random.default_rng(seed).normal(size=(n_samples, n_features))


# scikit-learn


def expected_failures(estimator):
    return {
        "check_clustering": "it clusters columns, and the check expects a label per "
        "row; scikit-learn does not run it on its own FeatureAgglomeration"
    }


@parametrize_with_checks([COLUMNS], expected_failed_checks=expected_failures)
def test_scikit_learn(estimator, check):
    check(estimator)


def test_all_output_checks_were_found():
    assert {check.__name__ for check in OUTPUT_CHECKS} >= {
        "check_set_output_transform",
        "check_set_output_transform_pandas",
        "check_set_output_transform_polars",
        "check_global_output_transform_pandas",
        "check_global_set_output_transform_polars",
    }


@pytest.mark.filterwarnings("ignore:X .* feature names:UserWarning")
@pytest.mark.parametrize(
    "check",
    OUTPUT_CHECKS + OTHER_CHECKS,
    ids=lambda check: check.__name__,
)
def test_scikit_learn_set_output_and_names(check):
    check("HierarchicalKMeans", clone(COLUMNS))


@pytest.mark.parametrize("feature_axis", [0, 1])
def test_each_axis_has_its_methods(feature_axis):
    model = HierarchicalKMeans(3, feature_axis=feature_axis).fit(volume())
    assert hasattr(model, "predict") == (feature_axis == 0)
    assert hasattr(model, "get_feature_names_out") == (feature_axis == 1)
    assert hasattr(model, "set_output") == (feature_axis == 1)


def test_predict_of_columns_says_that_it_does_not_exist():
    with pytest.raises(AttributeError, match="has no attribute 'predict'"):
        columns(3).fit(volume()).predict(volume())


def test_names_of_data_frames():
    X = pd.DataFrame(volume(n_features=12), columns=[f"voxel{i}" for i in range(12)])
    model = columns(3).fit(X)
    assert_array_equal(model.feature_names_in_, X.columns)
    names = [f"hierarchicalkmeans{i}" for i in range(3)]
    assert_array_equal(model.get_feature_names_out(), names)
    reduced = model.set_output(transform="pandas").transform(X)
    assert list(reduced.columns) == names
    with pytest.raises(ValueError, match="feature names should match"):
        model.transform(X.rename(columns={"voxel3": "other"}))
    assert not hasattr(columns(3).fit(X.to_numpy()), "feature_names_in_")


def test_clone_get_params_set_params():
    init = np.zeros((3, 4))
    given = {
        "n_clusters": 3,
        "init": init,
        "batch_size": 7,
        "n_init": 2,
        "max_no_improvement": None,
        "verbose": 1,
        "random_state": 5,
        "scaling": True,
        "feature_axis": 1,
        "allocation": "size",
        "refine": 2,
        "metric": "cosine",
        "max_features_per_cluster": None,
        "work_dir": "work",
        "nested": False,
        "missing": "exclude",
        "balance": 0.5,
    }
    model = HierarchicalKMeans(**given)
    found = model.get_params()
    assert found.keys() == given.keys()
    assert all(found[name] is value for name, value in given.items())
    copy = clone(model)
    assert_array_equal(copy.init, init)
    assert copy.set_params(n_clusters=9).n_clusters == 9
    assert model.n_clusters == 3


def test_pickle():
    X = volume()
    model = pickle.loads(pickle.dumps(columns(5).fit(X)))
    assert_array_equal(model.labels_, columns(5).fit(X).labels_)
    assert model.transform(X).shape == (15, 5)


@pytest.mark.parametrize("n_clusters", [4, 10_000])
@pytest.mark.filterwarnings("ignore:n_clusters should be at most:UserWarning")
def test_fit_changes_no_parameter(n_clusters):
    X = volume(n_features=50)
    init = X.T[:4].copy() if n_clusters == 4 else "random"
    parameters = {"n_clusters": n_clusters, "init": init, "random_state": 3}
    model = columns(**parameters)
    before = model.get_params()
    model.fit(X)
    assert all(model.get_params()[name] is value for name, value in before.items())
    assert n_clusters == 10_000 or (init == X.T[:4]).all()


def test_random_state():
    X = volume(n_features=300)

    def centers(random_state):
        return columns(20, random_state=random_state).fit(X).cluster_centers_

    assert_array_equal(centers(7), centers(7))
    assert_array_equal(centers(np.int64(7)), centers(7))
    assert not np.array_equal(centers(7), centers(8))
    state = np.random.RandomState(7)
    first, second = centers(state), centers(state)
    assert_array_equal(first, centers(np.random.RandomState(7)))
    assert not np.array_equal(first, second), "an instance is drawn from, each time"
    assert not np.array_equal(centers(None), centers(None))


def test_pipeline_and_grid_search():
    X, y = volume(n_samples=30, n_features=60), np.arange(30.0)
    pipeline = make_pipeline(StandardScaler(), columns(3), Ridge())
    search = GridSearchCV(pipeline, {"hierarchicalkmeans__n_clusters": [2, 5]}, cv=3)
    search.fit(X, y)
    best = search.best_params_["hierarchicalkmeans__n_clusters"]
    assert search.best_estimator_[-1].coef_.shape == (best,)
    assert search.predict(X).shape == (30,)


def test_feature_union():
    X = volume()
    union = FeatureUnion([("few", columns(2)), ("many", columns(3))])
    reduced = union.fit_transform(X)
    parts = [columns(k).fit_transform(X) for k in (2, 3)]
    assert_array_equal(reduced, np.hstack(parts))
    names = [f"few__hierarchicalkmeans{i}" for i in range(2)]
    names += [f"many__hierarchicalkmeans{i}" for i in range(3)]
    assert_array_equal(union.get_feature_names_out(), names)


# verbose

VERBOSE = """
    import sys
    import numpy as np
    from hkmeans_dask import HierarchicalKMeans

    X = np.random.default_rng(0).normal(size=(200, 5))
    for verbose in (0, 1, 2, 0):
        HierarchicalKMeans(4, verbose=verbose).fit(X)
        print("-", file=sys.stderr, flush=True)
"""


def test_verbose():
    """In a process of its own, where nothing has set up logging."""
    program = [sys.executable, "-c", textwrap.dedent(VERBOSE)]
    done = subprocess.run(program, capture_output=True, text=True, check=True)
    silent, phases, decisions, again = done.stderr.split("-\n")[:4]
    assert silent == again == done.stdout == ""
    names = ["sample", "coarse", "partition", "fine", "label"]
    assert [line.split()[:2] for line in phases.splitlines()] == [
        ["hkmeans:", name] for name in names
    ]
    assert len(decisions.splitlines()) > len(names)


def test_verbose_goes_to_the_log_of_the_application(caplog, capsys):
    with caplog.at_level(logging.INFO, logger="hkmeans_dask"):
        columns(4, verbose=1).fit(volume())
    phases = ["sample", "coarse", "partition", "fine", "label"]
    assert [text.split()[0] for text in caplog.messages] == phases
    assert capsys.readouterr() == ("", "")


# nilearn


def test_parameters_are_those_of_nilearn():
    """Order and defaults; of n_clusters nilearn says None, and then refuses it."""
    theirs = inspect.signature(nilearn.regions.HierarchicalKMeans).parameters
    ours = inspect.signature(HierarchicalKMeans).parameters
    assert list(ours)[:8] == list(theirs)
    for name in list(theirs)[1:]:
        assert ours[name].default == theirs[name].default
        assert ours[name].kind == theirs[name].kind
    later = list(ours.values())[8:]
    assert all(parameter.kind == parameter.KEYWORD_ONLY for parameter in later)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("scaling", [False, True])
def test_shapes_and_dtypes_are_those_of_nilearn(dtype, scaling):
    X = volume().astype(dtype)
    theirs = nilearn.regions.HierarchicalKMeans(8, scaling=scaling)
    ours = columns(8, scaling=scaling)
    reduced, back = [], []
    for model in (theirs, ours):
        reduced.append(model.fit_transform(X, None))
        back.append(model.inverse_transform(reduced[-1]))
        assert reduced[-1].shape == (15, 8)
        assert back[-1].shape == X.shape
        assert model.labels_.shape == (400,)
        assert model.sizes_.sum() == 400
        assert model.n_features_in_ == 400
    assert reduced[0].dtype.kind == reduced[1].dtype.kind == "f"
    assert reduced[1].dtype == back[1].dtype == dtype
    assert_array_equal(theirs.get_feature_names_out(), ours.get_feature_names_out())


def test_three_repeated_columns_as_in_the_tests_of_nilearn():
    X = np.tile([[10, -10, 30], [12, -8, 24]], 5)
    labels = columns(3).fit(X).labels_
    assert_array_equal(labels, np.tile(labels[:3], 5))
    assert len(set(labels)) == 3


def test_scaling_as_in_the_tests_of_nilearn():
    X = volume(n_features=1320)
    plain, scaled = columns(8), columns(8, scaling=True)
    reduced, reduced_scaled = plain.fit_transform(X), scaled.fit_transform(X)
    assert_allclose(reduced_scaled, reduced * np.sqrt(scaled.sizes_))
    back = scaled.inverse_transform(reduced_scaled)
    assert_allclose(back, plain.inverse_transform(reduced))
    assert_allclose(np.linalg.norm(back), np.linalg.norm(reduced_scaled))


def test_whole_numbers_are_averaged_where_nilearn_cuts_decimals():
    X = np.array([[0, 1, 100, 101]])
    assert_array_equal(np.sort(columns(2).fit_transform(X)), [[0.5, 100.5]])


@pytest.mark.parametrize(
    ("n_clusters", "X"),
    [
        (None, volume()),
        (-2, volume()),
        (0, volume()),
        ("2", volume()),
        (2.0, volume()),
        (2, volume()[0]),
        (2, volume()[None]),
        (2, 3.0),
        (2, volume()[:, :1]),
        (2, volume()[:, :0]),
        (2, scipy.sparse.csr_array(volume())),
        (2, np.array([["a", "b"], ["c", "d"]])),
        (2, np.array([[object(), 1], [2, 3]], object)),
        (2, volume() + 1j),
    ],
    ids="None negative zero text float 1D 3D scalar one-feature no-feature sparse "
    "letters objects complex".split(),
)
def test_fit_refuses_in_the_words_of_nilearn(n_clusters, X):
    with pytest.raises((TypeError, ValueError)) as theirs:
        nilearn.regions.HierarchicalKMeans(n_clusters).fit(X)
    with pytest.raises(theirs.type) as ours:
        columns(n_clusters).fit(X)
    assert str(ours.value) == str(theirs.value)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_bad_values_are_refused_as_nilearn_does_and_located(value):
    X = volume()
    X[3, 4] = X[2, 17] = value
    theirs, ours = nilearn.regions.HierarchicalKMeans(2), columns(2)
    name = "NaN" if np.isnan(value) else "inf"
    for model in (theirs, ours):
        with pytest.raises(ValueError, match=f"^Input X contains {name}"):
            model.fit(X)
        with pytest.raises(ValueError, match=f"^Input X contains {name}"):
            model.fit(volume()).transform(X)
    with pytest.raises(ValueError, match=r"feature 4\."):
        ours.fit(X)


def test_transform_refuses_in_the_words_of_nilearn():
    X = volume()
    wrong = [X[:, :30], X[0], X[None]]
    messages = []
    for model in (nilearn.regions.HierarchicalKMeans(3), columns(3)):
        with pytest.raises(NotFittedError) as unfitted:
            model.transform(X)
        with pytest.raises(NotFittedError) as unfitted_inverse:
            model.inverse_transform(X)
        said = [str(unfitted.value), str(unfitted_inverse.value)]
        model.fit(X)
        for values in wrong:
            with pytest.raises(ValueError, match=r"features|2D|dim 3") as refused:
                model.transform(values)
            said.append(str(refused.value))
        messages.append(said)
    assert messages[0] == messages[1]


def test_too_many_clusters_warn_in_the_words_of_nilearn():
    """Nilearn compares with the number of samples, here equal to the features."""
    X = volume(n_samples=30, n_features=30)
    messages = []
    for model in (nilearn.regions.HierarchicalKMeans(1000), columns(1000)):
        with pytest.warns(UserWarning, match="n_clusters should be") as warned:
            model.fit(X)
        messages.append([str(warning.message) for warning in warned])
    assert messages[0] == messages[1]
    assert len(messages[0]) == 1


def test_explains_as_much_as_nilearn():
    """Overlapping blobs; the median of three seeds, means recomputed from labels."""
    rng = np.random.default_rng(0)
    middles = rng.normal(size=(25, 40))
    X = middles[rng.integers(25, size=1500)] + rng.normal(scale=1.5, size=(1500, 40))
    X = X.astype(np.float32)
    unexplained = {}
    for estimator in (nilearn.regions.HierarchicalKMeans, columns):
        models = [estimator(25, random_state=seed).fit(X.T) for seed in range(3)]
        verdicts = [judge(X, np.asarray(model.labels_)) for model in models]
        unexplained[estimator] = np.median([v.unexplained_variance for v in verdicts])
        assert all(verdict.n_nonempty == 25 for verdict in verdicts)
    theirs, ours = unexplained.values()
    assert ours <= 1.02 * theirs


# dask-ml


@pytest.mark.parametrize("feature_axis", [0, 1])
def test_scaler_of_dask_ml_in_a_lazy_pipeline(feature_axis):
    """StandardScaler scales columns and takes chunks along rows only.

    With axis 1 it scales each feature, and X is chunked along samples; with axis 0 it
    scales each sample, and X is chunked along features.
    """
    values = volume(n_samples=40, n_features=80)
    values *= np.random.default_rng(1).uniform(1, 9, size=80)
    if feature_axis == 0:
        values = values.T
    X, chunks = Watched(values), (len(values) // 4, -1)
    pipeline = make_pipeline(
        dask_ml.preprocessing.StandardScaler(),
        HierarchicalKMeans(4, feature_axis=feature_axis),
    )
    pipeline.fit(X.blocks(chunks))
    assert X.reads == 4 * 3, "one read for the scaler and two for the clusters"
    X.reads = 0
    with nothing_computed():
        reduced = pipeline.transform(X.blocks(chunks))
        back = pipeline[-1].inverse_transform(reduced)
    assert X.reads == 0
    assert isinstance(reduced, da.Array)
    assert isinstance(back, da.Array)
    scaled = StandardScaler().fit_transform(values)
    plain = HierarchicalKMeans(4, feature_axis=feature_axis).fit(scaled)
    assert adjusted_rand_score(plain.labels_, pipeline[-1].labels_.compute()) == 1
    assert_allclose(reduced.compute(), plain.transform(scaled), atol=1e-12)
    assert X.reads == 4


def test_blobs_of_dask_ml_are_recovered():
    X, truth = dask_ml.datasets.make_blobs(
        n_samples=2000,
        n_features=5,
        centers=12,
        cluster_std=0.05,
        random_state=0,
        chunks=300,
    )
    labels = HierarchicalKMeans(12).fit_predict(X)
    assert adjusted_rand_score(truth.compute(), labels.compute()) == 1

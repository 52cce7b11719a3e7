"""No task is given the training rows of all parts; what it is given gives the same."""

import itertools

import dask.array as da
import numpy as np
import pytest
from dask.callbacks import Callback
from hypothesis import given
from hypothesis import strategies as st

from hkmeans_dask import HierarchicalKMeans, fitting
from hkmeans_dask.kmeans import sampling
from hkmeans_dask.stages import partition
from hkmeans_dask.workspace import rows, spread
from hkmeans_dask.workspace.rows import Rows, gather
from tests.strategies import quick

LARGEST = 48_000
"""Bytes of a partition, or of the rows of the coarse stage, at most."""


def in_rank_order(points, row_keys, starts):
    """Make rows in groups, those of each in rank order."""
    order = np.concatenate(
        [
            start + np.argsort(row_keys[start:stop], kind="stable")
            for start, stop in itertools.pairwise(starts)
        ]
    ).astype(np.int64)
    return Rows(points, order, row_keys[order], np.array(starts), 0)


@st.composite
def several_parts(draw):
    """Parts with rows of two groups, some of them without, and keys that repeat."""
    parts, number = [], 0
    for _ in range(draw(st.integers(1, 4))):
        sizes = draw(st.tuples(st.integers(0, 30), st.integers(0, 30)))
        n = sum(sizes)
        high = draw(st.sampled_from([5, 2**63]))
        row_keys = draw(st.lists(st.integers(0, high), min_size=n, max_size=n))
        points = np.arange(number, number + n, dtype="f4")[:, None]
        starts = [0, sizes[0], n]
        parts.append(in_rank_order(points, np.array(row_keys, np.uint64), starts))
        number += n
    return parts


@quick
@given(several_parts(), st.integers(1, 40), st.integers(0, 1))
def test_what_is_cut_from_parts_gives_the_same_rows(parts, wanted, group):
    sketches = [spread._sketch(part, group, wanted, len(parts)) for part in parts]
    limit = spread._enough(sketches)
    cuts = [spread._cut(part, [group], limit) for part in parts]
    expected = gather(parts, group, wanted, 2**40)
    np.testing.assert_array_equal(gather(cuts, 0, wanted, 2**40), expected)
    n_cut = sum(len(cut.array) for cut in cuts)
    row_keys = np.concatenate([part.group_keys(group) for part in parts])
    if len(np.unique(row_keys)) == len(row_keys):
        step = sketches[0].step
        assert n_cut <= wanted + step * (len(parts) + 1)


def test_a_cut_holds_nothing_of_its_part():
    points = np.arange(300.0)[:, None]
    part = in_rank_order(points, np.arange(300, dtype=np.uint64), [0, 100, 300])
    cut = spread._cut(part, [1], 150)
    assert cut.array[:, 0].tolist() == list(range(100, 151))
    assert cut.array.base is None
    assert cut.keys.base is None


def test_neighbours_are_bundled_up_to_a_size(monkeypatch):
    monkeypatch.setattr(spread, "BUNDLE_BYTES", 10)
    found = spread._neighbours(np.array([3, 3, 3, 3, 30, 1, 9, 9]))
    assert [some.tolist() for some in found] == [[0, 1, 2], [3], [4], [5, 6], [7]]
    assert len(found) <= spread.most_bundles(8, 61)


# Whole fits


class Given(Callback):
    """Tells the bytes of the largest arguments of a task, by kind of task."""

    def __init__(self):
        self.most = {}

    def _pretask(self, key, graph, state):
        kind = (key[0] if isinstance(key, tuple) else key).split("-")[1]
        needed = [state["cache"][one] for one in state["dependencies"][key]]
        self.most[kind] = max(self.most.get(kind, 0), n_bytes(needed))


def n_bytes(value):
    """Add up the arrays in lists and tuples; those of models are in mappings."""
    if isinstance(value, (list, tuple)):
        return sum(map(n_bytes, value))
    return value.nbytes if isinstance(value, np.ndarray) else 0


@pytest.fixture
def scaled_down(monkeypatch):
    """Have rows of many times the size of a part, and of a partition."""
    for module in (rows, spread, partition):
        monkeypatch.setattr(module, "PARTITION_BYTES", LARGEST)
    monkeypatch.setattr(rows, "COARSE_BYTES", LARGEST)
    monkeypatch.setattr(rows, "OFFSET_ROWS", 500)
    monkeypatch.setattr(spread, "BUNDLE_BYTES", LARGEST)
    monkeypatch.setattr(sampling, "ONE_PART_BYTES", LARGEST)
    monkeypatch.setattr(sampling, "PART_BYTES", LARGEST)


@pytest.fixture
def spread_rows(monkeypatch):
    """Have threads go about rows as workers do that share them."""
    chosen = fitting.choose
    monkeypatch.setattr(
        fitting, "choose", lambda *what: chosen(*what)._replace(n_sharing=2)
    )


def fit_and_look(parameters):
    """Fit rows of which half are in one big cluster."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(20_000, 8)).astype("f4")
    values[::2] += 50 * rng.integers(0, 20, size=(10_000, 1))
    weights = parameters.get("feature_weight")
    others = {name: parameters[name] for name in parameters.keys() - {"feature_weight"}}
    with Given() as seen:
        model = HierarchicalKMeans(49, max_features_per_cluster=None, **others)
        model.fit(da.from_array(values, (500, 8)), feature_weight=weights)
    del seen.most["labels"]  # no rows: labels of blocks, and their distances
    return model, seen.most


@pytest.mark.usefixtures("scaled_down")
@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"nested": False},
        {"refine": 1, "init": np.random.default_rng(1).normal(size=(49, 8))},
        pytest.param({"balance": 0.5, "nested": False}, marks=pytest.mark.slow),
        {"missing": "exclude", "allocation": "inertia"},
        {"feature_weight": np.random.default_rng(2).uniform(0, 3, size=20_000)},
    ],
    ids=["default", "not nested", "given", "balanced", "excluding", "weighted"],
)
def test_no_task_gets_more_than_a_part_or_a_partition(parameters, request):
    expected, together = fit_and_look(parameters)
    request.getfixturevalue("spread_rows")
    model, apart = fit_and_look(parameters)
    all_rows = 20_000 * (8 * 4 + 8 + 8)  # with keys and order
    largest = LARGEST * (8 * 4 + 8 + 8) // (8 * 4) * 9 // 8
    assert max(together.values()) >= all_rows
    assert max(apart.values()) <= 1.3 * largest, apart
    for name in ("labels_", "cluster_centers_", "coarse_centers_", "prices_"):
        one, other = (np.asarray(getattr(m, name)) for m in (model, expected))
        np.testing.assert_array_equal(one, other)

"""Random keys, the rows they keep, the parts and the checksum of these rows."""

import tracemalloc
from itertools import accumulate, pairwise

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from hkmeans_dask.kmeans import sampling
from hkmeans_dask.kmeans.sampling import checksum, kept, key_limit, keys, part_bounds
from tests.strategies import cuts, quick

seeds = st.integers(0, 2**31 - 2)


def ranges(heights, start=0):
    """Neighbouring ranges of these sizes."""
    return list(pairwise(accumulate((start, *heights))))


# keys


@quick
@given(seeds, st.integers(0, 200), cuts(100))
def test_keys_hang_on_the_seed_and_the_index_alone(seed, start, heights):
    whole = keys(seed, start, start + 100)
    assert (whole.shape, whole.dtype) == ((100,), np.uint64)
    parts = [keys(seed, a, b) for a, b in ranges(heights, start)]
    assert np.array_equal(np.concatenate(parts), whole)
    assert np.array_equal(keys(seed, 0, start + 100)[start:], whole)


def test_keys_of_any_feature_are_found_at_once():
    start = 10**12 + 3
    parts = [keys(1, start, start + 5), keys(1, start + 5, start + 9)]
    assert np.array_equal(np.concatenate(parts), keys(1, start, start + 9))


def test_keys_are_uniform_and_differ_between_seeds():
    drawn = np.array([keys(seed, 0, 20_000) for seed in range(3)])
    assert len(np.unique(drawn)) == drawn.size
    uniform = drawn / 2.0**64
    counts = np.array([np.histogram(u, 50, (0, 1))[0] for u in uniform])
    chi2 = ((counts - 400.0) ** 2 / 400).sum(axis=1)  # 49 degrees of freedom
    assert ((chi2 > 20) & (chi2 < 95)).all()
    neighbours = np.corrcoef([uniform[0, :-1], uniform[0, 1:], uniform[1, 1:]])
    assert abs(neighbours - np.eye(3)).max() < 0.03


# key_limit and kept


@pytest.mark.parametrize("n_features", [1, 10, 4000, 2**20 + 17, 2**21 + 3])
@pytest.mark.parametrize("n_rows", [1, 7, 3999])
def test_the_limit_lets_exactly_the_lowest_keys_in(n_features, n_rows):
    limit = key_limit(3, n_features, n_rows)
    below = (keys(3, 0, n_features) <= limit).sum()
    assert below == min(n_rows, n_features)


@pytest.fixture(scope="module", params=[7, 2**20])
def keys_at_once(request):
    """Look for keys in many steps or in one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sampling, "KEYS_AT_ONCE", request.param)
        yield


@pytest.mark.usefixtures("keys_at_once")
@quick
@given(seeds, st.integers(1, 120), cuts(100))
def test_the_lowest_keys_are_kept_in_feature_order(seed, n_rows, heights):
    limit = key_limit(seed, 100, n_rows)
    found = [kept(seed, limit, *bound) for bound in ranges(heights)]
    features, drawn = (np.concatenate(each) for each in zip(*found, strict=True))
    every = keys(seed, 0, 100)
    assert np.array_equal(features, np.sort(np.argsort(every)[:n_rows]))
    assert np.array_equal(drawn, every[features])
    assert drawn.dtype == np.uint64


def test_nothing_is_kept_of_an_empty_range():
    features, drawn = kept(0, 2**64 - 1, 5, 5)
    assert (features.shape, drawn.shape) == ((0,), (0,))


# part_bounds


@quick
@given(st.integers(1, 10**12), st.integers(0, 2**50))
def test_parts_are_ranges_of_about_one_size_that_cover_all_features(n, n_bytes):
    bounds = part_bounds(n, n_bytes)
    starts, stops = np.array(bounds).T
    assert (starts[0], stops[-1]) == (0, n)
    assert np.array_equal(starts[1:], stops[:-1])
    sizes = stops - starts
    assert sizes.min() >= max(1, sizes.max() - 1)
    assert len(bounds) <= sampling.MAX_PARTS


@pytest.mark.parametrize(
    ("n_features", "n_bytes", "n_parts"),
    [
        (10**6, 0, 1),
        (10**6, sampling.ONE_PART_BYTES, 1),
        (10**6, sampling.ONE_PART_BYTES + 1, 4),
        (10**6, 12 * sampling.PART_BYTES, 12),
        (10**6, 12 * sampling.PART_BYTES + 1, 16),
        (10**6, 10**15, sampling.MAX_PARTS),
        (3, 10**15, 3),
    ],
)
def test_the_number_of_parts_hangs_on_bytes(n_features, n_bytes, n_parts):
    assert len(part_bounds(n_features, n_bytes)) == n_parts


# checksum


@st.composite
def rows_and_keys(draw, least=(1, 1)):
    """Any floats, NaN too, and keys that are odd or even."""
    shape = draw(st.tuples(st.integers(least[0], 12), st.integers(least[1], 5)))
    dtype = draw(st.sampled_from([np.float32, np.float64]))
    rows = draw(npst.arrays(dtype, shape))
    return rows, keys(draw(st.integers(0, 99)), 0, len(rows))


many = settings(quick, max_examples=200)


@many
@given(rows_and_keys(), st.data())
def test_checksums_add_up_over_any_cuts(case, data):
    rows, drawn = case
    bounds = ranges(data.draw(cuts(len(rows))))
    parts = [checksum(rows[a:b], drawn[a:b]) for a, b in bounds]
    total = checksum(rows, drawn)
    assert sum(parts) % 2**64 == total
    assert 0 <= total < 2**64


@quick
@given(rows_and_keys(), st.randoms(use_true_random=False))
def test_the_checksum_hangs_on_no_order(case, random):
    rows, drawn = case
    order = list(range(len(rows)))
    random.shuffle(order)
    assert checksum(rows[order], drawn[order]) == checksum(rows, drawn)


def test_no_rows_add_nothing():
    assert checksum(np.empty((0, 3), np.float32), np.empty(0, np.uint64)) == 0


@many
@given(rows_and_keys(), st.data())
def test_the_checksum_notices_a_changed_bit(case, data):
    rows, drawn = case
    changed = rows.copy()
    words = changed.view(np.uint32)
    row, column = (data.draw(st.integers(0, n - 1)) for n in words.shape)
    words[row, column] ^= np.uint32(1 << data.draw(st.integers(0, 31)))
    assert checksum(changed, drawn) != checksum(rows, drawn)


@many
@given(rows_and_keys(), st.data())
def test_the_checksum_notices_a_changed_value(case, data):
    rows, drawn = case
    changed = rows.copy()
    place = tuple(data.draw(st.integers(0, n - 1)) for n in rows.shape)
    changed[place] = data.draw(npst.from_dtype(rows.dtype))
    assume(changed[place].tobytes() != rows[place].tobytes())
    assert checksum(changed, drawn) != checksum(rows, drawn)


@many
@given(rows_and_keys((2, 1)), st.data())
def test_the_checksum_notices_swapped_rows(case, data):
    rows, drawn = case
    pair = data.draw(st.permutations(range(len(rows))))[:2]
    swapped = rows.copy()
    swapped[pair] = rows[pair[::-1]]
    assume(swapped.tobytes() != rows.tobytes())
    assert checksum(swapped, drawn) != checksum(rows, drawn)


@many
@given(rows_and_keys((1, 2)), st.data())
def test_the_checksum_notices_swapped_columns(case, data):
    rows, drawn = case
    pair = data.draw(st.permutations(range(rows.shape[1])))[:2]
    swapped = rows.copy()
    swapped[:, pair] = rows[:, pair[::-1]]
    assume(swapped.tobytes() != rows.tobytes())
    assert checksum(swapped, drawn) != checksum(rows, drawn)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("deviations", [8.0, 0.01])
def test_the_limit_is_found_among_few_keys(weighted, deviations, monkeypatch):
    """Not among all that are kept, which may be as many as a client can hold."""
    n_features, n_rows = 2_000_000, 500_000
    weights = np.arange(n_features) % 3 if weighted else None
    drawn = keys(5, 0, n_features)
    drawn = np.sort(drawn if weights is None else drawn[weights > 0])
    about = sampling._about
    monkeypatch.setattr(sampling, "KEYS_AT_ONCE", 2**14)
    monkeypatch.setattr(
        sampling, "_about", lambda *how: about(*how[:2], how[2] * deviations / 8)
    )
    tracemalloc.start()
    try:
        limit = key_limit(5, n_features, n_rows, weights)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert limit == drawn[n_rows - 1]
    assert peak < n_rows * 8 / 4

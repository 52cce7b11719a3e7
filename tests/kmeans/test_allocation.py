"""Shares of the big clusters: hand cases, and properties against exact fractions."""

import doctest
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from hkmeans_dask.kmeans import allocation
from hkmeans_dask.kmeans.allocation import allocate, allocate_distinct, gain_weights
from tests.strategies import quick

many = settings(quick, max_examples=150)


@st.composite
def cases(draw, most=40, least=1):
    n_shares = draw(st.integers(1, 12))
    size = {"min_size": n_shares, "max_size": n_shares}
    weight = st.integers(1, draw(st.sampled_from([3, 100, 10**6])))
    weights = np.array(draw(st.lists(weight, **size)))
    capacities = np.array(draw(st.lists(st.integers(least, most), **size)))
    return weights, capacities, draw(st.integers(n_shares, 150))


def exact_shares(weights, capacities, total):
    """Solve ``sum(clip(scale * weight, 1, capacity)) = total`` for the shares."""
    weights, capacities = weights.tolist(), capacities.tolist()
    total = min(total, sum(capacities))

    def shares(scale):
        pairs = zip(weights, capacities, strict=True)
        return [min(max(scale * weight, Fraction(1)), most) for weight, most in pairs]

    # The sum grows piecewise linearly: interpolate between its corners.
    pairs = zip(weights, capacities, strict=True)
    corners = sorted({Fraction(b, weight) for weight, most in pairs for b in (1, most)})
    low = corners[0]
    for high in corners:
        below, above = sum(shares(low)), sum(shares(high))
        if above >= total:
            part = (total - below) / (above - below) if above > below else 0
            return shares(low + part * (high - low))
        low = high
    return shares(low)


@st.composite
def large_cases(draw):
    n_shares = draw(st.integers(1, 8))
    size = {"min_size": n_shares, "max_size": n_shares}
    large = st.one_of(st.integers(1, 3), st.integers(2**28, 2**30))
    weights = np.array(draw(st.lists(large, **size)))
    capacities = np.array(draw(st.lists(st.integers(1, 2**40), **size)))
    return weights, capacities, draw(st.integers(n_shares, 2**42))


@many
@given(large_cases())
def test_large_numbers_are_shared_exactly(case):
    _, capacities, total = case
    shares = allocate(*case)
    assert sum(shares.tolist()) == min(total, sum(capacities.tolist()))
    exact = exact_shares(*case)
    for share, wanted, most in zip(shares.tolist(), exact, capacities, strict=True):
        assert 1 <= share <= most
        assert abs(share - wanted) < 1


@pytest.mark.timeout(20)
def test_one_large_cluster_beside_many_even_ones_ends():
    """As 150,000 clusters of features of which most are background."""
    weights = np.array([1] + [2**30] * 386)
    capacities = np.array([34_000_000] + [11_000] * 386)
    shares = allocate(weights, capacities, 150_000)
    assert shares.sum() == 150_000
    assert shares[0] == 1
    assert set(shares[1:]) == {388, 389}


@pytest.mark.parametrize(
    ("weights", "capacities", "total", "expected"),
    [
        ([5], [9], 3, [3]),
        ([5], [2], 3, [2]),
        ([6, 3, 1], [10, 10, 10], 10, [6, 3, 1]),
        ([1000, 1, 1], [50, 50, 50], 10, [8, 1, 1]),  # never below one
        ([60, 3, 1], [2, 10, 10], 10, [2, 6, 2]),  # the surplus goes elsewhere
        ([1, 1, 1], [9, 9, 9], 4, [2, 1, 1]),  # ties to the lowest index
        ([1, 1, 1], [9, 9, 9], 5, [2, 2, 1]),
        ([3, 5], [9, 9], 2, [1, 1]),
        ([7, 5, 3], [1, 1, 1], 30, [1, 1, 1]),  # capacities run out
        ([3000, 300], [1, 300], 100, [1, 99]),  # equal rows beside distinct ones
        ([5, 3, 2], [9, 9, 9], 11, [6, 3, 2]),  # 5.5, 3.3, 2.2
        ([2, 9, 9], [9, 9, 9], 7, [1, 3, 3]),
        ([2, 9, 9], [9, 9, 9], 8, [1, 4, 3]),
        # Both bounds bind: 7 * (90, 8, 1, 1) / 100 = 6.3, 0.56, 0.07, 0.07.
        ([90, 8, 1, 1], [3, 9, 9, 9], 7, [3, 2, 1, 1]),
    ],
)
def test_shares_by_hand(weights, capacities, total, expected):
    shares = allocate(np.array(weights), np.array(capacities), total)
    assert shares.tolist() == expected
    assert shares.dtype == np.int64


@many
@given(cases())
def test_shares_add_up_and_keep_their_bounds(case):
    _, capacities, total = case
    shares = allocate(*case)
    assert shares.sum() == min(total, capacities.sum())
    assert (shares >= 1).all()
    assert (shares <= capacities).all()


@many
@given(cases())
def test_shares_are_the_exact_ones_rounded_down_or_up(case):
    exact = exact_shares(*case)
    for share, wanted in zip(allocate(*case).tolist(), exact, strict=True):
        assert abs(share - wanted) < 1


@many
@given(cases(least=10**9, most=10**9), st.data())
def test_shares_are_proportional_where_no_bound_binds(case, data):
    weights, capacities, _ = case
    least = -(-int(weights.sum()) // int(weights.min()))  # a quota of one for each
    total = least + data.draw(st.integers(0, 1000))
    shares = allocate(weights, capacities, total)
    quotas = [Fraction(total * int(w), int(weights.sum())) for w in weights]
    assert shares.sum() == total
    assert all(abs(s - q) < 1 for s, q in zip(shares.tolist(), quotas, strict=True))
    # The largest remainders are rounded up, the lowest index first.
    up = [(quota // 1 - quota, i) for i, quota in enumerate(quotas)]
    n_up = total - sum(quota // 1 for quota in quotas)
    raised = {i for _, i in sorted(up)[: int(n_up)]}
    assert raised == {i for i, q in enumerate(quotas) if shares[i] > q // 1}


@many
@given(cases())
def test_a_heavier_cluster_never_gets_less(case):
    weights, capacities, _ = case
    shares = allocate(*case)
    for i, j in np.ndindex(len(weights), len(weights)):
        if (weights[i], -i) > (weights[j], -j) and capacities[i] >= capacities[j]:
            assert shares[i] >= shares[j]


@many
@given(cases(), st.randoms(use_true_random=False))
def test_the_order_of_clusters_matters_for_ties_only(case, random):
    weights, capacities, total = case
    remainders = [share % 1 for share in exact_shares(*case) if share % 1]
    assume(len(set(remainders)) == len(remainders))
    order = np.array(random.sample(range(len(weights)), len(weights)))
    shuffled = allocate(weights[order], capacities[order], total)
    assert np.array_equal(shuffled, allocate(*case)[order])


def test_billions_of_rows_do_not_overflow():
    weights = np.array([2 * 10**9, 10**9, 1])
    capacities = np.array([10**9, 10**9, 1])
    shares = allocate(weights, capacities, 10**5)
    assert shares.tolist() == [66_666, 33_333, 1]


def test_a_share_grows_with_the_power_of_the_sum_of_squares():
    weights = gain_weights(np.array([0.0, 1.0, 2.0, 1024.0]))
    assert weights.dtype == np.int64
    assert weights[0] == 1, "no share without a weight"
    np.testing.assert_allclose(
        weights[1:] / weights[3], [2**-7.5, 2**-6.75, 1], rtol=1e-6
    )


@many
@given(st.lists(st.floats(0, 1e300), min_size=1, max_size=12))
def test_weights_keep_the_order_of_sums_of_squares_and_fit(within):
    within = np.array(within)
    weights = gain_weights(within)
    assert (weights >= 1).all()
    assert (np.diff(weights[np.argsort(within)]) >= 0).all()
    capacities = np.full(len(within), 10**6)
    assert allocate(weights, capacities, 10**6).sum() == 10**6


def test_where_nothing_varies_all_weigh_the_same():
    assert gain_weights(np.zeros(3)).tolist() == [1, 1, 1]


def test_inputs_are_left_alone():
    weights, capacities = np.array([60, 3, 1]), np.array([2, 10, 10])
    weights.flags.writeable = capacities.flags.writeable = False
    assert allocate(weights, capacities, 10).sum() == 10


def test_the_examples_in_the_docstring_run():
    found = doctest.testmod(allocation)
    assert found.attempted >= 3
    assert found.failed == 0


@given(st.data())
def test_counting_little_gives_the_shares_that_counting_all_gives(data):
    n_shares = data.draw(st.integers(1, 12))
    numbers = st.lists(st.integers(1, 60), min_size=n_shares, max_size=n_shares)
    sizes = np.array(data.draw(numbers))
    distinct = np.minimum(sizes, data.draw(numbers))
    total = data.draw(st.integers(n_shares, int(sizes.sum())))
    looked_at = []

    def count(positions, most):
        looked_at.extend(positions)
        return np.minimum(distinct[positions], most)

    shares = allocate_distinct(sizes, sizes, total, count)
    assert shares.sum() == min(total, distinct.sum())
    assert (shares <= distinct).all()
    if (distinct == sizes).all():
        assert np.array_equal(shares, allocate(sizes, sizes, total))
        assert len(looked_at) <= n_shares


def test_what_has_too_few_distinct_rows_is_counted_and_the_others_get_the_rest():
    asked = []

    def count(positions, most):
        asked.append((positions.tolist(), most.tolist()))
        return np.minimum(np.array([3, 100, 100])[positions], most)

    shares = allocate_distinct(*np.array([[50, 25, 25]] * 2), 20, count)
    assert shares.tolist() == [3, 9, 8]
    assert asked == [([0, 1, 2], [10, 5, 5]), ([1, 2], [9, 8])]

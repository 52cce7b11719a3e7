"""What is kept of a block: rows of its own, and no more memory than they take."""

import numpy as np
import pytest

from hkmeans_dask.workspace.drawing import How, keep

HOW = How(0, np.dtype(np.float32), False, False, False, 1000)


def kept(block, limit=2**64 - 1):
    return keep(block, 0, 0, HOW, limit, copy=True, weights=None).rows


def values(n_rows):
    return np.random.default_rng(0).normal(size=(n_rows, 3)).astype(np.float32)


def test_a_block_that_is_kept_whole_is_not_copied():
    block = values(20)
    assert kept(block) is block


@pytest.mark.parametrize(
    "block",
    [
        values(40)[:20],
        values(40)[::2],
        np.frombuffer(values(40).tobytes(), np.float32).reshape(40, 3)[:20],
        np.frombuffer(values(40).tobytes(), np.float32)[:60].reshape(20, 3),
    ],
    ids=["rows", "every other row", "bytes", "values"],
)
def test_a_view_does_not_keep_what_it_is_of(block):
    rows = kept(block)
    assert not np.shares_memory(rows, block)
    np.testing.assert_array_equal(rows, block)


def test_rows_that_are_not_all_are_copied():
    block = values(20)
    rows = kept(block, limit=2**63)
    assert 0 < len(rows) < 20
    assert not np.shares_memory(rows, block)


def test_other_dtypes_are_cast():
    block = values(20).astype(np.float64)
    np.testing.assert_array_equal(kept(block), values(20), strict=True)
